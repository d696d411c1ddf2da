//! What can go wrong in the auditor, and what its callers are told.

use kit::status::Fault;
use std::time::Duration;
use tonic::Code;

use crate::policy::PolicyError;

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks the contract: field and reason, for each fault.
    #[error("the request is malformed: {}", list(.0))]
    Invalid(Vec<(String, String)>),
    /// Policy says no.
    #[error("denied: {cause}")]
    Denied {
        /// Whom, what and why.
        cause: String,
    },
    /// The caller reports what is not its own.
    #[error("{peer} may not report entries of kind {kind}")]
    ReportForbidden {
        /// Who reports.
        peer: String,
        /// What.
        kind: &'static str,
    },
    /// The request id was used for another request.
    #[error("request id {0} was used for another request")]
    RequestReused(String),
    /// The trail cannot be written, so nothing may be done.
    #[error("the trail cannot be written, so nothing is authorised")]
    TrailUnwritable(#[source] Option<sqlx::Error>),
    /// The trail cannot be read.
    #[error("the trail cannot be read")]
    TrailUnreadable(#[source] sqlx::Error),
    /// A row of the trail is not what was written.
    #[error("entry {0} of the trail is damaged")]
    EntryDamaged(u64),
    /// The token does not sign.
    #[error("the signing token does not answer")]
    Token(#[source] hsm::Error),
    /// A checkpoint or proof cannot be made.
    #[error("the trail's tree: {0}")]
    Tree(#[from] tlog::Error),
    /// No such network in the allowlist.
    #[error("{0} is not in the allowlist")]
    NetworkUnknown(String),
    /// There is no checkpoint of that size yet.
    #[error("the trail has {size} entries, asked for {asked}")]
    BeyondTrail {
        /// What was asked for.
        asked: u64,
        /// What there is.
        size: u64,
    },
}

/// Why the auditor does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// The policy bundle is not usable.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The trail is not the one that was signed.
    #[error(
        "the trail disagrees with its last signed checkpoint: {what}; keep this database as evidence, \
         restore the newest backup, or start a new log under another `origin`"
    )]
    TrailDisagrees {
        /// Where and how.
        what: String,
    },
    /// The stored checkpoint is another log's.
    #[error(
        "the stored checkpoint does not open with this token's key and `origin`: {0}; configure the token and \
         origin this database was made with, or use a new database"
    )]
    ForeignCheckpoint(tlog::Error),
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Self::Invalid(_) | Self::BeyondTrail { .. } => Code::InvalidArgument,
            Self::Denied { .. } | Self::ReportForbidden { .. } => Code::PermissionDenied,
            Self::RequestReused(_) => Code::AlreadyExists,
            Self::TrailUnwritable(_) | Self::TrailUnreadable(_) | Self::Token(_) => {
                Code::Unavailable
            }
            Self::EntryDamaged(_) => Code::DataLoss,
            Self::Tree(_) => Code::Internal,
            Self::NetworkUnknown(_) => Code::NotFound,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "INVALID_REQUEST",
            Self::Denied { .. } => "POLICY_DENIED",
            Self::ReportForbidden { .. } => "REPORT_FORBIDDEN",
            Self::RequestReused(_) => "REQUEST_ID_REUSED",
            Self::TrailUnwritable(_) => "TRAIL_UNWRITABLE",
            Self::TrailUnreadable(_) => "TRAIL_UNREADABLE",
            Self::EntryDamaged(_) => "TRAIL_DAMAGED",
            Self::Token(_) => "TOKEN_UNAVAILABLE",
            Self::Tree(_) => "TREE",
            Self::NetworkUnknown(_) => "NETWORK_UNKNOWN",
            Self::BeyondTrail { .. } => "BEYOND_TRAIL",
        }
    }

    fn mend(&self) -> Option<String> {
        let mend = match self {
            Self::Denied { .. } => {
                "ask somebody whose role allows it; what a rule never-… forbids nobody may do, and a reset is asked for with `latchkey reset`"
            }
            Self::ReportForbidden { .. } => {
                "each service reports its own kinds; a service of another name belongs into [reporters] of the auditor"
            }
            Self::RequestReused(_) => "use a new request id for a new request",
            Self::TrailUnwritable(_) | Self::TrailUnreadable(_) => {
                "look at the auditor's database and disk, then try again"
            }
            Self::EntryDamaged(_) => {
                "export the trail and run `latchkey audit verify`; restore the newest backup"
            }
            Self::Token(_) => "look at the auditor's token, then try again",
            Self::Invalid(_)
            | Self::Tree(_)
            | Self::NetworkUnknown(_)
            | Self::BeyondTrail { .. } => return None,
        };
        Some(mend.to_owned())
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(
            self,
            Self::TrailUnwritable(_) | Self::TrailUnreadable(_) | Self::Token(_)
        )
        .then_some(Duration::from_secs(1))
    }

    fn violations(&self) -> Vec<(String, String)> {
        match self {
            Self::Invalid(violations) => violations.clone(),
            _ => Vec::new(),
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        if error.code() == Code::Unavailable || error.code() == Code::DataLoss {
            tracing::error!(error = %kit::status::chain(&error), "request failed");
        }
        kit::status::status(&error)
    }
}

fn list(violations: &[(String, String)]) -> String {
    let each: Vec<String> = violations
        .iter()
        .map(|(field, why)| format!("{field} {why}"))
        .collect();
    each.join("; ")
}
