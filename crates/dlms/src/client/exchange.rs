//! Requests and their answers: passes 3 and 4, commands.

use alloc::vec::Vec;

use super::answer::{Next, Progress};
use super::state::{Exchange, Inbound, Plain, Purpose, Session, State};
use super::wire::unprotected;
use super::{Client, Effect, Event};
use crate::acse;
use crate::blocks::Upload;
use crate::cause::{Awaiting, Cause};
use crate::cipher::{CipherFailure, CipherOp, CipherOutput};
use crate::conformance::Conformance;
use crate::data::Data;
use crate::error::Error;
use crate::gbt;
use crate::general;
use crate::security::SystemTitle;
use crate::service::{Command, EXCEPTION, Exception, Method, Notification, Request, Response};
use crate::status::ActionResult;
use crate::terms::{Parties, Terms};

/// Who a meter is that did not say it, where no title matters: HLS 3 and 4 without ciphering.
const NOBODY: SystemTitle = SystemTitle::new([0; 8]);

impl Client {
    /// Sends a command whole or in blocks, or refuses it before anything is changed.
    pub(super) fn command(&mut self, mut session: Session, command: Command) -> Result<(), Error> {
        let invoke = session.invoke;
        let request = command.with(invoke);
        let apdu = request.encode();
        let tag = apdu.first().copied().unwrap_or_default();
        let general = session
            .conformance
            .contains(Conformance::GENERAL_PROTECTION);
        let terms = self.config.terms().of_service(tag, general);
        let terms = terms.ok_or(Error::State {
            expected: "one with general protection, which the service needs",
            found: self.state.name(),
        })?;
        let (limit, found) = (session.limit(), terms.length(apdu.len()));
        let progress = Progress::of(&request);
        let (progress, apdu) = if found <= limit {
            (progress, apdu)
        } else {
            match upload(&session, &request, apdu, terms.room(limit)) {
                Ok((upload, first)) => (progress.uploading(upload), first),
                Err(apdu) if session.has_general_blocks() && general::fits(found, limit) => {
                    (progress, apdu)
                }
                Err(_) => return Err(Error::TooLong { limit, found }),
            }
        };
        session.invoke = invoke.next();
        let exchange = Exchange {
            session,
            invoke,
            terms,
            purpose: Purpose::Command(progress),
            begun: false,
        };
        self.send(exchange, apdu);
        Ok(())
    }

    /// Offers an APDU to the holder of the keys, who ciphers or allows it.
    fn send(&mut self, exchange: Exchange, apdu: Vec<u8>) {
        let (job, plain) = self.protect(apdu, exchange.terms);
        self.state = State::Protecting {
            job,
            plain,
            exchange,
        };
    }

    pub(super) fn on_protected(
        &mut self,
        now_ms: u64,
        plain: Plain,
        mut exchange: Exchange,
        result: Result<CipherOutput, CipherFailure>,
    ) {
        let terms = (exchange.terms, exchange.session.server_title);
        let fresh = matches!(exchange.purpose, Purpose::Command(_)) && !exchange.begun;
        match self.protected(exchange.purpose.awaiting(), plain, terms, result) {
            Ok(apdu) => {
                exchange.begun = true;
                // Passes 3 and 4 have no blocks of their own.
                let limit = match exchange.purpose {
                    Purpose::Command(_) => exchange.session.limit(),
                    Purpose::Authenticate { .. } => exchange.session.received(),
                };
                let general = exchange.session.has_general_blocks();
                let deadline = self.deadline(now_ms);
                self.state = State::Awaiting { deadline, exchange };
                if let Err(cause) = self.transmit_request(now_ms, apdu, (limit, general)) {
                    self.fail(cause);
                }
            }
            Err(Cause::Cipher { failure, .. }) if fresh => {
                self.effects
                    .push_back(Effect::Event(Event::NotSent(failure)));
                self.idle(now_ms, exchange.session);
            }
            Err(cause) => self.fail(cause),
        }
    }

    /// Open and idle.
    pub(super) fn idle(&mut self, now_ms: u64, session: Session) {
        self.general.reset();
        self.state = State::Ready { session };
        self.listen(now_ms);
    }

    /// Goes on asking for APDUs, on a link where the meter has to be asked: for an answer that is due, or, while nothing
    /// is, for what it may have to tell.
    pub(super) fn listen(&mut self, now_ms: u64) {
        let told = |session: &Session| {
            session
                .conformance
                .contains(Conformance::EVENT_NOTIFICATION)
                || session.conformance.contains(Conformance::DATA_NOTIFICATION)
        };
        let wanted = match self.state.session() {
            Some((session, _)) => !self.is_ready() || told(&session),
            None => false,
        };
        if wanted {
            self.link.listen(now_ms);
        }
    }

