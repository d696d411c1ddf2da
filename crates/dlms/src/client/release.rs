//! How an association ends in peace, and how one is released that the meter still holds.

use alloc::vec::Vec;

use super::state::{State, Then};
use super::{Client, Effect, Event};
use crate::acse::Rlrq;
use crate::cause::Awaiting;
use crate::cipher::{CipherFailure, CipherOutput};

impl Client {
    pub(super) fn start_release(&mut self, now_ms: u64, then: Then) {
        if !self.config.release {
            self.disconnect(now_ms, then);
        } else if self.config.protection.is_ciphered() {
            // Meters refuse a plain RLRQ in a ciphered association.
            let terms = self.config.terms().initiate();
            let (job, _) = self.protect(self.initiate_request(), terms);
            self.state = State::ProtectingRelease { job, then };
        } else {
            self.transmit_release(now_ms, then, None);
        }
    }

    pub(super) fn on_release_protected(
        &mut self,
        now_ms: u64,
        then: Then,
        result: Result<CipherOutput, CipherFailure>,
    ) {
        match self.protected_initiate(Awaiting::Nothing, result) {
            Ok(apdu) => self.transmit_release(now_ms, then, Some(apdu)),
            // Without keys nothing can be said to the meter any more: it sees the link go down.
            Err(_) => self.disconnect(now_ms, then),
        }
    }

    fn transmit_release(&mut self, now_ms: u64, then: Then, user_information: Option<Vec<u8>>) {
        let rlrq = Rlrq {
            reason: Some(0),
            user_information,
        };
        match self.transmit(now_ms, rlrq.encode()) {
            Ok(()) => {
                let deadline = self.deadline(now_ms);
                self.state = State::AwaitingRelease { deadline, then };
            }
            Err(_) => self.disconnect(now_ms, then),
        }
    }

    /// Takes the link down, which HDLC says to the meter and the wrapper does not.
    pub(super) fn disconnect(&mut self, now_ms: u64, then: Then) {
        let deadline = self.deadline(now_ms);
        self.state = State::Disconnecting { deadline, then };
        self.link.disconnect(now_ms);
        self.drain(now_ms);
    }

    pub(super) fn on_disconnected(&mut self, now_ms: u64) {
        if !matches!(self.state, State::Disconnecting { .. }) {
            self.down.get_or_insert(super::wire::Down::Closed);
        } else if self.state.ending() == Some(Then::Again) {
            self.connect(now_ms);
        } else {
            self.released();
        }
    }

    pub(super) fn released(&mut self) {
        self.effects.push_back(Effect::Event(Event::Released));
        self.state = State::Released;
    }
}
