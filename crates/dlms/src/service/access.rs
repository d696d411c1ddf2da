//! ACCESS: reads, writes and methods of several objects in one exchange.

use alloc::vec::Vec;

use super::part::{
    put_attribute, put_list, put_method, put_parameter, read_access_result, read_action_result,
    read_attribute, read_list, read_list_of, read_method, read_parameter,
};
use super::{Attribute, Method};
use crate::axdr::Reader;
use crate::data::Data;
use crate::error::Error;
use crate::selection::Selection;
use crate::status::{ActionResult, DataAccessResult};

/// One access of an ACCESS request.
#[derive(Debug, Clone, PartialEq)]
pub enum Access {
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
        /// Its parameter; null-data and none are one on the wire.
        parameter: Option<Data>,
    },
}

/// What an access is of, without its data: what a self-descriptive response repeats.
#[derive(Debug, Clone, PartialEq)]
pub enum AccessSpecification {
    /// A read: 01, or 04 with a selection.
    Get {
        /// Of this attribute.
        attribute: Attribute,
        /// Of this part of it.
        selection: Option<Selection>,
    },
    /// A write: 02, or 05 with a selection.
    Set {
        /// Of this attribute.
        attribute: Attribute,
        /// Of this part of it.
        selection: Option<Selection>,
    },
    /// 03: an execution of this method.
    Action(Method),
}

/// What became of one access.
#[derive(Debug, Clone, PartialEq)]
pub struct Accessed {
    /// Of which kind it was, and the result.
    pub outcome: AccessOutcome,
    /// What was read or returned; null-data if nothing was.
    pub data: Data,
}

/// The result of one access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccessOutcome {
    /// 01: of a read.
    Get(DataAccessResult),
    /// 02: of a write.
    Set(DataAccessResult),
    /// 03: of a method.
    Action(ActionResult),
}

impl AccessOutcome {
    /// Whether it worked.
    #[must_use]
    pub const fn is_success(self) -> bool {
        match self {
            Self::Get(result) | Self::Set(result) => result.is_success(),
            Self::Action(result) => result.is_success(),
        }
    }
}

impl Access {
    /// What it is of, without its data.
    #[must_use]
    pub fn specification(&self) -> AccessSpecification {
        match self {
            Self::Get {
                attribute,
                selection,
            } => AccessSpecification::Get {
                attribute: *attribute,
                selection: selection.clone(),
            },
            Self::Set {
                attribute,
                selection,
                ..
            } => AccessSpecification::Set {
                attribute: *attribute,
                selection: selection.clone(),
            },
            Self::Action { method, .. } => AccessSpecification::Action(*method),
        }
    }

    fn put_specification(&self, out: &mut Vec<u8>) {
        match self {
            Self::Get {
                attribute,
                selection,
            } => put_attribute_access(out, [1, 4], *attribute, selection.as_ref()),
            Self::Set {
                attribute,
                selection,
                ..
            } => put_attribute_access(out, [2, 5], *attribute, selection.as_ref()),
            Self::Action { method, .. } => put_method_access(out, *method),
        }
    }

    fn put_data(&self, out: &mut Vec<u8>) {
        put_parameter(
            out,
            match self {
                Self::Get { .. } => None,
                Self::Set { value, .. } => Some(value),
                Self::Action { parameter, .. } => parameter.as_ref(),
            },
        );
    }
}

impl AccessSpecification {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Get {
                attribute,
                selection,
            } => put_attribute_access(out, [1, 4], *attribute, selection.as_ref()),
            Self::Set {
                attribute,
                selection,
            } => put_attribute_access(out, [2, 5], *attribute, selection.as_ref()),
            Self::Action(method) => put_method_access(out, *method),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let offset = reader.offset();
        let kind = reader.u8()?;
        Ok(match kind {
            1 | 4 => Self::Get {
                attribute: read_attribute(reader)?,
                selection: selected(reader, kind == 4)?,
            },
            2 | 5 => Self::Set {
                attribute: read_attribute(reader)?,
                selection: selected(reader, kind == 5)?,
            },
            3 => Self::Action(read_method(reader)?),
            found => {
                return Err(Error::Unexpected {
                    offset,
                    expected: "an access-request-specification (01..05)",
                    found,
                });
            }
        })
    }
}

