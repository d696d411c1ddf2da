//! Requests and their answers: passes 3 and 4, commands, blocks.

use alloc::vec::Vec;

use super::open::{check_ciphered, exception, unprotected};
use super::state::{Blocks, Exchange, Kind, Purpose, Session, State};
use super::{Client, Effect, Event};
use crate::cause::{Awaiting, Cause};
use crate::cipher::{CipherFailure, CipherOp, CipherOutput};
use crate::data::Data;
use crate::error::Error;
use crate::security::{GmacToken, SecurityControl, Suite};
use crate::service::{Command, EXCEPTION, InvokeId, Method, Request, Response};
use crate::status::{ActionResult, DataAccessResult};

/// The longest value that is taken in blocks, in octets.
pub const MAX_ANSWER: usize = 1 << 20;

/// What an answer leads to.
enum Next {
    /// Not the answer: wait on.
    Wait,
    Answered(Response),
    /// The block was taken; this one is the last so far.
    Fetch(Blocks),
    /// The meter accepted pass 3 with this token of its own.
    Verify(Vec<u8>),
    Fail(Cause),
}

impl Client {
    /// What the meter receives at most counts the ciphering.
    pub(super) fn check_length(&self, session: &Session, plain: usize) -> Result<(), Error> {
        let found = plain.saturating_add(
            self.config
                .protection
                .overhead(SecurityControl::AUTH_ENC, plain),
        );
        let limit = match session.max_pdu {
            0 => usize::from(u16::MAX),
            limit => usize::from(limit),
        };
        if found > limit {
            Err(Error::TooLong { limit, found })
        } else {
            Ok(())
        }
    }

    pub(super) fn send(&mut self, now_ms: u64, exchange: Exchange, apdu: Vec<u8>) -> State {
        if self.config.protection.is_ciphered() {
            let tag = apdu.first().copied().unwrap_or_default();
            let job = self.protect(apdu);
            State::Protecting { job, tag, exchange }
        } else {
            self.transmit_request(now_ms, exchange, apdu)
        }
    }

    fn transmit_request(&mut self, now_ms: u64, exchange: Exchange, apdu: Vec<u8>) -> State {
        match self.transmit(apdu) {
            Ok(()) => State::Awaiting {
                deadline: self.arm(now_ms),
                exchange,
            },
            Err(cause) => self.fail(cause),
        }
    }

    pub(super) fn on_protected(
        &mut self,
        now_ms: u64,
        tag: u8,
        exchange: Exchange,
        result: Result<CipherOutput, CipherFailure>,
    ) -> State {
        match (
            self.protected(exchange.purpose.awaiting(), tag, result),
            &exchange.purpose,
        ) {
            (Ok(apdu), _) => self.transmit_request(now_ms, exchange, apdu),
            (Err(Cause::Cipher { failure, .. }), Purpose::Command { blocks: None, .. }) => {
                self.effects
                    .push_back(Effect::Event(Event::NotSent(failure)));
                State::Ready {
                    session: exchange.session,
                }
            }
            (Err(cause), _) => self.fail(cause),
        }
    }

    pub(super) fn on_apdu(
        &mut self,
        now_ms: u64,
        deadline: u64,
        exchange: Exchange,
        apdu: Vec<u8>,
    ) -> State {
        if !self.config.protection.is_ciphered() {
            return self.on_answer(now_ms, deadline, exchange, &apdu);
        }
        let Some(peer_title) = exchange.session.server_title else {
            return self.fail(Cause::NoServerTitle);
        };
        if apdu.first() == Some(&EXCEPTION) {
            return self.fail(exception(&apdu));
        }
        match check_ciphered(&apdu, peer_title) {
            Ok(tag) => {
                let job = self.job(CipherOp::Unprotect {
                    apdu,
                    peer_title,
                    protection: self.config.protection,
                    control: SecurityControl::AUTH_ENC,
                    signed: false,
                });
                State::Unprotecting {
                    job,
                    deadline,
                    tag,
                    exchange,
                }
            }
            Err(cause) => self.fail(cause),
        }
    }

