//! Faults a meter plays on command: `NAME[=ARG]`.

use std::{fmt, str::FromStr};

use crate::Error;

/// What can go wrong with a meter or its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The reset is executed and its answer lost.
    LostAck,
    /// The reset's request is lost: never executed, never answered.
    LostRequest,
    /// The meter reboots before it answers.
    RebootBeforeAck,
    /// The reset is accepted and nothing happens.
    NoReboot,
    /// Only the communication module restarts.
    PartialCommOnly,
    /// Only the metrology board restarts.
    PartialMetrologyOnly,
    /// The reset is answered with temporary-failure.
    TemporaryFailure,
    /// A firmware update is running.
    FotaBusy,
    /// The relay moves during the reset.
    WrongRelay,
    /// The meter does not come back.
    StaySilent,
    /// Answers come late.
    Slow,
    /// The reset wipes the load profile.
    DataLoss,
    /// The reset loses the invocation counter's last values.
    CounterRollback,
    /// An association of a vanished client blocks new ones.
    StuckAssociation,
    /// Answers of a ciphered association come in clear.
    PlainAnswer,
    /// Answers are authenticated or encrypted only, not both.
    WeakerAnswer,
    /// Answers name another security suite.
    WrongSuite,
    /// Answers have a wrong authentication tag.
    BadTag,
    /// Answers come with the counter of the answer before.
    ReplayedCounter,
    /// The meter's challenge is the client's own.
    ReflectedChallenge,
    /// The answer to the association request ends too early.
    TruncatedAare,
    /// The answer to an association request with HLS does not say that it is pending.
    BareAare,
    /// The answer to a release has a wrong length.
    ShortRlre,
    /// Answers come from the port they should go to.
    PortsNotSwapped,
    /// Answers come twice.
    DoubledAnswer,
    /// New keys are taken and the answer lost.
    LostRekeyAck,
    /// The request with new keys is lost: nothing is taken.
    LostRekeyRequest,
    /// New keys are answered with success and forgotten.
    RekeyForgotten,
    /// New keys are refused.
    RekeyRefused,
}

/// One line of the table of faults.
#[derive(Debug, Clone, Copy)]
pub struct FaultEntry {
    /// The name on the command line.
    pub name: &'static str,
    /// The fault.
    pub kind: FaultKind,
    /// The argument if none is given; `None` if the fault takes none.
    pub default: Option<u32>,
    /// One line for a person.
    pub description: &'static str,
}

/// Every fault there is.
pub const FAULTS: &[FaultEntry] = &[
    entry(
        "lost-ack",
        FaultKind::LostAck,
        Some(1),
        "the first N resets are executed and their answers lost",
    ),
    entry(
        "lost-request",
        FaultKind::LostRequest,
        Some(1),
        "the first N reset requests are lost on the way: not executed",
    ),
    entry(
        "reboot-before-ack",
        FaultKind::RebootBeforeAck,
        None,
        "every reset reboots the meter before it answers",
    ),
    entry(
        "no-reboot",
        FaultKind::NoReboot,
        None,
        "every reset is answered with success and not executed",
    ),
    entry(
        "partial-comm-only",
        FaultKind::PartialCommOnly,
        None,
        "a reset restarts the communication module only",
    ),
    entry(
        "partial-metrology-only",
        FaultKind::PartialMetrologyOnly,
        None,
        "a reset restarts the metrology board only; the session survives",
    ),
    entry(
        "temporary-failure",
        FaultKind::TemporaryFailure,
        Some(1),
        "the first N resets are answered with temporary-failure (2)",
    ),
    entry(
        "fota-busy",
        FaultKind::FotaBusy,
        None,
        "an image transfer is running: its status says so, resets get temporary-failure (2)",
    ),
    entry(
        "wrong-relay",
        FaultKind::WrongRelay,
        None,
        "the relay moves during a reset",
    ),
    entry(
        "stay-silent",
        FaultKind::StaySilent,
        None,
        "the meter panics in its boot and stays silent",
    ),
    entry(
        "slow",
        FaultKind::Slow,
        Some(500),
        "every answer waits ARG milliseconds",
    ),
    entry(
        "data-loss",
        FaultKind::DataLoss,
        None,
        "a reset wipes the load profile (event 14, NV memory error)",
    ),
    entry(
        "counter-rollback",
        FaultKind::CounterRollback,
        None,
        "a reset sets the client's invocation counter back to where the association began",
    ),
    entry(
        "stuck-association",
        FaultKind::StuckAssociation,
        Some(2),
        "the first N associations are refused: an old one is still open",
    ),
    entry(
        "plain-answer",
        FaultKind::PlainAnswer,
        Some(1),
        "the first N answers of open ciphered associations come in clear",
    ),
    entry(
        "weaker-answer",
        FaultKind::WeakerAnswer,
        Some(1),
        "the first N answers come encrypted only, or authenticated only if encryption was not asked",
    ),
    entry(
        "wrong-suite",
        FaultKind::WrongSuite,
        Some(1),
        "the first N ciphered answers name another security suite",
    ),
    entry(
        "bad-tag",
        FaultKind::BadTag,
        Some(1),
        "the first N ciphered answers have a wrong authentication tag",
    ),
    entry(
        "replayed-counter",
        FaultKind::ReplayedCounter,
        Some(1),
        "the first N ciphered answers repeat the invocation counter of the one before",
    ),
    entry(
        "reflected-challenge",
        FaultKind::ReflectedChallenge,
        Some(1),
        "the first N AAREs carry the client's own challenge",
    ),
    entry(
        "truncated-aare",
        FaultKind::TruncatedAare,
        Some(1),
        "the first N AAREs end too early",
    ),
    entry(
        "bare-aare",
        FaultKind::BareAare,
        None,
        "AAREs with HLS have diagnostic 0 and no mechanism name, as some meters send them",
    ),
    entry(
        "short-rlre",
        FaultKind::ShortRlre,
        None,
        "RLREs have a length that is 4 too small, as some meters send them when they cipher",
    ),
    entry(
        "ports-not-swapped",
        FaultKind::PortsNotSwapped,
        Some(1),
        "the first N answers have the wrapper ports of their request, unswapped (not with HDLC)",
    ),
    entry(
        "doubled-answer",
        FaultKind::DoubledAnswer,
        Some(1),
        "the first N frames to the client come twice",
    ),
    entry(
        "lost-rekey-ack",
        FaultKind::LostRekeyAck,
        Some(1),
        "the first N changes of keys are carried out, their answers lost and their links cut",
    ),
    entry(
        "lost-rekey-request",
        FaultKind::LostRekeyRequest,
        Some(1),
        "the first N requests to change keys are lost on the way, and their links cut",
    ),
    entry(
        "rekey-forgotten",
        FaultKind::RekeyForgotten,
        Some(1),
        "the first N changes of keys are answered with success and forgotten",
    ),
    entry(
        "rekey-refused",
        FaultKind::RekeyRefused,
        Some(1),
        "the first N changes of keys are refused with read-write-denied (3)",
    ),
];

