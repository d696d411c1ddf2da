//! The client's station: it alone speaks unasked, and gives the meter leave to speak by the P bit.

use alloc::vec::Vec;

use super::transfer::Transfer;
use super::{Accepted, Effect, Role, Station};
use crate::error::Error;
use crate::hdlc::control::{Control, Sequence};
use crate::hdlc::frame::Frame;
use crate::hdlc::parameters::Parameters;

#[derive(Debug)]
pub(super) enum Phase {
    Down,
    /// SNRM sent.
    Connecting(Trial),
    Up(Up),
    /// DISC sent.
    Disconnecting(Trial),
}

/// A frame that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial {
    deadline: u64,
    /// How often it was sent.
    tries: u8,
}

#[derive(Debug)]
pub(super) struct Up {
    turn: Turn,
    /// How often the frames under way were sent, since the meter last brought us forward.
    tries: u8,
    /// An APDU of the meter is due.
    listening: bool,
    /// The poll under way is RR or RNR: an answer that acknowledges nothing means that I frames are lost.
    asked: bool,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// Ours.
    Ours,
    /// Ours; the meter has nothing to say or is busy, and is asked again at this time.
    Later(u64),
    /// The meter's, since a frame with P was sent: until this time.
    Theirs(u64),
}

impl Station {
    /// Sets the link up: SNRM. Ends in [`Effect::Connected`] or [`Effect::Failed`], after which it can be called again.
    /// A call of a meter, or of a client whose link is up, does nothing.
    pub fn connect(&mut self, now_ms: u64) {
        if matches!(self.role, Role::Primary(Phase::Down)) {
            self.transfer = Transfer::new(Parameters::default());
            self.received.reset();
            self.inbox.clear();
            self.set_normal_response_mode(now_ms, 1);
        }
    }

    /// Takes the link down: DISC. Ends in [`Effect::Disconnected`], also if the meter does not answer.
    /// A meter cannot: it is down without a word.
    pub fn disconnect(&mut self, now_ms: u64) {
        match &self.role {
            Role::Primary(Phase::Up(_) | Phase::Connecting(_)) => self.leave(now_ms, 1),
            Role::Primary(Phase::Disconnecting(_)) => {}
            Role::Primary(Phase::Down) => self.effects.push_back(Effect::Disconnected),
            Role::Secondary(_) => self.secondary_down(),
        }
    }

    /// The time asked for by [`Self::deadline`] has come. A call that comes early or late does no harm.
    pub fn timeout(&mut self, now_ms: u64) {
        if self.deadline().is_none_or(|deadline| now_ms < deadline) {
            return;
        }
        let retries = self.config.retries;
        match &self.role {
            Role::Primary(Phase::Connecting(trial) | Phase::Disconnecting(trial))
                if trial.tries > retries =>
            {
                self.give_up(trial.tries);
            }
            Role::Primary(Phase::Connecting(trial)) => {
                self.set_normal_response_mode(now_ms, trial.tries.saturating_add(1));
            }
            Role::Primary(Phase::Disconnecting(trial)) => {
                self.leave(now_ms, trial.tries.saturating_add(1));
            }
            Role::Primary(Phase::Up(up)) => match up.turn {
                Turn::Theirs(_) => {
                    // A frame that is not whole by now never will be.
                    self.received.reset();
                    self.again(now_ms);
                }
                Turn::Later(_) => self.ask_for_more(now_ms),
                Turn::Ours => {}
            },
            Role::Primary(Phase::Down) | Role::Secondary(_) => {}
        }
    }

    /// When [`Self::timeout`] is to be called, if ever. To be asked again after every other call.
    #[must_use]
    pub const fn deadline(&self) -> Option<u64> {
        match &self.role {
            Role::Primary(Phase::Connecting(trial) | Phase::Disconnecting(trial)) => {
                Some(trial.deadline)
            }
            Role::Primary(Phase::Up(up)) => match up.turn {
                Turn::Theirs(deadline) | Turn::Later(deadline) => Some(deadline),
                Turn::Ours => None,
            },
            Role::Primary(Phase::Down) | Role::Secondary(_) => None,
        }
    }

    /// Goes on asking the meter for an APDU: what came was not what the client waits for.
    /// Without this call a client's station is silent after each APDU it received, until the next one is sent.
    pub fn listen(&mut self, now_ms: u64) {
        if let Role::Primary(Phase::Up(up)) = &mut self.role
            && !up.listening
        {
            up.listening = true;
            if matches!(up.turn, Turn::Ours) {
                self.go_on(now_ms, Pace::Later);
            }
        }
    }

    /// An APDU is to be sent, and the meter's answer is due.
    pub(super) fn ask(&mut self, now_ms: u64) {
        if let Role::Primary(Phase::Up(up)) = &mut self.role {
            up.listening = true;
            if !matches!(up.turn, Turn::Theirs(_)) {
                self.go_on(now_ms, Pace::Now);
            }
        }
    }

