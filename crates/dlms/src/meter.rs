//! The meter role: the responder of an association, as a value.

mod open;
mod serve;
mod state;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::{fmt, mem};

use crate::cipher::{CipherFailure, CipherJob, CipherOp, CipherOutput, JobId};
use crate::conformance::Conformance;
use crate::error::Error;
use crate::link::{Link, LinkConfig, LinkEffect};
use crate::mechanism::Mechanism;
use crate::security::{Protection, SecurityControl, SystemTitle};
use crate::service::{Exception, Request, Response};
use crate::wrapper::Frame;
use state::State;

/// What a meter is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeterConfig {
    /// How APDUs travel.
    pub link: LinkConfig,
    /// The logical device's wrapper port, or upper HDLC address.
    pub server_sap: u16,
    /// The meter's system title.
    pub server_title: SystemTitle,
    /// The clients it knows.
    pub clients: Vec<ClientAccess>,
    /// The longest APDU the meter receives, ciphering included; 0 means no limit.
    pub max_pdu: u16,
    /// The services it has.
    pub conformance: Conformance,
}

impl MeterConfig {
    /// The management device (SAP 1) over TCP, with what a reset needs, for APDUs up to 1024 octets.
    #[must_use]
    pub const fn new(server_title: SystemTitle, clients: Vec<ClientAccess>) -> Self {
        Self {
            link: LinkConfig::Tcp,
            server_sap: 1,
            server_title,
            clients,
            max_pdu: 1024,
            conformance: Conformance::RESET,
        }
    }
}

/// A client that a meter knows, and what it must do to be served.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientAccess {
    /// Its wrapper port, or HDLC address.
    pub client_sap: u16,
    /// How it must authenticate.
    pub mechanism: Mechanism,
    /// Its password, with mechanism `Low`.
    pub password: Vec<u8>,
    /// The forms its APDUs may have; each is answered in kind. [`Protection::Plain`] among them allows associations
    /// without ciphering, any other those with ciphering.
    pub forms: Vec<Protection>,
    /// Suite, authentication and encryption of every ciphered APDU, in both directions; the suite of HLS 5 and 7.
    pub control: SecurityControl,
    /// Whether every APDU after the AARE must be signed; so is every answer.
    pub signed: bool,
}

impl ClientAccess {
    /// A client without ciphering. `password`: see the field.
    #[must_use]
    pub fn plain(client_sap: u16, mechanism: Mechanism, password: Vec<u8>) -> Self {
        Self {
            client_sap,
            mechanism,
            password,
            forms: Vec::from([Protection::Plain]),
            control: SecurityControl::AUTH_ENC,
            signed: false,
        }
    }

    /// A client that must cipher: glo or general-glo, suite 0, authenticated and encrypted.
    #[must_use]
    pub fn ciphered(client_sap: u16, mechanism: Mechanism, password: Vec<u8>) -> Self {
        Self {
            forms: Vec::from([Protection::Glo, Protection::GeneralGlo]),
            ..Self::plain(client_sap, mechanism, password)
        }
    }

    /// Whether it may have an association with, or without, ciphering.
    pub(crate) fn allows(&self, ciphered: bool) -> bool {
        self.forms.iter().any(|form| form.is_ciphered() == ciphered)
    }
}

/// The password is not shown.
impl fmt::Debug for ClientAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAccess")
            .field("client_sap", &self.client_sap)
            .field("mechanism", &self.mechanism)
            .field("forms", &self.forms)
            .field("control", &self.control)
            .field("signed", &self.signed)
            .finish_non_exhaustive()
    }
}

