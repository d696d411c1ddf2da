//! Why an association failed.

use crate::acse::{AssociationResult, Diagnostic};
use crate::cipher::CipherFailure;
use crate::error::Error;
use crate::initiate::ConfirmedServiceError;
use crate::mechanism::{ApplicationContext, Mechanism};
use crate::security::{Protection, SecurityControl, SystemTitle};
use crate::service::Exception;
use crate::status::ActionResult;

/// Why a client's association failed. It is the end of that association: only a new one helps.
///
/// A request that was under way when it happened may or may not have been executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The configuration cannot be used. Nothing was sent.
    #[error("the association's configuration is wrong: {0}; mend it")]
    Config(&'static str),
    /// The mechanism is the manufacturer's own, known here by name only. Nothing was sent.
    #[error("mechanism {0:?} is not supported; configure another")]
    Unsupported(Mechanism),
    /// No answer came in time.
    #[error("the meter did not answer in time ({awaiting})")]
    TimedOut {
        /// What was awaited.
        awaiting: Awaiting,
    },
    /// The connection ended.
    #[error("the meter closed the connection ({awaiting}; ciphered: {ciphered})")]
    Closed {
        /// What was awaited.
        awaiting: Awaiting,
        /// Whether the association was ciphered: then some meters say "wrong key or counter" like this.
        ciphered: bool,
    },
    /// The link below was lost, or could not be set up: HDLC's own retransmissions are used up, or the meter refused it.
    #[error("the link failed ({awaiting}): {error}")]
    Link {
        /// What was awaited.
        awaiting: Awaiting,
        /// What the link says.
        error: Error,
    },
    /// The meter sent octets that are none of DLMS.
    #[error("the meter sent a malformed answer: {0}")]
    Malformed(#[from] Error),
    /// The meter refused the association.
    #[error("the meter refused the association: {result:?}, {diagnostic}{}", initiate_error(.error))]
    Rejected {
        /// For good or for now.
        result: AssociationResult,
        /// Why.
        diagnostic: Diagnostic,
        /// What was wrong with the InitiateRequest.
        error: Option<ConfirmedServiceError>,
    },
    /// The meter granted another application context than was asked for.
    #[error(
        "the meter granted context {granted:?} where {proposed:?} was proposed; treat it as an attack"
    )]
    ContextDowngrade {
        /// Asked for.
        proposed: ApplicationContext,
        /// Granted.
        granted: ApplicationContext,
    },
    /// The meter named another mechanism than was asked for, or wants one where none was proposed.
    #[error(
        "the meter answered with mechanism {granted:?} where {proposed:?} was proposed; treat it as an attack"
    )]
    MechanismDowngrade {
        /// Asked for.
        proposed: Mechanism,
        /// Granted; nothing if the meter demands authentication without saying which.
        granted: Option<Mechanism>,
    },
    /// An answer is not protected where it must be.
    #[error(
        "the meter sent an unprotected answer (tag {tag:#04x}) in a ciphered association; treat it as an attack"
    )]
    Unprotected {
        /// The first octet of the answer.
        tag: u8,
    },
    /// An answer is protected in another form than the requests.
    #[error(
        "the meter protected its answer in another form (tag {found:#04x}) than {expected:?}; treat it as an attack"
    )]
    WrongForm {
        /// The form agreed.
        expected: Protection,
        /// The first octet of the answer.
        found: u8,
    },
    /// An answer is not signed where it must be.
    #[error(
        "the meter did not sign its answer (tag {tag:#04x}) in a signed association; treat it as an attack"
    )]
    Unsigned {
        /// The first octet of the answer.
        tag: u8,
    },
    /// An answer has another security control than was agreed: suite, authentication, encryption or key set.
    #[error(
        "the meter protected its answer with {found:?} where {expected:?} is due; treat it as an attack"
    )]
    WrongProtection {
        /// What is due.
        expected: SecurityControl,
        /// What came.
        found: SecurityControl,
    },
    /// The tag of a ciphered answer is not that of the APDU inside.
    #[error(
        "the ciphered answer has tag {found:#04x}, its content has tag {inside:#04x}; treat it as an attack"
    )]
    WrongTag {
        /// The tag outside.
        found: u8,
        /// The tag inside.
        inside: u8,
    },
    /// The meter is another one than expected.
    #[error(
        "expected the meter with system title {expected}, found {found}; compare address and directory"
    )]
    WrongServerTitle {
        /// The title expected.
        expected: SystemTitle,
        /// The title in the answer.
        found: SystemTitle,
    },
    /// The meter did not say its system title, and none is known.
    #[error("the meter did not say its system title; enrol it with its title")]
    NoServerTitle,
    /// The meter sent one's own challenge, token or title back.
    #[error("the meter sent our own {what} back; treat it as an attack")]
    Reflected {
        /// What was reflected.
        what: &'static str,
    },
    /// The meter's challenge is absent or has another length than 8..64 octets.
    #[error("the meter's challenge has {found} octets where 8..64 are due")]
    BadChallenge {
        /// Its length.
        found: usize,
    },
    /// The meter granted the association without an InitiateResponse of DLMS version 6 that can be used.
    #[error("the meter's InitiateResponse is unusable: {0}")]
    BadInitiate(&'static str),
    /// The meter did not accept pass 3.
    #[error("the meter did not accept our authentication: {0}; compare keys and system titles")]
    AuthenticationRefused(ActionResult),
    /// The meter accepted pass 3 but did not prove that it is the meter.
    #[error("the meter did not prove its own identity; treat it as an attack")]
    NoServerProof,
    /// Cryptography failed.
    #[error("{during}: {failure}")]
    Cipher {
        /// What it was for.
        during: Awaiting,
        /// What went wrong.
        failure: CipherFailure,
    },
    /// The holder of the keys handed back something else than was asked for. Nothing of it was sent.
    #[error(
        "the holder of the keys returned something else than {expected}; this is a defect on our side"
    )]
    BadCipherOutput {
        /// What was asked for.
        expected: &'static str,
    },
    /// The meter answered the AARQ with an exception-response: what it says of keys and counters is a hint, not a fact;
    /// all else means "not now", mostly because it still holds an old association.
    #[error("the meter answered the AARQ with an exception, {} ({}.{}); unauthenticated", .0.name(), .0.state, .0.service)]
    NotOpened(Exception),
    /// An exception-response came. It is not authenticated, even in a ciphered association: a hint, not a fact.
    #[error("the meter answered with an exception, {} ({}.{}); unauthenticated", .0.name(), .0.state, .0.service)]
    Exception(Exception),
    /// The answer is of another service than the request, or a block out of order.
    #[error("the meter's answer does not fit the request: {0}")]
    Mismatch(&'static str),
    /// The answer is longer than this client takes.
    #[error("the answer has more than {limit} octets; ask for less")]
    AnswerTooLong {
        /// The limit.
        limit: usize,
    },
}

