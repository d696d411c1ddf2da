//! GET, SET, ACTION, ACCESS and notifications (IEC 62056-5-3): what requests and responses share.

mod access;
mod command;
mod exception;
mod notification;
mod part;
mod request;
mod response;

pub use access::{Access, AccessOutcome, AccessSpecification, Accessed};
pub use command::Command;
pub(crate) use exception::EXCEPTION;
pub use exception::Exception;
pub use notification::{Confirmation, Notification};
pub use request::Request;
pub use response::{ActionOutcome, Response};

use crate::obis::Obis;

/// invoke-id-and-priority: id in bits 0..3, confirmed bit 6, high priority bit 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InvokeId(u8);

impl InvokeId {
    /// A confirmed request of high priority (`C0` | id): what every peer we know sends. Only four bits of `id` count.
    #[must_use]
    pub const fn new(id: u8) -> Self {
        Self(0xC0 | (id & 0x0F))
    }

    /// From the octet on the wire.
    #[must_use]
    pub const fn from_octet(octet: u8) -> Self {
        Self(octet)
    }

    /// The octet on the wire.
    #[must_use]
    pub const fn octet(self) -> u8 {
        self.0
    }

    /// The id, 0..15: what an answer is matched by.
    #[must_use]
    pub const fn id(self) -> u8 {
        self.0 & 0x0F
    }

    /// The id after this one, 15 being followed by 0.
    #[must_use]
    pub const fn next(self) -> Self {
        Self::new(self.id().wrapping_add(1))
    }
}

/// long-invoke-id-and-priority of ACCESS and DataNotification: id in bits 0..23, self-descriptive bit 28,
/// break on error bit 29, confirmed bit 30, high priority bit 31.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LongInvokeId(u32);

impl LongInvokeId {
    const SELF_DESCRIPTIVE: u32 = 1 << 28;
    const BREAK_ON_ERROR: u32 = 1 << 29;
    const CONFIRMED: u32 = 1 << 30;
    const HIGH_PRIORITY: u32 = 1 << 31;

    /// A confirmed request of high priority that goes on after an error. Only 24 bits of `id` count.
    #[must_use]
    pub const fn new(id: u32) -> Self {
        Self(Self::HIGH_PRIORITY | Self::CONFIRMED | (id & 0x00FF_FFFF))
    }

    /// From the number on the wire.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The id, 24 bits: what an answer is matched by.
    #[must_use]
    pub const fn id(self) -> u32 {
        self.0 & 0x00FF_FFFF
    }

    /// The same, with the server told to stop at the first access that fails.
    #[must_use]
    pub const fn breaking_on_error(self) -> Self {
        Self(self.0 | Self::BREAK_ON_ERROR)
    }

    /// The same, with the server asked to repeat the specifications in its answer.
    #[must_use]
    pub const fn self_describing(self) -> Self {
        Self(self.0 | Self::SELF_DESCRIPTIVE)
    }

    /// Whether the server stops at the first access that fails.
    #[must_use]
    pub const fn breaks_on_error(self) -> bool {
        self.0 & Self::BREAK_ON_ERROR != 0
    }

    /// Whether the answer repeats the specifications of the request.
    #[must_use]
    pub const fn is_self_descriptive(self) -> bool {
        self.0 & Self::SELF_DESCRIPTIVE != 0
    }

    /// Whether an answer or a confirmation is due.
    #[must_use]
    pub const fn is_confirmed(self) -> bool {
        self.0 & Self::CONFIRMED != 0
    }

    /// The four lowest bits of the id, with service class and priority, as the services with a short id have them.
    #[must_use]
    pub const fn short(self) -> InvokeId {
        let [high, _, _, low] = self.0.to_be_bytes();
        InvokeId((high & 0xC0) | (low & 0x0F))
    }
}

/// With the id, service class and priority of the short one.
impl From<InvokeId> for LongInvokeId {
    fn from(invoke: InvokeId) -> Self {
        let octet = u32::from(invoke.octet());
        Self(((octet & 0xC0) << 24) | (octet & 0x0F))
    }
}

/// An attribute of a COSEM object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attribute {
    /// Interface class.
    pub class_id: u16,
    /// Logical name.
    pub name: Obis,
    /// Attribute index, from 1; 0 means all.
    pub index: i8,
}

/// A method of a COSEM object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Method {
    /// Interface class.
    pub class_id: u16,
    /// Logical name.
    pub name: Obis,
    /// Method index, from 1.
    pub index: i8,
}

impl Method {
    /// `reply_to_HLS_authentication` of the current association: carries passes 3 and 4.
    pub const REPLY_TO_HLS: Self = Self {
        class_id: 15,
        name: Obis::CURRENT_ASSOCIATION,
        index: 1,
    };
}
