//! What is written down together with a new state.

use alloc::{boxed::Box, string::String};

use serde::{Deserialize, Serialize};

use crate::{Outcome, Snapshot};

/// Goes into the same transaction as the state it comes with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// A line of the story.
    Event(Event),
    /// A reading to keep as evidence.
    Snapshot(Moment, Box<Snapshot>),
    /// An entry owed to the trail. It is delivered when the auditor can be reached, and before the reset is done.
    Record(Record),
}

/// When a reading was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Moment {
    /// In the acting association, before the command.
    Before,
    /// After the meter came back.
    After,
}

impl Moment {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// An entry owed to the trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// What came of one command.
    Outcome {
        /// The attempt, from 1.
        attempt: u32,
        /// What came of it.
        detail: String,
        /// The invocation counter it spent; 0 if unknown or not ciphered.
        counter: u32,
    },
    /// How the reset ended.
    Verdict(Outcome),
}

/// One line of the story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What kind.
    pub kind: Kind,
    /// One line for a person.
    pub text: String,
}

/// Kinds of event, as in `latchkey.reset.v1.ResetEvent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The plan.
    Planned,
    /// A guard passed or stopped the reset.
    Guard,
    /// A permit was signed.
    Permit,
    /// The command leaves.
    Act,
    /// The meter answered.
    Answer,
    /// The answer was lost.
    Lost,
    /// Evidence was read.
    Probe,
    /// The meter is silent.
    Silence,
    /// It is back.
    Rejoin,
    /// Something was compared.
    Validation,
    /// The verdict.
    Verdict,
    /// The verdict is in the trail.
    Recorded,
    /// Anything else worth telling.
    Note,
}

impl Kind {
    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Planned => "PLANNED",
            Self::Guard => "GUARD",
            Self::Permit => "PERMIT",
            Self::Act => "ACT",
            Self::Answer => "ANSWER",
            Self::Lost => "LOST",
            Self::Probe => "PROBE",
            Self::Silence => "SILENCE",
            Self::Rejoin => "REJOIN",
            Self::Validation => "VALIDATION",
            Self::Verdict => "VERDICT",
            Self::Recorded => "RECORDED",
            Self::Note => "NOTE",
        }
    }
}
