//! The exported trail of a real run: any one byte changed is noticed, and the place is named.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::fs;

use anyhow::{Context as _, Result};
use integration_tests::stack::{Stack, path_text};

#[test]
fn any_changed_byte_is_noticed_and_named() -> Result<()> {
    let stack = Stack::start()?;
    let meter = stack.meter(1, "standard", &[])?;
    stack
        .json(&["reset", &meter.id, "--tier", "soft", "--wait"])
        .with_context(|| stack.logs())?;
    let file = stack.dir().join("trail.txt");
    let key = fs::read_to_string(stack.dir().join("trail.vkey"))?;
    stack.ok(&["audit", "export", "--out", path_text(&file)?])?;
    stack.ok(&["audit", "verify", path_text(&file)?, "--key", key.trim()])?;

    // The command, at places spread over the whole file.
    let trail = fs::read(&file)?;
    let changed = stack.dir().join("changed.txt");
    let places: Vec<usize> = (0..24).map(|n| n * (trail.len() - 1) / 23).collect();
    for at in places {
        let mut bytes = trail.clone();
        bytes[at] ^= 0x04;
        fs::write(&changed, &bytes)?;
        let output =
            stack.latchkey(&["audit", "verify", path_text(&changed)?, "--key", key.trim()])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(
            !output.status.success(),
            "byte {at} of {} was changed and it verified",
            trail.len()
        );
        assert!(
            ["entry", "checkpoint", "header"]
                .iter()
                .any(|what| said.contains(what)),
            "byte {at}: {said}"
        );
    }
    // Cut off, added to, and verified with another log's key.
    for bytes in [
        &trail[..trail.len() - 1],
        &[&trail[..], b"\n"].concat(),
        b"",
    ] {
        fs::write(&changed, bytes)?;
        assert!(
            !stack
                .latchkey(&["audit", "verify", path_text(&changed)?, "--key", key.trim()])?
                .status
                .success()
        );
    }
    let other = Stack::start()?;
    let foreign = fs::read_to_string(other.dir().join("trail.vkey"))?;
    assert!(
        !stack
            .latchkey(&[
                "audit",
                "verify",
                path_text(&file)?,
                "--key",
                foreign.trim()
            ])?
            .status
            .success()
    );
    Ok(())
}
