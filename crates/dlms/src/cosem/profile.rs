//! Class 7, Profile generic: rows of captured values, and selective access to them by range and by entry.

use alloc::vec::Vec;

use super::date_time::DateTime;
use super::value::{Mismatch, Value, Zero};
use super::{Member, Wrong};
use crate::data::Data;
use crate::obis::Obis;
use crate::selection::Selection;

class! {
    7, "Profile generic";
    attributes {
        /// The rows.
        2 BUFFER "buffer": Vec<Row>;
        /// What a row holds.
        3 CAPTURE_OBJECTS "capture_objects": Vec<CaptureObject>;
        /// Seconds from one row to the next; 0 if something else decides.
        4 CAPTURE_PERIOD "capture_period": u32;
        /// The order of the rows.
        5 SORT_METHOD "sort_method": SortMethod;
        /// The column that decides the order.
        6 SORT_OBJECT "sort_object": CaptureObject;
        /// How many rows there are.
        7 ENTRIES_IN_USE "entries_in_use": u32;
        /// How many rows there can be.
        8 PROFILE_ENTRIES "profile_entries": u32;
    }
    methods {
        /// Empties the buffer. Never to be invoked on what is billed.
        1 RESET "reset": Zero;
        /// Captures a row.
        2 CAPTURE "capture": Zero;
    }
}

structure! {
    /// What a column holds: an attribute, or one element of it.
    pub struct CaptureObject as "structure of class_id, logical_name, attribute_index and data_index" {
        /// Its class.
        class_id: u16,
        /// Its object.
        name: Obis,
        /// Its index.
        attribute: i8,
        /// The element of a structure or array, from 1; 0 is the whole attribute.
        data_index: u16,
    }
}

impl CaptureObject {
    /// The column of the clock's time.
    pub const CLOCK: Self = Self::whole(8, super::name::CLOCK, 2);

    /// A column of a whole attribute.
    #[must_use]
    pub const fn whole(class_id: u16, name: Obis, attribute: i8) -> Self {
        Self {
            class_id,
            name,
            attribute,
            data_index: 0,
        }
    }
}

codes! {
    /// The order of rows.
    pub enum SortMethod as "enum 1..6", lenient {
        /// The oldest first.
        Fifo = 1, "fifo";
        /// The newest first.
        Lifo = 2, "lifo";
        /// The largest first.
        Largest = 3, "largest";
        /// The smallest first.
        Smallest = 4, "smallest";
        /// The nearest to zero first.
        NearestToZero = 5, "nearest to zero";
        /// The farthest from zero first.
        FarthestFromZero = 6, "farthest from zero";
    }
}

/// One row: a value a column.
#[derive(Debug, Clone, PartialEq)]
pub struct Row(pub Vec<Data>);

impl Row {
    /// The time in a column, if there is one.
    #[must_use]
    pub fn time(&self, column: usize) -> Option<DateTime> {
        DateTime::from_data(self.0.get(column)?).ok()
    }

    /// The whole number in a column, if there is one.
    #[must_use]
    pub fn number(&self, column: usize) -> Option<i64> {
        self.0.get(column)?.as_i64()
    }
}

impl Value for Row {
    const EXPECTED: &'static str = "structure";

    fn to_data(&self) -> Data {
        Data::Structure(self.0.clone())
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        if let Data::Structure(cells) = data {
            return Ok(Self(cells.clone()));
        }
        Err(Mismatch::new(Self::EXPECTED, data))
    }
}

/// Where a column is in a row.
#[must_use]
pub fn column(columns: &[CaptureObject], object: &CaptureObject) -> Option<usize> {
    columns.iter().position(|known| known == object)
}

/// Fills what a meter left out: null-data stands for the value of the row before, in the column of the clock for its
/// time plus the capture period. What cannot be worked out stays null-data.
pub fn fill(rows: &mut [Row], columns: &[CaptureObject], capture_period_s: u32) {
    let clock = column(columns, &CaptureObject::CLOCK);
    let mut last: Vec<Data> = Vec::new();
    for row in rows {
        for (position, (cell, before)) in row.0.iter_mut().zip(&last).enumerate() {
            if *cell != Data::Null {
                continue;
            }
            if Some(position) == clock {
                let later = DateTime::from_data(before)
                    .ok()
                    .and_then(|time| time.later(capture_period_s));
                *cell = later.map_or(Data::Null, |time| time.to_data());
            } else {
                *cell = before.clone();
            }
        }
        last.clone_from(&row.0);
    }
}

impl Selection {
    /// The rows whose time is from one moment to another, both included; no columns are all columns.
    #[must_use]
    pub fn between(from: DateTime, to: DateTime, columns: &[CaptureObject]) -> Self {
        Self::Range {
            column: CaptureObject::CLOCK.to_data(),
            from: from.to_data(),
            to: to.to_data(),
            columns: columns.iter().map(CaptureObject::to_data).collect(),
        }
    }

