//! Tries and the rests between them.

use serde::{Deserialize, Serialize};

use crate::{Millis, Party};

/// A try that may have to wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pace {
    /// Resting until then; `None`: under way.
    pub(crate) until: Option<Millis>,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// Those of them that were the meter's.
    pub(crate) silences: u32,
}

impl Pace {
    /// Begins with a rest.
    pub(crate) fn rest(until: Millis) -> Self {
        Self {
            until: Some(until),
            ..Self::default()
        }
    }

    /// One more failure.
    pub(crate) fn failed(self, party: Party) -> Self {
        let silence = match party {
            Party::Meter => self.silences.saturating_add(1),
            Party::Service => self.silences,
        };
        Self {
            until: None,
            failures: self.failures.saturating_add(1),
            silences: silence,
        }
    }

    /// Resting until then.
    pub(crate) fn until(self, until: Millis) -> Self {
        Self {
            until: Some(until),
            ..self
        }
    }

    /// Under way again, if the rest is over.
    pub(crate) fn woken(self, now: Millis) -> Option<Self> {
        self.until.filter(|until| *until <= now).map(|_| Self {
            until: None,
            ..self
        })
    }
}
