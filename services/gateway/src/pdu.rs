//! The wrapper of DLMS over TCP (IEC 62056-47): enough of it to pass whole PDUs and nothing else.
//! What is inside a PDU is not looked at.

/// Octets before the APDU: version, source port, destination port, length; each 16 bits, big-endian.
const HEADER: usize = 8;

/// Octets that do not begin with a wrapper header of version 1, or one whose length is zero or over the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a wrapper header of version 1 with a length of 1..{max_pdu}")]
pub struct Garbage {
    /// The largest length that passes.
    pub max_pdu: usize,
}

/// What one side has sent and the other has not been given yet: less than one PDU and one read.
#[derive(Debug)]
pub struct Pdus {
    held: Vec<u8>,
    max_pdu: usize,
}

impl Pdus {
    /// Nothing yet.
    #[must_use]
    pub fn new(max_pdu: usize) -> Self {
        Self {
            held: Vec::new(),
            max_pdu,
        }
    }

    /// Takes octets in.
    pub fn push(&mut self, octets: &[u8]) {
        self.held.extend_from_slice(octets);
    }

    /// Takes out every PDU that is whole, and says how many they are. Nothing of a PDU leaves before all of it
    /// is here, so the other side never sees the beginning of garbage.
    ///
    /// # Errors
    /// [`Garbage`], after which the connection is not worth reading.
    pub fn take_whole(&mut self) -> Result<(Vec<u8>, u64), Garbage> {
        let (mut end, mut count) = (0_usize, 0_u64);
        while let Some(length) = self.pdu_length(end)? {
            let next = end.saturating_add(HEADER).saturating_add(length);
            if next > self.held.len() {
                break;
            }
            end = next;
            count = count.saturating_add(1);
        }
        let rest = self.held.split_off(end);
        Ok((std::mem::replace(&mut self.held, rest), count))
    }

    /// Whether a PDU has begun and is not whole.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.held.is_empty()
    }

    /// The length in the header that begins at `at`; `None` while it is not all here. The version is judged as
    /// soon as it can be.
    fn pdu_length(&self, at: usize) -> Result<Option<usize>, Garbage> {
        let garbage = Garbage {
            max_pdu: self.max_pdu,
        };
        let header = self.held.get(at..).unwrap_or_default();
        if !header
            .iter()
            .zip([0x00, 0x01])
            .all(|(have, want)| *have == want)
        {
            return Err(garbage);
        }
        let Some([high, low]) = header.get(6..HEADER) else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length == 0 || length > self.max_pdu {
            Err(garbage)
        } else {
            Ok(Some(length))
        }
    }
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
            let mut pdus = Pdus::new(100);
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
        let mut pdus = Pdus::new(100);
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
            let mut pdus = Pdus::new(100);
            pdus.push(case);
            assert_eq!(
                pdus.take_whole(),
                Err(Garbage { max_pdu: 100 }),
                "{case:02x?}"
            );
        }
        let mut pdus = Pdus::new(100);
        pdus.push(&[pdu(b"good"), vec![9]].concat());
        assert!(pdus.take_whole().is_err(), "garbage after a good PDU");
    }
}
