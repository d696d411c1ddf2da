//! The ceremony, through its program.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use aws_lc_rs::digest;
use hsm::Role;
use hsm::ceremony::{Outcome, Transcript};

use crate::lab::{Brand, Lab, scenario};

/// Runs the program; its exit code, and all it printed.
pub(crate) fn run(lab: &Lab, arguments: &[&str]) -> (bool, String) {
    let program = Path::new(env!("CARGO_BIN_EXE_latchkey-ceremony"));
    let output = lab.command(program).args(arguments).output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(printed).unwrap())
}

fn refused(lab: &Lab, arguments: &[&str], cause: &str) {
    let before = tokens(lab);
    let (ok, printed) = run(lab, arguments);
    assert!(!ok && printed.contains(cause), "{printed}");
    assert_eq!(tokens(lab), before, "a refusal changes nothing");
}

/// Every object of the tokens, with a digest of its content or, where all objects are in one file, its identity. The
/// login counters are no object.
fn tokens(lab: &Lab) -> BTreeMap<String, String> {
    let mut objects = BTreeMap::new();
    if lab.brand == Brand::Kryoptic {
        return lab.objects("custody");
    }
    for token in fs::read_dir(lab.path("tokens")).unwrap() {
        for file in fs::read_dir(token.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let object = path
                .extension()
                .is_some_and(|extension| extension == "object");
            if object && path.file_name().unwrap() != "token.object" {
                let content = digest::digest(&digest::SHA256, &fs::read(&path).unwrap());
                objects.insert(path.display().to_string(), hex::encode(content));
            }
        }
    }
    objects
}

fn edit_plan(lab: &Lab, from: &str, to: &str) {
    let plan = fs::read_to_string(lab.plan()).unwrap();
    assert!(plan.contains(from), "{plan}");
    fs::write(lab.plan(), plan.replace(from, to)).unwrap();
}

scenario! {
    async fn a_second_run_changes_nothing_and_says_so(lab) {
        let before = tokens(lab);
        let auditors = if lab.brand.roles().contains(&Role::Auditor) { 3 } else { 0 };
        assert_eq!(before.len(), 5 + (5 + auditors) * 2, "5 secret keys, 5 or 8 key pairs");
        let (ok, printed) = run(lab, &["--plan", "plan.toml", "--transcript", "transcript.json"]);
        assert!(ok, "{printed}");
        let text = fs::read_to_string(lab.path("transcript.json")).unwrap();
        let transcript = Transcript::verify(&text).unwrap();
        assert!(transcript.body.tokens.iter().all(|token| token.outcome == Outcome::Unchanged));
        let (ok, printed) = run(lab, &["--plan", "plan.toml", "--transcript", "transcript.json"]);
        assert!(ok && printed.starts_with("unchanged"), "{printed}");
        assert_eq!(fs::read_to_string(lab.path("transcript.json")).unwrap(), text);
        assert_eq!(tokens(lab), before);

        let (ok, printed) = run(lab, &["--verify", "transcript.json"]);
        assert!(ok && printed.contains(&transcript.fingerprint().unwrap()), "{printed}");
        for role in lab.brand.roles() {
            let label = if *role == Role::Auditor { "permit-1" } else { "sign-p256-1" };
            let token = lab.open(*role).await.unwrap();
            let public = token.public_key(label).await.unwrap();
            assert_eq!(transcript.public_key(*role, label), Some(public));
        }
    }
}

scenario! {
    async fn a_transcript_with_any_octet_changed_does_not_verify(lab) {
        let (ok, text) = run(lab, &["--plan", "plan.toml"]);
        assert!(ok, "{text}");
        Transcript::verify(&text).unwrap();
        for index in 0..text.len() {
            let mut octets = text.clone().into_bytes();
            octets[index] ^= 1;
            let Ok(altered) = String::from_utf8(octets) else {
                continue;
            };
            assert!(Transcript::verify(&altered).is_err(), "octet {index}");
        }
        for (from, to) in [("\n  ", "\n   "), ("\"tokens\"", "\"more\": 1, \"tokens\"")] {
            assert!(Transcript::verify(&text.replacen(from, to, 1)).is_err());
        }
        fs::write(lab.path("bad.json"), text.replace("kek-ek-1", "kek-ek-9")).unwrap();
        let (ok, printed) = run(lab, &["--verify", "bad.json"]);
        assert!(!ok && printed.contains("signature of token `custody`"), "{printed}");
        // one token's signature alone is not enough
        let mut alone = Transcript::verify(&text).unwrap();
        alone.signatures.pop();
        assert!(Transcript::verify(&alone.render().unwrap()).is_err());
    }
}

