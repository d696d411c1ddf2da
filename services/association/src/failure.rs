//! What a [`dlms::Cause`] means for whoever asked.

use dlms::{Awaiting, Cause, CipherFailure, acse::AssociationResult};
use tonic::Status;

use crate::error::Error;

/// Why an association did not open. `refusal` is what custody said, if it said no.
pub(crate) fn opening(meter_id: &str, cause: Cause, refusal: Option<Status>) -> Error {
    let text = cause.to_string();
    match cause {
        Cause::Cipher {
            failure: CipherFailure::Refused | CipherFailure::Unavailable,
            ..
        } => match refusal {
            Some(status) => Error::Custody(status),
            None => Error::Protocol(text),
        },
        Cause::TimedOut { .. } => unreachable(meter_id, text),
        // Wrong key or counter, says a meter that closes; in a plain association it says nothing.
        Cause::Closed {
            ciphered: true,
            awaiting: Awaiting::Aare | Awaiting::Authentication,
        } => Error::SecurityContext(text),
        Cause::Closed { .. } => unreachable(meter_id, text),
        Cause::Rejected {
            result, diagnostic, ..
        } => Error::Rejected {
            permanent: result != AssociationResult::RejectedTransient,
            diagnostic: diagnostic.to_string(),
        },
        Cause::Exception(exception) if exception.is_security() => Error::SecurityContext(text),
        Cause::AuthenticationRefused(_) => Error::SecurityContext(text),
        Cause::ContextDowngrade { .. }
        | Cause::MechanismDowngrade { .. }
        | Cause::Unprotected { .. }
        | Cause::WrongProtection { .. } => Error::Downgrade(text),
        Cause::WrongTag { .. }
        | Cause::WrongServerTitle { .. }
        | Cause::NoServerTitle
        | Cause::Reflected { .. }
        | Cause::BadChallenge { .. }
        | Cause::NoServerProof
        | Cause::Cipher { .. } => Error::MeterAuthentication(text),
        Cause::Config(_) | Cause::Unsupported(_) => Error::Unsupported(text),
        Cause::Malformed(_)
        | Cause::BadInitiate(_)
        | Cause::BadCipherOutput { .. }
        | Cause::Exception(_)
        | Cause::Mismatch(_)
        | Cause::AnswerTooLong { .. } => Error::Protocol(text),
    }
}

fn unreachable(meter_id: &str, cause: String) -> Error {
    Error::MeterUnreachable {
        meter_id: meter_id.to_owned(),
        cause,
    }
}

/// Why a command could not be asked for: nothing was sent.
pub(crate) fn request(error: &dlms::Error) -> Error {
    match error {
        dlms::Error::TooLong { .. } => Error::field("command", error.to_string()),
        _ => Error::AssociationGone,
    }
}

/// Why the answer to a command that was sent is not known: one line without octets of any APDU.
pub(crate) fn loss(cause: &Cause, refusal: Option<&Status>, broken: bool) -> String {
    match (cause, refusal) {
        (Cause::Closed { .. }, _) if broken => {
            "the connection broke; it was not the meter that closed it".to_owned()
        }
        (Cause::Exception(exception), _) => {
            format!(
                "exception-response state {} service {} ({})",
                exception.state,
                exception.service,
                exception.name()
            )
        }
        (Cause::Cipher { .. }, Some(status)) => format!(
            "{cause} [{}]",
            kit::status::reason(status).unwrap_or_default()
        ),
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use dlms::{ApplicationContext, Exception, Mechanism, acse::Diagnostic};
    use kit::status::Fault as _;

    use super::*;

    fn check<const N: usize>(cases: [(Cause, &str); N]) {
        for (cause, reason) in cases {
            assert_eq!(
                opening("m-1", cause.clone(), None).reason(),
                reason,
                "{cause}"
            );
        }
    }

    #[test]
    fn what_the_meter_says_or_does_not_say_has_its_reason() {
        let rejected = |result| Cause::Rejected {
            result,
            diagnostic: Diagnostic::User(13),
            error: None,
        };
        let closed = |ciphered| Cause::Closed {
            awaiting: Awaiting::Aare,
            ciphered,
        };
        check([
            (
                Cause::TimedOut {
                    awaiting: Awaiting::Aare,
                },
                "METER_UNREACHABLE",
            ),
            (closed(true), "SECURITY_CONTEXT"),
            (closed(false), "METER_UNREACHABLE"),
            (Cause::Exception(Exception::DECIPHERING), "SECURITY_CONTEXT"),
            (
                Cause::Exception(Exception::invocation_counter(7)),
                "SECURITY_CONTEXT",
            ),
            (
                Cause::Exception(Exception::NOT_SUPPORTED),
                "METER_PROTOCOL_ERROR",
            ),
            (
                rejected(AssociationResult::RejectedPermanent),
                "ASSOCIATION_REJECTED_PERMANENT",
            ),
            (
                rejected(AssociationResult::RejectedTransient),
                "ASSOCIATION_REJECTED_TRANSIENT",
            ),
            (
                Cause::Mismatch("a block is out of order"),
                "METER_PROTOCOL_ERROR",
            ),
            (Cause::Config("no title"), "ASSOCIATION_UNSUPPORTED"),
        ]);
    }

    #[test]
    fn attacks_have_their_reasons() {
        let cipher = |failure| Cause::Cipher {
            during: Awaiting::Authentication,
            failure,
        };
        let downgrade = Cause::ContextDowngrade {
            proposed: ApplicationContext::LogicalNameCiphered,
            granted: ApplicationContext::LogicalName,
        };
        check([
            (Cause::NoServerProof, "METER_AUTHENTICATION_FAILED"),
            (
                Cause::Reflected { what: "challenge" },
                "METER_AUTHENTICATION_FAILED",
            ),
            (
                cipher(CipherFailure::AuthFailed),
                "METER_AUTHENTICATION_FAILED",
            ),
            (Cause::Unprotected { tag: 0xc4 }, "DOWNGRADE_REFUSED"),
            (downgrade, "DOWNGRADE_REFUSED"),
            (
                Cause::MechanismDowngrade {
                    proposed: Mechanism::HlsGmac,
                    granted: None,
                },
                "DOWNGRADE_REFUSED",
            ),
        ]);
        let said = kit::status::status(&Error::TooLate);
        let Error::Custody(through) = opening("m-1", cipher(CipherFailure::Refused), Some(said))
        else {
            panic!("custody's own words are lost");
        };
        assert_eq!(
            kit::status::reason(&through).as_deref(),
            Some("DEADLINE_TOO_SHORT")
        );
    }

    #[test]
    fn losses_are_told_in_one_line() {
        let closed = Cause::Closed {
            awaiting: Awaiting::Answer,
            ciphered: true,
        };
        assert!(loss(&closed, None, true).contains("broke"));
        assert!(loss(&closed, None, false).contains("the meter closed the connection"));
        assert_eq!(
            loss(&Cause::Exception(Exception::DECIPHERING), None, false),
            "exception-response state 1 service 5 (deciphering-error)"
        );
        let said = kit::status::status(&Error::PermitMalformed);
        let forged = Cause::Cipher {
            during: Awaiting::Answer,
            failure: CipherFailure::AuthFailed,
        };
        assert!(loss(&forged, Some(&said), false).ends_with("[PERMIT_MALFORMED]"));
    }
}
