//! General-ciphering and general-signing: APDUs that say by whom and for whom they are protected, and with which key.
//!
//! Every field is an octet-string, and both its length and its value are under the tag or the signature: an empty one
//! counts as the octet 00 (IEC 62056-5-3, general-ciphering and general-signing).

use alloc::vec::Vec;

use super::ciphered::Content;
use super::{
    GENERAL_CIPHERING, GENERAL_SIGNING, KeyChoice, SecurityControl, Suite, SystemTitle, aad_of,
};
use crate::agreement::KeyId;
use crate::axdr::{Reader, length_of_length, put_length, put_prefixed};
use crate::error::Error;

/// What a general APDU says before its content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GeneralHeader {
    /// Numbers the transaction. An answer repeats that of its request. This crate's own are of 8 octets.
    pub transaction_id: Vec<u8>,
    /// Who applied the protection: the nonce begins with this title.
    pub originator: Option<SystemTitle>,
    /// Who is to remove it.
    pub recipient: Option<SystemTitle>,
    /// When, a date-time of 12 octets; empty if it is not said.
    pub date_time: Vec<u8>,
    /// What the parties have agreed on; empty as a rule.
    pub other_info: Vec<u8>,
}

impl GeneralHeader {
    /// From one party to another, in a numbered transaction, with nothing else said.
    #[must_use]
    pub fn between(originator: SystemTitle, recipient: SystemTitle, transaction: u64) -> Self {
        Self {
            transaction_id: transaction.to_be_bytes().to_vec(),
            originator: Some(originator),
            recipient: Some(recipient),
            date_time: Vec::new(),
            other_info: Vec::new(),
        }
    }

    /// The additional authenticated data of general-ciphering: control octet, AK, the header, and the plaintext where it
    /// is authenticated only. Without authentication there is none. The key-info is not in it.
    #[must_use]
    pub fn aad(
        &self,
        control: SecurityControl,
        ak: &[u8],
        plaintext_if_auth_only: &[u8],
    ) -> Vec<u8> {
        aad_of(control, ak, &self.octets(), plaintext_if_auth_only)
    }

    /// Its octets, as they stand in the APDU after the tag.
    #[must_use]
    pub fn octets(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48);
        self.put(&mut out);
        out
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            transaction_id: reader.prefixed()?.to_vec(),
            originator: SystemTitle::read_optional(reader)?,
            recipient: SystemTitle::read_optional(reader)?,
            date_time: reader.prefixed()?.to_vec(),
            other_info: reader.prefixed()?.to_vec(),
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_prefixed(out, &self.transaction_id);
        SystemTitle::put_optional(self.originator, out);
        SystemTitle::put_optional(self.recipient, out);
        put_prefixed(out, &self.date_time);
        put_prefixed(out, &self.other_info);
    }
}

/// Which key a general-ciphering APDU is under, with what its receiver needs to come to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyInfo {
    /// One that both hold: the global unicast or the global broadcast encryption key.
    Identified(KeyId),
    /// One that comes with the APDU, wrapped (RFC 3394) under the master key.
    Wrapped(Vec<u8>),
    /// One that is agreed.
    Agreed {
        /// The scheme: [`Self::ONE_PASS`] or [`Self::STATIC`]; others are reserved.
        parameters: Vec<u8>,
        /// One-pass: the ephemeral public key of the originator and his signature over it. Static: nothing.
        data: Vec<u8>,
    },
}

impl KeyInfo {
    /// Key parameters of C(1e, 1s).
    pub const ONE_PASS: u8 = 1;
    /// Key parameters of C(0e, 2s).
    pub const STATIC: u8 = 2;

    /// A key agreed in one pass: `data` is [`crate::agreement::SignedKey::encode`].
    #[must_use]
    pub fn one_pass(data: Vec<u8>) -> Self {
        Self::Agreed {
            parameters: Vec::from([Self::ONE_PASS]),
            data,
        }
    }

    /// A key agreed of static keys alone.
    #[must_use]
    pub fn of_static() -> Self {
        Self::Agreed {
            parameters: Vec::from([Self::STATIC]),
            data: Vec::new(),
        }
    }

