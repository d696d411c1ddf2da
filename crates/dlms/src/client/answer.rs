//! What an answer means for the command under way.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::blocks::{Joined, NotTaken, Upload, action_head, get_head};
use crate::cause::Cause;
use crate::service::{InvokeId, Request, Response};

/// The longest value that is taken in blocks, in octets.
pub const MAX_ANSWER: usize = 1 << 20;

/// What is asked for, and of how many objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Get,
    GetList(usize),
    Set,
    SetList(usize),
    Action,
    ActionList(usize),
    Access(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Get,
    Set,
    Action,
    Access,
}

/// How far a command is.
pub(super) struct Progress {
    kind: Kind,
    /// What is sent in blocks.
    upload: Option<Box<Upload>>,
    /// What comes in blocks.
    joined: Option<Joined>,
}

/// What an answer leads to.
pub(super) enum Next {
    /// Not the answer: wait on.
    Wait,
    Answered(Response),
    /// The next block is to be sent, or to be asked for: this request.
    Send(Vec<u8>),
    Fail(Cause),
}

impl Progress {
    /// Of a command that is sent whole.
    pub(super) fn of(request: &Request) -> Self {
        let kind = match request {
            Request::Get { .. } | Request::GetNext { .. } => Kind::Get,
            Request::GetList { attributes, .. } => Kind::GetList(attributes.len()),
            Request::Set { .. } | Request::SetFirstBlock { .. } | Request::SetBlock { .. } => {
                Kind::Set
            }
            Request::SetList { values, .. } => Kind::SetList(values.len()),
            Request::SetListFirstBlock { attributes, .. } => Kind::SetList(attributes.len()),
            Request::Action { .. }
            | Request::ActionNext { .. }
            | Request::ActionFirstBlock { .. }
            | Request::ActionBlock { .. } => Kind::Action,
            Request::ActionList { methods, .. } => Kind::ActionList(methods.len()),
            Request::ActionListFirstBlock { methods, .. } => Kind::ActionList(methods.len()),
            Request::Access { accesses, .. } => Kind::Access(accesses.len()),
        };
        Self {
            kind,
            upload: None,
            joined: None,
        }
    }

    /// Of the same command, sent in these blocks.
    pub(super) fn uploading(self, upload: Upload) -> Self {
        Self {
            upload: Some(Box::new(upload)),
            ..self
        }
    }

    /// What a response means. `room`: the longest plaintext request.
    pub(super) fn judge(&mut self, invoke: InvokeId, response: Response, room: usize) -> Next {
        let other = |id: InvokeId| id.id() != invoke.id();
        if response.invoke().is_some_and(other) {
            return Next::Wait;
        }
        match (self.service(), response) {
            (Service::Set, Response::SetBlockAck { block, .. })
            | (Service::Action, Response::ActionNextBlock { block, .. }) => {
                self.acknowledged(block, room)
            }
            (Service::Set, Response::SetLastBlock { result, block, .. }) => {
                self.after_block(block, Response::Set { invoke, result })
            }
            (Service::Set, Response::SetLastBlockList { results, block, .. }) => {
                self.after_block(block, Response::SetList { invoke, results })
            }
            (
                Service::Get,
                Response::GetBlock {
                    last,
                    block,
                    payload,
                    ..
                },
            ) => match payload {
                Ok(part) => self.join(invoke, last, block, &part),
                Err(_) if self.is_joined(block) => Next::Wait,
                Err(result) => Next::Answered(Response::GetError { invoke, result }),
            },
            (
                Service::Action,
                Response::ActionBlock {
                    last,
                    block,
                    octets,
                    ..
                },
            ) if self.is_uploaded() => self.join(invoke, last, block, &octets),
            (_, response) => self.settled(response),
        }
    }

    const fn service(&self) -> Service {
        match self.kind {
            Kind::Get | Kind::GetList(_) => Service::Get,
            Kind::Set | Kind::SetList(_) => Service::Set,
            Kind::Action | Kind::ActionList(_) => Service::Action,
            Kind::Access(_) => Service::Access,
        }
    }

