//! The client role: an association with a meter, as a value.

mod answer;
mod config;
mod exchange;
mod notify;
mod open;
mod release;
mod state;
mod wire;

pub use answer::MAX_ANSWER;
pub use config::ClientConfig;
pub(crate) use open::challenge_lengths;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::{fmt, mem};

use crate::cause::Cause;
use crate::cipher::{CipherFailure, CipherJob, CipherOutput, JobId};
use crate::conformance::Conformance;
use crate::error::Error;
use crate::general::General;
use crate::link::Link;
use crate::security::SystemTitle;
use crate::service::{Command, Notification, Response};
use crate::terms::Terms;

use state::{Inbound, State, Then};

/// What the association wants done.
#[derive(Clone, PartialEq)]
pub enum Effect {
    /// Write these octets to the transport: one frame of the wrapper (over UDP one datagram), or one of HDLC.
    Transmit(Vec<u8>),
    /// Do this, then call [`Client::handle_cipher`]. Jobs are to be done in the order they come in.
    Cipher(CipherJob),
    /// Tell whoever owns the association.
    Event(Event),
    /// Call [`Client::handle_timeout`] at this time, in the milliseconds of `now_ms`. Replaces the one before;
    /// a call that comes early or late does no harm.
    Timer(u64),
}

/// Frames may hold a password or a command in clear: only their length is shown.
impl fmt::Debug for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transmit(frame) => write!(f, "Transmit({} octets)", frame.len()),
            Self::Cipher(job) => f.debug_tuple("Cipher").field(job).finish(),
            Self::Event(event) => f.debug_tuple("Event").field(event).finish(),
            Self::Timer(deadline) => write!(f, "Timer({deadline})"),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The association is open and, with HLS, both sides are authenticated.
    Opened {
        /// The meter's system title.
        server_title: Option<SystemTitle>,
        /// The services both sides have.
        conformance: Conformance,
        /// The longest APDU the meter receives, ciphering included; 0 means no limit.
        max_pdu: u16,
    },
    /// The answer of the command, whole if it came in blocks: `GetData` or `GetError`, `Set`, `Action`, `GetList`,
    /// `SetList`, `ActionList`, `Access`; in an association without protection also `Exception` and
    /// `ConfirmedServiceError`, and a list may be refused as a whole by `GetError`, `Set` or `Action`. Never a block.
    /// The association is open for the next command.
    Answered(Response),
    /// The holder of the keys did not cipher the command, or did not allow it: nothing was sent, and the association is
    /// still open.
    NotSent(CipherFailure),
    /// The meter told something that nobody asked for, at any time while the association is open; if it wants a
    /// confirmation that is sent. It had the association's protection: what has less is dropped.
    Notified(Notification),
    /// The association is released. The connection can be closed.
    Released,
    /// The association is over. Close the connection.
    Failed(Cause),
}

/// An association of the client role: see the crate's documentation for its states.
pub struct Client {
    config: ClientConfig,
    state: State,
    link: Link,
    effects: VecDeque<Effect>,
    next_job: JobId,
    /// An APDU that is being deciphered.
    inbound: Option<Inbound>,
    /// Confirmations of notifications that wait, and the terms of those.
    confirmations: VecDeque<(Terms, Vec<u8>)>,
    /// A confirmation of a notification that is being ciphered.
    confirming: Option<notify::Confirming>,
    /// General block transfer of the exchange under way, and when it goes on by itself.
    general: General,
    general_at: Option<u64>,
    /// Why the association fails, if no better answer comes: what came over UDP may be anybody's.
    suspect: Option<Cause>,
    /// Why nothing more will come; what was received before may still be deciphered.
    down: Option<wire::Down>,
    /// The time that was asked for last.
    timer: Option<u64>,
    /// What the meter said when an old association was released, and the AARQ sent again: that is done once.
    recovered: Option<Cause>,
}

/// States hold tokens and values in clear: only the name is shown.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.state.name())
    }
}

