//! Ciphered APDUs and what goes into AES-GCM (IEC 62056-5-3, security suites 0 to 2). No key and no cipher is here.

use alloc::vec::Vec;
use core::fmt;

use crate::axdr::{Reader, length_of_length, put_length};
use crate::error::Error;

/// Octets of an authentication tag on the wire.
pub const TAG: usize = 12;
/// Tag octet of general-glo-ciphering.
pub const GENERAL_GLO: u8 = 0xDB;

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
}

impl fmt::Debug for SecurityControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecurityControl({:02X})", self.0)
    }
}

/// How the APDUs of an association are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protection {
    /// Not ciphered.
    Plain,
    /// Authenticated and encrypted, with the service-specific global tags.
    Glo,
    /// Authenticated and encrypted, in general-glo-ciphering.
    GeneralGlo,
}

impl Protection {
    /// Whether APDUs are ciphered.
    #[must_use]
    pub const fn is_ciphered(self) -> bool {
        match self {
            Self::Plain => false,
            Self::Glo | Self::GeneralGlo => true,
        }
    }

    /// The tag that a plaintext APDU with this tag gets; nothing if it is not ciphered or cannot be.
    ///
    /// Initiate APDUs always get their service-specific tag: every peer expects it inside AARQ and AARE.
    #[must_use]
    pub const fn tag(self, plain_tag: u8) -> Option<u8> {
        match (self, glo_tag(plain_tag)) {
            (Self::Plain, _) | (_, None) => None,
            (Self::Glo, Some(glo)) => Some(glo),
            (Self::GeneralGlo, Some(glo)) => match glo {
                0x21 | 0x28 | 0x2E => Some(glo),
                _ => Some(GENERAL_GLO),
            },
        }
    }

    /// How many octets the protection adds to an APDU of this length, at most.
    #[must_use]
    pub fn overhead(self, plain: usize) -> usize {
        // tag, length, control, counter, authentication tag; the general form also has the title and its length
        let fixed: usize = match self {
            Self::Plain => return 0,
            Self::Glo => 1 + 1 + 4 + TAG,
            Self::GeneralGlo => 1 + 9 + 1 + 4 + TAG,
        };
        fixed.saturating_add(length_of_length(plain.saturating_add(5 + TAG)))
    }
}

/// A ciphered APDU, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ciphered {
    /// The tag: a service-specific global one, or [`GENERAL_GLO`].
    pub tag: u8,
    /// The sender's system title; only general-glo-ciphering has it, and there it may be empty.
    pub title: Option<SystemTitle>,
    /// What protects it.
    pub control: SecurityControl,
    /// The invocation counter.
    pub counter: u32,
    /// Ciphertext, then the authentication tag of 12 octets (what control says is there).
    pub body: Vec<u8>,
}

impl Ciphered {
    /// Takes an APDU apart. That the tag fits is the cipher's business, not known here.
    ///
    /// # Errors
    /// What is malformed, with its offset.
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(octets);
        let tag = reader.u8()?;
        let title = if tag == GENERAL_GLO {
            if reader.peek() == Some(0) {
                reader.u8()?;
                None
            } else {
                Some(SystemTitle::read(&mut reader)?)
            }
        } else if plain_tag(tag).is_some() {
            None
        } else {
            return Err(Error::Unexpected {
                offset: 0,
                expected: "a global ciphering tag (21 28 2E C8..CF, DB)",
                found: tag,
            });
        };
        let mut inner = reader.nested()?;
        reader.finish()?;
        let control = SecurityControl(inner.u8()?);
        let counter = inner.u32()?;
        let shortest = if control.is_authenticated() { TAG } else { 0 };
        if inner.left() < shortest {
            return Err(Error::Truncated {
                offset: inner.offset(),
                needed: shortest,
                found: inner.left(),
            });
        }
        let body = inner.rest().to_vec();
        Ok(Self {
            tag,
            title,
            control,
            counter,
            body,
        })
    }

    /// Puts it together.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len().saturating_add(20));
        out.push(self.tag);
        if self.tag == GENERAL_GLO {
            match self.title {
                Some(title) => {
                    out.push(8);
                    out.extend_from_slice(&title.bytes());
                }
                None => out.push(0),
            }
        }
        put_length(&mut out, self.body.len().saturating_add(5));
        out.push(self.control.octet());
        out.extend_from_slice(&self.counter.to_be_bytes());
        out.extend_from_slice(&self.body);
        out
    }
}

/// Service-specific global tags and the plaintext tags they stand for (IEC 62056-5-3, XDLMS-APDU).
const TAGS: [(u8, u8); 11] = [
    (0x01, 0x21), // initiate request
    (0x08, 0x28), // initiate response
    (0x0E, 0x2E), // confirmed service error
    (0xC0, 0xC8), // get request
    (0xC1, 0xC9), // set request
    (0xC2, 0xCA), // event notification
    (0xC3, 0xCB), // action request
    (0xC4, 0xCC), // get response
    (0xC5, 0xCD), // set response
    (0xC7, 0xCF), // action response
    (0x00, 0x00), // ends the search
];

/// The global ciphering tag of a plaintext APDU tag.
#[must_use]
pub const fn glo_tag(plain_tag: u8) -> Option<u8> {
    let mut rest: &[(u8, u8)] = &TAGS;
    while let [(plain, glo), tail @ ..] = rest {
        if *plain == plain_tag && *glo != 0 {
            return Some(*glo);
        }
        rest = tail;
    }
    None
}

