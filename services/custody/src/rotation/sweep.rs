//! Keys that are out of use are destroyed when nothing can need them any more.

use std::time::Duration;

use kit::{Shutdown, clock};

use crate::custody::Custody;

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(600);

impl Custody {
    /// Destroys retired keys, and gives up rotations whose old keys were proven long ago, until shutdown.
    pub(crate) async fn sweep(self, shutdown: Shutdown) {
        loop {
            let until = clock::now().checked_sub(self.rotations.retire);
            let until = until.map_or(i64::MIN, clock::micros);
            match self.store.destroy_retired(until).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "keys that were out of use are destroyed"),
                Err(error) => {
                    tracing::warn!(error = %kit::status::chain(&error), "retired keys wait to be destroyed")
                }
            }
            tokio::select! {
                () = tokio::time::sleep(ROUND) => {}
                () = shutdown.fired() => return,
            }
        }
    }
}
