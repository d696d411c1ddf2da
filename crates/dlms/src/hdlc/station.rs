//! A station: the client's (primary, it alone speaks unasked) or the meter's (secondary, it answers polls).

mod primary;
mod secondary;
mod transfer;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::Config;
use super::address::Address;
use super::control::Control;
use super::deframer::Deframer;
use super::frame::Frame;
use super::parameters::Parameters;
use crate::error::Error;
use transfer::{Taken, Transfer};

pub use transfer::{LLC_COMMAND, LLC_RESPONSE};

/// Whole APDUs that wait to be taken; while so many wait the station is busy (RNR).
const INBOX_MAX: usize = 2;
/// APDUs that wait to be sent.
const OUTBOX_MAX: usize = 4;

/// What a station wants done, or says.
#[derive(Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write these octets to the transport: one frame, one datagram.
    Transmit(Vec<u8>),
    /// APDUs can be sent. Of a meter: a client has (again) set up the link, and what was before is gone.
    Connected,
    /// The link is down, in order. APDUs that came before can still be taken.
    Disconnected,
    /// The link is down, or what comes cannot be understood. A request that was not answered may have arrived.
    Failed(Error),
}

/// Frames may hold a password or a command in clear: only their length is shown.
impl core::fmt::Debug for Effect {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Transmit(octets) => write!(f, "Transmit({} octets)", octets.len()),
            Self::Connected => f.write_str("Connected"),
            Self::Disconnected => f.write_str("Disconnected"),
            Self::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
        }
    }
}

/// One end of an HDLC link.
///
/// After every call: [`Self::poll`] until there is nothing, [`Self::take`] while an APDU can be taken, and
/// [`Self::deadline`].
#[derive(Debug)]
pub struct Station {
    config: Config,
    own: Address,
    /// A secondary learns it from SNRM.
    peer: Option<Address>,
    /// The longest APDU it receives.
    longest: usize,
    role: Role,
    transfer: Transfer,
    received: Deframer,
    inbox: VecDeque<(u16, Vec<u8>)>,
    effects: VecDeque<Effect>,
    dropped: u64,
}

#[derive(Debug)]
enum Role {
    Primary(primary::Phase),
    Secondary(secondary::Phase),
}

/// What came of the next I frame.
enum Accepted {
    /// No APDU yet.
    Part,
    /// An APDU that can be taken.
    Whole,
    /// A longer APDU than the station receives.
    TooLong,
}

impl Station {
    /// The client's station. `longest`: the longest APDU it receives, in octets.
    ///
    /// # Errors
    /// [`Error::Bounds`] if a port does not fit its address.
    pub fn primary(
        config: Config,
        client_sap: u16,
        server_sap: u16,
        longest: usize,
    ) -> Result<Self, Error> {
        let own = Address::client(client_sap)?;
        let peer = Some(config.server(server_sap)?);
        let role = Role::Primary(primary::Phase::Down);
        Ok(Self::new(config, (own, peer), longest, role))
    }

    /// The meter's station. `longest`: the longest APDU it receives, in octets.
    ///
    /// # Errors
    /// [`Error::Bounds`] if the port does not fit its address.
    pub fn secondary(config: Config, server_sap: u16, longest: usize) -> Result<Self, Error> {
        let own = config.server(server_sap)?;
        let role = Role::Secondary(secondary::Phase::Down);
        Ok(Self::new(config, (own, None), longest, role))
    }

    fn new(
        config: Config,
        (own, peer): (Address, Option<Address>),
        longest: usize,
        role: Role,
    ) -> Self {
        Self {
            config,
            own,
            peer,
            longest,
            role,
            transfer: Transfer::new(Parameters::default()),
            received: Deframer::default(),
            inbox: VecDeque::new(),
            effects: VecDeque::new(),
            dropped: 0,
        }
    }

    /// Sends an APDU; to be called when the link is connected. A meter's waits for the client's poll.
    ///
    /// # Errors
    /// [`Error::State`] if the link is not connected, or if too many APDUs wait. Nothing was sent.
    pub fn send(&mut self, now_ms: u64, apdu: &[u8]) -> Result<(), Error> {
        let state = |found| Error::State {
            expected: "connected, with room for an APDU",
            found,
        };
        if !self.is_connected() {
            return Err(state("not connected"));
        }
        if self.transfer.waiting() >= OUTBOX_MAX {
            return Err(state("still sending"));
        }
        match self.role {
            Role::Primary(_) => {
                self.transfer.enqueue(LLC_COMMAND, apdu);
                self.ask(now_ms);
            }
            Role::Secondary(_) => {
                self.transfer.enqueue(LLC_RESPONSE, apdu);
                self.answer_held_poll();
            }
        }
        Ok(())
    }

