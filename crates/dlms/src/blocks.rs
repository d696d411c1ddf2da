//! Service-specific block transfer (IEC 62056-5-3): a long value, list, parameter or result in numbered parts.
//!
//! What goes in blocks is the end of the APDU that would be sent without them, its body. So a sender takes the body of
//! that APDU apart, and a receiver puts the head of that APDU in front of what it joins, and reads the whole as if it had
//! come in one.

use alloc::vec::Vec;

use crate::axdr::{length_of_length, put_prefixed};
use crate::conformance::Conformance;
use crate::data::Data;
use crate::error::Error;
use crate::service::{InvokeId, Request, Response};
use crate::status::DataAccessResult;

/// An APDU whose body is sent part by part.
struct Parts {
    apdu: Vec<u8>,
    /// Where what was not sent begins.
    at: usize,
    /// The number of the part sent last.
    sent: u32,
}

impl Parts {
    const fn is_done(&self) -> bool {
        self.at >= self.apdu.len()
    }

    /// A block of at most `room` octets: this head, whether it is the last, its number, a choice if it has one, and as
    /// much of the body as fits. Nothing if that is nothing.
    fn next(&mut self, head: &[u8], choice: &[u8], room: usize) -> Option<Vec<u8>> {
        let fixed = head.len().saturating_add(choice.len()).saturating_add(5);
        let size = payload(room.checked_sub(fixed)?);
        let rest = self.apdu.get(self.at..)?;
        let part = rest.get(..size.min(rest.len()))?;
        if part.is_empty() {
            return None;
        }
        self.sent = self.sent.checked_add(1)?;
        let last = part.len() == rest.len();
        let mut block = Vec::with_capacity(fixed.saturating_add(part.len()).saturating_add(3));
        block.extend_from_slice(head);
        block.push(u8::from(last));
        block.extend_from_slice(&self.sent.to_be_bytes());
        block.extend_from_slice(choice);
        put_prefixed(&mut block, part);
        self.at = self.at.saturating_add(part.len());
        Some(block)
    }
}

/// How many octets fit into this room together with their length.
fn payload(room: usize) -> usize {
    (1..=3)
        .map(|length| (length, room.saturating_sub(length)))
        .find(|(length, payload)| length_of_length(*payload) <= *length)
        .map_or(0, |(_, payload)| payload)
}

/// Octets of the body of a SET or an ACTION; nothing if it has none that goes in blocks.
fn body(request: &Request) -> Option<usize> {
    let length = |data: &Data| data.encode().len();
    let list = |count: usize, sum: usize| sum.saturating_add(length_of_length(count));
    if let Request::Set { value, .. } = request {
        Some(length(value))
    } else if let Request::SetList { values, .. } = request {
        let sum = values.iter().map(|(_, _, value)| length(value)).sum();
        Some(list(values.len(), sum))
    } else if let Request::Action { parameter, .. } = request {
        parameter.as_ref().map(length)
    } else if let Request::ActionList { methods, .. } = request {
        let parameter = |parameter: &Option<Data>| parameter.as_ref().map_or(1, length);
        let sum = methods.iter().map(|(_, data)| parameter(data)).sum();
        Some(list(methods.len(), sum))
    } else {
        None
    }
}

/// A long SET or ACTION on its way.
pub(crate) struct Upload {
    /// What the first block begins with; nothing once it is sent.
    first: Option<Vec<u8>>,
    /// What the blocks after it begin with.
    next: [u8; 3],
    parts: Parts,
}

impl Upload {
    /// Of a SET or an ACTION, also of several objects, and its octets; those octets, if nothing of it goes in blocks.
    pub(crate) fn new(request: &Request, apdu: Vec<u8>) -> Result<Self, Vec<u8>> {
        let Some(at) = body(request).and_then(|body| apdu.len().checked_sub(body)) else {
            return Err(apdu);
        };
        let mut first = apdu.get(..at).unwrap_or_default().to_vec();
        let next = match first.as_mut_slice() {
            [tag @ 0xC1, kind, invoke, ..] => {
                *kind = if *kind == 1 { 2 } else { 5 };
                [*tag, 3, *invoke]
            }
            // the octet that says that there is a parameter is not there with blocks
            [tag @ 0xC3, kind @ 1, invoke, .., _] => {
                *kind = 4;
                let next = [*tag, 6, *invoke];
                first.pop();
                next
            }
            [tag, kind, invoke, ..] => {
                *kind = 5;
                [*tag, 6, *invoke]
            }
            _ => return Err(apdu),
        };
        let sent = 0;
        Ok(Self {
            first: Some(first),
            next,
            parts: Parts { apdu, at, sent },
        })
    }

