//! Requests of an association: pass 3, what goes to the COSEM objects, and their answers.

use alloc::vec::Vec;

use super::open::{check_ciphered, ciphered, unprotected};
use super::state::{After, Challenges, Kind, LongGet, Phase, Session, State};
use super::{Effect, Event, Meter};
use crate::cipher::{CipherFailure, CipherOp, CipherOutput};
use crate::conformance::Conformance;
use crate::data::Data;
use crate::error::Error;
use crate::security::{GENERAL_GLO, GmacToken, Protection, SecurityControl, Suite};
use crate::service::{Exception, InvokeId, Method, Request, Response};
use crate::status::{ActionResult, DataAccessResult};

/// Octets of a block's response besides its payload: tag, type, invoke id, last, number, choice, length.
const BLOCK_HEAD: usize = 1 + 1 + 1 + 1 + 4 + 1 + 3;

impl Meter {
    pub(super) fn on_request(&mut self, session: Session, phase: Phase, apdu: &[u8]) -> State {
        if !session.ciphered {
            return self.serve(session, phase, Protection::Plain, apdu);
        }
        let Some(peer_title) = session
            .client_title
            .filter(|_| crate::security::is_ciphered(apdu))
        else {
            self.except(session.client_sap, Exception::NOT_POSSIBLE);
            return State::Associated { session, phase };
        };
        match check_ciphered(apdu, session.client_title) {
            Some(tag) => {
                let job = self.job(CipherOp::Unprotect {
                    apdu: apdu.to_vec(),
                    peer_title,
                    protection: in_kind(tag),
                    control: SecurityControl::AUTH_ENC,
                    signed: false,
                });
                State::Unprotecting {
                    job,
                    tag,
                    session,
                    phase,
                }
            }
            None => {
                self.except(session.client_sap, Exception::DECIPHERING);
                State::Associated { session, phase }
            }
        }
    }

    pub(super) fn on_unprotected(
        &mut self,
        tag: u8,
        session: Session,
        phase: Phase,
        result: Result<CipherOutput, CipherFailure>,
    ) -> State {
        // Answered in kind, whatever was negotiated: clients are known that always send one form.
        let protection = in_kind(tag);
        match unprotected(tag, result) {
            Ok(apdu) => self.serve(session, phase, protection, &apdu),
            Err(failure) => {
                self.not_deciphered(session.client_sap, failure);
                State::Associated { session, phase }
            }
        }
    }

    fn serve(
        &mut self,
        session: Session,
        phase: Phase,
        protection: Protection,
        apdu: &[u8],
    ) -> State {
        let request = match Request::decode(apdu) {
            Ok(request) => request,
            Err(error) => {
                self.except(session.client_sap, unserved(&error));
                return State::Associated { session, phase };
            }
        };
        match (phase, request) {
            (Phase::Pending(challenges), request) => {
                self.on_pass_3(session, protection, challenges, request)
            }
            (Phase::Open(long), Request::GetNext { invoke, block }) => {
                self.on_next(session, protection, long, invoke, block)
            }
            (
                Phase::Open(_),
                request @ (Request::Get { .. } | Request::Set { .. } | Request::Action { .. }),
            ) => {
                let (invoke, kind) = (request.invoke(), Kind::of(&request));
                self.effects.push_back(Effect::Ask(request));
                State::Asked {
                    session,
                    protection,
                    invoke,
                    kind,
                }
            }
            (
                phase @ Phase::Open(_),
                Request::GetList { .. }
                | Request::SetFirstBlock { .. }
                | Request::SetBlock { .. }
                | Request::SetList { .. }
                | Request::SetListFirstBlock { .. }
                | Request::ActionNext { .. }
                | Request::ActionList { .. }
                | Request::ActionFirstBlock { .. }
                | Request::ActionListFirstBlock { .. }
                | Request::ActionBlock { .. }
                | Request::Access { .. },
            ) => {
                self.except(session.client_sap, Exception::NOT_SUPPORTED);
                State::Associated { session, phase }
            }
        }
    }

