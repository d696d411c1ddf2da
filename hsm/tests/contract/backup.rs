//! The backup token: keys are born in it, cloned from it, and come under newer ones by it.

use std::fs;

use hsm::ceremony::{Outcome, Plan, Transcript};
use hsm::{Curve, Error, Reseal, Role, Token, TokenConfig};

use crate::ceremony::run;
use crate::lab::{Brand, Lab, figure, scenario};

const FIRST: &str = "\"kek-ek-1\", \"kek-ak-1\", \"kek-hs-1\", \"kek-mk-1\"";
const OWN: &str = "\"sign-p256-1\", \"sign-p384-1\", \"agree-p256-1\", \"agree-p384-1\"";
const SECOND: &str = "\"kek-ek-2\", \"kek-ak-2\", \"kek-hs-2\", \"kek-mk-2\"";

/// The keys of a token that has these generations. Kryoptic wraps no private key by a mechanism that cryptoki knows: a
/// custody token of its brand makes its own.
fn keys(lab: &Lab, role: &str, generations: &[&str]) -> String {
    let mut keys = generations.join(", ");
    if role == "custody" || lab.brand == Brand::Softhsm {
        keys += &format!(", {OWN}");
    }
    format!("keys = [{keys}, \"transport-1\", \"transcript\"]")
}

const BORN: [(&str, &str, &str); 2] = [("vault", "backup", ""), ("one", "custody", "")];

/// Writes a plan of these tokens: label, role, more lines. Without a list of keys they have the first generation.
fn plan(lab: &Lab, name: &str, head: &str, tokens: &[(&str, &str, &str)]) -> String {
    let mut text = format!(
        "module = \"{}\"\ncreate_pins = true\n{head}\n",
        lab.module().display()
    );
    for (label, role, more) in tokens {
        let standard = keys(lab, role, &[FIRST]);
        let more = if more.contains("keys = [") {
            more
        } else {
            standard.as_str()
        };
        text += &format!(
            "[[token]]\nlabel = \"{label}\"\nrole = \"{role}\"\nso_pin_file = \"{label}.so\"\n\
             pin_file = \"{label}.pin\"\n{more}\n"
        );
    }
    fs::write(lab.path(name), text).unwrap();
    name.to_owned()
}

fn hold(lab: &Lab, plan: &str) -> Transcript {
    let (ok, printed) = run(lab, &["--plan", plan]);
    assert!(ok, "{printed}");
    let transcript = Transcript::verify(&printed).unwrap();
    fs::write(lab.path(&format!("{plan}.json")), printed).unwrap();
    transcript
}

fn refused(lab: &Lab, plan: &str, cause: &str) {
    let (ok, printed) = run(lab, &["--plan", plan]);
    assert!(!ok && printed.contains(cause), "{printed}");
}

async fn open(lab: &Lab, label: &str, role: Role) -> Token {
    let pin = lab.path(&format!("{label}.pin"));
    let config = TokenConfig::new(lab.module(), label, pin);
    Token::open(&config, role).await.unwrap()
}

/// Of this process, in its program and in the kernel (proc(5): ticks of 10 ms).
fn processor_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = |field: usize| fields[field].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

const ROUNDS: u16 = 12;

/// What tells a stored key from all others.
async fn mark(token: &Token, kek: &str, wrapped: &[u8]) -> [u8; 16] {
    let key = (kek.to_owned(), wrapped.to_vec());
    token
        .marks_of(vec![key])
        .await
        .unwrap()
        .remove(0)
        .unwrap()
        .fingerprint
}

