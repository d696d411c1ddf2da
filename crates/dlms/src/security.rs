//! Ciphered and signed APDUs, and what goes into AES-GCM and ECDSA (IEC 62056-5-3, security suites 0 to 2). No key and no
//! cipher is here.

mod ciphered;
mod envelope;
mod general;
mod replay;
mod token;

pub use ciphered::Ciphered;
pub use envelope::Envelope;
pub use general::{GeneralCiphering, GeneralHeader, GeneralSigning, KeyInfo};
pub use replay::{Replay, ReplayWindow};
pub use token::GmacToken;

use alloc::vec::Vec;
use core::fmt;

use crate::axdr::{Reader, length_of_length, put_prefixed};
use crate::error::Error;

/// Octets of an authentication tag on the wire.
pub const TAG: usize = 12;
/// Tag octet of general-glo-ciphering.
pub const GENERAL_GLO: u8 = 0xDB;
/// Tag octet of general-ded-ciphering.
pub const GENERAL_DED: u8 = 0xDC;
/// Tag octet of general-ciphering.
pub const GENERAL_CIPHERING: u8 = 0xDD;
/// Tag octet of general-signing.
pub const GENERAL_SIGNING: u8 = 0xDF;

/// The eight octets that name a client or a server in ciphering: three of the manufacturer, five of the device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemTitle([u8; 8]);

impl SystemTitle {
    /// From its octets.
    #[must_use]
    pub const fn new(octets: [u8; 8]) -> Self {
        Self(octets)
    }

    /// From octets, if there are eight.
    #[must_use]
    pub fn from_slice(octets: &[u8]) -> Option<Self> {
        octets.try_into().ok().map(Self)
    }

    /// Its octets.
    #[must_use]
    pub const fn bytes(self) -> [u8; 8] {
        self.0
    }

    /// A title that may be empty.
    fn read_optional(reader: &mut Reader<'_>) -> Result<Option<Self>, Error> {
        if reader.peek() == Some(0) {
            reader.u8()?;
            return Ok(None);
        }
        Self::read(reader).map(Some)
    }

    fn put_optional(title: Option<Self>, out: &mut Vec<u8>) {
        match title {
            Some(title) => put_prefixed(out, &title.0),
            None => out.push(0),
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let offset = reader.offset();
        let octets = reader.prefixed()?;
        Self::from_slice(octets).ok_or(Error::Bounds {
            offset,
            expected: "a system title of 8 octets",
            found: octets.len(),
        })
    }
}

impl fmt::Display for SystemTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02X}"))
    }
}

impl fmt::Debug for SystemTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SystemTitle({self})")
    }
}

/// A security suite: the algorithms and key lengths of an association (IEC 62056-5-3, security suites).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Suite {
    /// 0: AES-GCM-128, AES-128 key wrap; no signatures, no key agreement.
    #[default]
    Suite0,
    /// 1: as 0, with ECDSA and ECDH on P-256 and SHA-256.
    Suite1,
    /// 2: AES-GCM-256, AES-256 key wrap, ECDSA and ECDH on P-384, SHA-384.
    Suite2,
}

impl Suite {
    /// From its id, bits 0..3 of the security control octet.
    #[must_use]
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::Suite0),
            1 => Some(Self::Suite1),
            2 => Some(Self::Suite2),
            _ => None,
        }
    }

    /// Its id.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::Suite0 => 0,
            Self::Suite1 => 1,
            Self::Suite2 => 2,
        }
    }

    /// Octets of its symmetric keys: GUEK, GBEK, GAK, KEK and dedicated key.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Suite0 | Self::Suite1 => 16,
            Self::Suite2 => 32,
        }
    }

    /// Octets of a wrapped key (RFC 3394).
    #[must_use]
    pub const fn wrapped_len(self) -> usize {
        match self {
            Self::Suite0 | Self::Suite1 => 24,
            Self::Suite2 => 40,
        }
    }

    /// Octets of a signature, r and s of the same length; 0 where the suite has none.
    #[must_use]
    pub const fn signature_len(self) -> usize {
        match self {
            Self::Suite0 => 0,
            Self::Suite1 => 64,
            Self::Suite2 => 96,
        }
    }

    /// Octets of a public key, x and y of the same length, without the leading 04; 0 where the suite has none.
    #[must_use]
    pub const fn public_key_len(self) -> usize {
        self.signature_len()
    }
}

