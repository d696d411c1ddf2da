//! Exit codes: one table, the same as in `docs/cli.md`. 1 and 2 are the procedure's own (0x01 Access Denied, 0x02 No
//! Response); 3 to 7 are verdicts of a reset that was not a success; from 64 on they are those of sysexits(3).

use std::process::ExitCode;

use tonic::Code;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit(u8);

impl Exit {
    pub(crate) const OK: Self = Self(0);
    pub(crate) const ACCESS_DENIED: Self = Self(1);
    pub(crate) const NO_RESPONSE: Self = Self(2);
    pub(crate) const PARTIAL: Self = Self(3);
    pub(crate) const NOT_ACCEPTED: Self = Self(4);
    pub(crate) const DATA_RISK: Self = Self(5);
    pub(crate) const SUPPLY_CHANGED: Self = Self(6);
    pub(crate) const CANCELLED: Self = Self(7);
    pub(crate) const USAGE: Self = Self(64);
    pub(crate) const BAD_DATA: Self = Self(65);
    pub(crate) const SERVICE_DOWN: Self = Self(69);
    pub(crate) const INTERNAL: Self = Self(70);
    pub(crate) const LOCAL_FILE: Self = Self(74);
    pub(crate) const TRY_LATER: Self = Self(75);
    pub(crate) const CONFIGURATION: Self = Self(78);

    /// The code a reset carries. One that does not fit an exit status is our own fault, never success.
    pub(crate) fn of_reset(code: u32) -> Self {
        u8::try_from(code).map_or(Self::INTERNAL, Self)
    }

    /// What a gRPC failure means to a script.
    pub(crate) fn of_status(code: Code, reason: Option<&str>) -> Self {
        match code {
            Code::Ok => Self::OK,
            Code::PermissionDenied | Code::Unauthenticated => Self::ACCESS_DENIED,
            // Only what a service says of a meter is silence of a meter; a service that is down says nothing.
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => match reason {
                Some(reason) if reason.starts_with("METER_") => Self::NO_RESPONSE,
                Some("ASSOCIATION_REJECTED_TRANSIENT") => Self::TRY_LATER,
                _ => Self::SERVICE_DOWN,
            },
            Code::FailedPrecondition if reason.is_some_and(is_security) => Self::ACCESS_DENIED,
            Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition => Self::NOT_ACCEPTED,
            Code::Aborted | Code::ResourceExhausted => Self::TRY_LATER,
            Code::InvalidArgument | Code::OutOfRange => Self::USAGE,
            Code::DataLoss => Self::BAD_DATA,
            Code::Unimplemented | Code::Internal | Code::Unknown => Self::INTERNAL,
        }
    }

    /// What the meter's own result means: Data-Access-Result and Action-Result share these numbers
    /// (IEC 62056-5-3, clause 7.4).
    pub(crate) fn of_meter_result(result: u32) -> Self {
        match result {
            0 => Self::OK,
            2 => Self::TRY_LATER,
            3 | 13 => Self::ACCESS_DENIED,
            _ => Self::NOT_ACCEPTED,
        }
    }

    pub(crate) fn number(self) -> u8 {
        self.0
    }

    /// The code in words, as in `docs/cli.md`.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::OK => "success",
            Self::ACCESS_DENIED => "access denied",
            Self::NO_RESPONSE => "no response",
            Self::PARTIAL => "only part of the meter restarted",
            Self::NOT_ACCEPTED => "not accepted",
            Self::DATA_RISK => "measured data may have been lost",
            Self::SUPPLY_CHANGED => "the relay is not as it was",
            Self::CANCELLED => "cancelled before it acted",
            Self::USAGE => "an argument is malformed",
            Self::BAD_DATA => "data failed its check",
            Self::SERVICE_DOWN => "a Latchkey service cannot be reached",
            Self::LOCAL_FILE => "a local file or resource failed",
            Self::TRY_LATER => "temporary: try again later",
            Self::CONFIGURATION => "the configuration or this host's set-up is not in order",
            _ => "internal error",
        }
    }
}

/// The procedure's "security context mismatch", found while an association was being opened.
fn is_security(reason: &str) -> bool {
    matches!(
        reason,
        "SECURITY_CONTEXT"
            | "METER_AUTHENTICATION_FAILED"
            | "DOWNGRADE_REFUSED"
            | "ASSOCIATION_REJECTED_PERMANENT"
    )
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_procedures_codes() {
        assert_eq!(
            Exit::of_status(Code::PermissionDenied, Some("POLICY_DENIED")).number(),
            0x01
        );
        assert_eq!(Exit::of_status(Code::Unauthenticated, None).number(), 0x01);
        assert_eq!(
            Exit::of_status(Code::Unavailable, Some("METER_UNREACHABLE")).number(),
            0x02
        );
        assert_eq!(
            Exit::of_status(Code::FailedPrecondition, Some("SECURITY_CONTEXT")).number(),
            0x01
        );
    }

    #[test]
    fn a_service_that_is_down_is_not_a_silent_meter() {
        assert_eq!(Exit::of_status(Code::Unavailable, None), Exit::SERVICE_DOWN);
        assert_eq!(
            Exit::of_status(Code::DeadlineExceeded, None),
            Exit::SERVICE_DOWN
        );
        assert_eq!(
            Exit::of_status(Code::Unavailable, Some("GATEWAY_UNREACHABLE")),
            Exit::SERVICE_DOWN
        );
    }

    #[test]
    fn only_ok_is_zero() {
        for number in 0..=16 {
            let code = Code::from_i32(number);
            let exit = Exit::of_status(code, Some("REASON"));
            assert_eq!(exit.number() == 0, code == Code::Ok, "{code:?}");
            assert!(
                exit == Exit::INTERNAL || exit.meaning() != "internal error",
                "{code:?}"
            );
        }
    }

    #[test]
    fn a_resets_code_never_wraps_round_to_success() {
        assert_eq!(Exit::of_reset(0), Exit::OK);
        assert_eq!(Exit::of_reset(6), Exit::SUPPLY_CHANGED);
        assert_eq!(Exit::of_reset(256), Exit::INTERNAL);
    }

    #[test]
    fn the_meters_own_results() {
        assert_eq!(Exit::of_meter_result(0), Exit::OK);
        assert_eq!(Exit::of_meter_result(2), Exit::TRY_LATER);
        assert_eq!(Exit::of_meter_result(3), Exit::ACCESS_DENIED);
        assert_eq!(Exit::of_meter_result(4), Exit::NOT_ACCEPTED);
    }
}
