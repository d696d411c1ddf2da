//! What the meter says unasked.

use alloc::vec::Vec;

use super::Meter;
use super::state::Session;
use crate::cipher::{CipherFailure, CipherOutput, JobId};
use crate::conformance::Conformance;
use crate::error::Error;
use crate::service::Notification;
use crate::terms::Terms;

/// A notification that is being ciphered.
pub(super) struct Notice {
    pub(super) job: JobId,
    tag: u8,
    session: Session,
    terms: Terms,
    /// The notification, when it is ciphered and has to wait: it must not overtake an answer in general blocks.
    ready: Option<Vec<u8>>,
}

impl Meter {
    pub(super) fn tell(&mut self, now_ms: u64, notification: &Notification) -> Result<(), Error> {
        let state = |expected, found| Error::State { expected, found };
        let Some(session) = self.state.open().copied() else {
            return Err(state("open", self.state.name()));
        };
        if self.notice.is_some() {
            return Err(state("idle", "ciphering another notification"));
        }
        let service = match notification {
            Notification::Event { .. } => Conformance::EVENT_NOTIFICATION,
            Notification::Data { .. } => Conformance::DATA_NOTIFICATION,
        };
        if !session.has(service) {
            return Err(state("granted the service", "not granted it"));
        }
        let apdu = notification.encode();
        let tag = apdu.first().copied().unwrap_or_default();
        let general = session.has(Conformance::GENERAL_PROTECTION);
        let terms = session.terms.of_service(tag, general).ok_or(state(
            "granted general protection, which the service needs",
            "not granted it",
        ))?;
        // general blocks of it would mix with those of an answer
        let (limit, found) = (session.limit(), terms.length(apdu.len()));
        if found > limit {
            return Err(Error::TooLong { limit, found });
        }
        if terms.protects() {
            let job = self.protect(apdu, terms);
            self.notice = Some(Notice {
                job,
                tag,
                session,
                terms,
                ready: None,
            });
        } else {
            self.transmit(now_ms, session.client_sap, apdu);
        }
        Ok(())
    }

    /// One that could not be ciphered is not sent: the executor knows why.
    pub(super) fn on_notice(
        &mut self,
        mut notice: Notice,
        result: Result<CipherOutput, CipherFailure>,
    ) {
        let terms = (notice.terms, notice.session.client_title);
        if let Ok(apdu) = self.protected(notice.tag, terms, result) {
            notice.ready = Some(apdu);
            self.notice = Some(notice);
        }
    }

    /// Sends the notification that waits, if nothing is before it.
    pub(super) fn send_notice(&mut self, now_ms: u64) {
        if self.general.is_sending() {
            return;
        }
        if let Some(notice) = self.notice.take_if(|notice| notice.ready.is_some())
            && let Some(apdu) = notice.ready
        {
            self.transmit(now_ms, notice.session.client_sap, apdu);
        }
    }
}
