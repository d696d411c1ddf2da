//! Requests that come in blocks, and the next block of an answer.

use super::Meter;
use super::serve::REQUEST_MAX;
use super::state::{After, Session, Transfer};
use crate::blocks::{Block, Joined, LongAnswer, NotTaken, no_block};
use crate::service::{Exception, InvokeId, Request, Response};
use crate::status::{ActionResult, DataAccessResult};

impl Meter {
    /// A block of a long SET or ACTION: acknowledged, or, if it is the last, the whole is asked.
    pub(super) fn on_part(
        &mut self,
        now_ms: u64,
        session: Session,
        transfer: Option<Transfer>,
        request: Request,
    ) {
        let invoke = request.invoke();
        let Some(part) = Block::of(request) else {
            return self.ask_nothing(session);
        };
        let (is_set, block) = (part.is_set, part.number);
        let joined = match part.head {
            Some(head) => Some(Joined::new(head)),
            None => running(transfer, is_set, invoke),
        };
        let Some(mut joined) = joined else {
            let refusal = (
                DataAccessResult::NO_LONG_SET_IN_PROGRESS,
                ActionResult::NO_LONG_ACTION_IN_PROGRESS,
            );
            return self.stop(now_ms, session, (is_set, invoke, block), refusal);
        };
        match joined.take(part.last, block, &part.octets, REQUEST_MAX) {
            Ok(()) if part.last => match joined.request() {
                Ok(request) => self.ask(session, request, Some(block)),
                Err(_) => {
                    let answer = Response::Exception(Exception::OTHER_REASON).encode();
                    self.respond(now_ms, session, answer, After::Open(None));
                }
            },
            // what was taken before is acknowledged once more
            Ok(()) | Err(NotTaken::Again) => {
                let block = joined.last;
                let answer = if is_set {
                    Response::SetBlockAck { invoke, block }
                } else {
                    Response::ActionNextBlock { invoke, block }
                };
                let transfer = Transfer::In {
                    invoke,
                    is_set,
                    joined,
                };
                self.respond(
                    now_ms,
                    session,
                    answer.encode(),
                    After::Open(Some(transfer)),
                );
            }
            Err(NotTaken::OutOfOrder) => {
                let refusal = (
                    DataAccessResult::DATA_BLOCK_NUMBER_INVALID,
                    ActionResult::LONG_ACTION_ABORTED,
                );
                self.stop(now_ms, session, (is_set, invoke, block), refusal);
            }
            Err(NotTaken::Empty | NotTaken::TooLong) => {
                let refusal = (
                    DataAccessResult::LONG_SET_ABORTED,
                    ActionResult::LONG_ACTION_ABORTED,
                );
                self.stop(now_ms, session, (is_set, invoke, block), refusal);
            }
        }
    }

    /// A transfer is given up, and the client told why.
    fn stop(
        &mut self,
        now_ms: u64,
        session: Session,
        (is_set, invoke, block): (bool, InvokeId, u32),
        (set, action): (DataAccessResult, ActionResult),
    ) {
        let answer = if is_set {
            Response::SetLastBlock {
                invoke,
                result: set,
                block,
            }
        } else {
            Response::Action {
                invoke,
                result: action,
                data: None,
            }
        };
        self.respond(now_ms, session, answer.encode(), After::Open(None));
    }

    /// The client has a block of an answer, and wants the next.
    pub(super) fn on_next(
        &mut self,
        now_ms: u64,
        session: Session,
        transfer: Option<Transfer>,
        (is_get, invoke, block): (bool, InvokeId, u32),
    ) {
        let long = match transfer {
            Some(Transfer::Out(long)) if long.is_get() == is_get => Some(long),
            Some(_) | None => None,
        };
        let (get, action) = match long {
            Some(long) if long.invoke.id() == invoke.id() && long.sent() == block => {
                return self.send_block(now_ms, session, long);
            }
            Some(_) => (
                DataAccessResult::DATA_BLOCK_NUMBER_INVALID,
                ActionResult::LONG_ACTION_ABORTED,
            ),
            None => (
                DataAccessResult::NO_LONG_GET_IN_PROGRESS,
                ActionResult::NO_LONG_ACTION_IN_PROGRESS,
            ),
        };
        let answer = if is_get {
            no_block(invoke, block, get)
        } else {
            Response::Action {
                invoke,
                result: action,
                data: None,
            }
        };
        self.respond(now_ms, session, answer.encode(), After::Open(None));
    }

    pub(super) fn send_block(&mut self, now_ms: u64, session: Session, mut long: LongAnswer) {
        let room = session.terms.room(session.limit());
        let (answer, rest) = match long.next(room) {
            Some(block) => {
                let rest = (!long.is_done()).then_some(Transfer::Out(long));
                (block, rest)
            }
            None => (Response::Exception(Exception::TOO_LONG).encode(), None),
        };
        self.respond(now_ms, session, answer, After::Open(rest));
    }
}

fn running(transfer: Option<Transfer>, set: bool, id: InvokeId) -> Option<Joined> {
    match transfer {
        Some(Transfer::In {
            invoke,
            is_set,
            joined,
        }) if is_set == set && invoke.id() == id.id() => Some(joined),
        Some(_) | None => None,
    }
}
