//! One meter reset, end to end, through every service, on real parts.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use anyhow::{Context as _, Result};
use integration_tests::{
    foreign_meter::{ForeignMeter, Keys},
    stack::{SimMeter, Stack, path_text},
};

/// What a relay may say in a test: it never moved, and it still is as it was.
fn assert_relay(meter: &SimMeter, closed: bool) {
    let relay = meter.events_of("relay");
    assert!(!relay.is_empty(), "the meter tells about its relay");
    assert!(
        relay
            .iter()
            .all(|event| event["moved"] == false && event["output"] == closed),
        "{relay:?}"
    );
}

fn executed(meter: &SimMeter, tier: &str) -> usize {
    meter
        .events_of("reset")
        .iter()
        .filter(|event| event["tier"] == tier)
        .count()
}

#[test]
fn a_standard_meter_is_reset_cold() -> Result<()> {
    let stack = Stack::start()?;
    let meter = stack.meter(1, "standard", &[])?;
    let done = stack
        .json(&["reset", &meter.id, "--tier", "cold", "--wait"])
        .with_context(|| stack.logs())?;
    assert_eq!(done["verdict"], "SUCCEEDED", "{done}");
    assert_eq!(executed(&meter, "cold"), 1);
    assert_relay(&meter, true);

    // The trail of it verifies with nothing but the file and the public key.
    let (trail, key) = (
        stack.dir().join("trail.txt"),
        stack.dir().join("trail.vkey"),
    );
    stack.ok(&["audit", "export", "--out", path_text(&trail)?])?;
    let verified = stack.ok(&[
        "audit",
        "verify",
        path_text(&trail)?,
        "--key",
        path_text(&key)?,
    ])?;
    assert!(
        verified.contains("verified") || verified.contains("entries"),
        "{verified}"
    );

    // The same request again is the same reset.
    let id = "018f3c5e-7b1a-7c3d-9e4f-5a6b7c8d9e0f";
    for _ in 0..2 {
        stack.json(&[
            "reset",
            &meter.id,
            "--tier",
            "cold",
            "--wait",
            "--request-id",
            id,
        ])?;
    }
    assert_eq!(executed(&meter, "cold"), 2);
    Ok(())
}

#[test]
fn soft_and_warm_tiers_end_well_too() -> Result<()> {
    let stack = Stack::start()?;
    let meter = stack.meter(1, "standard", &[])?;
    for tier in ["soft", "warm"] {
        let done = stack
            .json(&["reset", &meter.id, "--tier", tier, "--wait"])
            .with_context(|| stack.logs())?;
        assert_eq!(done["verdict"], "SUCCEEDED", "{tier}: {done}");
        assert_eq!(executed(&meter, tier), 1);
    }
    assert_relay(&meter, true);
    Ok(())
}

#[test]
fn a_disconnected_meter_stays_disconnected() -> Result<()> {
    let stack = Stack::start()?;
    let meter = stack.meter(1, "standard", &["--disconnected"])?;
    let done = stack
        .json(&["reset", &meter.id, "--tier", "cold", "--wait"])
        .with_context(|| stack.logs())?;
    assert_eq!(done["verdict"], "SUCCEEDED", "{done}");
    assert_eq!(executed(&meter, "cold"), 1);
    assert_relay(&meter, false);
    Ok(())
}

/// The procedure's steps 1, 2, 4 and 6, with its own commands.
#[test]
fn the_procedures_own_commands_work() -> Result<()> {
    let stack = Stack::start()?;
    let meter = stack.meter(1, "procedure", &[])?;
    let (ip, port) = meter.address.split_once(':').context("an address")?;
    stack.ok(&["connect", "--ip", ip, "--port", port, "--auth", "HLS5"])?;
    let state = stack.ok(&["get-object", "--id", "0.0.96.1.2.255", "--attribute", "2"])?;
    assert!(!state.trim().is_empty());
    stack
        .ok(&[
            "invoke-method",
            "--id",
            "0.0.96.1.2.255",
            "--method",
            "1",
            "--data",
            "0",
        ])
        .with_context(|| stack.logs())?;
    let profile = stack.ok(&["read-profile", "--id", "1.0.99.1.0.255", "--entries", "1"])?;
    assert!(!profile.trim().is_empty());
    assert_eq!(executed(&meter, "cold"), 1);
    assert_relay(&meter, true);
    // The same words as the procedure prints them.
    stack.ok(&[
        "dlms-client",
        "–connect",
        "–ip",
        ip,
        "–port",
        port,
        "–auth",
        "HLS5",
    ])?;
    Ok(())
}

/// The answer never comes, but the meter did it: one execution, and the verdict says so.
#[test]
fn a_lost_answer_is_not_sent_again() -> Result<()> {
    let stack = Stack::start()?;
    let meter = stack.meter(1, "standard", &["--fault", "lost-ack"])?;
    let done = stack
        .json(&["reset", &meter.id, "--tier", "cold", "--wait"])
        .with_context(|| stack.logs())?;
    assert_eq!(done["verdict"], "ZOMBIE_RESOLVED", "{done}");
    assert_eq!(executed(&meter, "cold"), 1);
    assert_relay(&meter, true);
    Ok(())
}

/// A meter on a foreign stack, over the socket.
#[test]
fn a_foreign_meter_is_reset() -> Result<()> {
    let stack = Stack::start()?;
    for (number, closed) in [(1, true), (2, false)] {
        // One on the standard port, one where a laboratory put it.
        let address = stack.meter_address(number);
        let address = if closed {
            address
        } else {
            address.replace(":4059", ":40590")
        };
        let id = format!("foreign-{number}");
        let keys = Keys {
            ek: [0x10 + number; 16],
            ak: [0xA0 + number; 16],
            client_system_title: *b"LKY\x00\x00\x00\x00\x01",
            server_system_title: *b"FRN\x00\x00\x00\x00\x07",
        };
        let meter = ForeignMeter::start(address.parse()?, keys, closed)?;
        let file = stack.dir().join(format!("{id}.toml"));
        let text = format!(
            "client_system_title = \"{}\"\nserver_system_title = \"{}\"\nek = \"{}\"\nak = \"{}\"\n",
            hex::encode(keys.client_system_title),
            hex::encode(keys.server_system_title),
            hex::encode(keys.ek),
            hex::encode(keys.ak),
        );
        std::fs::write(&file, text)?;
        stack.enrol(&id, &address, &file, "standard", &[])?;
        let done = stack
            .json(&["reset", &id, "--tier", "cold", "--wait"])
            .with_context(|| stack.logs())?;
        assert_eq!(done["verdict"], "SUCCEEDED", "{done}");
        let life = meter.life();
        assert_eq!(life.executed, [3], "one cold reset");
        assert_eq!(
            (life.relay_closed, life.relay_commands.as_slice()),
            (closed, &[][..])
        );
        assert_eq!(life.power_failures, 5);
    }
    Ok(())
}