    /// What the meter must have to take it.
    pub(crate) const fn service(&self) -> Conformance {
        match self.next {
            [0xC1, ..] => Conformance::BLOCK_TRANSFER_SET,
            _ => Conformance::BLOCK_TRANSFER_ACTION,
        }
    }

    /// The whole request, of which nothing was sent.
    pub(crate) fn into_octets(self) -> Vec<u8> {
        self.parts.apdu
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
    pub(crate) fn next(&mut self, room: usize) -> Option<Vec<u8>> {
        let block = self
            .parts
            .next(self.first.as_deref().unwrap_or(&self.next), &[], room);
        if block.is_some() {
            self.first = None;
        }
        block
    }
}

/// A long answer on its way.
pub(crate) struct LongAnswer {
    pub(crate) invoke: InvokeId,
    is_get: bool,
    parts: Parts,
}

impl LongAnswer {
    /// Of a GET or an ACTION, also of several objects, and its octets; the octets of other answers.
    pub(crate) fn new(invoke: InvokeId, apdu: Vec<u8>) -> Result<Self, Vec<u8>> {
        let (is_get, at) = match apdu.as_slice() {
            [0xC4, 1, _, 0, ..] => (true, 4),
            [0xC4, 3, ..] => (true, 3),
            [0xC7, 1 | 3, ..] => (false, 3),
            _ => return Err(apdu),
        };
        let sent = 0;
        Ok(Self {
            invoke,
            is_get,
            parts: Parts { apdu, at, sent },
        })
    }

    /// What the client must have to get it so.
    pub(crate) const fn service(&self) -> Conformance {
        if self.is_get {
            Conformance::BLOCK_TRANSFER_GET
        } else {
            Conformance::BLOCK_TRANSFER_ACTION
        }
    }

    /// The whole answer, of which nothing was sent.
    pub(crate) fn into_octets(self) -> Vec<u8> {
        self.parts.apdu
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
    pub(crate) fn next(&mut self, room: usize) -> Option<Vec<u8>> {
        let (tag, choice): (u8, &[u8]) = if self.is_get {
            (0xC4, &[0])
        } else {
            (0xC7, &[])
        };
        self.parts
            .next(&[tag, 2, self.invoke.octet()], choice, room)
    }
}

/// Parts that are joined behind the head of the APDU they are the body of.
pub(crate) struct Joined {
    apdu: Vec<u8>,
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
            apdu: head,
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
        if self.apdu.len().saturating_add(part.len()) > limit {
            return Err(NotTaken::TooLong);
        }
        self.apdu.extend_from_slice(part);
        self.last = block;
        Ok(())
    }

    pub(crate) fn response(&self) -> Result<Response, Error> {
        Response::decode(&self.apdu)
    }

