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
            Some(status) => Error::Upstream(status),
            None => Error::Protocol(text),
        },
        Cause::TimedOut { .. } => unreachable(meter_id, text),
        // Wrong key or counter, says a meter that closes (interop-facts T10); in a plain association it says nothing.
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
