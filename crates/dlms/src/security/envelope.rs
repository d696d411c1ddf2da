//! What an APDU says of its own protection.

use super::ciphered::take_apart;
use super::{
    GENERAL_CIPHERING, GENERAL_DED, GENERAL_GLO, GENERAL_SIGNING, GeneralCiphering, GeneralSigning,
    KeyChoice, KeyInfo, Protection, SecurityControl, SystemTitle, is_ciphered, plain_tag,
};
use crate::agreement::KeyId;
use crate::error::Error;

/// How an APDU is protected, as far as it can be told without a key: what a receiver compares with what he demands before
/// he has anything deciphered, and in which a server answers in kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// The tag of the APDU, of the signed one if it is signed.
    pub tag: u8,
    /// Its form.
    pub protection: Protection,
    /// Its control octet; none if it is plain.
    pub control: Option<SecurityControl>,
    /// Its invocation counter; none if it is plain.
    pub counter: Option<u32>,
    /// Who protected it, if it says so.
    pub originator: Option<SystemTitle>,
    /// For whom, if it says so.
    pub recipient: Option<SystemTitle>,
    /// Whether it is in general-signing.
    pub signed: bool,
}

impl Envelope {
    /// Looks at an APDU. One that is neither ciphered nor signed is plain, whatever it is.
    ///
    /// A title that contradicts that of the signature, a reserved scheme of key agreement and a second signature are
    /// errors: no protection asked for could be met by them.
    ///
    /// # Errors
    /// What is malformed, with its offset.
    pub fn of(apdu: &[u8]) -> Result<Self, Error> {
        if apdu.first() != Some(&GENERAL_SIGNING) {
            return Self::of_unsigned(apdu);
        }
        let signing = GeneralSigning::decode(apdu)?;
        let inner = Self::of_unsigned(&signing.content)?;
        let (originator, recipient) = (signing.header.originator, signing.header.recipient);
        let contradicts = |inner: Option<SystemTitle>, outer| inner.is_some() && inner != outer;
        if inner.tag == GENERAL_SIGNING
            || contradicts(inner.originator, originator)
            || contradicts(inner.recipient, recipient)
        {
            return Err(Error::Unexpected {
                offset: 0,
                expected: "one signature, of the party that ciphered",
                found: inner.tag,
            });
        }
        Ok(Self {
            originator,
            recipient,
            signed: true,
            ..inner
        })
    }

    fn of_unsigned(apdu: &[u8]) -> Result<Self, Error> {
        let plain = Self {
            tag: apdu.first().copied().unwrap_or_default(),
            protection: Protection::Plain,
            control: None,
            counter: None,
            originator: None,
            recipient: None,
            signed: false,
        };
        if plain.tag == GENERAL_CIPHERING {
            let general = GeneralCiphering::decode(apdu)?;
            return Ok(Self {
                protection: Protection::GeneralCiphering(choice(&general)?),
                control: Some(general.control),
                counter: Some(general.counter),
                originator: general.header.originator,
                recipient: general.header.recipient,
                ..plain
            });
        }
        if !is_ciphered(apdu) {
            return Ok(plain);
        }
        let (tag, originator, content) = take_apart(apdu)?;
        Ok(Self {
            protection: match tag {
                GENERAL_GLO => Protection::GeneralGlo,
                GENERAL_DED => Protection::GeneralDed,
                tag if plain_tag(tag).and_then(super::ded_tag) == Some(tag) => Protection::Ded,
                _ => Protection::Glo,
            },
            control: Some(content.control),
            counter: Some(content.counter),
            originator,
            ..plain
        })
    }
}

/// Without key-info it is the key that both know: the global unicast one.
fn choice(general: &GeneralCiphering) -> Result<KeyChoice, Error> {
    let unicast = KeyInfo::Identified(KeyId::GlobalUnicastEncryption);
    let key_info = general.key_info.as_ref().unwrap_or(&unicast);
    key_info.choice().ok_or(Error::Missing {
        offset: 0,
        expected: "a scheme of key agreement (01 one-pass, 02 static)",
    })
}
