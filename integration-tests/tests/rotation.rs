//! Keys changed over the air, with real processes, a real token and simulated meters that really change them: each key,
//! each suite, each way to lose something; then resets under the new keys, and a meter that knows the old ones no more.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and figures are for the reader"
)]

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use integration_tests::stack::{SERVICES, SimMeter, Stack, path_text, until};
use serde_json::Value;

/// A stack whose rotations do not wait long, with a trace of every frame.
fn town() -> Result<Stack> {
    let stack = Stack::prepare()?;
    let trace = stack.dir().join("frames.trace");
    for (service, more) in [
        (
            "reset",
            "rotation_retry_seconds = 1\nact_timeout_ms = 5000\n".to_owned(),
        ),
        ("custody", "rotation_openings_max = 1000\n".to_owned()),
        (
            "association",
            format!("trace_file = {:?}\n", path_text(&trace)?),
        ),
    ] {
        let file = stack.config(service);
        let text = fs::read_to_string(&file)?;
        fs::write(&file, format!("{more}{text}"))?;
    }
    Ok(stack)
}

/// A meter of a suite, enrolled.
fn meter(stack: &Stack, number: u8, suite: &str, more: &[&str]) -> Result<SimMeter> {
    let id = format!("sim-{number}");
    let keys = stack.dir().join(format!("{id}.keys.toml"));
    let address = stack.meter_address(number);
    stack.ok(&["sim", "keys", "--out", path_text(&keys)?, "--suite", suite])?;
    let more = [&["--boot-seconds", "0.3"], more].concat();
    let meter = SimMeter::start(stack.dir(), &id, &address, &keys, "standard", &more)?;
    stack.enrol(&id, &address, &keys, "standard", &["--rotatable"])?;
    Ok(meter)
}

fn admin(stack: &Stack) -> Result<String> {
    Ok(path_text(&stack.dir().join("admin.toml"))?.to_owned())
}

/// Changes keys of a meter, and waits for the verdict, whatever it is.
fn rotate(stack: &Stack, meter: &str, keys: &[&str]) -> Result<Value> {
    let config = admin(stack)?;
    let fixed = [
        "--config", &config, "--output", "json", "keys", "rotate", meter,
    ];
    let rest = ["--reason", "a test", "--wait"];
    let output = stack.latchkey(&[&fixed[..], keys, &rest].concat())?;
    let text = String::from_utf8(output.stdout)?;
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = last.with_context(|| format!("{said}\n{}", stack.logs()))?;
    serde_json::from_str(last).with_context(|| format!("{text}\n{said}"))
}

fn must_rotate(stack: &Stack, meter: &str, keys: &[&str]) -> Result<Value> {
    let rotation = rotate(stack, meter, keys)?;
    ensure!(
        rotation["verdict"] == "ROTATED",
        "{keys:?}: {rotation}\n{}",
        stack.logs()
    );
    Ok(rotation)
}

/// The meter and the store agree: a reset, with all its guards, succeeds.
fn must_reset(stack: &Stack, meter: &SimMeter) -> Result<()> {
    let before = meter.events_of("reset").len();
    let verdict = stack.json(&["reset", &meter.id, "--tier", "cold", "--wait"])?;
    ensure!(
        verdict["verdict"] == "SUCCEEDED",
        "{verdict}\n{}",
        stack.logs()
    );
    ensure!(meter.events_of("reset").len() == before + 1);
    Ok(())
}

/// What the meter holds in its memory, if it is not what it left the factory with.
fn kept(stack: &Stack, meter: &SimMeter) -> Result<Value> {
    let state = stack.dir().join(format!("{}.state", meter.id));
    let state: Value = serde_json::from_slice(&fs::read(state)?)?;
    Ok(state["keys"].clone())
}

fn lab(meter: &SimMeter, name: &str) -> Result<String> {
    let text = fs::read_to_string(&meter.lab_keys)?;
    let keys: toml::Table = toml::from_str(&text)?;
    Ok(keys[name].as_str().unwrap_or_default().to_owned())
}

fn shown(stack: &Stack, meter: &str) -> Result<Value> {
    stack.json(&["keys", "show", meter])
}

#[test]
fn every_key_changes_in_every_suite() -> Result<()> {
    let mut stack = town()?;
    stack.up()?;
    std::thread::scope(|scope| {
        let stack = &stack;
        let running: Vec<_> = [(1, "0"), (2, "1"), (3, "2")]
            .map(|(number, suite)| scope.spawn(move || whole_ring(stack, number, suite)))
            .into_iter()
            .collect();
        running
            .into_iter()
            .try_for_each(|one| one.join().expect("it does not panic"))
    })?;
    let file = stack.dir().join("trail.txt");
    let (file, key) = (path_text(&file)?, stack.dir().join("trail.vkey"));
    stack.ok(&["audit", "export", "--out", file])?;
    stack.ok(&["audit", "verify", file, "--key", path_text(&key)?])?;
    Ok(())
}

