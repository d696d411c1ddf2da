//! Octets into requests.

use super::Request;
use crate::axdr::Reader;
use crate::data::Data;
use crate::error::Error;
use crate::service::access::read_accesses;
use crate::service::part::{
    read_attribute, read_block, read_list, read_list_of, read_method, read_parameter,
    read_selected, read_selection, read_time,
};
use crate::service::{InvokeId, LongInvokeId};

impl Request {
    /// Decodes a plaintext request APDU that fills `octets` exactly.
    ///
    /// # Errors
    /// What is malformed, or a type the service does not have, with its offset.
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(octets);
        let request = match reader.u8()? {
            0xC0 => get(&mut reader)?,
            0xC1 => set(&mut reader)?,
            0xC3 => action(&mut reader)?,
            0xD9 => Self::Access {
                invoke: LongInvokeId::from_bits(reader.u32()?),
                time: read_time(&mut reader)?,
                accesses: read_accesses(&mut reader)?,
            },
            found => {
                return Err(Error::Unexpected {
                    offset: 0,
                    expected: "the tag of a GET, SET, ACTION or ACCESS request (C0, C1, C3, D9)",
                    found,
                });
            }
        };
        reader.finish()?;
        Ok(request)
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

fn get(reader: &mut Reader<'_>) -> Result<Request, Error> {
    let (kind, invoke) = head(reader)?;
    Ok(match kind {
        1 => Request::Get {
            invoke,
            attribute: read_attribute(reader)?,
            selection: read_selection(reader)?,
        },
        2 => Request::GetNext {
            invoke,
            block: reader.u32()?,
        },
        3 => Request::GetList {
            invoke,
            attributes: read_list(reader, read_selected)?,
        },
        found => return Err(unknown_type("a type of GET request (01..03)", found)),
    })
}

fn set(reader: &mut Reader<'_>) -> Result<Request, Error> {
    let (kind, invoke) = head(reader)?;
    Ok(match kind {
        1 => Request::Set {
            invoke,
            attribute: read_attribute(reader)?,
            selection: read_selection(reader)?,
            value: Data::read(reader)?,
        },
        2 => {
            let (attribute, selection) = read_selected(reader)?;
            let (last, block, octets) = read_block(reader)?;
            Request::SetFirstBlock {
                invoke,
                attribute,
                selection,
                last,
                block,
                octets,
            }
        }
        3 => {
            let (last, block, octets) = read_block(reader)?;
            Request::SetBlock {
                invoke,
                last,
                block,
                octets,
            }
        }
        4 => {
            let attributes = read_list(reader, read_selected)?;
            let expected = "as many values as attributes";
            let values = read_list_of(reader, attributes.len(), expected, Data::read)?;
            let pairs = attributes.into_iter().zip(values);
            Request::SetList {
                invoke,
                values: pairs.map(|((at, part), value)| (at, part, value)).collect(),
            }
        }
        5 => {
            let attributes = read_list(reader, read_selected)?;
            let (last, block, octets) = read_block(reader)?;
            Request::SetListFirstBlock {
                invoke,
                attributes,
                last,
                block,
                octets,
            }
        }
        found => return Err(unknown_type("a type of SET request (01..05)", found)),
    })
}

fn action(reader: &mut Reader<'_>) -> Result<Request, Error> {
    let (kind, invoke) = head(reader)?;
    Ok(match kind {
        1 => Request::Action {
            invoke,
            method: read_method(reader)?,
            parameter: if reader.present()? {
                Some(Data::read(reader)?)
            } else {
                None
            },
        },
        2 => Request::ActionNext {
            invoke,
            block: reader.u32()?,
        },
        3 => {
            let methods = read_list(reader, read_method)?;
            let expected = "as many parameters as methods";
            let parameters = read_list_of(reader, methods.len(), expected, read_parameter)?;
            Request::ActionList {
                invoke,
                methods: methods.into_iter().zip(parameters).collect(),
            }
        }
        4 => {
            let method = read_method(reader)?;
            let (last, block, octets) = read_block(reader)?;
            Request::ActionFirstBlock {
                invoke,
                method,
                last,
                block,
                octets,
            }
        }
        5 => {
            let methods = read_list(reader, read_method)?;
            let (last, block, octets) = read_block(reader)?;
            Request::ActionListFirstBlock {
                invoke,
                methods,
                last,
                block,
                octets,
            }
        }
        6 => {
            let (last, block, octets) = read_block(reader)?;
            Request::ActionBlock {
                invoke,
                last,
                block,
                octets,
            }
        }
        found => return Err(unknown_type("a type of ACTION request (01..06)", found)),
    })
}
