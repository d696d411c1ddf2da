//! What can go wrong, and how it is said. Every error of an `Invoke` is made before an octet of the frame is handed to
//! the socket; what happens later is an answer, `DELIVERY_UNKNOWN`.

use std::time::Duration;

use dlms::Conformance;
use kit::status::Fault;
use tonic::{Code, Status};

/// The errors of the association service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields of the request are wrong; each with its reason.
    #[error("the request is malformed: {}", violations(.0))]
    Invalid(Vec<(String, String)>),
    /// The directory does not hold this meter.
    #[error("meter {0} is not enrolled")]
    MeterUnknown(String),
    /// The id is taken by a meter with other facts.
    #[error("meter {0} is enrolled with other facts")]
    MeterExists(String),
    /// The address and logical device are those of another meter.
    #[error("{address} is the address of meter {meter_id}")]
    AddressTaken {
        /// The address.
        address: String,
        /// Who has it.
        meter_id: String,
    },
    /// Several logical devices answer at this address.
    #[error("several meters are enrolled at {0}")]
    AddressAmbiguous(String),
    /// Somebody else is talking to the meter.
    #[error("meter {meter_id} is in use by another holder")]
    MeterBusy {
        /// The meter.
        meter_id: String,
        /// When its lease ends, if it is not used.
        left: Duration,
    },
    /// The permit cannot be read.
    #[error("the permit is missing or malformed")]
    PermitMalformed,
    /// The permit is for another meter.
    #[error("the permit is for meter {permit}, not for {asked}")]
    PermitMeterMismatch {
        /// The permit's meter.
        permit: String,
        /// The meter asked for.
        asked: String,
    },
    /// The permit was given to another service.
    #[error("the permit was given to {given}, not to {caller}")]
    PermitRequesterMismatch {
        /// Whom it was given to.
        given: String,
        /// Who came with it.
        caller: String,
    },
    /// The gateway does not answer, or is not the gateway.
    #[error("the gateway cannot be reached: {0}")]
    GatewayUnreachable(String),
    /// The gateway does not let us through.
    #[error("the gateway refused: {0}")]
    GatewayRefused(String),
    /// The gateway reset the connection before a word was said: our address is not listed, or it is full.
    #[error("the gateway reset the connection: {0}")]
    GatewayReset(String),
    /// The meter did not accept a connection, or did not answer the AARQ.
    #[error("meter {meter_id} cannot be reached: {cause}")]
    MeterUnreachable {
        /// The meter.
        meter_id: String,
        /// What was seen.
        cause: String,
    },
    /// The meter answered the AARQ with a refusal (ACSE, AARE result and diagnostic).
    #[error("the meter rejected the association {}: {diagnostic}", if *.permanent { "for good" } else { "for now" })]
    Rejected {
        /// Result 1 (permanent) or 2 (transient).
        permanent: bool,
        /// The diagnostic.
        diagnostic: String,
    },
    /// The meter did not accept our ciphering: key or invocation counter.
    #[error("the meter did not accept the security context: {0}")]
    SecurityContext(String),
    /// The meter could not prove that it holds the key.
    #[error("the meter failed to authenticate itself: {0}")]
    MeterAuthentication(String),
    /// The meter offered less protection than was asked for.
    #[error("the meter's answer would weaken the association: {0}")]
    Downgrade(String),
    /// The association cannot be opened as the directory says. Nothing was sent.
    #[error("the association cannot be opened as enrolled: {0}")]
    Unsupported(String),
    /// The meter's answer to the opening makes no sense.
    #[error("the meter broke the protocol: {0}")]
    Protocol(String),
    /// The meter did not grant a service that the request needs.
    #[error("the meter did not grant {}; nothing was sent", service(*.0))]
    NotGranted(Conformance),
    /// The request does not fit what the meter receives, and no block transfer is granted for it.
    #[error("the request does not fit the meter: {0}; nothing was sent")]
    DoesNotFit(String),
    /// There is no such association, or it has ended.
    #[error("the association is not open, or has ended; nothing was sent")]
    AssociationGone,
    /// The meter ended the association; it was not asked to.
    #[error("the meter has ended the association; nothing was sent")]
    ClosedByMeter,
    /// Another call of the same holder took the meter over.
    #[error("the association was taken over or the service is stopping; nothing was sent")]
    TakenOver,
    /// The caller's deadline leaves no time to send and wait.
    #[error("the deadline leaves no time for an answer; nothing was sent")]
    TooLate,
    /// Custody said no, or nothing. Nothing was sent.
    #[error("custody did not do it: {}", .0.message())]
    Custody(Status),
    /// The auditor did not take the entry. Nothing was changed.
    #[error("the trail cannot be written: {}", .0.message())]
    Trail(Status),
    /// The database failed.
    #[error("the meter directory failed")]
    Store(#[from] sqlx::Error),
    /// A row that this program did not write.
    #[error("the meter directory holds a row that cannot be read: {0}")]
    Row(String),
}

