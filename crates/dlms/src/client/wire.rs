//! Between the association and its link: frames in and out, time, the end of the connection, cipher jobs.

use alloc::vec::Vec;

use super::state::{Plain, State, Then};
use super::{Client, Effect, Event};
use crate::cause::{Awaiting, Cause};
use crate::cipher::{CipherFailure, CipherJob, CipherOp, CipherOutput, JobId};
use crate::error::Error;
use crate::link::{LinkConfig, LinkEffect};
use crate::security::SystemTitle;
use crate::terms::{Parties, Terms, print};
use crate::wrapper::Frame;

/// How often general blocks are sent again, or asked for again, while an answer is waited for.
const BLOCK_TRIES: u64 = 4;
/// The longest APDU that is taken in general blocks, ciphering included.
const GENERAL_LIMIT: usize = super::MAX_ANSWER.saturating_add(1024);

/// Why nothing more will come.
pub(super) enum Down {
    /// The connection is closed, or the meter took the link down.
    Closed,
    /// The link failed.
    Failed(Error),
}

impl Client {
    /// Takes what has come, one APDU after the other, as far as the state allows.
    pub(super) fn pump(&mut self, now_ms: u64) {
        loop {
            self.drain(now_ms);
            // While one is being deciphered the next waits: it is the answer if this one proves to be a replay.
            if self.state.is_over() || self.state.is_judging() || self.inbound.is_some() {
                break;
            }
            match self.link.take() {
                Some(frame) => self.on_frame(now_ms, frame),
                None => break,
            }
        }
        self.send_confirmation(now_ms);
        self.drain(now_ms);
        self.settle();
        self.arm();
    }

    /// Does what the link wants done.
    pub(super) fn drain(&mut self, now_ms: u64) {
        while let Some(effect) = self.link.poll() {
            match effect {
                LinkEffect::Transmit(octets) => self.effects.push_back(Effect::Transmit(octets)),
                LinkEffect::Connected => {
                    if matches!(self.state, State::Connecting) {
                        self.start(now_ms);
                    }
                }
                LinkEffect::Disconnected => self.on_disconnected(now_ms),
                LinkEffect::Failed(error) => {
                    self.down.get_or_insert(Down::Failed(error));
                }
            }
        }
    }

    /// A frame between other ports is not ours. One that comes when none is due is late or a duplicate, or tells
    /// something.
    fn on_frame(&mut self, now_ms: u64, frame: Frame) {
        if (frame.source, frame.destination) != (self.config.server_sap, self.config.client_sap) {
            return;
        }
        match &self.state {
            State::AwaitingAare { .. } => self.on_aare(now_ms, &frame.apdu),
            State::AwaitingRelease { then, .. } => self.disconnect(now_ms, *then),
            State::Ready { .. } | State::Protecting { .. } | State::Awaiting { .. } => {
                self.on_apdu(now_ms, frame.apdu);
            }
            State::Idle
            | State::Connecting
            | State::ProtectingInitiate { .. }
            | State::UnprotectingInitiate { .. }
            | State::Answering { .. }
            | State::Verifying { .. }
            | State::ProtectingRelease { .. }
            | State::Disconnecting { .. }
            | State::Released
            | State::Failed(_) => {}
        }
    }

    /// Ends the association of a connection that has ended, as soon as nothing that was received is left to decipher.
    pub(super) fn settle(&mut self) {
        if self.state.is_over() || self.state.is_judging() || self.inbound.is_some() {
            return;
        }
        let Some(down) = self.down.take() else { return };
        let awaiting = self.state.awaiting();
        if self.state.ending() == Some(Then::End) {
            self.released();
            return;
        }
        let ciphered = self.config.terms().protects();
        self.fail(match down {
            Down::Closed => Cause::Closed { awaiting, ciphered },
            Down::Failed(error) if self.is_wrapper() => Cause::Malformed(error),
            Down::Failed(error) => Cause::Link { awaiting, error },
        });
    }

