//! What went wrong, whose fault it is, and what to do next.

use std::path::Path;

use serde_json::json;

use crate::exit::Exit;

/// Who must move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    /// Whoever typed the command.
    Caller,
    /// Policy, or a certificate that is not allowed.
    Policy,
    /// The meter, or the way to it.
    Meter,
    /// A Latchkey service.
    Service,
    /// This host: files, configuration, prerequisites.
    Setup,
}

impl Party {
    fn name(self) -> &'static str {
        match self {
            Self::Caller => "the request",
            Self::Policy => "policy or identity",
            Self::Meter => "the meter or the way to it",
            Self::Service => "a Latchkey service",
            Self::Setup => "this host's set-up",
        }
    }
}

/// An error as a person reads it.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    party: Party,
    reason: Option<String>,
    mend: Option<String>,
    request_id: Option<String>,
    exit: Exit,
}

impl Failure {
    pub(crate) fn new(exit: Exit, party: Party, what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            party,
            reason: None,
            mend: None,
            request_id: None,
            exit,
        }
    }

    /// The command line asks for something that makes no sense.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::USAGE, Party::Caller, what).mend("correct what the error names")
    }

    /// A configuration cannot be used.
    pub(crate) fn configuration(what: impl Into<String>) -> Self {
        Self::new(Exit::CONFIGURATION, Party::Setup, what)
    }

    /// Something of this host failed: `what` completes "could not …".
    pub(crate) fn io(what: &str, error: &dyn std::error::Error) -> Self {
        Self::new(
            Exit::LOCAL_FILE,
            Party::Setup,
            format!("could not {what}: {}", chain(error)),
        )
        .mend("check that the path or address is right, and that this user may use it")
    }

    /// A file failed: `verb` completes "could not … PATH".
    pub(crate) fn file(verb: &str, path: &Path, error: &dyn std::error::Error) -> Self {
        Self::io(&format!("{verb} {}", path.display()), error)
    }

    /// A service refused or failed: `what` completes "could not …".
    pub(crate) fn status(what: &str, status: &tonic::Status) -> Self {
        let reason = kit::status::reason(status);
        let exit = Exit::of_status(status.code(), reason.as_deref());
        let message = match (status.message(), &reason) {
            ("", _) => status.code().description().to_owned(),
            // The transport's own words say nothing of who was not there.
            (message, None) if exit == Exit::SERVICE_DOWN => {
                format!("its service cannot be reached: {message}")
            }
            (message, _) => message.to_owned(),
        };
        Self {
            what: format!("could not {what}: {message}"),
            party: party_of(exit, reason.as_deref()),
            mend: kit::status::mend(status).or_else(|| mend_of(exit, reason.as_deref())),
            reason,
            request_id: None,
            exit,
        }
    }

    pub(crate) fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    pub(crate) fn with_request(mut self, request_id: &str) -> Self {
        self.request_id = Some(request_id.to_owned());
        self
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        json!({ "error": {
            "what": self.what,
            "fault": self.party.name(),
            "reason": self.reason,
            "mend": self.mend,
            "request_id": self.request_id,
            "exit_code": self.exit.number(),
            "meaning": self.exit.meaning(),
        }})
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error: {}\n  fault:   {}", self.what, self.party.name())?;
        if let Some(reason) = &self.reason {
            write!(f, " ({reason})")?;
        }
        if let Some(mend) = &self.mend {
            write!(f, "\n  mend:    {mend}")?;
        }
        if let Some(request_id) = &self.request_id {
            write!(f, "\n  request: {request_id}")?;
        }
        write!(
            f,
            "\n  exit:    {} ({})",
            self.exit.number(),
            self.exit.meaning()
        )
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Many errors repeat their cause in their own text.
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line
}

fn party_of(exit: Exit, reason: Option<&str>) -> Party {
    match exit {
        _ if reason.is_some_and(is_of_the_meter) => Party::Meter,
        Exit::ACCESS_DENIED => Party::Policy,
        Exit::NO_RESPONSE | Exit::BAD_DATA => Party::Meter,
        Exit::USAGE | Exit::NOT_ACCEPTED => Party::Caller,
        _ => Party::Service,
    }
}

/// The meter answered, and what it said is why the request came to nothing.
fn is_of_the_meter(reason: &str) -> bool {
    matches!(
        reason,
        "METER_PROTOCOL_ERROR"
            | "METER_AUTHENTICATION_FAILED"
            | "ASSOCIATION_REJECTED_PERMANENT"
            | "ASSOCIATION_REJECTED_TRANSIENT"
            | "ASSOCIATION_CLOSED_BY_METER"
    )
}

/// What to do when the service did not say.
fn mend_of(exit: Exit, reason: Option<&str>) -> Option<String> {
    let mend = match exit {
        _ if reason == Some("METER_PROTOCOL_ERROR") => {
            "ask again in a minute: an older association may still be open; then look at the meter's firmware, or at the association's trace_file"
        }
        Exit::USAGE => "correct what the error names",
        Exit::SERVICE_DOWN => {
            "start the service, or correct its endpoint in the configuration; `latchkey doctor` says which is down"
        }
        Exit::ACCESS_DENIED => {
            "ask with a certificate that policy allows this to; the denial is in the trail (`latchkey audit list`)"
        }
        Exit::NO_RESPONSE => {
            "check the meter's address, its signal and the allowlist, then ask again"
        }
        Exit::TRY_LATER => "wait a minute and ask again",
        Exit::INTERNAL => "look for the request id in the service's log",
        _ => return None,
    };
    Some(mend.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_whose_fault_what_next_and_which_request() {
        let failure = Failure::new(Exit::NO_RESPONSE, Party::Meter, "could not read 1.2.3")
            .mend("try again")
            .with_request("4711");
        assert_eq!(
            failure.to_string(),
            "error: could not read 1.2.3\n  fault:   the meter or the way to it\n  mend:    try again\n  \
             request: 4711\n  exit:    2 (no response)"
        );
        assert_eq!(failure.json()["error"]["exit_code"], 2);
    }

    #[test]
    fn a_meter_that_talks_nonsense_is_not_the_callers_fault() {
        let party = |reason| party_of(Exit::NOT_ACCEPTED, Some(reason));
        assert_eq!(party("METER_PROTOCOL_ERROR"), Party::Meter);
        assert_eq!(party("METER_UNKNOWN"), Party::Caller);
        assert!(mend_of(Exit::NOT_ACCEPTED, Some("METER_PROTOCOL_ERROR")).is_some());
    }

    #[test]
    fn a_cause_is_not_said_twice() {
        let inner = std::io::Error::other("disk full");
        let outer = std::io::Error::other(inner);
        assert_eq!(chain(&outer), "disk full");
    }
}
