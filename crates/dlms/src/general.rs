//! General block transfer as an association of either role uses it: what goes out in blocks, what comes in blocks.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::error::Error;
use crate::gbt::{GeneralBlock, Received, Receiver, Resend, Sender};
use crate::link::LinkConfig;

/// How many blocks are sent and taken in a row, where the link has no turns.
const WINDOW: u8 = 8;

/// The transfers of one exchange, one in each direction at most.
pub(crate) struct General {
    sender: Option<Sender>,
    receiver: Option<Receiver>,
    /// Acknowledgements to be sent.
    replies: VecDeque<GeneralBlock>,
    /// How many blocks the peer takes in a row, as far as it has said.
    window: u8,
    /// The last block sent in this exchange.
    own: u16,
    /// The last block received: the first block of the next APDU acknowledges it.
    theirs: u16,
    /// How many blocks are taken in a row.
    most: u8,
    /// Whether blocks may be lost, doubled and overtaken: what does not fit is dropped then.
    lossy: bool,
    /// What of an APDU may be sent again once its last block has left.
    again: Resend,
    /// The last block of ours that arrived in this exchange, and the last of theirs that was taken.
    progress: (u16, u16),
}

impl General {
    /// Over a link of this kind: HDLC has a window of its own, and each side its turn after one APDU.
    pub(crate) const fn new(link: &LinkConfig) -> Self {
        match link {
            LinkConfig::Tcp => Self::of(WINDOW, false),
            LinkConfig::Udp => Self::of(WINDOW, true),
            LinkConfig::Hdlc(_) => Self::of(1, false),
        }
    }

    /// The same, of the side whose APDUs are executed by the peer as soon as it has all of them: no timer, and no
    /// acknowledgement that names nothing, has the last block sent twice.
    pub(crate) const fn once(mut self) -> Self {
        self.again = if self.lossy {
            Resend::Named
        } else {
            Resend::Nothing
        };
        self
    }

    const fn of(most: u8, lossy: bool) -> Self {
        Self {
            lossy,
            again: Resend::Unacknowledged,
            progress: (0, 0),
            sender: None,
            receiver: None,
            replies: VecDeque::new(),
            window: 0,
            own: 0,
            theirs: 0,
            most,
        }
    }

    /// Whether an APDU is on its way, in either direction.
    pub(crate) const fn is_active(&self) -> bool {
        self.sender.is_some() || self.receiver.is_some()
    }

    /// Whether blocks of an APDU wait to be sent. What is ciphered after it must not overtake it: its counter is higher.
    pub(crate) fn is_sending(&self) -> bool {
        self.sender.as_ref().is_some_and(|sender| !sender.is_sent())
    }

    /// Forgets what is on its way: the exchange is over, or another begins.
    pub(crate) fn reset(&mut self) {
        self.sender = None;
        self.receiver = None;
        self.replies.clear();
        self.own = 0;
        self.progress = (0, 0);
    }

    /// Rises with every block that brings this exchange further, and with no other: what is forged, doubled or empty
    /// cannot have it rise for ever.
    pub(crate) fn progress(&self) -> u32 {
        let (arrived, received) = self.progress;
        u32::from(arrived).saturating_add(u32::from(received))
    }

    /// Sends an APDU in blocks that are, as APDUs, no longer than `limit`.
    ///
    /// # Errors
    /// [`Error::TooLong`] if it does not go in blocks of that size.
    pub(crate) fn send(&mut self, apdu: Vec<u8>, limit: usize) -> Result<(), Error> {
        let sender = Sender::new(apdu, size(limit), self.window, self.most, self.theirs)?;
        self.own = sender.blocks();
        self.sender = Some(sender.resending(self.again));
        Ok(())
    }

