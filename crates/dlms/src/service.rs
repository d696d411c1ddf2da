//! GET, SET and ACTION (IEC 62056-5-3): plaintext requests and responses.

use alloc::vec::Vec;

use crate::axdr::{Reader, put_prefixed};
use crate::data::Data;
use crate::error::Error;
use crate::obis::Obis;
use crate::selection::Selection;
use crate::status::{ActionResult, DataAccessResult};

/// Tag of an exception-response, which is never ciphered.
pub(crate) const EXCEPTION: u8 = 0xD8;

/// invoke-id-and-priority: id in bits 0..3, confirmed bit 6, high priority bit 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InvokeId(u8);

impl InvokeId {
    /// A confirmed request of high priority (`C0` | id): what every peer we know sends. Only four bits of `id` count.
    #[must_use]
    pub const fn new(id: u8) -> Self {
        Self(0xC0 | (id & 0x0F))
    }

    /// From the octet on the wire.
    #[must_use]
    pub const fn from_octet(octet: u8) -> Self {
        Self(octet)
    }

    /// The octet on the wire.
    #[must_use]
    pub const fn octet(self) -> u8 {
        self.0
    }

    /// The id, 0..15: what an answer is matched by.
    #[must_use]
    pub const fn id(self) -> u8 {
        self.0 & 0x0F
    }

    /// The id after this one, 15 being followed by 0.
    #[must_use]
    pub const fn next(self) -> Self {
        Self::new(self.id().wrapping_add(1))
    }
}

/// An attribute of a COSEM object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attribute {
    /// Interface class.
    pub class_id: u16,
    /// Logical name.
    pub name: Obis,
    /// Attribute index, from 1; 0 means all.
    pub index: i8,
}

/// A method of a COSEM object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Method {
    /// Interface class.
    pub class_id: u16,
    /// Logical name.
    pub name: Obis,
    /// Method index, from 1.
    pub index: i8,
}

impl Method {
    /// `reply_to_HLS_authentication` of the current association: carries passes 3 and 4.
    pub const REPLY_TO_HLS: Self = Self {
        class_id: 15,
        name: Obis::CURRENT_ASSOCIATION,
        index: 1,
    };
}

/// What a client may ask: a [`Request`] that has no invoke id yet.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Read an attribute.
    Get {
        /// Which.
        attribute: Attribute,
        /// Which part of it.
        selection: Option<Selection>,
    },
    /// Write an attribute.
    Set {
        /// Which.
        attribute: Attribute,
        /// Which part of it.
        selection: Option<Selection>,
        /// What to write.
        value: Data,
    },
    /// Execute a method.
    Action {
        /// Which.
        method: Method,
        /// Its parameter.
        parameter: Option<Data>,
    },
}

impl Command {
    /// The request with this invoke id.
    #[must_use]
    pub fn with(self, invoke: InvokeId) -> Request {
        match self {
            Self::Get {
                attribute,
                selection,
            } => Request::Get {
                invoke,
                attribute,
                selection,
            },
            Self::Set {
                attribute,
                selection,
                value,
            } => Request::Set {
                invoke,
                attribute,
                selection,
                value,
            },
            Self::Action { method, parameter } => Request::Action {
                invoke,
                method,
                parameter,
            },
        }
    }
}

/// A plaintext request: get-request-normal, get-request-next, set-request-normal or action-request-normal.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// C0 01: read an attribute.
    Get {
        /// Id and priority.
        invoke: InvokeId,
        /// Which.
        attribute: Attribute,
        /// Which part of it.
        selection: Option<Selection>,
    },
    /// C0 02: the block after this one.
    GetNext {
        /// Id and priority of the GET it continues.
        invoke: InvokeId,
        /// The number of the block received last.
        block: u32,
    },
    /// C1 01: write an attribute.
    Set {
        /// Id and priority.
        invoke: InvokeId,
        /// Which.
        attribute: Attribute,
        /// Which part of it.
        selection: Option<Selection>,
        /// What to write.
        value: Data,
    },
    /// C3 01: execute a method.
    Action {
        /// Id and priority.
        invoke: InvokeId,
        /// Which.
        method: Method,
        /// Its parameter.
        parameter: Option<Data>,
    },
}

