//! Requests of an association: pass 3, and what goes to the COSEM objects.

use alloc::vec::Vec;

use super::seen::Sight;
use super::state::{After, Asked, Challenges, Phase, Session, State, Transfer};
use super::wire::{effect_print, unprotected};
use super::{Effect, Event, Meter};
use crate::cipher::{CipherFailure, CipherOp, CipherOutput};
use crate::conformance::Conformance;
use crate::data::Data;
use crate::error::Error;
use crate::gbt;
use crate::security::{Envelope, SystemTitle};
use crate::service::{Confirmation, Exception, InvokeId, Method, Request, Response};
use crate::status::ActionResult;
use crate::terms::{Parties, Terms};

/// The longest request that is taken in general blocks or blocks of a service, in octets.
pub(super) const REQUEST_MAX: usize = 1 << 16;
/// Who a client is that did not say it, where no title matters: HLS 3 and 4 without ciphering.
const NOBODY: SystemTitle = SystemTitle::new([0; 8]);

impl Meter {
    pub(super) fn on_request(
        &mut self,
        now_ms: u64,
        (session, phase): (Session, Phase),
        apdu: Vec<u8>,
    ) {
        let general = session.has(Conformance::GENERAL_BLOCK_TRANSFER);
        if general && apdu.first() == Some(&gbt::TAG) {
            self.state = State::Associated { session, phase };
            return self.on_block(now_ms, &apdu);
        }
        self.on_whole(now_ms, (session, phase), apdu);
    }

    /// A general block: the APDU it completes, if any, is served.
    fn on_block(&mut self, now_ms: u64, block: &[u8]) {
        let whole = self.general.take(block, REQUEST_MAX);
        let State::Associated { session, phase } = self.take_state() else {
            return;
        };
        let client_sap = session.client_sap;
        self.transmit_blocks(now_ms, client_sap);
        match whole {
            Ok(Some(apdu)) => self.on_whole(now_ms, (session, phase), apdu),
            Ok(None) => self.state = State::Associated { session, phase },
            Err(_) => {
                self.general.reset();
                self.state = State::Associated { session, phase };
                if !self.is_datagram() {
                    self.except(now_ms, client_sap, Exception::OTHER_REASON);
                }
            }
        }
    }

    fn on_whole(&mut self, now_ms: u64, (session, phase): (Session, Phase), apdu: Vec<u8>) {
        if !session.terms.protects() {
            return self.serve(now_ms, (session, phase), &apdu);
        }
        let checked = self.check_form(&session, &apdu);
        match (checked, session.client_title) {
            (Ok((terms, tag)), Some(from)) => {
                let job = self.unprotect(apdu, from, terms);
                let session = Session { terms, ..session };
                self.state = State::Unprotecting {
                    job,
                    tag,
                    session,
                    phase,
                };
            }
            (Ok(_), None) => self.state = State::Associated { session, phase },
            (Err(exception), _) => {
                self.state = State::Associated { session, phase };
                self.except(now_ms, session.client_sap, exception);
            }
        }
    }

    /// The form of a request, if the client may use it: it is answered in kind, whatever was negotiated, for clients are
    /// known that always send one form.
    fn check_form(&self, session: &Session, apdu: &[u8]) -> Result<(Terms, Option<u8>), Exception> {
        let form = Envelope::of(apdu).map_err(|_| Exception::DECIPHERING)?;
        if !form.signed && form.control.is_none() {
            return Err(Exception::NOT_POSSIBLE);
        }
        let clients = self.config.clients.iter();
        let access = clients
            .filter(|access| access.client_sap == session.client_sap)
            .find(|access| access.forms.contains(&form.protection));
        let from = session.client_title.ok_or(Exception::DECIPHERING)?;
        if access.is_none() || form.protection.is_ciphered() != session.ciphered {
            return Err(Exception::DECIPHERING);
        }
        let to = Some(self.config.server_title);
        let terms = session.terms.with(form.protection);
        terms
            .check(apdu, Parties { from, to })
            .map(|tag| (terms, tag))
            .map_err(|_| Exception::DECIPHERING)
    }

