//! Errors on the wire: the one place where an error becomes a gRPC status (`google.rpc` details included).

use std::{error::Error, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Domain of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "latchkey";

/// What an error says on the wire. Implement it once per crate, by an exhaustive match.
pub trait Fault: Error {
    /// The gRPC code.
    fn code(&self) -> Code;

    /// A stable name in `UPPER_SNAKE_CASE`, for programs; goes into `ErrorInfo.reason`.
    fn reason(&self) -> &'static str;

    /// What the reader should do next.
    fn mend(&self) -> Option<String> {
        None
    }

    /// How long to wait before trying again, where that helps.
    fn retry_after(&self) -> Option<Duration> {
        None
    }

    /// Which fields of the request are wrong, and why.
    fn violations(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// Makes the status of an error. [`Code::Internal`] is logged with its causes here, once, and goes out without
/// them: the caller gets the request id to quote.
#[must_use]
pub fn status(fault: &impl Fault) -> Status {
    let mut details = ErrorDetails::new();
    let mut metadata = std::collections::HashMap::new();
    if let Some(mend) = fault.mend() {
        metadata.insert("mend".to_owned(), mend);
    }
    details.set_error_info(fault.reason(), DOMAIN, metadata);
    if let Some(after) = fault.retry_after() {
        details.set_retry_info(Some(after));
    }
    for (field, why) in fault.violations() {
        details.add_bad_request_violation(field, why);
    }
    let message = if fault.code() == Code::Internal {
        let request_id = crate::context::request_id();
        tracing::error!(error = %chain(fault), reason = fault.reason(), request_id, "internal error");
        format!("internal error; quote request {request_id}")
    } else {
        fault.to_string()
    };
    Status::with_error_details(fault.code(), message, details)
}

/// A status as fields of a message: code, text, and the encoded details.
#[must_use]
pub fn to_parts(status: &Status) -> (i32, String, Vec<u8>) {
    let details = status.details().to_vec();
    (status.code().into(), status.message().to_owned(), details)
}

/// The reverse of [`to_parts`]. A failure that says it is none is [`Code::Unknown`].
#[must_use]
pub fn from_parts(code: i32, message: String, details: Vec<u8>) -> Status {
    let code = match Code::from_i32(code) {
        Code::Ok => Code::Unknown,
        code => code,
    };
    Status::with_details(code, message, details.into())
}

/// An error and its causes, on one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The reason in a status, if it is one of ours.
#[must_use]
pub fn reason(status: &Status) -> Option<String> {
    status
        .get_details_error_info()
        .filter(|info| info.domain == DOMAIN)
        .map(|info| info.reason)
}

/// The mend in a status, if there is one.
#[must_use]
pub fn mend(status: &Status) -> Option<String> {
    status
        .get_details_error_info()
        .and_then(|mut info| info.metadata.remove("mend"))
}

/// Whether the same call may succeed later without anybody doing anything. Only for calls that carry a request id
/// or change nothing.
#[must_use]
pub fn is_transient(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable
        | Code::ResourceExhausted
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Cancelled => true,
        // A connection that broke in mid-call is `Unknown` with a transport error as its source.
        Code::Unknown => status.source().is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Oops {
        #[error("meter {0} is unknown")]
        Unknown(String),
        #[error("the disk at /secret/place is full")]
        Disk,
    }

    impl Fault for Oops {
        fn code(&self) -> Code {
            match self {
                Self::Unknown(_) => Code::NotFound,
                Self::Disk => Code::Internal,
            }
        }
        fn reason(&self) -> &'static str {
            match self {
                Self::Unknown(_) => "METER_UNKNOWN",
                Self::Disk => "DISK",
            }
        }
        fn mend(&self) -> Option<String> {
            Some("enrol it with `latchkey meter add`".to_owned())
        }
        fn violations(&self) -> Vec<(String, String)> {
            vec![("meter_id".to_owned(), "is unknown".to_owned())]
        }
    }

    #[test]
    fn details_travel() {
        let made = status(&Oops::Unknown("m1".to_owned()));
        assert_eq!(made.code(), Code::NotFound);
        assert_eq!(made.message(), "meter m1 is unknown");
        assert_eq!(reason(&made).as_deref(), Some("METER_UNKNOWN"));
        assert!(mend(&made).is_some_and(|m| m.contains("meter add")));
        assert_eq!(
            made.get_details_bad_request()
                .map(|b| b.field_violations.len()),
            Some(1)
        );
    }

    #[test]
    fn internal_is_scrubbed() {
        let made = status(&Oops::Disk);
        assert!(!made.message().contains("secret"));
        assert!(made.message().contains("quote request"));
    }
}