/// The security control octet: suite in bits 0..3, A bit 4, E bit 5, broadcast key bit 6, compression bit 7.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecurityControl(u8);

impl SecurityControl {
    /// Suite 0, authentication only: also the control octet of an HLS5 token.
    pub const AUTH: Self = Self(0x10);
    /// Suite 0, encryption only.
    pub const ENC: Self = Self(0x20);
    /// Suite 0, authenticated and encrypted, unicast key: what this crate asks of every ciphered APDU.
    pub const AUTH_ENC: Self = Self(0x30);

    /// From the octet.
    #[must_use]
    pub const fn new(octet: u8) -> Self {
        Self(octet)
    }

    /// Of a suite, authenticated, encrypted, both or neither; unicast key, no compression.
    #[must_use]
    pub const fn of(suite: Suite, authenticated: bool, encrypted: bool) -> Self {
        let a = if authenticated { 0x10 } else { 0 };
        let e = if encrypted { 0x20 } else { 0 };
        Self(suite.id() | a | e)
    }

    /// Its suite; nothing for the ids 3..15, which no suite has.
    #[must_use]
    pub const fn suite(self) -> Option<Suite> {
        Suite::from_id(self.0 & 0x0F)
    }

    /// The octet.
    #[must_use]
    pub const fn octet(self) -> u8 {
        self.0
    }

    /// Whether the APDU carries an authentication tag.
    #[must_use]
    pub const fn is_authenticated(self) -> bool {
        self.0 & 0x10 != 0
    }

    /// Whether the APDU is encrypted.
    #[must_use]
    pub const fn is_encrypted(self) -> bool {
        self.0 & 0x20 != 0
    }

    /// Whether the broadcast key is used instead of the unicast one (bit 6).
    #[must_use]
    pub const fn is_broadcast(self) -> bool {
        self.0 & 0x40 != 0
    }

    /// Whether the plaintext is compressed (bit 7). Nobody here speaks it: such an APDU is refused.
    #[must_use]
    pub const fn is_compressed(self) -> bool {
        self.0 & 0x80 != 0
    }

    /// Why nobody here can take or make an APDU with this octet; nothing if somebody can.
    #[must_use]
    pub const fn unsupported(self) -> Option<&'static str> {
        if self.is_compressed() {
            Some("its plaintext is compressed, which nobody here speaks")
        } else if self.suite().is_none() {
            Some("its security suite is none of 0, 1 and 2")
        } else if !self.is_authenticated() && !self.is_encrypted() {
            Some("it is neither authenticated nor encrypted")
        } else {
            None
        }
    }
}

/// In words: "suite 0, authenticated, encrypted".
impl fmt::Display for SecurityControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "suite {}", self.0 & 0x0F)?;
        let words = [
            (self.is_authenticated(), "authenticated"),
            (self.is_encrypted(), "encrypted"),
            (
                !self.is_authenticated() && !self.is_encrypted(),
                "not protected",
            ),
            (self.is_broadcast(), "broadcast key"),
            (self.is_compressed(), "compressed"),
        ];
        let said = words
            .into_iter()
            .filter_map(|(said, word)| said.then_some(word));
        said.into_iter().try_for_each(|word| write!(f, ", {word}"))
    }
}

impl fmt::Debug for SecurityControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecurityControl({:02X})", self.0)
    }
}

/// Which key a general-ciphering APDU is under, and how its receiver comes to it (IEC 62056-5-3, Key-Info).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyChoice {
    /// A global key that both sides hold, named by its id.
    Identified,
    /// A key made for this APDU, wrapped under the KEK.
    Wrapped,
    /// A key agreed by one-pass Diffie-Hellman, C(1e, 1s): the APDU carries a signed ephemeral public key. Suites 1, 2.
    OnePass,
    /// A key agreed by static unified Diffie-Hellman, C(0e, 2s): the APDU carries nothing but its number. Suites 1, 2.
    Static,
}