fn whole_ring(stack: &Stack, number: u8, suite: &str) -> Result<()> {
    let meter = meter(stack, number, suite, &[])?;
    let before = shown(stack, &meter.id)?["check_value"].clone();
    must_reset(stack, &meter)?;
    let mut turns: Vec<(&[&str], &[&str])> = vec![
        (&["--key", "guek"], &["ek"]),
        (&["--key", "gak"], &["ak"]),
        (&["--key", "guek,gak"], &["ek", "ak"]),
        (&["--key", "gbek"], &["gbek"]),
        (&["--key", "master"], &["kek"]),
        (&["--key", "guek,gbek,gak"], &["ek", "ak", "gbek"]),
    ];
    if suite != "0" {
        turns.push((&["--key", "master", "--agree"], &["kek"]));
        turns.push((&["--key", "guek"], &["ek"]));
    }
    let names = [
        ("ek", "encryption"),
        ("ak", "authentication"),
        ("gbek", "broadcast"),
        ("kek", "master"),
    ];
    let mut last = names.map(|(file, _)| lab(&meter, file).expect("the file has it"));
    for (keys, changed) in turns {
        must_rotate(stack, &meter.id, keys).with_context(|| format!("suite {suite}"))?;
        let now = kept(stack, &meter)?;
        for ((file, name), last) in names.iter().zip(&mut last) {
            let now = now[name].as_str().context("a key")?.to_owned();
            ensure!(
                (now != *last) == changed.contains(file),
                "suite {suite}, {keys:?}: {name} changed: {}",
                now != *last
            );
            *last = now;
        }
        let ip = meter.address.split(':').next().context("an address")?;
        stack.ok(&["connect", "--ip", ip, "--auth", "HLS5"])?;
    }
    must_reset(stack, &meter)?;
    ensure!(shown(stack, &meter.id)?["check_value"] != before);
    Ok(())
}

/// Whatever is lost on the way, or done halfway: the meter and the store agree in the end.
#[test]
fn what_is_lost_on_the_way_is_found_out() -> Result<()> {
    let mut stack = town()?;
    stack.up()?;
    let guek: &[&str] = &["--key", "guek,gak"];
    let master: &[&str] = &["--key", "master"];
    let agree: &[&str] = &["--key", "master", "--agree"];
    let gbek: &[&str] = &["--key", "gbek"];
    let lines: &[(&str, &str, &[&str])] = &[
        ("lost-rekey-ack", "0", guek),
        ("lost-rekey-request", "0", guek),
        ("rekey-forgotten", "0", guek),
        ("lost-rekey-ack", "0", gbek),
        ("lost-rekey-ack", "1", master),
        ("lost-rekey-request", "1", master),
        ("rekey-forgotten", "1", master),
        ("lost-rekey-ack", "1", agree),
        ("lost-rekey-request", "2", agree),
        ("rekey-forgotten", "2", agree),
    ];
    std::thread::scope(|scope| {
        let stack = &stack;
        let running: Vec<_> = lines
            .iter()
            .enumerate()
            .map(|(number, line)| {
                let number = u8::try_from(number).expect("few") + 1;
                scope.spawn(move || {
                    let (fault, suite, keys) = line;
                    lost(stack, number, (fault, suite), keys)
                        .with_context(|| format!("{fault}, suite {suite}, {keys:?}"))
                })
            })
            .collect();
        running
            .into_iter()
            .try_for_each(|one| one.join().expect("it does not panic"))
    })
}

fn lost(stack: &Stack, number: u8, (fault, suite): (&str, &str), keys: &[&str]) -> Result<()> {
    let meter = meter(stack, number, suite, &["--fault", fault])?;
    must_rotate(stack, &meter.id, keys)?;
    must_reset(stack, &meter)?;
    // and once more, without a fault
    must_rotate(stack, &meter.id, keys)?;
    must_reset(stack, &meter)
}

/// A meter that says no keeps its keys, and everything else goes on.
#[test]
fn a_refusal_leaves_everything_as_it_was() -> Result<()> {
    let mut stack = town()?;
    stack.up()?;
    let meter = meter(&stack, 1, "0", &["--fault", "rekey-refused=100"])?;
    let before = shown(&stack, &meter.id)?["check_value"].clone();
    let rotation = rotate(&stack, &meter.id, &["--key", "guek,gak"])?;
    ensure!(rotation["verdict"] == "REFUSED", "{rotation}");
    ensure!(kept(&stack, &meter)?.is_null());
    ensure!(shown(&stack, &meter.id)?["check_value"] == before);
    must_reset(&stack, &meter)?;
    // Whoever resets meters may not change their keys, not even with the right certificate for the call.
    let refused = stack.latchkey(&["keys", "rotate", &meter.id, "--reason", "a try", "--wait"])?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    // A meter that is away is left alone.
    let id = meter.id.clone();
    drop(meter);
    let rotation = rotate(&stack, &id, &["--key", "guek"])?;
    ensure!(rotation["verdict"] == "UNREACHABLE", "{rotation}");
    Ok(())
}

