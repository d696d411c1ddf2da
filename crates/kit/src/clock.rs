//! The one clock. Times in SQL are microseconds since the Unix epoch.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time now.
#[must_use]
pub fn now() -> SystemTime {
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    SystemTime::now()
}

/// Microseconds since the Unix epoch; 0 for a time before it.
#[must_use]
pub fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The time of a count of microseconds; the epoch itself for a negative count.
#[must_use]
pub fn from_micros(micros: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// A time as it goes into a message.
#[must_use]
pub fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp::from(time)
}

/// A time out of a message; `None` if it is out of range or before the epoch.
#[must_use]
pub fn from_timestamp(timestamp: &prost_types::Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(timestamp.seconds).ok()?;
    let nanos = u32::try_from(timestamp.nanos)
        .ok()
        .filter(|n| *n < 1_000_000_000)?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let time = from_micros(1_700_000_000_123_456);
        assert_eq!(micros(time), 1_700_000_000_123_456);
        assert_eq!(from_timestamp(&timestamp(time)), Some(time));
        assert_eq!(
            from_timestamp(&prost_types::Timestamp {
                seconds: 1,
                nanos: -1
            }),
            None
        );
        assert_eq!(
            from_timestamp(&prost_types::Timestamp {
                seconds: -1,
                nanos: 0
            }),
            None
        );
    }
}