    pub(crate) fn request(&self) -> Result<Request, Error> {
        Request::decode(&self.apdu)
    }
}

/// A block of a request: whether it is the last, its number, its octets.
pub(crate) struct Block {
    pub(crate) last: bool,
    pub(crate) number: u32,
    pub(crate) octets: Vec<u8>,
    /// Of a SET, else of an ACTION.
    pub(crate) is_set: bool,
    /// The head of the whole request, with its first block.
    pub(crate) head: Option<Vec<u8>>,
}

impl Block {
    /// Of a request that is a block, or has one; nothing for others.
    pub(crate) fn of(request: Request) -> Option<Self> {
        let canonical = request.encode();
        let is_set = canonical.first() == Some(&0xC1);
        let (
            Request::SetFirstBlock {
                last,
                block,
                octets,
                ..
            }
            | Request::SetListFirstBlock {
                last,
                block,
                octets,
                ..
            }
            | Request::SetBlock {
                last,
                block,
                octets,
                ..
            }
            | Request::ActionFirstBlock {
                last,
                block,
                octets,
                ..
            }
            | Request::ActionListFirstBlock {
                last,
                block,
                octets,
                ..
            }
            | Request::ActionBlock {
                last,
                block,
                octets,
                ..
            },
        ) = (request,)
        else {
            return None;
        };
        Some(Self {
            head: head(canonical, octets.len()),
            last,
            number: block,
            octets,
            is_set,
        })
    }
}

/// The head of the whole request, of that of its first block, whose part has this length.
fn head(mut first: Vec<u8>, part: usize) -> Option<Vec<u8>> {
    // whether it is the last, and its number
    let block = part
        .saturating_add(length_of_length(part))
        .saturating_add(5);
    first.truncate(first.len().checked_sub(block)?);
    match first.as_mut_slice() {
        [0xC1, kind @ 2, ..] => *kind = 1,
        [0xC1, kind @ 5, ..] => *kind = 4,
        [0xC3, kind @ 5, ..] => *kind = 3,
        [0xC3, kind @ 4, ..] => {
            *kind = 1;
            // there is a parameter
            first.push(1);
        }
        _ => return None,
    }
    Some(first)
}

/// The head of the answer that the blocks of a GET are the body of.
pub(crate) fn get_head(invoke: InvokeId, list: bool) -> Vec<u8> {
    if list {
        Vec::from([0xC4, 3, invoke.octet()])
    } else {
        Vec::from([0xC4, 1, invoke.octet(), 0])
    }
}

/// The head of the answer that the blocks of an ACTION are the body of.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{Attribute, Command, Method};
    use alloc::vec;

    const NAME: crate::Obis = crate::Obis::new([1, 0, 99, 1, 0, 255]);

    fn long() -> Vec<Command> {
        let (class_id, name, index) = (7, NAME, 2);
        let attribute = Attribute {
            class_id,
            name,
            index,
        };
        let method = Method {
            class_id,
            name,
            index,
        };
        let value = || Data::OctetString((0..250).collect());
        let selection = Some(crate::Selection::Entry {
            from_entry: 1,
            to_entry: 2,
            from_column: 1,
            to_column: 0,
        });
        vec![
            Command::Set {
                attribute,
                selection: selection.clone(),
                value: value(),
            },
            Command::SetList(vec![
                (attribute, selection, value()),
                (attribute, None, Data::Null),
            ]),
            Command::Action {
                method,
                parameter: Some(value()),
            },
            Command::ActionList(vec![(method, None), (method, Some(value()))]),
        ]
    }

    #[test]
    fn what_goes_in_blocks_arrives_as_it_was() {
        for command in long() {
            for room in 60..400 {
                let request = command.clone().with(InvokeId::new(3));
                let mut upload = Upload::new(&request, request.encode()).unwrap();
                let mut joined = None;
                while !upload.is_done() {
                    let octets = upload.next(room).unwrap();
                    assert!(octets.len() <= room);
                    assert!(upload.is_done() || octets.len() >= room - 1, "filled");
                    let block = Block::of(Request::decode(&octets).unwrap()).unwrap();
                    assert_eq!(block.head.is_some(), block.number == 1);
                    let joined = joined.get_or_insert_with(|| Joined::new(block.head.unwrap()));
                    let taken = joined.take(block.last, block.number, &block.octets, 1000);
                    assert_eq!((taken, block.last), (Ok(()), upload.is_done()));
                }
                assert_eq!(joined.unwrap().request(), Ok(request));
            }
        }
    }

    #[test]
    fn what_has_no_body_and_no_room_goes_in_no_blocks() {
        let get = Request::GetNext {
            invoke: InvokeId::new(1),
            block: 1,
        };
        assert!(Upload::new(&get, get.encode()).is_err());
        assert!(Block::of(get).is_none());
        let request = long().remove(0).with(InvokeId::new(1));
        let mut upload = Upload::new(&request, request.encode()).unwrap();
        assert_eq!(upload.next(20), None);
        assert_eq!((upload.sent(), upload.is_done()), (0, false));
        let (octets, whole) = (upload.into_octets(), request.encode());
        assert_eq!(octets, whole);
    }
}
