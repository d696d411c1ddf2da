//! Octets into responses.

use super::{ActionOutcome, Response};
use crate::axdr::Reader;
use crate::error::Error;
use crate::initiate::{CONFIRMED_SERVICE_ERROR, ConfirmedServiceError};
use crate::service::access::read_accessed;
use crate::service::exception::EXCEPTION;
use crate::service::part::{
    read_access_result, read_action_result, read_block, read_choice, read_list, read_result,
    read_time,
};
use crate::service::{Exception, InvokeId, LongInvokeId};

impl Response {
    /// Decodes a plaintext response APDU that fills `octets` exactly.
    ///
    /// # Errors
    /// What is malformed, or a type the service does not have, with its offset.
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(octets);
        let response = match reader.u8()? {
            0xC4 => get(&mut reader)?,
            0xC5 => set(&mut reader)?,
            0xC7 => action(&mut reader)?,
            0xDA => access(&mut reader)?,
            EXCEPTION => Self::Exception(Exception::read(&mut reader)?),
            CONFIRMED_SERVICE_ERROR => {
                Self::ConfirmedServiceError(ConfirmedServiceError::read(&mut reader)?)
            }
            found => {
                return Err(Error::Unexpected {
                    offset: 0,
                    expected: "the tag of a response (C4, C5, C7, DA), of an exception (D8) or of a \
                               confirmed-service-error (0E)",
                    found,
                });
            }
        };
        reader.finish()?;
        Ok(response)
    }
}

fn head(reader: &mut Reader<'_>) -> Result<(u8, InvokeId), Error> {
    Ok((reader.u8()?, InvokeId::from_octet(reader.u8()?)))
}

/// The type is the second octet of the APDU.
const fn unknown_type(expected: &'static str, found: u8) -> Error {
    Error::Unexpected {
        offset: 1,
        expected,
        found,
    }
}

fn get(reader: &mut Reader<'_>) -> Result<Response, Error> {
    let (kind, invoke) = head(reader)?;
    Ok(match kind {
        1 => match read_result(reader)? {
            Ok(data) => Response::GetData { invoke, data },
            Err(result) => Response::GetError { invoke, result },
        },
        2 => Response::GetBlock {
            invoke,
            last: reader.present()?,
            block: reader.u32()?,
            payload: match read_choice(reader)? {
                Ok(()) => Ok(reader.prefixed()?.to_vec()),
                Err(result) => Err(result),
            },
        },
        3 => Response::GetList {
            invoke,
            results: read_list(reader, read_result)?,
        },
        found => return Err(unknown_type("a type of GET response (01..03)", found)),
    })
}

fn set(reader: &mut Reader<'_>) -> Result<Response, Error> {
    let (kind, invoke) = head(reader)?;
    Ok(match kind {
        1 => Response::Set {
            invoke,
            result: read_access_result(reader)?,
        },
        2 => Response::SetBlockAck {
            invoke,
            block: reader.u32()?,
        },
        3 => Response::SetLastBlock {
            invoke,
            result: read_access_result(reader)?,
            block: reader.u32()?,
        },
        4 => Response::SetLastBlockList {
            invoke,
            results: read_list(reader, read_access_result)?,
            block: reader.u32()?,
        },
        5 => Response::SetList {
            invoke,
            results: read_list(reader, read_access_result)?,
        },
        found => return Err(unknown_type("a type of SET response (01..05)", found)),
    })
}

fn action(reader: &mut Reader<'_>) -> Result<Response, Error> {
    let (kind, invoke) = head(reader)?;
    Ok(match kind {
        1 => {
            let (result, data) = read_action_outcome(reader)?;
            Response::Action {
                invoke,
                result,
                data,
            }
        }
        2 => {
            let (last, block, octets) = read_block(reader)?;
            Response::ActionBlock {
                invoke,
                last,
                block,
                octets,
            }
        }
        3 => Response::ActionList {
            invoke,
            outcomes: read_list(reader, read_action_outcome)?,
        },
        4 => Response::ActionNextBlock {
            invoke,
            block: reader.u32()?,
        },
        found => return Err(unknown_type("a type of ACTION response (01..04)", found)),
    })
}

fn access(reader: &mut Reader<'_>) -> Result<Response, Error> {
    let invoke = LongInvokeId::from_bits(reader.u32()?);
    let time = read_time(reader)?;
    let (specifications, results) = read_accessed(reader)?;
    Ok(Response::Access {
        invoke,
        time,
        specifications,
        results,
    })
}

/// Action-Response-With-Optional-Data.
fn read_action_outcome(reader: &mut Reader<'_>) -> Result<ActionOutcome, Error> {
    Ok((
        read_action_result(reader)?,
        if reader.present()? {
            Some(read_result(reader)?)
        } else {
            None
        },
    ))
}
