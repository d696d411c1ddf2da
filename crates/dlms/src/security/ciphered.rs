//! Ciphered APDUs whose key both sides hold: glo-, ded-, general-glo- and general-ded-ciphering.

use alloc::vec::Vec;

use super::{GENERAL_DED, GENERAL_GLO, SecurityControl, SystemTitle, TAG, plain_tag};
use crate::axdr::{Reader, put_length};
use crate::error::Error;

/// A ciphered APDU, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ciphered {
    /// The tag: a service-specific global or dedicated one, [`GENERAL_GLO`] or [`GENERAL_DED`].
    pub tag: u8,
    /// The sender's system title; only the general forms have it, and there it may be empty.
    pub title: Option<SystemTitle>,
    /// What protects it.
    pub control: SecurityControl,
    /// The invocation counter.
    pub counter: u32,
    /// Ciphertext (or plaintext, if it is authenticated only), then the authentication tag of 12 octets, if control says
    /// that there is one.
    pub body: Vec<u8>,
}

impl Ciphered {
    /// Takes an APDU apart. That the tag fits is the cipher's business, not known here.
    ///
    /// # Errors
    /// What is malformed, with its offset.
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let (tag, title, content) = take_apart(octets)?;
        let Content {
            control,
            counter,
            body,
        } = content;
        Ok(Self {
            tag,
            title,
            control,
            counter,
            body: body.to_vec(),
        })
    }

    /// Puts it together.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len().saturating_add(20));
        out.push(self.tag);
        if matches!(self.tag, GENERAL_GLO | GENERAL_DED) {
            SystemTitle::put_optional(self.title, &mut out);
        }
        Content::of(self.control, self.counter, &self.body).put(&mut out);
        out
    }
}

/// Tag, title and content, without copying any of it.
pub(super) fn take_apart(octets: &[u8]) -> Result<(u8, Option<SystemTitle>, Content<'_>), Error> {
    let mut reader = Reader::new(octets);
    let tag = reader.u8()?;
    let title = if matches!(tag, GENERAL_GLO | GENERAL_DED) {
        SystemTitle::read_optional(&mut reader)?
    } else if plain_tag(tag).is_some() {
        None
    } else {
        return Err(Error::Unexpected {
            offset: 0,
            expected: "a ciphering tag (21 28 2E C8..CF D0..D7 DB DC)",
            found: tag,
        });
    };
    let content = Content::read(&mut reader)?;
    reader.finish()?;
    Ok((tag, title, content))
}

/// The ciphered content, which is the same in every form: control octet, counter, body.
pub(super) struct Content<'a> {
    pub(super) control: SecurityControl,
    pub(super) counter: u32,
    pub(super) body: &'a [u8],
}

impl<'a> Content<'a> {
    pub(super) const fn of(control: SecurityControl, counter: u32, body: &'a [u8]) -> Self {
        Self {
            control,
            counter,
            body,
        }
    }

    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, Error> {
        let mut inner = reader.nested()?;
        let control = SecurityControl::new(inner.u8()?);
        let counter = inner.u32()?;
        let shortest = if control.is_authenticated() { TAG } else { 0 };
        if inner.left() < shortest {
            return Err(Error::Truncated {
                offset: inner.offset(),
                needed: shortest,
                found: inner.left(),
            });
        }
        Ok(Self::of(control, counter, inner.rest()))
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_length(out, self.body.len().saturating_add(5));
        out.push(self.control.octet());
        out.extend_from_slice(&self.counter.to_be_bytes());
        out.extend_from_slice(self.body);
    }
}