impl Request {
    /// Decodes a plaintext request APDU that fills `octets` exactly.
    ///
    /// # Errors
    /// What is malformed, or a service type that is not supported (with-list, long SET and ACTION), with its offset.
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(octets);
        let tag = reader.u8()?;
        let offset = reader.offset();
        let kind = reader.u8()?;
        let invoke = InvokeId(reader.u8()?);
        let request = match (tag, kind) {
            (0xC0, 1) => Self::Get {
                invoke,
                attribute: read_attribute(&mut reader)?,
                selection: read_selection(&mut reader)?,
            },
            (0xC0, 2) => Self::GetNext {
                invoke,
                block: reader.u32()?,
            },
            (0xC1, 1) => Self::Set {
                invoke,
                attribute: read_attribute(&mut reader)?,
                selection: read_selection(&mut reader)?,
                value: Data::read(&mut reader)?,
            },
            (0xC3, 1) => Self::Action {
                invoke,
                method: read_method(&mut reader)?,
                parameter: if reader.present()? {
                    Some(Data::read(&mut reader)?)
                } else {
                    None
                },
            },
            (0xC0 | 0xC1 | 0xC3, found) => {
                let expected = "a normal request, or the next block of a GET";
                return Err(Error::Unexpected {
                    offset,
                    expected,
                    found,
                });
            }
            (found, _) => {
                let expected = "the tag of a GET, SET or ACTION request (C0, C1, C3)";
                return Err(Error::Unexpected {
                    offset: 0,
                    expected,
                    found,
                });
            }
        };
        reader.finish()?;
        Ok(request)
    }

    /// The octets of the APDU.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Get {
                invoke,
                attribute,
                selection,
            } => {
                out.extend_from_slice(&[0xC0, 1, invoke.octet()]);
                put_attribute(&mut out, *attribute);
                put_selection(&mut out, selection.as_ref());
            }
            Self::GetNext { invoke, block } => {
                out.extend_from_slice(&[0xC0, 2, invoke.octet()]);
                out.extend_from_slice(&block.to_be_bytes());
            }
            Self::Set {
                invoke,
                attribute,
                selection,
                value,
            } => {
                out.extend_from_slice(&[0xC1, 1, invoke.octet()]);
                put_attribute(&mut out, *attribute);
                put_selection(&mut out, selection.as_ref());
                value.encode_into(&mut out);
            }
            Self::Action {
                invoke,
                method,
                parameter,
            } => {
                out.extend_from_slice(&[0xC3, 1, invoke.octet()]);
                put_descriptor(&mut out, method.class_id, method.name, method.index);
                out.push(u8::from(parameter.is_some()));
                if let Some(parameter) = parameter {
                    parameter.encode_into(&mut out);
                }
            }
        }
        out
    }

    /// Its id and priority.
    #[must_use]
    pub const fn invoke(&self) -> InvokeId {
        match self {
            Self::Get { invoke, .. }
            | Self::GetNext { invoke, .. }
            | Self::Set { invoke, .. }
            | Self::Action { invoke, .. } => *invoke,
        }
    }
}

/// A plaintext response.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// C4 01 .. 00: the value of an attribute.
    GetData {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// The value.
        data: Data,
    },
    /// C4 01 .. 01: the attribute was not read.
    GetError {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// Why not.
        result: DataAccessResult,
    },
    /// C4 02: a block of a value.
    GetBlock {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// Whether it is the last.
        last: bool,
        /// Its number, from 1.
        block: u32,
        /// Its part of the encoded value, or why there is none.
        payload: Result<Vec<u8>, DataAccessResult>,
    },
    /// C5 01: what became of a SET.
    Set {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// The outcome.
        result: DataAccessResult,
    },
    /// C7 01: what became of an ACTION.
    Action {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// The outcome.
        result: ActionResult,
        /// What the method returned, or why that cannot be had.
        data: Option<Result<Data, DataAccessResult>>,
    },
    /// D8: the request was not served. Never ciphered: a hint, not a fact.
    Exception(Exception),
}