fn violations(violations: &[(String, String)]) -> String {
    violations
        .iter()
        .map(|(field, why)| format!("{field} {why}"))
        .collect::<Vec<_>>()
        .join("; ")
}

/// A service that was asked for, for a person.
const fn service(needs: Conformance) -> &'static str {
    if needs.contains(Conformance::ACCESS) {
        "the ACCESS service"
    } else {
        "several commands in one request (multiple references)"
    }
}

impl Error {
    /// One wrong field.
    pub(crate) fn field(field: &str, why: impl Into<String>) -> Self {
        Self::Invalid(vec![(field.to_owned(), why.into())])
    }
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Invalid(_) | Self::PermitMalformed => Code::InvalidArgument,
            Self::MeterUnknown(_) | Self::AssociationGone | Self::ClosedByMeter => Code::NotFound,
            Self::MeterExists(_) | Self::AddressTaken { .. } => Code::AlreadyExists,
            Self::MeterBusy { .. } | Self::TakenOver => Code::Aborted,
            Self::PermitMeterMismatch { .. }
            | Self::PermitRequesterMismatch { .. }
            | Self::GatewayRefused(_) => Code::PermissionDenied,
            Self::GatewayUnreachable(_)
            | Self::GatewayReset(_)
            | Self::Custody(_)
            | Self::Trail(_)
            | Self::MeterUnreachable { .. }
            | Self::Rejected {
                permanent: false, ..
            } => Code::Unavailable,
            Self::AddressAmbiguous(_)
            | Self::Rejected {
                permanent: true, ..
            }
            | Self::SecurityContext(_)
            | Self::MeterAuthentication(_)
            | Self::Downgrade(_)
            | Self::Unsupported(_)
            | Self::NotGranted(_)
            | Self::DoesNotFit(_)
            | Self::Protocol(_) => Code::FailedPrecondition,
            Self::TooLate => Code::DeadlineExceeded,
            Self::Store(_) | Self::Row(_) => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "INVALID_REQUEST",
            Self::MeterUnknown(_) => "METER_UNKNOWN",
            Self::MeterExists(_) => "METER_EXISTS",
            Self::AddressTaken { .. } => "ADDRESS_TAKEN",
            Self::AddressAmbiguous(_) => "ADDRESS_AMBIGUOUS",
            Self::MeterBusy { .. } => "METER_BUSY",
            Self::PermitMalformed => "PERMIT_MALFORMED",
            Self::PermitMeterMismatch { .. } => "PERMIT_METER_MISMATCH",
            Self::PermitRequesterMismatch { .. } => "PERMIT_REQUESTER_MISMATCH",
            Self::GatewayUnreachable(_) => "GATEWAY_UNREACHABLE",
            Self::GatewayRefused(_) | Self::GatewayReset(_) => "GATEWAY_REFUSED",
            Self::MeterUnreachable { .. } => "METER_UNREACHABLE",
            Self::Rejected {
                permanent: true, ..
            } => "ASSOCIATION_REJECTED_PERMANENT",
            Self::Rejected {
                permanent: false, ..
            } => "ASSOCIATION_REJECTED_TRANSIENT",
            Self::SecurityContext(_) => "SECURITY_CONTEXT",
            Self::MeterAuthentication(_) => "METER_AUTHENTICATION_FAILED",
            Self::Downgrade(_) => "DOWNGRADE_REFUSED",
            Self::Unsupported(_) => "ASSOCIATION_UNSUPPORTED",
            Self::Protocol(_) => "METER_PROTOCOL_ERROR",
            Self::NotGranted(_) => "SERVICE_NOT_GRANTED",
            Self::DoesNotFit(_) => "DOES_NOT_FIT",
            Self::AssociationGone => "ASSOCIATION_GONE",
            Self::ClosedByMeter => "ASSOCIATION_CLOSED_BY_METER",
            Self::TakenOver => "ASSOCIATION_TAKEN_OVER",
            Self::TooLate => "DEADLINE_TOO_SHORT",
            Self::Custody(_) => "CUSTODY_UNAVAILABLE",
            Self::Trail(_) => "TRAIL_UNAVAILABLE",
            Self::Store(_) => "STORE",
            Self::Row(_) => "STORE_ROW",
        }
    }

    fn mend(&self) -> Option<String> {
        let mend = match self {
            Self::MeterUnknown(_) => "enrol it with `latchkey meter add`",
            Self::MeterExists(_) => "delete the meter first, or enrol it under another id",
            Self::AddressAmbiguous(_) => "ask by meter id",
            Self::AddressTaken { .. } => "ask for that meter, or delete it first",
            Self::PermitMalformed | Self::PermitMeterMismatch { .. } => {
                "ask the auditor for a permit for this meter"
            }
            Self::PermitRequesterMismatch { .. } => "present only permits that were given to you",
            Self::GatewayUnreachable(_) => {
                "check that the gateway runs, has an allowlist, and shows the name in [gateway] peer"
            }
            Self::GatewayRefused(_) => {
                "add our address (source) or the meter's (meter) to the allowlist, with its port in relay.meter_ports"
            }
            Self::GatewayReset(_) => {
                "add our address to the allowlist (source), or raise the gateway's relay.limits"
            }
            Self::MeterUnreachable { .. } => "check the meter's power and network, then try again",
            Self::Rejected {
                permanent: true, ..
            } => "check mechanism, client SAP and keys of the meter",
            Self::SecurityContext(_) => {
                "check the meter's keys and system title; read its invocation counter with the public client"
            }
            Self::MeterAuthentication(_) => {
                "do not trust this meter before its keys have been checked"
            }
            Self::Unsupported(_) => {
                "correct mechanism and protection of the meter in the directory"
            }
            Self::NotGranted(_) => "send the commands one by one",
            Self::DoesNotFit(_) => "send less at a time: fewer commands, or a part of the value",
            Self::AssociationGone | Self::ClosedByMeter => "open it again",
            Self::TooLate => "give the call a longer deadline",
            _ => return None,
        };
        Some(mend.to_owned())
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::MeterBusy { left, .. } => Some(*left),
            Self::GatewayReset(_) => Some(Duration::from_secs(1)),
            // temporary-failure and its like are given 15 minutes.
            Self::Rejected {
                permanent: false, ..
            } => Some(Duration::from_secs(15 * 60)),
            _ => None,
        }
    }

    fn violations(&self) -> Vec<(String, String)> {
        match self {
            Self::Invalid(violations) => violations.clone(),
            _ => Vec::new(),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            // What custody or the auditor says (PERMIT_EXPIRED, ...) is for our caller too, and goes through as it is.
            // A call that did not reach them has no reason; it gets ours, since a caller of Invoke must be able to tell
            // it from a call that did not reach us.
            Error::Custody(status) | Error::Trail(status)
                if kit::status::reason(&status).is_some() =>
            {
                status
            }
            error => kit::status::status(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use kit::status::{reason, status};

    use super::*;

    #[test]
    fn custodys_reasons_go_through_and_silence_gets_ours() {
        let said = status(&Error::PermitMalformed);
        let passed = Status::from(Error::Custody(said.clone()));
        assert_eq!(
            (passed.code(), reason(&passed)),
            (said.code(), reason(&said))
        );
        for silence in [
            Status::from_error(Box::new(std::io::Error::other("reset"))),
            Status::cancelled("late"),
        ] {
            let made = Status::from(Error::Custody(silence.clone()));
            assert_eq!(
                (made.code(), reason(&made).as_deref()),
                (Code::Unavailable, Some("CUSTODY_UNAVAILABLE"))
            );
            let made = Status::from(Error::Trail(silence));
            assert_eq!(
                (made.code(), reason(&made).as_deref()),
                (Code::Unavailable, Some("TRAIL_UNAVAILABLE"))
            );
        }
    }
}
