//! Requests.

use alloc::vec::Vec;

use super::{Attribute, InvokeId, Method};
use crate::axdr::Reader;
use crate::data::Data;
use crate::error::Error;
use crate::obis::Obis;
use crate::selection::Selection;

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
        let invoke = InvokeId::from_octet(reader.u8()?);
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
