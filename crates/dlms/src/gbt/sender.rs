//! The side that has an APDU to send.

use alloc::vec::Vec;

use super::GeneralBlock;
use crate::error::Error;

/// How often the same block may be sent again before the transfer is given up.
pub const RESENDS_MAX: u8 = 8;

/// What may be sent again once the last block has left. Before that anything may: the peer does not have all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resend {
    /// Whatever is not acknowledged: it does no harm to a peer that has it all, as an answer does none.
    #[default]
    Unacknowledged,
    /// What an acknowledgement names, which says that more has arrived than was known, but not all. A peer that forgot
    /// the APDU it completed and executed acknowledges nothing new, and would execute all of it once more.
    Named,
    /// Nothing: the link loses nothing.
    Nothing,
}

/// Sends one APDU in blocks: as many in a row as the peer takes, from the first that was lost once more.
///
/// Ask [`Self::next_block`] until it has none, then wait for a block of the peer and hand over its acknowledgement, or
/// for the timer.
pub struct Sender {
    apdu: Vec<u8>,
    /// Octets of the APDU in each block.
    size: usize,
    blocks: u16,
    /// What the blocks say of the other direction: one's own window, the last block received.
    own_window: u8,
    ack: u16,
    /// How many blocks the peer takes in a row.
    window: u8,
    /// The last block that has arrived.
    arrived: u16,
    /// The last block that was sent since.
    sent: u16,
    resends: u8,
    /// Whether the last block has left.
    ended: bool,
    /// What may be sent again after that.
    again: Resend,
}

/// The APDU may be in clear: only numbers are shown.
impl core::fmt::Debug for Sender {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "Sender({} sent, {} arrived, of {})",
            self.sent, self.arrived, self.blocks
        )
    }
}

impl Sender {
    /// Of an APDU, `size` octets of it in each block. `window` is how many blocks the peer takes in a row (0 counts as
    /// 1: nothing is known), `own_window` how many are taken here; `ack` is the last block received before.
    ///
    /// # Errors
    /// [`Error::TooLong`] if 65535 blocks of this size do not hold it.
    pub fn new(
        apdu: Vec<u8>,
        size: usize,
        window: u8,
        own_window: u8,
        ack: u16,
    ) -> Result<Self, Error> {
        let too_long = Error::TooLong {
            limit: size.saturating_mul(usize::from(u16::MAX)),
            found: apdu.len(),
        };
        let blocks = match apdu.len().checked_div(size) {
            Some(_) => u16::try_from(apdu.len().div_ceil(size).max(1)).map_err(|_| too_long)?,
            None => return Err(too_long),
        };
        Ok(Self {
            apdu,
            size,
            blocks,
            own_window,
            ack,
            window: window.max(1),
            arrived: 0,
            sent: 0,
            resends: 0,
            ended: false,
            again: Resend::default(),
        })
    }

    /// The same, but once its last block has left only this is sent again.
    #[must_use]
    pub const fn resending(mut self, again: Resend) -> Self {
        self.again = again;
        self
    }

    /// The block to be sent now, if any: the window is full, or all is sent.
    pub fn next_block(&mut self) -> Option<GeneralBlock> {
        let limit = self
            .arrived
            .saturating_add(u16::from(self.window))
            .min(self.blocks);
        let block = self.sent.checked_add(1).filter(|block| *block <= limit)?;
        self.sent = block;
        let at = usize::from(block.saturating_sub(1)).saturating_mul(self.size);
        let rest = self.apdu.get(at..).unwrap_or_default();
        let last = block == self.blocks;
        self.ended |= last;
        Some(GeneralBlock {
            last,
            streaming: !last && block < limit,
            window: self.own_window,
            block,
            ack: self.ack,
            data: rest.get(..self.size).unwrap_or(rest).to_vec(),
        })
    }

    /// A block of the peer came: it acknowledges this one, and takes `window` blocks in a row. What was lost is sent
    /// again, as far as [`Resend`] allows. Says whether all has arrived.
    ///
    /// # Errors
    /// The number of a block that was not sent, or the same acknowledgement more than [`RESENDS_MAX`] times.
    pub fn acknowledged(&mut self, ack: u16, window: u8) -> Result<bool, Error> {
        if ack > self.sent {
            return Err(Error::Bounds {
                offset: 4,
                expected: "the number of a block that was sent",
                found: usize::from(ack),
            });
        }
        self.window = window.max(1);
        if ack > self.arrived {
            self.arrived = ack;
            self.resends = 0;
            if !self.ended || self.again != Resend::Nothing {
                self.sent = ack;
            }
        } else if ack == self.arrived && ack < self.blocks {
            // an older one is a duplicate, and says nothing
            self.resend()?;
        }
        Ok(self.is_done())
    }

    /// No block of the peer came in time: what is not acknowledged is sent again, as far as [`Resend`] allows.
    ///
    /// # Errors
    /// If that was done [`RESENDS_MAX`] times.
    pub fn timed_out(&mut self) -> Result<(), Error> {
        self.resend()
    }

    /// The last block that has arrived, as far as the peer has said.
    #[must_use]
    pub const fn arrived(&self) -> u16 {
        self.arrived
    }

    /// Whether the last block has left, once at least.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether all has arrived.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.arrived == self.blocks
    }

    /// Whether nothing is left to send, unless something was lost.
    #[must_use]
    pub const fn is_sent(&self) -> bool {
        self.sent == self.blocks
    }

    /// How many blocks the APDU takes.
    #[must_use]
    pub const fn blocks(&self) -> u16 {
        self.blocks
    }

    /// Goes back to the first block that is not acknowledged: nothing new has been said of what has arrived.
    fn resend(&mut self) -> Result<(), Error> {
        if self.ended && self.again != Resend::Unacknowledged {
            return Ok(());
        }
        self.resends = self.resends.saturating_add(1);
        if self.resends > RESENDS_MAX {
            return Err(Error::State {
                expected: "acknowledging the blocks it was sent",
                found: "acknowledging none of them any more",
            });
        }
        self.sent = self.arrived;
        Ok(())
    }
}
