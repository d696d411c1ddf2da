//! The `Data` type of COSEM (IEC 62056-6-2) and its A-XDR encoding.

mod compact;
mod decode;

pub use compact::{CompactArray, SimpleType, TypeDescription};

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::axdr::{Reader, put_length, put_prefixed};
use crate::error::Error;

/// How deep arrays and structures may nest.
pub const MAX_DEPTH: usize = 16;
/// How many elements one value may have, all levels together.
pub const MAX_ELEMENTS: usize = 65_536;

/// A value of a COSEM attribute, or a parameter of a method.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// null-data, tag 0.
    Null,
    /// array, tag 1: elements of one type (not checked).
    Array(Vec<Self>),
    /// structure, tag 2.
    Structure(Vec<Self>),
    /// boolean, tag 3.
    Boolean(bool),
    /// bit-string, tag 4: `bits` bits, the first in the most significant place of the first octet.
    BitString {
        /// How many bits.
        bits: usize,
        /// The octets that hold them, `bits` / 8 rounded up.
        bytes: Vec<u8>,
    },
    /// double-long, tag 5.
    DoubleLong(i32),
    /// double-long-unsigned, tag 6.
    DoubleLongUnsigned(u32),
    /// octet-string, tag 9.
    OctetString(Vec<u8>),
    /// visible-string, tag 10. Kept as octets: meters put anything in it.
    VisibleString(Vec<u8>),
    /// utf8-string, tag 12.
    Utf8String(String),
    /// bcd, tag 13.
    Bcd(i8),
    /// integer, tag 15.
    Integer(i8),
    /// long, tag 16.
    Long(i16),
    /// unsigned, tag 17.
    Unsigned(u8),
    /// long-unsigned, tag 18.
    LongUnsigned(u16),
    /// compact-array, tag 19: elements of one type that is said once.
    CompactArray(Box<CompactArray>),
    /// long64, tag 20.
    Long64(i64),
    /// long64-unsigned, tag 21.
    Long64Unsigned(u64),
    /// enum, tag 22.
    Enum(u8),
    /// float32, tag 23.
    Float32(f32),
    /// float64, tag 24.
    Float64(f64),
    /// date-time, tag 25.
    DateTime([u8; 12]),
    /// date, tag 26.
    Date([u8; 5]),
    /// time, tag 27.
    Time([u8; 4]),
    /// dont-care, tag 255.
    DontCare,
}

