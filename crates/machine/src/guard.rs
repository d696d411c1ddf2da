//! What must be true of a meter, read in the acting association, before a command may leave.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use crate::{Rules, Snapshot, Tier, snapshot::Relay};

/// Control modes of class 70 (Blue Book: 0..=6, later editions 7).
const CONTROL_MODE_MAX: u8 = 7;

/// Checks every guard in a fixed order. `Ok` holds one line per guard that passed.
///
/// # Errors
/// The first guard that says no, and what to do about it.
pub(crate) fn check(rules: &Rules, seen: &Snapshot) -> Result<Vec<String>, String> {
    Ok(alloc::vec![
        identity(rules, seen)?,
        image_transfer(seen)?,
        clock(seen)?,
        relay(rules, seen)?,
        firmware(seen)?,
        evidence(rules, seen)?,
    ])
}

fn identity(rules: &Rules, seen: &Snapshot) -> Result<String, String> {
    let Some(found) = &seen.identity else {
        return Err("the logical device name cannot be read: who answers is unknown".to_string());
    };
    match &rules.identity {
        Some(known) if known != found => Err(format!(
            "identity: the meter calls itself {found}, it was {known}: check the wiring of the address, or enrol the meter anew"
        )),
        Some(_) => Ok(format!("identity: {found}, as before")),
        None => Ok(format!("identity: {found}, first met now")),
    }
}

/// 1 initiated, 2 verification initiated, 5 activation initiated: firmware is on its way.
fn image_transfer(seen: &Snapshot) -> Result<String, String> {
    match seen.image_transfer {
        Some(status @ (1 | 2 | 5)) => Err(format!(
            "a firmware update is under way (image transfer status {status}): wait until it is over, then ask again"
        )),
        Some(status) => Ok(format!("no firmware update under way (status {status})")),
        None => Err("the image transfer status cannot be read".to_string()),
    }
}

fn clock(seen: &Snapshot) -> Result<String, String> {
    match seen.clock {
        None => Err("the clock cannot be read".to_string()),
        Some(clock) if clock.invalid || clock.seconds.is_none() => {
            Ok("clock readable, but not valid already".to_string())
        }
        Some(_) => Ok("clock readable and valid".to_string()),
    }
}

fn relay(rules: &Rules, seen: &Snapshot) -> Result<String, String> {
    let Some(relay) = seen.relay else {
        return Err("the relay state cannot be read".to_string());
    };
    if relay.state > 2 || relay.mode > CONTROL_MODE_MAX {
        return Err(format!("relay {relay}: not a state this system knows"));
    }
    if relay.contradicts_itself() {
        return Err(format!(
            "relay {relay}: output and control state contradict each other; a person must look first"
        ));
    }
    may_restart(rules, relay)?;
    Ok(format!("relay {relay}"))
}

/// A disconnected relay must stay open through a power cut: only a verified latch is trusted with it.
fn may_restart(rules: &Rules, relay: Relay) -> Result<(), String> {
    if relay.is_connected() || rules.tier == Tier::Soft || rules.latching_verified {
        return Ok(());
    }
    Err(format!(
        "relay {relay}: a {} reset of a disconnected meter needs a profile whose latch is verified",
        rules.tier.name()
    ))
}

fn firmware(seen: &Snapshot) -> Result<String, String> {
    match (&seen.firmware.metrology, &seen.firmware.module) {
        (Some(metrology), Some(module)) => {
            Ok(format!("firmware metrology {metrology}, module {module}"))
        }
        (None, _) => Err("the firmware version of the metrology board cannot be read".to_string()),
        (_, None) => {
            Err("the firmware version of the communication module cannot be read".to_string())
        }
    }
}

/// Without anything that a restart changes, a lost answer could never be resolved.
fn evidence(rules: &Rules, seen: &Snapshot) -> Result<String, String> {
    let mut offered = Vec::new();
    if let Some(count) = seen.power_failures {
        offered.push(format!("power failures {count}"));
    }
    if let Some(uptime) = seen.uptime {
        offered.push(format!("uptime {uptime} s"));
    }
    if let Some(events) = &seen.events {
        offered.push(format!("event log ({} newest entries)", events.len()));
    }
    let expect = &rules.expect;
    let tells = (expect.power_failure && seen.power_failures.is_some())
        || (expect.uptime && seen.uptime.is_some())
        || (!expect.start_events.is_empty() && seen.events.is_some());
    if expect.leaves_traces() && !tells {
        return Err(format!(
            "none of the traces that a {} reset leaves can be read: a restart could not be told from none",
            rules.tier.name()
        ));
    }
    match seen.load_profile {
        Some(profile) => offered.push(format!("load profile {} entries", profile.entries)),
        None => offered.push("no load profile".to_string()),
    }
    Ok(offered.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clock, Firmware};

    fn good() -> Snapshot {
        Snapshot {
            identity: Some("LKS0000000000001".to_string()),
            image_transfer: Some(0),
            clock: Some(Clock {
                seconds: Some(1),
                invalid: false,
            }),
            relay: Some(Relay {
                output: true,
                state: 1,
                mode: 4,
            }),
            firmware: Firmware {
                metrology: Some("1".to_string()),
                module: Some("2".to_string()),
            },
            power_failures: Some(3),
            ..Snapshot::default()
        }
    }

    fn open_relay() -> Snapshot {
        Snapshot {
            relay: Some(Relay {
                output: false,
                state: 0,
                mode: 4,
            }),
            ..good()
        }
    }

    #[test]
    fn a_good_meter_passes() {
        let lines = check(&Rules::example(), &good()).expect("passes");
        assert!(
            lines
                .iter()
                .any(|l| l == "relay closed (connected), control mode 4")
        );
    }

    fn but(change: impl Fn(&mut Snapshot)) -> Snapshot {
        let mut snapshot = good();
        change(&mut snapshot);
        snapshot
    }

    /// The word in the refusal, and a meter that is refused with it.
    fn bad() -> [(&'static str, Snapshot); 9] {
        let contradictory = Relay {
            output: true,
            state: 0,
            mode: 4,
        };
        [
            ("logical device name", but(|s| s.identity = None)),
            (
                "calls itself",
                but(|s| s.identity = Some("other".to_string())),
            ),
            ("firmware update", but(|s| s.image_transfer = Some(5))),
            ("image transfer", but(|s| s.image_transfer = None)),
            ("clock", but(|s| s.clock = None)),
            ("relay state", but(|s| s.relay = None)),
            ("contradict", but(|s| s.relay = Some(contradictory))),
            ("communication module", but(|s| s.firmware.module = None)),
            ("told from none", but(|s| s.power_failures = None)),
        ]
    }

    #[test]
    fn every_guard_can_say_no() {
        let rules = Rules {
            identity: Some("LKS0000000000001".to_string()),
            ..Rules::example()
        };
        for (word, snapshot) in bad() {
            let no = check(&rules, &snapshot).expect_err(word);
            assert!(no.contains(word), "{no}");
        }
    }

    #[test]
    fn a_disconnected_meter_needs_a_verified_latch() {
        let trusted = Rules::example();
        let untrusted = Rules {
            latching_verified: false,
            ..Rules::example()
        };
        let soft = Rules {
            tier: Tier::Soft,
            ..untrusted.clone()
        };
        assert!(check(&trusted, &open_relay()).is_ok());
        assert!(check(&untrusted, &open_relay()).is_err_and(|no| no.contains("latch")));
        assert!(check(&soft, &open_relay()).is_ok());
        assert!(check(&untrusted, &good()).is_ok());
    }
}
