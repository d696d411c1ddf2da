//! The states of a client's association. Each owns the data that only it has.

use alloc::vec::Vec;

use super::answer::Progress;
use crate::cause::{Awaiting, Cause};
use crate::cipher::JobId;
use crate::conformance::Conformance;
use crate::security::SystemTitle;
use crate::service::InvokeId;
use crate::terms::Terms;

pub(super) enum State {
    /// Not opened yet.
    Idle,
    /// The link is being set up.
    Connecting,
    /// The InitiateRequest is being ciphered.
    ProtectingInitiate { job: JobId },
    /// AARQ sent.
    AwaitingAare { deadline: u64 },
    /// AARE taken apart; its InitiateResponse is being deciphered.
    UnprotectingInitiate {
        job: JobId,
        /// Of the AARE, which is waited for on if this one proves to be forged.
        deadline: u64,
        tag: Option<u8>,
        grant: Grant,
    },
    /// f(StoC) is being computed.
    Answering {
        job: JobId,
        session: Session,
        challenge: Vec<u8>,
    },
    /// The meter's f(CtoS) is being checked.
    Verifying { job: JobId, session: Session },
    /// Open and idle.
    Ready { session: Session },
    /// A request is with the holder of the keys.
    Protecting {
        job: JobId,
        plain: Plain,
        exchange: Exchange,
    },
    /// Request sent.
    Awaiting { deadline: u64, exchange: Exchange },
    /// The RLRQ's InitiateRequest is being ciphered.
    ProtectingRelease { job: JobId, then: Then },
    /// RLRQ sent.
    AwaitingRelease { deadline: u64, then: Then },
    /// The link is being taken down.
    Disconnecting { deadline: u64, then: Then },
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
    /// The certificate that came along.
    pub(super) certificate: Option<Vec<u8>>,
}

/// What is negotiated.
#[derive(Clone, Copy)]
pub(super) struct Session {
    pub(super) server_title: Option<SystemTitle>,
    pub(super) conformance: Conformance,
    pub(super) max_pdu: u16,
    /// What one frame of the link carries; 0 if it is not known.
    pub(super) frame: u16,
    /// Of the next request.
    pub(super) invoke: InvokeId,
}

impl Session {
    /// The longest APDU the meter receives.
    pub(super) fn received(&self) -> usize {
        or_any(self.max_pdu)
    }

    /// The longest APDU a command may go in.
    pub(super) fn limit(&self) -> usize {
        or_any(self.max_pdu).min(or_any(self.frame))
    }

    /// Whether any APDU may come, and go, in general blocks.
    pub(super) const fn has_general_blocks(&self) -> bool {
        self.conformance
            .contains(Conformance::GENERAL_BLOCK_TRANSFER)
    }
}

/// 0 is no limit but that of the wrapper.
fn or_any(limit: u16) -> usize {
    match limit {
        0 => usize::from(u16::MAX),
        limit => usize::from(limit),
    }
}

/// A request under way.
pub(super) struct Exchange {
    pub(super) session: Session,
    pub(super) invoke: InvokeId,
    /// How its APDUs are protected, and its answers.
    pub(super) terms: Terms,
    pub(super) purpose: Purpose,
    /// Whether anything of it has left: after that it may be executed.
    pub(super) begun: bool,
}

pub(super) enum Purpose {
    /// Pass 3 of HLS; token and challenge are kept, the one so that it is known again should it come back.
    Authenticate { token: Vec<u8>, challenge: Vec<u8> },
    /// A command of the owner.
    Command(Progress),
}

/// What is known of an APDU that the holder of the keys has.
#[derive(Clone, Copy)]
pub(super) struct Plain {
    /// Its first octet.
    pub(super) tag: u8,
    /// Its fingerprint: in a plain association it must come back as it was.
    pub(super) print: u64,
}

/// What follows a release.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// The end.
    End,
    /// The association is opened once more: what was released was an old one, which the meter still held.
    Again,
}

/// An APDU of the meter that is being deciphered, while the association waits for an answer or is idle.
pub(super) struct Inbound {
    pub(super) job: JobId,
    /// The tag of its ciphering.
    pub(super) tag: Option<u8>,
    pub(super) terms: Terms,
    /// Whether an answer was due when it came: one that came earlier is none.
    pub(super) due: bool,
}

impl State {
    pub(super) const fn job(&self) -> Option<JobId> {
        match self {
            Self::ProtectingInitiate { job }
            | Self::UnprotectingInitiate { job, .. }
            | Self::Answering { job, .. }
            | Self::Verifying { job, .. }
            | Self::Protecting { job, .. }
            | Self::ProtectingRelease { job, .. } => Some(*job),
            Self::Idle
            | Self::Connecting
            | Self::AwaitingAare { .. }
            | Self::Ready { .. }
            | Self::Awaiting { .. }
            | Self::AwaitingRelease { .. }
            | Self::Disconnecting { .. }
            | Self::Released
            | Self::Failed(_) => None,
        }
    }