scenario! {
    async fn secrets_are_in_private_files_and_nowhere_else(lab) {
        let (ok, printed) = run(lab, &["--plan", "plan.toml"]);
        assert!(ok, "{printed}");
        let mut names = vec!["custody.so", "custody.pin", "transport.one", "transport.two"];
        if lab.brand.roles().contains(&Role::Auditor) {
            names.extend(["auditor.so", "auditor.pin"]);
        }
        for name in names {
            let path = lab.path(name);
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{name}");
            let secret = fs::read_to_string(path).unwrap();
            assert!(secret.trim().len() >= 16);
            assert!(!printed.contains(secret.trim()), "{name}");
        }
    }
}

scenario! {
    async fn the_transcript_tells_what_the_token_refuses(lab) {
        let (_, text) = run(lab, &["--plan", "plan.toml"]);
        let transcript = Transcript::verify(&text).unwrap();
        for token in &transcript.body.tokens {
            for key in &token.keys {
                for (name, value) in
                    [("EXTRACTABLE", "false"), ("SENSITIVE", "true"), ("MODIFIABLE", "false")]
                {
                    assert_eq!(key.attributes[name], value, "{} {name}", key.label);
                }
                assert!(key.refused.len() >= 2, "{}", key.label);
            }
        }
        let kek = &transcript.body.tokens[0].keys.iter().find(|key| key.label == "kek-ek-1").unwrap();
        assert_eq!(kek.refused.len(), 4);
        assert_eq!(kek.attributes["UNWRAP_TEMPLATE"], "15 attributes");
        assert_eq!(kek.attributes["ALLOWED_MECHANISMS"], "CKM_AES_KEY_WRAP");
        let of = |label: &str| {
            transcript.body.tokens[0].keys.iter().find(|key| key.label == label).unwrap()
        };
        assert!(of("transport-1").check_value.is_some());
        assert_eq!(of("transport-1").attributes["UNWRAP_TEMPLATE"], "11 attributes");
        for label in ["kek-hs-1", "kek-mk-1"] {
            assert_eq!(of(label).refused.len(), 4, "{label}");
        }
        for (label, digits, mechanism) in [
            ("sign-p256-1", 130, "CKM_ECDSA"),
            ("sign-p384-1", 194, "CKM_ECDSA"),
            ("agree-p256-1", 130, "CKM_ECDH1_DERIVE CKM_ECDSA"),
            ("agree-p384-1", 194, "CKM_ECDH1_DERIVE CKM_ECDSA"),
        ] {
            let key = of(label);
            assert_eq!(key.public_key.as_ref().unwrap().len(), digits, "{label}");
            assert_eq!(key.attributes["ALLOWED_MECHANISMS"], mechanism, "{label}");
        }
    }
}

scenario! {
    async fn a_plan_that_differs_from_the_token_is_refused(lab) {
        let good = fs::read_to_string(lab.plan()).unwrap();
        let plan = ["--plan", "plan.toml"];
        let role = "role = \"custody\"";
        let keys = ["kek-ek-1", "kek-hs-2", "transport-1", "transcript"];
        edit_plan(lab, role, &format!("{role}\nkeys = {keys:?}"));
        refused(lab, &plan, "`kek-hs-2` is missing");
        fs::write(lab.plan(), &good).unwrap();
        let keys = ["kek-ek-1", "transport-1", "transcript"];
        edit_plan(lab, role, &format!("{role}\nkeys = {keys:?}"));
        refused(lab, &plan, "`agree-p256-1` is not in the plan");
        fs::write(lab.plan(), &good).unwrap();
        edit_plan(lab, role, "role = \"auditor\"");
        edit_plan(lab, "transport_components = [\"transport.one\", \"transport.two\"]", "");
        refused(lab, &plan, match lab.brand {
            Brand::Softhsm => "is unfit: KEY_TYPE",
            Brand::Kryoptic => "lacks CKM_EDDSA",
        });
        fs::write(lab.plan(), &good).unwrap();
        fs::write(lab.path("transport.one"), "00".repeat(32)).unwrap();
        refused(lab, &plan, "not of these components");
        fs::remove_file(lab.path("transport.one")).unwrap();
        // the components are back in their safes: nothing to compare, and none is made anew
        let (ok, printed) = run(lab, &plan);
        assert!(ok && !lab.path("transport.one").exists(), "{printed}");
        fs::write(lab.path("custody.pin"), "1234567812345678\n").unwrap();
        refused(lab, &plan, "refused the PIN");
        fs::remove_file(lab.path("custody.pin")).unwrap();
        refused(lab, &plan, "custody.pin");
        assert!(!lab.path("custody.pin").exists(), "no PIN is made for a token that exists");
    }
}

