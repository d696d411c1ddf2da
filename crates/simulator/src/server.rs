//! The network edge of one meter.

use std::net::SocketAddr;

use kit::Shutdown;
use tokio::{net::TcpListener, sync::mpsc};

use crate::{Error, Event, MeterOptions};

/// A meter that has its address and waits to be run.
#[derive(Debug)]
pub struct MeterServer {
    address: SocketAddr,
    _listener: TcpListener,
}

impl MeterServer {
    /// Makes the meter and binds its address.
    ///
    /// # Errors
    /// [`Error::Listen`], [`Error::State`] or [`Error::BootSeconds`].
    pub async fn bind(options: MeterOptions) -> Result<Self, Error> {
        let fail = |source| Error::Listen {
            address: options.listen,
            source,
        };
        let listener = TcpListener::bind(options.listen).await.map_err(fail)?;
        Ok(Self {
            address: listener.local_addr().map_err(fail)?,
            _listener: listener,
        })
    }

    /// The address, with the port that was really bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Runs the meter until `shutdown` fires. Events go to a channel that must be read or dropped.
    ///
    /// # Errors
    /// [`Error::Listen`] after a boot, or [`Error::State`].
    pub async fn run(self, _events: mpsc::Sender<Event>, shutdown: Shutdown) -> Result<(), Error> {
        shutdown.fired().await;
        Ok(())
    }
}

/// Makes a meter and runs it until `shutdown` fires.
///
/// # Errors
/// As [`MeterServer::bind`] and [`MeterServer::run`].
pub async fn run_meter(
    options: MeterOptions,
    events: mpsc::Sender<Event>,
    shutdown: Shutdown,
) -> Result<(), Error> {
    MeterServer::bind(options)
        .await?
        .run(events, shutdown)
        .await
}