const fn entry(
    name: &'static str,
    kind: FaultKind,
    default: Option<u32>,
    description: &'static str,
) -> FaultEntry {
    FaultEntry {
        name,
        kind,
        default,
        description,
    }
}

/// A fault and its argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Which.
    pub kind: FaultKind,
    /// How often, or how many milliseconds; 0 if the fault takes no argument.
    pub argument: u32,
}

impl FromStr for Fault {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, argument) = match text.split_once('=') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        let entry = FAULTS
            .iter()
            .find(|entry| entry.name == name)
            .ok_or_else(|| {
                let known: Vec<&str> = FAULTS.iter().map(|entry| entry.name).collect();
                Error::UnknownFault {
                    name: name.to_owned(),
                    known: known.join(", "),
                }
            })?;
        let argument = match (argument, entry.default) {
            (None, default) => default.unwrap_or(0),
            (Some(argument), Some(_)) => argument
                .parse()
                .ok()
                .filter(|number| (1..=1_000_000).contains(number))
                .ok_or_else(|| bad_argument(entry, argument))?,
            (Some(argument), None) => return Err(bad_argument(entry, argument)),
        };
        Ok(Self {
            kind: entry.kind,
            argument,
        })
    }
}

fn bad_argument(entry: &FaultEntry, argument: &str) -> Error {
    Error::FaultArgument {
        name: entry.name,
        argument: argument.to_owned(),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = FAULTS
            .iter()
            .find(|entry| entry.kind == self.kind)
            .map_or("?", |entry| entry.name);
        if self.argument == 0 {
            f.write_str(name)
        } else {
            write!(f, "{name}={}", self.argument)
        }
    }
}

/// A fault that is being played: counted faults wear off.
#[derive(Debug)]
pub(crate) struct ArmedFault {
    fault: Option<Fault>,
    left: u32,
}

impl ArmedFault {
    pub(crate) fn new(fault: Option<Fault>) -> Self {
        Self {
            fault,
            left: fault.map_or(0, |fault| fault.argument),
        }
    }

    /// Whether this fault is being played at all.
    pub(crate) fn is(&self, kind: FaultKind) -> bool {
        self.fault.is_some_and(|fault| fault.kind == kind)
    }

    /// Whether a counted fault strikes now; it strikes once less afterwards.
    pub(crate) fn strikes(&mut self, kind: FaultKind) -> bool {
        let struck = self.is(kind) && self.left > 0;
        if struck {
            self.left -= 1;
        }
        struck
    }

    /// How late every answer is.
    pub(crate) fn delay_ms(&self) -> u64 {
        if self.is(FaultKind::Slow) {
            u64::from(self.fault.map_or(0, |fault| fault.argument))
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_and_prints_itself() {
        for entry in FAULTS {
            let fault: Fault = entry.name.parse().unwrap();
            assert_eq!(fault.kind, entry.kind);
            assert_eq!(fault.to_string().parse::<Fault>().unwrap(), fault);
            assert!(!entry.description.is_empty());
        }
    }

    #[test]
    fn arguments_are_checked() {
        assert_eq!("slow=20".parse::<Fault>().unwrap().argument, 20);
        for bad in [
            "slow=",
            "slow=0",
            "slow=x",
            "slow=1000001",
            "no-reboot=1",
            "slow=1=2",
        ] {
            let error = bad.parse::<Fault>().unwrap_err();
            assert!(matches!(error, Error::FaultArgument { .. }), "{bad}");
        }
    }

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        let message = "melt".parse::<Fault>().unwrap_err().to_string();
        assert!(message.contains("melt"));
        for entry in FAULTS {
            assert!(message.contains(entry.name), "{}", entry.name);
        }
    }

    #[test]
    fn counted_faults_wear_off() {
        let mut fault = ArmedFault::new(Some("temporary-failure=2".parse().unwrap()));
        assert!(fault.strikes(FaultKind::TemporaryFailure));
        assert!(!fault.strikes(FaultKind::LostAck));
        assert!(fault.strikes(FaultKind::TemporaryFailure));
        assert!(!fault.strikes(FaultKind::TemporaryFailure));
        assert_eq!(fault.delay_ms(), 0);
    }
}
