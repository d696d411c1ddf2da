//! What differs between the reading before the command and one after it, and must not.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use crate::{Changes, Snapshot};

/// How far the meter's clock may drift from ours over one restart before it counts as lost.
const CLOCK_SLACK_MS: u64 = 300_000;

/// A fact that was there before and is not readable now. The meter may still be starting.
pub(crate) fn unread(before: &Snapshot, seen: &Snapshot) -> Option<&'static str> {
    let facts = [
        (
            "the logical device name",
            before.identity.is_some(),
            seen.identity.is_some(),
        ),
        ("the relay", before.relay.is_some(), seen.relay.is_some()),
        ("the clock", before.clock.is_some(), seen.clock.is_some()),
        (
            "the firmware of the metrology board",
            before.firmware.metrology.is_some(),
            seen.firmware.metrology.is_some(),
        ),
        (
            "the firmware of the communication module",
            before.firmware.module.is_some(),
            seen.firmware.module.is_some(),
        ),
        (
            "the load profile",
            before.load_profile.is_some(),
            seen.load_profile.is_some(),
        ),
        // Without these nothing would speak against a success.
        (
            "the power-failure counter",
            before.power_failures.is_some(),
            seen.power_failures.is_some(),
        ),
        ("the uptime", before.uptime.is_some(), seen.uptime.is_some()),
        (
            "the event log",
            before.events.is_some(),
            seen.events.is_some(),
        ),
        (
            "the size of the event log",
            before.event_log.is_some(),
            seen.event_log.is_some(),
        ),
    ];
    facts
        .into_iter()
        .find(|(_, was, is)| *was && !*is)
        .map(|(what, _, _)| what)
}

pub(crate) fn relay_changed(before: &Snapshot, seen: &Snapshot) -> Option<String> {
    let (was, is) = before.relay.zip(seen.relay)?;
    (was != is).then(|| format!("the relay was {was}, it is {is}: stop, and send somebody to look"))
}

pub(crate) fn firmware_changed(before: &Snapshot, seen: &Snapshot) -> Option<String> {
    let name = |v: &Option<String>| v.clone().unwrap_or_default();
    let (was, is) = (&before.firmware, &seen.firmware);
    if was.metrology != is.metrology {
        return Some(format!(
            "metrology board: firmware {} became {}",
            name(&was.metrology),
            name(&is.metrology)
        ));
    }
    (was.module != is.module).then(|| {
        format!(
            "communication module: firmware {} became {}",
            name(&was.module),
            name(&is.module)
        )
    })
}

/// Everything that says that measured data may be lost.
pub(crate) fn dangers(
    before: &Snapshot,
    seen: &Snapshot,
    changes: &Changes,
    tripwires: &[u16],
) -> Vec<String> {
    let mut dangers = Vec::new();
    if let Some((was, is)) = before.load_profile.zip(seen.load_profile) {
        if is.entries < was.entries {
            dangers.push(format!(
                "the load profile lost entries: {} -> {}",
                was.entries, is.entries
            ));
        } else if is.newest < was.newest {
            dangers.push("the newest load-profile entry is older than before".to_string());
        }
    }
    // It is read from where it ended before: what was there is there still, unless somebody cleared it.
    if let Some((was, is)) = before.events.as_ref().zip(seen.events.as_ref())
        && is.is_empty()
        && !was.is_empty()
    {
        dangers.push("the event log lost entries".to_string());
    } else if let Some((was, is)) = before.event_log.zip(seen.event_log)
        && is.entries < was.entries
        && !was.is_full()
    {
        dangers.push(format!(
            "the event log lost entries: {} -> {}",
            was.entries, is.entries
        ));
    }
    let destroyed = changes
        .events
        .iter()
        .flatten()
        .find(|code| tripwires.contains(code));
    if let Some(code) = destroyed {
        dangers.push(format!("event {code} says that data was cleared"));
    }
    if clock_lost(before, seen) {
        dangers.push("the clock was lost: new entries would carry a wrong time".to_string());
    }
    dangers
}

/// Valid before, and now invalid, gone, or far from where it should be.
fn clock_lost(before: &Snapshot, seen: &Snapshot) -> bool {
    let Some(was) = before.clock.filter(|c| !c.invalid).and_then(|c| c.seconds) else {
        return false;
    };
    let Some(is) = seen.clock.filter(|c| !c.invalid).and_then(|c| c.seconds) else {
        return true;
    };
    let elapsed = seen.taken_at.since(before.taken_at);
    let moved = is.saturating_sub(was).saturating_mul(1000);
    is < was.saturating_sub(CLOCK_SLACK_MS / 1000) || moved.abs_diff(elapsed) > CLOCK_SLACK_MS
}
