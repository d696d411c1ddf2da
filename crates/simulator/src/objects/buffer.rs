//! The buffers of class 7: what they capture, and their rows.

use std::collections::VecDeque;

use dlms::{
    Data,
    cosem::{Value as _, name, profile::CaptureObject, profile::Row},
};

use crate::{
    logs::{Capture, LogEntry},
    rtc,
};

/// What the load profile captures: clock, status, imported energy.
pub(super) const LOAD_COLUMNS: &[CaptureObject] = &[
    CaptureObject::CLOCK,
    CaptureObject::whole(1, name::PROFILE_STATUS, 2),
    CaptureObject::whole(3, name::IMPORT, 2),
];
/// What the event log captures: clock, code.
pub(super) const EVENT_COLUMNS: &[CaptureObject] = &[
    CaptureObject::CLOCK,
    CaptureObject::whole(1, name::EVENT_CODE, 2),
];

/// The rows of the load profile.
pub(super) fn load_rows(entries: &VecDeque<Capture>) -> impl Iterator<Item = Row> {
    entries.iter().map(|Capture(time_s, status, import)| {
        Row(vec![
            rtc::date_time(time_s.saturating_mul(1000)).to_data(),
            Data::Unsigned(*status),
            Data::DoubleLongUnsigned(*import),
        ])
    })
}

/// The rows of the event log.
pub(super) fn event_rows(entries: &VecDeque<LogEntry>) -> impl Iterator<Item = Row> {
    entries.iter().map(|LogEntry(moment, code)| {
        Row(vec![
            rtc::date_time(*moment).to_data(),
            Data::LongUnsigned(*code),
        ])
    })
}
