//! A cursor over octets, and the length encoding that A-XDR (IEC 61334-6) and BER share.

use alloc::vec::Vec;

use crate::error::Error;

/// Reads forward, never beyond the end, and knows where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(octets: &'a [u8]) -> Self {
        Self {
            rest: octets,
            offset: 0,
        }
    }

    pub(crate) const fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) const fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    pub(crate) fn take(&mut self, needed: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self
            .rest
            .split_at_checked(needed)
            .ok_or_else(|| self.truncated(needed))?;
        self.rest = rest;
        self.offset = self.offset.saturating_add(needed);
        Ok(taken)
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        let rest = self.rest;
        self.offset = self.offset.saturating_add(rest.len());
        self.rest = &[];
        rest
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let array = *self
            .rest
            .first_chunk::<N>()
            .ok_or_else(|| self.truncated(N))?;
        self.take(N)?;
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Error> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn i8(&mut self) -> Result<i8, Error> {
        self.array().map(i8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    /// One octet that must have this value.
    pub(crate) fn tag(&mut self, value: u8, expected: &'static str) -> Result<(), Error> {
        let offset = self.offset;
        match self.u8()? {
            found if found == value => Ok(()),
            found => Err(Error::Unexpected {
                offset,
                expected,
                found,
            }),
        }
    }

    /// A-XDR OPTIONAL or DEFAULT: 00 absent, anything else present.
    pub(crate) fn present(&mut self) -> Result<bool, Error> {
        self.u8().map(|octet| octet != 0)
    }

    /// A definite length, short or long form (up to four octets). The length is not compared with what is left.
    pub(crate) fn length(&mut self) -> Result<usize, Error> {
        let offset = self.offset;
        let unexpected = |found| Error::Unexpected {
            offset,
            expected: "a definite length of at most four octets",
            found,
        };
        let first = self.u8()?;
        let octets = match first {
            0..=0x7F => return Ok(usize::from(first)),
            0x81..=0x84 => self.take(usize::from(first & 0x07))?,
            _ => return Err(unexpected(first)),
        };
        let value = octets
            .iter()
            .fold(0_u32, |value, octet| (value << 8) | u32::from(*octet));
        usize::try_from(value).map_err(|_| unexpected(first))
    }

    /// Octets preceded by their length.
    pub(crate) fn prefixed(&mut self) -> Result<&'a [u8], Error> {
        let length = self.length()?;
        self.take(length)
    }

    /// A reader over the next octets, preceded by their length, that reports offsets of the whole.
    pub(crate) fn nested(&mut self) -> Result<Self, Error> {
        let length = self.length()?;
        let offset = self.offset;
        let rest = self.take(length)?;
        Ok(Self { rest, offset })
    }

    pub(crate) const fn finish(&self) -> Result<(), Error> {
        match self.rest.len() {
            0 => Ok(()),
            found => Err(Error::Trailing {
                offset: self.offset,
                found,
            }),
        }
    }

    const fn truncated(&self, needed: usize) -> Error {
        Error::Truncated {
            offset: self.offset,
            needed,
            found: self.rest.len(),
        }
    }
}

/// Appends a definite length in its shortest form.
pub(crate) fn put_length(out: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(short @ 0..=0x7F) => out.push(short),
        Ok(_) | Err(_) => {
            let octets = length.to_be_bytes();
            let zeros = octets.iter().take_while(|octet| **octet == 0).count();
            let digits = octets.get(zeros..).unwrap_or_default();
            out.push(0x80 | u8::try_from(digits.len()).unwrap_or(8));
            out.extend_from_slice(digits);
        }
    }
}

/// Appends octets preceded by their length.
pub(crate) fn put_prefixed(out: &mut Vec<u8>, octets: &[u8]) {
    put_length(out, octets.len());
    out.extend_from_slice(octets);
}

/// How many octets a length takes.
pub(crate) const fn length_of_length(length: usize) -> usize {
    match length {
        0..=0x7F => 1,
        0x80..=0xFF => 2,
        0x100..=0xFFFF => 3,
        0x1_0000..=0xFF_FFFF => 4,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_in_long_form_both_ways() {
        let table: [(usize, &[u8]); 6] = [
            (0, &[0]),
            (127, &[0x7F]),
            (128, &[0x81, 0x80]),
            (255, &[0x81, 0xFF]),
            (256, &[0x82, 1, 0]),
            (65_536, &[0x83, 1, 0, 0]),
        ];
        for (length, octets) in table {
            let mut out = Vec::new();
            put_length(&mut out, length);
            assert_eq!(out, octets);
            assert_eq!(length_of_length(length), octets.len());
            assert_eq!(Reader::new(octets).length(), Ok(length));
        }
    }

    #[test]
    fn indefinite_and_absurd_lengths_are_refused() {
        for first in [0x80, 0x85, 0xFF] {
            let error = Reader::new(&[first, 0, 0, 0, 0, 0]).length();
            assert!(
                matches!(error, Err(Error::Unexpected { offset: 0, found, .. }) if found == first)
            );
        }
        assert_eq!(
            Reader::new(&[0x82, 1]).length(),
            Err(Error::Truncated {
                offset: 1,
                needed: 2,
                found: 1
            })
        );
    }

    #[test]
    fn nested_readers_report_offsets_of_the_whole() {
        let mut reader = Reader::new(&[2, 0xAA, 0xBB, 0xCC]);
        let mut inner = reader.nested().unwrap();
        inner.u16().unwrap();
        assert_eq!(
            inner.u8(),
            Err(Error::Truncated {
                offset: 3,
                needed: 1,
                found: 0
            })
        );
        assert_eq!(
            reader.finish(),
            Err(Error::Trailing {
                offset: 3,
                found: 1
            })
        );
    }
}
