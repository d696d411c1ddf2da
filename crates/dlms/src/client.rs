//! The client role: an association with a meter, as a value.

mod exchange;
mod open;
mod state;

pub use exchange::MAX_ANSWER;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::{fmt, mem};

use crate::acse::Rlrq;
use crate::cause::{Awaiting, Cause};
use crate::cipher::{CipherFailure, CipherJob, CipherOp, CipherOutput, JobId};
use crate::conformance::Conformance;
use crate::error::Error;
use crate::link::{Link, LinkConfig, LinkEffect};
use crate::mechanism::Mechanism;
use crate::security::{Ciphered, Protection, SecurityControl, SystemTitle};
use crate::service::{Command, Response};
use crate::wrapper::Frame;

use state::{Exchange, Kind, Purpose, State};

/// What an association is to be like. [`ClientConfig::default`] is the public client over TCP.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// How APDUs travel.
    pub link: LinkConfig,
    /// The client's wrapper port, or HDLC address: 16 is the public client.
    pub client_sap: u16,
    /// The logical device's wrapper port, or upper HDLC address: 1 is the management device.
    pub server_sap: u16,
    /// How the parties authenticate each other.
    pub mechanism: Mechanism,
    /// In which form APDUs are ciphered.
    pub protection: Protection,
    /// Suite, authentication and encryption of every ciphered APDU, in both directions. Without ciphering only its
    /// suite counts: that of HLS 5 and 7, and of signatures.
    pub control: SecurityControl,
    /// Whether every APDU after the AARE is signed as well, in both directions. Suites 1 and 2.
    pub signed: bool,
    /// The client's system title. Required with ciphering, signatures and HLS 5 to 7.
    pub client_title: Option<SystemTitle>,
    /// The meter's system title, if it is known: an AARE with another is refused.
    pub expected_server_title: Option<SystemTitle>,
    /// The password of `Low` (up to 64 octets), the challenge CtoS of HLS (8..64 octets, 32..64 with HLS 7, random,
    /// never used before), nothing with `None`.
    pub authentication_value: Vec<u8>,
    /// The client's certificate, DER, for the calling-AE-qualifier: for meters that do not hold it. It makes the AARQ
    /// long, some 600 octets.
    pub certificate: Option<Vec<u8>>,
    /// The longest APDU the client receives, ciphering included; 0 means no limit.
    pub max_pdu: u16,
    /// Proposed services. General protection is added where `protection` or `signed` needs it.
    pub conformance: Conformance,
    /// How long to wait for each answer, in milliseconds.
    pub answer_timeout_ms: u64,
    /// Whether the meter knows RLRQ. Without it a release says nothing to the meter above the link.
    pub release: bool,
    /// Whether to release an association that the meter still holds (RLRQ; with HDLC also DISC), and to ask once more,
    /// if it answers the AARQ with an exception-response that says "not now".
    pub recover: bool,
}

/// The public client (SAP 16) of the management device over TCP: no authentication, no ciphering, what a reset needs,
/// APDUs up to 1024 octets, 10 s for each answer.
impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            link: LinkConfig::Tcp,
            client_sap: 16,
            server_sap: 1,
            mechanism: Mechanism::None,
            protection: Protection::Plain,
            control: SecurityControl::AUTH_ENC,
            signed: false,
            client_title: None,
            expected_server_title: None,
            authentication_value: Vec::new(),
            certificate: None,
            max_pdu: 1024,
            conformance: Conformance::RESET,
            answer_timeout_ms: 10_000,
            release: true,
            recover: false,
        }
    }
}

/// The authentication value may be a password: it is not shown.
impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("link", &self.link)
            .field("client_sap", &self.client_sap)
            .field("server_sap", &self.server_sap)
            .field("mechanism", &self.mechanism)
            .field("protection", &self.protection)
            .field("control", &self.control)
            .field("signed", &self.signed)
            .finish_non_exhaustive()
    }
}

