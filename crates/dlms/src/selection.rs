//! Selective access to a profile's buffer (IEC 62056-6-2, class 7): which entries and columns of it.

use alloc::vec::Vec;

use crate::axdr::{Reader, put_length};
use crate::cosem::Value as _;
use crate::cosem::profile::CaptureObject;
use crate::data::Data;
use crate::error::Error;

/// Tags of the parameters.
const ARRAY: u8 = 1;
const STRUCTURE: u8 = 2;

/// Which part of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Selection {
    /// Selector 1: the entries whose `column` lies between `from` and `to`.
    Range {
        /// The capture object that restricts: structure of class, name, attribute and data index.
        column: Data,
        /// Lowest value.
        from: Data,
        /// Highest value.
        to: Data,
        /// The capture objects to return; none means all.
        columns: Vec<Data>,
    },
    /// Selector 2: by position, counted from 1.
    Entry {
        /// First entry.
        from_entry: u32,
        /// Last entry; 0 means the highest there is.
        to_entry: u32,
        /// First column.
        from_column: u16,
        /// Last column; 0 means the highest there is.
        to_column: u16,
    },
    /// Any other selector, or one of the above with parameters of another shape (other classes use them otherwise).
    Other {
        /// The access selector.
        selector: u8,
        /// The access parameters.
        parameters: Data,
    },
}

impl Selection {
    /// The capture object of a profile's clock column: class 8, 0.0.1.0.0.255, attribute 2.
    #[must_use]
    pub fn clock_column() -> Data {
        CaptureObject::CLOCK.to_data()
    }

    /// Decodes a selector octet and its parameters that fill `octets` exactly.
    ///
    /// # Errors
    /// What is malformed, with its offset.
    pub fn decode(octets: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(octets);
        let selection = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(selection)
    }

    /// The selector octet and its parameters.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Range {
                column,
                from,
                to,
                columns,
            } => {
                out.extend_from_slice(&[1, STRUCTURE, 4]);
                column.encode_into(out);
                from.encode_into(out);
                to.encode_into(out);
                out.push(ARRAY);
                put_length(out, columns.len());
                for column in columns {
                    column.encode_into(out);
                }
            }
            Self::Entry {
                from_entry,
                to_entry,
                from_column,
                to_column,
            } => {
                out.extend_from_slice(&[2, STRUCTURE, 4]);
                Data::DoubleLongUnsigned(*from_entry).encode_into(out);
                Data::DoubleLongUnsigned(*to_entry).encode_into(out);
                Data::LongUnsigned(*from_column).encode_into(out);
                Data::LongUnsigned(*to_column).encode_into(out);
            }
            Self::Other {
                selector,
                parameters,
            } => {
                out.push(*selector);
                parameters.encode_into(out);
            }
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let selector = reader.u8()?;
        let parameters = Data::read(reader)?;
        Ok(match (selector, parameters) {
            (1, Data::Structure(elements)) => range(elements),
            (2, Data::Structure(elements)) => entry(elements),
            (selector, parameters) => Self::Other {
                selector,
                parameters,
            },
        })
    }
}

fn range(elements: Vec<Data>) -> Selection {
    match <[Data; 4]>::try_from(elements) {
        Ok([column, from, to, Data::Array(columns)]) => Selection::Range {
            column,
            from,
            to,
            columns,
        },
        Ok(other) => Selection::Other {
            selector: 1,
            parameters: Data::Structure(other.into()),
        },
        Err(other) => Selection::Other {
            selector: 1,
            parameters: Data::Structure(other),
        },
    }
}

fn entry(elements: Vec<Data>) -> Selection {
    match elements.as_slice() {
        [
            Data::DoubleLongUnsigned(from_entry),
            Data::DoubleLongUnsigned(to_entry),
            Data::LongUnsigned(from_column),
            Data::LongUnsigned(to_column),
        ] => Selection::Entry {
            from_entry: *from_entry,
            to_entry: *to_entry,
            from_column: *from_column,
            to_column: *to_column,
        },
        _ => Selection::Other {
            selector: 2,
            parameters: Data::Structure(elements),
        },
    }
}
