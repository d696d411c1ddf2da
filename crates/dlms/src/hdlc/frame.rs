//! Frames (IEC 62056-46, 6.4.1, format type 3): `7E A|S|length destination source control HCS information FCS 7E`.
//!
//! A frame is as long as its length field says. The next `7E` says nothing: it may be an octet of the frame, even the
//! last one of the FCS, and two frames may share one flag.

use alloc::vec::Vec;

use crc::{CRC_16_IBM_SDLC, Crc};

use super::address::Address;
use super::control::Control;
use crate::error::Error;

/// The octet before and after a frame.
pub const FLAG: u8 = 0x7E;
/// The longest frame, without its flags.
pub const MAX_LENGTH: usize = 0x7FF;
/// The shortest: format, two addresses, control, FCS.
pub(super) const MIN_LENGTH: usize = 7;
const CHECK: Crc<u16> = Crc::<u16>::new(&CRC_16_IBM_SDLC);
const FORMAT_TYPE: u8 = 0xA0;
const SEGMENTED: u8 = 0x08;
/// Where the addresses begin, the opening flag included.
const ADDRESSES: usize = 3;

/// One frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// Who it is for.
    pub destination: Address,
    /// Who sent it.
    pub source: Address,
    /// What it is.
    pub control: Control,
    /// The S bit: more of the APDU follows in the next I frame.
    pub segmented: bool,
    /// The information field.
    pub information: Vec<u8>,
}

/// The information may be a command in clear: only its length is shown.
impl core::fmt::Debug for Frame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Frame")
            .field("destination", &self.destination)
            .field("source", &self.source)
            .field("control", &self.control)
            .field("segmented", &self.segmented)
            .field("information", &self.information.len())
            .finish()
    }
}

/// What is wrong with octets that should be a frame. Offsets count from the first octet given to [`Frame::decode`];
/// from a [`super::Deframer`] they count from the opening flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is no opening flag.
    #[error("offset {offset}: expected the opening flag 0x7e, found {found:#04x}")]
    OpeningFlag {
        /// Where it should stand.
        offset: usize,
        /// What stands there.
        found: u8,
    },
    /// The format field does not say type 3.
    #[error("offset {offset}: expected frame format type 3 (0xa.), found {found:#04x}")]
    Format {
        /// Where it stands.
        offset: usize,
        /// What stands there.
        found: u8,
    },
    /// The octets end before the frame does.
    #[error(
        "offset {offset}: {needed} more octets expected, found {found}; the frame is truncated"
    )]
    Truncated {
        /// Where the field stands that is not whole.
        offset: usize,
        /// How many octets of the frame, and its closing flag, should follow.
        needed: usize,
        /// How many do.
        found: usize,
    },
    /// The length field does not agree with the flags around the frame.
    #[error(
        "offset {offset}: the length field says {expected} octets, {found} stand between the flags"
    )]
    Length {
        /// Where the length field stands.
        offset: usize,
        /// What it says, of 7..2047.
        expected: usize,
        /// How many octets there are.
        found: usize,
    },
    /// The frame is whole, and no flag follows it.
    #[error("offset {offset}: expected the closing flag 0x7e, found {}", Octet(*.found))]
    ClosingFlag {
        /// Where it should stand.
        offset: usize,
        /// What stands there, if anything.
        found: Option<u8>,
    },
    /// Octets follow the closing flag.
    #[error("offset {offset}: expected the end, found {found} more octets")]
    Trailing {
        /// Where the frame ended.
        offset: usize,
        /// How many octets follow.
        found: usize,
    },
    /// The header check sequence is wrong: format, addresses or control are damaged.
    #[error("offset {offset}: expected HCS {expected:04x}, found {found:04x}")]
    Hcs {
        /// Where it stands.
        offset: usize,
        /// The check sequence of the header, in the order of transmission.
        expected: u16,
        /// What stands there.
        found: u16,
    },
    /// The frame check sequence is wrong.
    #[error("offset {offset}: expected FCS {expected:04x}, found {found:04x}")]
    Fcs {
        /// Where it stands.
        offset: usize,
        /// The check sequence of the frame, in the order of transmission.
        expected: u16,
        /// What stands there.
        found: u16,
    },
    /// An address is none: of three octets, or of more than four.
    #[error("offset {offset}: expected an address of 1, 2 or 4 octets, found {found} or more")]
    Address {
        /// Where it begins.
        offset: usize,
        /// Its octets.
        found: usize,
    },
    /// DLMS has no such frame.
    #[error("offset {offset}: expected a control field that DLMS uses, found {found:#04x}")]
    Control {
        /// Where it stands.
        offset: usize,
        /// What stands there.
        found: u8,
    },
}

