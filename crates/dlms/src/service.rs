//! GET, SET and ACTION (IEC 62056-5-3): what requests and responses share.

mod request;
mod response;

pub use request::{Command, Request};
pub(crate) use response::EXCEPTION;
pub use response::{Exception, Response};

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
