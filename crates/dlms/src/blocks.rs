//! Service-specific block transfer (IEC 62056-5-3): a long value, list, parameter or result in numbered parts.
//!
//! What goes in blocks is the end of the APDU that would be sent without them. So a receiver puts the head of that APDU
//! in front of what it joins, and reads the whole as if it had come in one.

use alloc::vec::Vec;

use crate::axdr::{length_of_length, put_length};
use crate::data::Data;
use crate::error::Error;
use crate::service::{InvokeId, Request, Response};
use crate::status::DataAccessResult;

/// Octets of a block's request besides its part and the length of that: tag, type, invoke id, last, number.
const REQUEST_HEAD: usize = 1 + 1 + 1 + 1 + 4;
/// Octets of a block's response likewise; that of a GET has a choice as well.
const RESPONSE_HEAD: usize = 1 + 1 + 1 + 1 + 4 + 1;

/// Octets that are sent part by part.
pub(crate) struct Parts {
    octets: Vec<u8>,
    at: usize,
    /// The number of the part sent last.
    pub(crate) sent: u32,
}

impl Parts {
    const fn new(octets: Vec<u8>, at: usize) -> Self {
        Self {
            octets,
            at,
            sent: 0,
        }
    }

    /// Whether the last part was sent.
    pub(crate) const fn is_done(&self) -> bool {
        self.at >= self.octets.len()
    }

    /// The next part: whether it is the last, its number, and as much as fits with its length into `room` octets;
    /// nothing if that is nothing.
    fn next(&mut self, room: usize) -> Option<(bool, u32, Vec<u8>)> {
        let rest = self.octets.get(self.at..)?;
        let part = rest.get(..payload(room).min(rest.len()))?.to_vec();
        if part.is_empty() {
            return None;
        }
        self.sent = self.sent.checked_add(1)?;
        self.at = self.at.saturating_add(part.len());
        Some((self.is_done(), self.sent, part))
    }
}

/// How many octets fit into this room together with their length.
fn payload(room: usize) -> usize {
    (1..=3)
        .map(|length| (length, room.saturating_sub(length)))
        .find(|(length, payload)| length_of_length(*payload) <= *length)
        .map_or(0, |(_, payload)| payload)
}

/// A long SET or ACTION on its way.
pub(crate) struct Upload {
    /// The request of the first block, without its octets; nothing once it is sent.
    first: Option<Request>,
    parts: Parts,
    invoke: InvokeId,
    is_set: bool,
}

impl Upload {
    /// Of a SET or an ACTION, also of several objects; the request itself if it has nothing that goes in blocks.
    pub(crate) fn new(request: Request) -> Result<Self, Request> {
        let (last, block, none) = (false, 1, Vec::new);
        let (first, octets) = match request {
            Request::Set {
                invoke,
                attribute,
                selection,
                value,
            } => {
                let octets = none();
                let first = Request::SetFirstBlock {
                    invoke,
                    attribute,
                    selection,
                    last,
                    block,
                    octets,
                };
                (first, value.encode())
            }
            Request::SetList { invoke, values } => {
                let mut octets = none();
                put_length(&mut octets, values.len());
                let mut attributes = Vec::with_capacity(values.len());
                for (attribute, selection, value) in values {
                    value.encode_into(&mut octets);
                    attributes.push((attribute, selection));
                }
                let first = Request::SetListFirstBlock {
                    invoke,
                    attributes,
                    last,
                    block,
                    octets: none(),
                };
                (first, octets)
            }
            Request::Action {
                invoke,
                method,
                parameter: Some(parameter),
            } => {
                let octets = none();
                let first = Request::ActionFirstBlock {
                    invoke,
                    method,
                    last,
                    block,
                    octets,
                };
                (first, parameter.encode())
            }
            Request::ActionList { invoke, methods } => {
                let mut octets = none();
                put_length(&mut octets, methods.len());
                let mut names = Vec::with_capacity(methods.len());
                for (method, parameter) in methods {
                    parameter.unwrap_or(Data::Null).encode_into(&mut octets);
                    names.push(method);
                }
                let first = Request::ActionListFirstBlock {
                    invoke,
                    methods: names,
                    last,
                    block,
                    octets: none(),
                };
                (first, octets)
            }
            other @ (Request::Get { .. }
            | Request::GetNext { .. }
            | Request::GetList { .. }
            | Request::SetFirstBlock { .. }
            | Request::SetBlock { .. }
            | Request::SetListFirstBlock { .. }
            | Request::Action {
                parameter: None, ..
            }
            | Request::ActionNext { .. }
            | Request::ActionFirstBlock { .. }
            | Request::ActionListFirstBlock { .. }
            | Request::ActionBlock { .. }
            | Request::Access { .. }) => return Err(other),
        };
        Ok(Self {
            invoke: first.invoke(),
            is_set: matches!(
                first,
                Request::SetFirstBlock { .. } | Request::SetListFirstBlock { .. }
            ),
            first: Some(first),
            parts: Parts::new(octets, 0),
        })
    }

