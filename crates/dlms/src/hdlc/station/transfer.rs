//! I frames both ways: APDUs cut into segments and put together again, numbers, acknowledgements.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use crate::hdlc::address::Address;
use crate::hdlc::control::{Control, Sequence};
use crate::hdlc::frame::Frame;
use crate::hdlc::parameters::Parameters;

/// The LLC header before an APDU of a client (IEC 62056-46, 5.3.1).
pub const LLC_COMMAND: [u8; 3] = [0xE6, 0xE6, 0x00];
/// The LLC header before an APDU of a meter.
pub const LLC_RESPONSE: [u8; 3] = [0xE6, 0xE7, 0x00];

pub(super) struct Transfer {
    parameters: Parameters,
    /// V(S): the number of the next I frame to be sent.
    send: Sequence,
    /// I frames sent and not acknowledged, the newest last: their octets.
    sent: VecDeque<Vec<u8>>,
    /// APDUs to be sent, with their LLC headers; of the first, so many octets are gone.
    outgoing: VecDeque<Vec<u8>>,
    gone: usize,
    /// V(R): the number of the next I frame to be received.
    receive: Sequence,
    /// The APDU that is being received, with its LLC header.
    incoming: Option<Vec<u8>>,
}

/// What came of an I frame.
pub(super) enum Taken {
    /// More of the APDU follows.
    Part,
    /// The APDU is whole.
    Apdu(Vec<u8>),
    /// It is whole and has no LLC header.
    Junk,
    /// It is longer than the station receives.
    TooLong,
}

/// Segments may hold a command in clear: only their number is shown.
impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer")
            .field("parameters", &self.parameters)
            .field("send", &self.send)
            .field("receive", &self.receive)
            .field("sent", &self.sent.len())
            .field("outgoing", &self.outgoing.len())
            .finish_non_exhaustive()
    }
}

/// What follows the LLC header of either direction.
pub(super) fn without_llc(information: &[u8]) -> Option<&[u8]> {
    information
        .strip_prefix(&LLC_COMMAND)
        .or_else(|| information.strip_prefix(&LLC_RESPONSE))
        .filter(|apdu| !apdu.is_empty())
}

impl Transfer {
    /// All numbers from 0, nothing under way.
    pub(super) const fn new(parameters: Parameters) -> Self {
        Self {
            parameters,
            send: Sequence::new(0),
            sent: VecDeque::new(),
            outgoing: VecDeque::new(),
            gone: 0,
            receive: Sequence::new(0),
            incoming: None,
        }
    }

    pub(super) const fn parameters(&self) -> Parameters {
        self.parameters
    }

    /// V(R).
    pub(super) const fn receive(&self) -> Sequence {
        self.receive
    }

    /// V(S).
    pub(super) const fn send(&self) -> Sequence {
        self.send
    }

    /// APDUs that are not sent yet, or not wholly.
    pub(super) fn waiting(&self) -> usize {
        self.outgoing.len()
    }

    /// Whether I frames are sent and not acknowledged.
    pub(super) fn is_unacknowledged(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Whether an APDU has come in part.
    pub(super) const fn is_receiving(&self) -> bool {
        self.incoming.is_some()
    }

    pub(super) fn enqueue(&mut self, llc: [u8; 3], apdu: &[u8]) {
        self.outgoing.push_back([&llc, apdu].concat());
    }

    /// Takes an acknowledgement: how many frames it covers, or nothing if it is of frames that were never sent.
    pub(super) fn acknowledge(&mut self, receive: Sequence) -> Option<usize> {
        let outstanding = u8::try_from(self.sent.len()).ok()?;
        let oldest = Sequence::new(self.send.number().wrapping_sub(outstanding));
        let covered = usize::from(receive.since(oldest));
        if covered > self.sent.len() {
            return None;
        }
        self.sent.drain(..covered);
        Some(covered)
    }

    /// Cuts the I frames that the window allows, the last one with P/F. None while some are not acknowledged.
    pub(super) fn burst(&mut self, destination: Address, source: Address) -> Vec<Vec<u8>> {
        if self.is_unacknowledged() {
            return Vec::new();
        }
        let mut segments = Vec::new();
        while segments.len() < usize::from(self.parameters.window_transmit) {
            match self.segment() {
                Some(segment) => segments.push(segment),
                None => break,
            }
        }
        let last = segments.len().saturating_sub(1);
        for (index, (information, segmented)) in segments.into_iter().enumerate() {
            let frame = Frame {
                destination,
                source,
                control: Control::Information {
                    send: self.send,
                    receive: self.receive,
                    poll: index == last,
                },
                segmented,
                information,
            };
            // A segment is at most 2030 octets long: the frame has room for it.
            self.sent.extend(frame.encode().ok());
            self.send = self.send.next();
        }
        self.unacknowledged()
    }

    /// The frames that are not acknowledged, as they were sent.
    pub(super) fn unacknowledged(&self) -> Vec<Vec<u8>> {
        self.sent.iter().cloned().collect()
    }

    /// The next segment, and whether more of its APDU follows.
    fn segment(&mut self) -> Option<(Vec<u8>, bool)> {
        let apdu = self.outgoing.front()?;
        let room = usize::from(self.parameters.max_info_transmit);
        let rest = apdu.get(self.gone..).unwrap_or_default();
        let (segment, rest) = rest.split_at_checked(room).unwrap_or((rest, &[]));
        let (segment, more) = (segment.to_vec(), !rest.is_empty());
        if more {
            self.gone = self.gone.saturating_add(room);
        } else {
            self.gone = 0;
            self.outgoing.pop_front();
        }
        Some((segment, more))
    }

    /// Takes the information of the I frame that is next in order.
    pub(super) fn accept(&mut self, frame: &Frame, longest: usize) -> Taken {
        let mut incoming = self.incoming.take().unwrap_or_default();
        let limit = longest.saturating_add(LLC_COMMAND.len());
        if incoming.len().saturating_add(frame.information.len()) > limit {
            return Taken::TooLong;
        }
        self.receive = self.receive.next();
        incoming.extend_from_slice(&frame.information);
        if frame.segmented {
            self.incoming = Some(incoming);
            return Taken::Part;
        }
        without_llc(&incoming).map_or(Taken::Junk, |apdu| Taken::Apdu(apdu.to_vec()))
    }
}
