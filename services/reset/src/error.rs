//! What can go wrong, and how it is said.

use kit::status::Fault;
use tonic::{Code, Status};

/// The errors of the reset service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields of the request are wrong; each with its reason.
    #[error("the request is malformed: {}", violations(.0))]
    Invalid(Vec<(String, String)>),
    /// Nobody enrolled this meter.
    #[error("meter {0} is not enrolled")]
    MeterUnknown(String),
    /// The meter's reset profile is not loaded.
    #[error("meter {meter_id} has the reset profile {profile:?}, which this service does not have")]
    ProfileUnknown {
        /// The meter.
        meter_id: String,
        /// Its profile.
        profile: String,
    },
    /// There is no such reset.
    #[error("reset {0} is unknown")]
    ResetUnknown(String),
    /// The request id was used for something else.
    #[error("request_id {0} was used for another reset")]
    RequestReused(String),
    /// The meter is being reset already.
    #[error("meter {meter_id} has a reset under way: {reset_id}")]
    ResetUnderWay {
        /// The meter.
        meter_id: String,
        /// Its reset.
        reset_id: String,
    },
    /// There is no such rotation.
    #[error("rotation {0} is unknown")]
    RotationUnknown(String),
    /// The meter has another rotation of keys.
    #[error("meter {meter_id} has a rotation of keys under way: {rotation_id}")]
    RotationUnderWay {
        /// The meter.
        meter_id: String,
        /// Its rotation.
        rotation_id: String,
    },
    /// It is over.
    #[error("rotation {0} is over")]
    RotationOver(String),
    /// The command may have left.
    #[error("reset {0} can no longer be cancelled: its command may have been sent")]
    PastPivot(String),
    /// It is over.
    #[error("reset {0} is over")]
    Over(String),
    /// The link to the meter does not carry the plan.
    #[error("the reset does not fit the meter's link: {0}")]
    DoesNotFit(String),
    /// Policy allows it, but it is no tier of the meter's profile, and nothing else is ever invoked.
    #[error("this method is no tier of the meter's reset profile")]
    NotATier,
    /// The meter did not answer a read.
    #[error("meter {meter_id} did not answer: {cause}")]
    NoAnswer {
        /// The meter.
        meter_id: String,
        /// What was seen.
        cause: String,
    },
    /// Another service said no, or nothing.
    #[error("{}", .0.message())]
    Upstream(Status),
    /// The service is stopping.
    #[error("the reset service is stopping")]
    Stopping,
    /// The database failed.
    #[error("the reset store failed")]
    Store(#[from] sqlx::Error),
    /// A row that this program did not write.
    #[error("the reset store holds a row that cannot be read: {0}")]
    Row(String),
    /// Another process changed a reset that this one drives.
    #[error("reset {0} was changed by another process")]
    Stolen(String),
}

fn violations(violations: &[(String, String)]) -> String {
    let lines: Vec<String> = violations
        .iter()
        .map(|(field, why)| format!("{field} {why}"))
        .collect();
    lines.join("; ")
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
            Self::Invalid(_) => Code::InvalidArgument,
            Self::MeterUnknown(_) | Self::ResetUnknown(_) | Self::RotationUnknown(_) => {
                Code::NotFound
            }
            Self::RequestReused(_) => Code::AlreadyExists,
            Self::ProfileUnknown { .. }
            | Self::ResetUnderWay { .. }
            | Self::RotationUnderWay { .. }
            | Self::RotationOver(_)
            | Self::PastPivot(_)
            | Self::Over(_)
            | Self::DoesNotFit(_)
            | Self::NotATier => Code::FailedPrecondition,
            Self::NoAnswer { .. } | Self::Stopping => Code::Unavailable,
            Self::Upstream(status) => status.code(),
            Self::Store(_) | Self::Row(_) | Self::Stolen(_) => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "INVALID_REQUEST",
            Self::MeterUnknown(_) => "METER_UNKNOWN",
            Self::ProfileUnknown { .. } => "PROFILE_UNKNOWN",
            Self::ResetUnknown(_) => "RESET_UNKNOWN",
            Self::RequestReused(_) => "REQUEST_ID_REUSED",
            Self::ResetUnderWay { .. } => "RESET_UNDER_WAY",
            Self::RotationUnknown(_) => "ROTATION_UNKNOWN",
            Self::RotationUnderWay { .. } => "ROTATION_UNDER_WAY",
            Self::RotationOver(_) => "ROTATION_OVER",
            Self::PastPivot(_) => "PAST_POINT_OF_NO_RETURN",
            Self::Over(_) => "RESET_OVER",
            Self::DoesNotFit(_) => "DOES_NOT_FIT",
            Self::NotATier => "NOT_A_TIER",
            Self::NoAnswer { .. } => "METER_NO_ANSWER",
            Self::Upstream(_) => "UPSTREAM",
            Self::Stopping => "STOPPING",
            Self::Store(_) => "STORE",
            Self::Row(_) => "STORE_ROW",
            Self::Stolen(_) => "RESET_STOLEN",
        }
    }

    fn mend(&self) -> Option<String> {
        let mend = match self {
            Self::Invalid(_) => "correct the fields that the message names",
            Self::MeterUnknown(_) => "enrol it with `latchkey meter add`",
            Self::ProfileUnknown { .. } => {
                "put the profile into profile_dir of the reset service, or enrol the meter with one it has"
            }
            Self::ResetUnknown(_) => "look for it with `latchkey resets list --meter ID`",
            Self::RequestReused(_) => "choose a new request_id for a new reset",
            Self::ResetUnderWay { .. } => "watch that reset, or cancel it if it has not acted yet",
            Self::RotationUnknown(_) => "look for it with `latchkey keys rotations --meter ID`",
            Self::RotationUnderWay { .. } => "watch that rotation until its verdict",
            Self::PastPivot(_) => "wait for its verdict",
            Self::DoesNotFit(_) => {
                "correct link_mtu or the HDLC options of the meter in the directory, or reset it on the spot"
            }
            Self::NotATier => "use the operations of the meter's reset profile",
            Self::NoAnswer { .. } => "check the meter's power and network, then try again",
            Self::Stopping => "try again when it runs",
            Self::Over(_)
            | Self::RotationOver(_)
            | Self::Upstream(_)
            | Self::Store(_)
            | Self::Row(_)
            | Self::Stolen(_) => {
                return None;
            }
        };
        Some(mend.to_owned())
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
            // Reasons of the auditor, the association service and key custody are for our caller too.
            Error::Upstream(status) => status,
            error => kit::status::status(&error),
        }
    }
}