    pub(crate) const fn is_set(&self) -> bool {
        self.is_set
    }

    /// The number of the block sent last.
    pub(crate) const fn sent(&self) -> u32 {
        self.parts.sent
    }

    /// Whether the last block was sent.
    pub(crate) const fn is_done(&self) -> bool {
        self.parts.is_done()
    }

    /// The next block, of at most `room` octets; nothing if there is none, or no room for any of it.
    pub(crate) fn next(&mut self, room: usize) -> Option<Request> {
        let Some(mut first) = self.first.take() else {
            let (last, block, octets) = self.parts.next(room.checked_sub(REQUEST_HEAD)?)?;
            let invoke = self.invoke;
            return Some(if self.is_set {
                Request::SetBlock {
                    invoke,
                    last,
                    block,
                    octets,
                }
            } else {
                Request::ActionBlock {
                    invoke,
                    last,
                    block,
                    octets,
                }
            });
        };
        // its empty part has a length of one octet
        let head = first.encode().len().saturating_sub(1);
        // the blocks that follow must have room as well
        room.checked_sub(REQUEST_HEAD.saturating_add(2))?;
        let (done, _, part) = self.parts.next(room.checked_sub(head)?)?;
        if let Request::SetFirstBlock { last, octets, .. }
        | Request::SetListFirstBlock { last, octets, .. }
        | Request::ActionFirstBlock { last, octets, .. }
        | Request::ActionListFirstBlock { last, octets, .. } = &mut first
        {
            (*last, *octets) = (done, part);
        }
        Some(first)
    }
}

/// A long answer on its way.
pub(crate) struct LongAnswer {
    pub(crate) invoke: InvokeId,
    is_get: bool,
    parts: Parts,
}

impl LongAnswer {
    /// Of a GET or an ACTION, also of several objects, and its octets; nothing for other answers.
    pub(crate) fn new(response: &Response, invoke: InvokeId, octets: Vec<u8>) -> Option<Self> {
        let (is_get, head) = if matches!(response, Response::GetData { .. }) {
            (true, 4)
        } else if matches!(response, Response::GetList { .. }) {
            (true, 3)
        } else if matches!(
            response,
            Response::Action { .. } | Response::ActionList { .. }
        ) {
            (false, 3)
        } else {
            return None;
        };
        Some(Self {
            invoke,
            is_get,
            parts: Parts::new(octets, head),
        })
    }

    pub(crate) const fn is_get(&self) -> bool {
        self.is_get
    }

    /// The number of the block sent last.
    pub(crate) const fn sent(&self) -> u32 {
        self.parts.sent
    }

    pub(crate) const fn is_done(&self) -> bool {
        self.parts.is_done()
    }

    /// The next block, of at most `room` octets; nothing if there is no room for any of it.
    pub(crate) fn next(&mut self, room: usize) -> Option<Response> {
        let head = if self.is_get {
            RESPONSE_HEAD
        } else {
            REQUEST_HEAD
        };
        let (last, block, part) = self.parts.next(room.checked_sub(head)?)?;
        let invoke = self.invoke;
        Some(if self.is_get {
            Response::GetBlock {
                invoke,
                last,
                block,
                payload: Ok(part),
            }
        } else {
            Response::ActionBlock {
                invoke,
                last,
                block,
                octets: part,
            }
        })
    }
}

/// Parts that are joined behind the head of the APDU they are the end of.
pub(crate) struct Joined {
    octets: Vec<u8>,
    /// The number of the part received last.
    pub(crate) last: u32,
}

/// Why a part was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// It was taken before.
    Again,
    /// Another is due.
    OutOfOrder,
    /// It is empty and not the last: a sender that goes on so would go on for ever.
    Empty,
    /// There are more octets than may be.
    TooLong,
}

