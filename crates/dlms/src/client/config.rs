//! What an association of the client role is to be like.

use alloc::vec::Vec;
use core::fmt;

use crate::cause::Cause;
use crate::conformance::Conformance;
use crate::link::LinkConfig;
use crate::mechanism::{CHALLENGE_MAX, Mechanism};
use crate::security::{KeyChoice, Protection, SecurityControl, SystemTitle};
use crate::terms::Terms;

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
    /// The longest APDU, ciphering included, that one frame of the link carries; 0 means not known. A longer command goes
    /// in blocks, even if the meter receives more: a network that cuts packets up loses what has one fragment missing.
    pub frame: u16,
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
            frame: 0,
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

impl ClientConfig {
    pub(super) const fn terms(&self) -> Terms {
        Terms {
            form: self.protection,
            control: self.control,
            signed: self.signed,
        }
    }

    /// Whether system titles matter: they are in nonces, signatures and the tokens of HLS 5 to 7.
    pub(super) const fn is_titled(&self) -> bool {
        self.terms().protects()
            || matches!(
                self.mechanism,
                Mechanism::HlsGmac | Mechanism::HlsSha256 | Mechanism::HlsEcdsa
            )
    }

    /// The services to propose.
    pub(super) fn proposed(&self) -> Conformance {
        if self.protection.is_general() || self.signed {
            self.conformance | Conformance::GENERAL_PROTECTION
        } else {
            self.conformance
        }
    }

    /// Whether an association of this kind can be opened at all.
    pub(super) fn check(&self) -> Result<(), Cause> {
        if !self.mechanism.is_supported() {
            return Err(Cause::Unsupported(self.mechanism));
        }
        self.wrong().map_or(Ok(()), |why| Err(Cause::Config(why)))
    }

    fn wrong(&self) -> Option<&'static str> {
        if self.protection.is_ciphered()
            && let Some(why) = self.control.unsupported()
        {
            return Some(why);
        }
        let signs = self
            .control
            .suite()
            .map_or(0, |suite| suite.signature_len())
            > 0;
        let agrees = matches!(
            self.protection,
            Protection::GeneralCiphering(KeyChoice::OnePass | KeyChoice::Static)
        );
        if !signs && (self.signed || agrees || self.mechanism == Mechanism::HlsEcdsa) {
            return Some("signatures, key agreement and HLS with ECDSA need suite 1 or 2");
        }
        if self.is_titled() && self.client_title.is_none() {
            return Some("ciphering, signatures and HLS 5 to 7 need the client's system title");
        }
        let length = self.authentication_value.len();
        if self.mechanism.is_high_level() {
            let lengths = self.mechanism.challenge_min()..=CHALLENGE_MAX;
            (!lengths.contains(&length))
                .then_some("HLS needs a challenge of 8..64 octets, with ECDSA of 32..64")
        } else if self.mechanism == Mechanism::Low {
            (length > CHALLENGE_MAX).then_some("a password has at most 64 octets")
        } else {
            (length > 0).then_some("without authentication there is no authentication value")
        }
    }
}
