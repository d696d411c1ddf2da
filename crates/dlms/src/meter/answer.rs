//! Answers of the COSEM objects, on their way to the client.

use alloc::vec::Vec;

use super::state::{After, Phase, Session, State};
use super::{Effect, Event, Meter};
use crate::blocks::LongAnswer;
use crate::cipher::{CipherFailure, CipherOutput};
use crate::conformance::Conformance;
use crate::service::{EXCEPTION, Exception, Response};

impl Meter {
    pub(super) fn on_served(&mut self, now_ms: u64, response: Response) {
        let State::Asked(asked) = self.take_state() else {
            return;
        };
        let (session, invoke) = (asked.session, asked.invoke);
        let mut response = response.with(invoke);
        if let (Response::Access { invoke, .. }, Some(long)) = (&mut response, asked.long()) {
            *invoke = long;
        }
        if let Some(block) = asked.block {
            response = of_blocks(response, block);
        }
        let apdu = response.encode();
        if session.terms.length(apdu.len()) <= session.limit() {
            return self.respond(now_ms, session, apdu, After::Open(None));
        }
        match LongAnswer::new(invoke, apdu) {
            Ok(long) if session.has(long.service()) => self.send_block(now_ms, session, long),
            Ok(long) => self.send_general(now_ms, session, long.into_octets()),
            Err(apdu) => self.send_general(now_ms, session, apdu),
        }
    }

    /// In general blocks, if the client takes them.
    fn send_general(&mut self, now_ms: u64, session: Session, apdu: Vec<u8>) {
        let length = session.terms.length(apdu.len());
        let fits = session.has(Conformance::GENERAL_BLOCK_TRANSFER)
            && crate::general::fits(length, session.limit());
        let apdu = if fits {
            apdu
        } else {
            Response::Exception(Exception::TOO_LONG).encode()
        };
        self.respond(now_ms, session, apdu, After::Open(None));
    }

    pub(super) fn respond(&mut self, now_ms: u64, session: Session, apdu: Vec<u8>, after: After) {
        let tag = apdu.first().copied().unwrap_or_default();
        if tag == EXCEPTION || !session.terms.protects() {
            self.deliver(now_ms, session, after, apdu);
            return;
        }
        let job = self.protect(apdu, session.terms);
        self.state = State::Protecting {
            job,
            tag,
            session,
            after,
        };
    }

    pub(super) fn on_protected(
        &mut self,
        now_ms: u64,
        tag: u8,
        session: Session,
        (after, result): (After, Result<CipherOutput, CipherFailure>),
    ) {
        match self.protected(tag, (session.terms, session.client_title), result) {
            Ok(apdu) => self.deliver(now_ms, session, after, apdu),
            Err(_) => self.not_ciphered(session.client_sap),
        }
    }

    fn deliver(&mut self, now_ms: u64, session: Session, after: After, apdu: Vec<u8>) {
        if self.is_datagram() && !session.terms.form.is_ciphered() {
            self.seen.answered(&apdu);
        }
        self.transmit_answer(now_ms, &session, apdu);
        let phase = match after {
            After::Open(transfer) => Phase::Open(transfer),
            After::Opened => {
                self.opened(&session);
                Phase::Open(None)
            }
            After::Dropped => {
                self.effects.push_back(Effect::Event(Event::Refused {
                    client_sap: session.client_sap,
                    why: "pass 3 is wrong",
                }));
                return self.end();
            }
        };
        self.state = State::Associated { session, phase };
    }
}

/// The answer to a SET that came in blocks says the number of the last.
fn of_blocks(response: Response, block: u32) -> Response {
    if let Response::Set { invoke, result } = response {
        Response::SetLastBlock {
            invoke,
            result,
            block,
        }
    } else if let Response::SetList { invoke, results } = response {
        Response::SetLastBlockList {
            invoke,
            results,
            block,
        }
    } else {
        response
    }
}