impl Client {
    /// An association that is not open yet.
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        let link = Link::client(
            &config.link,
            config.client_sap,
            config.server_sap,
            config.max_pdu,
        );
        Self {
            general: General::new(&config.link).once(),
            general_at: None,
            config,
            state: State::Idle,
            link,
            effects: VecDeque::new(),
            next_job: JobId::FIRST,
            inbound: None,
            confirmations: VecDeque::new(),
            confirming: None,
            suspect: None,
            down: None,
            timer: None,
            recovered: None,
        }
    }

    /// Opens it: the transport is connected. Ends in [`Event::Opened`] or [`Event::Failed`].
    ///
    /// An association can be opened once; another call does nothing. Over UDP anybody may have sent what comes: of a
    /// ciphered association nothing ends the opening before the time-out that is not authentic, and the time-out tells
    /// the first of what was doubted. Of a plain one nothing is authentic: a rejection is taken at its word.
    pub fn open(&mut self, now_ms: u64) {
        if matches!(self.state, State::Idle) {
            match self.config.check() {
                Ok(()) => self.connect(now_ms),
                Err(cause) => self.fail(cause),
            }
            self.pump(now_ms);
        }
    }

    /// Sends a command: in one APDU, or in blocks if it is longer than the meter receives and the meter takes such
    /// blocks. Ends in [`Event::Answered`], [`Event::NotSent`] or [`Event::Failed`].
    ///
    /// No command is ever sent twice: a meter could execute it twice. Of one that goes in general blocks over UDP, blocks
    /// that may be lost are sent again as long as the last has not left; after that only from the one on that an
    /// acknowledgement names by saying that more has arrived than was known, but not all. Over TCP and HDLC, which lose
    /// nothing, no timer has a block sent again, and nothing has once the last has left.
    ///
    /// # Errors
    /// [`Error::State`] unless the association is open and idle, or if it lacks the general protection that ACCESS needs
    /// in a ciphered association; [`Error::TooLong`] if the meter does not receive as much. Nothing was sent, nothing
    /// has changed.
    pub fn request(&mut self, now_ms: u64, command: Command) -> Result<(), Error> {
        let State::Ready { session } = self.state else {
            return Err(Error::State {
                expected: "open and idle",
                found: self.state.name(),
            });
        };
        self.command(session, command)?;
        self.pump(now_ms);
        Ok(())
    }

    /// Releases it. Ends in [`Event::Released`]: any answer, none, or a closed connection will do.
    ///
    /// One that is not open and idle is given up without a word to the meter.
    pub fn release(&mut self, now_ms: u64) {
        match self.state {
            State::Ready { .. } => self.start_release(now_ms, Then::End),
            State::Idle
            | State::Connecting
            | State::ProtectingInitiate { .. }
            | State::AwaitingAare { .. }
            | State::UnprotectingInitiate { .. }
            | State::Answering { .. }
            | State::Verifying { .. }
            | State::Protecting { .. }
            | State::Awaiting { .. }
            | State::ProtectingRelease {
                then: Then::Again, ..
            }
            | State::AwaitingRelease {
                then: Then::Again, ..
            }
            | State::Disconnecting {
                then: Then::Again, ..
            } => self.released(),
            State::ProtectingRelease { .. }
            | State::AwaitingRelease { .. }
            | State::Disconnecting { .. }
            | State::Released
            | State::Failed(_) => {}
        }
        self.pump(now_ms);
    }

    /// Takes octets from the transport: of a stream split and merged as they come, over UDP one datagram.
    pub fn handle_bytes(&mut self, now_ms: u64, octets: &[u8]) {
        if !self.state.is_over() {
            self.link.receive(now_ms, octets);
            self.pump(now_ms);
        }
    }

    /// Takes the result of a cipher job. A result nobody waits for is ignored.
    pub fn handle_cipher(
        &mut self,
        now_ms: u64,
        id: JobId,
        result: Result<CipherOutput, CipherFailure>,
    ) {
        if self.state.job() == Some(id) {
            let state = self.take_state();
            self.on_cipher(now_ms, state, result);
        } else if let Some(inbound) = self.inbound.take_if(|inbound| inbound.job == id) {
            self.on_inbound(now_ms, &inbound, result);
        } else if let Some(confirming) = self.confirming.take_if(|waiting| waiting.job == id) {
            self.on_confirmation(now_ms, &confirming, result);
        } else {
            return;
        }
        self.pump(now_ms);
    }

    /// The time asked for has come.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        self.timer = None;
        if self.state.is_over() {
            return;
        }
        self.link.timeout(now_ms);
        self.drain(now_ms);
        // An answer that is being deciphered has come in time.
        let late = self
            .state
            .deadline()
            .is_some_and(|deadline| now_ms >= deadline);
        if late && self.inbound.is_none() {
            self.expire(now_ms);
        }
        self.repeat_blocks(now_ms);
        self.pump(now_ms);
    }

    /// The transport is closed by the other side, or broken. An answer that is being deciphered still counts.
    pub fn closed(&mut self) {
        self.down.get_or_insert(wire::Down::Closed);
        self.settle();
    }

    /// How long to wait for the answers of the commands that follow, in milliseconds.
    pub const fn set_answer_timeout_ms(&mut self, timeout_ms: u64) {
        self.config.answer_timeout_ms = timeout_ms;
    }

    /// The next thing to be done, until there is none.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Whether a command can be sent now.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// Why it failed, if it did.
    #[must_use]
    pub const fn cause(&self) -> Option<&Cause> {
        if let State::Failed(cause) = &self.state {
            Some(cause)
        } else {
            None
        }
    }

    /// Frames and datagrams that were dropped because they were damaged, or not ours.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.link.dropped()
    }

    fn take_state(&mut self) -> State {
        mem::replace(&mut self.state, State::Idle)
    }

    fn on_cipher(
        &mut self,
        now_ms: u64,
        state: State,
        result: Result<CipherOutput, CipherFailure>,
    ) {
        match state {
            State::ProtectingInitiate { .. } => self.on_initiate_protected(now_ms, result),
            State::UnprotectingInitiate {
                deadline,
                tag,
                grant,
                ..
            } => {
                self.state = State::AwaitingAare { deadline };
                self.on_initiate(now_ms, tag, grant, result);
            }
            State::Answering {
                session, challenge, ..
            } => self.on_token(session, challenge, result),
            State::Verifying { session, .. } => self.on_verified(now_ms, session, result),
            State::Protecting {
                exchange, plain, ..
            } => self.on_protected(now_ms, plain, exchange, result),
            State::ProtectingRelease { then, .. } => {
                self.on_release_protected(now_ms, then, result);
            }
            state @ (State::Idle
            | State::Connecting
            | State::AwaitingAare { .. }
            | State::Awaiting { .. }
            | State::Ready { .. }
            | State::AwaitingRelease { .. }
            | State::Disconnecting { .. }
            | State::Released
            | State::Failed(_)) => self.state = state,
        }
    }
}
