//! Five services whose TLS keys live in tokens: a reset goes through, no private key is on the disk, and certificates are
//! renewed while they serve (docs/runbooks/certificate-expiry.md, with the commands that stand there).
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use integration_tests::stack::{SERVICES, Stack, binary, path_text, until};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{command:?}: {text}");
    Ok(text)
}

fn openssl(stack: &Stack, line: &str) -> Result<String> {
    let arguments = line.split_whitespace();
    said(
        Command::new("openssl")
            .args(arguments)
            .current_dir(stack.dir()),
    )
}

/// `latchkey-ceremony` in the stack's folder, with its tokens.
fn ceremony(stack: &Stack, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(binary("latchkey-ceremony")?);
    command
        .args(arguments)
        .current_dir(stack.dir())
        .env("SOFTHSM2_CONF", stack.dir().join("hsm/softhsm2.conf"));
    said(&mut command)
}

fn token_of(service: &str) -> String {
    format!("latchkey-tls-{service}")
}

/// One token for each service, from one reviewed plan.
fn tokens(stack: &Stack) -> Result<()> {
    let mut plan = format!("module = \"{MODULE}\"\ncreate_pins = true\n");
    for service in SERVICES {
        plan += &format!(
            "\n[[token]]\nlabel = \"{}\"\nrole = \"tls\"\nso_pin_file = \"tls-{service}.so-pin\"\npin_file = \"tls-{service}.pin\"\n",
            token_of(service)
        );
    }
    fs::write(stack.dir().join("tls-plan.toml"), plan)?;
    ceremony(stack, &["--plan", "tls-plan.toml"]).map(drop)
}

/// Request, issue, import.
fn certify(stack: &Stack, service: &str) -> Result<()> {
    let (token, pin) = (token_of(service), format!("tls-{service}.pin"));
    let key = [
        "--module",
        MODULE,
        "--token",
        &token,
        "--pin-file",
        &pin,
        "--object",
        "tls-1",
    ];
    let uri = format!("spiffe://latchkey.test/latchkey/{service}");
    let request = ceremony(stack, &[&["csr"], &key[..], &["--uri", &uri]].concat())?;
    fs::write(stack.dir().join("tls.csr"), request)?;
    openssl(
        stack,
        "x509 -req -in tls.csr -CA pki/ca.crt -CAkey ca.offline -CAcreateserial -days 90 \
         -copy_extensions copyall -out tls.crt",
    )?;
    let file = ["--file", "tls.crt"];
    let import = [&["certificate", "import"], &key[..], &file].concat();
    ceremony(stack, &import).map(drop)
}

/// The key goes into the token's place, and out of the files.
fn configure(stack: &Stack, service: &str) -> Result<()> {
    let path = stack.config(service);
    let text = fs::read_to_string(&path)?;
    let mut changed = String::new();
    let mut in_tls = false;
    for line in text.lines() {
        if line.starts_with('[') {
            in_tls = line == "[server.tls]";
        }
        if in_tls && (line.starts_with("certificate_file") || line.starts_with("key_file")) {
            continue;
        }
        changed += line;
        changed.push('\n');
    }
    changed += &format!(
        "\n[server.tls.token]\nmodule = \"{MODULE}\"\ntoken_label = \"{}\"\npin_file = \"{}\"\n",
        token_of(service),
        stack.dir().join(format!("tls-{service}.pin")).display(),
    );
    fs::write(&path, changed)?;
    for end in ["crt", "key"] {
        fs::remove_file(stack.dir().join(format!("pki/{service}.{end}")))?;
    }
    Ok(())
}

/// Every file below a folder that holds a private key which is no token's own object.
fn private_keys(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            private_keys(&path, found)?;
        } else if fs::read(&path).is_ok_and(|octets| {
            let marker = b"PRIVATE KEY";
            octets.windows(marker.len()).any(|part| part == marker)
        }) {
            found.push(path);
        }
    }
    Ok(())
}

/// The serial number of the certificate that a service shows.
fn shown(stack: &Stack, port: u16) -> Result<String> {
    let line = format!("s_client -connect {}:{port} -showcerts", stack.host());
    let output = Command::new("openssl")
        .args(line.split_whitespace())
        .stdin(std::process::Stdio::null())
        .output()?;
    let path = stack.dir().join("shown.txt");
    fs::write(&path, output.stdout)?;
    openssl(stack, "x509 -in shown.txt -noout -serial")
}