    fn on_pass_3(
        &mut self,
        session: Session,
        protection: Protection,
        challenges: Challenges,
        request: Request,
    ) -> State {
        let invoke = request.invoke();
        let token = match request {
            Request::Action {
                method, parameter, ..
            } if method == Method::REPLY_TO_HLS => parameter,
            Request::Get { .. }
            | Request::GetNext { .. }
            | Request::GetList { .. }
            | Request::Set { .. }
            | Request::SetFirstBlock { .. }
            | Request::SetBlock { .. }
            | Request::SetList { .. }
            | Request::SetListFirstBlock { .. }
            | Request::Action { .. }
            | Request::ActionNext { .. }
            | Request::ActionList { .. }
            | Request::ActionFirstBlock { .. }
            | Request::ActionListFirstBlock { .. }
            | Request::ActionBlock { .. }
            | Request::Access { .. } => {
                self.except(session.client_sap, Exception::NOT_POSSIBLE);
                let phase = Phase::Pending(challenges);
                return State::Associated { session, phase };
            }
        };
        match (token, session.client_title) {
            (Some(Data::OctetString(token)), Some(peer_title))
                if GmacToken::decode(&token).is_ok() =>
            {
                let Challenges { client, server } = challenges;
                let job = self.job(CipherOp::Verify {
                    mechanism: session.mechanism,
                    token,
                    challenge: server,
                    peer_challenge: client.clone(),
                    peer_title,
                    suite: Suite::Suite0,
                });
                State::Verifying {
                    job,
                    session,
                    protection,
                    invoke,
                    client_challenge: client,
                }
            }
            (_, _) => self.deny(session, protection, invoke),
        }
    }

    pub(super) fn on_verified(
        &mut self,
        session: Session,
        protection: Protection,
        invoke: InvokeId,
        challenge: Vec<u8>,
        result: Result<CipherOutput, CipherFailure>,
    ) -> State {
        match (result, session.client_title) {
            (Ok(CipherOutput::Verified), Some(peer_title)) => {
                let job = self.job(CipherOp::Answer {
                    mechanism: session.mechanism,
                    challenge,
                    own_challenge: Vec::new(),
                    peer_title,
                    suite: Suite::Suite0,
                });
                State::Answering {
                    job,
                    session,
                    protection,
                    invoke,
                }
            }
            (_, _) => self.deny(session, protection, invoke),
        }
    }

    pub(super) fn on_token(
        &mut self,
        session: Session,
        protection: Protection,
        invoke: InvokeId,
        result: Result<CipherOutput, CipherFailure>,
    ) -> State {
        let token = match result {
            Ok(CipherOutput::Token(token)) => token,
            Ok(CipherOutput::Apdu(..) | CipherOutput::Verified) | Err(_) => {
                return self.not_ciphered(session.client_sap);
            }
        };
        let response = Response::Action {
            invoke,
            result: ActionResult::SUCCESS,
            data: Some(Ok(Data::OctetString(token))),
        };
        self.respond(session, protection, response, After::Opened)
    }

    /// Pass 3 is wrong: says so, and drops the association.
    fn deny(&mut self, session: Session, protection: Protection, invoke: InvokeId) -> State {
        let result = ActionResult::READ_WRITE_DENIED;
        let response = Response::Action {
            invoke,
            result,
            data: None,
        };
        self.respond(session, protection, response, After::Dropped)
    }

    pub(super) fn on_served(
        &mut self,
        session: Session,
        protection: Protection,
        invoke: InvokeId,
        response: Response,
    ) -> State {
        let response = response.with(invoke);
        let room = room(&session, protection);
        if response.encode().len() <= room {
            return self.respond(session, protection, response, After::Open(None));
        }
        match response {
            Response::GetData { data, .. }
                if session
                    .conformance
                    .contains(Conformance::BLOCK_TRANSFER_GET) =>
            {
                let long = LongGet {
                    invoke,
                    sent: 0,
                    rest: data.encode(),
                };
                self.send_block(session, protection, long)
            }
            Response::GetData { .. }
            | Response::GetError { .. }
            | Response::GetBlock { .. }
            | Response::GetList { .. }
            | Response::Set { .. }
            | Response::SetBlockAck { .. }
            | Response::SetLastBlock { .. }
            | Response::SetLastBlockList { .. }
            | Response::SetList { .. }
            | Response::Action { .. }
            | Response::ActionBlock { .. }
            | Response::ActionList { .. }
            | Response::ActionNextBlock { .. }
            | Response::Access { .. }
            | Response::Exception(_)
            | Response::ConfirmedServiceError(_) => {
                let response = Response::Exception(Exception::TOO_LONG);
                self.respond(session, protection, response, After::Open(None))
            }
        }
    }

