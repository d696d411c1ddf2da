//! One key and its invocation counters, in both directions.

use dlms::{CipherFailure, security::ReplayWindow};

use crate::gcm::Gcm;

/// The counters of the global unicast key, as they are kept over a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// The last one used; 0 if none was.
    pub sent: u32,
    /// The highest one accepted from the peer; absent if none was, then 0 will do as well.
    pub received: Option<u32>,
}

/// A key with its counters. Every nonce under it is used once: the counter rises and never comes back.
#[derive(Clone)]
pub(crate) struct Space {
    pub(crate) gcm: Gcm,
    pub(crate) sent: u32,
    pub(crate) received: ReplayWindow,
}

impl Space {
    /// A key that was never used.
    pub(crate) const fn new(gcm: Gcm, width: u32) -> Self {
        Self {
            gcm,
            sent: 0,
            received: ReplayWindow::new(width),
        }
    }

    /// The next counter to send with, spent whatever becomes of it; none is left after the last.
    pub(crate) fn next(&mut self) -> Result<u32, CipherFailure> {
        self.sent = self.sent.checked_add(1).ok_or(CipherFailure::Unavailable)?;
        Ok(self.sent)
    }

    /// Before any cryptography.
    pub(crate) fn check(&self, counter: u32) -> Result<(), CipherFailure> {
        self.received
            .check(counter)
            .map_err(|replay| CipherFailure::Replay {
                expected: replay.expected,
            })
    }
}