    /// When it has waited long enough.
    pub(super) const fn deadline(&self) -> Option<u64> {
        match self {
            Self::AwaitingAare { deadline }
            | Self::Awaiting { deadline, .. }
            | Self::AwaitingRelease { deadline, .. }
            | Self::Disconnecting { deadline, .. } => Some(*deadline),
            Self::Idle
            | Self::Connecting
            | Self::ProtectingInitiate { .. }
            | Self::UnprotectingInitiate { .. }
            | Self::Answering { .. }
            | Self::Verifying { .. }
            | Self::Ready { .. }
            | Self::Protecting { .. }
            | Self::ProtectingRelease { .. }
            | Self::Released
            | Self::Failed(_) => None,
        }
    }

    pub(super) const fn awaiting(&self) -> Awaiting {
        match self {
            Self::Connecting
            | Self::ProtectingInitiate { .. }
            | Self::AwaitingAare { .. }
            | Self::UnprotectingInitiate { .. } => Awaiting::Aare,
            Self::Answering { .. } | Self::Verifying { .. } => Awaiting::Authentication,
            Self::Protecting { exchange, .. } | Self::Awaiting { exchange, .. } => {
                exchange.purpose.awaiting()
            }
            Self::Idle
            | Self::Ready { .. }
            | Self::ProtectingRelease { .. }
            | Self::AwaitingRelease { .. }
            | Self::Disconnecting { .. }
            | Self::Released
            | Self::Failed(_) => Awaiting::Nothing,
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self, Self::Released | Self::Failed(_))
    }

    /// Whether the meter may tell something now that nobody asked for.
    pub(super) const fn is_open(&self) -> bool {
        match self {
            Self::Ready { .. } => true,
            Self::Protecting { exchange, .. } | Self::Awaiting { exchange, .. } => {
                matches!(exchange.purpose, Purpose::Command(_))
            }
            Self::Idle
            | Self::Connecting
            | Self::ProtectingInitiate { .. }
            | Self::AwaitingAare { .. }
            | Self::UnprotectingInitiate { .. }
            | Self::Answering { .. }
            | Self::Verifying { .. }
            | Self::ProtectingRelease { .. }
            | Self::AwaitingRelease { .. }
            | Self::Disconnecting { .. }
            | Self::Released
            | Self::Failed(_) => false,
        }
    }

    /// What is negotiated, once it is, and how the APDUs of the exchange under way are protected.
    pub(super) const fn session(&self) -> Option<(Session, Option<Terms>)> {
        match self {
            Self::Ready { session } => Some((*session, None)),
            Self::Protecting { exchange, .. } | Self::Awaiting { exchange, .. } => {
                Some((exchange.session, Some(exchange.terms)))
            }
            Self::Idle
            | Self::Connecting
            | Self::ProtectingInitiate { .. }
            | Self::AwaitingAare { .. }
            | Self::UnprotectingInitiate { .. }
            | Self::Answering { .. }
            | Self::Verifying { .. }
            | Self::ProtectingRelease { .. }
            | Self::AwaitingRelease { .. }
            | Self::Disconnecting { .. }
            | Self::Released
            | Self::Failed(_) => None,
        }
    }

    /// What follows, if it is on its way to be released.
    pub(super) const fn ending(&self) -> Option<Then> {
        match self {
            Self::ProtectingRelease { then, .. }
            | Self::AwaitingRelease { then, .. }
            | Self::Disconnecting { then, .. } => Some(*then),
            Self::Idle
            | Self::Connecting
            | Self::ProtectingInitiate { .. }
            | Self::AwaitingAare { .. }
            | Self::UnprotectingInitiate { .. }
            | Self::Answering { .. }
            | Self::Verifying { .. }
            | Self::Ready { .. }
            | Self::Protecting { .. }
            | Self::Awaiting { .. }
            | Self::Released
            | Self::Failed(_) => None,
        }
    }

    /// Something received is being deciphered or checked, on which the next step depends.
    pub(super) const fn is_judging(&self) -> bool {
        matches!(
            self,
            Self::UnprotectingInitiate { .. } | Self::Verifying { .. }
        )
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Idle => "not open",
            Self::Connecting
            | Self::ProtectingInitiate { .. }
            | Self::AwaitingAare { .. }
            | Self::UnprotectingInitiate { .. } => "opening",
            Self::Answering { .. } | Self::Verifying { .. } => "authenticating",
            Self::Ready { .. } => "open and idle",
            Self::Protecting { .. } | Self::Awaiting { .. } => "busy",
            Self::ProtectingRelease { .. }
            | Self::AwaitingRelease { .. }
            | Self::Disconnecting { .. } => "releasing",
            Self::Released => "released",
            Self::Failed(_) => "failed",
        }
    }
}

impl Purpose {
    pub(super) const fn awaiting(&self) -> Awaiting {
        match self {
            Self::Authenticate { .. } => Awaiting::Authentication,
            Self::Command(_) => Awaiting::Answer,
        }
    }
}