    pub(super) fn on_unprotected(
        &mut self,
        now_ms: u64,
        deadline: u64,
        tag: u8,
        exchange: Exchange,
        result: Result<CipherOutput, CipherFailure>,
    ) -> State {
        // A late or doubled answer has an old counter: it is not ours to act on.
        if matches!(result, Err(CipherFailure::Replay { .. })) {
            return self.wait_on(deadline, exchange);
        }
        match unprotected(exchange.purpose.awaiting(), tag, result) {
            Ok(apdu) => self.on_answer(now_ms, deadline, exchange, &apdu),
            Err(cause) => self.fail(cause),
        }
    }

    /// The timer may have come while the answer was deciphered, and been ignored: it is asked for again.
    fn wait_on(&mut self, deadline: u64, exchange: Exchange) -> State {
        self.effects.push_back(Effect::Timer(deadline));
        State::Awaiting { deadline, exchange }
    }

    fn on_answer(&mut self, now_ms: u64, deadline: u64, exchange: Exchange, apdu: &[u8]) -> State {
        let response = match Response::decode(apdu) {
            Ok(response) => response,
            Err(error) => return self.fail(Cause::Malformed(error)),
        };
        let Exchange {
            session,
            invoke,
            mut purpose,
        } = exchange;
        match judge(&mut purpose, invoke, response) {
            Next::Wait => self.wait_on(
                deadline,
                Exchange {
                    session,
                    invoke,
                    purpose,
                },
            ),
            Next::Answered(response) => {
                self.effects
                    .push_back(Effect::Event(Event::Answered(response)));
                State::Ready { session }
            }
            Next::Fetch(blocks) => {
                let request = Request::GetNext {
                    invoke,
                    block: blocks.last,
                };
                let purpose = Purpose::Command {
                    kind: Kind::Get,
                    blocks: Some(blocks),
                };
                self.send(
                    now_ms,
                    Exchange {
                        session,
                        invoke,
                        purpose,
                    },
                    request.encode(),
                )
            }
            Next::Verify(token) => self.verify(session, token),
            Next::Fail(cause) => self.fail(cause),
        }
    }

    pub(super) fn on_token(
        &mut self,
        now_ms: u64,
        mut session: Session,
        result: Result<CipherOutput, CipherFailure>,
    ) -> State {
        let token = match result {
            Ok(CipherOutput::Token(token)) if GmacToken::decode(&token).is_ok() => token,
            Ok(_) => {
                return self.fail(Cause::BadCipherOutput {
                    expected: "an HLS5 token",
                });
            }
            Err(failure) => {
                let during = Awaiting::Authentication;
                return self.fail(Cause::Cipher { during, failure });
            }
        };
        let command = Command::Action {
            method: Method::REPLY_TO_HLS,
            parameter: Some(Data::OctetString(token.clone())),
        };
        let invoke = session.invoke;
        session.invoke = invoke.next();
        let purpose = Purpose::Authenticate { token };
        self.send(
            now_ms,
            Exchange {
                session,
                invoke,
                purpose,
            },
            command.with(invoke).encode(),
        )
    }

    fn verify(&mut self, session: Session, token: Vec<u8>) -> State {
        let Some(peer_title) = session.server_title else {
            return self.fail(Cause::NoServerTitle);
        };
        let challenge = self.config.authentication_value.clone();
        let job = self.job(CipherOp::Verify {
            mechanism: self.config.mechanism,
            token,
            challenge,
            peer_challenge: Vec::new(),
            peer_title,
            suite: Suite::Suite0,
        });
        State::Verifying { job, session }
    }

    pub(super) fn on_verified(
        &mut self,
        session: Session,
        result: Result<CipherOutput, CipherFailure>,
    ) -> State {
        let during = Awaiting::Authentication;
        match result {
            Ok(CipherOutput::Verified) => self.opened(session),
            Ok(CipherOutput::Apdu(..) | CipherOutput::Token(_)) => {
                self.fail(Cause::BadCipherOutput {
                    expected: "a verdict on the meter's token",
                })
            }
            Err(CipherFailure::AuthFailed) => self.fail(Cause::NoServerProof),
            Err(failure) => self.fail(Cause::Cipher { during, failure }),
        }
    }
}