/// Every crash point that a rotation passes, by service.
fn walks() -> Vec<(&'static str, Vec<&'static str>)> {
    let custody = custody::CRASH_POINTS.iter().copied().filter(|point| {
        [
            "custody.rotation.before_begin",
            "custody.rotation.after_begin",
            "custody.rotation.before_unsettle",
            "custody.rotation.after_unsettle",
            "custody.rotation.before_settle",
            "custody.rotation.after_settle",
            "custody.counters.after_reserve",
            "custody.use.after_count",
            "custody.protect.after_cipher",
        ]
        .contains(point)
    });
    let association = [
        "association.act.before_send",
        "association.act.after_send",
        "association.act.after_answer",
    ];
    let reset = reset::CRASH_POINTS
        .iter()
        .copied()
        .filter(|point| point.starts_with("reset.rotation."));
    vec![
        ("custody", custody.collect()),
        ("association", association.to_vec()),
        ("reset", reset.collect()),
    ]
}

#[test]
fn every_crash_point_ends_in_one_set_of_keys() -> Result<()> {
    std::thread::scope(|scope| {
        let running: Vec<_> = walks()
            .into_iter()
            .map(|(service, points)| scope.spawn(move || walk(service, &points)))
            .collect();
        running
            .into_iter()
            .try_for_each(|one| one.join().expect("it does not panic"))
    })
}

fn walk(service: &str, points: &[&str]) -> Result<()> {
    let mut stack = town()?;
    stack.up()?;
    let meter = meter(&stack, 1, "0", &[])?;
    let mut seen = BTreeSet::new();
    for point in points {
        let passed = rotate_through(&mut stack, &meter, service, point)?;
        ensure!(passed, "{point} was never reached");
        let now = kept(&stack, &meter)?["encryption"]
            .as_str()
            .context("a key")?
            .to_owned();
        ensure!(seen.insert(now), "{point}: the key did not change");
        must_reset(&stack, &meter).with_context(|| format!("after {point}"))?;
    }
    println!("{service}: killed at {} lines of a rotation", points.len());
    Ok(())
}

/// Changes keys with one service armed; restarts whatever dies; returns whether the point was passed.
fn rotate_through(stack: &mut Stack, meter: &SimMeter, service: &str, point: &str) -> Result<bool> {
    stack.terminate(service)?;
    let marker = stack.arm(service, point)?;
    stack.up()?;
    let config = admin(stack)?;
    let id = uuid::Uuid::now_v7().to_string();
    let said: PathBuf = stack.dir().join(format!("{point}.story"));
    let arguments = [
        "--config",
        &config,
        "--output",
        "json",
        "keys",
        "rotate",
        &meter.id,
        "--reason",
        "a walk",
        "--wait",
        "--request-id",
        &id,
    ];
    let mut telling = stack.tell(&arguments, &said)?;
    let done = until(Duration::from_secs(120), || {
        for service in SERVICES {
            stack.spawn(service).expect("restarted");
        }
        telling.try_wait().ok()??;
        let story = fs::read_to_string(&said).unwrap_or_default();
        let last = story
            .lines()
            .rev()
            .find_map(|line| serde_json::from_str::<Value>(line).ok());
        let last = last.filter(|it| it["verdict"].as_str().is_some_and(|it| !it.is_empty()));
        if last.is_none() {
            // The service was away for too long, or the request never arrived. The same request again.
            telling = stack.tell(&arguments, &said).expect("it runs");
        }
        last
    });
    let _ = telling.kill();
    let _ = telling.wait();
    let done = done.with_context(|| format!("{point}: no verdict\n{}", stack.logs()))?;
    ensure!(
        done["verdict"] == "ROTATED",
        "{point}: {done}\n{}",
        stack.logs()
    );
    Ok(!marker.exists())
}

/// The runbook: keys that somebody else may have serve for nothing but to be replaced, the master key first.
#[test]
fn compromised_keys_are_replaced_over_the_air() -> Result<()> {
    let mut stack = town()?;
    stack.up()?;
    let meter = meter(&stack, 1, "1", &[])?;
    stack.ok(&[
        "keys",
        "compromise",
        &meter.id,
        "--reason",
        "a laptop is gone",
    ])?;
    let refused = stack.json(&["reset", &meter.id, "--tier", "soft", "--wait"]);
    ensure!(refused.is_err(), "{refused:?}");
    must_rotate(&stack, &meter.id, &["--key", "master", "--agree"])?;
    let refused = stack.json(&["reset", &meter.id, "--tier", "soft", "--wait"]);
    ensure!(refused.is_err(), "{refused:?}");
    must_rotate(&stack, &meter.id, &["--key", "guek,gak"])?;
    must_reset(&stack, &meter)
}
