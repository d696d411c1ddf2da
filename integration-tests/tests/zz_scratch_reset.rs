//! `kill -9` of each process at each crash point in the middle of a reset, then a restart: one executed reset, a
//! complete trail, and no invocation counter used twice.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration_tests::stack::{SERVICES, SimMeter, Stack, until};

/// Resets a meter with one service armed; restarts whatever dies; returns whether the point was passed.
fn reset_through(stack: &mut Stack, meter: &SimMeter, service: &str, point: &str) -> Result<bool> {
    let before = meter.events_of("reset").len();
    stack.terminate(service)?;
    let marker = stack.arm(service, point)?;
    stack.spawn(service)?;
    // A service that dies while it starts is restarted by the loop below.
    let id = uuid::Uuid::now_v7().to_string();
    let done = until(Duration::from_secs(90), || {
        for service in SERVICES {
            stack.spawn(service).expect("restarted");
        }
        let output = stack
            .latchkey(&[
                "--output",
                "json",
                "reset",
                &meter.id,
                "--tier",
                "cold",
                "--wait",
                "--request-id",
                &id,
            ])
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let last = text
            .lines()
            .rev()
            .find(|line| line.contains("\"verdict\""))?
            .to_owned();
        let last: serde_json::Value = serde_json::from_str(&last).ok()?;
        last["verdict"]
            .as_str()
            .filter(|verdict| !verdict.is_empty() && *verdict != "UNSPECIFIED")
            .map(str::to_owned)
    });
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

#[test]
fn scratch() -> Result<()> {
    let mut stack = Stack::prepare()?;
    stack.up()?;
    let meter = stack.meter(1, "standard", &["--boot-seconds", "0.3"])?;
    let mut failed = 0;
    for (service, point) in [
        ("reset", "reset.act.before"),
        ("reset", "reset.act.after"),
        ("reset", "reset.guards.after"),
        ("reset", "reset.authorise.after"),
        ("reset", "reset.record.after"),
        ("reset", "reset.poll.after"),
    ]
    .into_iter()
    .chain(
        association::CRASH_POINTS
            .iter()
            .filter(|p| p.contains("send") || p.contains("act"))
            .map(|p| ("association", *p)),
    ) {
        let began = std::time::Instant::now();
        match reset_through(&mut stack, &meter, service, point) {
            Ok(passed) => println!("{point}: ok passed={passed} {:?}", began.elapsed()),
            Err(e) => {
                failed += 1;
                println!("{point}: {:.1500}", e.to_string())
            }
        }
    }
    assert_eq!(failed, 0);
    Ok(())
}