/// The plaintext APDU tag of a service-specific global tag.
#[must_use]
pub const fn plain_tag(glo_tag: u8) -> Option<u8> {
    let mut rest: &[(u8, u8)] = &TAGS;
    while let [(plain, glo), tail @ ..] = rest {
        if *glo == glo_tag && *glo != 0 {
            return Some(*plain);
        }
        rest = tail;
    }
    None
}

/// Whether the APDU is one that [`Ciphered`] takes apart.
#[must_use]
pub fn is_ciphered(apdu: &[u8]) -> bool {
    apdu.first()
        .is_some_and(|tag| *tag == GENERAL_GLO || plain_tag(*tag).is_some())
}

/// The GCM nonce: the *sender's* system title, then the invocation counter.
#[must_use]
pub const fn nonce(title: SystemTitle, counter: u32) -> [u8; 12] {
    let [a, b, c, d, e, f, g, h] = title.bytes();
    let [i, j, k, l] = counter.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

/// The additional authenticated data: control octet, AK, and the plaintext where it is authenticated only
/// (an HLS5 token: the challenge). Without authentication there is none.
#[must_use]
pub fn aad(control: SecurityControl, ak: &[u8], plaintext_if_auth_only: &[u8]) -> Vec<u8> {
    // Exactly as large as needed: one that grew would leave a copy of AK behind, which no caller can wipe.
    let room = ak
        .len()
        .saturating_add(plaintext_if_auth_only.len())
        .saturating_add(1);
    let mut out = Vec::with_capacity(room);
    if control.is_authenticated() {
        out.push(control.octet());
        out.extend_from_slice(ak);
        if !control.is_encrypted() {
            out.extend_from_slice(plaintext_if_auth_only);
        }
    }
    out
}

/// An HLS5 token, SC || IC || T (17 octets).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GmacToken {
    /// A bit and suite: 0x10 | suite.
    pub control: SecurityControl,
    /// The sender's invocation counter.
    pub counter: u32,
    /// The GMAC, 12 octets.
    pub tag: [u8; TAG],
}

impl GmacToken {
    /// Takes a token apart.
    ///
    /// # Errors
    /// Another length than 17 octets, or a control octet that is not suite 0, authentication only.
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(octets);
        reader.tag(
            SecurityControl::AUTH.octet(),
            "an HLS5 control octet of suite 0 (10)",
        )?;
        let token = Self {
            control: SecurityControl::AUTH,
            counter: reader.u32()?,
            tag: reader.array()?,
        };
        reader.finish()?;
        Ok(token)
    }

    /// Puts it together.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(5 + TAG);
        out.push(self.control.octet());
        out.extend_from_slice(&self.counter.to_be_bytes());
        out.extend_from_slice(&self.tag);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn tags_go_there_and_back() {
        for plain in 0..=u8::MAX {
            if let Some(glo) = glo_tag(plain) {
                assert_eq!(plain_tag(glo), Some(plain));
            }
        }
        assert_eq!(glo_tag(0), None);
        assert_eq!(plain_tag(0), None);
        assert_eq!(glo_tag(0xC7), Some(0xCF));
        assert_eq!(Protection::GeneralGlo.tag(0xC0), Some(GENERAL_GLO));
        for (plain, glo) in [(0x01, 0x21), (0x08, 0x28), (0x0E, 0x2E)] {
            assert_eq!(Protection::GeneralGlo.tag(plain), Some(glo));
        }
        assert_eq!(Protection::Plain.tag(0xC0), None);
        assert_eq!(Protection::Glo.tag(0xD8), None);
    }

    #[test]
    fn overhead_is_what_encoding_adds() {
        for (protection, tag, title) in [
            (Protection::Glo, 0xC8, None),
            (
                Protection::GeneralGlo,
                GENERAL_GLO,
                Some(SystemTitle::new([1; 8])),
            ),
        ] {
            for plain in [0, 1, 110, 111, 238, 239, 1000, 65_000] {
                let ciphered = Ciphered {
                    tag,
                    title,
                    control: SecurityControl::AUTH_ENC,
                    counter: 1,
                    body: vec![0; plain + TAG],
                };
                assert_eq!(
                    ciphered.encode().len(),
                    plain + protection.overhead(plain),
                    "{plain}"
                );
            }
        }
    }

    #[test]
    fn associated_data_never_moves() {
        for control in [SecurityControl::AUTH, SecurityControl::AUTH_ENC] {
            let data = aad(control, &[7; 16], &[8; 64]);
            assert_eq!(
                (data.capacity(), data.first()),
                (1 + 16 + 64, Some(&control.octet())),
                "its room is what it began with"
            );
        }
    }

    #[test]
    fn malformed_ciphered_apdus_are_named() {
        assert!(matches!(
            Ciphered::decode(&[0xC0, 0]),
            Err(Error::Unexpected { offset: 0, .. })
        ));
        assert!(matches!(
            Ciphered::decode(&[0xC8, 3, 0x30, 0, 0]),
            Err(Error::Truncated { offset: 3, .. })
        ));
        assert!(matches!(
            Ciphered::decode(&[0xC8, 6, 0x30, 0, 0, 0, 1, 9]),
            Err(Error::Truncated { offset: 7, .. })
        ));
        assert!(matches!(
            Ciphered::decode(&[0xDB, 7, 1, 2, 3, 4, 5, 6, 7, 5]),
            Err(Error::Bounds {
                offset: 1,
                found: 7,
                ..
            })
        ));
        assert!(GmacToken::decode(&[0x11; 17]).is_err());
        assert!(GmacToken::decode(&[0x10; 18]).is_err());
    }
}
