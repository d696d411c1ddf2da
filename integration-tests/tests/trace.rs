//! The frame trace that the association service writes, explained by `latchkey trace explain`.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::fs;

use anyhow::{Context as _, Result, ensure};
use integration_tests::stack::{Stack, path_text};
use serde_json::Value;

#[test]
fn the_trace_of_a_reset_explains_itself() -> Result<()> {
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
    stack
        .ok(&["reset", &meter.id, "--tier", "cold", "--wait"])
        .with_context(|| stack.logs())?;
    let (trace, keys) = (path_text(&trace)?, path_text(&meter.lab_keys)?);
    let explained = stack.ok(&[
        "--output",
        "json",
        "trace",
        "explain",
        trace,
        "--lab-keys",
        keys,
    ])?;
    let frames = explained
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>()?;
    for frame in &frames {
        ensure!(frame["fault"].is_null(), "{frame}");
        ensure!(frame["meter"] == meter.id.as_str(), "{frame}");
        // what is ciphered is deciphered; what is not is withheld
        let opened = frame["plaintext"]["verified"] == true;
        ensure!(opened || frame["frame"]["withheld"].is_u64(), "{frame}");
    }
    let count = |pointer: &str, value: &str| {
        let says = |frame: &&Value| frame.pointer(pointer).is_some_and(|found| found == value);
        frames.iter().filter(says).count()
    };
    ensure!(count("/apdu/type", "AARQ") > 0, "{explained}");
    let object = "/plaintext/apdu/cosem_method_descriptor/instance_id";
    ensure!(count(object, "0.0.10.1.0.255") == 1, "{explained}");
    ensure!(count(object, "0.0.40.0.0.255") > 0, "{explained}");

    // People read the same, and no key is in it.
    let told = stack.ok(&["trace", "explain", trace, "--lab-keys", keys])?;
    ensure!(
        told.contains("manufacturer-specific script table"),
        "{told}"
    );
    let keys: toml::Table = fs::read_to_string(keys)?.parse()?;
    for name in ["ek", "ak"] {
        let key = keys
            .get(name)
            .and_then(toml::Value::as_str)
            .context("a key")?;
        let said = format!("{told}{explained}").replace(' ', "");
        ensure!(!said.contains(key), "{name}");
    }
    Ok(())
}
