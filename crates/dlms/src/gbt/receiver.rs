//! The side that an APDU is sent to.

use alloc::vec::Vec;
use core::mem;

use super::GeneralBlock;
use crate::error::Error;

/// How many blocks in a row may bring nothing new before the transfer is given up.
pub const USELESS_MAX: u8 = 200;

/// What a block led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// More blocks follow at once.
    More,
    /// The peer waits: send this acknowledgement.
    Acknowledge(GeneralBlock),
    /// The APDU is complete.
    Complete(Vec<u8>),
}

/// Puts one APDU together from its blocks. What comes after a gap is dropped: the peer sends it again.
pub struct Receiver {
    octets: Vec<u8>,
    /// The longest APDU taken.
    limit: usize,
    /// How many blocks are taken in a row.
    window: u8,
    /// The last block received without a gap before it.
    received: u16,
    /// The last block sent to the peer: acknowledgements are numbered after it.
    own: u16,
    useless: u8,
}

/// The APDU may be in clear: only numbers are shown.
impl core::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "Receiver({} blocks, {} octets)",
            self.received,
            self.octets.len()
        )
    }
}

impl Receiver {
    /// Of an APDU of at most `limit` octets, `window` blocks in a row (0 counts as 1). `own` is the number of the last
    /// block sent to the peer in this exchange, 0 for none.
    #[must_use]
    pub const fn new(limit: usize, window: u8, own: u16) -> Self {
        Self {
            octets: Vec::new(),
            limit,
            window: if window == 0 { 1 } else { window },
            received: 0,
            own,
            useless: 0,
        }
    }

    /// Takes a block of the APDU.
    ///
    /// # Errors
    /// An APDU that is too long, a block beyond the window or after the one numbered 65535, a block without octets that is not the last, a last block
    /// of nothing, or [`USELESS_MAX`] blocks that bring nothing new.
    pub fn take(&mut self, block: &GeneralBlock) -> Result<Received, Error> {
        if block.block > self.received.saturating_add(u16::from(self.window)) || block.block == 0 {
            return Err(Error::Bounds {
                offset: 2,
                expected: "the number of a block in the window",
                found: usize::from(block.block),
            });
        }
        // There is no number after 65535: what follows it would be the next block for ever.
        let next = self.received.checked_add(1).ok_or(Error::Bounds {
            offset: 2,
            expected: "no block after the one numbered 65535",
            found: usize::from(block.block),
        })?;
        if block.block != next {
            return self.useless(block);
        }
        let found = self.octets.len().saturating_add(block.data.len());
        if found > self.limit {
            return Err(Error::TooLong {
                limit: self.limit,
                found,
            });
        }
        // A peer that sends nothing for ever would keep the transfer for ever.
        if block.data.is_empty() && (!block.last || self.octets.is_empty()) {
            return Err(Error::Bounds {
                offset: 6,
                expected: "some octets of the APDU",
                found: 0,
            });
        }
        self.octets.extend_from_slice(&block.data);
        self.received = next;
        self.useless = 0;
        if block.last {
            return Ok(Received::Complete(mem::take(&mut self.octets)));
        }
        Ok(self.answer(block))
    }

    /// No block came in time: asks for those that were lost.
    pub fn timed_out(&mut self) -> GeneralBlock {
        self.acknowledgement()
    }

    /// The last block received without a gap before it: what one's own next blocks acknowledge.
    #[must_use]
    pub const fn received(&self) -> u16 {
        self.received
    }

    /// The number of the last block sent to the peer, acknowledgements included.
    #[must_use]
    pub const fn own(&self) -> u16 {
        self.own
    }

    /// One that was received before, or one after a gap.
    fn useless(&mut self, block: &GeneralBlock) -> Result<Received, Error> {
        self.useless = self.useless.saturating_add(1);
        if self.useless > USELESS_MAX {
            return Err(Error::Bounds {
                offset: 2,
                expected: "the number of a block that is missing",
                found: usize::from(block.block),
            });
        }
        Ok(self.answer(block))
    }

    fn answer(&mut self, block: &GeneralBlock) -> Received {
        if block.streaming {
            Received::More
        } else {
            Received::Acknowledge(self.acknowledgement())
        }
    }

    fn acknowledgement(&mut self) -> GeneralBlock {
        self.own = self.own.wrapping_add(1);
        GeneralBlock {
            last: true,
            streaming: false,
            window: self.window,
            block: self.own,
            ack: self.received,
            data: Vec::new(),
        }
    }
}
