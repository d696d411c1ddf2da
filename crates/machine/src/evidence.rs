//! What two readings and a counter say about a command whose answer was lost.

use alloc::{format, string::String, vec::Vec};

use crate::{Expect, Session, Snapshot};

/// Meters round their uptime and read it a little after their clock.
const UPTIME_SLACK_SECONDS: u64 = 3;

/// Whether the meter's security layer took a command (E1 of the evidence ladder).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// It did, or something newer.
    Accepted,
    /// It did not.
    NotAccepted,
    /// The counter says nothing.
    Unproven,
}

impl Acceptance {
    /// Judges by the meter's invocation counter, read by the public client before any new association was opened.
    ///
    /// `guards` is the counter of the last guard, which the meter answered, so an honest counter is not below it.
    /// `act` is the counter of the command, 0 if it is unknown; it is greater than `guards`. Meters differ in whether
    /// they show the last accepted or the next expected value: only what proves it under both readings counts.
    #[must_use]
    pub fn judge(guards: u32, act: u32, meter: Option<u32>) -> Self {
        match meter {
            None => Self::Unproven,
            // Below what it has answered: kept lazily, or lost in the restart.
            Some(value) if guards == 0 || value < guards => Self::Unproven,
            Some(value) if act == 0 && value == guards => Self::NotAccepted,
            // The release of a session whose lease ran out spends a counter too, and so does a question in it.
            Some(_) if act == 0 => Self::Unproven,
            Some(value) if value < act => Self::NotAccepted,
            Some(_) => Self::Accepted,
        }
    }
}

/// What changed between two readings (E2, E3 and E4). `None` is: cannot be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// How far the power-failure counter rose.
    pub power_failures: Option<u64>,
    /// Codes in the event log that were not there before.
    pub events: Option<Vec<u16>>,
    /// Whether the uptime began again.
    pub uptime_restarted: Option<bool>,
}

impl Changes {
    /// Compares.
    #[must_use]
    pub fn between(before: &Snapshot, after: &Snapshot) -> Self {
        Self {
            power_failures: before
                .power_failures
                .zip(after.power_failures)
                .map(|(b, a)| a.saturating_sub(b)),
            events: new_events(before, after),
            uptime_restarted: uptime_restarted(before, after),
        }
    }

    /// Whether anything that this tier does has been seen.
    #[must_use]
    pub fn shows(&self, expect: &Expect) -> bool {
        self.power_failure(expect) == Some(true)
            || self.started(expect) == Some(true)
            || (expect.uptime && self.uptime_restarted == Some(true))
    }

    /// The boards that did not restart though the tier restarts them, with the reason. Empty means: all did.
    #[must_use]
    pub fn missing(&self, expect: &Expect, session: Session) -> Vec<String> {
        let mut missing = Vec::new();
        if self.power_failure(expect) == Some(false) {
            missing.push(String::from(
                "metrology board: its power-failure counter did not rise",
            ));
        }
        if self.started(expect) == Some(false) {
            missing.push(format!(
                "metrology board: none of the start events {:?} was logged",
                expect.start_events
            ));
        }
        if expect.uptime && self.uptime_restarted == Some(false) {
            missing.push(String::from("metrology board: its uptime goes on"));
        }
        if expect.session_ends && session == Session::LivedOn {
            missing.push(String::from(
                "communication module: the session of the command still lives",
            ));
        }
        missing
    }

    /// One line for a person.
    #[must_use]
    pub fn describe(&self, before: &Snapshot, after: &Snapshot) -> String {
        let mut parts = Vec::new();
        if let (Some(b), Some(a)) = (before.power_failures, after.power_failures) {
            parts.push(format!("power failures {b} -> {a}"));
        }
        if let Some(events) = &self.events {
            parts.push(format!("new events {events:?}"));
        }
        if let (Some(b), Some(a)) = (before.uptime, after.uptime) {
            parts.push(format!("uptime {b} s -> {a} s"));
        }
        parts.join(", ")
    }

    fn power_failure(&self, expect: &Expect) -> Option<bool> {
        let rise = self.power_failures?;
        expect.power_failure.then_some(rise > 0)
    }

    fn started(&self, expect: &Expect) -> Option<bool> {
        let events = self.events.as_ref()?;
        if expect.start_events.is_empty() {
            return None;
        }
        Some(events.iter().any(|code| expect.start_events.contains(code)))
    }
}

/// Entries that are in `after` more often than in `before`.
fn new_events(before: &Snapshot, after: &Snapshot) -> Option<Vec<u16>> {
    let (before, after) = before.events.as_ref().zip(after.events.as_ref())?;
    let mut known = before.clone();
    let mut fresh = Vec::new();
    for entry in after {
        match known.iter().position(|old| old == entry) {
            Some(index) => drop(known.swap_remove(index)),
            None => fresh.push(entry.code),
        }
    }
    Some(fresh)
}