    const fn is_list(&self) -> bool {
        matches!(
            self.kind,
            Kind::GetList(_) | Kind::SetList(_) | Kind::ActionList(_)
        )
    }

    /// Whether all of it has left.
    fn is_uploaded(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.is_done())
    }

    /// Whether this block was taken before.
    fn is_joined(&self, block: u32) -> bool {
        self.joined.as_ref().is_some_and(|held| block <= held.last)
    }

    /// The meter took a block: the next one, if it is the one sent last.
    fn acknowledged(&mut self, block: u32, room: usize) -> Next {
        let Some(upload) = &mut self.upload else {
            return Next::Fail(Cause::Mismatch("it takes a block where none was sent"));
        };
        if block < upload.sent() {
            return Next::Wait;
        }
        if block != upload.sent() || upload.is_done() {
            return Next::Fail(Cause::Mismatch("it takes a block that was not sent"));
        }
        upload.next(room).map_or(
            Next::Fail(Cause::Mismatch("there is no room for a block")),
            Next::Send,
        )
    }

    /// The meter says what became of all blocks, with the number of the last it took.
    fn after_block(&mut self, block: u32, response: Response) -> Next {
        match &self.upload {
            Some(upload) if block <= upload.sent() => self.settled(response),
            Some(_) | None => Next::Fail(Cause::Mismatch("it takes a block that was not sent")),
        }
    }

    fn join(&mut self, invoke: InvokeId, last: bool, block: u32, part: &[u8]) -> Next {
        let (get, list) = (self.service() == Service::Get, self.is_list());
        let joined = self.joined.get_or_insert_with(|| {
            Joined::new(if get {
                get_head(invoke, list)
            } else {
                action_head(invoke, list)
            })
        });
        match joined.take(last, block, part, MAX_ANSWER) {
            Ok(()) => {}
            Err(NotTaken::Again) => return Next::Wait,
            Err(NotTaken::OutOfOrder) => {
                return Next::Fail(Cause::Mismatch("a block is out of order"));
            }
            // A meter that sends nothing for ever would keep the association for ever.
            Err(NotTaken::Empty) => {
                return Next::Fail(Cause::Mismatch("a block that is not the last is empty"));
            }
            Err(NotTaken::TooLong) => {
                return Next::Fail(Cause::AnswerTooLong { limit: MAX_ANSWER });
            }
        }
        if !last {
            let request = if get {
                Request::GetNext { invoke, block }
            } else {
                Request::ActionNext { invoke, block }
            };
            return Next::Send(request.encode());
        }
        match joined.response() {
            Ok(response) => {
                self.joined = None;
                self.settled(response)
            }
            Err(error) => Next::Fail(Cause::Malformed(error)),
        }
    }

    /// An answer that is not a block.
    fn settled(&self, response: Response) -> Next {
        let refused = match (self.service(), &response) {
            (_, Response::Exception(_) | Response::ConfirmedServiceError(_))
            | (Service::Get, Response::GetError { .. }) => true,
            (Service::Set, Response::Set { result, .. }) => !result.is_success(),
            (Service::Action, Response::Action { result, .. }) => !result.is_success(),
            (_, _) => false,
        };
        if refused {
            return Next::Answered(response);
        }
        if !self.is_uploaded() {
            return Next::Fail(Cause::Mismatch("it comes before the last block was sent"));
        }
        let fits = match (self.kind, &response) {
            (Kind::Get, Response::GetData { .. })
            | (Kind::Set, Response::Set { .. })
            | (Kind::Action, Response::Action { .. }) => self.joined.is_none(),
            (Kind::GetList(count), Response::GetList { results, .. }) => results.len() == count,
            (Kind::SetList(count), Response::SetList { results, .. }) => results.len() == count,
            (Kind::ActionList(count), Response::ActionList { outcomes, .. }) => {
                outcomes.len() == count
            }
            (Kind::Access(count), Response::Access { results, .. }) => results.len() <= count,
            (_, _) => false,
        };
        if fits {
            Next::Answered(response)
        } else {
            Next::Fail(Cause::Mismatch("it is of another service or another form"))
        }
    }
}
