//! ACSE APDUs: how an association is asked for, granted and released (IEC 62056-5-3, ISO/IEC 8650-1).
//!
//! Written as the standard says (lengths above 127 in long form); read with tolerance for what real peers add:
//! elements this crate has no use for are skipped, but a known element that is malformed is refused.

mod aare;
mod aarq;
mod release;

pub use aare::{Aare, AssociationResult, Diagnostic};
pub use aarq::Aarq;
pub use release::{Rlre, Rlrq};

use alloc::vec::Vec;

use crate::axdr::{Reader, length_of_length, put_length, put_prefixed};
use crate::error::Error;

/// sender- or responder-acse-requirements: BIT STRING with the bit "authentication".
const REQUIREMENTS: [u8; 2] = [0x07, 0x80];

/// Room for an APDU without a certificate.
const USUAL: usize = 160;

/// Whether an APDU with this first octet is one of ACSE.
pub(crate) const fn is_tag(tag: u8) -> bool {
    matches!(tag, 0x60..=0x63)
}

fn put(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    put_prefixed(out, content);
}

/// An element that holds one other element.
fn put_nested(out: &mut Vec<u8>, tag: u8, inner_tag: u8, content: &[u8]) {
    let inner = length_of_length(content.len()).saturating_add(content.len());
    out.push(tag);
    put_length(out, inner.saturating_add(1));
    put(out, inner_tag, content);
}

/// The content of the one element in `outer`.
fn nested<'a>(
    outer: &mut Reader<'a>,
    tag: u8,
    expected: &'static str,
) -> Result<Reader<'a>, Error> {
    outer.tag(tag, expected)?;
    let inner = outer.nested()?;
    outer.finish()?;
    Ok(inner)
}

/// A whole APDU: its tag, its length, its content.
fn envelope<'a>(octets: &'a [u8], tag: u8, expected: &'static str) -> Result<Reader<'a>, Error> {
    nested(&mut Reader::new(octets), tag, expected)
}

fn octets(mut reader: Reader<'_>) -> Vec<u8> {
    reader.rest().to_vec()
}

/// The beginning of an APDU: its tag. Its content goes behind it.
fn begin(tag: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(USUAL);
    out.push(tag);
    out
}

/// Puts the length between the tag and the content.
fn seal(mut out: Vec<u8>) -> Vec<u8> {
    let content = out.len().saturating_sub(1);
    if let Ok(short @ 0..=0x7F) = u8::try_from(content) {
        out.insert(1.min(out.len()), short);
        return out;
    }
    let mut length = Vec::new();
    put_length(&mut length, content);
    out.splice(1..1, length);
    out
}
