//! What SNRM and UA negotiate (IEC 62056-46, 6.4.4.4.3.2): `81 80 len`, then `05`, `06`, `07`, `08`, each with its length.

use alloc::vec::Vec;

use crate::axdr::Reader;
use crate::error::Error;

/// The sizes a station proposes, as it sees them itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// 05: the longest information field it sends, in octets, 1..2030.
    pub max_info_transmit: u16,
    /// 06: the longest it receives.
    pub max_info_receive: u16,
    /// 07: how many frames it sends before it waits for an acknowledgement, 1..7.
    pub window_transmit: u8,
    /// 08: how many it receives.
    pub window_receive: u8,
}

const FORMAT: u8 = 0x81;
const GROUP: u8 = 0x80;

/// What is meant when nothing is said: 128 octets, one frame.
impl Default for Parameters {
    fn default() -> Self {
        Self {
            max_info_transmit: 128,
            max_info_receive: 128,
            window_transmit: 1,
            window_receive: 1,
        }
    }
}

impl Parameters {
    /// The same sizes in both directions.
    #[must_use]
    pub const fn symmetric(max_info: u16, window: u8) -> Self {
        Self {
            max_info_transmit: max_info,
            max_info_receive: max_info,
            window_transmit: window,
            window_receive: window,
        }
    }

    /// What a station with these parameters may do towards one with `peer`'s: never more than the other receives.
    #[must_use]
    pub fn against(self, peer: Self) -> Self {
        Self {
            max_info_transmit: self.max_info_transmit.min(peer.max_info_receive),
            max_info_receive: self.max_info_receive.min(peer.max_info_transmit),
            window_transmit: self.window_transmit.min(peer.window_receive),
            window_receive: self.window_receive.min(peer.window_transmit),
        }
    }

    /// The information field, always with all four: lengths in two octets, windows in four.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(23);
        out.extend_from_slice(&[FORMAT, GROUP, 20]);
        for (id, length) in [(5, self.max_info_transmit), (6, self.max_info_receive)] {
            out.extend_from_slice(&[id, 2]);
            out.extend_from_slice(&length.to_be_bytes());
        }
        for (id, window) in [(7, self.window_transmit), (8, self.window_receive)] {
            out.extend_from_slice(&[id, 4]);
            out.extend_from_slice(&u32::from(window).to_be_bytes());
        }
        out
    }

    /// Reads an information field. An empty one, and what it leaves out, mean the defaults; groups and parameters of
    /// others are passed over.
    ///
    /// # Errors
    /// Lengths that do not add up, and a size or window that is none: 0, or more than four octets.
    pub fn decode(information: &[u8]) -> Result<Self, Error> {
        let mut parameters = Self::default();
        let mut reader = Reader::new(information);
        if reader.left() == 0 {
            return Ok(parameters);
        }
        reader.tag(FORMAT, "the format identifier 81")?;
        while reader.left() > 0 {
            let group = reader.u8()?;
            // The user group has no length that can be relied on: all that is left is its own.
            if group != GROUP {
                break;
            }
            let mut group = reader.nested()?;
            while group.left() > 0 {
                parameters.read_one(&mut group)?;
            }
        }
        Ok(parameters)
    }

    fn read_one(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        let id = reader.u8()?;
        let length = reader.u8()?;
        let offset = reader.offset();
        let octets = reader.take(usize::from(length))?;
        if !(5..=8).contains(&id) {
            return Ok(());
        }
        let value = match octets {
            [_, ..] if octets.len() <= 4 => octets
                .iter()
                .fold(0_u32, |value, octet| (value << 8) | u32::from(*octet)),
            _ => 0,
        };
        if value == 0 {
            return Err(Error::Bounds {
                offset,
                expected: "a size or window of 1..4 octets that is not 0",
                found: octets.len(),
            });
        }
        let size = u16::try_from(value).unwrap_or(u16::MAX).min(MAX_INFO);
        let window = u8::try_from(value).unwrap_or(u8::MAX).min(MAX_WINDOW);
        match id {
            5 => self.max_info_transmit = size,
            6 => self.max_info_receive = size,
            7 => self.window_transmit = window,
            _ => self.window_receive = window,
        }
        Ok(())
    }
}

/// The longest information field there is.
pub const MAX_INFO: u16 = 2030;
/// The widest window there is.
pub const MAX_WINDOW: u8 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_one_two_and_four_octets_and_none_at_all() {
        assert_eq!(Parameters::decode(&[]), Ok(Parameters::default()));
        let short = [0x81, 0x80, 6, 5, 1, 0x9A, 8, 1, 3];
        let read = Parameters::decode(&short).unwrap();
        assert_eq!((read.max_info_transmit, read.max_info_receive), (154, 128));
        assert_eq!((read.window_transmit, read.window_receive), (1, 3));
        let all = Parameters::symmetric(1024, 7);
        assert_eq!(Parameters::decode(&all.encode()), Ok(all));
        let beyond = [0x81, 0x80, 9, 6, 2, 0xFF, 0xFF, 7, 1, 9, 0x42, 0];
        let read = Parameters::decode(&beyond).unwrap();
        assert_eq!((read.max_info_receive, read.window_transmit), (2030, 7));
    }

    #[test]
    fn lengths_that_do_not_add_up_are_refused() {
        for bad in [
            &[0x80][..],
            &[0x81, 0x80],
            &[0x81, 0x80, 3, 5, 1],
            &[0x81, 0x80, 2, 5, 1],
            &[0x81, 0x80, 3, 5, 1, 0],
            &[0x81, 0x80, 7, 5, 5, 0, 0, 0, 0, 1],
        ] {
            assert!(Parameters::decode(bad).is_err(), "{bad:02X?}");
        }
    }

    #[test]
    fn neither_side_sends_more_than_the_other_receives() {
        let ours = Parameters::symmetric(512, 3);
        let theirs = Parameters {
            max_info_transmit: 256,
            max_info_receive: 128,
            window_transmit: 7,
            window_receive: 1,
        };
        assert_eq!(
            ours.against(theirs),
            Parameters {
                max_info_transmit: 128,
                max_info_receive: 256,
                window_transmit: 1,
                window_receive: 3,
            }
        );
    }
}