/// By the meter's own clock where it has one: it survives the restart, and ours may be stepped. `None` where the
/// readings fit both.
fn uptime_restarted(before: &Snapshot, after: &Snapshot) -> Option<bool> {
    let (was, is) = before.uptime.zip(after.uptime)?;
    if is < was {
        return Some(true);
    }
    let time = |s: &Snapshot| s.clock.filter(|c| !c.invalid).and_then(|c| c.seconds);
    let (began, ended) = time(before).zip(time(after)).unwrap_or_default();
    let passed = ended.saturating_sub(began);
    if is.saturating_sub(was).saturating_add(UPTIME_SLACK_SECONDS) < passed {
        return Some(true);
    }
    // A meter that had only just started loses too little by starting again to be told from one that went on.
    (was > UPTIME_SLACK_SECONDS.saturating_mul(2)).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clock, LoggedEvent, Rules};

    #[test]
    fn the_counter_proves_only_what_holds_under_both_readings() {
        let cases = [
            // guards, act, meter
            (1033, 1034, Some(1033), Acceptance::NotAccepted),
            (1033, 1034, Some(1034), Acceptance::Accepted),
            (1033, 1034, Some(1035), Acceptance::Accepted),
            (1033, 1034, Some(1032), Acceptance::Unproven),
            (1033, 1034, None, Acceptance::Unproven),
            (1033, 0, Some(1033), Acceptance::NotAccepted),
            (1033, 0, Some(1034), Acceptance::Unproven),
            (0, 0, Some(0), Acceptance::Unproven),
        ];
        for (guards, act, meter, expected) in cases {
            assert_eq!(
                Acceptance::judge(guards, act, meter),
                expected,
                "{guards} {act} {meter:?}"
            );
        }
    }

    fn snapshot(power_failures: u64, uptime: u64, clock: u64, codes: &[u16]) -> Snapshot {
        Snapshot {
            power_failures: Some(power_failures),
            uptime: Some(uptime),
            clock: Some(Clock {
                seconds: Some(clock),
                invalid: false,
            }),
            events: Some(
                codes
                    .iter()
                    .map(|code| LoggedEvent {
                        seconds: 7,
                        code: *code,
                    })
                    .collect(),
            ),
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_restart_is_seen() {
        let expect = Rules::example().expect;
        let before = snapshot(3, 5, 100, &[1, 2]);
        let after = snapshot(4, 6, 120, &[1, 2, 1, 2]);
        let changes = Changes::between(&before, &after);
        assert_eq!(
            changes,
            Changes {
                power_failures: Some(1),
                events: Some(alloc::vec![1, 2]),
                uptime_restarted: Some(true)
            }
        );
        assert!(
            changes.shows(&expect) && changes.missing(&expect, Session::EndedByMeter).is_empty()
        );
    }

    #[test]
    fn a_meter_that_had_just_started_proves_nothing_by_its_uptime() {
        let restarted = |was, is| {
            Changes::between(&snapshot(3, was, 100, &[]), &snapshot(3, is, 107, &[]))
                .uptime_restarted
        };
        assert_eq!(restarted(1, 5), None);
        assert_eq!(restarted(1, 8), None);
        assert_eq!(restarted(1, 4), Some(true));
        assert_eq!(restarted(7, 14), Some(false));
        assert_eq!(restarted(7, 5), Some(true));
    }

    #[test]
    fn nothing_happened_is_seen_too() {
        let expect = Rules::example().expect;
        let before = snapshot(3, 50, 100, &[1, 2]);
        let after = snapshot(3, 70, 120, &[1, 2]);
        let changes = Changes::between(&before, &after);
        assert!(!changes.shows(&expect));
        assert_eq!(changes.missing(&expect, Session::LivedOn).len(), 4);
    }

    #[test]
    fn a_partial_restart_names_the_board() {
        let expect = Rules::example().expect;
        let before = snapshot(3, 500, 1000, &[]);
        let module_only = Changes::between(&before, &snapshot(3, 520, 1020, &[]));
        let missing = module_only.missing(&expect, Session::EndedByMeter);
        assert!(missing.iter().all(|m| m.starts_with("metrology board")) && missing.len() == 3);
        let metrology_only = Changes::between(&before, &snapshot(4, 4, 1020, &[2]));
        let missing = metrology_only.missing(&expect, Session::LivedOn);
        assert!(
            missing
                .iter()
                .all(|m| m.starts_with("communication module"))
                && missing.len() == 1
        );
    }
}
