//! The meter role: the responder of an association, as a value.

mod answer;
mod blocks;
mod config;
mod notify;
mod open;
mod release;
mod seen;
mod serve;
mod state;
mod wire;

pub use config::{ClientAccess, MeterConfig};

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::{fmt, mem};

use crate::cipher::{CipherFailure, CipherJob, CipherOutput, JobId};
use crate::error::Error;
use crate::general::General;
use crate::link::Link;
use crate::mechanism::Mechanism;
use crate::security::SystemTitle;
use crate::service::{Confirmation, Notification, Request, Response};

use seen::Seen;
use state::State;

/// What the meter wants done.
#[derive(Clone, PartialEq)]
pub enum Effect {
    /// Write these octets to the transport: one frame of the wrapper (over UDP one datagram), or one of HDLC.
    Transmit(Vec<u8>),
    /// Do this, then call [`Meter::handle_cipher`]. Jobs are to be done in the order they come in.
    Cipher(CipherJob),
    /// Serve this, then call [`Meter::answer`]. It is whole: blocks were joined before, and are never asked here.
    Ask(Request),
    /// Tell whoever owns the meter.
    Event(Event),
    /// Call [`Meter::handle_timeout`] at this time, in the milliseconds of `now_ms`. Replaces the one before; a call
    /// that comes early or late does no harm.
    Timer(u64),
}

/// Frames may hold clear APDUs: only their length is shown.
impl fmt::Debug for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transmit(frame) => write!(f, "Transmit({} octets)", frame.len()),
            Self::Cipher(job) => f.debug_tuple("Cipher").field(job).finish(),
            Self::Ask(request) => f.debug_tuple("Ask").field(request).finish(),
            Self::Event(event) => f.debug_tuple("Event").field(event).finish(),
            Self::Timer(deadline) => write!(f, "Timer({deadline})"),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An association is open and, with HLS, both sides are authenticated.
    Opened {
        /// The client's wrapper port, or HDLC address.
        client_sap: u16,
        /// The client's system title.
        client_title: Option<SystemTitle>,
        /// How it authenticated.
        mechanism: Mechanism,
    },
    /// An association was refused, or dropped: at pass 3, or because an answer could not be ciphered.
    Refused {
        /// The client's wrapper port, or HDLC address.
        client_sap: u16,
        /// Why.
        why: &'static str,
    },
    /// A ciphered APDU was not taken; the client was told by an exception, but for a replay over UDP, which may be the
    /// network's.
    NotDeciphered(CipherFailure),
    /// The client confirmed a notification.
    Confirmed(Confirmation),
    /// The association was released by its client, or its client has set up the link anew.
    Released,
    /// The octets on this connection are not DLMS. Close it.
    Failed(Error),
}

/// The responder of one connection: at most one association at a time.
pub struct Meter {
    config: MeterConfig,
    challenge: Vec<u8>,
    state: State,
    link: Link,
    effects: VecDeque<Effect>,
    next_job: JobId,
    general: General,
    /// A notification that is being ciphered.
    notice: Option<notify::Notice>,
    /// What came before: over UDP it may come again.
    seen: Seen,
    /// The certificate of the client's last AARQ.
    certificate: Option<Vec<u8>>,
    /// The time that was asked for last.
    timer: Option<u64>,
}

/// States hold challenges and values in clear: only the name is shown.
impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Meter({})", self.state.name())
    }
}

impl Meter {
    /// A meter at the end of a fresh connection. `challenge`: see [`Self::refill`].
    #[must_use]
    pub fn new(config: MeterConfig, challenge: Vec<u8>) -> Self {
        let link = Link::meter(&config.link, config.server_sap, config.max_pdu);
        Self {
            general: General::new(&config.link),
            config,
            challenge,
            state: State::Idle,
            link,
            effects: VecDeque::new(),
            next_job: JobId::FIRST,
            notice: None,
            seen: Seen::default(),
            certificate: None,
            timer: None,
        }
    }

    /// Gives it the challenge StoC for the next association: 8..64 octets, 32..64 if a client authenticates with HLS 7,
    /// random, never used before (16 keeps an AARE below 128 octets, which some clients need). It is used once: call
    /// this after every event.
    pub fn refill(&mut self, challenge: Vec<u8>) {
        self.challenge = challenge;
    }

    /// Takes octets from the transport: of a stream split and merged as they come, over UDP one datagram.
    pub fn handle_bytes(&mut self, now_ms: u64, octets: &[u8]) {
        if !matches!(self.state, State::Failed) {
            self.link.receive(now_ms, octets);
            if self.state.takes_frames() {
                self.seen.fresh();
            }
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
        } else if let Some(notice) = self.notice.take_if(|notice| notice.job == id) {
            self.on_notice(notice, result);
        } else {
            return;
        }
        self.pump(now_ms);
    }

    /// The time asked for has come.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        self.timer = None;
        self.link.timeout(now_ms);
        self.pump(now_ms);
    }

    /// Answers what was asked last, in the form that was asked. The invoke id is set here; a long answer is sent in
    /// blocks, as far as the client takes such blocks, and is else replaced by an exception.
    ///
    /// # Errors
    /// [`Error::State`] if nothing is asked, or another service is, or another number of objects.
    pub fn answer(&mut self, now_ms: u64, response: Response) -> Result<(), Error> {
        let expected = "waiting for this answer";
        let State::Asked(asked) = &self.state else {
            let found = self.state.name();
            return Err(Error::State { expected, found });
        };
        if !asked.is_answered_by(&response) {
            let found = "waiting for that of another service";
            return Err(Error::State { expected, found });
        }
        self.on_served(now_ms, response);
        self.pump(now_ms);
        Ok(())
    }

    /// Tells the client something that it did not ask for, in the form of its last request; [`Event::Confirmed`] comes
    /// later if it was asked for. Over HDLC it waits until the client polls.
    ///
    /// # Errors
    /// [`Error::State`] unless an association is open, if another notification is still being ciphered, or if the
    /// client has not the service, or not the general protection that it needs; [`Error::TooLong`] if the client does
    /// not receive as much in one APDU. Nothing was sent.
    pub fn notify(&mut self, now_ms: u64, notification: &Notification) -> Result<(), Error> {
        self.tell(now_ms, notification)?;
        self.pump(now_ms);
        Ok(())
    }

    /// The next thing to be done, until there is none.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The certificate, DER, that the client's last AARQ brought: it proves nothing until it is verified.
    #[must_use]
    pub fn client_certificate(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
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
            State::UnprotectingInitiate { tag, opening, .. } => {
                self.on_initiate(now_ms, tag, opening, result);
            }
            State::ProtectingInitiate { opening, .. } => {
                self.on_initiate_protected(now_ms, opening, result);
            }
            State::Unprotecting {
                tag,
                session,
                phase,
                ..
            } => self.on_unprotected(now_ms, tag, (session, phase), result),
            State::Verifying {
                session,
                invoke,
                challenges,
                ..
            } => self.on_verified(now_ms, session, invoke, (challenges, result)),
            State::Answering {
                session, invoke, ..
            } => self.on_token(now_ms, session, invoke, result),
            State::Protecting {
                tag,
                session,
                after,
                ..
            } => self.on_protected(now_ms, tag, session, (after, result)),
            State::UnprotectingRelease {
                tag,
                session,
                phase,
                ..
            } => self.on_release_unprotected(now_ms, tag, (session, phase), result),
            State::ProtectingRelease { session, .. } => {
                self.on_release_protected(now_ms, session, result);
            }
            state @ (State::Idle | State::Associated { .. } | State::Asked(_) | State::Failed) => {
                self.state = state
            }
        }
    }
}
