//! What the meter says unasked.

use alloc::vec::Vec;

use super::state::Plain;
use super::{Client, Effect, Event};
use crate::cause::Awaiting;
use crate::cipher::{CipherFailure, CipherOutput, JobId};
use crate::link::LinkConfig;
use crate::service::Notification;
use crate::terms::Terms;

/// Confirmations that wait.
const CONFIRMATIONS_MAX: usize = 4;

/// A confirmation that is being ciphered.
pub(super) struct Confirming {
    pub(super) job: JobId,
    plain: Plain,
    terms: Terms,
}

impl Client {
    /// One that cannot be read is dropped: it answers nothing, so nothing is lost that was asked for.
    pub(super) fn on_notification(&mut self, terms: Terms, apdu: &[u8]) {
        if !self.state.is_open() {
            return;
        }
        let Ok(notification) = Notification::decode(apdu) else {
            return;
        };
        if let Some(confirmation) = notification.confirmation() {
            self.confirm(terms, confirmation.encode());
        }
        self.effects
            .push_back(Effect::Event(Event::Notified(notification)));
    }

    /// In the form the notification had. A few wait; a meter that goes on repeats what was not confirmed.
    fn confirm(&mut self, terms: Terms, apdu: Vec<u8>) {
        if self.confirmations.len() < CONFIRMATIONS_MAX {
            self.confirmations.push_back((terms, apdu));
        }
    }

    /// Sends a confirmation that waits, unless it could overtake a request: its counter is higher.
    pub(super) fn send_confirmation(&mut self, now_ms: u64) {
        let overtakes =
            self.general.is_sending() || (self.config.link == LinkConfig::Udp && !self.is_ready());
        if overtakes || self.confirming.is_some() || !self.state.is_open() {
            return;
        }
        let Some((terms, apdu)) = self.confirmations.pop_front() else {
            return;
        };
        if terms.protects() {
            let (job, plain) = self.protect(apdu, terms);
            self.confirming = Some(Confirming { job, plain, terms });
        } else {
            self.transmit_confirmation(now_ms, apdu);
        }
    }

    pub(super) fn on_confirmation(
        &mut self,
        now_ms: u64,
        confirming: &Confirming,
        result: Result<CipherOutput, CipherFailure>,
    ) {
        let title = self
            .state
            .session()
            .and_then(|(session, _)| session.server_title);
        let terms = (confirming.terms, title);
        let apdu = self.protected(Awaiting::Nothing, confirming.plain, terms, result);
        if let (Ok(apdu), true) = (apdu, self.state.is_open()) {
            self.transmit_confirmation(now_ms, apdu);
        }
    }

    /// A link that cannot take it now leaves the meter without confirmation, which then repeats itself.
    fn transmit_confirmation(&mut self, now_ms: u64, apdu: Vec<u8>) {
        let suspect = self.suspect.take();
        self.transmit(now_ms, apdu).ok();
        self.suspect = suspect;
    }
}