/// In which form the APDUs of an association are ciphered. What is done to them (authenticated, encrypted, both) is
/// for [`SecurityControl`] to say, and whether they are signed as well, for [`crate::CipherOp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protection {
    /// Not ciphered.
    Plain,
    /// With the global key and the service-specific global tags.
    Glo,
    /// With the global key, in general-glo-ciphering.
    GeneralGlo,
    /// With the dedicated key and the service-specific dedicated tags.
    Ded,
    /// With the dedicated key, in general-ded-ciphering.
    GeneralDed,
    /// In general-ciphering.
    GeneralCiphering(KeyChoice),
}

impl Protection {
    /// Whether APDUs are ciphered.
    #[must_use]
    pub const fn is_ciphered(self) -> bool {
        !matches!(self, Self::Plain)
    }

    /// Whether they are under the dedicated key.
    #[must_use]
    pub const fn is_dedicated(self) -> bool {
        matches!(self, Self::Ded | Self::GeneralDed)
    }

    /// Whether the form is a general one, that the conformance bit general-protection grants.
    #[must_use]
    pub const fn is_general(self) -> bool {
        matches!(
            self,
            Self::GeneralGlo | Self::GeneralDed | Self::GeneralCiphering(_)
        )
    }

    /// Whether both are the same protection by the same key: the service-specific form of a key and its general form
    /// differ only in how the APDU is packed, and peers are known that answer in the one they like.
    #[must_use]
    pub fn is_as_good_as(self, other: Self) -> bool {
        self == other
            || matches!(
                (self, other),
                (Self::Glo, Self::GeneralGlo)
                    | (Self::GeneralGlo, Self::Glo)
                    | (Self::Ded, Self::GeneralDed)
                    | (Self::GeneralDed, Self::Ded)
            )
    }

    /// The tag that a plaintext APDU with this tag gets; nothing if it is not ciphered or cannot be.
    ///
    /// Initiate APDUs always get their service-specific global tag: every peer expects it inside AARQ and AARE. ACCESS
    /// and data notifications are ciphered in the general forms only.
    #[must_use]
    pub const fn tag(self, plain_tag: u8) -> Option<u8> {
        let glo = glo_tag(plain_tag);
        match (self, glo) {
            (Self::Plain, _) => None,
            (_, Some(0x21 | 0x28 | 0x2E)) | (Self::Glo, _) => glo,
            (Self::Ded, _) => ded_tag(plain_tag),
            // ACCESS and data notifications have general forms only
            (_, None) if !matches!(plain_tag, 0x0F | 0x10 | 0xD9 | 0xDA) => None,
            (Self::GeneralGlo, _) => Some(GENERAL_GLO),
            (Self::GeneralDed, _) => Some(GENERAL_DED),
            (Self::GeneralCiphering(_), _) => Some(GENERAL_CIPHERING),
        }
    }

    /// How many octets the protection adds to an APDU of this length: exactly, for the forms as this crate makes them.
    #[must_use]
    pub fn overhead(self, control: SecurityControl, plain: usize) -> usize {
        let head: usize = match self {
            Self::Plain => return 0,
            Self::Glo | Self::Ded => 1,
            Self::GeneralGlo | Self::GeneralDed => 1 + 9,
            Self::GeneralCiphering(choice) => {
                GENERAL_HEAD.saturating_add(choice.octets(control.suite().unwrap_or_default()))
            }
        };
        let tag = if control.is_authenticated() { TAG } else { 0 };
        // control octet, counter, authentication tag
        let inner = tag.saturating_add(5);
        head.saturating_add(inner)
            .saturating_add(length_of_length(plain.saturating_add(inner)))
    }
}

impl KeyChoice {
    /// Octets of the key-info, with its presence octet.
    const fn octets(self, suite: Suite) -> usize {
        match self {
            Self::Identified => 1 + 1 + 1,
            Self::Wrapped => suite.wrapped_len().saturating_add(1 + 1 + 1 + 1),
            Self::OnePass => {
                let data = suite.public_key_len().saturating_add(suite.signature_len());
                let length: usize = if data < 0x80 { 1 } else { 2 };
                data.saturating_add(length).saturating_add(1 + 1 + 2)
            }
            Self::Static => 1 + 1 + 2 + 1,
        }
    }
}

