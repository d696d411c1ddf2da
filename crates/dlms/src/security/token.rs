//! The token of HLS 5.

use alloc::vec::Vec;

use super::{SecurityControl, Suite, TAG};
use crate::axdr::Reader;
use crate::error::Error;

/// An HLS5 token, SC || IC || T (17 octets).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GmacToken {
    /// A bit and suite: 0x10 | suite.
    pub control: SecurityControl,
    /// The sender's invocation counter.
    pub counter: u32,
    /// The GMAC, 12 octets.
    pub tag: [u8; TAG],
}

impl GmacToken {
    /// Octets of a token.
    pub const LENGTH: usize = 1 + 4 + TAG;

    /// Takes a token apart.
    ///
    /// # Errors
    /// Another length than 17 octets, or a control octet that is not authentication only, of suite 0, 1 or 2.
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(octets);
        let found = reader.u8()?;
        if !matches!(found, 0x10..=0x12) {
            return Err(Error::Unexpected {
                offset: 0,
                expected: "an HLS5 control octet (10, 11 or 12)",
                found,
            });
        }
        let token = Self {
            control: SecurityControl::new(found),
            counter: reader.u32()?,
            tag: reader.array()?,
        };
        reader.finish()?;
        Ok(token)
    }

    /// Whether it may be used in an association of this suite: it names that suite, or suite 0.
    ///
    /// Peers are known that say 10 in every suite. Nothing is lost by it: the octet is under the tag, and the key (with
    /// its length) is the association's, whatever the octet says.
    #[must_use]
    pub const fn is_of(&self, suite: Suite) -> bool {
        match self.control.suite() {
            Some(Suite::Suite0) => true,
            Some(found) => found.id() == suite.id(),
            None => false,
        }
    }

    /// Puts it together.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LENGTH);
        out.push(self.control.octet());
        out.extend_from_slice(&self.counter.to_be_bytes());
        out.extend_from_slice(&self.tag);
        out
    }
}
