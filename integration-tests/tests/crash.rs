//! `kill -9` of each process at each crash point in the middle of a reset, then a restart: one executed reset, a
//! complete trail, and no invocation counter used twice.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and figures are for the reader"
)]

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use integration_tests::stack::{SERVICES, SimMeter, Stack, path_text, until};

/// Where one stack is killed: which service, at which lines, and what its meter does meanwhile.
struct Walk {
    service: &'static str,
    points: Vec<&'static str>,
    meter: &'static [&'static str],
}

/// Every crash point that a reset passes. Those of enrolment, of a re-wrap and of a database that went back are custody's
/// own tests; those of a change of keys are in `rotation`.
fn walks() -> Vec<Walk> {
    const STANDARD: &[&str] = &["--boot-seconds", "0.3"];
    // Lines that only a lost answer leads to.
    const LOST: &[&str] = &["--boot-seconds", "0.3", "--fault", "lost-ack=100"];
    let only_lost = |point: &&str| ["reset.counter.after", "reset.probe.after"].contains(point);
    let of = |service, points: Vec<&'static str>, meter| Walk {
        service,
        points,
        meter,
    };
    let custody = custody::CRASH_POINTS.iter().copied().filter(|point| {
        let elsewhere = ["custody.keys.", "custody.rewrap.", "custody.rotation."];
        !point.ends_with("_raise") && !elsewhere.iter().any(|begin| point.starts_with(begin))
    });
    let (lost, reset): (Vec<_>, Vec<_>) = reset::CRASH_POINTS
        .iter()
        .copied()
        .filter(|point| !point.starts_with("reset.rotation."))
        .partition(only_lost);
    let (first, second) = reset.split_at(reset.len() / 2);
    vec![
        of("custody", custody.collect(), STANDARD),
        of("association", association::CRASH_POINTS.to_vec(), STANDARD),
        of("auditor", auditor::CRASH_POINTS.to_vec(), STANDARD),
        of("reset", first.to_vec(), STANDARD),
        of("reset", second.to_vec(), STANDARD),
        of("reset", lost, LOST),
    ]
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
        telling.try_wait().ok()??;
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
    // A stack for each walk, side by side: a reset is mostly waiting.
    std::thread::scope(|scope| {
        let running: Vec<_> = walks()
            .into_iter()
            .map(|walk| scope.spawn(move || go(&walk)))
            .collect();
        running
            .into_iter()
            .try_for_each(|walk| walk.join().expect("it does not panic"))
    })
}

fn go(walk: &Walk) -> Result<()> {
    let mut stack = Stack::prepare()?;
    let association = stack.config("association");
    let trace = stack.dir().join("frames.trace");
    let text = fs::read_to_string(&association)?;
    fs::write(
        &association,
        format!("trace_file = {:?}\n{text}", path_text(&trace)?),
    )?;
    stack.up()?;
    let meter = stack.meter(1, "standard", walk.meter)?;
    for point in &walk.points {
        let passed = reset_through(&mut stack, &meter, walk.service, point)?;
        ensure!(passed, "{point} was never reached");
    }
    let counters = assert_counters_are_fresh(&trace)?;
    let killed = walk.points.len();
    println!(
        "{}: killed at {killed} lines, {killed} resets, {counters} invocation counters, none twice",
        walk.service
    );
    ensure!(
        counters > killed * 10,
        "the trace holds too little: {counters}"
    );

    // The trail is whole, and says for every reset what was intended and how it ended.
    let file = stack.dir().join("trail.txt");
    let (file, key) = (path_text(&file)?, stack.dir().join("trail.vkey"));
    stack.ok(&["audit", "export", "--out", file])?;
    stack.ok(&["audit", "verify", file, "--key", path_text(&key)?])?;
    let entries = stack.ok(&["--output", "json", "audit", "list", "--meter", &meter.id])?;
    let count = |kind: &str| entries.matches(kind).count();
    ensure!(
        count("INTENT") >= killed && count("VERDICT") >= killed,
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