/// What an answer means for the request under way. `purpose` loses its blocks only where they move into the outcome.
fn judge(purpose: &mut Purpose, invoke: InvokeId, response: Response) -> Next {
    if response
        .invoke()
        .is_some_and(|found| found.id() != invoke.id())
    {
        return Next::Wait;
    }
    match purpose {
        Purpose::Authenticate { token } => judge_pass_4(token, response),
        Purpose::Command { kind, blocks } => judge_answer(*kind, blocks, response),
    }
}

fn judge_pass_4(own: &[u8], response: Response) -> Next {
    match response {
        Response::Action { result, data, .. } if result == ActionResult::SUCCESS => match data {
            Some(Ok(Data::OctetString(token))) if token == own => {
                Next::Fail(Cause::Reflected { what: "token" })
            }
            Some(Ok(Data::OctetString(token))) if GmacToken::decode(&token).is_ok() => {
                Next::Verify(token)
            }
            Some(_) | None => Next::Fail(Cause::NoServerProof),
        },
        Response::Action { result, .. } => Next::Fail(Cause::AuthenticationRefused(result)),
        Response::Exception(exception) => Next::Fail(Cause::Exception(exception)),
        Response::GetData { .. }
        | Response::GetError { .. }
        | Response::GetBlock { .. }
        | Response::GetList { .. }
        | Response::Set { .. }
        | Response::SetBlockAck { .. }
        | Response::SetLastBlock { .. }
        | Response::SetLastBlockList { .. }
        | Response::SetList { .. }
        | Response::ActionBlock { .. }
        | Response::ActionList { .. }
        | Response::ActionNextBlock { .. }
        | Response::Access { .. }
        | Response::ConfirmedServiceError(_) => {
            Next::Fail(Cause::Mismatch("pass 4 is an ACTION response"))
        }
    }
}

fn judge_answer(kind: Kind, blocks: &mut Option<Blocks>, response: Response) -> Next {
    match (kind, response) {
        (Kind::Get, response @ Response::GetData { .. }) if blocks.is_none() => {
            Next::Answered(response)
        }
        (Kind::Get, response @ Response::GetError { .. })
        | (Kind::Set, response @ Response::Set { .. })
        | (Kind::Action, response @ Response::Action { .. })
        | (_, response @ Response::Exception(_)) => Next::Answered(response),
        (
            Kind::Get,
            Response::GetBlock {
                invoke,
                last,
                block,
                payload,
            },
        ) => judge_block(blocks, invoke, last, block, payload),
        (
            Kind::Get | Kind::Set | Kind::Action,
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
            | Response::ConfirmedServiceError(_),
        ) => Next::Fail(Cause::Mismatch("it is of another service or another form")),
    }
}

fn judge_block(
    held: &mut Option<Blocks>,
    invoke: InvokeId,
    last: bool,
    block: u32,
    payload: Result<Vec<u8>, DataAccessResult>,
) -> Next {
    let before = held.as_ref().map_or(0, |blocks| blocks.last);
    if held.is_some() && block <= before {
        return Next::Wait;
    }
    if before.checked_add(1) != Some(block) {
        return Next::Fail(Cause::Mismatch("a block is out of order"));
    }
    let part = match payload {
        Ok(part) => part,
        Err(result) => return Next::Answered(Response::GetError { invoke, result }),
    };
    // A meter that sends nothing for ever would keep the association for ever.
    if part.is_empty() && !last {
        return Next::Fail(Cause::Mismatch("a block that is not the last is empty"));
    }
    let mut octets = held.take().map(|blocks| blocks.octets).unwrap_or_default();
    octets.extend_from_slice(&part);
    if octets.len() > MAX_ANSWER {
        return Next::Fail(Cause::AnswerTooLong { limit: MAX_ANSWER });
    }
    if !last {
        return Next::Fetch(Blocks {
            last: block,
            octets,
        });
    }
    match Data::decode(&octets) {
        Ok(data) => Next::Answered(Response::GetData { invoke, data }),
        Err(error) => Next::Fail(Cause::Malformed(error)),
    }
}
