//! How a reset ends.

use alloc::string::String;

use serde::{Deserialize, Serialize};

/// The verdict, as in `latchkey.reset.v1.Verdict`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// It happened once and the meter is as it was before.
    Succeeded,
    /// Nothing needed doing. Nothing ends so yet: the health criterion comes with escalation.
    NoOp,
    /// Only part of the meter restarted.
    Partial,
    /// The meter did not accept the command, or did nothing.
    NotAccepted,
    /// The answer was lost, the reset happened, and the meter is as it was before.
    ZombieResolved,
    /// It could not be reached, or did not come back.
    Unreachable,
    /// Policy or a guard said no; nothing was sent, or nothing after an attempt that was not accepted.
    Refused,
    /// Measured data may have been lost.
    DataRisk,
    /// The relay is not as it was before.
    SupplyChanged,
}

impl Verdict {
    /// Its name, as people and the trail write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "SUCCEEDED",
            Self::NoOp => "NO_OP",
            Self::Partial => "PARTIAL",
            Self::NotAccepted => "NOT_ACCEPTED",
            Self::ZombieResolved => "ZOMBIE_RESOLVED",
            Self::Unreachable => "UNREACHABLE",
            Self::Refused => "REFUSED",
            Self::DataRisk => "DATA_RISK",
            Self::SupplyChanged => "SUPPLY_CHANGED",
        }
    }
}

/// The end of a reset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// `None` if it was cancelled before it acted.
    pub verdict: Option<Verdict>,
    /// Somebody said no: policy, a guard, or the meter's security.
    pub access_denied: bool,
    /// One line for a person, with the next step where there is one.
    pub detail: String,
}

impl Outcome {
    /// The exit code of the procedure's section C, continued.
    #[must_use]
    pub fn exit_code(&self) -> u32 {
        match self.verdict {
            None => 7,
            Some(_) if self.access_denied => 1,
            Some(Verdict::Succeeded | Verdict::NoOp | Verdict::ZombieResolved) => 0,
            Some(Verdict::Refused) => 1,
            Some(Verdict::Unreachable) => 2,
            Some(Verdict::Partial) => 3,
            Some(Verdict::NotAccepted) => 4,
            Some(Verdict::DataRisk) => 5,
            Some(Verdict::SupplyChanged) => 6,
        }
    }
}
