//! One signal that ends a process in order.

use tokio_util::sync::CancellationToken;

/// Fires a [`Shutdown`]. Dropping it without firing does nothing.
#[derive(Debug, Clone)]
pub struct ShutdownTrigger(CancellationToken);

impl ShutdownTrigger {
    /// Ends everything that holds the matching [`Shutdown`]. Firing twice is no error.
    pub fn fire(&self) {
        self.0.cancel();
    }
}

/// Fires once, for every clone.
#[derive(Debug, Clone)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Waits until it fires.
    pub async fn fired(&self) {
        self.0.cancelled().await;
    }

    /// Whether it has fired.
    #[must_use]
    pub fn is_fired(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// A trigger and what it fires.
#[must_use]
pub fn shutdown() -> (ShutdownTrigger, Shutdown) {
    let token = CancellationToken::new();
    (ShutdownTrigger(token.clone()), Shutdown(token))
}
