//! The wrapper that carries APDUs over TCP and UDP (IEC 62056-47): version 1, source, destination, length.

use alloc::vec::Vec;

use crate::axdr::Reader;
use crate::error::Error;

/// Octets of a wrapper header.
pub const HEADER: usize = 8;
const VERSION: u16 = 1;

/// One APDU and the ports (SAPs) it travels between.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// The sender's wrapper port.
    pub source: u16,
    /// The receiver's wrapper port.
    pub destination: u16,
    /// The APDU, 1..65535 octets.
    pub apdu: Vec<u8>,
}

impl Frame {
    /// The octets of the frame.
    ///
    /// # Errors
    /// [`Error::TooLong`] if the APDU has more than 65535 octets.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let found = self.apdu.len();
        let limit = usize::from(u16::MAX);
        let length = u16::try_from(found).map_err(|_| Error::TooLong { limit, found })?;
        let mut out = Vec::with_capacity(HEADER.saturating_add(found));
        for field in [VERSION, self.source, self.destination, length] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        out.extend_from_slice(&self.apdu);
        Ok(out)
    }

    /// The one frame that a datagram holds: UDP carries exactly one APDU in each.
    ///
    /// # Errors
    /// A header that is none, and an APDU that is shorter or longer than its header says: the datagram was truncated,
    /// or something was joined to it.
    pub fn decode(datagram: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(datagram);
        match parse(datagram)? {
            Some((frame, taken)) => {
                reader.take(taken)?;
                reader.finish()?;
                Ok(frame)
            }
            None => {
                let header = reader.take(HEADER)?;
                let needed = match header {
                    [.., high, low] => usize::from(u16::from_be_bytes([*high, *low])),
                    _ => 0,
                };
                Err(Error::Truncated {
                    offset: HEADER,
                    needed,
                    found: reader.left(),
                })
            }
        }
    }
}

/// An APDU may hold a password or a command in clear: only its length is shown.
impl core::fmt::Debug for Frame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self {
            source,
            destination,
            apdu,
        } = self;
        write!(f, "Frame({source} -> {destination}, {} octets)", apdu.len())
    }
}

/// Makes frames of a stream that splits and merges them. Holds no more than its bound; a frame that would never fit it
/// is a fault as soon as its header is there.
#[derive(Clone)]
pub struct Reassembler {
    held: Vec<u8>,
    bound: usize,
    fault: Option<Error>,
}

impl Default for Reassembler {
    /// Room for two frames of the largest size.
    fn default() -> Self {
        Self::new(2 * (HEADER + 65_535))
    }
}

impl Reassembler {
    /// Holds at most `bound` octets that were not taken yet.
    #[must_use]
    pub const fn new(bound: usize) -> Self {
        Self {
            held: Vec::new(),
            bound,
            fault: None,
        }
    }

    /// Takes octets as they come from the transport. More than the bound is a fault that [`Self::next`] reports.
    pub fn push(&mut self, octets: &[u8]) {
        let found = self.held.len().saturating_add(octets.len());
        if self.fault.is_some() {
            return;
        }
        if found > self.bound {
            self.held = Vec::new();
            self.fault = Some(Error::Bounds {
                offset: 0,
                expected: "no more octets than the reassembler holds",
                found,
            });
            return;
        }
        self.held.extend_from_slice(octets);
    }

    /// A frame that is not whole yet must be one that can become whole.
    fn fits(&self, found: Option<(Frame, usize)>) -> Result<Option<(Frame, usize)>, Error> {
        let announced = match self.held.get(..HEADER) {
            Some([.., high, low]) => usize::from(u16::from_be_bytes([*high, *low])),
            Some(_) | None => 0,
        };
        if found.is_none() && announced > self.bound.saturating_sub(HEADER) {
            return Err(Error::Bounds {
                offset: 6,
                expected: "no longer an APDU than the reassembler holds",
                found: announced,
            });
        }
        Ok(found)
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// A header that is none. The stream has lost its frame borders: every further call fails too.
    #[expect(
        clippy::should_implement_trait,
        reason = "fallible, and not an iterator: more may be pushed later"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, Error> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        match parse(&self.held).and_then(|found| self.fits(found)) {
            Ok(Some((frame, taken))) => {
                self.held.drain(..taken.min(self.held.len()));
                Ok(Some(frame))
            }
            Ok(None) => Ok(None),
            Err(fault) => {
                self.held = Vec::new();
                self.fault = Some(fault.clone());
                Err(fault)
            }
        }
    }
}

