//! What passes: whole units of the framing that the connection was opened for, and nothing else. What is inside a unit
//! is not looked at.
//!
//! | framing | a unit |
//! |---|---|
//! | wrapper over TCP (IEC 62056-47) | version 1, two ports, length; then so many octets |
//! | wrapper over UDP | two octets of length, then one datagram: exactly one unit of the row above |
//! | HDLC (IEC 62056-46), to the meter | `7E`, format type 3 with its length, so many octets, `7E` |
//! | HDLC, from the meter | whatever comes: lines damage octets, and the association shows what was damaged |

/// Octets of a wrapper header: version, source port, destination port, length; each 16 bits, big-endian.
pub const HEADER: usize = 8;
/// Octets of the length before a datagram.
pub const PREFIX: usize = 2;
const FLAG: u8 = 0x7E;
/// The shortest and the longest HDLC frame, without its flags.
const HDLC_LENGTHS: std::ops::RangeInclusive<usize> = 7..=2047;

/// How octets are cut into units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// PDUs of the wrapper.
    Wrapper,
    /// Datagrams with their length before them, each one PDU of the wrapper.
    Datagrams,
    /// HDLC frames.
    Hdlc,
    /// No units: octets as they come.
    Octets,
}

/// Octets that do not begin with a unit, or one whose length is zero or over the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the beginning of a unit of this framing ({framing:?}) with an APDU of at most {max_pdu} octets"
)]
pub struct Garbage {
    /// What was expected.
    pub framing: Framing,
    /// The largest length of an APDU that passes.
    pub max_pdu: usize,
}

/// What one side has sent and the other has not been given yet: less than one unit and one read.
#[derive(Debug)]
pub struct Units {
    held: Vec<u8>,
    framing: Framing,
    max_pdu: usize,
}

impl Units {
    /// Nothing yet. `max_pdu`: the longest APDU in a wrapper; HDLC bounds its frames itself.
    #[must_use]
    pub fn new(framing: Framing, max_pdu: usize) -> Self {
        Self {
            held: Vec::new(),
            framing,
            max_pdu,
        }
    }

    /// Takes octets in.
    pub fn push(&mut self, octets: &[u8]) {
        self.held.extend_from_slice(octets);
    }

    /// Takes out every unit that is whole, and says how many they are. Nothing of a unit leaves before all of it
    /// is here, so the other side never sees the beginning of garbage.
    ///
    /// # Errors
    /// [`Garbage`], after which the connection is not worth reading.
    pub fn take_whole(&mut self) -> Result<(Vec<u8>, u64), Garbage> {
        if self.framing == Framing::Octets {
            return Ok((std::mem::take(&mut self.held), 0));
        }
        let (mut end, mut count) = (0_usize, 0_u64);
        while let Some(length) = self.unit_length(end)? {
            let next = end.saturating_add(length);
            let Some(unit) = self.held.get(end..next) else {
                break;
            };
            if self.framing == Framing::Hdlc && !unit.ends_with(&[FLAG]) {
                return Err(self.garbage());
            }
            end = next;
            count = count.saturating_add(1);
        }
        let rest = self.held.split_off(end);
        Ok((std::mem::replace(&mut self.held, rest), count))
    }

    /// Whether a unit has begun and is not whole.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.held.is_empty()
    }

    /// The length of the unit that begins at `at`; `None` while that cannot be told. What can be judged is judged as
    /// soon as it is there.
    fn unit_length(&self, at: usize) -> Result<Option<usize>, Garbage> {
        let octets = self.held.get(at..).unwrap_or_default();
        match self.framing {
            Framing::Octets => Ok(None),
            Framing::Wrapper => self.wrapper_length(octets),
            Framing::Datagrams => {
                let Some((prefix, datagram)) = octets.split_first_chunk::<PREFIX>() else {
                    return Ok(None);
                };
                let length = usize::from(u16::from_be_bytes(*prefix));
                match self.wrapper_length(datagram)? {
                    None if length >= HEADER => Ok(None),
                    Some(whole) if whole == length => Ok(Some(PREFIX.saturating_add(whole))),
                    None | Some(_) => Err(self.garbage()),
                }
            }
            Framing::Hdlc => self.hdlc_length(octets),
        }
    }

    fn wrapper_length(&self, octets: &[u8]) -> Result<Option<usize>, Garbage> {
        let begins = octets
            .iter()
            .zip([0x00, 0x01])
            .all(|(have, want)| *have == want);
        if !begins {
            return Err(self.garbage());
        }
        let Some([high, low]) = octets.get(6..HEADER) else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length == 0 || length > self.max_pdu {
            Err(self.garbage())
        } else {
            Ok(Some(HEADER.saturating_add(length)))
        }
    }

    fn hdlc_length(&self, octets: &[u8]) -> Result<Option<usize>, Garbage> {
        let type_3 = |format: &u8| format & 0xF0 == 0xA0;
        match octets {
            [] | [FLAG] => Ok(None),
            [FLAG, format] if type_3(format) => Ok(None),
            [FLAG, format, low, ..] if type_3(format) => {
                let length = usize::from(u16::from_be_bytes([format & 0x07, *low]));
                if HDLC_LENGTHS.contains(&length) {
                    Ok(Some(length.saturating_add(2)))
                } else {
                    Err(self.garbage())
                }
            }
            _ => Err(self.garbage()),
        }
    }

    const fn garbage(&self) -> Garbage {
        Garbage {
            framing: self.framing,
            max_pdu: self.max_pdu,
        }
    }
}