scenario! {
    /// A token is lost: another gets the same keys, and what is stored opens with it.
    async fn a_lost_token_is_replaced_from_the_backup(lab) {
        let born = hold(lab, &plan(lab, "born", "", &BORN));
        let custody = &born.body.tokens[1];
        assert_eq!(custody.outcome, Outcome::Created);
        for key in custody.keys.iter().filter(|key| key.backup.is_some()) {
            let backup = key.backup.as_ref().unwrap();
            assert_eq!((backup.token.as_str(), backup.same.len()), ("vault", 1), "{}", key.label);
            let crossing = &backup.cloned.as_ref().unwrap().mechanism;
            let hash = if lab.brand == Brand::Softhsm { "SHA-1" } else { "SHA-256" };
            assert_eq!(*crossing, format!("CKM_RSA_PKCS_OAEP {hash}"), "{}", key.label);
            assert_eq!(key.attributes["EXTRACTABLE"], "false", "{}", key.label);
        }
        let kept = custody.keys.iter().filter(|key| key.backup.is_some()).count();
        assert_eq!(kept, if lab.brand == Brand::Softhsm { 9 } else { 5 });
        let vault = &born.body.tokens[0];
        let kek = vault.keys.iter().find(|key| key.label == "kek-ek-1").unwrap();
        assert_eq!((kek.attributes["EXTRACTABLE"].as_str(), kek.refused.len()), ("true", 4));
        let known = "previous_transcript = \"born.json\"\nadd_keys = true";
        let tokens = [BORN[0], ("two", "custody", "")];
        let restored = hold(lab, &plan(lab, "restore", known, &tokens));
        assert_eq!(restored.body.previous, Some(born.fingerprint().unwrap()));
        assert_eq!(restored.body.tokens[0].outcome, Outcome::Unchanged);
        assert_eq!(restored.body.tokens[1].outcome, Outcome::Created);
        // what a fleet has stored under the token that is lost
        let one = open(lab, "one", Role::Custody).await;
        let ek = one.generate_wrapped("kek-ek-1", 16).await.unwrap();
        let held = one.unwrap_key("kek-ek-1", &ek).await.unwrap();
        let value = one.check_value(&held).await.unwrap();
        let ak = one.protect_ak("kek-ak-1", b"m", &[7; 16]).await.unwrap();
        let public = one.public_key("sign-p256-1").await.unwrap();
        drop((held, one));

        let two = open(lab, "two", Role::Custody).await;
        let held = two.unwrap_key("kek-ek-1", &ek).await.unwrap();
        assert_eq!(two.check_value(&held).await.unwrap(), value);
        assert_eq!(two.reveal_ak("kek-ak-1", b"m", &ak).await.unwrap().as_slice(), [7; 16]);
        let same = two.public_key("sign-p256-1").await.unwrap() == public;
        assert_eq!(same, lab.brand == Brand::Softhsm);
        let public = two.public_key("sign-p256-1").await.unwrap();
        let signature = two.sign_ecdsa(Curve::P256, "sign-p256-1", b"x").await.unwrap();
        assert!(Curve::P256.verifies(&public[1..], b"x", &signature));
        let generations = two.kek_generations().await.unwrap();
        assert_eq!(generations.iter().map(|kek| (kek.number, kek.keys())).collect::<Vec<_>>(), [(1, 4)]);
    }
}

scenario! {
    /// Another token under the backup's or the working token's name is found out.
    async fn a_token_put_in_anothers_place_is_refused(lab) {
        hold(lab, &plan(lab, "born", "", &BORN));
        let known = "previous_transcript = \"born.json\"";
        hold(lab, &plan(lab, "again", known, &BORN));
        let text = fs::read_to_string(lab.path("born.json")).unwrap();
        // the same names, elsewhere: another directory of tokens is another world
        let other = Lab::within(lab, "elsewhere");
        fs::write(other.path("born.json"), text).unwrap();
        plan(&other, "born", "", &BORN);
        let (ok, printed) = run(&other, &["--plan", "born"]);
        assert!(ok, "{printed}");
        plan(&other, "again", known, &BORN);
        refused(&other, "again", "serial number");
        // the right token with another key of the same label
        plan(lab, "other", "", &[("other", "custody", "")]);
        hold(lab, "other");
        plan(lab, "mixed", "", &[BORN[0], ("other", "custody", "")]);
        refused(lab, "mixed", "is not the one of the backup token");
    }
}