impl Response {
    /// Decodes a plaintext response APDU that fills `octets` exactly.
    ///
    /// # Errors
    /// What is malformed, or a service type that is not supported, with its offset.
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(octets);
        let tag = reader.u8()?;
        if tag == EXCEPTION {
            return Exception::read(&mut reader).map(Self::Exception);
        }
        let offset = reader.offset();
        let kind = reader.u8()?;
        let invoke = InvokeId(reader.u8()?);
        let response = match (tag, kind) {
            (0xC4, 1) => match read_result(&mut reader)? {
                Ok(()) => Self::GetData {
                    invoke,
                    data: Data::read(&mut reader)?,
                },
                Err(result) => Self::GetError { invoke, result },
            },
            (0xC4, 2) => Self::GetBlock {
                invoke,
                last: reader.present()?,
                block: reader.u32()?,
                payload: match read_result(&mut reader)? {
                    Ok(()) => Ok(reader.prefixed()?.to_vec()),
                    Err(result) => Err(result),
                },
            },
            (0xC5, 1) => Self::Set {
                invoke,
                result: DataAccessResult::new(reader.u8()?),
            },
            (0xC7, 1) => Self::Action {
                invoke,
                result: ActionResult::new(reader.u8()?),
                data: match reader.present()? {
                    true => Some(match read_result(&mut reader)? {
                        Ok(()) => Ok(Data::read(&mut reader)?),
                        Err(result) => Err(result),
                    }),
                    false => None,
                },
            },
            (0xC4 | 0xC5 | 0xC7, found) => {
                let expected = "a normal response, or a block of a GET";
                return Err(Error::Unexpected {
                    offset,
                    expected,
                    found,
                });
            }
            (found, _) => {
                let expected =
                    "the tag of a GET, SET or ACTION response, or of an exception (C4, C5, C7, D8)";
                return Err(Error::Unexpected {
                    offset: 0,
                    expected,
                    found,
                });
            }
        };
        reader.finish()?;
        Ok(response)
    }

    /// The octets of the APDU.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::GetData { invoke, data } => {
                out.extend_from_slice(&[0xC4, 1, invoke.octet(), 0]);
                data.encode_into(&mut out);
            }
            Self::GetError { invoke, result } => {
                out.extend_from_slice(&[0xC4, 1, invoke.octet(), 1, result.code()]);
            }
            Self::GetBlock {
                invoke,
                last,
                block,
                payload,
            } => {
                out.extend_from_slice(&[0xC4, 2, invoke.octet(), u8::from(*last)]);
                out.extend_from_slice(&block.to_be_bytes());
                match payload {
                    Ok(octets) => {
                        out.push(0);
                        put_prefixed(&mut out, octets);
                    }
                    Err(result) => out.extend_from_slice(&[1, result.code()]),
                }
            }
            Self::Set { invoke, result } => {
                out.extend_from_slice(&[0xC5, 1, invoke.octet(), result.code()]);
            }
            Self::Action {
                invoke,
                result,
                data,
            } => {
                out.extend_from_slice(&[0xC7, 1, invoke.octet(), result.code()]);
                match data {
                    None => out.push(0),
                    Some(Ok(data)) => {
                        out.extend_from_slice(&[1, 0]);
                        data.encode_into(&mut out);
                    }
                    Some(Err(result)) => out.extend_from_slice(&[1, 1, result.code()]),
                }
            }
            Self::Exception(exception) => exception.encode_into(&mut out),
        }
        out
    }

    /// The same response to the request with this id and priority.
    #[must_use]
    pub fn with(mut self, id: InvokeId) -> Self {
        match &mut self {
            Self::GetData { invoke, .. }
            | Self::GetError { invoke, .. }
            | Self::GetBlock { invoke, .. }
            | Self::Set { invoke, .. }
            | Self::Action { invoke, .. } => *invoke = id,
            Self::Exception(_) => {}
        }
        self
    }

    /// Id and priority of the request it answers; an exception has none.
    #[must_use]
    pub const fn invoke(&self) -> Option<InvokeId> {
        match self {
            Self::GetData { invoke, .. }
            | Self::GetError { invoke, .. }
            | Self::GetBlock { invoke, .. }
            | Self::Set { invoke, .. }
            | Self::Action { invoke, .. } => Some(*invoke),
            Self::Exception(_) => None,
        }
    }
}