fn selected(reader: &mut Reader<'_>, present: bool) -> Result<Option<Selection>, Error> {
    present.then(|| Selection::read(reader)).transpose()
}

fn put_attribute_access(
    out: &mut Vec<u8>,
    [plain, selective]: [u8; 2],
    attribute: Attribute,
    selection: Option<&Selection>,
) {
    out.push(if selection.is_some() {
        selective
    } else {
        plain
    });
    put_attribute(out, attribute);
    if let Some(selection) = selection {
        selection.encode_into(out);
    }
}

fn put_method_access(out: &mut Vec<u8>, method: Method) {
    out.push(3);
    put_method(out, method);
}

/// access-request-body: the specifications, then the data of all of them.
pub(super) fn read_accesses(reader: &mut Reader<'_>) -> Result<Vec<Access>, Error> {
    let specifications = read_list(reader, AccessSpecification::read)?;
    let mut of = specifications.into_iter();
    let expected = "as many data as specifications";
    read_list_of(reader, of.len(), expected, |reader| {
        let (offset, tag) = (reader.offset(), reader.peek().unwrap_or_default());
        let parameter = read_parameter(reader)?;
        match of.next() {
            Some(AccessSpecification::Get {
                attribute,
                selection,
            }) if parameter.is_none() => Ok(Access::Get {
                attribute,
                selection,
            }),
            Some(AccessSpecification::Set {
                attribute,
                selection,
            }) => Ok(Access::Set {
                attribute,
                selection,
                value: parameter.unwrap_or(Data::Null),
            }),
            Some(AccessSpecification::Action(method)) => Ok(Access::Action { method, parameter }),
            Some(AccessSpecification::Get { .. }) | None => Err(Error::Unexpected {
                offset,
                expected: "null-data (00), the data of a read",
                found: tag,
            }),
        }
    })
}

pub(super) fn put_accesses(out: &mut Vec<u8>, accesses: &[Access]) {
    put_list(out, accesses, |out, access| access.put_specification(out));
    put_list(out, accesses, |out, access| access.put_data(out));
}

/// access-response-body: the specifications if they are repeated, the data, the results.
pub(super) fn read_accessed(
    reader: &mut Reader<'_>,
) -> Result<(Option<Vec<AccessSpecification>>, Vec<Accessed>), Error> {
    let specifications = if reader.present()? {
        Some(read_list(reader, AccessSpecification::read)?)
    } else {
        None
    };
    let mut data = read_list(reader, Data::read)?.into_iter();
    let expected = "as many results as data";
    let accessed = read_list_of(reader, data.len(), expected, |reader| {
        Ok(Accessed {
            outcome: read_outcome(reader)?,
            data: data.next().unwrap_or(Data::Null),
        })
    })?;
    Ok((specifications, accessed))
}

fn read_outcome(reader: &mut Reader<'_>) -> Result<AccessOutcome, Error> {
    let offset = reader.offset();
    match reader.u8()? {
        1 => read_access_result(reader).map(AccessOutcome::Get),
        2 => read_access_result(reader).map(AccessOutcome::Set),
        3 => read_action_result(reader).map(AccessOutcome::Action),
        found => Err(Error::Unexpected {
            offset,
            expected: "an access-response-specification (01..03)",
            found,
        }),
    }
}

pub(super) fn put_accessed(
    out: &mut Vec<u8>,
    specifications: Option<&[AccessSpecification]>,
    accessed: &[Accessed],
) {
    out.push(u8::from(specifications.is_some()));
    if let Some(specifications) = specifications {
        put_list(out, specifications, |out, one| one.put(out));
    }
    put_list(out, accessed, |out, one| one.data.encode_into(out));
    put_list(out, accessed, |out, one| {
        out.extend_from_slice(&match one.outcome {
            AccessOutcome::Get(result) => [1, result.code()],
            AccessOutcome::Set(result) => [2, result.code()],
            AccessOutcome::Action(result) => [3, result.code()],
        });
    });
}