scenario! {
    /// A second generation goes into the backup and every working token; what is under the first comes under it.
    async fn what_is_stored_comes_under_a_new_generation(lab) {
        hold(lab, &plan(lab, "born", "", &BORN));
        let one = open(lab, "one", Role::Custody).await;
        let (ek, mk) = (
            one.generate_wrapped("kek-ek-1", 16).await.unwrap(),
            one.generate_wrapped("kek-mk-1", 32).await.unwrap(),
        );
        let secret = one.wrap_secret("kek-hs-1", &b"sixteen octets 0".to_vec().into()).await.unwrap();
        let ak = one.protect_ak("kek-ak-1", b"old", &[9; 16]).await.unwrap();
        let check = mark(&one, "kek-ek-1", &ek).await;
        drop(one);

        let more = ["backup", "custody"].map(|role| keys(lab, role, &[FIRST, SECOND]));
        let tokens = [("vault", "backup", more[0].as_str()), ("one", "custody", more[1].as_str())];
        plan(lab, "second", "", &tokens);
        refused(lab, "second", "`kek-ek-2` is missing");
        let added = hold(lab, &plan(lab, "second", "add_keys = true", &tokens));
        assert!(added.body.tokens.iter().all(|token| token.outcome == Outcome::Extended));
        let one = open(lab, "one", Role::Custody).await;
        let numbers: Vec<_> = one.kek_generations().await.unwrap();
        assert_eq!(numbers.iter().map(|kek| (kek.number, kek.keys())).collect::<Vec<_>>(), [(1, 4), (2, 4)]);

        let vault = open(lab, "vault", Role::Backup).await;
        let mut rewrapped = vault.rewrap("kek-ek-1", "kek-ek-2", vec![ek.clone(), vec![0; 24]]).await.unwrap();
        assert!(matches!(rewrapped.remove(1), Err(Error::WrappedKeyInvalid { .. })));
        let ek2 = rewrapped.remove(0).unwrap();
        assert_ne!(ek2, ek);
        assert_eq!(mark(&one, "kek-ek-2", &ek2).await, check);
        assert!(matches!(one.unwrap_key("kek-ek-1", &ek2).await, Err(Error::WrappedKeyInvalid { .. })));
        let mk2 = vault.rewrap("kek-mk-1", "kek-mk-2", vec![mk]).await.unwrap().remove(0).unwrap();
        one.unwrap_master_key("kek-mk-2", &mk2).await.unwrap();
        let hs2 = vault.rewrap("kek-hs-1", "kek-hs-2", vec![secret]).await.unwrap().remove(0).unwrap();
        one.unwrap_secret("kek-hs-2", &hs2).await.unwrap();
        let across = vault.rewrap("kek-ek-1", "kek-mk-2", vec![ek]).await;
        assert!(matches!(across, Err(Error::KeyNotFound { .. })), "a master key is no encryption key");
        let reseal = Reseal { blob: ak, old_aad: b"old".to_vec(), new_aad: b"new".to_vec() };
        let moved = Reseal { old_aad: b"bad".to_vec(), ..reseal.clone() };
        let mut resealed = one.reseal("kek-ak-1", "kek-ak-2", vec![reseal, moved]).await.unwrap();
        assert!(matches!(resealed.remove(1), Err(Error::AuthFailed)));
        let ak2 = resealed.remove(0).unwrap();
        assert_eq!(one.reveal_ak("kek-ak-2", b"new", &ak2).await.unwrap().as_slice(), [9; 16]);
        assert!(vault.health().await && one.health().await);
        // what the tokens need for a row: the key wrapped anew, looked at, and the other one sealed anew
        let old: Vec<_> = std::iter::repeat_n(&ek2, 512).map(|ek| ek.to_vec()).collect();
        let seals = vec![Reseal { blob: ak2, old_aad: b"new".to_vec(), new_aad: b"new".to_vec() }; 512];
        let before = processor_seconds();
        for _ in 0..ROUNDS {
            let wrapped = vault.rewrap("kek-ek-2", "kek-ek-1", old.clone()).await.unwrap();
            let wrapped = wrapped.into_iter().map(|key| ("kek-ek-1".to_owned(), key.unwrap()));
            assert!(one.marks_of(wrapped.collect()).await.unwrap().iter().all(Result::is_ok));
            let sealed = one.reseal("kek-ak-2", "kek-ak-2", seals.clone()).await.unwrap();
            assert!(sealed.iter().all(Result::is_ok));
        }
        let rows = f64::from(512 * ROUNDS) / (processor_seconds() - before);
        let brand = lab.brand;
        figure(&format!("{brand:?}: {rows:.0} rows a second of processor time, without SQL"));
    }
}