    /// An APDU of an association that is open, or authenticates.
    pub(super) fn on_apdu(&mut self, now_ms: u64, apdu: Vec<u8>) {
        let due = matches!(self.state, State::Awaiting { .. });
        let Some((session, terms)) = self.state.session() else {
            return;
        };
        let terms = terms.unwrap_or(self.config.terms());
        let whole = if apdu.first() == Some(&gbt::TAG) && session.has_general_blocks() {
            self.on_block(now_ms, &apdu)
        } else {
            Some(apdu)
        };
        let Some(apdu) = whole else { return };
        let (tag, title) = (
            apdu.first().copied().unwrap_or_default(),
            session.server_title,
        );
        if !terms.protects() {
            self.on_plain(now_ms, (due, terms), &apdu);
        } else if acse::is_tag(tag) || Notification::is_tag(tag) {
            // A late AARE, or something told without the protection that was agreed: no answer either way.
            self.listen(now_ms);
        } else if due && tag == EXCEPTION {
            self.doubt(now_ms, exception(&apdu, Cause::Exception));
        } else if due || Terms::may_notify(tag) {
            self.on_protected_apdu(now_ms, due, terms.as_tagged(tag), (apdu, title));
        }
    }

    fn on_protected_apdu(
        &mut self,
        now_ms: u64,
        due: bool,
        terms: Terms,
        (apdu, title): (Vec<u8>, Option<SystemTitle>),
    ) {
        let to = self.config.client_title;
        let checked = title
            .ok_or(Cause::NoServerTitle)
            .and_then(|from| Ok((from, terms.check(&apdu, Parties { from, to })?)));
        match checked {
            Ok((title, tag)) => {
                let job = self.unprotect(apdu, title, terms);
                self.inbound = Some(Inbound {
                    job,
                    tag,
                    terms,
                    due,
                });
            }
            Err(cause) if due => self.doubt(now_ms, cause),
            Err(_) => {}
        }
    }

    pub(super) fn on_inbound(
        &mut self,
        now_ms: u64,
        inbound: &Inbound,
        result: Result<CipherOutput, CipherFailure>,
    ) {
        let due = inbound.due && matches!(self.state, State::Awaiting { .. });
        // A late or doubled answer has an old counter: it is not ours to act on.
        if !due && result.is_err() || matches!(result, Err(CipherFailure::Replay { .. })) {
            self.listen(now_ms);
            return;
        }
        let forged = matches!(result, Err(CipherFailure::AuthFailed));
        match unprotected(self.state.awaiting(), (inbound.terms, inbound.tag), result) {
            Ok(apdu) => self.on_plain(now_ms, (due, inbound.terms), &apdu),
            Err(cause) if due && forged => self.doubt(now_ms, cause),
            Err(cause) if due => self.fail(cause),
            Err(_) => {}
        }
    }

    /// A plaintext APDU that came under these terms.
    fn on_plain(&mut self, now_ms: u64, (due, terms): (bool, Terms), apdu: &[u8]) {
        let tag = apdu.first().copied().unwrap_or_default();
        if Notification::is_tag(tag) {
            self.on_notification(terms, apdu);
            self.listen(now_ms);
            return;
        }
        if !due || acse::is_tag(tag) {
            self.listen(now_ms);
            return;
        }
        match Response::decode(apdu) {
            Ok(response) => self.on_answer(now_ms, response),
            Err(error) if terms.protects() => self.fail(Cause::Malformed(error)),
            Err(error) => self.doubt(now_ms, Cause::Malformed(error)),
        }
    }

    fn on_answer(&mut self, now_ms: u64, response: Response) {
        // the caller has looked
        let State::Awaiting {
            deadline,
            mut exchange,
        } = self.take_state()
        else {
            return;
        };
        let room = exchange.terms.room(exchange.session.limit());
        let next = match &mut exchange.purpose {
            Purpose::Command(progress) => progress.judge(exchange.invoke, response, room),
            Purpose::Authenticate { .. } => {
                self.on_pass_4(now_ms, deadline, exchange, response);
                return;
            }
        };
        match next {
            Next::Wait => self.wait_on(now_ms, deadline, exchange),
            Next::Answered(response) => {
                self.effects
                    .push_back(Effect::Event(Event::Answered(response)));
                self.idle(now_ms, exchange.session);
            }
            Next::Send(apdu) => self.send(exchange, apdu),
            Next::Fail(cause) => {
                let protects = exchange.terms.protects();
                self.state = State::Awaiting { deadline, exchange };
                if protects {
                    self.fail(cause);
                } else {
                    self.doubt(now_ms, cause);
                }
            }
        }
    }

    fn wait_on(&mut self, now_ms: u64, deadline: u64, exchange: Exchange) {
        self.state = State::Awaiting { deadline, exchange };
        self.listen(now_ms);
    }

    pub(super) fn answer_challenge(
        &mut self,
        session: Session,
        challenge: Vec<u8>,
        peer_certificate: Option<Vec<u8>>,
    ) {
        let job = self.job(CipherOp::Answer {
            mechanism: self.config.mechanism,
            challenge: challenge.clone(),
            own_challenge: self.config.authentication_value.clone(),
            peer_title: session.server_title.unwrap_or(NOBODY),
            peer_certificate,
            suite: self.config.terms().suite(),
        });
        self.state = State::Answering {
            job,
            session,
            challenge,
        };
    }

