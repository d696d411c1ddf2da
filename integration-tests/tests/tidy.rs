//! Rules of the house that no lint knows.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_owned()
}

fn files(end: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, end: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a folder").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if path.is_dir()
                && !name.starts_with('.')
                && !["target", "node_modules"].contains(&name.as_ref())
            {
                walk(&path, end, found);
            } else if path.is_file() && name.ends_with(end) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), end, &mut found);
    assert!(
        !found.is_empty(),
        "no {end} files below {}",
        root().display()
    );
    found
}

#[test]
fn files_are_short() {
    for file in files(".rs") {
        let lines = fs::read_to_string(&file).expect("text").lines().count();
        assert!(
            lines <= LINES_MAX,
            "{} has {lines} lines, at most {LINES_MAX}",
            file.display()
        );
    }
}

#[test]
fn unsafe_code_is_forbidden_in_every_crate() {
    let roots: Vec<_> = files(".rs")
        .into_iter()
        .filter(|file| {
            ["src/lib.rs", "cli/src/main.rs"]
                .iter()
                .any(|end| file.ends_with(end))
        })
        .collect();
    assert!(roots.len() >= 13);
    for file in roots {
        // `proto` is generated code, `hsm` speaks to a C library, and `fuzz` counts what is allocated; there the lint
        // `deny` stands. `kryoptic` exports the names by which a PKCS#11 module is known, and `shim` is such a module.
        let excepted = [
            "hsm/src/lib.rs",
            "proto/src/lib.rs",
            "fuzz/src/lib.rs",
            "kryoptic/src/lib.rs",
            "shim/src/lib.rs",
        ];
        if excepted.iter().any(|end| file.ends_with(end)) {
            continue;
        }
        let text = fs::read_to_string(&file).expect("text");
        assert!(
            text.contains("#![forbid(unsafe_code)]"),
            "{} does not forbid unsafe code",
            file.display()
        );
    }
}

#[test]
fn the_pure_crates_have_no_standard_library() {
    for name in ["dlms", "machine", "tlog"] {
        let text =
            fs::read_to_string(root().join(format!("crates/{name}/src/lib.rs"))).expect("text");
        assert!(text.contains("#![no_std]"), "{name}");
        let manifest =
            fs::read_to_string(root().join(format!("crates/{name}/Cargo.toml"))).expect("text");
        let dependencies = manifest
            .split("[dependencies]")
            .nth(1)
            .and_then(|rest| rest.split("\n[").next())
            .unwrap_or("");
        for line in dependencies
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        {
            let known = ["thiserror", "sha2", "base64", "serde", "crc"]
                .iter()
                .any(|known| line.starts_with(known));
            assert!(known, "{name} depends on {line:?}");
        }
    }
}

#[test]
fn crates_depend_one_way() {
    let services = ["custody", "association", "reset", "auditor", "gateway"];
    for service in services {
        let manifest = fs::read_to_string(root().join(format!("services/{service}/Cargo.toml")))
            .expect("text");
        let normal = manifest
            .split("[dev-dependencies]")
            .next()
            .unwrap_or_default();
        let names: Vec<&str> = normal
            .lines()
            .filter_map(|line| line.split(['.', ' ', '=']).next())
            .collect();
        for other in services.into_iter().filter(|other| *other != service) {
            assert!(!names.contains(&other), "{service} depends on {other}");
        }
        let may_hold_keys = ["custody", "auditor"].contains(&service);
        assert_eq!(
            names.contains(&"hsm"),
            may_hold_keys,
            "{service} and the token"
        );
        assert!(
            service != "gateway" || !names.contains(&"sqlx"),
            "the gateway has no database"
        );
    }
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    for file in files(".md") {
        let text = fs::read_to_string(&file).expect("text");
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = file.parent().expect("a folder").join(target);
            assert!(path.exists(), "{}: {link} leads nowhere", file.display());
        }
    }
}

#[test]
fn every_decision_is_indexed() {
    let index = fs::read_to_string(root().join("docs/adr/README.md")).expect("text");
    for file in files(".md")
        .into_iter()
        .filter(|file| file.parent().is_some_and(|dir| dir.ends_with("docs/adr")))
    {
        let name = file
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        assert!(
            name == "README.md" || index.contains(&name),
            "{name} is not in docs/adr/README.md"
        );
    }
}

/// The threat model names the test that proves each row, and `hsm` the test of each pitfall of tokens; the test must be
/// there.
#[test]
fn every_test_that_is_named_exists() {
    let of = |file: &str| fs::read_to_string(root().join(file)).expect("text");
    let text = of("docs/threat-model.md") + &of("hsm/README.md");
    let sources: String = files(".rs")
        .iter()
        .map(|file| fs::read_to_string(file).expect("text"))
        .collect();
    let mut named = 0;
    for test in text
        .split('`')
        .filter_map(|part| part.strip_prefix("test:"))
    {
        named += 1;
        assert!(
            sources.contains(&format!("fn {test}(")),
            "docs/threat-model.md or hsm/README.md names {test}, which is no test"
        );
    }
    assert!(named >= 20, "they name their tests: {named}");
}
