//! From COSEM data to typed facts. What does not have the expected shape is unread, never guessed.

use dlms::{
    Data,
    cosem::{
        DateTime, clock,
        disconnect_control::{CONTROL_MODE, CONTROL_STATE, OUTPUT_STATE},
        image_transfer::IMAGE_TRANSFER_STATUS,
        profile::{self, Row},
    },
};
use machine::{Clock, EventLog, LoadProfile, LoggedEvent, Relay, Snapshot};

use crate::plan::Fact;

/// A reading that grows fact by fact.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    snapshot: Snapshot,
    clock_time: Option<Option<u64>>,
    clock_status: Option<clock::ClockStatus>,
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
            Fact::ImageTransfer => {
                s.image_transfer = IMAGE_TRANSFER_STATUS.read(data).ok().map(|s| s.code());
            }
            Fact::ClockTime => self.clock_time = clock::TIME.read(data).ok().map(seconds),
            Fact::ClockStatus => self.clock_status = clock::STATUS.read(data).ok(),
            Fact::FirmwareMetrology => s.firmware.metrology = text(data),
            Fact::FirmwareModule => s.firmware.module = text(data),
            Fact::PowerFailures => s.power_failures = data.as_u64(),
            Fact::Uptime => s.uptime = data.as_u64(),
            Fact::EventEntries => self.event_entries = entries_in_use(data),
            Fact::EventCapacity => self.event_capacity = entries_in_use(data),
            Fact::Events => s.events = events(data),
            Fact::LoadProfileEntries => self.entries = entries_in_use(data),
            Fact::LoadProfileNewest => self.newest = rows(data).map(|rows| newest(&rows)),
            Fact::RelayOutput => self.output = OUTPUT_STATE.read(data).ok(),
            Fact::RelayState => self.state = CONTROL_STATE.read(data).ok().map(|s| s.code()),
            Fact::RelayMode => self.mode = CONTROL_MODE.read(data).ok().map(|m| m.code()),
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
            clock: clock.map(|(seconds, status)| Clock {
                seconds,
                // also if it says nothing of itself (FF)
                invalid: status.is_invalid() || !status.is_specified(),
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
    profile::ENTRIES_IN_USE.read(data).ok()
}

fn rows(data: &Data) -> Option<Vec<Row>> {
    profile::BUFFER.read(data).ok()
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
    let event = |row: &Row| {
        Some(LoggedEvent {
            seconds: row.time(0).and_then(seconds).unwrap_or(0),
            code: row.number(1).and_then(|code| u16::try_from(code).ok())?,
        })
    };
    rows(data)?.iter().map(event).collect()
}

/// The highest time in the first column.
fn newest(rows: &[Row]) -> Option<u64> {
    rows.iter()
        .filter_map(|row| row.time(0).and_then(seconds))
        .max()
}

/// Seconds since the Unix epoch; `None` if the time leaves anything open.
fn seconds(time: DateTime) -> Option<u64> {
    let ms = u64::try_from(time.unix_ms()?).ok()?;
    Some(ms / 1000)
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
        let epoch = DateTime([0x07, 0xB2, 1, 1, 4, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(seconds(epoch), Some(0));
        let time = |deviation| DateTime(date_time(deviation).try_into().expect("12 octets"));
        assert_eq!(seconds(time(0)), Some(1_795_380_245));
        assert_eq!(seconds(time(-60)), Some(1_795_380_245 - 3_600));
        assert_eq!(seconds(time(i16::MIN)), seconds(time(0)));
        assert_eq!(seconds(DateTime::ANY), None);
        assert_eq!(seconds(DateTime([0; 12])), None);
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