    const fn is_wrapper(&self) -> bool {
        matches!(self.config.link, LinkConfig::Tcp | LinkConfig::Udp)
    }

    /// Asks to be called when the next thing is due.
    fn arm(&mut self) {
        let state = match self.inbound {
            None => self.state.deadline(),
            Some(_) => None,
        };
        let general = self.general_at.filter(|_| self.general.is_active());
        let due = [state, general, self.link.deadline()]
            .into_iter()
            .flatten()
            .min();
        if let Some(deadline) = due.filter(|_| !self.state.is_over() && self.timer != due) {
            self.timer = due;
            self.effects.push_back(Effect::Timer(deadline));
        }
    }

    /// What is waited for did not come.
    pub(super) fn expire(&mut self, now_ms: u64) {
        if matches!(self.state, State::Disconnecting { .. }) {
            self.on_disconnected(now_ms);
        } else if let Some(then) = self.state.ending() {
            self.disconnect(now_ms, then);
        } else {
            let awaiting = self.state.awaiting();
            let suspect = self.suspect.take();
            self.fail(suspect.unwrap_or(Cause::TimedOut { awaiting }));
        }
    }

    /// What came is no answer to be acted on. Over UDP anybody may have sent it: the answer is waited for all the same,
    /// and this is why the association fails if none comes.
    pub(super) fn doubt(&mut self, now_ms: u64, cause: Cause) {
        if self.config.link == LinkConfig::Udp {
            self.suspect.get_or_insert(cause);
            self.listen(now_ms);
        } else {
            self.fail(cause);
        }
    }

    pub(super) fn fail(&mut self, cause: Cause) {
        let cause = self.told(cause);
        self.effects
            .push_back(Effect::Event(Event::Failed(cause.clone())));
        self.state = State::Failed(cause);
    }

    pub(super) fn job(&mut self, op: CipherOp) -> JobId {
        let id = self.next_job;
        self.next_job = id.next();
        self.effects.push_back(Effect::Cipher(CipherJob { id, op }));
        id
    }

    pub(super) fn protect(&mut self, apdu: Vec<u8>, terms: Terms) -> (JobId, Plain) {
        let plain = Plain {
            tag: apdu.first().copied().unwrap_or_default(),
            print: if terms.protects() { 0 } else { print(&apdu) },
        };
        let job = self.job(CipherOp::Protect {
            apdu,
            protection: terms.form,
            control: terms.control,
            signed: terms.signed,
        });
        (job, plain)
    }

    pub(super) fn unprotect(
        &mut self,
        apdu: Vec<u8>,
        peer_title: SystemTitle,
        terms: Terms,
    ) -> JobId {
        self.job(CipherOp::Unprotect {
            apdu,
            peer_title,
            protection: terms.form,
            control: terms.control,
            signed: terms.signed,
        })
    }

    /// The APDU of a `Protect` job, if it is protected as asked: a clear one must not leave by mistake, nor, where
    /// nothing is ciphered, another than was asked for.
    pub(super) fn protected(
        &self,
        during: Awaiting,
        plain: Plain,
        (terms, to): (Terms, Option<SystemTitle>),
        result: Result<CipherOutput, CipherFailure>,
    ) -> Result<Vec<u8>, Cause> {
        let output = result.map_err(|failure| Cause::Cipher { during, failure })?;
        let bad = Cause::BadCipherOutput {
            expected: "the APDU protected as asked",
        };
        let CipherOutput::Apdu(apdu, _) = output else {
            return Err(bad);
        };
        let good = match (terms.protects(), self.config.client_title) {
            (false, _) => print(&apdu) == plain.print,
            (true, Some(from)) => terms
                .check(&apdu, Parties { from, to })
                .is_ok_and(|tag| tag == terms.form.tag(plain.tag)),
            (true, None) => false,
        };
        if good { Ok(apdu) } else { Err(bad) }
    }

