//! Between the meter and its link: frames in and out, cipher jobs.

use alloc::vec::Vec;

use super::state::{Session, State};
use super::{Effect, Event, Meter};
use crate::cipher::{CipherFailure, CipherJob, CipherOp, CipherOutput, JobId};
use crate::conformance::Conformance;
use crate::link::{LinkConfig, LinkEffect};
use crate::security::SystemTitle;
use crate::service::{Exception, Response};
use crate::terms::{Parties, Terms, print};
use crate::wrapper::Frame;

/// Tag of an AARQ.
const AARQ: u8 = 0x60;
/// Tag of an RLRQ.
const RLRQ: u8 = 0x62;

impl Meter {
    /// Takes frames while nothing is under way: requests are served one by one.
    pub(super) fn pump(&mut self, now_ms: u64) {
        loop {
            self.drain();
            if !self.state.takes_frames() {
                break;
            }
            match self.link.take() {
                Some(frame) => self.on_frame(now_ms, frame),
                None => break,
            }
        }
        self.send_notice(now_ms);
        self.drain();
        let due = self.link.deadline();
        if let Some(deadline) = due.filter(|_| self.timer != due) {
            self.timer = due;
            self.effects.push_back(Effect::Timer(deadline));
        }
    }

    /// Does what the link wants done.
    fn drain(&mut self) {
        while let Some(effect) = self.link.poll() {
            match effect {
                LinkEffect::Transmit(octets) => self.effects.push_back(Effect::Transmit(octets)),
                // A client that sets up the link again, or takes it down, has no association any more.
                LinkEffect::Connected | LinkEffect::Disconnected => self.abandon(),
                LinkEffect::Failed(error) => {
                    self.effects.push_back(Effect::Event(Event::Failed(error)));
                    self.state = State::Failed;
                }
            }
        }
    }

    fn abandon(&mut self) {
        if !matches!(self.state, State::Idle | State::Failed) {
            self.end();
            self.effects.push_back(Effect::Event(Event::Released));
        }
    }

    /// There is no association any more.
    pub(super) fn end(&mut self) {
        self.state = State::Idle;
        self.notice = None;
        self.general.reset();
        self.seen.closed();
    }

    fn on_frame(&mut self, now_ms: u64, frame: Frame) {
        if frame.destination != self.config.server_sap {
            return;
        }
        let (sap, tag) = (frame.source, frame.apdu.first().copied());
        if tag == Some(AARQ) {
            let state = self.take_state();
            return self.on_aarq(now_ms, sap, &frame.apdu, state);
        }
        if !matches!(&self.state, State::Associated { session, .. } if session.client_sap == sap) {
            return self.except(now_ms, sap, Exception::NOT_POSSIBLE);
        }
        let State::Associated { session, phase } = self.take_state() else {
            return;
        };
        if tag == Some(RLRQ) {
            self.on_rlrq(now_ms, (session, phase), &frame.apdu);
        } else {
            self.on_request(now_ms, (session, phase), frame.apdu);
        }
    }

    pub(super) fn is_datagram(&self) -> bool {
        self.config.link == LinkConfig::Udp
    }

    /// Tells the client why a ciphered APDU was not taken, as the standard says: never ciphered. Of a replay over UDP
    /// nothing is said: the network makes duplicates, and the client may be waiting for the answer to the original.
    pub(super) fn not_deciphered(&mut self, now_ms: u64, client_sap: u16, failure: CipherFailure) {
        self.effects
            .push_back(Effect::Event(Event::NotDeciphered(failure)));
        let exception = match failure {
            CipherFailure::Replay { .. } if self.is_datagram() && self.is_associated() => return,
            CipherFailure::Replay { expected } => Exception::invocation_counter(expected),
            CipherFailure::AuthFailed => Exception::DECIPHERING,
            CipherFailure::Refused | CipherFailure::Unavailable => Exception::OTHER_REASON,
        };
        self.except(now_ms, client_sap, exception);
    }

    const fn is_associated(&self) -> bool {
        matches!(self.state, State::Associated { .. })
    }

    /// The keys failed us: the executor knows why, the client sees silence.
    pub(super) fn not_ciphered(&mut self, client_sap: u16) {
        self.refused(client_sap, "an answer could not be ciphered");
    }

    pub(super) fn refused(&mut self, client_sap: u16, why: &'static str) {
        self.effects
            .push_back(Effect::Event(Event::Refused { client_sap, why }));
        self.end();
    }