/// What the association wants done.
#[derive(Clone, PartialEq)]
pub enum Effect {
    /// Write these octets (one wrapper frame) to the transport.
    Transmit(Vec<u8>),
    /// Do this, then call [`Client::handle_cipher`].
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
    /// The answer of the command: `GetData` (also of a value that came in blocks), `GetError`, `Set` or `Action`;
    /// in a plain association also `Exception`. The association is open for the next command.
    Answered(Response),
    /// The holder of the keys did not cipher the command: nothing was sent, and the association is still open.
    NotSent(CipherFailure),
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
    /// The transport is closed; what was received before may still be deciphered.
    closed: bool,
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
            config,
            state: State::Idle,
            link,
            effects: VecDeque::new(),
            next_job: JobId::FIRST,
            closed: false,
        }
    }

    /// Opens it: the transport is connected. Ends in [`Event::Opened`] or [`Event::Failed`].
    ///
    /// An association can be opened once; another call does nothing.
    pub fn open(&mut self, now_ms: u64) {
        if matches!(self.state, State::Idle) {
            self.link.connect(now_ms);
            self.state = self.start(now_ms);
            self.drain();
        }
    }

    /// Sends a command. Ends in [`Event::Answered`], [`Event::NotSent`] or [`Event::Failed`].
    ///
    /// # Errors
    /// [`Error::State`] unless the association is open and idle; [`Error::TooLong`] if the meter does not receive as
    /// much. Nothing was sent, nothing has changed.
    pub fn request(&mut self, now_ms: u64, command: Command) -> Result<(), Error> {
        let State::Ready { mut session } = self.state else {
            return Err(Error::State {
                expected: "open and idle",
                found: self.state.name(),
            });
        };
        let invoke = session.invoke;
        let kind = Kind::of(&command).ok_or(Error::State {
            expected: "asked for one attribute or method",
            found: "asked for several",
        })?;
        let apdu = command.with(invoke).encode();
        self.check_length(&session, apdu.len())?;
        session.invoke = invoke.next();
        let purpose = Purpose::Command { kind, blocks: None };
        self.state = self.send(
            now_ms,
            Exchange {
                session,
                invoke,
                purpose,
            },
            apdu,
        );
        Ok(())
    }

    /// Releases it. Ends in [`Event::Released`]: any answer, none, or a closed connection will do.
    ///
    /// One that is not open and idle is given up without a word to the meter.
    pub fn release(&mut self, now_ms: u64) {
        self.state = match mem::replace(&mut self.state, State::Idle) {
            State::Ready { .. } => self.start_release(now_ms),
            State::Idle
            | State::ProtectingInitiate { .. }
            | State::AwaitingAare { .. }
            | State::UnprotectingInitiate { .. }
            | State::Answering { .. }
            | State::Verifying { .. }
            | State::Protecting { .. }
            | State::Awaiting { .. }
            | State::Unprotecting { .. } => self.released(),
            over @ (State::ProtectingRelease { .. }
            | State::AwaitingRelease { .. }
            | State::Released
            | State::Failed(_)) => over,
        };
    }

    /// Takes octets from the transport, split and merged as they come.
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
            let state = mem::replace(&mut self.state, State::Idle);
            self.state = self.on_cipher(now_ms, state, result);
            self.pump(now_ms);
        }
    }

    /// The time asked for has come.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        let awaiting = self.state.awaiting();
        self.state = match mem::replace(&mut self.state, State::Idle) {
            State::AwaitingAare { deadline } | State::Awaiting { deadline, .. }
                if now_ms >= deadline =>
            {
                self.fail(Cause::TimedOut { awaiting })
            }
            State::AwaitingRelease { deadline } if now_ms >= deadline => self.released(),
            state @ (State::Idle
            | State::ProtectingInitiate { .. }
            | State::AwaitingAare { .. }
            | State::UnprotectingInitiate { .. }
            | State::Answering { .. }
            | State::Verifying { .. }
            | State::Protecting { .. }
            | State::Awaiting { .. }
            | State::Unprotecting { .. }
            | State::Ready { .. }
            | State::ProtectingRelease { .. }
            | State::AwaitingRelease { .. }
            | State::Released
            | State::Failed(_)) => state,
        };
    }

    /// The transport is closed by the other side, or broken. An answer that is being deciphered still counts.
    pub fn closed(&mut self) {
        self.closed = true;
        self.settle_closed();
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

    /// Takes the frames that have come, one by one, as far as the state allows.
    fn pump(&mut self, now_ms: u64) {
        // While an answer is being deciphered the next frame waits: it is the answer if this one proves to be a replay.
        while !self.state.is_over() && !self.state.is_unprotecting() {
            match self.link.take() {
                Some(frame) => self.on_frame(now_ms, frame),
                None => break,
            }
        }
        self.drain();
        self.settle_closed();
    }

    fn drain(&mut self) {
        while let Some(effect) = self.link.poll() {
            match effect {
                LinkEffect::Transmit(octets) => self.effects.push_back(Effect::Transmit(octets)),
                LinkEffect::Failed(error) => {
                    if !self.state.is_over() {
                        self.state = self.fail(Cause::Malformed(error));
                    }
                }
                LinkEffect::Connected | LinkEffect::Disconnected => {}
            }
        }
    }

    /// A frame between other ports is not ours. One that comes when none is due is late or a duplicate: dropped.
    fn on_frame(&mut self, now_ms: u64, frame: Frame) {
        if (frame.source, frame.destination) != (self.config.server_sap, self.config.client_sap) {
            return;
        }
        self.state = match mem::replace(&mut self.state, State::Idle) {
            State::AwaitingAare { .. } => self.on_aare(&frame.apdu),
            State::Awaiting { deadline, exchange } => {
                self.on_apdu(now_ms, deadline, exchange, frame.apdu)
            }
            State::AwaitingRelease { .. } => self.released(),
            state @ (State::Idle
            | State::ProtectingInitiate { .. }
            | State::UnprotectingInitiate { .. }
            | State::Answering { .. }
            | State::Verifying { .. }
            | State::Protecting { .. }
            | State::Unprotecting { .. }
            | State::Ready { .. }
            | State::ProtectingRelease { .. }
            | State::Released
            | State::Failed(_)) => state,
        };
    }

    fn on_cipher(
        &mut self,
        now_ms: u64,
        state: State,
        result: Result<CipherOutput, CipherFailure>,
    ) -> State {
        match state {
            State::ProtectingInitiate { .. } => self.on_initiate_protected(now_ms, result),
            State::UnprotectingInitiate { tag, grant, .. } => self.on_initiate(tag, grant, result),
            State::Answering { session, .. } => self.on_token(now_ms, session, result),
            State::Verifying { session, .. } => self.on_verified(session, result),
            State::Protecting { exchange, tag, .. } => {
                self.on_protected(now_ms, tag, exchange, result)
            }
            State::Unprotecting {
                deadline,
                tag,
                exchange,
                ..
            } => self.on_unprotected(now_ms, deadline, tag, exchange, result),
            State::ProtectingRelease { .. } => self.on_release_protected(now_ms, result),
            state @ (State::Idle
            | State::AwaitingAare { .. }
            | State::Awaiting { .. }
            | State::Ready { .. }
            | State::AwaitingRelease { .. }
            | State::Released
            | State::Failed(_)) => state,
        }
    }

    /// Ends a closed association as soon as nothing that was received is left to decipher.
    fn settle_closed(&mut self) {
        if !self.closed || self.state.is_over() || self.state.is_unprotecting() {
            return;
        }
        let awaiting = self.state.awaiting();
        let ciphered = self.config.protection.is_ciphered();
        self.state = if self.state.is_releasing() {
            self.released()
        } else {
            self.fail(Cause::Closed { awaiting, ciphered })
        };
    }

    fn start_release(&mut self, now_ms: u64) -> State {
        if self.config.protection.is_ciphered() {
            // Meters refuse a plain RLRQ in a ciphered association.
            let job = self.protect(self.initiate_request());
            State::ProtectingRelease { job }
        } else {
            self.transmit_release(now_ms, None)
        }
    }

    fn on_release_protected(
        &mut self,
        now_ms: u64,
        result: Result<CipherOutput, CipherFailure>,
    ) -> State {
        match self.protected(Awaiting::Nothing, 0x01, result) {
            Ok(apdu) => self.transmit_release(now_ms, Some(apdu)),
            // Without keys nothing can be said to the meter any more: it sees the connection close.
            Err(_) => self.released(),
        }
    }

    fn transmit_release(&mut self, now_ms: u64, user_information: Option<Vec<u8>>) -> State {
        let rlrq = Rlrq {
            reason: Some(0),
            user_information,
        };
        match self.transmit(rlrq.encode()) {
            Ok(()) => State::AwaitingRelease {
                deadline: self.arm(now_ms),
            },
            Err(_) => self.released(),
        }
    }

    fn released(&mut self) -> State {
        self.effects.push_back(Effect::Event(Event::Released));
        State::Released
    }

    fn fail(&mut self, cause: Cause) -> State {
        self.effects
            .push_back(Effect::Event(Event::Failed(cause.clone())));
        State::Failed(cause)
    }

    fn job(&mut self, op: CipherOp) -> JobId {
        let id = self.next_job;
        self.next_job = id.next();
        self.effects.push_back(Effect::Cipher(CipherJob { id, op }));
        id
    }

    fn protect(&mut self, apdu: Vec<u8>) -> JobId {
        let protection = self.config.protection;
        self.job(CipherOp::Protect {
            apdu,
            protection,
            control: SecurityControl::AUTH_ENC,
            signed: false,
        })
    }

    /// The APDU of a `Protect` job, if it is ciphered as asked: a clear one must not leave by mistake.
    fn protected(
        &self,
        during: Awaiting,
        plain_tag: u8,
        result: Result<CipherOutput, CipherFailure>,
    ) -> Result<Vec<u8>, Cause> {
        let output = result.map_err(|failure| Cause::Cipher { during, failure })?;
        let bad = Cause::BadCipherOutput {
            expected: "the APDU ciphered as asked",
        };
        let CipherOutput::Apdu(apdu, _) = output else {
            return Err(bad);
        };
        let due = self.config.protection.tag(plain_tag);
        let ours = |title| self.config.client_title == Some(title);
        match Ciphered::decode(&apdu) {
            Ok(ciphered)
                if Some(ciphered.tag) == due
                    && ciphered.control == SecurityControl::AUTH_ENC
                    && ciphered.title.is_none_or(ours) =>
            {
                Ok(apdu)
            }
            Ok(_) | Err(_) => Err(bad),
        }
    }

    fn transmit(&mut self, apdu: Vec<u8>) -> Result<(), Cause> {
        let frame = Frame {
            source: self.config.client_sap,
            destination: self.config.server_sap,
            apdu,
        };
        self.link.send(0, &frame)?;
        self.drain();
        Ok(())
    }

    fn arm(&mut self, now_ms: u64) -> u64 {
        let deadline = now_ms.saturating_add(self.config.answer_timeout_ms);
        self.effects.push_back(Effect::Timer(deadline));
        deadline
    }
}