/// Octets before the key-info of a general APDU as this crate makes it: the tag, a transaction id and two titles of
/// 8 octets each, no date-time and no other information.
const GENERAL_HEAD: usize = 1 + 3 * 9 + 1 + 1;

/// Plaintext tags, and the service-specific global and dedicated tags that stand for them (IEC 62056-5-3, XDLMS-APDU).
const TAGS: [[u8; 3]; 10] = [
    [0x01, 0x21, 0x41], // initiate request
    [0x08, 0x28, 0x48], // initiate response
    [0x0E, 0x2E, 0x4E], // confirmed service error
    [0xC0, 0xC8, 0xD0], // get request
    [0xC1, 0xC9, 0xD1], // set request
    [0xC2, 0xCA, 0xD2], // event notification
    [0xC3, 0xCB, 0xD3], // action request
    [0xC4, 0xCC, 0xD4], // get response
    [0xC5, 0xCD, 0xD5], // set response
    [0xC7, 0xCF, 0xD7], // action response
];

/// The global ciphering tag of a plaintext APDU tag.
#[must_use]
pub const fn glo_tag(plain_tag: u8) -> Option<u8> {
    let mut rest: &[[u8; 3]] = &TAGS;
    while let [[plain, glo, _], tail @ ..] = rest {
        if *plain == plain_tag {
            return Some(*glo);
        }
        rest = tail;
    }
    None
}

/// The dedicated ciphering tag of a plaintext APDU tag.
#[must_use]
pub const fn ded_tag(plain_tag: u8) -> Option<u8> {
    let mut rest: &[[u8; 3]] = &TAGS;
    while let [[plain, _, ded], tail @ ..] = rest {
        if *plain == plain_tag {
            return Some(*ded);
        }
        rest = tail;
    }
    None
}

/// The plaintext APDU tag of a service-specific global or dedicated tag.
#[must_use]
pub const fn plain_tag(tag: u8) -> Option<u8> {
    let mut rest: &[[u8; 3]] = &TAGS;
    while let [[plain, glo, ded], tail @ ..] = rest {
        if *glo == tag || *ded == tag {
            return Some(*plain);
        }
        rest = tail;
    }
    None
}

/// Whether the APDU is ciphered: one that [`Ciphered`] or [`GeneralCiphering`] takes apart.
#[must_use]
pub fn is_ciphered(apdu: &[u8]) -> bool {
    apdu.first().is_some_and(|tag| {
        matches!(*tag, GENERAL_GLO | GENERAL_DED | GENERAL_CIPHERING) || plain_tag(*tag).is_some()
    })
}

/// The GCM nonce: the *sender's* system title, then the invocation counter.
#[must_use]
pub const fn nonce(title: SystemTitle, counter: u32) -> [u8; 12] {
    let [a, b, c, d, e, f, g, h] = title.bytes();
    let [i, j, k, l] = counter.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

/// The additional authenticated data: control octet, AK, and the plaintext where it is authenticated only
/// (an HLS5 token: the challenge). Without authentication there is none. Of general-ciphering:
/// [`GeneralHeader::aad`].
#[must_use]
pub fn aad(control: SecurityControl, ak: &[u8], plaintext_if_auth_only: &[u8]) -> Vec<u8> {
    aad_of(control, ak, &[], plaintext_if_auth_only)
}

fn aad_of(control: SecurityControl, ak: &[u8], header: &[u8], plaintext: &[u8]) -> Vec<u8> {
    // Exactly as large as needed: one that grew would leave a copy of AK behind, which no caller can wipe.
    let room = [1, ak.len(), header.len(), plaintext.len()]
        .into_iter()
        .fold(0, usize::saturating_add);
    let mut out = Vec::with_capacity(room);
    if control.is_authenticated() {
        out.push(control.octet());
        out.extend_from_slice(ak);
        out.extend_from_slice(header);
        if !control.is_encrypted() {
            out.extend_from_slice(plaintext);
        }
    }
    out
}

#[cfg(test)]
mod tests;