    pub(super) fn on_unprotected(
        &mut self,
        now_ms: u64,
        tag: Option<u8>,
        (session, phase): (Session, Phase),
        result: Result<CipherOutput, CipherFailure>,
    ) {
        match unprotected(session.terms, tag, result) {
            Ok(apdu) => self.serve(now_ms, (session, phase), &apdu),
            Err(failure) => {
                self.state = State::Associated { session, phase };
                self.not_deciphered(now_ms, session.client_sap, failure);
            }
        }
    }

    /// A plaintext APDU of the client.
    fn serve(&mut self, now_ms: u64, (session, phase): (Session, Phase), apdu: &[u8]) {
        if let Ok(confirmation) = Confirmation::decode(apdu) {
            self.effects
                .push_back(Effect::Event(Event::Confirmed(confirmation)));
            self.state = State::Associated { session, phase };
            return;
        }
        // a client that asks has its last answer
        self.general.reset();
        let request = Request::decode(apdu).map_err(|error| unserved(&error));
        let request = request.and_then(|request| {
            if matches!(phase, Phase::Pending(_)) || session.has(service_of(&request)) {
                Ok(request)
            } else {
                Err(Exception::NOT_SUPPORTED)
            }
        });
        let request = match request {
            Ok(request) => request,
            Err(exception) => {
                self.state = State::Associated { session, phase };
                return self.except(now_ms, session.client_sap, exception);
            }
        };
        if self.is_duplicate(now_ms, &session, apdu) {
            self.state = State::Associated { session, phase };
            return;
        }
        match phase {
            Phase::Pending(challenges) => self.on_pass_3(now_ms, session, challenges, request),
            Phase::Open(transfer) => self.on_service(now_ms, session, transfer, request),
        }
    }

    /// Whether a request was served before, where no counter tells (a signature has none). What was answered last is
    /// answered again.
    fn is_duplicate(&mut self, now_ms: u64, session: &Session, apdu: &[u8]) -> bool {
        if session.terms.form.is_ciphered() {
            return false;
        }
        let Some(print) = effect_print(apdu) else {
            self.seen.pass();
            return false;
        };
        let datagrams = self.is_datagram();
        match self.seen.look(print, datagrams) {
            Sight::New => false,
            Sight::Last => {
                if let (true, Some(answer)) = (datagrams, self.seen.answer()) {
                    self.transmit(now_ms, session.client_sap, answer);
                }
                true
            }
            Sight::Old => true,
        }
    }

    fn on_service(
        &mut self,
        now_ms: u64,
        session: Session,
        transfer: Option<Transfer>,
        request: Request,
    ) {
        if let Request::GetNext { invoke, block } = request {
            self.on_next(now_ms, session, transfer, (true, invoke, block));
        } else if let Request::ActionNext { invoke, block } = request {
            self.on_next(now_ms, session, transfer, (false, invoke, block));
        } else if is_block(&request) {
            self.on_part(now_ms, session, transfer, request);
        } else {
            self.ask(session, request, None);
        }
    }

    /// Asks the COSEM objects.
    pub(super) fn ask(&mut self, session: Session, request: Request, block: Option<u32>) {
        match Asked::new(session, &request, block) {
            Some(asked) => {
                self.effects.push_back(Effect::Ask(request));
                self.state = State::Asked(asked);
            }
            // a block in the place of a whole request
            None => self.ask_nothing(session),
        }
    }

    pub(super) fn ask_nothing(&mut self, session: Session) {
        let phase = Phase::Open(None);
        self.state = State::Associated { session, phase };
    }

    fn on_pass_3(
        &mut self,
        now_ms: u64,
        session: Session,
        challenges: Challenges,
        request: Request,
    ) {
        let invoke = request.invoke();
        let Request::Action {
            method: Method::REPLY_TO_HLS,
            parameter,
            ..
        } = request
        else {
            let phase = Phase::Pending(challenges);
            self.state = State::Associated { session, phase };
            return self.except(now_ms, session.client_sap, Exception::NOT_POSSIBLE);
        };
        let length = session.mechanism.token_len(session.terms.suite());
        match parameter {
            Some(Data::OctetString(token)) if Some(token.len()) == length => {
                let job = self.job(CipherOp::Verify {
                    mechanism: session.mechanism,
                    token,
                    challenge: challenges.server.clone(),
                    peer_challenge: challenges.client.clone(),
                    peer_title: session.client_title.unwrap_or(NOBODY),
                    suite: session.terms.suite(),
                });
                self.state = State::Verifying {
                    job,
                    session,
                    invoke,
                    challenges,
                };
            }
            Some(_) | None => self.deny(now_ms, session, invoke),
        }
    }

