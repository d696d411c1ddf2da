//! What bad input gets: a clear error with its cause and its mend, the right exit code, nothing changed, and, where a
//! command was asked for, a denial in the trail.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{fs, io::Write as _, net::TcpStream, time::Duration};

use anyhow::{Context as _, Result};
use integration_tests::stack::{SimMeter, Stack, path_text, until};

/// Runs a command that must be refused; returns what it said.
fn refused(stack: &Stack, arguments: &[&str], code: i32, words: &[&str]) -> Result<String> {
    let output = stack.latchkey(arguments)?;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        output.status.code(),
        Some(code),
        "latchkey {}: {said}",
        arguments.join(" ")
    );
    for word in words {
        assert!(
            said.to_lowercase().contains(&word.to_lowercase()),
            "{word:?} is missing in: {said}"
        );
    }
    Ok(said)
}

fn denials(stack: &Stack) -> Result<usize> {
    Ok(stack
        .ok(&["--output", "json", "audit", "list"])?
        .matches("DENIAL")
        .count())
}

/// Nothing was executed and the relay is where it was.
fn untouched(meter: &SimMeter) {
    assert!(
        meter.events_of("reset").is_empty() && meter.events_of("action").is_empty(),
        "{:?}",
        meter.events()
    );
    assert!(
        meter
            .events_of("relay")
            .iter()
            .all(|event| event["moved"] == false)
    );
}

/// Command, exit code, a word it says. METER stands for an enrolled meter.
const MUST_NOT_BE: [(&str, i32, &str); 7] = [
    ("reset nobody --tier cold --wait", 4, "unknown"),
    (
        "get-object --meter METER --id 0.0.96 --attribute 2",
        64,
        "0.0.96",
    ),
    (
        "invoke-method --meter METER --id 0.0.96.3.10.255 --class 70 --method 1 --data 0",
        1,
        "polic",
    ),
    (
        "invoke-method --meter METER --id 0.0.96.3.10.255 --class 70 --method 2 --data 0",
        1,
        "polic",
    ),
    (
        "invoke-method --meter METER --id 0.0.10.0.0.255 --class 9 --method 1 --data long-unsigned:1",
        1,
        "polic",
    ),
    (
        "get-object --meter METER --id 1.0.1.8.0.255 --class 3 --attribute 2",
        1,
        "polic",
    ),
    (
        "get-object --meter METER --id 0.0.43.0.0.255 --class 64 --attribute 2",
        1,
        "polic",
    ),
];

#[test]
fn commands_that_must_not_be() -> Result<()> {
    let stack = Stack::start()?;
    let meter = stack.meter(1, "standard", &[])?;
    let mut before = denials(&stack)?;
    for (command, code, word) in MUST_NOT_BE {
        let command = command.replace("METER", &meter.id);
        refused(
            &stack,
            &command.split(' ').collect::<Vec<_>>(),
            code,
            &[word],
        )?;
        let now = denials(&stack)?;
        assert!(now > before, "{command} left no denial");
        before = now;
    }
    untouched(&meter);
    // HLS7 is not what this meter is enrolled with: said so, nothing sent.
    let (ip, port) = meter.address.split_once(':').context("an address")?;
    let output = stack.latchkey(&["connect", "--ip", ip, "--port", port, "--auth", "HLS7"])?;
    assert!(!output.status.success());
    Ok(())
}

#[test]
fn a_wrong_key_is_a_security_error_and_changes_nothing() -> Result<()> {
    let stack = Stack::start()?;
    let address = stack.meter_address(1);
    let (real, wrong) = (
        stack.dir().join("real.keys.toml"),
        stack.dir().join("wrong.keys.toml"),
    );
    stack.ok(&["sim", "keys", "--out", path_text(&real)?])?;
    stack.ok(&["sim", "keys", "--out", path_text(&wrong)?])?;
    // The titles are right, the keys are another meter's.
    let (good, bad): (toml::Table, toml::Table) = (
        fs::read_to_string(&real)?.parse()?,
        fs::read_to_string(&wrong)?.parse()?,
    );
    let mut mixed = good;
    mixed.insert("ek".to_owned(), bad["ek"].clone());
    fs::write(&wrong, toml::to_string(&mixed)?)?;
    let meter = SimMeter::start(stack.dir(), "sim-1", &address, &real, "standard", &[])?;
    stack.enrol("sim-1", &address, &wrong, "standard", &[])?;
    let output = stack.latchkey(&[
        "connect",
        "--ip",
        &address[..address.len() - 5],
        "--port",
        "4059",
        "--auth",
        "HLS5",
    ])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("SECURITY") || said.to_lowercase().contains("security"),
        "{said}"
    );
    untouched(&meter);
    Ok(())
}