    /// Takes octets from the line, split, merged and damaged as they come.
    pub fn receive(&mut self, now_ms: u64, mut octets: &[u8]) {
        while let Some(found) = self.received.next(&mut octets) {
            match found {
                Ok(frame) => self.on_frame(now_ms, frame),
                Err(_) => self.count_dropped(),
            }
        }
        if self.received.is_within_frame() {
            self.be_patient(now_ms);
        }
    }

    /// The next whole APDU and the client or logical device it is from, if there is one.
    pub fn take(&mut self) -> Option<(u16, Vec<u8>)> {
        self.inbox.pop_front()
    }

    /// The next thing to be done, until there is none.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Whether APDUs can be sent.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        match &self.role {
            Role::Primary(phase) => matches!(phase, primary::Phase::Up(_)),
            Role::Secondary(phase) => matches!(phase, secondary::Phase::Up { .. }),
        }
    }

    /// What was negotiated; before that, what the standard assumes.
    #[must_use]
    pub const fn parameters(&self) -> Parameters {
        self.transfer.parameters()
    }

    /// Frames that were dropped: damaged, for others, out of their order, or not due.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    fn on_frame(&mut self, now_ms: u64, frame: Frame) {
        let broadcast = matches!(frame.control, Control::UnnumberedInformation { .. });
        let ours = if broadcast {
            frame.destination.names(self.own)
        } else {
            frame.destination == self.own
        };
        if !ours {
            return self.count_dropped();
        }
        match self.role {
            Role::Primary(_) => self.on_primary_frame(now_ms, frame),
            Role::Secondary(_) => self.on_secondary_frame(frame),
        }
    }

    /// UI: an APDU outside of all numbers.
    fn on_unnumbered(&mut self, frame: &Frame) {
        let apdu = transfer::without_llc(&frame.information);
        match apdu {
            Some(apdu) if !self.is_busy() && apdu.len() <= self.longest => {
                self.inbox.push_back((frame.source.upper(), apdu.to_vec()));
            }
            Some(_) | None => self.count_dropped(),
        }
    }

    /// Takes the next I frame in order.
    fn accept(&mut self, frame: &Frame) -> Accepted {
        match self.transfer.accept(frame, self.longest) {
            Taken::Apdu(apdu) => {
                self.inbox.push_back((frame.source.upper(), apdu));
                Accepted::Whole
            }
            Taken::Junk => {
                self.count_dropped();
                Accepted::Part
            }
            Taken::Part => Accepted::Part,
            Taken::TooLong => Accepted::TooLong,
        }
    }

    /// Whether no further APDU can be taken in now.
    fn is_busy(&self) -> bool {
        self.inbox.len() >= INBOX_MAX
    }

    fn count_dropped(&mut self) {
        self.dropped = self.dropped.saturating_add(1);
    }

    /// Writes a frame without a number.
    fn transmit(&mut self, control: Control, information: Vec<u8>) {
        let Some(destination) = self.peer else { return };
        let frame = Frame {
            destination,
            source: self.own,
            control,
            segmented: false,
            information,
        };
        self.effects
            .extend(frame.encode().ok().map(Effect::Transmit));
    }

    /// Writes the I frames that may go now, the last one with P/F; whether there was one.
    fn transmit_burst(&mut self) -> bool {
        let Some(destination) = self.peer else {
            return false;
        };
        let frames = self.transfer.burst(destination, self.own);
        let any = !frames.is_empty();
        self.effects
            .extend(frames.into_iter().map(Effect::Transmit));
        any
    }

    /// Writes the I frames again that are not acknowledged, the same octets; whether there was one.
    fn transmit_again(&mut self) -> bool {
        let frames = self.transfer.unacknowledged();
        let any = !frames.is_empty();
        self.effects
            .extend(frames.into_iter().map(Effect::Transmit));
        any
    }
}
