//! Responses.

use alloc::vec::Vec;

use super::InvokeId;
use crate::axdr::{Reader, put_prefixed};
use crate::data::Data;
use crate::error::Error;
use crate::status::{ActionResult, DataAccessResult};

/// Tag of an exception-response, which is never ciphered.
pub(crate) const EXCEPTION: u8 = 0xD8;

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
        let invoke = InvokeId::from_octet(reader.u8()?);
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
