//! `kill -9` of each process at each crash point in the middle of a reset, then a restart: one executed reset, a
//! complete trail, and no invocation counter used twice.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use integration_tests::stack::{SERVICES, SimMeter, Stack, path_text, until};

/// Points that a reset passes; the others belong to enrolment and start-up and are named where they are tested.
fn points() -> Vec<(&'static str, &'static str)> {
    let of = |service: &'static str, points: &'static [&'static str]| {
        points.iter().map(move |point| (service, *point))
    };
    of("custody", custody::CRASH_POINTS)
        .chain(of("association", association::CRASH_POINTS))
        .chain(of("reset", reset::CRASH_POINTS))
        .chain(of("auditor", auditor::CRASH_POINTS))
        .collect()
}

/// Resets a meter with one service armed; restarts whatever dies; returns whether the point was passed.
fn reset_through(stack: &mut Stack, meter: &SimMeter, service: &str, point: &str) -> Result<bool> {
    let before = meter.events_of("reset").len();
    stack.terminate(service)?;
    let marker = stack.arm(service, point)?;
    stack.spawn(service)?;
    let id = uuid::Uuid::now_v7().to_string();
    let said = stack.dir().join(format!("{point}.story"));
    let arguments = [
        "--output",
        "json",
        "reset",
        &meter.id,
        "--tier",
        "cold",
        "--wait",
        "--request-id",
        &id,
    ];
    let mut telling = stack.tell(&arguments, &said)?;
    let done = until(Duration::from_secs(120), || {
        for service in SERVICES {
            stack.spawn(service).expect("restarted");
        }
        if telling.try_wait().ok()?.is_none() {
            return None;
        }
        let verdict = verdict_in(&fs::read_to_string(&said).ok()?);
        if verdict.is_none() {
            // It gave up: the service was away for too long, or the request never arrived. The same request again.
            telling = stack.tell(&arguments, &said).expect("it runs");
        }
        verdict
    });
    let _ = telling.kill();
    let _ = telling.wait();
    let verdict = done.with_context(|| format!("{point}: no verdict\n{}", stack.logs()))?;
    ensure!(
        ["SUCCEEDED", "ZOMBIE_RESOLVED"].contains(&verdict.as_str()),
        "{point}: {verdict}\n{}",
        stack.logs()
    );
    let executed = meter.events_of("reset").len() - before;
    ensure!(
        executed == 1,
        "{point}: {executed} resets were executed\n{}",
        stack.logs()
    );
    Ok(!marker.exists())
}

/// The verdict in the last object of a story, if it has one.
fn verdict_in(story: &str) -> Option<String> {
    let last = story
        .lines()
        .rev()
        .find(|line| line.contains("\"verdict\""))?;
    let last: serde_json::Value = serde_json::from_str(last).ok()?;
    last["verdict"]
        .as_str()
        .filter(|verdict| !verdict.is_empty() && *verdict != "UNSPECIFIED")
        .map(str::to_owned)
}

/// Every invocation counter the association sent, by meter: none twice.
fn assert_counters_are_fresh(trace: &Path) -> Result<usize> {
    let mut seen: BTreeMap<(String, u32), String> = BTreeMap::new();
    for line in fs::read_to_string(trace)?.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, meter, direction, frame, ..] = fields.as_slice() else {
            continue;
        };
        if !["tx", "out", ">", "sent"].contains(direction) {
            continue;
        }
        let frame = hex::decode(frame).unwrap_or_default();
        // Wrapper header of 8 octets, then tag, length, security control 30 and the counter.
        if let Some([tag, _, 0x30, a, b, c, d, ..]) = frame.get(8..)
            && (0xC8..=0xCF).contains(tag)
        {
            let counter = u32::from_be_bytes([*a, *b, *c, *d]);
            let again = seen.insert((meter.to_string(), counter), line.to_owned());
            ensure!(
                again.is_none_or(|first| first.ends_with(&hex::encode(&frame))),
                "counter {counter} was used twice: {line}"
            );
        }
    }
    Ok(seen.len())
}

#[test]
fn every_crash_point_ends_in_one_reset() -> Result<()> {
    let mut stack = Stack::prepare()?;
    let association = stack.config("association");
    let trace = stack.dir().join("frames.trace");
    let text = fs::read_to_string(&association)?;
    fs::write(
        &association,
        format!("trace_file = {:?}\n{text}", path_text(&trace)?),
    )?;
    stack.up()?;
    let meter = stack.meter(1, "standard", &["--boot-seconds", "0.3"])?;
    let (mut passed, mut missed) = (0, Vec::new());
    for (service, point) in points() {
        if reset_through(&mut stack, &meter, service, point)? {
            passed += 1;
        } else {
            missed.push(point);
        }
    }
    println!("{passed} crash points, each killed once; not on the way of a reset: {missed:?}");
    let off_the_way = ["custody.keys", "auditor.allowlist"];
    let unexpected: Vec<_> = missed
        .iter()
        .filter(|point| !off_the_way.iter().any(|off| point.starts_with(off)))
        .collect();
    assert!(unexpected.is_empty(), "never reached: {unexpected:?}");

    let counters = assert_counters_are_fresh(&trace)?;
    println!("{counters} invocation counters, none twice");
    assert!(counters > passed * 10);

    // The trail is whole, and says for every reset what was intended and how it ended.
    let file = stack.dir().join("trail.txt");
    let (file, key) = (path_text(&file)?, stack.dir().join("trail.vkey"));
    stack.ok(&["audit", "export", "--out", file])?;
    stack.ok(&["audit", "verify", file, "--key", path_text(&key)?])?;
    let entries = stack.ok(&["--output", "json", "audit", "list", "--meter", &meter.id])?;
    let count = |kind: &str| entries.matches(kind).count();
    assert!(
        count("INTENT") >= passed && count("VERDICT") >= passed,
        "{entries}"
    );
    Ok(())
}

/// `kill -9` from outside, at a moment nobody chose.
#[test]
fn each_process_may_die_at_any_moment() -> Result<()> {
    let mut stack = Stack::start()?;
    let meter = stack.meter(1, "standard", &["--boot-seconds", "0.3"])?;
    for (round, service) in SERVICES.into_iter().cycle().take(10).enumerate() {
        let before = meter.events_of("reset").len();
        let created = stack.json(&["reset", &meter.id, "--tier", "cold"])?;
        let id = created["reset_id"].as_str().context("an id")?.to_owned();
        std::thread::park_timeout(Duration::from_millis(u64::try_from(round)? * 17));
        stack.kill(service)?;
        stack.up()?;
        let verdict = until(Duration::from_secs(60), || {
            verdict_in(
                &stack
                    .ok(&["--output", "json", "resets", "show", &id])
                    .ok()?,
            )
        });
        let verdict =
            verdict.with_context(|| format!("{service}: no verdict\n{}", stack.logs()))?;
        assert!(
            ["SUCCEEDED", "ZOMBIE_RESOLVED"].contains(&verdict.as_str()),
            "{service}: {verdict}"
        );
        assert_eq!(
            meter.events_of("reset").len() - before,
            1,
            "{service}\n{}",
            stack.logs()
        );
    }
    Ok(())
}
