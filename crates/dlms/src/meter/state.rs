//! The states of a meter's association. Each owns the data that only it has.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::blocks::{Joined, LongAnswer};
use crate::cipher::JobId;
use crate::conformance::Conformance;
use crate::mechanism::Mechanism;
use crate::security::SystemTitle;
use crate::service::{InvokeId, LongInvokeId, Request, Response};
use crate::terms::Terms;

pub(super) enum State {
    /// No association.
    Idle,
    /// The AARQ's InitiateRequest is being deciphered.
    UnprotectingInitiate {
        job: JobId,
        tag: Option<u8>,
        opening: Opening,
    },
    /// The AARE's InitiateResponse is being ciphered.
    ProtectingInitiate { job: JobId, opening: Opening },
    /// An association, ready for the next request.
    Associated { session: Session, phase: Phase },
    /// A request is being deciphered.
    Unprotecting {
        job: JobId,
        tag: Option<u8>,
        session: Session,
        phase: Phase,
    },
    /// The client's f(StoC) is being checked.
    Verifying {
        job: JobId,
        session: Session,
        invoke: InvokeId,
        challenges: Challenges,
    },
    /// f(CtoS) is being computed.
    Answering {
        job: JobId,
        session: Session,
        invoke: InvokeId,
    },
    /// The COSEM objects were asked.
    Asked(Asked),
    /// An answer with this plaintext tag is being ciphered.
    Protecting {
        job: JobId,
        tag: u8,
        session: Session,
        after: After,
    },
    /// The RLRQ's InitiateRequest is being deciphered.
    UnprotectingRelease {
        job: JobId,
        tag: Option<u8>,
        session: Session,
        phase: Phase,
    },
    /// The RLRE's InitiateResponse is being ciphered.
    ProtectingRelease { job: JobId, session: Session },
    /// The connection carries something else than DLMS.
    Failed,
}

/// What an AARQ that is acceptable so far said.
pub(super) struct Opening {
    pub(super) session: Session,
    /// With HLS.
    pub(super) challenges: Option<Challenges>,
    /// What there was before, over UDP: it lasts until the new one proves to be the client's.
    pub(super) old: Option<Box<(Session, Phase)>>,
    /// The fingerprint of the AARQ.
    pub(super) print: u64,
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
    /// How the last request was protected; before it, the first form the client may use.
    pub(super) terms: Terms,
    pub(super) client_title: Option<SystemTitle>,
    pub(super) client_max_pdu: u16,
    pub(super) conformance: Conformance,
}

impl Session {
    /// The longest APDU the client receives.
    pub(super) fn limit(&self) -> usize {
        match self.client_max_pdu {
            0 => usize::from(u16::MAX),
            limit => usize::from(limit),
        }
    }

    pub(super) const fn has(&self, service: Conformance) -> bool {
        self.conformance.contains(service)
    }
}

/// How far an association is.
pub(super) enum Phase {
    /// Pass 3 is due, and nothing else is served.
    Pending(Challenges),
    /// Open; maybe in the middle of a transfer.
    Open(Option<Transfer>),
}

/// A service that takes several requests.
pub(super) enum Transfer {
    /// An answer that goes out in blocks.
    Out(LongAnswer),
    /// A request that comes in blocks.
    In {
        invoke: InvokeId,
        is_set: bool,
        joined: Joined,
    },
}

/// What follows an answer.
pub(super) enum After {
    /// The next request.
    Open(Option<Transfer>),
    /// The association is open: pass 4 is this answer.
    Opened,
    /// The association is dropped: pass 3 was wrong.
    Dropped,
}

/// What the COSEM objects were asked.
pub(super) struct Asked {
    pub(super) session: Session,
    pub(super) invoke: InvokeId,
    kind: Kind,
    /// The number of the last block, if the request came in blocks.
    pub(super) block: Option<u32>,
}

#[derive(Clone, Copy)]
enum Kind {
    Get,
    GetList(usize),
    Set,
    SetList(usize),
    Action,
    ActionList(usize),
    Access(LongInvokeId, usize),
}

