//! When a certificate ends: said while there is time to do something about it.

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use opentelemetry::{KeyValue, metrics::Gauge};

use crate::{PeerName, clock};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Days before its end at which a certificate is worth a word.
const LEVELS: [u32; 3] = [1, 7, 30];

/// A certificate that ends soon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiring {
    /// Whose it is.
    pub name: PeerName,
    /// It ends within this many days: 30, 7, 1, or 0 if it has ended.
    pub days: u32,
    /// When it ends.
    pub not_after: SystemTime,
}

impl Expiring {
    /// What there is to say of a certificate at this time, if there is anything.
    pub(super) fn of(name: &PeerName, not_after: SystemTime, now: SystemTime) -> Option<Self> {
        let left = not_after.duration_since(now).unwrap_or_default();
        gauge().record(
            left.as_secs_f64(),
            &[KeyValue::new("name", name.to_string())],
        );
        let days = level(left)?;
        Some(Self {
            name: name.clone(),
            days,
            not_after,
        })
    }

    /// One line for people.
    #[must_use]
    pub fn story(&self) -> String {
        let at = clock::micros(self.not_after) / 1_000_000;
        match self.days {
            0 => format!(
                "the TLS certificate of {} has expired (Unix time {at})",
                self.name
            ),
            days => format!(
                "the TLS certificate of {} expires within {days} days (Unix time {at})",
                self.name
            ),
        }
    }

    pub(super) fn warn(&self) {
        let runbook = "docs/runbooks/certificate-expiry.md";
        if self.days <= 1 {
            tracing::error!(runbook, "{}", self.story());
        } else {
            tracing::warn!(runbook, "{}", self.story());
        }
    }
}

/// The smallest level that the time left is within; 0 when it is over.
fn level(left: Duration) -> Option<u32> {
    if left.is_zero() {
        return Some(0);
    }
    LEVELS.into_iter().find(|days| left <= DAY * *days)
}

fn gauge() -> &'static Gauge<f64> {
    static LEFT: OnceLock<Gauge<f64>> = OnceLock::new();
    LEFT.get_or_init(|| {
        opentelemetry::global::meter("latchkey")
            .f64_gauge("tls.certificate.left")
            .with_unit("s")
            .with_description("Time until our own TLS certificate expires; 0 once it has")
            .build()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_is_reached_once() {
        for (left, said) in [
            (DAY * 31, None),
            (DAY * 30, Some(30)),
            (DAY * 8, Some(30)),
            (DAY * 7, Some(7)),
            (DAY + Duration::from_secs(1), Some(7)),
            (DAY, Some(1)),
            (Duration::from_secs(1), Some(1)),
            (Duration::ZERO, Some(0)),
        ] {
            assert_eq!(level(left), said, "{left:?}");
        }
    }
}
