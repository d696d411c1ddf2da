//! Being asked to stop.

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

/// Resolves on Ctrl-C or SIGTERM.
pub(crate) async fn interrupted() -> Result<(), Failure> {
    let watch = |kind| signal(kind).map_err(|error| Failure::io("watch for signals", &error));
    let mut terminate = watch(SignalKind::terminate())?;
    let mut interrupt = watch(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