#[test]
fn lab_keys_in_clear_are_refused_unless_custody_says_so() -> Result<()> {
    let mut stack = Stack::prepare()?;
    let custody = stack.config("custody");
    let text = fs::read_to_string(&custody)?;
    assert!(
        text.contains("lab_import = true"),
        "a development stack imports laboratory keys"
    );
    fs::write(
        &custody,
        text.replace("lab_import = true", "lab_import = false"),
    )?;
    stack.up()?;
    let keys = stack.dir().join("x.keys.toml");
    stack.ok(&["sim", "keys", "--out", path_text(&keys)?])?;
    let address = stack.meter_address(1);
    let add = [
        "meter",
        "add",
        "x",
        "--address",
        &address,
        "--lab-keys",
        path_text(&keys)?,
        "--profile",
        "standard",
    ];
    let output = stack.latchkey(&add)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("lab_import"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_wrong_pin_stops_custody_with_a_clear_message_and_is_not_tried_again() -> Result<()> {
    let mut stack = Stack::prepare()?;
    let text = fs::read_to_string(stack.config("custody"))?;
    let pin = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("pin_file = "))
        .context("a PIN file")?;
    fs::write(pin.trim_matches(['"', '\'']), "00000000")?;
    stack.spawn("auditor")?;
    stack.spawn("custody")?;
    until(Duration::from_secs(20), || {
        (!stack.is_running("custody")).then_some(())
    })
    .context("custody should have ended")?;
    let log = fs::read_to_string(stack.dir().join("custody.test.log"))?;
    assert!(log.contains("PIN"), "{log}");
    assert!(!log.contains("00000000"), "the PIN itself is not said");
    Ok(())
}

#[test]
fn strangers_and_garbage_at_port_4059_get_nothing() -> Result<()> {
    let stack = Stack::start()?;
    let meter = stack.meter(1, "standard", &[])?;
    let relay = format!("{}:4059", stack.host());
    let drops = || {
        stack
            .ok(&["--output", "json", "audit", "list"])
            .map(|text| text.matches("ENTRY_KIND_DROP").count() + text.matches("\"DROP\"").count())
    };
    // No TLS, no certificate, a DLMS frame straight to the port: dropped and recorded.
    for bytes in [
        &b"\x00\x01\x00\x01\x00\x01\x00\x04\x60\x02\x00\x00"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xFF; 64],
    ] {
        let mut stream = TcpStream::connect(&relay)?;
        stream.write_all(bytes)?;
        drop(stream);
    }
    until(Duration::from_secs(20), || {
        (drops().ok()? > 0).then_some(())
    })
    .context("the drops are in the trail")?;
    untouched(&meter);
    // Off the list, the way is closed; nothing reaches the meter.
    let admin = stack.dir().join("admin.toml");
    stack.ok(&[
        "--config",
        path_text(&admin)?,
        "allowlist",
        "remove",
        "source",
        "127.0.0.1/32",
    ])?;
    let connected = meter.events_of("connected").len();
    let closed = until(Duration::from_secs(20), || {
        let output = stack
            .latchkey(&[
                "get-object",
                "--meter",
                &meter.id,
                "--id",
                "0.0.96.3.10.255",
                "--attribute",
                "2",
            ])
            .ok()?;
        (!output.status.success()).then_some(())
    });
    assert!(closed.is_some(), "a removed source still passes");
    let after = meter.events_of("connected").len();
    let output = stack.latchkey(&[
        "get-object",
        "--meter",
        &meter.id,
        "--id",
        "0.0.96.3.10.255",
        "--attribute",
        "2",
    ])?;
    assert!(!output.status.success());
    assert!(
        after >= connected && meter.events_of("connected").len() == after,
        "nothing reached the meter"
    );
    Ok(())
}

#[test]
fn a_configuration_that_is_wrong_is_refused_before_anything_starts() -> Result<()> {
    let stack = Stack::prepare()?;
    for service in integration_tests::stack::SERVICES {
        let binary = integration_tests::stack::binary(&format!("latchkey-{service}"))?;
        let check = |file: &std::path::Path| {
            let output = std::process::Command::new(&binary)
                .arg("--check-config")
                .arg("--config")
                .arg(file)
                .output();
            output.map(|output| {
                (
                    output.status.success(),
                    String::from_utf8_lossy(&output.stderr).into_owned(),
                )
            })
        };
        let good = stack.config(service);
        assert_eq!(check(&good)?, (true, String::new()), "{service}");
        let bad = stack.dir().join("bad.toml");
        let text = fs::read_to_string(&good)?;
        fs::write(&bad, format!("surprise = 1\n{text}"))?;
        let (ok, said) = check(&bad)?;
        assert!(!ok && said.contains("surprise"), "{service}: {said}");
    }
    Ok(())
}