impl Asked {
    /// Of a whole request; nothing for a block.
    pub(super) fn new(session: Session, request: &Request, block: Option<u32>) -> Option<Self> {
        let kind = match request {
            Request::Get { .. } => Kind::Get,
            Request::GetList { attributes, .. } => Kind::GetList(attributes.len()),
            Request::Set { .. } => Kind::Set,
            Request::SetList { values, .. } => Kind::SetList(values.len()),
            Request::Action { .. } => Kind::Action,
            Request::ActionList { methods, .. } => Kind::ActionList(methods.len()),
            Request::Access {
                invoke, accesses, ..
            } => Kind::Access(*invoke, accesses.len()),
            Request::GetNext { .. }
            | Request::SetFirstBlock { .. }
            | Request::SetBlock { .. }
            | Request::SetListFirstBlock { .. }
            | Request::ActionNext { .. }
            | Request::ActionFirstBlock { .. }
            | Request::ActionListFirstBlock { .. }
            | Request::ActionBlock { .. } => return None,
        };
        Some(Self {
            session,
            invoke: request.invoke(),
            kind,
            block,
        })
    }

    /// The long id of an ACCESS.
    pub(super) const fn long(&self) -> Option<LongInvokeId> {
        match self.kind {
            Kind::Access(invoke, _) => Some(invoke),
            Kind::Get
            | Kind::GetList(_)
            | Kind::Set
            | Kind::SetList(_)
            | Kind::Action
            | Kind::ActionList(_) => None,
        }
    }

    /// Blocks are made here, never by the objects.
    pub(super) fn is_answered_by(&self, response: &Response) -> bool {
        match (self.kind, response) {
            (_, Response::Exception(_))
            | (Kind::Get, Response::GetData { .. })
            | (Kind::Get | Kind::GetList(_), Response::GetError { .. })
            | (Kind::Set, Response::Set { .. })
            | (Kind::Action, Response::Action { .. }) => true,
            (Kind::SetList(_), Response::Set { result, .. }) => !result.is_success(),
            (Kind::ActionList(_), Response::Action { result, .. }) => !result.is_success(),
            (Kind::GetList(count), Response::GetList { results, .. }) => results.len() == count,
            (Kind::SetList(count), Response::SetList { results, .. }) => results.len() == count,
            (Kind::ActionList(count), Response::ActionList { outcomes, .. }) => {
                outcomes.len() == count
            }
            (Kind::Access(_, count), Response::Access { results, .. }) => results.len() <= count,
            _ => false,
        }
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
            Self::Idle | Self::Associated { .. } | Self::Asked(_) | Self::Failed => None,
        }
    }

    pub(super) const fn takes_frames(&self) -> bool {
        matches!(self, Self::Idle | Self::Associated { .. })
    }

    /// The association, if it is open.
    pub(super) const fn open(&self) -> Option<&Session> {
        match self {
            Self::Associated {
                session,
                phase: Phase::Open(_),
            }
            | Self::Unprotecting {
                session,
                phase: Phase::Open(_),
                ..
            }
            | Self::UnprotectingRelease {
                session,
                phase: Phase::Open(_),
                ..
            }
            | Self::Protecting {
                session,
                after: After::Open(_),
                ..
            } => Some(session),
            Self::Asked(asked) => Some(&asked.session),
            Self::Idle
            | Self::UnprotectingInitiate { .. }
            | Self::ProtectingInitiate { .. }
            | Self::Associated { .. }
            | Self::Unprotecting { .. }
            | Self::Verifying { .. }
            | Self::Answering { .. }
            | Self::Protecting { .. }
            | Self::UnprotectingRelease { .. }
            | Self::ProtectingRelease { .. }
            | Self::Failed => None,
        }
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
            Self::Asked(_) => "waiting for an answer",
            Self::UnprotectingRelease { .. } | Self::ProtectingRelease { .. } => "releasing",
            Self::Failed => "failed",
        }
    }
}
