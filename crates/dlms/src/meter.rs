//! The meter role: the responder of an association, as a value.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use crate::cipher::{CipherFailure, CipherJob, CipherOutput, JobId};
use crate::conformance::Conformance;
use crate::error::Error;
use crate::mechanism::Mechanism;
use crate::security::SystemTitle;
use crate::service::{Request, Response};

/// What a meter is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeterConfig {
    /// The logical device's wrapper port.
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

/// A client that a meter knows.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientAccess {
    /// Its wrapper port.
    pub client_sap: u16,
    /// How it must authenticate.
    pub mechanism: Mechanism,
    /// Whether its association must be ciphered (authenticated and encrypted), or must be plain.
    /// Either form of ciphering is taken and answered in kind.
    pub ciphered: bool,
    /// Its password, with mechanism `Low`.
    pub password: Vec<u8>,
}

/// The password is not shown.
impl fmt::Debug for ClientAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAccess")
            .field("client_sap", &self.client_sap)
            .field("mechanism", &self.mechanism)
            .field("ciphered", &self.ciphered)
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
}

/// Frames may hold clear APDUs: only their length is shown.
impl fmt::Debug for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transmit(frame) => write!(f, "Transmit({} octets)", frame.len()),
            Self::Cipher(job) => f.debug_tuple("Cipher").field(job).finish(),
            Self::Ask(request) => f.debug_tuple("Ask").field(request).finish(),
            Self::Event(event) => f.debug_tuple("Event").field(event).finish(),
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
    /// An association was refused, or dropped at pass 3.
    Refused {
        /// The client's wrapper port.
        client_sap: u16,
        /// Why.
        why: &'static str,
    },
    /// A ciphered APDU was not taken.
    NotDeciphered(CipherFailure),
    /// The association was released by its client.
    Released,
    /// The octets on this connection are not DLMS. Close it.
    Failed(Error),
}

/// The responder of one connection.
#[derive(Debug)]
pub struct Meter {
    config: MeterConfig,
    challenge: Vec<u8>,
    effects: VecDeque<Effect>,
}

impl Meter {
    /// A meter at the end of a fresh connection. `challenge`: see [`Self::refill`].
    #[must_use]
    pub fn new(config: MeterConfig, challenge: Vec<u8>) -> Self {
        Self {
            config,
            challenge,
            effects: VecDeque::new(),
        }
    }

    /// Gives it the challenge StoC for the next association: 8..64 octets, random, never used before (16 keeps an AARE
    /// below 128 octets, which some clients need). It is used once; call this before octets are handed in.
    pub fn refill(&mut self, challenge: Vec<u8>) {
        self.challenge = challenge;
    }

    /// Takes octets from the transport, split and merged as they come.
    pub fn handle_bytes(&mut self, octets: &[u8]) {
        let _ = (octets, &self.config, &self.challenge);
    }

    /// Takes the result of a cipher job. A result nobody waits for is ignored.
    pub fn handle_cipher(&mut self, id: JobId, result: Result<CipherOutput, CipherFailure>) {
        let _ = (id, result);
    }

    /// Answers what was asked last. The invoke id is set here; a long GET answer is sent in blocks.
    ///
    /// # Errors
    /// [`Error::State`] if nothing is asked.
    pub fn answer(&mut self, response: Response) -> Result<(), Error> {
        let _ = response;
        Ok(())
    }

    /// The next thing to be done, until there is none.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}