scenario! {
    /// A token of before there were suites 1 and 2 gets their keys, and keeps its own.
    async fn a_token_in_use_is_given_more_keys(lab) {
        let custody = lab.open(Role::Custody).await.unwrap();
        let kept = custody.generate_wrapped("kek-ek-1", 16).await.unwrap();
        let signing = custody.public_key("sign-p256-1").await.unwrap();
        let role = "role = \"custody\"";
        let standard = "\"kek-ek-1\", \"kek-ak-1\", \"kek-hs-1\", \"kek-mk-1\", \"transport-1\", \"transcript\", \
            \"sign-p256-1\", \"sign-p384-1\", \"agree-p256-1\", \"agree-p384-1\"";
        let more = format!("{role}\nkeys = [{standard}, \"sign-p384-2\"]");
        edit_plan(lab, role, &more);
        refused(lab, &["--plan", "plan.toml"], "`sign-p384-2` is missing; add_keys = true");
        edit_plan(lab, "create_pins = true", "create_pins = true\nadd_keys = true");
        let (ok, printed) = run(lab, &["--plan", "plan.toml"]);
        assert!(ok, "{printed}");
        let transcript = Transcript::verify(&printed).unwrap();
        let outcomes: Vec<_> = transcript.body.tokens.iter().map(|token| token.outcome).collect();
        let expected = [Outcome::Extended, Outcome::Unchanged];
        assert_eq!(outcomes, expected[..lab.brand.roles().len()]);
        assert_eq!(transcript.body.tokens[0].keys.len(), 11);
        assert_eq!(transcript.public_key(Role::Custody, "sign-p256-1"), Some(signing));
        custody.unwrap_key("kek-ek-1", &kept).await.unwrap();
        let (ok, printed) = run(lab, &["--plan", "plan.toml"]);
        let again = Transcript::verify(&printed).unwrap();
        assert!(ok && again.same_tokens(&transcript), "{printed}");
        assert_eq!(again.body.tokens[0].outcome, Outcome::Unchanged);
    }
}

scenario! {
    async fn a_ceremony_without_pins_makes_nothing(lab) {
        edit_plan(lab, "create_pins = true", "create_pins = false");
        edit_plan(lab, "label = \"custody\"", "label = \"new\"");
        edit_plan(lab, "custody.pin", "new.pin");
        let count = || fs::read_dir(lab.path("tokens")).unwrap().count();
        let before = count();
        refused(lab, &["--plan", "plan.toml"], "new.pin");
        assert!(!lab.path("new.pin").exists());
        assert_eq!(count(), before, "no token is initialised either");
    }
}

scenario! {
    async fn a_transcript_of_other_tokens_is_not_overwritten(lab) {
        let (ok, printed) = run(lab, &["--plan", "plan.toml", "--transcript", "t.json"]);
        assert!(ok, "{printed}");
        let kept = fs::read(lab.path("t.json")).unwrap();
        edit_plan(lab, "label = \"custody\"", "label = \"new\"");
        edit_plan(lab, "custody.", "new.");
        let (ok, printed) = run(lab, &["--plan", "plan.toml", "--transcript", "t.json"]);
        assert!(!ok && printed.contains("move it away"), "{printed}");
        assert_eq!(fs::read(lab.path("t.json")).unwrap(), kept);
    }
}