struct Octet(Option<u8>);

impl core::fmt::Display for Octet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            Some(octet) => write!(f, "{octet:#04x}"),
            None => f.write_str("the end"),
        }
    }
}

impl Frame {
    /// The octets, flags included.
    ///
    /// # Errors
    /// [`Error::TooLong`] if the frame would have more than 2047 octets between its flags.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let header = self
            .destination
            .octets()
            .saturating_add(self.source.octets())
            .saturating_add(3);
        let checks = if self.information.is_empty() { 2 } else { 4 };
        let found = header
            .saturating_add(self.information.len())
            .saturating_add(checks);
        let too_long = Error::TooLong {
            limit: MAX_LENGTH,
            found,
        };
        let length = u16::try_from(found)
            .ok()
            .filter(|_| found <= MAX_LENGTH)
            .ok_or(too_long)?;
        let [high, low] = length.to_be_bytes();
        let segmented = if self.segmented { SEGMENTED } else { 0 };
        let mut out = Vec::with_capacity(found.saturating_add(2));
        out.extend_from_slice(&[FLAG, FORMAT_TYPE | segmented | high, low]);
        self.destination.encode_to(&mut out);
        self.source.encode_to(&mut out);
        out.push(self.control.octet());
        if !self.information.is_empty() {
            put_check(&mut out);
            out.extend_from_slice(&self.information);
        }
        put_check(&mut out);
        out.push(FLAG);
        Ok(out)
    }

    /// Reads exactly one frame with its flags; more flags than one before and after it are fill.
    ///
    /// # Errors
    /// The [`Fault`], the outermost first: flags and length, then HCS, FCS, addresses and control.
    pub fn decode(octets: &[u8]) -> Result<Self, Fault> {
        let fill = octets
            .windows(2)
            .take_while(|pair| *pair == [FLAG, FLAG])
            .count();
        let whole = octets.get(fill..).unwrap_or_default();
        let length = bounds(whole).map_err(|fault| fault.moved(fill))?;
        let (frame, rest) = split(whole, length);
        let trailing = rest.iter().filter(|octet| **octet != FLAG).count();
        if trailing > 0 {
            return Err(Fault::Trailing {
                offset: fill.saturating_add(frame.len()),
                found: rest.len(),
            });
        }
        Self::parse(frame).map_err(|fault| fault.moved(fill))
    }

    /// Reads a frame whose borders are known: both flags are there, and the length field agrees.
    pub(super) fn parse(framed: &[u8]) -> Result<Self, Fault> {
        let fcs_at = framed.len().saturating_sub(3);
        let header = Header::read(framed);
        let fcs = check(framed, fcs_at);
        if let Some(Ok(header)) = &header
            && let Some(fault) = header.hcs_fault(framed)
            && header.end != fcs_at
        {
            return Err(fault);
        }
        if let Some((expected, found)) = fcs.filter(|(expected, found)| expected != found) {
            return Err(Fault::Fcs {
                offset: fcs_at,
                expected,
                found,
            });
        }
        let cut_short = Fault::Truncated {
            offset: ADDRESSES,
            needed: MIN_LENGTH,
            found: framed.len().saturating_sub(2),
        };
        let header = header.ok_or(cut_short)??;
        let control = Control::from_octet(header.control).ok_or(Fault::Control {
            offset: header.end.saturating_sub(1),
            found: header.control,
        })?;
        let information = if header.end == fcs_at {
            &[]
        } else {
            framed
                .get(header.end.saturating_add(2)..fcs_at)
                .ok_or(cut_short)?
        };
        Ok(Self {
            destination: header.destination,
            source: header.source,
            control,
            segmented: framed.get(1).is_some_and(|octet| octet & SEGMENTED != 0),
            information: information.to_vec(),
        })
    }
}

impl Fault {
    /// The same with its offsets counted from `by` octets earlier.
    const fn moved(mut self, by: usize) -> Self {
        match &mut self {
            Self::OpeningFlag { offset, .. }
            | Self::Format { offset, .. }
            | Self::Truncated { offset, .. }
            | Self::Length { offset, .. }
            | Self::ClosingFlag { offset, .. }
            | Self::Trailing { offset, .. }
            | Self::Hcs { offset, .. }
            | Self::Fcs { offset, .. }
            | Self::Address { offset, .. }
            | Self::Control { offset, .. } => *offset = offset.saturating_add(by),
        }
        self
    }
}

/// Format, addresses and control of a frame that begins with its opening flag.
pub(super) struct Header {
    destination: Address,
    source: Address,
    control: u8,
    /// Where the check sequence behind the control octet stands.
    pub(super) end: usize,
}

