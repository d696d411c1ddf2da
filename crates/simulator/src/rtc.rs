//! The meter's own clock: it runs by the host's monotone time, and only an explicit SET moves it.

use jiff::{Timestamp, civil, tz::TimeZone};

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

/// The COSEM date-time (Blue Book 4.1.6.1) of a moment: UTC, deviation 0, status ok.
pub(crate) fn date_time(ms: i64) -> [u8; 12] {
    let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let local = time.to_zoned(TimeZone::UTC).datetime();
    let [high, low] = local.year().to_be_bytes();
    let octet = |value: i8| u8::try_from(value).unwrap_or(0);
    [
        high,
        low,
        octet(local.month()),
        octet(local.day()),
        octet(local.weekday().to_monday_one_offset()),
        octet(local.hour()),
        octet(local.minute()),
        octet(local.second()),
        u8::try_from(local.millisecond() / 10).unwrap_or(0),
        0,
        0,
        0,
    ]
}

/// The moment of a COSEM date-time. Unspecified hundredths and deviation count as 0; a date or time with other
/// unspecified fields is none.
pub(crate) fn moment(date_time: &[u8]) -> Option<i64> {
    let &[
        high,
        low,
        month,
        day,
        _weekday,
        hour,
        minute,
        second,
        hundredths,
        deviation_high,
        deviation_low,
        _,
    ] = date_time
    else {
        return None;
    };
    let field = |octet: u8| i8::try_from(octet).ok();
    let hundredths = if hundredths == 0xFF {
        0
    } else {
        i32::from(hundredths)
    };
    let date = civil::DateTime::new(
        i16::from_be_bytes([high, low]),
        field(month)?,
        field(day)?,
        field(hour)?,
        field(minute)?,
        field(second)?,
        hundredths.checked_mul(10_000_000)?,
    )
    .ok()?;
    let utc = date
        .to_zoned(TimeZone::UTC)
        .ok()?
        .timestamp()
        .as_millisecond();
    let deviation = i16::from_be_bytes([deviation_high, deviation_low]);
    let minutes = if deviation == DEVIATION_UNSPECIFIED {
        0
    } else {
        i64::from(deviation)
    };
    // Blue Book: deviation is local time to GMT in minutes, so UTC = local + deviation
    utc.checked_add(minutes * 60_000)
}

const DEVIATION_UNSPECIFIED: i16 = i16::MIN;

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: i64 = 1_767_225_599_120; // 2025-12-31T23:59:59.12Z, a Wednesday

    #[test]
    fn date_times_are_the_standards_octets() {
        assert_eq!(hex::encode(date_time(MOMENT)), "07e90c1f03173b3b0c000000");
        assert_eq!(moment(&date_time(MOMENT)), Some(MOMENT));
        assert_eq!(rfc3339(MOMENT), "2025-12-31T23:59:59.120Z");
    }

    #[test]
    fn deviation_and_unspecified_fields_are_understood() {
        let mut octets = date_time(MOMENT);
        octets[9..11].copy_from_slice(&(-60_i16).to_be_bytes());
        assert_eq!(moment(&octets), Some(MOMENT - 3_600_000));
        octets[8..11].copy_from_slice(&[0xFF, 0x80, 0x00]);
        assert_eq!(moment(&octets), Some(MOMENT - 120));
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        let good = date_time(MOMENT);
        assert_eq!(moment(&good[..11]), None);
        for (index, value) in [
            (2, 0),
            (2, 13),
            (2, 0xFF),
            (3, 32),
            (5, 24),
            (6, 60),
            (7, 0xFF),
            (8, 100),
        ] {
            let mut bad = good;
            bad[index] = value;
            assert_eq!(moment(&bad), None, "octet {index} = {value}");
        }
    }

    #[test]
    fn setting_the_clock_moves_it_alone() {
        let mut rtc = Rtc::new(1_000_000);
        rtc.set(500, 2_000_000);
        assert_eq!((rtc.shows(600), rtc.host(600)), (2_000_100, 1_000_600));
    }
}
