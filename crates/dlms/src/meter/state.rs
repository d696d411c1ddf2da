//! The states of a meter's association. Each owns the data that only it has.

use alloc::vec::Vec;

use crate::cipher::JobId;
use crate::conformance::Conformance;
use crate::mechanism::Mechanism;
use crate::security::{Protection, SystemTitle};
use crate::service::{InvokeId, Request, Response};

pub(super) enum State {
    /// No association.
    Idle,
    /// The AARQ's InitiateRequest is being deciphered.
    UnprotectingInitiate {
        job: JobId,
        tag: u8,
        opening: Opening,
    },
    /// The AARE's InitiateResponse is being ciphered.
    ProtectingInitiate {
        job: JobId,
        opening: Opening,
        session: Session,
    },
    /// An association, ready for the next request.
    Associated { session: Session, phase: Phase },
    /// A request is being deciphered.
    Unprotecting {
        job: JobId,
        tag: u8,
        session: Session,
        phase: Phase,
    },
    /// The client's f(StoC) is being checked.
    Verifying {
        job: JobId,
        session: Session,
        protection: Protection,
        invoke: InvokeId,
        client_challenge: Vec<u8>,
    },
    /// f(CtoS) is being computed.
    Answering {
        job: JobId,
        session: Session,
        protection: Protection,
        invoke: InvokeId,
    },
    /// The COSEM objects were asked.
    Asked {
        session: Session,
        protection: Protection,
        invoke: InvokeId,
        kind: Kind,
    },
    /// An answer is being ciphered.
    Protecting {
        job: JobId,
        session: Session,
        after: After,
    },
    /// The RLRQ's InitiateRequest is being deciphered.
    UnprotectingRelease {
        job: JobId,
        tag: u8,
        session: Session,
        phase: Phase,
    },
    /// The RLRE's InitiateResponse is being ciphered.
    ProtectingRelease { job: JobId, client_sap: u16 },
    /// The connection carries something else than DLMS.
    Failed,
}

/// What an AARQ that is acceptable so far said.
pub(super) struct Opening {
    pub(super) client_sap: u16,
    pub(super) mechanism: Mechanism,
    pub(super) client_title: Option<SystemTitle>,
    /// With HLS.
    pub(super) challenges: Option<Challenges>,
}

/// The challenges of HLS.
#[derive(Clone)]
pub(super) struct Challenges {
    /// CtoS.
    pub(super) client: Vec<u8>,
    /// StoC.
    pub(super) server: Vec<u8>,
}

/// What is negotiated.
#[derive(Clone, Copy)]
pub(super) struct Session {
    pub(super) client_sap: u16,
    pub(super) mechanism: Mechanism,
    pub(super) ciphered: bool,
    pub(super) client_title: Option<SystemTitle>,
    pub(super) client_max_pdu: u16,
    pub(super) conformance: Conformance,
}

/// How far an association is.
pub(super) enum Phase {
    /// Pass 3 is due, and nothing else is served.
    Pending(Challenges),
    /// Open; maybe in the middle of a long GET.
    Open(Option<LongGet>),
}

/// A value that goes out in blocks.
pub(super) struct LongGet {
    pub(super) invoke: InvokeId,
    /// The number of the block sent last.
    pub(super) sent: u32,
    pub(super) rest: Vec<u8>,
}

/// What follows an answer.
pub(super) enum After {
    /// The next request.
    Open(Option<LongGet>),
    /// The association is open: pass 4 is this answer.
    Opened,
    /// The association is dropped: pass 3 was wrong.
    Dropped,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Get,
    Set,
    Action,
}

impl Kind {
    pub(super) const fn of(request: &Request) -> Self {
        match request {
            Request::Get { .. } | Request::GetNext { .. } | Request::GetList { .. } => Self::Get,
            Request::Set { .. }
            | Request::SetFirstBlock { .. }
            | Request::SetBlock { .. }
            | Request::SetList { .. }
            | Request::SetListFirstBlock { .. } => Self::Set,
            Request::Action { .. }
            | Request::ActionNext { .. }
            | Request::ActionList { .. }
            | Request::ActionFirstBlock { .. }
            | Request::ActionListFirstBlock { .. }
            | Request::ActionBlock { .. }
            | Request::Access { .. } => Self::Action,
        }
    }

    /// Blocks are made here, never by the objects.
    pub(super) const fn is_answered_by(self, response: &Response) -> bool {
        matches!(
            (self, response),
            (
                Self::Get,
                Response::GetData { .. } | Response::GetError { .. }
            ) | (Self::Set, Response::Set { .. })
                | (Self::Action, Response::Action { .. })
                | (_, Response::Exception(_))
        )
    }
}

impl State {
    pub(super) const fn job(&self) -> Option<JobId> {
        match self {
            Self::UnprotectingInitiate { job, .. }
            | Self::ProtectingInitiate { job, .. }
            | Self::Unprotecting { job, .. }
            | Self::Verifying { job, .. }
            | Self::Answering { job, .. }
            | Self::Protecting { job, .. }
            | Self::UnprotectingRelease { job, .. }
            | Self::ProtectingRelease { job, .. } => Some(*job),
            Self::Idle | Self::Associated { .. } | Self::Asked { .. } | Self::Failed => None,
        }
    }

    pub(super) const fn takes_frames(&self) -> bool {
        matches!(self, Self::Idle | Self::Associated { .. })
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Idle => "not associated",
            Self::UnprotectingInitiate { .. } | Self::ProtectingInitiate { .. } => "opening",
            Self::Associated {
                phase: Phase::Pending(_),
                ..
            }
            | Self::Verifying { .. }
            | Self::Answering { .. } => "authenticating",
            Self::Associated {
                phase: Phase::Open(_),
                ..
            } => "open and idle",
            Self::Unprotecting { .. } | Self::Protecting { .. } => "ciphering",
            Self::Asked { .. } => "waiting for an answer",
            Self::UnprotectingRelease { .. } | Self::ProtectingRelease { .. } => "releasing",
            Self::Failed => "failed",
        }
    }
}