impl Data {
    /// Decodes one value that fills `octets` exactly.
    ///
    /// # Errors
    /// The first thing that is wrong, with its offset; also a value deeper than [`MAX_DEPTH`] or larger than
    /// [`MAX_ELEMENTS`].
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(octets);
        let value = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(value)
    }

    /// The A-XDR encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    /// Appends the A-XDR encoding.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.push(self.tag());
        self.put_value(out);
    }

    /// What follows the tag.
    fn put_value(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null | Self::DontCare => {}
            Self::Array(elements) | Self::Structure(elements) => {
                put_length(out, elements.len());
                for element in elements {
                    element.encode_into(out);
                }
            }
            Self::Boolean(value) => out.push(u8::from(*value)),
            Self::BitString { bits, bytes } => {
                put_length(out, *bits);
                let held = bytes.iter().copied().chain(core::iter::repeat(0));
                out.extend(held.take(bits.div_ceil(8)));
            }
            Self::DoubleLong(value) => out.extend_from_slice(&value.to_be_bytes()),
            Self::DoubleLongUnsigned(value) => out.extend_from_slice(&value.to_be_bytes()),
            Self::OctetString(octets) | Self::VisibleString(octets) => put_prefixed(out, octets),
            Self::Utf8String(text) => put_prefixed(out, text.as_bytes()),
            Self::Bcd(value) | Self::Integer(value) => out.extend_from_slice(&value.to_be_bytes()),
            Self::Long(value) => out.extend_from_slice(&value.to_be_bytes()),
            Self::Unsigned(value) | Self::Enum(value) => out.push(*value),
            Self::LongUnsigned(value) => out.extend_from_slice(&value.to_be_bytes()),
            Self::CompactArray(array) => array.put_value(out),
            Self::Long64(value) => out.extend_from_slice(&value.to_be_bytes()),
            Self::Long64Unsigned(value) => out.extend_from_slice(&value.to_be_bytes()),
            Self::Float32(value) => out.extend_from_slice(&value.to_be_bytes()),
            Self::Float64(value) => out.extend_from_slice(&value.to_be_bytes()),
            Self::DateTime(octets) => out.extend_from_slice(octets),
            Self::Date(octets) => out.extend_from_slice(octets),
            Self::Time(octets) => out.extend_from_slice(octets),
        }
    }

    /// The number, if it is a whole one that is not negative (also an enum).
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        self.as_i128().and_then(|value| u64::try_from(value).ok())
    }

    /// The number, if it is a whole one (also an enum).
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        self.as_i128().and_then(|value| i64::try_from(value).ok())
    }

    /// The truth value of a boolean.
    #[must_use]
    pub const fn as_bool(&self) -> Option<bool> {
        if let Self::Boolean(value) = self {
            Some(*value)
        } else {
            None
        }
    }

    /// The octets of an octet-string, visible-string, utf8-string, date-time, date or time.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::OctetString(octets) | Self::VisibleString(octets) => Some(octets),
            Self::Utf8String(text) => Some(text.as_bytes()),
            Self::DateTime(octets) => Some(octets),
            Self::Date(octets) => Some(octets),
            Self::Time(octets) => Some(octets),
            Self::Null
            | Self::Array(_)
            | Self::Structure(_)
            | Self::Boolean(_)
            | Self::BitString { .. }
            | Self::DoubleLong(_)
            | Self::DoubleLongUnsigned(_)
            | Self::Bcd(_)
            | Self::Integer(_)
            | Self::Long(_)
            | Self::Unsigned(_)
            | Self::LongUnsigned(_)
            | Self::Long64(_)
            | Self::Long64Unsigned(_)
            | Self::Enum(_)
            | Self::Float32(_)
            | Self::Float64(_)
            | Self::CompactArray(_)
            | Self::DontCare => None,
        }
    }

    /// The elements of an array, a structure or a compact array.
    #[must_use]
    pub fn as_elements(&self) -> Option<&[Self]> {
        if let Self::Array(elements) | Self::Structure(elements) = self {
            Some(elements)
        } else if let Self::CompactArray(array) = self {
            Some(array.elements())
        } else {
            None
        }
    }

    fn as_i128(&self) -> Option<i128> {
        match self {
            Self::DoubleLong(value) => Some(i128::from(*value)),
            Self::DoubleLongUnsigned(value) => Some(i128::from(*value)),
            Self::Integer(value) => Some(i128::from(*value)),
            Self::Long(value) => Some(i128::from(*value)),
            Self::Unsigned(value) | Self::Enum(value) => Some(i128::from(*value)),
            Self::LongUnsigned(value) => Some(i128::from(*value)),
            Self::Long64(value) => Some(i128::from(*value)),
            Self::Long64Unsigned(value) => Some(i128::from(*value)),
            Self::Null
            | Self::Array(_)
            | Self::Structure(_)
            | Self::Boolean(_)
            | Self::BitString { .. }
            | Self::OctetString(_)
            | Self::VisibleString(_)
            | Self::Utf8String(_)
            | Self::Bcd(_)
            | Self::Float32(_)
            | Self::Float64(_)
            | Self::DateTime(_)
            | Self::Date(_)
            | Self::Time(_)
            | Self::CompactArray(_)
            | Self::DontCare => None,
        }
    }

    /// The standard's name of a type, by its tag (IEC 62056-5-3, Data), the delta types included that no value here has.
    #[must_use]
    pub const fn name_of(tag: u8) -> Option<&'static str> {
        Some(match tag {
            0 => "null-data",
            1 => "array",
            2 => "structure",
            3 => "boolean",
            4 => "bit-string",
            5 => "double-long",
            6 => "double-long-unsigned",
            9 => "octet-string",
            10 => "visible-string",
            12 => "utf8-string",
            13 => "bcd",
            15 => "integer",
            16 => "long",
            17 => "unsigned",
            18 => "long-unsigned",
            19 => "compact-array",
            20 => "long64",
            21 => "long64-unsigned",
            22 => "enum",
            23 => "float32",
            24 => "float64",
            25 => "date-time",
            26 => "date",
            27 => "time",
            28 => "delta-integer",
            29 => "delta-long",
            30 => "delta-double-long",
            31 => "delta-unsigned",
            32 => "delta-long-unsigned",
            33 => "delta-double-long-unsigned",
            255 => "dont-care",
            _ => return None,
        })
    }

    pub(crate) const fn tag(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Array(_) => 1,
            Self::Structure(_) => 2,
            Self::Boolean(_) => 3,
            Self::BitString { .. } => 4,
            Self::DoubleLong(_) => 5,
            Self::DoubleLongUnsigned(_) => 6,
            Self::OctetString(_) => 9,
            Self::VisibleString(_) => 10,
            Self::Utf8String(_) => 12,
            Self::Bcd(_) => 13,
            Self::Integer(_) => 15,
            Self::Long(_) => 16,
            Self::Unsigned(_) => 17,
            Self::LongUnsigned(_) => 18,
            Self::CompactArray(_) => 19,
            Self::Long64(_) => 20,
            Self::Long64Unsigned(_) => 21,
            Self::Enum(_) => 22,
            Self::Float32(_) => 23,
            Self::Float64(_) => 24,
            Self::DateTime(_) => 25,
            Self::Date(_) => 26,
            Self::Time(_) => 27,
            Self::DontCare => 255,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn refuses_what_it_does_not_know_by_offset() {
        assert!(matches!(
            Data::decode(&[2, 2, 17, 5, 14, 0]),
            Err(Error::Unexpected {
                offset: 4,
                found: 14,
                ..
            })
        ));
        assert_eq!(
            Data::decode(&[17, 5, 6]),
            Err(Error::Trailing {
                offset: 2,
                found: 1
            })
        );
        assert!(matches!(
            Data::decode(&[12, 2, b'a', 0xFF]),
            Err(Error::Unexpected {
                offset: 3,
                found: 0xFF,
                ..
            })
        ));
    }

    #[test]
    fn depth_elements_and_claimed_counts_are_bounded() {
        let nested = |levels: usize| {
            let mut octets = [1, 1].repeat(levels);
            octets.push(0);
            octets
        };
        assert!(Data::decode(&nested(MAX_DEPTH)).is_ok());
        assert!(matches!(
            Data::decode(&nested(MAX_DEPTH + 1)),
            Err(Error::Bounds { .. })
        ));
        assert!(matches!(
            Data::decode(&nested(100_000)),
            Err(Error::Bounds { .. })
        ));
        assert!(matches!(
            Data::decode(&[1, 0x84, 0xFF, 0xFF, 0xFF, 0xFF, 0]),
            Err(Error::Truncated { .. })
        ));
        let mut wide = vec![1, 0x83, 1, 0, 0];
        wide.resize(5 + 65_536, 0);
        assert!(matches!(Data::decode(&wide), Err(Error::Bounds { .. })));
    }

    #[test]
    fn numbers_and_octets_are_read_where_they_are() {
        assert_eq!(Data::Enum(2).as_u64(), Some(2));
        assert_eq!(Data::Integer(-1).as_u64(), None);
        assert_eq!(Data::Integer(-1).as_i64(), Some(-1));
        assert_eq!(Data::Long64Unsigned(u64::MAX).as_u64(), Some(u64::MAX));
        assert_eq!(Data::Boolean(true).as_u64(), None);
        assert_eq!(Data::OctetString(vec![1]).as_bytes(), Some(&[1_u8][..]));
        assert_eq!(
            Data::BitString {
                bits: 9,
                bytes: vec![0xFF]
            }
            .encode(),
            [4, 9, 0xFF, 0]
        );
    }
}
