//! The conformance block: which services an association may use (IEC 62056-5-3).

use core::fmt;
use core::ops::{BitAnd, BitOr};

/// A set of services, 24 bits; bit 0 of the standard is the most significant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Conformance(u32);

impl Conformance {
    /// No service.
    pub const NONE: Self = Self(0);
    /// Bit 1: general protection (general-glo-ciphering and its kin).
    pub const GENERAL_PROTECTION: Self = Self::bit(1);
    /// Bit 2: general block transfer. Peers are known that propose it and do not have it: name it only where it is needed.
    pub const GENERAL_BLOCK_TRANSFER: Self = Self::bit(2);
    /// Bit 9: priority of requests is handled.
    pub const PRIORITY_MANAGEMENT: Self = Self::bit(9);
    /// Bit 11: GET answers may come in blocks.
    pub const BLOCK_TRANSFER_GET: Self = Self::bit(11);
    /// Bit 12: SET requests may come in blocks.
    pub const BLOCK_TRANSFER_SET: Self = Self::bit(12);
    /// Bit 13: ACTION requests and answers may come in blocks.
    pub const BLOCK_TRANSFER_ACTION: Self = Self::bit(13);
    /// Bit 14: several attributes or methods in one request (with-list).
    pub const MULTIPLE_REFERENCES: Self = Self::bit(14);
    /// Bit 16: DataNotification, what a push setup sends.
    pub const DATA_NOTIFICATION: Self = Self::bit(16);
    /// Bit 17: ACCESS.
    pub const ACCESS: Self = Self::bit(17);
    /// Bit 19: GET.
    pub const GET: Self = Self::bit(19);
    /// Bit 20: SET.
    pub const SET: Self = Self::bit(20);
    /// Bit 21: selective access.
    pub const SELECTIVE_ACCESS: Self = Self::bit(21);
    /// Bit 22: EventNotification.
    pub const EVENT_NOTIFICATION: Self = Self::bit(22);
    /// Bit 23: ACTION.
    pub const ACTION: Self = Self::bit(23);
    /// What a reset needs, and no more: GET (also in blocks, also selective) and ACTION, but no SET.
    pub const RESET: Self =
        Self(Self::GET.0 | Self::ACTION.0 | Self::SELECTIVE_ACCESS.0 | Self::BLOCK_TRANSFER_GET.0);

    const fn bit(number: u32) -> Self {
        Self(0x80_0000 >> number)
    }

    /// From the low 24 bits; the others are dropped.
    #[must_use]
    pub const fn new(bits: u32) -> Self {
        Self(bits & 0xFF_FFFF)
    }

    /// The 24 bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether every service of `other` is in it.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitAnd for Conformance {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Conformance {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Conformance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conformance({:06X})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_zero_is_the_most_significant() {
        assert_eq!(Conformance::ACTION.bits(), 1);
        assert_eq!(Conformance::GET.bits(), 0x10);
        assert_eq!(Conformance::BLOCK_TRANSFER_GET.bits(), 0x1000);
        assert_eq!(Conformance::GENERAL_PROTECTION.bits(), 0x40_0000);
        assert_eq!(Conformance::new(0xFF00_0000), Conformance::NONE);
        assert!(!Conformance::RESET.contains(Conformance::SET));
    }
}