    /// Hands an APDU to the link.
    pub(super) fn transmit(&mut self, now_ms: u64, apdu: Vec<u8>) -> Result<(), Cause> {
        let frame = Frame {
            source: self.config.client_sap,
            destination: self.config.server_sap,
            apdu,
        };
        let awaiting = self.state.awaiting();
        self.link
            .send(now_ms, &frame)
            .map_err(|error| Cause::Link { awaiting, error })?;
        self.suspect = None;
        self.drain(now_ms);
        Ok(())
    }

    /// Hands a request to the link, in general blocks if it is longer than the meter receives, and that takes them.
    pub(super) fn transmit_request(
        &mut self,
        now_ms: u64,
        apdu: Vec<u8>,
        (limit, has_general_blocks): (usize, bool),
    ) -> Result<(), Cause> {
        self.general.reset();
        if apdu.len() <= limit {
            return self.transmit(now_ms, apdu);
        }
        if !has_general_blocks {
            // commands were looked at before: it is the token of pass 3
            return Err(Cause::BadInitiate(
                "its largest APDU does not hold our authentication",
            ));
        }
        self.general.send(apdu, limit)?;
        self.transmit_blocks(now_ms)
    }

    /// Sends the general blocks that may go now.
    fn transmit_blocks(&mut self, now_ms: u64) -> Result<(), Cause> {
        while let Some(block) = self.general.next() {
            self.transmit(now_ms, block)?;
        }
        // A stream loses nothing, and HDLC sends again itself.
        if self.config.link == LinkConfig::Udp {
            let pause = self.config.answer_timeout_ms / BLOCK_TRIES;
            self.general_at = Some(now_ms.saturating_add(pause));
        }
        Ok(())
    }

    /// Takes a general block: the APDU it completes. One that brings the transfer further puts the end of waiting off.
    pub(super) fn on_block(&mut self, now_ms: u64, block: &[u8]) -> Option<Vec<u8>> {
        let before = self.general.progress();
        let whole = self.general.take(block, GENERAL_LIMIT).map_err(Cause::from);
        let further = self.general.progress() > before;
        let sent = self.transmit_blocks(now_ms);
        let later = self.deadline(now_ms);
        if let State::Awaiting { deadline, .. } = &mut self.state
            && further
        {
            *deadline = later;
        }
        match whole.and_then(|whole| sent.map(|()| whole)) {
            Ok(whole) => {
                if whole.is_none() {
                    self.listen(now_ms);
                }
                whole
            }
            Err(cause) => {
                if matches!(self.state, State::Awaiting { .. }) {
                    self.doubt(now_ms, cause);
                }
                None
            }
        }
    }

    /// Sends general blocks again that may be lost, unless the meter may have all of them, and asks for those that are
    /// missing.
    pub(super) fn repeat_blocks(&mut self, now_ms: u64) {
        let due = self.general_at.is_some_and(|at| now_ms >= at);
        if !due || !self.general.is_active() || self.state.is_over() {
            return;
        }
        let repeated = self.general.timed_out().map_err(Cause::from);
        if repeated
            .and_then(|()| self.transmit_blocks(now_ms))
            .is_err()
        {
            // The end of waiting tells why.
            self.general.reset();
        }
    }

    pub(super) const fn deadline(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add(self.config.answer_timeout_ms)
    }
}

/// The plaintext of an `Unprotect` job, if it is the kind of APDU that its tag says.
pub(super) fn unprotected(
    during: Awaiting,
    (terms, tag): (Terms, Option<u8>),
    result: Result<CipherOutput, CipherFailure>,
) -> Result<Vec<u8>, Cause> {
    let output = result.map_err(|failure| Cause::Cipher { during, failure })?;
    let CipherOutput::Apdu(apdu, _) = output else {
        return Err(Cause::BadCipherOutput {
            expected: "a deciphered APDU",
        });
    };
    let inside = apdu.first().copied().unwrap_or_default();
    if !terms.holds(tag, inside) {
        let found = tag.unwrap_or_default();
        return Err(Cause::WrongTag { found, inside });
    }
    Ok(apdu)
}
