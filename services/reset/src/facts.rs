//! From COSEM data to typed facts. What does not have the expected shape is unread, never guessed.

use dlms::Data;
use machine::{Clock, EventLog, LoadProfile, LoggedEvent, Relay, Snapshot};

use crate::plan::Fact;

/// A reading that grows fact by fact.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    snapshot: Snapshot,
    clock_time: Option<Option<u64>>,
    clock_status: Option<u8>,
    output: Option<bool>,
    state: Option<u8>,
    mode: Option<u8>,
    event_entries: Option<u32>,
    event_capacity: Option<u32>,
    entries: Option<u32>,
    newest: Option<Option<u64>>,
}

impl Reading {
    /// Takes one fact, and the invocation counter its request spent.
    pub(crate) fn take(&mut self, fact: Fact, data: Option<&Data>, counter: u32) {
        let s = &mut self.snapshot;
        s.counter = s.counter.max(counter);
        let Some(data) = data else { return };
        match fact {
            Fact::Identity => s.identity = text(data),
            Fact::ImageTransfer => s.image_transfer = small(data),
            Fact::ClockTime => self.clock_time = data.as_bytes().map(seconds),
            Fact::ClockStatus => self.clock_status = small(data),
            Fact::FirmwareMetrology => s.firmware.metrology = text(data),
            Fact::FirmwareModule => s.firmware.module = text(data),
            Fact::PowerFailures => s.power_failures = data.as_u64(),
            Fact::Uptime => s.uptime = data.as_u64(),
            Fact::EventEntries => self.event_entries = entries_in_use(data),
            Fact::EventCapacity => self.event_capacity = entries_in_use(data),
            Fact::Events => s.events = events(data),
            Fact::LoadProfileEntries => self.entries = entries_in_use(data),
            Fact::LoadProfileNewest => self.newest = data.as_elements().map(newest),
            Fact::RelayOutput => self.output = data.as_bool(),
            Fact::RelayState => self.state = small(data),
            Fact::RelayMode => self.mode = small(data),
        }
    }

    /// What is known now.
    pub(crate) fn finish(self, now: machine::Millis) -> Snapshot {
        let relay = self.output.zip(self.state).zip(self.mode);
        let clock = self.clock_time.zip(self.clock_status);
        let profile = self.entries.zip(self.newest);
        Snapshot {
            taken_at: now,
            relay: relay.map(|((output, state), mode)| Relay {
                output,
                state,
                mode,
            }),
            // Clock status bit 0: the time is invalid (IEC 62056-6-2, class 8).
            clock: clock.map(|(seconds, status)| Clock {
                seconds,
                invalid: status & 1 != 0,
            }),
            event_log: self.event_entries.map(|entries| EventLog {
                entries,
                capacity: self.event_capacity,
            }),
            load_profile: profile.map(|(entries, newest)| LoadProfile { entries, newest }),
            ..self.snapshot
        }
    }
}

/// Attribute 7 of a profile generic, or 8: how many entries there are, or can be.
pub(crate) fn entries_in_use(data: &Data) -> Option<u32> {
    data.as_u64().and_then(|count| u32::try_from(count).ok())
}

fn small(data: &Data) -> Option<u8> {
    data.as_u64().and_then(|value| u8::try_from(value).ok())
}

/// Names and versions are octet-strings; most hold ASCII.
fn text(data: &Data) -> Option<String> {
    let octets = data.as_bytes()?;
    let printable = !octets.is_empty() && octets.iter().all(|octet| (0x20..0x7f).contains(octet));
    let text = if printable {
        String::from_utf8_lossy(octets).into_owned()
    } else {
        hex::encode(octets)
    };
    Some(text.chars().take(64).collect())
}

fn events(data: &Data) -> Option<Vec<LoggedEvent>> {
    let rows = data.as_elements()?;
    rows.iter()
        .map(|row| {
            let [time, code, ..] = row.as_elements()? else {
                return None;
            };
            Some(LoggedEvent {
                seconds: time.as_bytes().and_then(seconds).unwrap_or(0),
                code: code.as_u64().and_then(|code| u16::try_from(code).ok())?,
            })
        })
        .collect()
}

/// The highest time in the first column.
fn newest(rows: &[Data]) -> Option<u64> {
    let time = |row: &Data| row.as_elements()?.first()?.as_bytes().and_then(seconds);
    rows.iter().filter_map(time).max()
}

