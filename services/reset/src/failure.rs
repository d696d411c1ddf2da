//! What a gRPC error means for a reset: whose failure it was, and whether trying again may help.

use kit::status;
use machine::{Input, Party};
use tonic::{Code, Status};

/// A call that did not do what it was for. Nothing was changed by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The meter or its network did not answer.
    Silent(String),
    /// One of our own services did not.
    Service(String),
    /// The permit has expired or is spent.
    Stale(String),
    /// Somebody says no, and will say so again.
    Denied(String),
}

impl Failure {
    /// As the machine takes it.
    pub(crate) fn input(self) -> Input {
        match self {
            Self::Silent(cause) => Input::Unreachable {
                party: Party::Meter,
                cause,
            },
            Self::Service(cause) => Input::Unreachable {
                party: Party::Service,
                cause,
            },
            Self::Stale(cause) => Input::PermitStale { cause },
            Self::Denied(cause) => Input::Denied { cause },
        }
    }
}

impl From<Status> for Failure {
    fn from(error: Status) -> Self {
        let reason = status::reason(&error).unwrap_or_default();
        let said = if reason.is_empty() {
            format!("a service did not answer ({})", error.message())
        } else {
            error.message().to_owned()
        };
        match reason.as_str() {
            "METER_UNREACHABLE"
            | "METER_PROTOCOL_ERROR"
            | "ASSOCIATION_CLOSED_BY_METER"
            | "ASSOCIATION_REJECTED_TRANSIENT"
            // The gateway may have lost its allowlist for a moment: it counts like a silent meter, for as long.
            | "GATEWAY_REFUSED" => Self::Silent(said),
            "PERMIT_EXPIRED" | "PERMIT_USES_SPENT" | "PERMIT_ASSOCIATIONS_SPENT" | "REQUEST_ID_REUSED" => {
                Self::Stale(said)
            }
            "SECURITY_CONTEXT"
            | "METER_AUTHENTICATION_FAILED"
            | "DOWNGRADE_REFUSED"
            | "ASSOCIATION_REJECTED_PERMANENT"
            | "ASSOCIATION_UNSUPPORTED"
            | "ASSOCIATION_REFUSED"
            | "SERVICE_NOT_GRANTED"
            | "DOES_NOT_FIT"
            | "METER_UNKNOWN"
            | "KEYS_UNKNOWN"
            | "KEYS_COMPROMISED"
            | "KEYS_DESTROYED" => Self::Denied(said),
            _ => match error.code() {
                Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument => Self::Denied(said),
                _ => Self::Service(said),
            },
        }
    }
}

/// Whether an error of `Invoke` proves that nothing was sent: only the association service itself can say so. A broken
/// connection to it, or a time-out on our side, says nothing.
pub(crate) fn proves_not_sent(error: &Status) -> bool {
    status::reason(error).is_some_and(|reason| reason != "PANICKED")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kit::status::Fault;

    #[derive(Debug, thiserror::Error)]
    #[error("{reason}")]
    struct Said {
        code: Code,
        reason: &'static str,
    }

    impl Fault for Said {
        fn code(&self) -> Code {
            self.code
        }
        fn reason(&self) -> &'static str {
            self.reason
        }
    }

    fn said(code: Code, reason: &'static str) -> Status {
        status::status(&Said { code, reason })
    }

    #[test]
    fn reasons_decide_before_codes() {
        let cases = [
            (
                Code::Unavailable,
                "METER_UNREACHABLE",
                Failure::Silent("METER_UNREACHABLE".to_owned()),
            ),
            (
                Code::Unavailable,
                "GATEWAY_UNREACHABLE",
                Failure::Service("GATEWAY_UNREACHABLE".to_owned()),
            ),
            (
                Code::PermissionDenied,
                "PERMIT_EXPIRED",
                Failure::Stale("PERMIT_EXPIRED".to_owned()),
            ),
            (
                Code::PermissionDenied,
                "POLICY_DENIED",
                Failure::Denied("POLICY_DENIED".to_owned()),
            ),
            (
                Code::PermissionDenied,
                "GATEWAY_REFUSED",
                Failure::Silent("GATEWAY_REFUSED".to_owned()),
            ),
            (
                Code::FailedPrecondition,
                "SECURITY_CONTEXT",
                Failure::Denied("SECURITY_CONTEXT".to_owned()),
            ),
            (
                Code::FailedPrecondition,
                "ASSOCIATION_REFUSED",
                Failure::Denied("ASSOCIATION_REFUSED".to_owned()),
            ),
            (
                Code::Aborted,
                "METER_BUSY",
                Failure::Service("METER_BUSY".to_owned()),
            ),
        ];
        for (code, reason, expected) in cases {
            assert_eq!(Failure::from(said(code, reason)), expected);
        }
    }

    #[test]
    fn only_the_service_itself_proves_that_nothing_was_sent() {
        assert!(proves_not_sent(&said(Code::NotFound, "ASSOCIATION_GONE")));
        assert!(!proves_not_sent(&said(Code::Internal, "PANICKED")));
        let broken = Status::from_error(Box::new(std::io::Error::other("connection reset")));
        assert!(!proves_not_sent(&broken));
        assert!(matches!(Failure::from(broken), Failure::Service(_)));
    }
}
