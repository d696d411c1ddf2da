//! What a [`dlms::Cause`] means for whoever asked.

use dlms::{
    Awaiting, Cause, CipherFailure, Exception,
    acse::{AssociationResult, Diagnostic},
};
use tonic::Status;

use crate::{answer::describe, error::Error};

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
        Cause::TimedOut { .. } | Cause::Link { .. } => unreachable(meter_id, text),
        // Wrong key or counter, says a meter that closes; in a plain association it says nothing.
        Cause::Closed {
            ciphered: true,
            awaiting: Awaiting::Aare | Awaiting::Authentication,
        } => Error::SecurityContext(text),
        Cause::Closed { .. } => unreachable(meter_id, text),
        Cause::Rejected {
            result, diagnostic, ..
        } => rejected(result, diagnostic),
        Cause::Exception(exception) | Cause::NotOpened(exception) => not_served(&exception),
        Cause::AuthenticationRefused(_) => Error::SecurityContext(text),
        Cause::ContextDowngrade { .. }
        | Cause::MechanismDowngrade { .. }
        | Cause::Unprotected { .. }
        | Cause::WrongForm { .. }
        | Cause::Unsigned { .. }
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
        | Cause::Mismatch(_)
        | Cause::AnswerTooLong { .. } => Error::Protocol(text),
    }
}

/// An AARE that says no. One that speaks of authentication is a matter of keys, even if the meter calls it transient: a
/// wrong key that is tried again and again looks like an attack.
fn rejected(result: AssociationResult, diagnostic: Diagnostic) -> Error {
    let transient = result == AssociationResult::RejectedTransient;
    if transient && diagnostic.is_security() {
        return Error::SecurityContext(format!("it rejected the association: {diagnostic}"));
    }
    Error::Rejected {
        permanent: !transient,
        diagnostic: diagnostic.to_string(),
    }
}

/// An exception-response in place of an AARE: keys or counter; or "not now", as from a meter that boots, or that still
/// holds an association nobody released; or a service that it does not know, which no repetition mends.
fn not_served(exception: &Exception) -> Error {
    let text = describe(exception);
    match exception.service {
        5 | 6 => Error::SecurityContext(text),
        1 | 3 if exception.state == 1 => Error::Rejected {
            permanent: false,
            diagnostic: text,
        },
        _ => Error::Protocol(text),
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
        dlms::Error::TooLong { .. } => Error::DoesNotFit(error.to_string()),
        _ => Error::AssociationGone,
    }
}

/// Why the answer to a command that was sent is not known: one line without octets of any APDU.
pub(crate) fn loss(cause: &Cause, refusal: Option<&Status>, broken: bool) -> String {
    match (cause, refusal) {
        (Cause::Closed { .. }, _) if broken => {
            "the connection broke; it was not the meter that closed it".to_owned()
        }
        (Cause::Exception(exception) | Cause::NotOpened(exception), _) => describe(exception),
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
        let rejected = |result, code| Cause::Rejected {
            result,
            diagnostic: Diagnostic::User(code),
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
                Cause::Exception(Exception::NOT_POSSIBLE),
                "ASSOCIATION_REJECTED_TRANSIENT",
            ),
            (
                Cause::Exception(Exception::OTHER_REASON),
                "ASSOCIATION_REJECTED_TRANSIENT",
            ),
            (
                rejected(AssociationResult::RejectedPermanent, 13),
                "ASSOCIATION_REJECTED_PERMANENT",
            ),
            (
                rejected(AssociationResult::RejectedTransient, 1),
                "ASSOCIATION_REJECTED_TRANSIENT",
            ),
            (
                rejected(AssociationResult::RejectedTransient, 13),
                "SECURITY_CONTEXT",
            ),
            (
                Cause::Mismatch("a block is out of order"),
                "METER_PROTOCOL_ERROR",
            ),
            (Cause::Config("no title"), "ASSOCIATION_UNSUPPORTED"),
        ]);
    }

    #[test]
    fn not_now_says_when() {
        let busy = opening("m-1", Cause::Exception(Exception::NOT_POSSIBLE), None);
        assert_eq!(busy.code(), tonic::Code::Unavailable);
        assert!(busy.retry_after().is_some());
        assert!(
            busy.to_string().contains("operation-not-possible"),
            "{busy}"
        );
        let unknown = Exception {
            state: 2,
            ..Exception::NOT_POSSIBLE
        };
        let unknown = opening("m-1", Cause::Exception(unknown), None);
        assert_eq!(
            (unknown.reason(), unknown.retry_after()),
            ("METER_PROTOCOL_ERROR", None)
        );
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
