//! The meter's own clock: it runs by the host's monotone time, and only an explicit SET moves it.

use dlms::cosem::DateTime;
use jiff::Timestamp;

/// A real-time clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rtc {
    /// Milliseconds since the Unix epoch when the meter's time was 0.
    base_ms: i64,
    /// What SET added; kept in NVRAM.
    pub(crate) offset_ms: i64,
}

impl Rtc {
    /// A clock that shows `base_ms` at time 0.
    pub(crate) fn new(base_ms: i64) -> Self {
        Self {
            base_ms,
            offset_ms: 0,
        }
    }

    /// What the clock shows, in milliseconds since the Unix epoch.
    pub(crate) fn shows(&self, now: u64) -> i64 {
        self.host(now).saturating_add(self.offset_ms)
    }

    /// The host's time, for events.
    pub(crate) fn host(&self, now: u64) -> i64 {
        self.base_ms
            .saturating_add(i64::try_from(now).unwrap_or(i64::MAX))
    }

    /// Sets the clock.
    pub(crate) fn set(&mut self, now: u64, shows_ms: i64) {
        self.offset_ms = shows_ms.saturating_sub(self.host(now));
    }
}

/// RFC 3339 with milliseconds.
pub(crate) fn rfc3339(ms: i64) -> String {
    let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{time:.3}")
}

/// The COSEM date-time of a moment: UTC, deviation 0, status ok.
pub(crate) fn date_time(ms: i64) -> DateTime {
    DateTime::utc(ms).unwrap_or(DateTime::ANY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: i64 = 1_767_225_599_120; // 2025-12-31T23:59:59.12Z, a Wednesday

    #[test]
    fn moments_read_by_machines_and_by_people() {
        assert_eq!(hex::encode(date_time(MOMENT).0), "07e90c1f03173b3b0c000000");
        assert_eq!(date_time(MOMENT).unix_ms(), Some(MOMENT));
        assert_eq!(rfc3339(MOMENT), "2025-12-31T23:59:59.120Z");
    }

    #[test]
    fn setting_the_clock_moves_it_alone() {
        let mut rtc = Rtc::new(1_000_000);
        rtc.set(500, 2_000_000);
        assert_eq!((rtc.shows(600), rtc.host(600)), (2_000_100, 1_000_600));
    }
}