impl core::fmt::Debug for Reassembler {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "Reassembler({} of {} octets)",
            self.held.len(),
            self.bound
        )
    }
}

/// The first frame and its length; nothing while it is not whole.
fn parse(octets: &[u8]) -> Result<Option<(Frame, usize)>, Error> {
    // The version is checked on the first octets that come: junk must not wait for its pretended length.
    for (offset, (found, due)) in octets.iter().zip(VERSION.to_be_bytes()).enumerate() {
        if *found != due {
            return Err(Error::Unexpected {
                offset,
                expected: "wrapper version 00 01",
                found: *found,
            });
        }
    }
    if octets.len() < HEADER {
        return Ok(None);
    }
    let mut reader = Reader::new(octets);
    reader.u16()?;
    let (source, destination) = (reader.u16()?, reader.u16()?);
    let length = usize::from(reader.u16()?);
    if length == 0 {
        return Err(Error::Bounds {
            offset: 6,
            expected: "an APDU of 1..65535 octets",
            found: 0,
        });
    }
    if reader.left() < length {
        return Ok(None);
    }
    let apdu = reader.take(length)?.to_vec();
    Ok(Some((
        Frame {
            source,
            destination,
            apdu,
        },
        reader.offset(),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn frame(apdu: &[u8]) -> Frame {
        Frame {
            source: 1,
            destination: 16,
            apdu: apdu.to_vec(),
        }
    }

    #[test]
    fn split_and_merged_segments_make_the_same_frames() {
        let frames = [frame(&[1]), frame(&[2; 300]), frame(&[3, 3])];
        let stream: Vec<u8> = frames
            .iter()
            .flat_map(|frame| frame.encode().unwrap())
            .collect();
        for chunk in [1, 7, 8, 9, 311, stream.len()] {
            let mut reassembler = Reassembler::default();
            let mut seen = vec![];
            for part in stream.chunks(chunk) {
                reassembler.push(part);
                while let Some(frame) = reassembler.next().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, frames);
        }
    }

    #[test]
    fn junk_empty_frames_and_floods_are_faults_that_stay() {
        for (octets, offset) in [
            (&[1_u8][..], 0),
            (&[0, 2], 1),
            (&[0, 1, 0, 1, 0, 1, 0, 0], 6),
        ] {
            let mut reassembler = Reassembler::default();
            reassembler.push(octets);
            let fault = reassembler.next().unwrap_err();
            assert!(
                matches!(fault, Error::Unexpected { offset: at, .. } | Error::Bounds { offset: at, .. } if at == offset)
            );
            reassembler.push(&frame(&[1]).encode().unwrap());
            assert_eq!(reassembler.next(), Err(fault));
        }
        let mut reassembler = Reassembler::new(10);
        reassembler.push(&[0; 11]);
        assert!(matches!(
            reassembler.next(),
            Err(Error::Bounds { found: 11, .. })
        ));
        let mut reassembler = Reassembler::new(10);
        reassembler.push(&[0, 1, 0, 1, 0, 1, 0, 3]);
        assert!(matches!(
            reassembler.next(),
            Err(Error::Bounds {
                offset: 6,
                found: 3,
                ..
            })
        ));
    }

    #[test]
    fn a_datagram_holds_one_frame_and_nothing_else() {
        let whole = frame(&[7; 5]).encode().unwrap();
        assert_eq!(Frame::decode(&whole), Ok(frame(&[7; 5])));
        assert_eq!(
            Frame::decode(&whole[..12]),
            Err(Error::Truncated {
                offset: 8,
                needed: 5,
                found: 4
            })
        );
        assert_eq!(
            Frame::decode(&whole[..5]),
            Err(Error::Truncated {
                offset: 0,
                needed: 8,
                found: 5
            })
        );
        let joined = [whole.clone(), whole].concat();
        assert_eq!(
            Frame::decode(&joined),
            Err(Error::Trailing {
                offset: 13,
                found: 13
            })
        );
    }
}
