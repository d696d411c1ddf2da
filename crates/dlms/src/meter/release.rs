//! RLRQ: how an association ends.

use alloc::vec::Vec;

use super::state::{Phase, Session, State};
use super::wire::unprotected;
use super::{Effect, Event, Meter};
use crate::acse::{Rlre, Rlrq};
use crate::cipher::{CipherFailure, CipherOutput};
use crate::security::is_ciphered;
use crate::service::Exception;
use crate::terms::Parties;

impl Meter {
    /// Many clients release without ciphering: they may, for it is only their own connection that they end. Not over
    /// UDP, where anybody could.
    pub(super) fn on_rlrq(&mut self, now_ms: u64, (session, phase): (Session, Phase), apdu: &[u8]) {
        let information = Rlrq::decode(apdu).map(|rlrq| {
            rlrq.user_information
                .filter(|octets| session.ciphered && is_ciphered(octets))
        });
        let exception = match (information, session.client_title) {
            (Ok(None), _) if session.ciphered && self.is_datagram() => Exception::DECIPHERING,
            (Ok(None), _) => return self.release(now_ms, session.client_sap, None),
            (Ok(Some(information)), Some(from)) => {
                let (terms, to) = (session.terms.initiate(), Some(self.config.server_title));
                if let Ok(tag) = terms.check(&information, Parties { from, to }) {
                    let job = self.unprotect(information, from, terms);
                    self.state = State::UnprotectingRelease {
                        job,
                        tag,
                        session,
                        phase,
                    };
                    return;
                }
                Exception::DECIPHERING
            }
            (Ok(Some(_)), None) => Exception::DECIPHERING,
            (Err(_), _) => Exception::NOT_POSSIBLE,
        };
        self.state = State::Associated { session, phase };
        self.except(now_ms, session.client_sap, exception);
    }

    pub(super) fn on_release_unprotected(
        &mut self,
        now_ms: u64,
        tag: Option<u8>,
        (session, phase): (Session, Phase),
        result: Result<CipherOutput, CipherFailure>,
    ) {
        let terms = session.terms.initiate();
        match unprotected(terms, tag, result) {
            Ok(_) => {
                let job = self.protect(self.initiate_response(&session), terms);
                self.state = State::ProtectingRelease { job, session };
            }
            Err(failure) => {
                self.state = State::Associated { session, phase };
                self.not_deciphered(now_ms, session.client_sap, failure);
            }
        }
    }

    pub(super) fn on_release_protected(
        &mut self,
        now_ms: u64,
        session: Session,
        result: Result<CipherOutput, CipherFailure>,
    ) {
        let terms = (session.terms.initiate(), session.client_title);
        match self.protected(super::open::INITIATE_RESPONSE, terms, result) {
            Ok(information) => self.release(now_ms, session.client_sap, Some(information)),
            Err(_) => self.not_ciphered(session.client_sap),
        }
    }

    fn release(&mut self, now_ms: u64, client_sap: u16, user_information: Option<Vec<u8>>) {
        let rlre = Rlre {
            reason: Some(0),
            user_information,
        };
        self.transmit(now_ms, client_sap, rlre.encode());
        self.effects.push_back(Effect::Event(Event::Released));
        self.end();
    }
}
