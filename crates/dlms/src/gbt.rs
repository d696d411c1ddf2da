//! General block transfer (IEC 62056-5-3): any APDU in numbered blocks, several in a row, those lost sent again.
//!
//! ```
//! use dlms::gbt::{Received, Receiver, Sender};
//!
//! let mut sender = Sender::new(vec![7; 100], 30, 2, 1, 0)?;
//! let mut receiver = Receiver::new(1024, 2, 0);
//! let apdu = loop {
//!     let block = sender.next_block().expect("the receiver acknowledged the window");
//!     match receiver.take(&block)? {
//!         Received::More => {}
//!         Received::Acknowledge(block) => drop(sender.acknowledged(block.ack, block.window)?),
//!         Received::Complete(apdu) => break apdu,
//!     }
//! };
//! assert_eq!(apdu, [7; 100]);
//! # Ok::<(), dlms::Error>(())
//! ```

mod receiver;
mod sender;

pub use receiver::{Received, Receiver, USELESS_MAX};
pub use sender::{RESENDS_MAX, Resend, Sender};

use alloc::vec::Vec;

use crate::axdr::{Reader, length_of_length, put_prefixed};
use crate::error::Error;

/// Tag of a general-block-transfer APDU.
pub const TAG: u8 = 0xE0;
/// The largest window: how many blocks may follow each other without an acknowledgement.
pub const WINDOW_MAX: u8 = 63;

/// general-block-transfer, tag E0: one block of an APDU, or an acknowledgement alone.
#[derive(Clone, PartialEq, Eq)]
pub struct GeneralBlock {
    /// Whether it is the last block of its APDU.
    pub last: bool,
    /// Whether more blocks of this window follow at once.
    pub streaming: bool,
    /// How many blocks its sender takes in a row, 0..63; 0 acknowledges without taking any.
    pub window: u8,
    /// Its number, from 1.
    pub block: u16,
    /// The number of the last block received without a gap before it; 0 for none.
    pub ack: u16,
    /// Its part of the APDU; empty in an acknowledgement.
    pub data: Vec<u8>,
}

/// What is carried may be in clear: only its length is shown.
impl core::fmt::Debug for GeneralBlock {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("GeneralBlock")
            .field("last", &self.last)
            .field("streaming", &self.streaming)
            .field("window", &self.window)
            .field("block", &self.block)
            .field("ack", &self.ack)
            .field("octets", &self.data.len())
            .finish()
    }
}

impl GeneralBlock {
    const LAST: u8 = 0x80;
    const STREAMING: u8 = 0x40;

    /// Decodes a block that fills `octets` exactly.
    ///
    /// # Errors
    /// What is malformed, with its offset.
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(octets);
        reader.tag(TAG, "the tag of a general-block-transfer (E0)")?;
        let control = reader.u8()?;
        let block = Self {
            last: control & Self::LAST != 0,
            streaming: control & Self::STREAMING != 0,
            window: control & WINDOW_MAX,
            block: reader.u16()?,
            ack: reader.u16()?,
            data: reader.prefixed()?.to_vec(),
        };
        reader.finish()?;
        Ok(block)
    }

    /// Octets that a block takes besides its data, if that has this length.
    #[must_use]
    pub fn overhead(data: usize) -> usize {
        length_of_length(data).saturating_add(6)
    }

    /// The octets of the APDU. Only six bits of the window count.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let last = if self.last { Self::LAST } else { 0 };
        let streaming = if self.streaming { Self::STREAMING } else { 0 };
        let mut out = Vec::from([TAG, last | streaming | (self.window & WINDOW_MAX)]);
        out.extend_from_slice(&self.block.to_be_bytes());
        out.extend_from_slice(&self.ack.to_be_bytes());
        put_prefixed(&mut out, &self.data);
        out
    }
}
