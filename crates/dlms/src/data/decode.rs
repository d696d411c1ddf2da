//! Octets into values.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use super::{CompactArray, Data, MAX_DEPTH, MAX_ELEMENTS};
use crate::axdr::Reader;
use crate::error::Error;

impl Data {
    /// Decodes the next value and leaves what follows.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Budget::default().value(reader, MAX_DEPTH)
    }
}

/// What one value may still spend: a meter cannot make us build more than it sends, nor recurse.
pub(super) struct Budget {
    pub(super) elements: usize,
    /// What is said when it is spent.
    expected: &'static str,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            elements: MAX_ELEMENTS,
            expected: "at most 65536 elements",
        }
    }
}

impl Budget {
    /// For the contents of a compact array, whose elements need not take an octet each.
    pub(super) fn of_contents(&self, octets: usize) -> Self {
        let allowed = octets.saturating_mul(2);
        if allowed < self.elements {
            Self {
                elements: allowed,
                expected: "at most two elements for each octet of a compact array",
            }
        } else {
            Self { ..*self }
        }
    }

    pub(super) fn spend(&mut self, offset: usize) -> Result<(), Error> {
        self.spend_all(offset, 1)
    }

    pub(super) fn spend_all(&mut self, offset: usize, elements: usize) -> Result<(), Error> {
        self.elements = self.elements.checked_sub(elements).ok_or(Error::Bounds {
            offset,
            expected: self.expected,
            found: MAX_ELEMENTS.saturating_add(1),
        })?;
        Ok(())
    }

    pub(super) fn value(&mut self, reader: &mut Reader<'_>, depth: usize) -> Result<Data, Error> {
        let offset = reader.offset();
        self.spend(offset)?;
        match reader.u8()? {
            1 => self.elements(reader, depth).map(Data::Array),
            2 => self.elements(reader, depth).map(Data::Structure),
            19 => CompactArray::read(self, reader, below(depth, offset)?)
                .map(|array| Data::CompactArray(Box::new(array))),
            tag => leaf(reader, tag, offset),
        }
    }

    fn elements(&mut self, reader: &mut Reader<'_>, depth: usize) -> Result<Vec<Data>, Error> {
        let depth = below(depth, reader.offset())?;
        let count = reader.length()?;
        let mut elements = Vec::new();
        for read in 0..count {
            // Each takes an octet at least.
            make_room(&mut elements, count.saturating_sub(read).min(reader.left()));
            elements.push(self.value(reader, depth)?);
        }
        Ok(elements)
    }
}

/// Room for one more element, of at most `most` that can follow. A count may be a lie, so room doubles with what is
/// there; and never beyond what there can be, which is 32 octets for each octet, 64 in a compact array.
pub(super) fn make_room(elements: &mut Vec<Data>, most: usize) {
    if elements.len() == elements.capacity() {
        let room = elements.len().max(4).max(most / 8).min(most).max(1);
        elements.reserve_exact(room);
    }
}

pub(super) const fn below(depth: usize, offset: usize) -> Result<usize, Error> {
    match depth.checked_sub(1) {
        Some(depth) => Ok(depth),
        None => Err(Error::Bounds {
            offset,
            expected: "at most 16 levels of arrays and structures",
            found: MAX_DEPTH.saturating_add(1),
        }),
    }
}

/// A value that has no elements; its tag stood at `offset`, or is known from a description.
pub(super) fn leaf(reader: &mut Reader<'_>, tag: u8, offset: usize) -> Result<Data, Error> {
    Ok(match tag {
        0 => Data::Null,
        3 => Data::Boolean(reader.u8()? != 0),
        4 => {
            let bits = reader.length()?;
            let bytes = reader.take(bits.div_ceil(8))?.to_vec();
            Data::BitString { bits, bytes }
        }
        5 => Data::DoubleLong(reader.array().map(i32::from_be_bytes)?),
        6 => Data::DoubleLongUnsigned(reader.u32()?),
        9 => Data::OctetString(reader.prefixed()?.to_vec()),
        10 => Data::VisibleString(reader.prefixed()?.to_vec()),
        12 => Data::Utf8String(utf8(reader)?),
        13 => Data::Bcd(reader.i8()?),
        15 => Data::Integer(reader.i8()?),
        16 => Data::Long(reader.array().map(i16::from_be_bytes)?),
        17 => Data::Unsigned(reader.u8()?),
        18 => Data::LongUnsigned(reader.u16()?),
        20 => Data::Long64(reader.array().map(i64::from_be_bytes)?),
        21 => Data::Long64Unsigned(reader.array().map(u64::from_be_bytes)?),
        22 => Data::Enum(reader.u8()?),
        23 => Data::Float32(reader.array().map(f32::from_be_bytes)?),
        24 => Data::Float64(reader.array().map(f64::from_be_bytes)?),
        25 => Data::DateTime(reader.array()?),
        26 => Data::Date(reader.array()?),
        27 => Data::Time(reader.array()?),
        255 => Data::DontCare,
        found => {
            return Err(Error::Unexpected {
                offset,
                expected: "a Data tag (0..6, 9, 10, 12, 13, 15..27, 255)",
                found,
            });
        }
    })
}

fn utf8(reader: &mut Reader<'_>) -> Result<String, Error> {
    let octets = reader.prefixed()?;
    let start = reader.offset().saturating_sub(octets.len());
    core::str::from_utf8(octets)
        .map(String::from)
        .map_err(|error| {
            let valid = error.valid_up_to();
            Error::Unexpected {
                offset: start.saturating_add(valid),
                expected: "UTF-8",
                found: octets.get(valid).copied().unwrap_or_default(),
            }
        })
}