    /// The next block to be sent.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let block = match self.replies.pop_front() {
            Some(reply) => Some(reply),
            None => self.sender.as_mut().and_then(Sender::next_block),
        };
        block.map(|block| block.encode())
    }

    /// Takes a block of the peer: the APDU it completes, of at most `limit` octets.
    ///
    /// # Errors
    /// A block that is malformed or was not due.
    pub(crate) fn take(&mut self, apdu: &[u8], limit: usize) -> Result<Option<Vec<u8>>, Error> {
        let block = GeneralBlock::decode(apdu)?;
        match self.take_block(&block, limit) {
            Err(_) if self.lossy => Ok(None),
            taken => taken,
        }
    }

    fn take_block(&mut self, block: &GeneralBlock, limit: usize) -> Result<Option<Vec<u8>>, Error> {
        self.window = block.window.min(self.most);
        self.acknowledged(block)?;
        if block.data.is_empty() {
            return Ok(None);
        }
        let (own, most) = (self.own, self.most);
        let receiver = self
            .receiver
            .get_or_insert_with(|| Receiver::new(limit, most, own));
        let received = receiver.take(block);
        (self.own, self.theirs) = (receiver.own(), receiver.received());
        self.progress.1 = self.progress.1.max(self.theirs);
        match received? {
            Received::More => Ok(None),
            Received::Acknowledge(reply) => {
                self.replies.push_back(reply);
                Ok(None)
            }
            Received::Complete(apdu) => {
                self.receiver = None;
                Ok(Some(apdu))
            }
        }
    }

    fn acknowledged(&mut self, block: &GeneralBlock) -> Result<(), Error> {
        let Some(sender) = &mut self.sender else {
            return Ok(());
        };
        let done = sender.acknowledged(block.ack, self.window)?;
        self.progress.0 = self.progress.0.max(sender.arrived());
        // An answer that has begun: the peer has all of it, whatever it acknowledges.
        let answers = !block.data.is_empty() && self.again != Resend::Unacknowledged;
        if done || answers && sender.has_ended() {
            self.sender = None;
        }
        Ok(())
    }

    /// Nothing came in time: what was not acknowledged goes again as far as it may, what is missing is asked for.
    ///
    /// # Errors
    /// [`Error::State`] if that was done often enough.
    pub(crate) fn timed_out(&mut self) -> Result<(), Error> {
        if let Some(sender) = &mut self.sender {
            sender.timed_out()?;
        }
        if let Some(receiver) = &mut self.receiver {
            let reply = receiver.timed_out();
            self.own = receiver.own();
            self.replies.push_back(reply);
        }
        Ok(())
    }
}

/// Whether an APDU of this length goes in blocks of at most `limit` octets.
pub(crate) fn fits(apdu: usize, limit: usize) -> bool {
    let size = size(limit);
    size > 0 && apdu.div_ceil(size) <= usize::from(u16::MAX)
}

/// Octets of an APDU in each block.
fn size(limit: usize) -> usize {
    (1..=3)
        .map(|length| limit.saturating_sub(6).saturating_sub(length))
        .find(|size| size.saturating_add(GeneralBlock::overhead(*size)) <= limit)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn blocks_are_as_long_as_they_may_be() {
        for limit in [12, 133, 134, 135, 136, 261, 262, 263, 264, 1024] {
            let most = size(limit);
            assert!(most + GeneralBlock::overhead(most) <= limit, "{limit}");
            let more = most + 1;
            assert!(more + GeneralBlock::overhead(more) > limit, "{limit}");
        }
        assert_eq!((size(7), size(0)), (0, 0));
        assert!(fits(65_535, 8) && !fits(65_536, 8) && !fits(1, 7));
    }

    #[test]
    fn an_apdu_goes_there_and_another_comes_back() {
        let (mut client, mut meter) = (General::of(8, false), General::of(1, true));
        let (request, response) = (vec![0xC1; 500], vec![0xC5; 700]);
        client.send(request.clone(), 60).unwrap();
        let mut answered = None;
        for _ in 0..100 {
            while let Some(block) = client.next() {
                if let Some(apdu) = meter.take(&block, 1000).unwrap() {
                    assert_eq!(apdu, request);
                    meter.send(response.clone(), 70).unwrap();
                }
            }
            while let Some(block) = meter.next() {
                answered = client.take(&block, 1000).unwrap().or(answered);
            }
        }
        assert_eq!(answered, Some(response));
        assert!(!client.is_active());
    }
}