#[test]
fn five_services_without_a_private_key_on_the_disk() -> Result<()> {
    let mut stack = Stack::prepare()?;
    // The authority's key is somebody else's, elsewhere.
    let offline = tempfile::tempdir()?;
    let ca = offline.path().join("ca.key");
    fs::rename(stack.dir().join("pki/ca.key"), &ca)?;
    std::os::unix::fs::symlink(&ca, stack.dir().join("ca.offline"))?;
    tokens(&stack)?;
    for service in SERVICES {
        certify(&stack, service)?;
        configure(&stack, service)?;
    }
    fs::remove_file(stack.dir().join("ca.offline"))?;
    stack.up()?;
    let meter = stack.meter(1, "standard", &[])?;
    let done = stack
        .json(&["reset", &meter.id, "--tier", "cold", "--wait"])
        .with_context(|| stack.logs())?;
    assert_eq!(done["verdict"], "SUCCEEDED", "{done}");
    let mut found = Vec::new();
    private_keys(stack.dir(), &mut found)?;
    found.sort();
    let people = ["operator-admin.key", "operator-dev.key"];
    let names: Vec<_> = found.iter().filter_map(|path| path.file_name()).collect();
    assert_eq!(names, people, "people's, and no service's: {found:?}");
    // the doctor sees what the services see
    let doctor = stack.latchkey(&["doctor"])?;
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        doctor.contains("spiffe://latchkey.test/latchkey/gateway"),
        "{doctor}"
    );

    // Renewal, as the runbook says: request, issue, import, SIGHUP. Nobody is cut and nothing is restarted.
    let before = shown(&stack, 7401)?;
    std::os::unix::fs::symlink(&ca, stack.dir().join("ca.offline"))?;
    certify(&stack, "custody")?;
    fs::remove_file(stack.dir().join("ca.offline"))?;
    stack.hang_up("custody")?;
    let renewed = || shown(&stack, 7401).ok().filter(|serial| *serial != before);
    until(Duration::from_secs(30), renewed)
        .with_context(|| format!("still {before}: {}", stack.logs()))?;
    let keys = stack.ok(&["keys", "list"])?;
    assert!(keys.contains(&meter.id), "{keys}");
    let reset = stack.json(&["reset", &meter.id, "--tier", "soft", "--wait"])?;
    assert_eq!(reset["verdict"], "SUCCEEDED", "{reset}");
    Ok(())
}

/// The runbook's other half: a meter's certificate, and the authorities above it, at the command line.
#[test]
#[allow(clippy::too_many_lines, reason = "one story, told in its order")]
fn a_meters_certificate_is_kept_listed_and_deleted() -> Result<()> {
    let stack = Stack::start()?;
    let meter = stack.meter(1, "standard", &[])?;
    openssl(
        &stack,
        "ecparam -name prime256v1 -genkey -noout -out root.key",
    )?;
    fs::write(
        stack.dir().join("root.cnf"),
        "[req]\ndistinguished_name = dn\nx509_extensions = ext\nprompt = no\n[dn]\nCN = utility root\n\
         [ext]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, cRLSign\n",
    )?;
    openssl(
        &stack,
        "req -x509 -new -key root.key -config root.cnf -days 365 -out root.pem",
    )?;
    let root = stack.dir().join("root.pem");
    let root = path_text(&root)?;
    let kept = stack.json(&[
        "keys",
        "certificate",
        "import",
        "--for",
        "anchor",
        "--reason",
        "contract 4",
        root,
    ])?;
    assert_eq!(kept["valid"], true, "{kept}");
    // a certificate of a meter of suite 0 is refused, and says why
    let refused = stack.latchkey(&[
        "keys",
        "certificate",
        "import",
        "--for",
        "meter-signing",
        "--meter",
        &meter.id,
        "--suite",
        "1",
        root,
    ])?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && text.contains("curve"),
        "{text}"
    );
    let csr = stack.dir().join("head-end.csr");
    stack.ok(&[
        "keys",
        "csr",
        "--suite",
        "1",
        "--client-title",
        "4D4D4D0000000001",
        "--out",
        path_text(&csr)?,
    ])?;
    let text = openssl(&stack, "req -in head-end.csr -verify -noout -text")?;
    assert!(
        text.contains("CN = 4D4D4D0000000001") && text.contains("Digital Signature"),
        "{text}"
    );
    fs::write(
        stack.dir().join("leaf.ext"),
        "keyUsage = critical, digitalSignature\n",
    )?;
    openssl(
        &stack,
        "x509 -req -in head-end.csr -CA root.pem -CAkey root.key -CAcreateserial -days 20 -extfile leaf.ext -out own.pem",
    )?;
    let own = stack.dir().join("own.pem");
    stack.ok(&[
        "keys",
        "certificate",
        "import",
        "--for",
        "client-signing",
        "--suite",
        "1",
        path_text(&own)?,
    ])?;
    let soon = stack.ok(&[
        "--output",
        "json",
        "keys",
        "certificate",
        "list",
        "--within-days",
        "30",
    ])?;
    assert!(
        soon.contains("client-signing") && !soon.contains("\"anchor\""),
        "{soon}"
    );
    let keys = stack.json(&["keys", "client", "--suite", "1"])?;
    assert_ne!(keys["signing_certificate"], "", "{keys}");
    let fingerprint = kept["fingerprint"].as_str().context("a fingerprint")?;
    stack.ok(&["keys", "certificate", "delete", fingerprint])?;
    let list = stack.ok(&["--output", "json", "keys", "certificate", "list"])?;
    assert!(list.contains("CERTIFICATE_ISSUER_UNKNOWN"), "{list}");
    Ok(())
}