    pub(super) fn on_verified(
        &mut self,
        now_ms: u64,
        session: Session,
        invoke: InvokeId,
        (challenges, result): (Challenges, Result<CipherOutput, CipherFailure>),
    ) {
        match result {
            Ok(CipherOutput::Verified) => {}
            Err(CipherFailure::Unavailable) => return self.not_ciphered(session.client_sap),
            Ok(_) | Err(_) => return self.deny(now_ms, session, invoke),
        }
        let job = self.job(CipherOp::Answer {
            peer_certificate: None,
            mechanism: session.mechanism,
            challenge: challenges.client,
            own_challenge: challenges.server,
            peer_title: session.client_title.unwrap_or(NOBODY),
            suite: session.terms.suite(),
        });
        self.state = State::Answering {
            job,
            session,
            invoke,
        };
    }

    pub(super) fn on_token(
        &mut self,
        now_ms: u64,
        session: Session,
        invoke: InvokeId,
        result: Result<CipherOutput, CipherFailure>,
    ) {
        let Ok(CipherOutput::Token(token)) = result else {
            return self.not_ciphered(session.client_sap);
        };
        let response = Response::Action {
            invoke,
            result: ActionResult::SUCCESS,
            data: Some(Ok(Data::OctetString(token))),
        };
        self.respond(now_ms, session, response.encode(), After::Opened);
    }

    /// Pass 3 is wrong: says so, and drops the association.
    fn deny(&mut self, now_ms: u64, session: Session, invoke: InvokeId) {
        let response = Response::Action {
            invoke,
            result: ActionResult::READ_WRITE_DENIED,
            data: None,
        };
        self.respond(now_ms, session, response.encode(), After::Dropped);
    }
}

/// The services that a request needs.
const fn service_of(request: &Request) -> Conformance {
    match request {
        Request::Get { .. } | Request::GetNext { .. } => Conformance::GET,
        Request::GetList { .. } => both(Conformance::GET, Conformance::MULTIPLE_REFERENCES),
        Request::Set { .. } => Conformance::SET,
        Request::SetList { .. } => both(Conformance::SET, Conformance::MULTIPLE_REFERENCES),
        Request::SetFirstBlock { .. } | Request::SetBlock { .. } => {
            both(Conformance::SET, Conformance::BLOCK_TRANSFER_SET)
        }
        Request::SetListFirstBlock { .. } => both(
            both(Conformance::SET, Conformance::MULTIPLE_REFERENCES),
            Conformance::BLOCK_TRANSFER_SET,
        ),
        Request::Action { .. } | Request::ActionNext { .. } => Conformance::ACTION,
        Request::ActionList { .. } => both(Conformance::ACTION, Conformance::MULTIPLE_REFERENCES),
        Request::ActionFirstBlock { .. } | Request::ActionBlock { .. } => {
            both(Conformance::ACTION, Conformance::BLOCK_TRANSFER_ACTION)
        }
        Request::ActionListFirstBlock { .. } => both(
            both(Conformance::ACTION, Conformance::MULTIPLE_REFERENCES),
            Conformance::BLOCK_TRANSFER_ACTION,
        ),
        Request::Access { .. } => Conformance::ACCESS,
    }
}

const fn both(one: Conformance, other: Conformance) -> Conformance {
    Conformance::new(one.bits() | other.bits())
}

const fn is_block(request: &Request) -> bool {
    matches!(
        request,
        Request::SetFirstBlock { .. }
            | Request::SetListFirstBlock { .. }
            | Request::SetBlock { .. }
            | Request::ActionFirstBlock { .. }
            | Request::ActionListFirstBlock { .. }
            | Request::ActionBlock { .. }
    )
}

/// A service that is not there, or a request that cannot be read.
const fn unserved(error: &Error) -> Exception {
    if matches!(error, Error::Unexpected { offset: 0 | 1, .. }) {
        Exception::NOT_SUPPORTED
    } else {
        Exception::OTHER_REASON
    }
}