    /// Which of the choices it is; nothing for a reserved scheme.
    #[must_use]
    pub fn choice(&self) -> Option<KeyChoice> {
        match self {
            Self::Identified(_) => Some(KeyChoice::Identified),
            Self::Wrapped(_) => Some(KeyChoice::Wrapped),
            Self::Agreed { parameters, .. } => match parameters.as_slice() {
                [Self::ONE_PASS] => Some(KeyChoice::OnePass),
                [Self::STATIC] => Some(KeyChoice::Static),
                _ => None,
            },
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, Error> {
        // not under the tag: taken in one way only
        if reader.peek() == Some(0) {
            reader.u8()?;
            return Ok(None);
        }
        reader.tag(1, "whether there is key-info (00 or 01)")?;
        let offset = reader.offset();
        Ok(Some(match reader.u8()? {
            0 => Self::Identified(KeyId::read_identified(reader)?),
            1 => {
                reader.tag(0, "the id of the master key (00)")?;
                Self::Wrapped(reader.prefixed()?.to_vec())
            }
            2 => Self::Agreed {
                parameters: reader.prefixed()?.to_vec(),
                data: reader.prefixed()?.to_vec(),
            },
            found => {
                return Err(Error::Unexpected {
                    offset,
                    expected: "a choice of key-info (00 identified, 01 wrapped, 02 agreed)",
                    found,
                });
            }
        }))
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Identified(key) => out.extend_from_slice(&[1, 0, key.id()]),
            Self::Wrapped(key) => {
                out.extend_from_slice(&[1, 1, 0]);
                put_prefixed(out, key);
            }
            Self::Agreed { parameters, data } => {
                out.extend_from_slice(&[1, 2]);
                put_prefixed(out, parameters);
                put_prefixed(out, data);
            }
        }
    }
}

/// A general-ciphering APDU, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneralCiphering {
    /// Parties and transaction.
    pub header: GeneralHeader,
    /// The key; absent if the parties know it without.
    pub key_info: Option<KeyInfo>,
    /// What protects it. The bit of the broadcast key is not used here: the key-info says which key it is.
    pub control: SecurityControl,
    /// The invocation counter.
    pub counter: u32,
    /// As in [`super::Ciphered::body`].
    pub body: Vec<u8>,
}

impl GeneralCiphering {
    /// Takes an APDU apart.
    ///
    /// # Errors
    /// What is malformed, with its offset.
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(octets);
        reader.tag(GENERAL_CIPHERING, "the tag of general-ciphering (DD)")?;
        let header = GeneralHeader::read(&mut reader)?;
        let key_info = KeyInfo::read(&mut reader)?;
        let Content {
            control,
            counter,
            body,
        } = Content::read(&mut reader)?;
        reader.finish()?;
        Ok(Self {
            header,
            key_info,
            control,
            counter,
            body: body.to_vec(),
        })
    }

    /// Puts it together.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len().saturating_add(64));
        out.push(GENERAL_CIPHERING);
        self.header.put(&mut out);
        match &self.key_info {
            Some(key_info) => key_info.put(&mut out),
            None => out.push(0),
        }
        Content::of(self.control, self.counter, &self.body).put(&mut out);
        out
    }

    /// Its additional authenticated data: see [`GeneralHeader::aad`].
    #[must_use]
    pub fn aad(&self, ak: &[u8], plaintext_if_auth_only: &[u8]) -> Vec<u8> {
        self.header.aad(self.control, ak, plaintext_if_auth_only)
    }
}

/// A general-signing APDU, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneralSigning {
    /// Parties and transaction.
    pub header: GeneralHeader,
    /// The APDU that is signed, plain or ciphered.
    pub content: Vec<u8>,
    /// r and s, 64 or 96 octets.
    pub signature: Vec<u8>,
}

impl GeneralSigning {
    /// Takes an APDU apart.
    ///
    /// # Errors
    /// What is malformed, with its offset.
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(octets);
        reader.tag(GENERAL_SIGNING, "the tag of general-signing (DF)")?;
        let signing = Self {
            header: GeneralHeader::read(&mut reader)?,
            content: reader.prefixed()?.to_vec(),
            signature: reader.prefixed()?.to_vec(),
        };
        reader.finish()?;
        Ok(signing)
    }

    /// Puts it together.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.content.len().saturating_add(192));
        out.push(GENERAL_SIGNING);
        out.extend_from_slice(&self.signing_input());
        put_prefixed(&mut out, &self.signature);
        out
    }

    /// What is hashed and signed: every field before the signature, lengths included, without the tag.
    #[must_use]
    pub fn signing_input(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.content.len().saturating_add(48));
        self.header.put(&mut out);
        put_length(&mut out, self.content.len());
        out.extend_from_slice(&self.content);
        out
    }

    /// How many octets signing adds to an APDU of this length, with a header as [`GeneralHeader::between`] makes it.
    /// The suite must have signatures.
    #[must_use]
    pub fn overhead(suite: Suite, content: usize) -> usize {
        let signature = suite.signature_len();
        super::GENERAL_HEAD
            .saturating_add(length_of_length(content))
            .saturating_add(length_of_length(signature))
            .saturating_add(signature)
    }
}