    fn on_next(
        &mut self,
        session: Session,
        protection: Protection,
        long: Option<LongGet>,
        invoke: InvokeId,
        block: u32,
    ) -> State {
        let result = match long {
            Some(long) if long.invoke.id() == invoke.id() && long.sent == block => {
                return self.send_block(session, protection, long);
            }
            Some(_) => DataAccessResult::DATA_BLOCK_NUMBER_INVALID,
            None => DataAccessResult::NO_LONG_GET_IN_PROGRESS,
        };
        let response = Response::GetBlock {
            invoke,
            last: true,
            block,
            payload: Err(result),
        };
        self.respond(session, protection, response, After::Open(None))
    }

    fn send_block(&mut self, session: Session, protection: Protection, long: LongGet) -> State {
        let LongGet {
            invoke,
            sent,
            mut rest,
        } = long;
        let size = room(&session, protection)
            .saturating_sub(BLOCK_HEAD)
            .min(rest.len());
        let (Some(block), true) = (sent.checked_add(1), size > 0) else {
            let response = Response::Exception(Exception::TOO_LONG);
            return self.respond(session, protection, response, After::Open(None));
        };
        let later = rest.split_off(size);
        let last = later.is_empty();
        let response = Response::GetBlock {
            invoke,
            last,
            block,
            payload: Ok(rest),
        };
        let long = LongGet {
            invoke,
            sent: block,
            rest: later,
        };
        self.respond(
            session,
            protection,
            response,
            After::Open((!last).then_some(long)),
        )
    }

    fn respond(
        &mut self,
        session: Session,
        protection: Protection,
        response: Response,
        after: After,
    ) -> State {
        let apdu = response.encode();
        let clear = matches!(response, Response::Exception(_)) || !protection.is_ciphered();
        if clear {
            self.transmit(session.client_sap, apdu);
            return self.settle(session, after);
        }
        let job = self.protect(apdu, protection);
        State::Protecting {
            job,
            session,
            after,
        }
    }

    pub(super) fn on_protected(
        &mut self,
        session: Session,
        after: After,
        result: Result<CipherOutput, CipherFailure>,
    ) -> State {
        match ciphered(result) {
            Ok(apdu) => {
                self.transmit(session.client_sap, apdu);
                self.settle(session, after)
            }
            Err(_) => self.not_ciphered(session.client_sap),
        }
    }

    fn settle(&mut self, session: Session, after: After) -> State {
        let phase = match after {
            After::Open(long) => Phase::Open(long),
            After::Opened => {
                self.opened(&session);
                Phase::Open(None)
            }
            After::Dropped => {
                self.effects.push_back(Effect::Event(Event::Refused {
                    client_sap: session.client_sap,
                    why: "pass 3 is wrong",
                }));
                return State::Idle;
            }
        };
        State::Associated { session, phase }
    }
}

/// The longest plaintext answer: what the client receives counts the ciphering.
fn room(session: &Session, protection: Protection) -> usize {
    let limit = match session.client_max_pdu {
        0 => usize::from(u16::MAX),
        limit => usize::from(limit),
    };
    limit.saturating_sub(protection.overhead(SecurityControl::AUTH_ENC, limit))
}

/// The form of an answer: that of its request.
const fn in_kind(tag: u8) -> Protection {
    if tag == GENERAL_GLO {
        Protection::GeneralGlo
    } else {
        Protection::Glo
    }
}

/// A service that is not there, or a request that cannot be read.
const fn unserved(error: &Error) -> Exception {
    match error {
        Error::Unexpected { offset: 0 | 1, .. } => Exception::NOT_SUPPORTED,
        Error::Unexpected { .. }
        | Error::Truncated { .. }
        | Error::Bounds { .. }
        | Error::Trailing { .. }
        | Error::Missing { .. }
        | Error::LogicalName { .. }
        | Error::TooLong { .. }
        | Error::State { .. }
        | Error::Silent { .. }
        | Error::Link { .. } => Exception::OTHER_REASON,
    }
}