/// What the meter wants done.
#[derive(Clone, PartialEq)]
pub enum Effect {
    /// Write these octets (one wrapper frame) to the transport.
    Transmit(Vec<u8>),
    /// Do this, then call [`Meter::handle_cipher`].
    Cipher(CipherJob),
    /// Serve this (never a `GetNext`), then call [`Meter::answer`].
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
        /// The client's wrapper port.
        client_sap: u16,
        /// The client's system title.
        client_title: Option<SystemTitle>,
        /// How it authenticated.
        mechanism: Mechanism,
    },
    /// An association was refused, or dropped: at pass 3, or because an answer could not be ciphered.
    Refused {
        /// The client's wrapper port.
        client_sap: u16,
        /// Why.
        why: &'static str,
    },
    /// A ciphered APDU was not taken; the client was told by an exception.
    NotDeciphered(CipherFailure),
    /// The association was released by its client.
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
            config,
            challenge,
            state: State::Idle,
            link,
            effects: VecDeque::new(),
            next_job: JobId::FIRST,
        }
    }

    /// Gives it the challenge StoC for the next association: 8..64 octets, random, never used before (16 keeps an AARE
    /// below 128 octets, which some clients need). It is used once: call this after every event.
    pub fn refill(&mut self, challenge: Vec<u8>) {
        self.challenge = challenge;
    }

    /// Takes octets from the transport, split and merged as they come.
    pub fn handle_bytes(&mut self, now_ms: u64, octets: &[u8]) {
        if !matches!(self.state, State::Failed) {
            self.link.receive(now_ms, octets);
            self.pump();
        }
    }

    /// Takes the result of a cipher job. A result nobody waits for is ignored.
    pub fn handle_cipher(
        &mut self,
        _now_ms: u64,
        id: JobId,
        result: Result<CipherOutput, CipherFailure>,
    ) {
        if self.state.job() == Some(id) {
            let state = mem::replace(&mut self.state, State::Idle);
            self.state = self.on_cipher(state, result);
            self.pump();
        }
    }

    /// Answers what was asked last. The invoke id is set here; a long GET answer is sent in blocks.
    ///
    /// # Errors
    /// [`Error::State`] if nothing is asked, or another service is.
    pub fn answer(&mut self, _now_ms: u64, response: Response) -> Result<(), Error> {
        let State::Asked {
            session,
            protection,
            invoke,
            kind,
        } = &self.state
        else {
            return Err(Error::State {
                expected: "waiting for this answer",
                found: self.state.name(),
            });
        };
        if !kind.is_answered_by(&response) {
            return Err(Error::State {
                expected: "waiting for this answer",
                found: "waiting for that of another service",
            });
        }
        let (session, protection, invoke) = (*session, *protection, *invoke);
        self.state = self.on_served(session, protection, invoke, response);
        self.pump();
        Ok(())
    }

    /// The next thing to be done, until there is none.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Takes frames while nothing is under way: requests are served one by one.
    fn pump(&mut self) {
        while self.state.takes_frames() {
            match self.link.take() {
                Some(frame) => self.on_frame(&frame),
                None => break,
            }
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(effect) = self.link.poll() {
            match effect {
                LinkEffect::Transmit(octets) => self.effects.push_back(Effect::Transmit(octets)),
                LinkEffect::Failed(error) => {
                    self.effects.push_back(Effect::Event(Event::Failed(error)));
                    self.state = State::Failed;
                }
                LinkEffect::Connected | LinkEffect::Disconnected => {}
            }
        }
    }

    /// The time asked for by [`Effect::Timer`] has come. A call that comes early or late does no harm.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        self.link.timeout(now_ms);
        self.pump();
    }

    fn on_frame(&mut self, frame: &Frame) {
        if frame.destination != self.config.server_sap {
            return;
        }
        let state = mem::replace(&mut self.state, State::Idle);
        let sap = frame.source;
        self.state = match (frame.apdu.first(), state) {
            // A client that lost its association asks for a new one: the old one ends here.
            (Some(0x60), _) => self.on_aarq(sap, &frame.apdu),
            (Some(0x62), State::Associated { session, phase }) if session.client_sap == sap => {
                self.on_rlrq(session, phase, &frame.apdu)
            }
            (_, State::Associated { session, phase }) if session.client_sap == sap => {
                self.on_request(session, phase, &frame.apdu)
            }
            (_, state) => {
                self.except(sap, Exception::NOT_POSSIBLE);
                state
            }
        };
    }

    fn on_cipher(&mut self, state: State, result: Result<CipherOutput, CipherFailure>) -> State {
        match state {
            State::UnprotectingInitiate { tag, opening, .. } => {
                self.on_initiate(tag, opening, result)
            }
            State::ProtectingInitiate {
                opening, session, ..
            } => self.on_initiate_protected(opening, session, result),
            State::Unprotecting {
                tag,
                session,
                phase,
                ..
            } => self.on_unprotected(tag, session, phase, result),
            State::Verifying {
                session,
                protection,
                invoke,
                client_challenge,
                ..
            } => self.on_verified(session, protection, invoke, client_challenge, result),
            State::Answering {
                session,
                protection,
                invoke,
                ..
            } => self.on_token(session, protection, invoke, result),
            State::Protecting { session, after, .. } => self.on_protected(session, after, result),
            State::UnprotectingRelease {
                tag,
                session,
                phase,
                ..
            } => self.on_release_unprotected(tag, session, phase, result),
            State::ProtectingRelease { client_sap, .. } => {
                self.on_release_protected(client_sap, result)
            }
            state @ (State::Idle
            | State::Associated { .. }
            | State::Asked { .. }
            | State::Failed) => state,
        }
    }

    /// Tells the client why a ciphered APDU was not taken, as the standard says: never ciphered.
    fn not_deciphered(&mut self, client_sap: u16, failure: CipherFailure) {
        self.effects
            .push_back(Effect::Event(Event::NotDeciphered(failure)));
        let exception = match failure {
            CipherFailure::Replay { expected } => Exception::invocation_counter(expected),
            CipherFailure::AuthFailed => Exception::DECIPHERING,
            CipherFailure::Refused | CipherFailure::Unavailable => Exception::OTHER_REASON,
        };
        self.except(client_sap, exception);
    }

    /// The keys failed us: the executor knows why, the client sees silence.
    fn not_ciphered(&mut self, client_sap: u16) -> State {
        self.refused(client_sap, "an answer could not be ciphered")
    }

    fn refused(&mut self, client_sap: u16, why: &'static str) -> State {
        self.effects
            .push_back(Effect::Event(Event::Refused { client_sap, why }));
        State::Idle
    }

    fn except(&mut self, client_sap: u16, exception: Exception) {
        self.transmit(client_sap, Response::Exception(exception).encode());
    }

    fn job(&mut self, op: CipherOp) -> JobId {
        let id = self.next_job;
        self.next_job = id.next();
        self.effects.push_back(Effect::Cipher(CipherJob { id, op }));
        id
    }

    fn protect(&mut self, apdu: Vec<u8>, protection: Protection) -> JobId {
        self.job(CipherOp::Protect {
            apdu,
            protection,
            control: SecurityControl::AUTH_ENC,
            signed: false,
        })
    }

    /// An answer never exceeds what the client receives; one that would not fit a frame is replaced by an exception.
    fn transmit(&mut self, client_sap: u16, apdu: Vec<u8>) {
        let frame = |apdu| Frame {
            source: self.config.server_sap,
            destination: client_sap,
            apdu,
        };
        let too_long = || Response::Exception(Exception::TOO_LONG).encode();
        if self.link.send(0, &frame(apdu)).is_err() {
            self.link.send(0, &frame(too_long())).ok();
        }
        self.drain();
    }
}