    pub(super) fn except(&mut self, now_ms: u64, client_sap: u16, exception: Exception) {
        self.transmit(now_ms, client_sap, Response::Exception(exception).encode());
    }

    pub(super) fn job(&mut self, op: CipherOp) -> JobId {
        let id = self.next_job;
        self.next_job = id.next();
        self.effects.push_back(Effect::Cipher(CipherJob { id, op }));
        id
    }

    pub(super) fn protect(&mut self, apdu: Vec<u8>, terms: Terms) -> JobId {
        self.job(CipherOp::Protect {
            apdu,
            protection: terms.form,
            control: terms.control,
            signed: terms.signed,
        })
    }

    pub(super) fn unprotect(&mut self, apdu: Vec<u8>, peer: SystemTitle, terms: Terms) -> JobId {
        self.job(CipherOp::Unprotect {
            apdu,
            peer_title: peer,
            protection: terms.form,
            control: terms.control,
            signed: terms.signed,
        })
    }

    /// The APDU of a `Protect` job, if it is protected as asked: a clear one must not leave by mistake.
    pub(super) fn protected(
        &self,
        tag: u8,
        (terms, to): (Terms, Option<SystemTitle>),
        result: Result<CipherOutput, CipherFailure>,
    ) -> Result<Vec<u8>, CipherFailure> {
        let apdu = octets(result)?;
        let from = self.config.server_title;
        match terms.check(&apdu, Parties { from, to }) {
            Ok(outside) if terms.holds(outside, tag) => Ok(apdu),
            Ok(_) | Err(_) => Err(CipherFailure::Unavailable),
        }
    }

    /// Hands an APDU to the link. One that no frame holds is replaced by an exception; one that the link cannot take now
    /// is lost, as on a bad line.
    pub(super) fn transmit(&mut self, now_ms: u64, client_sap: u16, apdu: Vec<u8>) {
        let frame = |apdu| Frame {
            source: self.config.server_sap,
            destination: client_sap,
            apdu,
        };
        let sent = self.link.send(now_ms, &frame(apdu));
        if matches!(sent, Err(crate::Error::TooLong { .. })) {
            let exception = Response::Exception(Exception::TOO_LONG).encode();
            self.link.send(now_ms, &frame(exception)).ok();
        }
    }

    /// Hands an answer to the link, in general blocks if it is longer than the client receives, and that takes them.
    pub(super) fn transmit_answer(&mut self, now_ms: u64, session: &Session, apdu: Vec<u8>) {
        let limit = session.limit();
        if apdu.len() <= limit {
            self.transmit(now_ms, session.client_sap, apdu);
        } else if session.has(Conformance::GENERAL_BLOCK_TRANSFER)
            && self.general.send(apdu, limit).is_ok()
        {
            self.transmit_blocks(now_ms, session.client_sap);
        } else {
            self.except(now_ms, session.client_sap, Exception::TOO_LONG);
        }
    }

    /// Sends the general blocks that may go now.
    pub(super) fn transmit_blocks(&mut self, now_ms: u64, client_sap: u16) {
        while let Some(block) = self.general.next() {
            self.transmit(now_ms, client_sap, block);
        }
    }
}

/// The APDU that a job made; an executor that returns something else counts as one that could not do it.
pub(super) fn octets(
    result: Result<CipherOutput, CipherFailure>,
) -> Result<Vec<u8>, CipherFailure> {
    match result? {
        CipherOutput::Apdu(apdu, _) => Ok(apdu),
        CipherOutput::Token(_) | CipherOutput::Verified => Err(CipherFailure::Unavailable),
    }
}

/// The plaintext of an `Unprotect` job, if it is the kind of APDU that its tag says.
pub(super) fn unprotected(
    terms: Terms,
    tag: Option<u8>,
    result: Result<CipherOutput, CipherFailure>,
) -> Result<Vec<u8>, CipherFailure> {
    let apdu = octets(result)?;
    let inside = apdu.first().copied().unwrap_or_default();
    if terms.holds(tag, inside) {
        Ok(apdu)
    } else {
        Err(CipherFailure::AuthFailed)
    }
}

/// The fingerprint of a plaintext request that writes or acts.
pub(super) fn effect_print(apdu: &[u8]) -> Option<u64> {
    let effect = matches!(apdu.first(), Some(0xC1 | 0xC3 | 0xD9));
    effect.then(|| print(apdu))
}
