//! What several services are put together from: descriptors, selections, blocks, results, lists.

use alloc::vec::Vec;

use super::{Attribute, Method};
use crate::axdr::{Reader, put_length, put_prefixed};
use crate::data::Data;
use crate::error::Error;
use crate::obis::Obis;
use crate::selection::Selection;
use crate::status::{ActionResult, DataAccessResult};

/// Octets of a date-time.
const DATE_TIME: usize = 12;

fn read_descriptor(reader: &mut Reader<'_>) -> Result<(u16, Obis, i8), Error> {
    Ok((reader.u16()?, Obis::new(reader.array()?), reader.i8()?))
}

pub(super) fn read_attribute(reader: &mut Reader<'_>) -> Result<Attribute, Error> {
    let (class_id, name, index) = read_descriptor(reader)?;
    Ok(Attribute {
        class_id,
        name,
        index,
    })
}

pub(super) fn read_method(reader: &mut Reader<'_>) -> Result<Method, Error> {
    let (class_id, name, index) = read_descriptor(reader)?;
    Ok(Method {
        class_id,
        name,
        index,
    })
}

pub(super) fn read_selection(reader: &mut Reader<'_>) -> Result<Option<Selection>, Error> {
    if reader.present()? {
        Selection::read(reader).map(Some)
    } else {
        Ok(None)
    }
}

pub(super) fn read_selected(
    reader: &mut Reader<'_>,
) -> Result<(Attribute, Option<Selection>), Error> {
    Ok((read_attribute(reader)?, read_selection(reader)?))
}

/// SEQUENCE OF: nothing is reserved for a count that may be a lie, it ends where the octets end.
pub(super) fn read_list<T>(
    reader: &mut Reader<'_>,
    mut item: impl FnMut(&mut Reader<'_>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let count = reader.length()?;
    (0..count).map(|_| item(reader)).collect()
}

/// The second list of two that belong together: as many elements as the first.
pub(super) fn read_list_of<T>(
    reader: &mut Reader<'_>,
    count: usize,
    expected: &'static str,
    item: impl FnMut(&mut Reader<'_>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let offset = reader.offset();
    match reader.clone().length()? {
        found if found == count => read_list(reader, item),
        found => Err(Error::Bounds {
            offset,
            expected,
            found,
        }),
    }
}

/// A parameter in a list of Data, where null-data stands for none.
pub(super) fn read_parameter(reader: &mut Reader<'_>) -> Result<Option<Data>, Error> {
    Data::read(reader).map(|data| Some(data).filter(|data| !matches!(data, Data::Null)))
}

/// DataBlock-SA: last, number, octets.
pub(super) fn read_block(reader: &mut Reader<'_>) -> Result<(bool, u32, Vec<u8>), Error> {
    Ok((
        reader.present()?,
        reader.u32()?,
        reader.prefixed()?.to_vec(),
    ))
}

/// CHOICE of result: 0 data follows, 1 a Data-Access-Result follows.
pub(super) fn read_choice(reader: &mut Reader<'_>) -> Result<Result<(), DataAccessResult>, Error> {
    let offset = reader.offset();
    match reader.u8()? {
        0 => Ok(Ok(())),
        1 => Ok(Err(read_access_result(reader)?)),
        found => Err(Error::Unexpected {
            offset,
            expected: "00 (data) or 01 (data-access-result)",
            found,
        }),
    }
}

/// Get-Data-Result.
pub(super) fn read_result(
    reader: &mut Reader<'_>,
) -> Result<Result<Data, DataAccessResult>, Error> {
    Ok(match read_choice(reader)? {
        Ok(()) => Ok(Data::read(reader)?),
        Err(result) => Err(result),
    })
}

pub(super) fn read_access_result(reader: &mut Reader<'_>) -> Result<DataAccessResult, Error> {
    reader.u8().map(DataAccessResult::new)
}

pub(super) fn read_action_result(reader: &mut Reader<'_>) -> Result<ActionResult, Error> {
    reader.u8().map(ActionResult::new)
}

/// An octet-string that is empty or a date-time.
pub(super) fn read_time(reader: &mut Reader<'_>) -> Result<Option<[u8; DATE_TIME]>, Error> {
    let offset = reader.offset();
    match reader.length()? {
        0 => Ok(None),
        DATE_TIME => reader.array().map(Some),
        found => Err(Error::Bounds {
            offset,
            expected: "a date-time of 12 octets, or none",
            found,
        }),
    }
}

fn put_descriptor(out: &mut Vec<u8>, class_id: u16, name: Obis, index: i8) {
    out.extend_from_slice(&class_id.to_be_bytes());
    out.extend_from_slice(&name.bytes());
    out.extend_from_slice(&index.to_be_bytes());
}

pub(super) fn put_attribute(out: &mut Vec<u8>, attribute: Attribute) {
    put_descriptor(out, attribute.class_id, attribute.name, attribute.index);
}

pub(super) fn put_method(out: &mut Vec<u8>, method: Method) {
    put_descriptor(out, method.class_id, method.name, method.index);
}

pub(super) fn put_selection(out: &mut Vec<u8>, selection: Option<&Selection>) {
    out.push(u8::from(selection.is_some()));
    if let Some(selection) = selection {
        selection.encode_into(out);
    }
}

pub(super) fn put_selected(out: &mut Vec<u8>, attribute: Attribute, selection: Option<&Selection>) {
    put_attribute(out, attribute);
    put_selection(out, selection);
}

pub(super) fn put_list<T>(out: &mut Vec<u8>, items: &[T], mut put: impl FnMut(&mut Vec<u8>, &T)) {
    put_length(out, items.len());
    for item in items {
        put(out, item);
    }
}

pub(super) fn put_parameter(out: &mut Vec<u8>, parameter: Option<&Data>) {
    parameter.unwrap_or(&Data::Null).encode_into(out);
}

pub(super) fn put_block(out: &mut Vec<u8>, last: bool, number: u32, octets: &[u8]) {
    out.push(u8::from(last));
    out.extend_from_slice(&number.to_be_bytes());
    put_prefixed(out, octets);
}

pub(super) fn put_result(out: &mut Vec<u8>, result: &Result<Data, DataAccessResult>) {
    match result {
        Ok(data) => {
            out.push(0);
            data.encode_into(out);
        }
        Err(result) => out.extend_from_slice(&[1, result.code()]),
    }
}

pub(super) fn put_time(out: &mut Vec<u8>, time: Option<&[u8; DATE_TIME]>) {
    put_prefixed(out, time.map_or(&[][..], |time| &time[..]));
}
