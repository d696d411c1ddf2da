//! What the meter remembers in NVRAM: the standard event log, the load profile, and a ring of text for technicians.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Standard event codes of the meter.
pub(crate) mod code {
    /// The metrology board lost its power.
    pub(crate) const POWER_DOWN: u16 = 1;
    /// It has its power back.
    pub(crate) const POWER_UP: u16 = 2;
    /// Error in the non-volatile memory.
    pub(crate) const NV_MEMORY: u16 = 14;
    /// The watchdog restarted the software.
    pub(crate) const WATCHDOG: u16 = 15;
    /// Global keys were changed.
    pub(crate) const KEYS_CHANGED: u16 = 48;
    /// A log was cleared.
    pub(crate) const CLEARED: u16 = 255;
    /// Cold start, the procedure's "1.1".
    pub(crate) const COLD_START: u16 = 0x0101;
}

/// An entry of the standard event log: when (ms since the Unix epoch, meter clock), and what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogEntry(pub(crate) i64, pub(crate) u16);

/// The standard event log: oldest first, the oldest goes when it is full.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct EventLog(VecDeque<LogEntry>);

impl EventLog {
    pub(crate) const CAPACITY: usize = 256;

    pub(crate) fn push(&mut self, time_ms: i64, code: u16) {
        if self.0.len() >= Self::CAPACITY {
            self.0.pop_front();
        }
        self.0.push_back(LogEntry(time_ms, code));
    }

    pub(crate) fn entries(&self) -> &VecDeque<LogEntry> {
        &self.0
    }

    /// Forgets everything, and says so as the standard demands.
    pub(crate) fn clear(&mut self, time_ms: i64) {
        self.0.clear();
        self.push(time_ms, code::CLEARED);
    }
}

/// An entry of the load profile: when (s since the Unix epoch), status, imported energy in Wh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Capture(pub(crate) i64, pub(crate) u8, pub(crate) u32);

/// The load profile: one entry at each full period of the meter's clock; oldest first, the oldest goes when it is full.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LoadProfile {
    entries: VecDeque<Capture>,
    next_s: i64,
    status: u8,
}

impl LoadProfile {
    pub(crate) const CAPACITY: usize = 960;
    /// Seconds between captures.
    pub(crate) const PERIOD_S: i64 = 900;
    /// Status bit: the meter was without power in this period.
    pub(crate) const POWER_DOWN: u8 = 0x80;
    const HISTORY: i64 = 96;

    /// A day of history before `shows_ms`, under a constant load that led to `import_wh`.
    pub(crate) fn with_history(shows_ms: i64, import_wh: u32, wh_per_period: u32) -> Self {
        let last = floor(shows_ms);
        let mut entries = VecDeque::new();
        let mut wh = import_wh;
        for back in 0..Self::HISTORY {
            entries.push_front(Capture(last - back * Self::PERIOD_S, 0, wh));
            wh = wh.saturating_sub(wh_per_period);
        }
        Self {
            entries,
            next_s: last + Self::PERIOD_S,
            status: 0,
        }
    }

    /// Captures if it is time to; a period that passed while nobody looked is missing, as in a real meter.
    pub(crate) fn advance(&mut self, shows_ms: i64, import_wh: u32) {
        let this = floor(shows_ms);
        if this >= self.next_s {
            self.capture(this, import_wh);
        } else if self.next_s - this > Self::PERIOD_S {
            self.next_s = this + Self::PERIOD_S; // the clock was set back
        }
    }

    /// Method 2, and the end of each period.
    fn capture(&mut self, time_s: i64, import_wh: u32) {
        if self.entries.len() >= Self::CAPACITY {
            self.entries.pop_front();
        }
        self.entries
            .push_back(Capture(time_s, self.status, import_wh));
        self.status = 0;
        self.next_s = floor(time_s.saturating_mul(1000)) + Self::PERIOD_S;
    }

    /// Milliseconds from `shows_ms` until the next capture.
    pub(crate) fn due_in(&self, shows_ms: i64) -> u64 {
        u64::try_from(self.next_s.saturating_mul(1000).saturating_sub(shows_ms)).unwrap_or(0)
    }

    /// Marks the running period.
    pub(crate) fn mark(&mut self, status: u8) {
        self.status |= status;
    }

    pub(crate) fn entries(&self) -> &VecDeque<Capture> {
        &self.entries
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}

/// The start of the period a moment lies in, in seconds.
fn floor(shows_ms: i64) -> i64 {
    shows_ms.div_euclid(1000 * LoadProfile::PERIOD_S) * LoadProfile::PERIOD_S
}

/// A fixed-size FIFO of text lines, 128 KiB: the procedure's "Log Buffering". Whole lines leave at the old end.
#[derive(Debug, Default)]
pub(crate) struct RingLog(VecDeque<u8>);

impl RingLog {
    pub(crate) const CAPACITY: usize = 128 * 1024;

