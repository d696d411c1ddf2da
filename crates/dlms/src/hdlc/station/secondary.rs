//! The meter's station: it answers polls, and keeps the poll that an APDU came with for the answer to that APDU.

use alloc::vec::Vec;

use super::transfer::Transfer;
use super::{Accepted, Effect, Role, Station};
use crate::hdlc::address::Address;
use crate::hdlc::control::{Control, Sequence};
use crate::hdlc::frame::Frame;
use crate::hdlc::parameters::Parameters;

#[derive(Debug)]
pub(super) enum Phase {
    Down,
    Up {
        /// A poll waits for the answer to the APDU that came with it.
        held: bool,
        /// The client takes no I frames now.
        client_busy: bool,
    },
    /// A frame was rejected; this is said to every poll until the client sets the link up again.
    Rejecting([u8; 3]),
}

/// Why a frame is rejected: the third octet of FRMR.
const TOO_LONG: u8 = 0x04;
const BAD_RECEIVE_NUMBER: u8 = 0x08;

impl Station {
    pub(super) fn on_secondary_frame(&mut self, frame: Frame) {
        let Role::Secondary(phase) = &self.role else {
            return;
        };
        let from_client = Some(frame.source) == self.peer;
        let poll = frame.control.poll();
        match (phase, frame.control) {
            (_, Control::SetNormalResponseMode { .. }) => {
                self.on_set_up(frame.source, &frame.information);
            }
            (Phase::Down, Control::UnnumberedInformation { .. }) => self.on_unnumbered(&frame),
            (Phase::Down, _) => {
                self.count_dropped();
                if poll {
                    self.peer = Some(frame.source);
                    self.transmit(Control::DisconnectedMode { poll: true }, Vec::new());
                }
            }
            (Phase::Up { .. }, Control::UnnumberedInformation { .. }) => self.on_unnumbered(&frame),
            (Phase::Up { .. } | Phase::Rejecting(_), _) if !from_client => self.count_dropped(),
            (_, Control::Disconnect { poll }) => {
                self.transmit(Control::UnnumberedAcknowledge { poll }, Vec::new());
                self.secondary_down();
            }
            (Phase::Rejecting(why), _) => {
                let why = why.to_vec();
                self.count_dropped();
                if poll {
                    self.transmit(Control::FrameReject { poll }, why);
                }
            }
            (
                Phase::Up { .. },
                Control::Information { receive, .. }
                | Control::ReceiveReady { receive, .. }
                | Control::ReceiveNotReady { receive, .. }
                | Control::Reject { receive, .. },
            ) => self.on_polled(&frame, receive),
            (
                Phase::Up { .. },
                Control::UnnumberedAcknowledge { .. }
                | Control::DisconnectedMode { .. }
                | Control::FrameReject { .. },
            ) => self.count_dropped(),
        }
    }

    /// SNRM: whoever sends it is the client from now on, and what was before is gone.
    fn on_set_up(&mut self, client: Address, information: &[u8]) {
        let Ok(theirs) = Parameters::decode(information) else {
            return self.count_dropped();
        };
        let parameters = self.config.parameters().against(theirs);
        self.peer = Some(client);
        self.transfer = Transfer::new(parameters);
        self.inbox.clear();
        self.role = Role::Secondary(Phase::Up {
            held: false,
            client_busy: false,
        });
        self.transmit(
            Control::UnnumberedAcknowledge { poll: true },
            parameters.encode(),
        );
        self.effects.push_back(Effect::Connected);
    }

    pub(super) fn secondary_down(&mut self) {
        self.role = Role::Secondary(Phase::Down);
        self.transfer = Transfer::new(Parameters::default());
        self.effects.push_back(Effect::Disconnected);
    }

    fn on_polled(&mut self, frame: &Frame, receive: Sequence) {
        if self.transfer.acknowledge(receive).is_none() {
            return self.reject(frame, BAD_RECEIVE_NUMBER);
        }
        let mut whole = false;
        let mut busy = false;
        if let Control::Information { send, .. } = frame.control {
            if frame.information.len() > usize::from(self.config.parameters().max_info_receive) {
                return self.reject(frame, TOO_LONG);
            }
            if send != self.transfer.receive() {
                self.count_dropped();
            } else if self.is_busy() {
                busy = true;
            } else {
                match self.accept(frame) {
                    Accepted::Whole => whole = true,
                    Accepted::TooLong => return self.reject(frame, TOO_LONG),
                    Accepted::Part => {}
                }
            }
        }
        if let Role::Secondary(Phase::Up { held, client_busy }) = &mut self.role {
            *client_busy = matches!(frame.control, Control::ReceiveNotReady { .. });
            // Every poll is answered once: one that comes while another waits takes its place.
            if frame.control.poll() {
                *held = whole;
                self.answer_poll(whole, busy);
            }
        }
    }

    /// The answer to a poll. The one that an APDU came with waits for that APDU's answer.
    fn answer_poll(&mut self, whole: bool, busy: bool) {
        let receive = self.transfer.receive();
        let Role::Secondary(Phase::Up { held, client_busy }) = &mut self.role else {
            return;
        };
        if busy {
            let control = Control::ReceiveNotReady {
                receive,
                poll: true,
            };
            return self.transmit(control, Vec::new());
        }
        let may_send = !*client_busy;
        if whole && !self.transfer.is_unacknowledged() && self.transfer.waiting() == 0 {
            return;
        }
        *held = false;
        if may_send && (self.transmit_again() || self.transmit_burst()) {
            return;
        }
        let control = Control::ReceiveReady {
            receive,
            poll: true,
        };
        self.transmit(control, Vec::new());
    }

    /// An APDU is to be sent: now, if a poll waits for it.
    pub(super) fn answer_held_poll(&mut self) {
        if let Role::Secondary(Phase::Up { held, .. }) = &mut self.role
            && *held
        {
            *held = false;
            self.transmit_burst();
        }
    }

    /// FRMR: the control octet, our numbers, and why. The association is over; only SNRM helps.
    fn reject(&mut self, frame: &Frame, why: u8) {
        self.count_dropped();
        let numbers =
            (self.transfer.receive().number() << 5) | (self.transfer.send().number() << 1);
        let information = [frame.control.octet(), numbers, why];
        self.secondary_down();
        self.role = Role::Secondary(Phase::Rejecting(information));
        if frame.control.poll() {
            let control = Control::FrameReject { poll: true };
            self.transmit(control, information.to_vec());
        }
    }
}