    /// A frame is on its way: it may take as long as it takes, while its octets come.
    pub(super) fn be_patient(&mut self, now_ms: u64) {
        let deadline = now_ms.saturating_add(self.config.timeout_ms);
        if let Role::Primary(Phase::Up(Up {
            turn: Turn::Theirs(at),
            ..
        })) = &mut self.role
        {
            *at = deadline.max(*at);
        }
    }

    pub(super) fn on_primary_frame(&mut self, now_ms: u64, frame: Frame) {
        if Some(frame.source) != self.peer {
            return self.count_dropped();
        }
        let Role::Primary(phase) = &self.role else {
            return;
        };
        match (phase, frame.control) {
            (Phase::Connecting(_), Control::UnnumberedAcknowledge { .. }) => {
                self.on_accepted(&frame.information);
            }
            (Phase::Connecting(_), Control::DisconnectedMode { .. }) => {
                self.fail("takes the link", "refuses it (DM)");
            }
            (
                Phase::Disconnecting(_),
                Control::UnnumberedAcknowledge { .. } | Control::DisconnectedMode { .. },
            ) => self.primary_down(Effect::Disconnected),
            (Phase::Up(_), Control::DisconnectedMode { .. }) => {
                self.fail("keeps the link", "has dropped it (DM)");
            }
            (Phase::Up(_), Control::FrameReject { .. }) => {
                self.fail("takes the frame", "rejects it (FRMR)");
            }
            (_, Control::UnnumberedInformation { .. }) => self.on_unnumbered(&frame),
            (
                Phase::Up(_),
                Control::Information { receive, .. }
                | Control::ReceiveReady { receive, .. }
                | Control::ReceiveNotReady { receive, .. }
                | Control::Reject { receive, .. },
            ) => self.on_numbered(now_ms, &frame, receive),
            // Late, or not for a client.
            (
                Phase::Down | Phase::Connecting(_) | Phase::Disconnecting(_) | Phase::Up(_),
                Control::Information { .. }
                | Control::ReceiveReady { .. }
                | Control::ReceiveNotReady { .. }
                | Control::Reject { .. }
                | Control::SetNormalResponseMode { .. }
                | Control::Disconnect { .. }
                | Control::UnnumberedAcknowledge { .. }
                | Control::DisconnectedMode { .. }
                | Control::FrameReject { .. },
            ) => self.count_dropped(),
        }
    }

    /// UA to our SNRM.
    fn on_accepted(&mut self, information: &[u8]) {
        match Parameters::decode(information) {
            Ok(theirs) => {
                self.transfer = Transfer::new(self.config.parameters().against(theirs));
                self.role = Role::Primary(Phase::Up(Up {
                    turn: Turn::Ours,
                    tries: 0,
                    listening: false,
                    asked: false,
                }));
                self.effects.push_back(Effect::Connected);
            }
            Err(error) => self.primary_down(Effect::Failed(error)),
        }
    }

    fn on_numbered(&mut self, now_ms: u64, frame: &Frame, receive: Sequence) {
        let Some(covered) = self.transfer.acknowledge(receive) else {
            return self.count_dropped();
        };
        let arrival = if let Control::Information { send, .. } = frame.control {
            self.on_information(frame, send)
        } else {
            Arrival::None
        };
        if matches!(arrival, Arrival::TooLong) {
            return self.fail("sends no more than it was told", "sends a longer APDU");
        }
        let forward = covered > 0 || matches!(arrival, Arrival::Taken);
        let retries = self.config.retries;
        let timeout_ms = self.config.timeout_ms;
        let unacknowledged = self.transfer.is_unacknowledged();
        let Role::Primary(Phase::Up(up)) = &mut self.role else {
            return;
        };
        if forward {
            up.tries = 0;
        }
        let Turn::Theirs(_) = up.turn else { return };
        if !frame.control.poll() {
            if forward {
                up.turn = Turn::Theirs(now_ms.saturating_add(timeout_ms));
            }
            return;
        }
        let lost = unacknowledged && !forward && up.asked;
        match (frame.control, arrival) {
            (Control::ReceiveNotReady { .. }, _) | (_, Arrival::NoRoom) => {
                self.go_on(now_ms, Pace::Busy);
            }
            // I frames are lost, and the meter says from where: at once, but not for ever.
            (Control::Reject { .. }, _) | (_, Arrival::Gap) if up.tries <= retries => {
                self.again(now_ms);
            }
            _ if lost && up.tries <= retries => self.again(now_ms),
            _ if forward => self.go_on(now_ms, Pace::Now),
            // An answer to what was asked before: the one that is due is still to come.
            (_, Arrival::Duplicate | Arrival::Gap) => {}
            _ if unacknowledged => {}
            _ => self.go_on(now_ms, Pace::Later),
        }
    }