    pub(super) fn on_token(
        &mut self,
        mut session: Session,
        challenge: Vec<u8>,
        result: Result<CipherOutput, CipherFailure>,
    ) {
        let length = self.token_length();
        let token = match result {
            Ok(CipherOutput::Token(token)) if Some(token.len()) == length => token,
            Ok(_) => {
                self.fail(Cause::BadCipherOutput {
                    expected: "a token of the mechanism",
                });
                return;
            }
            Err(failure) => {
                let during = Awaiting::Authentication;
                self.fail(Cause::Cipher { during, failure });
                return;
            }
        };
        let command = Command::Action {
            method: Method::REPLY_TO_HLS,
            parameter: Some(Data::OctetString(token.clone())),
        };
        let invoke = session.invoke;
        session.invoke = invoke.next();
        let exchange = Exchange {
            session,
            invoke,
            terms: self.config.terms(),
            purpose: Purpose::Authenticate { token, challenge },
            begun: false,
        };
        self.send(exchange, command.with(invoke).encode());
    }

    fn token_length(&self) -> Option<usize> {
        let suite = self.config.terms().suite();
        self.config.mechanism.token_len(suite)
    }

    fn on_pass_4(&mut self, now_ms: u64, deadline: u64, exchange: Exchange, response: Response) {
        let other = |invoke: crate::InvokeId| invoke.id() != exchange.invoke.id();
        if response.invoke().is_some_and(other) {
            self.wait_on(now_ms, deadline, exchange);
            return;
        }
        let Purpose::Authenticate { token, challenge } = &exchange.purpose else {
            return;
        };
        match judge_pass_4(token, self.token_length(), response) {
            Ok(token) => {
                let job = CipherOp::Verify {
                    mechanism: self.config.mechanism,
                    token,
                    challenge: self.config.authentication_value.clone(),
                    peer_challenge: challenge.clone(),
                    peer_title: exchange.session.server_title.unwrap_or(NOBODY),
                    suite: self.config.terms().suite(),
                };
                let job = self.job(job);
                let session = exchange.session;
                self.state = State::Verifying { job, session };
            }
            Err(cause) => {
                let protects = exchange.terms.protects();
                self.state = State::Awaiting { deadline, exchange };
                if protects {
                    self.fail(cause);
                } else {
                    self.doubt(now_ms, cause);
                }
            }
        }
    }

    pub(super) fn on_verified(
        &mut self,
        now_ms: u64,
        session: Session,
        result: Result<CipherOutput, CipherFailure>,
    ) {
        let during = Awaiting::Authentication;
        match result {
            Ok(CipherOutput::Verified) => self.opened(now_ms, session),
            Ok(CipherOutput::Apdu(..) | CipherOutput::Token(_)) => {
                self.fail(Cause::BadCipherOutput {
                    expected: "a verdict on the meter's token",
                });
            }
            Err(CipherFailure::AuthFailed) => self.fail(Cause::NoServerProof),
            Err(failure) => self.fail(Cause::Cipher { during, failure }),
        }
    }
}

/// A long SET or ACTION, and its first block, if the meter takes such blocks and there is room for any; else its octets.
fn upload(
    session: &Session,
    request: &Request,
    apdu: Vec<u8>,
    room: usize,
) -> Result<(Upload, Vec<u8>), Vec<u8>> {
    let mut upload = Upload::new(request, apdu)?;
    let granted = session.conformance.contains(upload.service());
    // the blocks that follow have shorter heads
    match upload.next(room).filter(|_| granted) {
        Some(first) => Ok((upload, first)),
        None => Err(upload.into_octets()),
    }
}

/// The meter's token, if it accepted ours and has one of its own.
fn judge_pass_4(own: &[u8], length: Option<usize>, response: Response) -> Result<Vec<u8>, Cause> {
    if let Response::Exception(exception) = response {
        return Err(Cause::Exception(exception));
    }
    let Response::Action { result, data, .. } = response else {
        return Err(Cause::Mismatch("pass 4 is an ACTION response"));
    };
    match data {
        _ if result != ActionResult::SUCCESS => Err(Cause::AuthenticationRefused(result)),
        Some(Ok(Data::OctetString(token))) if token == own => {
            Err(Cause::Reflected { what: "token" })
        }
        Some(Ok(Data::OctetString(token))) if Some(token.len()) == length => Ok(token),
        Some(_) | None => Err(Cause::NoServerProof),
    }
}

/// The cause that an exception-response is. Peers are known that write the counter of a counter error in another way than
/// the standard: what they say counts all the same, without the counter.
pub(super) fn exception(apdu: &[u8], cause: fn(Exception) -> Cause) -> Cause {
    match (Response::decode(apdu), apdu) {
        (Ok(Response::Exception(exception)), _) => cause(exception),
        (_, [EXCEPTION, state, service, ..]) => cause(Exception {
            state: *state,
            service: *service,
            counter: None,
        }),
        (Ok(_), _) => Cause::Mismatch("no exception"),
        (Err(error), _) => Cause::Malformed(error),
    }
}