/// An exception-response (IEC 62056-5-3): the request was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Exception {
    /// 1 service not allowed, 2 service unknown.
    pub state: u8,
    /// 1 operation not possible, 2 service not supported, 3 other reason, 4 PDU too long, 5 deciphering error,
    /// 6 invocation counter error.
    pub service: u8,
    /// With an invocation counter error: the counter the meter expects.
    pub counter: Option<u32>,
}

impl Exception {
    /// The association does not allow it now.
    pub const NOT_POSSIBLE: Self = Self::of(1);
    /// The service is not there.
    pub const NOT_SUPPORTED: Self = Self::of(2);
    /// Some other reason.
    pub const OTHER_REASON: Self = Self::of(3);
    /// The answer does not fit.
    pub const TOO_LONG: Self = Self::of(4);
    /// The APDU could not be deciphered.
    pub const DECIPHERING: Self = Self::of(5);

    const fn of(service: u8) -> Self {
        Self {
            state: 1,
            service,
            counter: None,
        }
    }

    /// The invocation counter is not above the last one; `expected` is the lowest that would do.
    #[must_use]
    pub const fn invocation_counter(expected: u32) -> Self {
        Self {
            state: 1,
            service: 6,
            counter: Some(expected),
        }
    }

    /// The name of the service error.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.service {
            1 => "operation-not-possible",
            2 => "service-not-supported",
            3 => "other-reason",
            4 => "pdu-too-long",
            5 => "deciphering-error",
            6 => "invocation-counter-error",
            _ => "unknown-service-error",
        }
    }

    /// Whether it speaks of keys or counters.
    #[must_use]
    pub const fn is_security(self) -> bool {
        matches!(self.service, 5 | 6)
    }

    /// What follows a counter error is 4 octets in the standard, one in a known peer, none in others: only four are read.
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let (state, service) = (reader.u8()?, reader.u8()?);
        let counter = match (service, reader.left()) {
            (6, 4) => Some(reader.u32()?),
            (6, 1) => {
                reader.rest();
                None
            }
            _ => None,
        };
        reader.finish()?;
        Ok(Self {
            state,
            service,
            counter,
        })
    }

    fn encode_into(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[EXCEPTION, self.state, self.service]);
        if let Some(counter) = self.counter {
            out.extend_from_slice(&counter.to_be_bytes());
        }
    }
}

/// CHOICE of result: 0 data follows, 1 a Data-Access-Result follows.
fn read_result(reader: &mut Reader<'_>) -> Result<Result<(), DataAccessResult>, Error> {
    let offset = reader.offset();
    match reader.u8()? {
        0 => Ok(Ok(())),
        1 => Ok(Err(DataAccessResult::new(reader.u8()?))),
        found => Err(Error::Unexpected {
            offset,
            expected: "00 (data) or 01 (data-access-result)",
            found,
        }),
    }
}

fn read_descriptor(reader: &mut Reader<'_>) -> Result<(u16, Obis, i8), Error> {
    Ok((reader.u16()?, Obis::new(reader.array()?), reader.i8()?))
}

fn read_attribute(reader: &mut Reader<'_>) -> Result<Attribute, Error> {
    let (class_id, name, index) = read_descriptor(reader)?;
    Ok(Attribute {
        class_id,
        name,
        index,
    })
}

fn read_method(reader: &mut Reader<'_>) -> Result<Method, Error> {
    let (class_id, name, index) = read_descriptor(reader)?;
    Ok(Method {
        class_id,
        name,
        index,
    })
}

fn read_selection(reader: &mut Reader<'_>) -> Result<Option<Selection>, Error> {
    if reader.present()? {
        Selection::read(reader).map(Some)
    } else {
        Ok(None)
    }
}

fn put_descriptor(out: &mut Vec<u8>, class_id: u16, name: Obis, index: i8) {
    out.extend_from_slice(&class_id.to_be_bytes());
    out.extend_from_slice(&name.bytes());
    out.extend_from_slice(&index.to_be_bytes());
}

fn put_attribute(out: &mut Vec<u8>, attribute: Attribute) {
    put_descriptor(out, attribute.class_id, attribute.name, attribute.index);
}

fn put_selection(out: &mut Vec<u8>, selection: Option<&Selection>) {
    out.push(u8::from(selection.is_some()));
    if let Some(selection) = selection {
        selection.encode_into(out);
    }
}
