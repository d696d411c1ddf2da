//! The client role: an association with a meter, as a value.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use crate::cause::Cause;
use crate::cipher::{CipherFailure, CipherJob, CipherOutput, JobId};
use crate::conformance::Conformance;
use crate::error::Error;
use crate::mechanism::Mechanism;
use crate::security::{Protection, SystemTitle};
use crate::service::{Command, Response};

/// What an association is to be like.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// The client's wrapper port: 16 is the public client.
    pub client_sap: u16,
    /// The logical device's wrapper port: 1 is the management device.
    pub server_sap: u16,
    /// How the parties authenticate each other.
    pub mechanism: Mechanism,
    /// How APDUs are protected.
    pub protection: Protection,
    /// The client's system title. Required with ciphering or HLS.
    pub client_title: Option<SystemTitle>,
    /// The meter's system title, if it is known: an AARE with another is refused.
    pub expected_server_title: Option<SystemTitle>,
    /// The password of `Low` (up to 64 octets), the challenge CtoS of HLS (8..64 octets, random, never used before),
    /// nothing with `None`.
    pub authentication_value: Vec<u8>,
    /// The longest APDU the client receives, ciphering included; 0 means no limit.
    pub max_pdu: u16,
    /// Proposed services. General protection is added where `protection` needs it.
    pub conformance: Conformance,
    /// How long to wait for each answer, in milliseconds.
    pub answer_timeout_ms: u64,
}

/// The authentication value may be a password: it is not shown.
impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("client_sap", &self.client_sap)
            .field("server_sap", &self.server_sap)
            .field("mechanism", &self.mechanism)
            .field("protection", &self.protection)
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

/// An association of the client role.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    effects: VecDeque<Effect>,
}

impl Client {
    /// An association that is not open yet.
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        Self {
            config,
            effects: VecDeque::new(),
        }
    }

    /// Opens it: the transport is connected. Ends in [`Event::Opened`] or [`Event::Failed`].
    pub fn open(&mut self, now_ms: u64) {
        let _ = (now_ms, &self.config);
    }

    /// Sends a command. Ends in [`Event::Answered`], [`Event::NotSent`] or [`Event::Failed`].
    ///
    /// # Errors
    /// [`Error::State`] unless the association is open and idle; [`Error::TooLong`] if the meter does not receive as
    /// much. Nothing was sent, nothing has changed.
    pub fn request(&mut self, now_ms: u64, command: Command) -> Result<(), Error> {
        let _ = (now_ms, command);
        Ok(())
    }

    /// Releases it. Ends in [`Event::Released`]: any answer, none, or a closed connection will do.
    pub fn release(&mut self, now_ms: u64) {
        let _ = now_ms;
    }

    /// Takes octets from the transport, split and merged as they come.
    pub fn handle_bytes(&mut self, now_ms: u64, octets: &[u8]) {
        let _ = (now_ms, octets);
    }

    /// Takes the result of a cipher job. A result nobody waits for is ignored.
    pub fn handle_cipher(
        &mut self,
        now_ms: u64,
        id: JobId,
        result: Result<CipherOutput, CipherFailure>,
    ) {
        let _ = (now_ms, id, result);
    }

    /// The time asked for has come.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        let _ = now_ms;
    }

    /// The transport is closed by the other side, or broken.
    pub fn closed(&mut self) {}

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
        false
    }
}