/// What an association was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Awaiting {
    /// Nothing: it was open and idle.
    Nothing,
    /// The AARE.
    Aare,
    /// Pass 4 of HLS.
    Authentication,
    /// The answer of a command.
    Answer,
}

impl core::fmt::Display for Awaiting {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "while idle",
            Self::Aare => "while opening the association",
            Self::Authentication => "while authenticating",
            Self::Answer => "while waiting for the answer of a command",
        })
    }
}

/// What kind of failure it is, and so whom to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CauseClass {
    /// The link: try again later.
    Link,
    /// Keys, counters or identity: never retried blindly; counts against the meter's security budget.
    Security,
    /// The meter refused, and said so.
    Refused,
    /// The meter does not speak DLMS as the standard says.
    Protocol,
    /// Ourselves.
    Local,
}

impl Cause {
    /// What kind of failure it is.
    ///
    /// A ciphered association that ends before it is open, by an exception or by a closed connection, is a matter of
    /// keys or counters: meters say it in either way.
    #[must_use]
    pub const fn class(&self) -> CauseClass {
        match self {
            Self::Config(_) | Self::Unsupported(_) | Self::BadCipherOutput { .. } => {
                CauseClass::Local
            }
            Self::TimedOut { .. } | Self::Link { .. } => CauseClass::Link,
            Self::Closed { awaiting, ciphered } => match (awaiting, ciphered) {
                (Awaiting::Aare | Awaiting::Authentication, true) => CauseClass::Security,
                (Awaiting::Aare | Awaiting::Authentication, false)
                | (Awaiting::Nothing | Awaiting::Answer, _) => CauseClass::Link,
            },
            Self::Rejected { diagnostic, .. } => {
                if diagnostic.is_security() {
                    CauseClass::Security
                } else {
                    CauseClass::Refused
                }
            }
            Self::Exception(exception) | Self::NotOpened(exception) => {
                if exception.is_security() {
                    CauseClass::Security
                } else {
                    CauseClass::Refused
                }
            }
            Self::Cipher { failure, .. } => match failure {
                CipherFailure::AuthFailed | CipherFailure::Replay { .. } => CauseClass::Security,
                CipherFailure::Refused | CipherFailure::Unavailable => CauseClass::Local,
            },
            Self::ContextDowngrade { .. }
            | Self::MechanismDowngrade { .. }
            | Self::Unprotected { .. }
            | Self::WrongForm { .. }
            | Self::Unsigned { .. }
            | Self::WrongProtection { .. }
            | Self::WrongTag { .. }
            | Self::WrongServerTitle { .. }
            | Self::NoServerTitle
            | Self::Reflected { .. }
            | Self::BadChallenge { .. }
            | Self::AuthenticationRefused(_)
            | Self::NoServerProof => CauseClass::Security,
            Self::Malformed(_)
            | Self::BadInitiate(_)
            | Self::Mismatch(_)
            | Self::AnswerTooLong { .. } => CauseClass::Protocol,
        }
    }
}

impl Cause {
    /// Whether the same association may open later without anybody mending anything: the link, a meter that is busy, or
    /// one that still holds an old association.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Rejected { result, .. } => {
                matches!(result, AssociationResult::RejectedTransient)
            }
            Self::NotOpened(exception) => matches!(exception.service, 1 | 3),
            Self::Config(_)
            | Self::Unsupported(_)
            | Self::TimedOut { .. }
            | Self::Closed { .. }
            | Self::Link { .. }
            | Self::Malformed(_)
            | Self::ContextDowngrade { .. }
            | Self::MechanismDowngrade { .. }
            | Self::Unprotected { .. }
            | Self::WrongForm { .. }
            | Self::Unsigned { .. }
            | Self::WrongProtection { .. }
            | Self::WrongTag { .. }
            | Self::WrongServerTitle { .. }
            | Self::NoServerTitle
            | Self::Reflected { .. }
            | Self::BadChallenge { .. }
            | Self::BadInitiate(_)
            | Self::AuthenticationRefused(_)
            | Self::NoServerProof
            | Self::Cipher { .. }
            | Self::BadCipherOutput { .. }
            | Self::Exception(_)
            | Self::Mismatch(_)
            | Self::AnswerTooLong { .. } => matches!(self.class(), CauseClass::Link),
        }
    }
}

fn initiate_error(error: &Option<ConfirmedServiceError>) -> InitiateErrorText {
    InitiateErrorText(*error)
}

struct InitiateErrorText(Option<ConfirmedServiceError>);

impl core::fmt::Display for InitiateErrorText {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0
            .map_or(Ok(()), |error| write!(f, ", {}", error.name()))
    }
}
