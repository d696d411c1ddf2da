//! Addresses of stations (IEC 62056-46, 6.4.2): seven bits an octet, and a low bit that says "the last one".

use alloc::vec::Vec;

use super::Fault;
use crate::error::Error;

const SEVEN_BITS: u16 = 0x7F;
const FOURTEEN_BITS: u16 = 0x3FFF;

/// The address of a client (one octet) or of a server (one, two or four).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    length: Length,
    upper: u16,
    /// 0 in an address of one octet.
    lower: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    One,
    Two,
    Four,
}

impl Address {
    /// A client: 1 is the management client, 16 the public one.
    ///
    /// # Errors
    /// [`Error::Bounds`] if it is not 1..127.
    pub fn client(client_sap: u16) -> Result<Self, Error> {
        let expected = "a client address of 1..127";
        if client_sap == 0 {
            return Err(out_of_bounds(expected, client_sap));
        }
        Ok(Self {
            length: Length::One,
            upper: within(SEVEN_BITS, client_sap, expected)?,
            lower: 0,
        })
    }

    /// A server: the logical device (the upper address) and the physical device (the lower one), in `octets` octets.
    /// One octet has no room for a physical device: it must be 0 then.
    ///
    /// # Errors
    /// [`Error::Bounds`] if `octets` is not 1, 2 or 4, or if a number does not fit: 0..127, with four octets 0..16383.
    pub fn server(octets: u8, logical: u16, physical: u16) -> Result<Self, Error> {
        let (length, upper, lower) = match octets {
            1 => (Length::One, SEVEN_BITS, 0),
            2 => (Length::Two, SEVEN_BITS, SEVEN_BITS),
            4 => (Length::Four, FOURTEEN_BITS, FOURTEEN_BITS),
            _ => {
                return Err(out_of_bounds(
                    "a server address of 1, 2 or 4 octets",
                    u16::from(octets),
                ));
            }
        };
        Ok(Self {
            length,
            upper: within(upper, logical, "a logical device that its octets can hold")?,
            lower: within(
                lower,
                physical,
                "a physical device that the octets of the address can hold",
            )?,
        })
    }

    /// How many octets it takes: 1, 2 or 4.
    #[must_use]
    pub const fn octets(self) -> usize {
        match self.length {
            Length::One => 1,
            Length::Two => 2,
            Length::Four => 4,
        }
    }

    /// The upper address: the client, or the logical device.
    #[must_use]
    pub const fn upper(self) -> u16 {
        self.upper
    }

    /// The lower address: the physical device, if there is one.
    #[must_use]
    pub const fn lower(self) -> Option<u16> {
        match self.length {
            Length::One => None,
            Length::Two | Length::Four => Some(self.lower),
        }
    }

    /// Whether it names more than one station: all bits of a half are set.
    #[must_use]
    pub fn is_broadcast(self) -> bool {
        self.upper == self.all() || self.lower() == Some(self.all())
    }

    /// Whether this address of a frame names the station `own`, alone or among others.
    pub(super) fn names(self, own: Self) -> bool {
        self.length == own.length
            && (self.upper == own.upper || self.upper == self.all())
            && (self.lower == own.lower || self.lower() == Some(self.all()))
    }

    /// A half with every bit set.
    const fn all(self) -> u16 {
        match self.length {
            Length::One | Length::Two => SEVEN_BITS,
            Length::Four => FOURTEEN_BITS,
        }
    }

    pub(super) fn encode_to(self, out: &mut Vec<u8>) {
        match self.length {
            Length::One => out.push(low(self.upper) | 1),
            Length::Two => out.extend_from_slice(&[low(self.upper), low(self.lower) | 1]),
            Length::Four => out.extend_from_slice(&[
                low(self.upper >> 7),
                low(self.upper),
                low(self.lower >> 7),
                low(self.lower) | 1,
            ]),
        }
    }