/// Whether a datagram is exactly one PDU of the wrapper.
#[must_use]
pub fn is_one_pdu(datagram: &[u8], max_pdu: usize) -> bool {
    let units = Units::new(Framing::Wrapper, max_pdu);
    matches!(units.wrapper_length(datagram), Ok(Some(whole)) if whole == datagram.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pdu(apdu: &[u8]) -> Vec<u8> {
        let length = u16::try_from(apdu.len()).unwrap().to_be_bytes();
        [&[0, 1, 0, 1, 0, 16], length.as_slice(), apdu].concat()
    }

    #[test]
    fn whole_pdus_pass_however_they_are_cut() {
        let stream = [pdu(b"one"), pdu(b"two!"), pdu(&[7; 100])].concat();
        for size in 1..stream.len() {
            let mut pdus = Units::new(Framing::Wrapper, 100);
            let (mut out, mut count) = (Vec::new(), 0);
            for chunk in stream.chunks(size) {
                pdus.push(chunk);
                let (octets, whole) = pdus.take_whole().unwrap();
                out.extend(octets);
                count += whole;
            }
            assert_eq!((out, count), (stream.clone(), 3));
            assert!(!pdus.is_partial());
        }
    }

    #[test]
    fn half_a_pdu_stays() {
        let mut pdus = Units::new(Framing::Wrapper, 100);
        let whole = pdu(b"abc");
        pdus.push(&whole[..10]);
        assert_eq!(pdus.take_whole(), Ok((vec![], 0)));
        assert!(pdus.is_partial());
        pdus.push(&whole[10..]);
        assert_eq!(pdus.take_whole(), Ok((whole, 1)));
    }

    #[test]
    fn garbage_is_seen_at_once() {
        let too_long = [&[0, 1, 0, 1, 0, 16, 0, 101][..], &[0; 101]].concat();
        let cases: [&[u8]; 6] = [
            b"\x7e",
            b"\x00\x02",
            b"\x00\x00",
            b"GET / HTTP/1.1",
            &[0, 1, 0, 1, 0, 16, 0, 0],
            &too_long,
        ];
        for case in cases {
            let mut pdus = Units::new(Framing::Wrapper, 100);
            pdus.push(case);
            assert_eq!(
                pdus.take_whole(),
                Err(Garbage {
                    framing: Framing::Wrapper,
                    max_pdu: 100
                }),
                "{case:02x?}"
            );
        }
        let mut pdus = Units::new(Framing::Wrapper, 100);
        pdus.push(&[pdu(b"good"), vec![9]].concat());
        assert!(pdus.take_whole().is_err(), "garbage after a good PDU");
    }

    fn hdlc(length: usize) -> Vec<u8> {
        let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
        // Flags within a frame end nothing.
        let body = vec![FLAG; length - 2];
        [&[FLAG, 0xA0 | high, low][..], &body, &[FLAG]].concat()
    }

    #[test]
    fn hdlc_frames_pass_whole_and_by_their_length() {
        let stream = [hdlc(8), hdlc(300), hdlc(7)].concat();
        for size in [1, 2, 3, 10, stream.len()] {
            let mut units = Units::new(Framing::Hdlc, 100);
            let (mut out, mut count) = (Vec::new(), 0);
            for chunk in stream.chunks(size) {
                units.push(chunk);
                let (octets, whole) = units.take_whole().unwrap();
                out.extend(octets);
                count += whole;
            }
            assert_eq!((out, count), (stream.clone(), 3));
        }
        let mut unclosed = hdlc(8);
        *unclosed.last_mut().unwrap() = 0;
        for garbage in [
            &pdu(b"abc")[..],
            &[FLAG, 0x50],
            &[FLAG, 0xA0, 6],
            &[FLAG, FLAG],
            &unclosed,
        ] {
            let mut units = Units::new(Framing::Hdlc, 100);
            units.push(garbage);
            assert!(units.take_whole().is_err(), "{garbage:02x?}");
        }
    }

    #[test]
    fn a_datagram_is_one_pdu_behind_its_length() {
        let of = |datagram: &[u8]| {
            let length = u16::try_from(datagram.len()).unwrap().to_be_bytes();
            [&length[..], datagram].concat()
        };
        let good = [of(&pdu(b"one")), of(&pdu(&[7; 100]))].concat();
        let mut units = Units::new(Framing::Datagrams, 100);
        let (head, tail) = good.split_at(14);
        units.push(head);
        assert_eq!(units.take_whole(), Ok((of(&pdu(b"one")), 1)));
        units.push(tail);
        assert_eq!(units.take_whole(), Ok((of(&pdu(&[7; 100])), 1)));
        let joined = [pdu(b"a"), pdu(b"b")].concat();
        for garbage in [
            of(&joined),
            of(&pdu(b"abc")[..10]),
            of(&[]),
            of(b"garbage!!"),
        ] {
            let mut units = Units::new(Framing::Datagrams, 100);
            units.push(&garbage);
            assert!(units.take_whole().is_err(), "{garbage:02x?}");
        }
        assert!(is_one_pdu(&pdu(b"one"), 100) && !is_one_pdu(&pdu(b"one"), 2));
        assert!(
            !is_one_pdu(&joined, 100)
                && !is_one_pdu(&pdu(b"one")[..9], 100)
                && !is_one_pdu(&[], 100)
        );
    }

    #[test]
    fn octets_of_a_meters_hdlc_pass_as_they_come() {
        let mut units = Units::new(Framing::Octets, 100);
        units.push(b"noise");
        assert_eq!(units.take_whole(), Ok((b"noise".to_vec(), 0)));
        assert!(!units.is_partial());
    }
}