    /// Rows by number from 1; `to` 0 is the last one. All columns.
    #[must_use]
    pub const fn entries(from: u32, to: u32) -> Self {
        Self::Entry {
            from_entry: from,
            to_entry: to,
            from_column: 1,
            to_column: 0,
        }
    }
}

/// What a server answers to a GET of a buffer: the rows and columns that a selection asks for; none asks for all.
///
/// A range restricts any column; times compare as moments, anything else as whole numbers. A row whose value compares
/// with neither bound is not in it.
///
/// # Errors
/// A column that is not there, a number that is out of order, bounds that compare with nothing, or another selector.
pub fn select(
    columns: &[CaptureObject],
    rows: impl Iterator<Item = Row>,
    selection: Option<&Selection>,
) -> Result<Vec<Row>, Wrong> {
    let selected = match selection {
        None => return Ok(rows.collect()),
        Some(Selection::Entry {
            from_entry,
            to_entry,
            from_column,
            to_column,
        }) => by_entry(
            rows,
            [*from_entry, *to_entry],
            [u32::from(*from_column), u32::from(*to_column)],
        ),
        Some(Selection::Range {
            column,
            from,
            to,
            columns: wanted,
        }) => by_range(columns, rows, column, [from, to], wanted),
        Some(Selection::Other { parameters, .. }) => {
            Err(Mismatch::new("a range or an entry descriptor", parameters))
        }
    };
    selected.map_err(|mismatch| Wrong {
        class_id: CLASS.class_id,
        member: Member::Attribute(BUFFER.index),
        name: "buffer, selective access",
        mismatch,
    })
}

fn by_entry(
    rows: impl Iterator<Item = Row>,
    entries: [u32; 2],
    columns: [u32; 2],
) -> Result<Vec<Row>, Mismatch> {
    let (skip, take) = span(entries)?;
    let (first, width) = span(columns)?;
    Ok(rows
        .skip(skip)
        .take(take)
        .map(|row| Row(row.0.into_iter().skip(first).take(width).collect()))
        .collect())
}

/// How many to skip and to take for `from..=to`, counted from 1; `to` 0 is the last one.
fn span([from, to]: [u32; 2]) -> Result<(usize, usize), Mismatch> {
    const EXPECTED: &str = "numbers from 1, the second not below the first";
    let wrong = || Mismatch::new(EXPECTED, &Data::DoubleLongUnsigned(to));
    let skip = from.checked_sub(1).ok_or_else(wrong)?;
    let take = match to {
        0 => u32::MAX,
        to => to
            .checked_sub(skip)
            .filter(|take| *take > 0)
            .ok_or_else(wrong)?,
    };
    let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    Ok((size(skip), size(take)))
}

fn by_range(
    columns: &[CaptureObject],
    rows: impl Iterator<Item = Row>,
    restricting: &Data,
    [from, to]: [&Data; 2],
    wanted: &[Data],
) -> Result<Vec<Row>, Mismatch> {
    let position = |object: &Data| {
        let object = CaptureObject::from_data(object)?;
        column(columns, &object)
            .ok_or_else(|| Mismatch::new("a captured object", &object.to_data()))
    };
    let restricting = position(restricting)?;
    let wrong = |data| Mismatch::new("two moments or two whole numbers", data);
    let (low, high) = match (key(from), key(to)) {
        (Some(low), Some(high)) if low.is_like(high) => (low, high),
        (None, _) => return Err(wrong(from)),
        _ => return Err(wrong(to)),
    };
    let wanted = match wanted {
        [] => None,
        some => Some(some.iter().map(position).collect::<Result<Vec<_>, _>>()?),
    };
    let inside = |row: &Row| {
        let value = row.0.get(restricting).and_then(key);
        value.is_some_and(|value| value.is_like(low) && (low..=high).contains(&value))
    };
    let cut = |row: Row| match &wanted {
        None => row,
        Some(wanted) => Row(wanted
            .iter()
            .filter_map(|at| row.0.get(*at).cloned())
            .collect()),
    };
    Ok(rows.filter(inside).map(cut).collect())
}

/// What values of a column are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Moment(i64),
    Number(i64),
}

impl Key {
    const fn is_like(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Moment(_), Self::Moment(_)) | (Self::Number(_), Self::Number(_))
        )
    }
}

fn key(data: &Data) -> Option<Key> {
    match DateTime::from_data(data) {
        Ok(time) => time.unix_ms().map(Key::Moment),
        Err(_) => data.as_i64().map(Key::Number),
    }
}
