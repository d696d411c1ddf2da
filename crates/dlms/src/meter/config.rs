//! What a meter is like, and what its clients must do to be served.

use alloc::vec::Vec;
use core::fmt;

use crate::conformance::Conformance;
use crate::link::LinkConfig;
use crate::mechanism::Mechanism;
use crate::security::{Protection, SecurityControl, SystemTitle};
use crate::terms::Terms;

/// What a meter is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeterConfig {
    /// How APDUs travel.
    pub link: LinkConfig,
    /// The logical device's wrapper port, or upper HDLC address.
    pub server_sap: u16,
    /// The meter's system title.
    pub server_title: SystemTitle,
    /// Its certificate, DER, for the responding-AE-qualifier of an AARE with high-level security: for clients that do not
    /// hold it.
    pub certificate: Option<Vec<u8>>,
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
            certificate: None,
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

    /// The terms of an association with, or without, ciphering; nothing if it may have none. Of several forms the first.
    pub(super) fn terms(&self, ciphered: bool) -> Option<Terms> {
        let form = self
            .forms
            .iter()
            .find(|form| form.is_ciphered() == ciphered)?;
        Some(Terms {
            form: *form,
            control: self.control,
            signed: self.signed,
        })
    }

    /// Whether it may choose its dedicated key.
    pub(super) fn is_dedicated(&self) -> bool {
        self.forms.iter().any(|form| form.is_dedicated())
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