impl Header {
    /// Nothing while it is not whole.
    pub(super) fn read(octets: &[u8]) -> Option<Result<Self, Fault>> {
        let address = |at: usize| {
            octets
                .get(at..)
                .and_then(|rest| Address::decode(rest, at))
                .map(|address| {
                    address.map(|address| (address, at.saturating_add(address.octets())))
                })
        };
        let (destination, at) = match address(ADDRESSES)? {
            Ok(found) => found,
            Err(fault) => return Some(Err(fault)),
        };
        let (source, at) = match address(at)? {
            Ok(found) => found,
            Err(fault) => return Some(Err(fault)),
        };
        let control = *octets.get(at)?;
        Some(Ok(Self {
            destination,
            source,
            control,
            end: at.saturating_add(1),
        }))
    }

    /// What is wrong with the check sequence behind the header: the HCS, or in a frame without information the FCS.
    /// Nothing if it is right, or not there yet.
    pub(super) fn hcs_fault(&self, octets: &[u8]) -> Option<Fault> {
        check(octets, self.end)
            .filter(|(expected, found)| expected != found)
            .map(|(expected, found)| Fault::Hcs {
                offset: self.end,
                expected,
                found,
            })
    }
}

/// The length field of a frame that begins with its opening flag.
pub(super) fn length_field(octets: &[u8]) -> Option<Result<usize, Fault>> {
    let format = *octets.get(1)?;
    if format & 0xF0 != FORMAT_TYPE {
        return Some(Err(Fault::Format {
            offset: 1,
            found: format,
        }));
    }
    let low = *octets.get(2)?;
    Some(Ok(usize::from(u16::from_be_bytes([format & 0x07, low]))))
}

/// The length of the frame that begins with its opening flag, if its borders are right.
fn bounds(octets: &[u8]) -> Result<usize, Fault> {
    match octets.first() {
        Some(&FLAG) => {}
        Some(&found) => return Err(Fault::OpeningFlag { offset: 0, found }),
        None => {
            return Err(Fault::Truncated {
                offset: 0,
                needed: MIN_LENGTH.saturating_add(2),
                found: 0,
            });
        }
    }
    let body = octets.get(1..).unwrap_or_default();
    let Some(length) = length_field(octets) else {
        return Err(Fault::Truncated {
            offset: 1,
            needed: MIN_LENGTH.saturating_add(1),
            found: body.len(),
        });
    };
    let length = length?;
    // Octets between the flags, if the last one is a flag.
    let between = match body.split_last() {
        Some((&FLAG, between)) => Some(between.len()),
        Some(_) | None => None,
    };
    let mismatch = |found| Fault::Length {
        offset: 1,
        expected: length,
        found,
    };
    if length < MIN_LENGTH {
        return Err(mismatch(between.unwrap_or(body.len())));
    }
    match body.get(length).copied() {
        Some(FLAG) => Ok(length),
        Some(_) if between.is_some_and(|between| between != length) => {
            Err(mismatch(between.unwrap_or_default()))
        }
        Some(found) => Err(Fault::ClosingFlag {
            offset: length.saturating_add(1),
            found: Some(found),
        }),
        // All but the closing flag, or a flag too early: the FCS tells which.
        None if body.len() == length && (between.is_none() || is_checked(octets)) => {
            Err(Fault::ClosingFlag {
                offset: length.saturating_add(1),
                found: None,
            })
        }
        None => Err(match between {
            Some(found) => mismatch(found),
            None => Fault::Truncated {
                offset: octets.len(),
                needed: length.saturating_add(2).saturating_sub(octets.len()),
                found: 0,
            },
        }),
    }
}

/// Whether the last two octets are the FCS of the others.
fn is_checked(octets: &[u8]) -> bool {
    check(octets, octets.len().saturating_sub(2)).is_some_and(|(expected, found)| expected == found)
}

/// The frame of this length with its flags, and what follows it.
fn split(octets: &[u8], length: usize) -> (&[u8], &[u8]) {
    octets
        .split_at_checked(length.saturating_add(2))
        .unwrap_or((octets, &[]))
}

/// The check sequence due at this place, and the one that stands there, in the order of transmission.
fn check(octets: &[u8], at: usize) -> Option<(u16, u16)> {
    let found = octets.get(at..)?.first_chunk::<2>()?;
    let covered = octets.get(1..at)?;
    Some((
        CHECK.checksum(covered).swap_bytes(),
        u16::from_be_bytes(*found),
    ))
}

/// Appends the check sequence of all that follows the opening flag, low octet first.
fn put_check(out: &mut Vec<u8>) {
    let covered = out.get(1..).unwrap_or_default();
    let check = CHECK.checksum(covered);
    out.extend_from_slice(&check.to_le_bytes());
}
