//! The buffers of class 7, and selective access to them by range and by entry.

use std::collections::VecDeque;

use dlms::{Data, Selection};

use crate::{
    logs::{Capture, LogEntry},
    objects::{result, table},
    rtc,
};

/// What the load profile captures: clock, status, imported energy.
pub(super) const LOAD_COLUMNS: &[Column] = &[
    (8, table::CLOCK),
    (1, table::PROFILE_STATUS),
    (3, table::IMPORT),
];
/// What the event log captures: clock, code.
pub(super) const EVENT_COLUMNS: &[Column] = &[(8, table::CLOCK), (1, table::EVENT_CODE)];

/// Class and name of a capture object; its attribute is always 2.
pub(super) type Column = (u16, [u8; 6]);

/// A capture object as class 7 describes it.
pub(super) fn descriptor((class_id, name): &Column) -> Data {
    Data::Structure(vec![
        Data::LongUnsigned(*class_id),
        Data::OctetString(name.to_vec()),
        Data::Integer(2),
        Data::LongUnsigned(0),
    ])
}

/// Attribute 2 of the load profile.
pub(super) fn load_profile(
    entries: &VecDeque<Capture>,
    selection: Option<&Selection>,
) -> Result<Data, u8> {
    select(
        entries,
        selection,
        LOAD_COLUMNS,
        |Capture(time_s, status, import)| {
            let moment = time_s.saturating_mul(1000);
            Row {
                moment,
                cells: vec![
                    clock(moment),
                    Data::Unsigned(*status),
                    Data::DoubleLongUnsigned(*import),
                ],
            }
        },
    )
}

/// Attribute 2 of the event log.
pub(super) fn event_log(
    entries: &VecDeque<LogEntry>,
    selection: Option<&Selection>,
) -> Result<Data, u8> {
    select(
        entries,
        selection,
        EVENT_COLUMNS,
        |LogEntry(moment, code)| Row {
            moment: *moment,
            cells: vec![clock(*moment), Data::LongUnsigned(*code)],
        },
    )
}

struct Row {
    moment: i64,
    cells: Vec<Data>,
}

fn clock(moment: i64) -> Data {
    Data::OctetString(rtc::date_time(moment).to_vec())
}

fn select<T>(
    entries: &VecDeque<T>,
    selection: Option<&Selection>,
    captured: &[Column],
    row: impl Fn(&T) -> Row,
) -> Result<Data, u8> {
    let rows = entries.iter().map(row);
    let rows: Vec<Data> = match selection {
        None => rows.map(|row| Data::Structure(row.cells)).collect(),
        Some(Selection::Entry {
            from_entry,
            to_entry,
            from_column,
            to_column,
        }) => {
            let (skip, take) = span(*from_entry, *to_entry)?;
            let (first, width) = span(u32::from(*from_column), u32::from(*to_column))?;
            rows.skip(skip)
                .take(take)
                .map(|row| row.cells.into_iter().skip(first).take(width).collect())
                .map(Data::Structure)
                .collect()
        }
        Some(Selection::Range {
            column,
            from,
            to,
            columns,
        }) => {
            if *column != Selection::clock_column() {
                return Err(result::TYPE_UNMATCHED); // the clock is the only sorted column
            }
            let from = from
                .as_bytes()
                .and_then(rtc::moment)
                .ok_or(result::TYPE_UNMATCHED)?;
            let to = to
                .as_bytes()
                .and_then(rtc::moment)
                .ok_or(result::TYPE_UNMATCHED)?;
            let wanted = wanted(columns, captured)?;
            rows.filter(|row| (from..=to).contains(&row.moment))
                .map(|row| {
                    wanted
                        .iter()
                        .filter_map(|at| row.cells.get(*at).cloned())
                        .collect()
                })
                .map(Data::Structure)
                .collect()
        }
        Some(Selection::Other { .. }) => return Err(result::TYPE_UNMATCHED),
    };
    Ok(Data::Array(rows))
}

/// How many to skip and to take for `from..=to`, counted from 1; `to` 0 is the last one.
fn span(from: u32, to: u32) -> Result<(usize, usize), u8> {
    let skip = from.checked_sub(1).ok_or(result::TYPE_UNMATCHED)?;
    let take = match to {
        0 => u32::MAX,
        to => to
            .checked_sub(skip)
            .filter(|take| *take > 0)
            .ok_or(result::TYPE_UNMATCHED)?,
    };
    let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    Ok((size(skip), size(take)))
}

/// The positions of the selected columns; none selected means all.
fn wanted(columns: &[Data], captured: &[Column]) -> Result<Vec<usize>, u8> {
    if columns.is_empty() {
        return Ok((0..captured.len()).collect());
    }
    let position = |column: &Data| {
        captured
            .iter()
            .position(|known| descriptor(known) == *column)
    };
    columns
        .iter()
        .map(|column| position(column).ok_or(result::TYPE_UNMATCHED))
        .collect()
}
