//! Foreign clients read our simulated meter over HLS5. They are separate programs; `integration-tests/run` installs
//! them.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use integration_tests::stack::{SimMeter, binary, path_text};
use serde_json::Value;

fn peer(script: &str, arguments: &[&str]) -> Result<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace")?;
    let python = root.join("target/tools/peers/bin/python");
    ensure!(
        python.exists(),
        "the foreign peers are not installed: run integration-tests/run"
    );
    let output = Command::new(python)
        .arg(root.join("integration-tests/peers").join(script))
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "{script}: {out}\n{err}");
    serde_json::from_str(out.trim()).with_context(|| format!("{script} printed {out}"))
}

/// Starts a meter, lets a foreign client read it and execute a cold reset, and checks what the meter saw.
fn reads_and_resets(host: &str, script: &str, more: &[&str]) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let keys = dir.path().join("keys.toml");
    let made = Command::new(binary("latchkey")?)
        .args(["sim", "keys", "--out"])
        .arg(&keys)
        .output()?;
    ensure!(
        made.status.success(),
        "sim keys: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    let address = format!("{host}:4059");
    let meter = SimMeter::start(dir.path(), "peer", &address, &keys, "standard", &[])?;
    let read = peer(
        script,
        &[
            &[address.as_str(), path_text(&keys)?],
            more,
            &["--reset", "3"],
        ]
        .concat(),
    )?;
    assert!(read.is_object(), "{read}");
    let opened = meter
        .events_of("association")
        .into_iter()
        .filter(|event| event["outcome"] == "opened")
        .count();
    assert!(opened >= 1, "{:?}", meter.events());
    assert_eq!(meter.events_of("reset").len(), 1, "{read}");
    assert!(
        meter
            .events_of("relay")
            .iter()
            .all(|event| event["moved"] == false)
    );
    Ok(())
}

#[test]
fn gurux_reads_our_meter_over_hls5_with_glo() -> Result<()> {
    reads_and_resets("127.30.0.1", "gurux_client.py", &["--protection", "glo"])
}

#[test]
fn gurux_reads_our_meter_over_hls5_with_general_glo() -> Result<()> {
    reads_and_resets(
        "127.30.0.2",
        "gurux_client.py",
        &["--protection", "general-glo"],
    )
}

#[test]
fn dlms_cosem_reads_our_meter_over_hls5() -> Result<()> {
    reads_and_resets("127.30.0.3", "dlms_cosem_client.py", &[])
}