scenario! {
    /// An old generation goes only when nothing needs it, and the token that serves meanwhile does not notice.
    async fn an_old_generation_is_destroyed_when_nothing_needs_it(lab) {
        let both = ["backup", "custody"].map(|role| keys(lab, role, &[FIRST, SECOND]));
        let tokens = [("vault", "backup", both[0].as_str()), ("one", "custody", both[1].as_str())];
        hold(lab, &plan(lab, "born", "", &tokens));
        let one = open(lab, "one", Role::Custody).await;
        let gone = format!("{}\ndestroy = [{FIRST}]", keys(lab, "custody", &[SECOND]));
        let tokens = [("vault", "backup", both[0].as_str()), ("one", "custody", gone.as_str())];
        plan(lab, "gone", "", &tokens);
        refused(lab, "gone", "only with custody's generations_report");
        plan(lab, "gone", "generations_report = \"report.json\"", &tokens);
        for (report, cause) in [
            ("", "no report of generations"),
            (r#"{"current":2,"generations":[{"generation":2,"rows":5}]}"#, "says nothing of"),
            (r#"{"current":2,"generations":[{"generation":1,"rows":3}]}"#, "3 rows"),
            (r#"{"current":1,"generations":[{"generation":1,"rows":0}]}"#, "new keys are kept under"),
        ] {
            fs::write(lab.path("report.json"), report).unwrap();
            refused(lab, "gone", cause);
        }
        one.generate_wrapped("kek-ek-1", 16).await.unwrap();
        let good = r#"{"current":2,"generations":[{"generation":1,"rows":0},{"generation":2,"rows":9}]}"#;
        fs::write(lab.path("report.json"), good).unwrap();
        let transcript = hold(lab, "gone");
        assert_eq!(transcript.body.tokens[1].destroyed.len(), 4);
        assert!(transcript.body.tokens[0].destroyed.is_empty(), "backups of the database may need it");
        let again = hold(lab, "gone");
        assert!(again.body.tokens[1].destroyed.is_empty());
        assert!(one.health().await, "a token in use goes on with the other generation");
        one.generate_wrapped("kek-ek-2", 16).await.unwrap();
        let one = open(lab, "one", Role::Custody).await;
        assert_eq!(one.kek_generations().await.unwrap().len(), 1);
    }
}

scenario! {
    /// With the backup's PIN the keys it wraps anew can still be neither read nor used.
    async fn a_working_token_never_gives_its_clones_away(lab) {
        hold(lab, &plan(lab, "born", "", &BORN));
        let text = fs::read_to_string(lab.path("born.json")).unwrap();
        for (from, to) in [("door_sha256\": \"", "door_sha256\": \"0"), ("CKM_RSA_PKCS_OAEP", "CKM_RSA_PKCS")] {
            assert!(Transcript::verify(&text.replacen(from, to, 1)).is_err());
        }
        // a plan without a backup token works, and says what cannot be had
        plan(lab, "alone", "", &[("alone", "custody", "")]);
        let (ok, printed) = run(lab, &["--plan", "alone", "--transcript", "alone.json"]);
        assert!(ok && printed.contains("no backup token: its keys can be neither restored nor rotated"), "{printed}");
        let (ok, printed) = run(lab, &["--verify", "born.json"]);
        assert!(ok && printed.contains("in backup token vault") && !printed.contains("no backup token"), "{printed}");
        let order = [BORN[1], BORN[0]];
        plan(lab, "order", "", &order);
        refused(lab, "order", "backup tokens come first");
        let bad = Plan::load(&lab.path("order"));
        assert!(bad.is_err() && Plan::load(&lab.path("born")).is_ok());
    }
}