/// Seconds since the Unix epoch of a COSEM date-time of 12 octets; `None` if it leaves anything open.
fn seconds(octets: &[u8]) -> Option<u64> {
    let [
        y1,
        y2,
        month,
        day,
        _weekday,
        hour,
        minute,
        second,
        _hundredths,
        d1,
        d2,
        _status,
    ] = octets
    else {
        return None;
    };
    let year = i64::from(u16::from_be_bytes([*y1, *y2]));
    let good = (1970..=9999).contains(&year)
        && (1..=12).contains(month)
        && (1..=31).contains(day)
        && *hour < 24
        && *minute < 60
        && *second < 60;
    if !good {
        return None;
    }
    // Days from the civil calendar, with March as the first month so that the leap day is the last.
    let (year, month) = if *month > 2 {
        (year, i64::from(*month) - 3)
    } else {
        (year - 1, i64::from(*month) + 9)
    };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + i64::from(*day)
            - 1
            - 719_468;
    let local =
        days * 86_400 + i64::from(*hour) * 3_600 + i64::from(*minute) * 60 + i64::from(*second);
    // Deviation: minutes from local time to UTC; 0x8000 is "not specified", taken as none.
    let deviation = match i16::from_be_bytes([*d1, *d2]) {
        i16::MIN => 0,
        minutes => i64::from(minutes),
    };
    u64::try_from(local + deviation * 60).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::Millis;

    fn date_time(deviation: i16) -> Vec<u8> {
        let [d1, d2] = deviation.to_be_bytes();
        vec![0x07, 0xEA, 11, 22, 7, 20, 44, 5, 0, d1, d2, 0]
    }

    #[test]
    fn times_become_seconds() {
        assert_eq!(
            seconds(&[0x07, 0xB2, 1, 1, 4, 0, 0, 0, 0, 0, 0, 0]),
            Some(0)
        );
        assert_eq!(
            seconds(&[0x07, 0xD0, 2, 29, 2, 23, 59, 59, 0, 0, 0, 0]),
            Some(951_868_799)
        );
        assert_eq!(seconds(&date_time(0)), Some(1_795_380_245));
        assert_eq!(seconds(&date_time(-60)), Some(1_795_380_245 - 3_600));
        assert_eq!(seconds(&date_time(i16::MIN)), seconds(&date_time(0)));
        assert_eq!(seconds(&[0xFF; 12]), None);
        assert_eq!(seconds(&[0; 11]), None);
        assert_eq!(seconds(&[0; 12]), None);
    }

    #[test]
    fn a_reading_is_complete_or_silent() {
        let mut reading = Reading::default();
        reading.take(Fact::RelayOutput, Some(&Data::Boolean(true)), 7);
        reading.take(Fact::RelayState, Some(&Data::Enum(1)), 8);
        reading.take(
            Fact::Identity,
            Some(&Data::OctetString(b"LKM1".to_vec())),
            6,
        );
        reading.take(Fact::ClockTime, Some(&Data::OctetString(date_time(0))), 9);
        reading.take(Fact::ClockStatus, Some(&Data::Unsigned(1)), 10);
        reading.take(Fact::PowerFailures, None, 11);
        let row = |code| {
            Data::Structure(vec![
                Data::OctetString(date_time(0)),
                Data::LongUnsigned(code),
            ])
        };
        reading.take(Fact::Events, Some(&Data::Array(vec![row(1), row(2)])), 12);
        let snapshot = reading.finish(Millis(5));
        assert_eq!(snapshot.counter, 12);
        assert_eq!(snapshot.identity.as_deref(), Some("LKM1"));
        assert_eq!(snapshot.relay, None, "its mode was not read");
        assert_eq!(
            snapshot.clock,
            Some(Clock {
                seconds: Some(1_795_380_245),
                invalid: true
            })
        );
        assert_eq!(snapshot.power_failures, None);
        assert_eq!(
            snapshot
                .events
                .map(|e| e.iter().map(|e| e.code).collect::<Vec<_>>()),
            Some(vec![1, 2])
        );
    }

    #[test]
    fn a_profile_is_read_by_its_times() {
        let mut reading = Reading::default();
        reading.take(
            Fact::LoadProfileEntries,
            Some(&Data::DoubleLongUnsigned(2)),
            0,
        );
        let row = || Data::Structure(vec![Data::OctetString(date_time(0))]);
        reading.take(Fact::LoadProfileNewest, Some(&Data::Array(vec![row()])), 0);
        let profile = reading.finish(Millis(0)).load_profile;
        assert_eq!(
            profile,
            Some(LoadProfile {
                entries: 2,
                newest: Some(1_795_380_245)
            })
        );
    }

    #[test]
    fn odd_data_is_unread() {
        let mut reading = Reading::default();
        reading.take(Fact::Events, Some(&Data::Array(vec![Data::Null])), 0);
        reading.take(Fact::RelayOutput, Some(&Data::Unsigned(1)), 0);
        reading.take(Fact::ImageTransfer, Some(&Data::LongUnsigned(999)), 0);
        let snapshot = reading.finish(Millis(0));
        assert_eq!((snapshot.events, snapshot.image_transfer), (None, None));
    }
}