impl Joined {
    /// Nothing yet, behind this head.
    pub(crate) const fn new(head: Vec<u8>) -> Self {
        Self {
            octets: head,
            last: 0,
        }
    }

    /// Takes a part.
    pub(crate) fn take(
        &mut self,
        last: bool,
        block: u32,
        part: &[u8],
        limit: usize,
    ) -> Result<(), NotTaken> {
        if self.last > 0 && block <= self.last {
            return Err(NotTaken::Again);
        }
        if self.last.checked_add(1) != Some(block) {
            return Err(NotTaken::OutOfOrder);
        }
        if part.is_empty() && !last {
            return Err(NotTaken::Empty);
        }
        if self.octets.len().saturating_add(part.len()) > limit {
            return Err(NotTaken::TooLong);
        }
        self.octets.extend_from_slice(part);
        self.last = block;
        Ok(())
    }

    pub(crate) fn response(&self) -> Result<Response, Error> {
        Response::decode(&self.octets)
    }

    pub(crate) fn request(&self) -> Result<Request, Error> {
        Request::decode(&self.octets)
    }
}

/// The first block of a long SET or ACTION taken apart: the head of the whole request, and the block.
pub(crate) fn first_block(request: Request) -> Result<(Vec<u8>, (bool, u32, Vec<u8>)), Request> {
    let mut head = Vec::new();
    let (last, block, octets) = match request {
        Request::SetFirstBlock {
            invoke,
            attribute,
            selection,
            last,
            block,
            octets,
        } => {
            let value = Data::Null;
            Request::Set {
                invoke,
                attribute,
                selection,
                value,
            }
            .encode_into(&mut head);
            (last, block, octets)
        }
        Request::SetListFirstBlock {
            invoke,
            attributes,
            last,
            block,
            octets,
        } => {
            let values = attributes
                .into_iter()
                .map(|(attribute, selection)| (attribute, selection, Data::Null))
                .collect::<Vec<_>>();
            let count = values.len();
            Request::SetList { invoke, values }.encode_into(&mut head);
            drop_list(&mut head, count);
            head.push(0);
            (last, block, octets)
        }
        Request::ActionFirstBlock {
            invoke,
            method,
            last,
            block,
            octets,
        } => {
            let parameter = Some(Data::Null);
            Request::Action {
                invoke,
                method,
                parameter,
            }
            .encode_into(&mut head);
            (last, block, octets)
        }
        Request::ActionListFirstBlock {
            invoke,
            methods,
            last,
            block,
            octets,
        } => {
            let methods = methods
                .into_iter()
                .map(|method| (method, None))
                .collect::<Vec<_>>();
            let count = methods.len();
            Request::ActionList { invoke, methods }.encode_into(&mut head);
            drop_list(&mut head, count);
            head.push(0);
            (last, block, octets)
        }
        other @ (Request::Get { .. }
        | Request::GetNext { .. }
        | Request::GetList { .. }
        | Request::Set { .. }
        | Request::SetBlock { .. }
        | Request::SetList { .. }
        | Request::Action { .. }
        | Request::ActionNext { .. }
        | Request::ActionList { .. }
        | Request::ActionBlock { .. }
        | Request::Access { .. }) => return Err(other),
    };
    // the null-data that stood for what the blocks carry
    head.pop();
    Ok((head, (last, block, octets)))
}

/// Takes a list of this many null-data from the end.
fn drop_list(head: &mut Vec<u8>, count: usize) {
    let octets = count.saturating_add(length_of_length(count));
    head.truncate(head.len().saturating_sub(octets));
}

/// The head of the answer that the blocks of a GET are the end of.
pub(crate) fn get_head(invoke: InvokeId, list: bool) -> Vec<u8> {
    if list {
        Vec::from([0xC4, 3, invoke.octet()])
    } else {
        Vec::from([0xC4, 1, invoke.octet(), 0])
    }
}

/// The head of the answer that the blocks of an ACTION are the end of.
pub(crate) fn action_head(invoke: InvokeId, list: bool) -> Vec<u8> {
    Vec::from([0xC7, if list { 3 } else { 1 }, invoke.octet()])
}

/// The answer to a block of a GET that is not due.
pub(crate) const fn no_block(invoke: InvokeId, block: u32, result: DataAccessResult) -> Response {
    Response::GetBlock {
        invoke,
        last: true,
        block,
        payload: Err(result),
    }
}
