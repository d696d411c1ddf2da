//! The README's first command, twice, then down and clean.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

fn root() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace")?
        .to_owned())
}

fn quickstart(arguments: &[&str]) -> Result<String> {
    let output = Command::new("deploy/quickstart")
        .args(arguments)
        .current_dir(root()?)
        .stdin(Stdio::null())
        .output()?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "deploy/quickstart {arguments:?} ended with {}\n{out}\n{err}",
        output.status
    );
    Ok(out.into_owned())
}

#[test]
fn the_quickstart_resets_a_meter_and_leaves_nothing_behind() -> Result<()> {
    let stack = root()?.join(".latchkey");
    ensure!(
        !stack.exists(),
        "a quickstart of this clone is there already; `deploy/quickstart --clean` removes it"
    );
    let told = quickstart(&[]).and_then(|first| {
        for word in [
            "GUARD",
            "PERMIT",
            "SILENCE",
            "REJOIN",
            "VALIDATION",
            "relay unchanged",
            "verdict: SUCCEEDED",
            "verified:",
        ] {
            ensure!(first.contains(word), "{word:?} is missing in {first}");
        }
        let second = quickstart(&[])?;
        ensure!(
            second.contains("verdict: SUCCEEDED") && second.contains("verified:"),
            "{second}"
        );
        quickstart(&["--down"])
    });
    let cleaned = quickstart(&["--clean"]);
    told?;
    cleaned?;
    assert!(!stack.exists(), "--clean removes what was made");
    Ok(())
}
