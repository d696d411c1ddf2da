//! No EK, KEK, PIN or clear APDU in any log, trace, error, database, trail or command line of a run.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use base64::{
    Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::STANDARD_NO_PAD,
};
use integration_tests::stack::{SERVICES, SimMeter, Stack, path_text};

/// A secret and every way it could be spelt.
fn spellings(name: &str, secret: &[u8]) -> Vec<(String, Vec<u8>)> {
    let spaced: Vec<String> = secret.iter().map(|octet| format!("{octet:02x}")).collect();
    let listed: Vec<String> = secret.iter().map(u8::to_string).collect();
    let mut all = vec![
        (format!("{name} raw"), secret.to_vec()),
        (format!("{name} hex"), hex::encode(secret).into_bytes()),
        (
            format!("{name} HEX"),
            hex::encode_upper(secret).into_bytes(),
        ),
        (format!("{name} spaced hex"), spaced.join(" ").into_bytes()),
        (format!("{name} as a list"), listed.join(", ").into_bytes()),
    ];
    // Base64 of the secret alone, and inside something longer at each alignment.
    for shift in 0..3 {
        let mut padded = vec![0_u8; shift];
        padded.extend_from_slice(secret);
        let text = STANDARD_NO_PAD.encode(&padded);
        let (start, end) = ((shift * 8).div_ceil(6), (padded.len() * 8) / 6);
        all.push((
            format!("{name} base64 at {shift}"),
            text.as_bytes()[start..end].to_vec(),
        ));
    }
    all
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&path, found),
            Ok(kind) if kind.is_file() => found.push(path),
            _ => {}
        }
    }
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    part.len() >= 4 && text.windows(part.len()).any(|window| window == part)
}

#[test]
fn no_secret_is_anywhere_it_should_not_be() -> Result<()> {
    let mut stack = Stack::prepare()?;
    let trace = talkative(&stack)?;
    stack.up()?;
    let meters = [
        stack.meter(1, "standard", &[])?,
        stack.meter(2, "procedure", &["--fault", "lost-ack"])?,
    ];
    use_it(&stack, &meters)?;
    let secrets = secrets(&stack, &meters)?;

    let mut files = Vec::new();
    files_below(stack.dir(), &mut files);
    let mut looked_at = 0;
    for file in files {
        let name = file.strip_prefix(stack.dir())?.display().to_string();
        if is_their_place(&name) {
            continue;
        }
        looked_at += 1;
        let text = fs::read(&file)?;
        for (secret, value) in &secrets {
            for (spelling, part) in spellings(secret, value) {
                assert!(!holds(&text, &part), "{name} holds {spelling}");
            }
        }
    }
    assert!(
        looked_at > 20,
        "logs, databases, trail, trace: {looked_at} files"
    );
    assert!(fs::metadata(&trace)?.len() > 1000, "the trace was written");
    let trail = fs::read(stack.dir().join("trail.txt"))?;
    assert!(
        holds(&trail, b"latchkey-trail"),
        "the search finds what is there"
    );
    let base64 = STANDARD.encode([7_u8; 16]);
    let found = spellings("k", &[7; 16])
        .iter()
        .any(|(_, part)| holds(base64.as_bytes(), part));
    assert!(found, "base64 is found");
    Ok(())
}

/// Everything that can be said is said: the most talkative logs, and the frame trace.
fn talkative(stack: &Stack) -> Result<PathBuf> {
    for service in SERVICES {
        let file = stack.config(service);
        let text = fs::read_to_string(&file)?;
        assert!(
            !text.contains("[telemetry]"),
            "the generated configuration leaves telemetry out: {text}"
        );
        fs::write(&file, format!("{text}\n[telemetry]\nlog = \"trace\"\n"))?;
    }
    let association = stack.config("association");
    let trace = stack.dir().join("frames.trace");
    let text = fs::read_to_string(&association)?;
    fs::write(
        &association,
        format!("trace_file = {:?}\n{text}", path_text(&trace)?),
    )?;
    Ok(trace)
}

/// Resets, refusals and reports; what they said is kept beside the logs.
fn use_it(stack: &Stack, [meter, bare]: &[SimMeter; 2]) -> Result<()> {
    let mut spoken = Vec::new();
    for arguments in [
        &[
            "--output", "json", "reset", &meter.id, "--tier", "cold", "--wait",
        ][..],
        &["reset", &bare.id, "--tier", "cold", "--wait"],
        &["reset", "nobody", "--tier", "cold", "--wait"],
        &["keys", "show", &meter.id],
        &["audit", "list"],
        &["doctor"],
    ] {
        let output = stack.latchkey(arguments)?;
        spoken.extend_from_slice(&output.stdout);
        spoken.extend_from_slice(&output.stderr);
    }
    stack.ok(&[
        "audit",
        "export",
        "--out",
        path_text(&stack.dir().join("trail.txt"))?,
    ])?;
    fs::write(stack.dir().join("spoken.test.log"), &spoken)?;
    fs::write(stack.dir().join("commands.test.log"), command_lines(stack)?)?;
    Ok(())
}

/// What must not be found, by name: keys, passwords, PINs, and clear APDUs of the run.
fn secrets(stack: &Stack, meters: &[SimMeter]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut secrets = BTreeMap::new();
    for meter in meters {
        let keys: toml::Table = fs::read_to_string(&meter.lab_keys)?.parse()?;
        for name in ["ek", "ak", "password"] {
            let value = keys
                .get(name)
                .and_then(toml::Value::as_str)
                .context("a key")?;
            secrets.insert(format!("{} {name}", meter.id), hex::decode(value)?);
        }
    }
    let mut pins = Vec::new();
    files_below(&stack.dir().join("hsm"), &mut pins);
    for pin in pins.iter().filter(|path| {
        path.extension()
            .is_some_and(|end| end == "pin" || end == "so-pin")
    }) {
        let text = fs::read_to_string(pin)?;
        secrets.insert(
            format!("{}", pin.display()),
            text.trim().as_bytes().to_vec(),
        );
    }
    assert!(
        secrets.len() >= 10,
        "keys and PINs are known: {:?}",
        secrets.keys()
    );
    // The ACTION of a cold reset and a guard's read of the relay.
    secrets.insert(
        "ACTION cold".to_owned(),
        hex::decode("000900000a0100ff0101120003")?,
    );
    secrets.insert("GET relay".to_owned(), hex::decode("0046000060030aff0200")?);
    Ok(secrets)
}

/// Where secrets belong: the token store, the PIN files, the laboratory's own key files and its meters' memory.
fn is_their_place(name: &str) -> bool {
    name.starts_with("hsm/")
        || name.starts_with("fleet/")
        || name.contains(".keys.toml")
        || name.ends_with(".state")
}

/// The command lines and environments of every process of the stack.
fn command_lines(stack: &Stack) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let here = path_text(stack.dir())?.as_bytes().to_vec();
    for entry in fs::read_dir("/proc")?.flatten() {
        let (Ok(line), Ok(environment)) = (
            fs::read(entry.path().join("cmdline")),
            fs::read(entry.path().join("environ")),
        ) else {
            continue;
        };
        if holds(&line, &here) {
            all.extend_from_slice(&line);
            all.extend_from_slice(&environment);
        }
    }
    Ok(all)
}
