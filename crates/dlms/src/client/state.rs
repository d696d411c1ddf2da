//! The states of a client's association. Each owns the data that only it has.

use alloc::vec::Vec;

use crate::cause::{Awaiting, Cause};
use crate::cipher::JobId;
use crate::conformance::Conformance;
use crate::security::SystemTitle;
use crate::service::{Command, InvokeId};

pub(super) enum State {
    /// Not opened yet.
    Idle,
    /// The InitiateRequest is being ciphered.
    ProtectingInitiate { job: JobId },
    /// AARQ sent.
    AwaitingAare { deadline: u64 },
    /// AARE taken apart; its InitiateResponse is being deciphered.
    UnprotectingInitiate { job: JobId, tag: u8, grant: Grant },
    /// f(StoC) is being computed.
    Answering { job: JobId, session: Session },
    /// The meter's f(CtoS) is being checked.
    Verifying { job: JobId, session: Session },
    /// Open and idle.
    Ready { session: Session },
    /// A request with this plaintext tag is being ciphered.
    Protecting {
        job: JobId,
        tag: u8,
        exchange: Exchange,
    },
    /// Request sent.
    Awaiting { deadline: u64, exchange: Exchange },
    /// An answer with this ciphered tag is being deciphered.
    Unprotecting {
        job: JobId,
        deadline: u64,
        tag: u8,
        exchange: Exchange,
    },
    /// The RLRQ's InitiateRequest is being ciphered.
    ProtectingRelease { job: JobId },
    /// RLRQ sent.
    AwaitingRelease { deadline: u64 },
    /// Over, in peace.
    Released,
    /// Over.
    Failed(Cause),
}

/// What an accepting AARE said besides its InitiateResponse.
pub(super) struct Grant {
    pub(super) server_title: Option<SystemTitle>,
    /// StoC, with HLS.
    pub(super) challenge: Option<Vec<u8>>,
}

/// What is negotiated.
#[derive(Clone, Copy)]
pub(super) struct Session {
    pub(super) server_title: Option<SystemTitle>,
    pub(super) conformance: Conformance,
    pub(super) max_pdu: u16,
    /// Of the next request.
    pub(super) invoke: InvokeId,
}

/// A request under way.
pub(super) struct Exchange {
    pub(super) session: Session,
    pub(super) invoke: InvokeId,
    pub(super) purpose: Purpose,
}

pub(super) enum Purpose {
    /// Pass 3 of HLS; the token is kept so that it is known again should it come back.
    Authenticate { token: Vec<u8> },
    /// A command of the owner.
    Command { kind: Kind, blocks: Option<Blocks> },
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Get,
    Set,
    Action,
}

impl Kind {
    /// Of a command that this client knows how to carry out.
    pub(super) const fn of(command: &Command) -> Option<Self> {
        match command {
            Command::Get { .. } => Some(Self::Get),
            Command::Set { .. } => Some(Self::Set),
            Command::Action { .. } => Some(Self::Action),
            Command::GetList(_)
            | Command::SetList(_)
            | Command::ActionList(_)
            | Command::Access(_) => None,
        }
    }
}

/// A value that comes in blocks.
pub(super) struct Blocks {
    /// The number of the block received last.
    pub(super) last: u32,
    pub(super) octets: Vec<u8>,
}

impl State {
    pub(super) const fn job(&self) -> Option<JobId> {
        match self {
            Self::ProtectingInitiate { job }
            | Self::UnprotectingInitiate { job, .. }
            | Self::Answering { job, .. }
            | Self::Verifying { job, .. }
            | Self::Protecting { job, .. }
            | Self::Unprotecting { job, .. }
            | Self::ProtectingRelease { job } => Some(*job),
            Self::Idle
            | Self::AwaitingAare { .. }
            | Self::Ready { .. }
            | Self::Awaiting { .. }
            | Self::AwaitingRelease { .. }
            | Self::Released
            | Self::Failed(_) => None,
        }
    }

    pub(super) const fn awaiting(&self) -> Awaiting {
        match self {
            Self::ProtectingInitiate { .. }
            | Self::AwaitingAare { .. }
            | Self::UnprotectingInitiate { .. } => Awaiting::Aare,
            Self::Answering { .. } | Self::Verifying { .. } => Awaiting::Authentication,
            Self::Protecting { exchange, .. }
            | Self::Awaiting { exchange, .. }
            | Self::Unprotecting { exchange, .. } => exchange.purpose.awaiting(),
            Self::Idle
            | Self::Ready { .. }
            | Self::ProtectingRelease { .. }
            | Self::AwaitingRelease { .. }
            | Self::Released
            | Self::Failed(_) => Awaiting::Nothing,
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self, Self::Released | Self::Failed(_))
    }

    /// Something received is being deciphered or checked.
    pub(super) const fn is_unprotecting(&self) -> bool {
        matches!(
            self,
            Self::UnprotectingInitiate { .. } | Self::Unprotecting { .. } | Self::Verifying { .. }
        )
    }

    pub(super) const fn is_releasing(&self) -> bool {
        matches!(
            self,
            Self::ProtectingRelease { .. } | Self::AwaitingRelease { .. }
        )
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Idle => "not open",
            Self::ProtectingInitiate { .. }
            | Self::AwaitingAare { .. }
            | Self::UnprotectingInitiate { .. } => "opening",
            Self::Answering { .. } | Self::Verifying { .. } => "authenticating",
            Self::Ready { .. } => "open and idle",
            Self::Protecting { .. } | Self::Awaiting { .. } | Self::Unprotecting { .. } => "busy",
            Self::ProtectingRelease { .. } | Self::AwaitingRelease { .. } => "releasing",
            Self::Released => "released",
            Self::Failed(_) => "failed",
        }
    }
}

impl Purpose {
    pub(super) const fn awaiting(&self) -> Awaiting {
        match self {
            Self::Authenticate { .. } => Awaiting::Authentication,
            Self::Command { .. } => Awaiting::Answer,
        }
    }
}
