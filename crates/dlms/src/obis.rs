//! Logical names (OBIS codes, IEC 62056-6-1).

use core::fmt;
use core::str::FromStr;

use crate::error::Error;

/// A logical name: the six value groups A to F that name a COSEM object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Obis([u8; 6]);

impl Obis {
    /// The current association (class 15), whose method 1 carries pass 3 and 4 of HLS.
    pub const CURRENT_ASSOCIATION: Self = Self([0, 0, 40, 0, 0, 255]);

    /// From its six value groups.
    #[must_use]
    pub const fn new(groups: [u8; 6]) -> Self {
        Self(groups)
    }

    /// The six value groups, as they go over the wire.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for Obis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, last] = self.0;
        write!(f, "{a}.{b}.{c}.{d}.{e}.{last}")
    }
}

impl FromStr for Obis {
    type Err = Error;

    /// Reads `0.0.96.3.10.255` or `0-0:96.3.10.255`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::LogicalName {
            found: text.chars().take(32).collect(),
        };
        let (head, tail) = match text.split_once(':') {
            Some((head, tail)) => (head.split_once('-').ok_or_else(wrong)?, tail),
            None => {
                let (a, rest) = text.split_once('.').ok_or_else(wrong)?;
                let (b, rest) = rest.split_once('.').ok_or_else(wrong)?;
                ((a, b), rest)
            }
        };
        let mut parts = [head.0, head.1].into_iter().chain(tail.split('.'));
        let mut groups = [0; 6];
        for group in &mut groups {
            *group = parts.next().and_then(number).ok_or_else(wrong)?;
        }
        match parts.next() {
            None => Ok(Self(groups)),
            Some(_) => Err(wrong()),
        }
    }
}

/// One to three digits, no sign: `u8::from_str` would take "+5".
fn number(text: &str) -> Option<u8> {
    let digits = (1..=3).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn reads_both_spellings_and_writes_dots() {
        let name = Obis::new([0, 0, 96, 3, 10, 255]);
        assert_eq!("0.0.96.3.10.255".parse(), Ok(name));
        assert_eq!("0-0:96.3.10.255".parse(), Ok(name));
        assert_eq!(name.to_string(), "0.0.96.3.10.255");
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "0.0.96.3.10",
            "0.0.96.3.10.256",
            "0.0.96.3.10.255.1",
            "0-0:96.3.10",
            "0.0:96.3.10.255",
            "+0.0.96.3.10.255",
            "0.0.96.3.10. 255",
            "a.b.c.d.e.f",
            "0-0-96.3.10.255",
            "0000.0.96.3.10.255",
        ] {
            assert!(
                matches!(text.parse::<Obis>(), Err(Error::LogicalName { .. })),
                "{text}"
            );
        }
    }
}