    fn on_information(&mut self, frame: &Frame, send: Sequence) -> Arrival {
        let ahead = send.since(self.transfer.receive());
        if ahead != 0 {
            self.count_dropped();
            let window = self.transfer.parameters().window_receive;
            return if ahead < window {
                Arrival::Gap
            } else {
                Arrival::Duplicate
            };
        }
        if self.is_busy() {
            return Arrival::NoRoom;
        }
        match self.accept(frame) {
            Accepted::TooLong => return Arrival::TooLong,
            Accepted::Part => {}
            Accepted::Whole => {
                if let Role::Primary(Phase::Up(up)) = &mut self.role {
                    up.listening = false;
                }
            }
        }
        Arrival::Taken
    }

    /// It is our turn: sends what is to be sent, or asks for more, or is silent.
    fn go_on(&mut self, now_ms: u64, pace: Pace) {
        let busy = matches!(pace, Pace::Busy);
        let sent = !busy && (self.transmit_again() || self.transmit_burst());
        let receiving = self.transfer.is_receiving();
        let (timeout_ms, poll_ms) = (self.config.timeout_ms, self.config.poll_ms());
        let Role::Primary(Phase::Up(up)) = &mut self.role else {
            return;
        };
        if sent {
            up.asked = false;
            up.tries = up.tries.saturating_add(1);
            up.turn = Turn::Theirs(now_ms.saturating_add(timeout_ms));
        } else if receiving && matches!(pace, Pace::Now) {
            self.ask_for_more(now_ms);
        } else if busy || receiving || up.listening {
            // The meter is there, and has nothing for us yet.
            up.tries = 0;
            up.turn = Turn::Later(now_ms.saturating_add(poll_ms));
        } else {
            up.turn = Turn::Ours;
        }
    }

    /// The meter did not answer in time, or has lost frames: the same octets again.
    fn again(&mut self, now_ms: u64) {
        let Role::Primary(Phase::Up(up)) = &self.role else {
            return;
        };
        if up.tries > self.config.retries {
            return self.give_up(up.tries);
        }
        if self.transfer.is_unacknowledged() {
            self.go_on(now_ms, Pace::Now);
        } else {
            self.ask_for_more(now_ms);
        }
    }

    /// RR with P, or RNR if there is no room.
    fn ask_for_more(&mut self, now_ms: u64) {
        let receive = self.transfer.receive();
        let control = if self.is_busy() {
            Control::ReceiveNotReady {
                receive,
                poll: true,
            }
        } else {
            Control::ReceiveReady {
                receive,
                poll: true,
            }
        };
        self.transmit(control, Vec::new());
        let timeout_ms = self.config.timeout_ms;
        if let Role::Primary(Phase::Up(up)) = &mut self.role {
            up.asked = true;
            up.tries = up.tries.saturating_add(1);
            up.turn = Turn::Theirs(now_ms.saturating_add(timeout_ms));
        }
    }

    fn set_normal_response_mode(&mut self, now_ms: u64, tries: u8) {
        let parameters = self.config.parameters();
        // Nothing said means the defaults: some meters take no more than that.
        let information = if parameters == Parameters::default() {
            Vec::new()
        } else {
            parameters.encode()
        };
        self.transmit(Control::SetNormalResponseMode { poll: true }, information);
        self.role = Role::Primary(Phase::Connecting(self.trial(now_ms, tries)));
    }

    fn leave(&mut self, now_ms: u64, tries: u8) {
        self.transfer = Transfer::new(Parameters::default());
        self.transmit(Control::Disconnect { poll: true }, Vec::new());
        self.role = Role::Primary(Phase::Disconnecting(self.trial(now_ms, tries)));
    }

    const fn trial(&self, now_ms: u64, tries: u8) -> Trial {
        Trial {
            deadline: now_ms.saturating_add(self.config.timeout_ms),
            tries,
        }
    }

    fn give_up(&mut self, tries: u8) {
        let end = match self.role {
            Role::Primary(Phase::Disconnecting(_)) => Effect::Disconnected,
            Role::Primary(Phase::Down | Phase::Connecting(_) | Phase::Up(_))
            | Role::Secondary(_) => Effect::Failed(Error::Silent { tries }),
        };
        self.primary_down(end);
    }

    fn fail(&mut self, expected: &'static str, found: &'static str) {
        self.primary_down(Effect::Failed(Error::Link { expected, found }));
    }

    fn primary_down(&mut self, end: Effect) {
        self.role = Role::Primary(Phase::Down);
        self.transfer = Transfer::new(Parameters::default());
        self.effects.push_back(end);
    }
}

/// When a meter is asked for more that has nothing to be sent to it.
#[derive(Clone, Copy)]
enum Pace {
    Now,
    Later,
    /// Later, and it takes nothing before.
    Busy,
}

/// What an I frame brought, if it was one.
enum Arrival {
    None,
    Taken,
    NoRoom,
    TooLong,
    /// One came before.
    Duplicate,
    /// One before it is missing.
    Gap,
}