    /// Appends a line; line breaks in it become spaces, and what exceeds 1 KiB is cut.
    pub(crate) fn push(&mut self, line: &str) {
        let line: Vec<u8> = line
            .bytes()
            .take(1024)
            .map(|octet| if octet == b'\n' { b' ' } else { octet })
            .collect();
        while self.0.len() + line.len() + 1 > Self::CAPACITY {
            let oldest = self
                .0
                .iter()
                .position(|octet| *octet == b'\n')
                .map_or(self.0.len(), |at| at + 1);
            self.0.drain(..oldest);
        }
        self.0.extend(line);
        self.0.push_back(b'\n');
    }

    /// The newest whole lines that fit into `limit` octets.
    pub(crate) fn tail(&self, limit: usize) -> Vec<u8> {
        let start = self.0.len().saturating_sub(limit);
        let mut tail: Vec<u8> = self.0.iter().skip(start).copied().collect();
        if start > 0 && self.0.get(start - 1) != Some(&b'\n') {
            let first = tail
                .iter()
                .position(|octet| *octet == b'\n')
                .map_or(tail.len(), |at| at + 1);
            tail.drain(..first);
        }
        tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_767_268_800_000;

    #[test]
    fn history_ends_with_the_last_full_period() {
        let profile = LoadProfile::with_history(NOON + 1, 10_000, 100);
        let entries = profile.entries();
        assert_eq!(entries.len(), 96);
        assert_eq!(entries.back(), Some(&Capture(NOON / 1000, 0, 10_000)));
        assert_eq!(
            entries.front(),
            Some(&Capture(NOON / 1000 - 95 * 900, 0, 500))
        );
        assert_eq!(profile.due_in(NOON + 1), 899_999);
    }

    #[test]
    fn captures_once_a_period_and_tells_of_power_cuts() {
        let mut profile = LoadProfile::with_history(NOON, 10_000, 100);
        profile.advance(NOON + 899_999, 10_050);
        assert_eq!(profile.entries().len(), 96);
        profile.mark(LoadProfile::POWER_DOWN);
        profile.advance(NOON + 900_000, 10_100);
        profile.advance(NOON + 900_001, 10_100);
        assert_eq!(
            profile.entries().back(),
            Some(&Capture(NOON / 1000 + 900, 0x80, 10_100))
        );
        profile.advance(NOON + 4 * 900_000 + 5, 10_400);
        assert_eq!(
            profile.entries().len(),
            98,
            "periods nobody was there for are missing"
        );
        assert_eq!(
            profile.entries().back(),
            Some(&Capture(NOON / 1000 + 3600, 0, 10_400))
        );
    }

    #[test]
    fn a_clock_set_back_does_not_stop_capturing() {
        let mut profile = LoadProfile::with_history(NOON, 0, 0);
        profile.advance(NOON - 86_400_000, 1);
        profile.advance(NOON - 86_400_000 + 900_000, 2);
        assert_eq!(profile.entries().len(), 97);
    }

    #[test]
    fn profiles_and_logs_are_bounded_fifos() {
        let mut profile = LoadProfile::with_history(NOON, 0, 0);
        let mut log = EventLog::default();
        for step in 1..=2_000_i64 {
            profile.advance(NOON + step * 900_000, 7);
            log.push(step, 1);
        }
        assert_eq!(profile.entries().len(), LoadProfile::CAPACITY);
        assert_eq!(log.entries().len(), EventLog::CAPACITY);
        assert_eq!(log.entries().back(), Some(&LogEntry(2_000, 1)));
        log.clear(3_000);
        assert_eq!(
            log.entries().iter().collect::<Vec<_>>(),
            [&LogEntry(3_000, code::CLEARED)]
        );
    }

    #[test]
    fn the_ring_keeps_whole_lines_within_its_size() {
        let mut ring = RingLog::default();
        for number in 0..20_000 {
            ring.push(&format!("line {number}"));
        }
        let all = ring.tail(usize::MAX);
        assert!(all.len() <= RingLog::CAPACITY && all.len() > RingLog::CAPACITY - 32);
        assert!(all.starts_with(b"line ") && all.ends_with(b"line 19999\n"));
        assert_eq!(ring.tail(25), b"line 19998\nline 19999\n");
        assert_eq!(ring.tail(11), b"line 19999\n");
        ring.push(&"x\n".repeat(5_000));
        assert_eq!(ring.tail(1_025).len(), 1_025);
    }
}