    /// The address at the beginning of `octets`; nothing if it is not whole. `offset`: where they stand in the frame.
    pub(super) fn decode(octets: &[u8], offset: usize) -> Option<Result<Self, Fault>> {
        let last = octets
            .iter()
            .take(LONGEST)
            .position(|octet| octet & 1 == 1)
            .and_then(|last| octets.get(..=last));
        let address = |length, upper, lower| {
            Some(Ok(Self {
                length,
                upper,
                lower,
            }))
        };
        let wide = |high, low| (seven(high) << 7) | seven(low);
        match last {
            Some([upper]) => address(Length::One, seven(*upper), 0),
            Some([upper, lower]) => address(Length::Two, seven(*upper), seven(*lower)),
            Some([a, b, c, d]) => address(Length::Four, wide(*a, *b), wide(*c, *d)),
            Some(other) => Some(Err(Fault::Address {
                offset,
                found: other.len(),
            })),
            None if octets.len() >= LONGEST => Some(Err(Fault::Address {
                offset,
                found: LONGEST.saturating_add(1),
            })),
            None => None,
        }
    }
}

const LONGEST: usize = 4;

const fn out_of_bounds(expected: &'static str, found: u16) -> Error {
    Error::Bounds {
        offset: 0,
        expected,
        found: found as usize,
    }
}

const fn within(limit: u16, number: u16, expected: &'static str) -> Result<u16, Error> {
    if number <= limit {
        Ok(number)
    } else {
        Err(out_of_bounds(expected, number))
    }
}

/// The low seven bits, in the place they have in an octet of an address.
fn low(number: u16) -> u8 {
    u8::try_from((number & SEVEN_BITS) << 1).unwrap_or_default()
}

fn seven(octet: u8) -> u16 {
    u16::from(octet >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_length_both_ways() {
        let table: [(Address, &[u8]); 5] = [
            (Address::client(16).unwrap(), &[0x21]),
            (Address::server(1, 1, 0).unwrap(), &[0x03]),
            (Address::server(2, 1, 17).unwrap(), &[0x02, 0x23]),
            (Address::server(4, 1, 17).unwrap(), &[0, 2, 0, 0x23]),
            (
                Address::server(4, 0x3FFF, 0x1234).unwrap(),
                &[0xFE, 0xFE, 0x48, 0x69],
            ),
        ];
        for (address, octets) in table {
            let mut out = Vec::new();
            address.encode_to(&mut out);
            assert_eq!(out, octets);
            assert_eq!(Address::decode(octets, 3), Some(Ok(address)));
            assert_eq!(Address::decode(&octets[..octets.len() - 1], 3), None);
            assert_eq!(address.octets(), octets.len());
        }
    }

    #[test]
    fn three_octets_or_more_than_four_are_no_address() {
        assert_eq!(
            Address::decode(&[2, 2, 3], 3),
            Some(Err(Fault::Address {
                offset: 3,
                found: 3
            }))
        );
        assert_eq!(
            Address::decode(&[2, 2, 2, 2, 3], 3),
            Some(Err(Fault::Address {
                offset: 3,
                found: 5
            }))
        );
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        assert!(Address::client(0).is_err() && Address::client(128).is_err());
        for (octets, logical, physical) in [
            (1, 128, 0),
            (1, 1, 1),
            (2, 1, 128),
            (3, 1, 1),
            (4, 1, 16_384),
        ] {
            assert!(Address::server(octets, logical, physical).is_err());
        }
    }

    #[test]
    fn a_station_is_named_by_its_own_address_or_by_all_ones() {
        let own = Address::server(2, 1, 17).unwrap();
        let named =
            |octets, upper, lower| Address::server(octets, upper, lower).unwrap().names(own);
        assert!(named(2, 1, 17) && named(2, 0x7F, 17) && named(2, 1, 0x7F) && named(2, 0x7F, 0x7F));
        assert!(!named(2, 2, 17) && !named(2, 1, 18) && !named(1, 1, 0) && !named(4, 1, 17));
    }
}
