//! What goes wrong with tokens, and what is said about it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::slot::Slot;
use hsm::ceremony::{self, Outcome, Plan, TokenRecord};
use hsm::{Error, KeyHandle, Role, Token};

use crate::lab::{self, Lab, scenario};

scenario! {
    async fn a_wrong_pin_is_tried_once(lab) {
        let pin = fs::read_to_string(lab.path("custody.pin")).unwrap();
        fs::write(lab.path("custody.pin"), "0000000000000001\n").unwrap();
        let error = lab.open(Role::Custody).await.unwrap_err();
        assert!(matches!(error, Error::PinIncorrect { .. }), "{error}");
        let text = format!("{error} {error:?}");
        assert!(!text.contains("0000000000000001") && text.contains("custody"), "{text}");
        fs::write(lab.path("custody.pin"), pin).unwrap();
        lab.open(Role::Custody).await.unwrap();
    }
}

scenario! {
    async fn a_pin_others_can_read_is_not_used(lab) {
        fs::set_permissions(lab.path("custody.pin"), fs::Permissions::from_mode(0o640)).unwrap();
        let error = lab.open(Role::Custody).await.unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::remove_file(lab.path("custody.pin")).unwrap();
        let error = lab.open(Role::Custody).await.unwrap_err();
        assert!(error.to_string().contains("custody.pin"), "{error}");
    }
}

scenario! {
    async fn a_token_is_found_by_label_and_serial(lab) {
        // a twin with the same label, made behind our back
        let copy = lab.path("other.so");
        fs::copy(lab.module(), &copy).unwrap();
        let other = Pkcs11::new(copy).unwrap();
        other.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        let serial = |label: &str| {
            let slots = other.get_slots_with_initialized_token().unwrap().into_iter();
            let infos = slots.map(|slot| other.get_token_info(slot).unwrap());
            let found = infos.filter(|info| info.label() == label);
            found.map(|info| info.serial_number().to_owned()).next().unwrap()
        };
        let custody = serial("custody");
        let slots = other.get_slots_with_token().unwrap();
        let bare = |slot: &Slot| !other.get_token_info(*slot).unwrap().token_initialized();
        let bare = slots.into_iter().find(bare).unwrap();
        other.init_token(bare, &"12345678".into(), "custody").unwrap();

        let error = lab.open(Role::Custody).await.unwrap_err();
        assert!(matches!(error, Error::TokenAmbiguous { .. }), "{error}");
        let mut config = lab.config(Role::Custody);
        config.token_serial = Some(custody);
        Token::open(&config, Role::Custody).await.unwrap();
        config.token_serial = Some("0123456789".to_owned());
        let error = Token::open(&config, Role::Custody).await.unwrap_err();
        assert!(matches!(error, Error::TokenNotFound { .. }), "{error}");
        assert!(error.to_string().contains("0123456789"), "{error}");

        let mut config = lab.config(Role::Custody);
        config.token_label = "nobody".to_owned();
        let error = Token::open(&config, Role::Custody).await.unwrap_err();
        assert!(matches!(error, Error::TokenNotFound { .. }), "{error}");
    }
}

scenario! {
    async fn a_module_that_is_none_is_refused(lab) {
        let mut config = lab.config(Role::Custody);
        config.module = PathBuf::from("/nonexistent/module.so");
        let error = Token::open(&config, Role::Custody).await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/module.so"), "{error}");
        config.module = lab.plan();
        let error = Token::open(&config, Role::Custody).await.unwrap_err();
        assert!(matches!(error, Error::Module { .. }), "{error}");
        let mut config = lab.config(Role::Custody);
        config.sessions = 0;
        let error = Token::open(&config, Role::Custody).await.unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
    }
}

async fn refused_for(lab: &Lab, role: Role, mechanism: &str) {
    lab.without(mechanism);
    let error = lab.open(role).await.unwrap_err();
    assert!(matches!(error, Error::MechanismMissing { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(mechanism) && text.contains(role.as_str()),
        "{text}"
    );
}

scenario! {
    async fn a_custody_token_without_key_wrap_is_refused(lab) {
        refused_for(lab, Role::Custody, "CKM_AES_KEY_WRAP").await;
    }
}

scenario! {
    on Softhsm: async fn an_auditor_token_without_eddsa_is_refused(lab) {
        refused_for(lab, Role::Auditor, "CKM_EDDSA").await;
    }
}

scenario! {
    /// With Debian's OpenSSL 3.0 Kryoptic has no EdDSA: it serves custody, and is no auditor's.
    on Kryoptic: async fn a_token_that_cannot_sign_as_an_auditor_does_gets_no_auditors_keys(lab) {
        let mut config = lab.config(Role::Custody);
        config.token_label = "custody".to_owned();
        let error = Token::open(&config, Role::Auditor).await.unwrap_err();
        let lacks_eddsa = |error: &Error| {
            matches!(error, Error::MechanismMissing { mechanism: "CKM_EDDSA", role: "auditor", .. })
        };
        assert!(lacks_eddsa(&error), "{error}");
        let text = format!(
            "module = \"{}\"\ncreate_pins = true\n{}",
            lab.module().display(),
            lab::planned(Role::Auditor)
        );
        fs::write(lab.path("auditor.toml"), text).unwrap();
        let plan = Plan::load(&lab.path("auditor.toml")).unwrap();
        let error = ceremony::run(&plan, "2026-01-02T00:00:00Z").unwrap_err();
        assert!(lacks_eddsa(&error), "{error}");
        assert!(lab.objects("auditor").is_empty(), "initialised, and no more");
        lab.open(Role::Custody).await.unwrap();
    }
}

scenario! {
    on Softhsm: async fn a_token_of_another_role_is_refused(lab) {
        let mut config = lab.config(Role::Auditor);
        config.token_label = "auditor".to_owned();
        let error = Token::open(&config, Role::Custody).await.unwrap_err();
        let text = error.to_string();
        // its `transcript` is of another kind
        assert!(matches!(error, Error::KeyUnfit { .. }) && text.contains("ceremony"), "{text}");
    }
}

scenario! {
    /// As `latchkey dev` has it: both tokens behind one module in one process.
    on Softhsm: async fn two_tokens_of_one_module_work_side_by_side(lab) {
        let custody = lab.open(Role::Custody).await.unwrap();
        let auditor = lab.open(Role::Auditor).await.unwrap();
        assert!(custody.health().await && auditor.health().await);
        auditor.sign_ed25519("permit-1", b"permit").await.unwrap();
        custody.generate_wrapped("kek-ek-1", 16).await.unwrap();
        // a ceremony in the same process disturbs neither
        let plan = Plan::load(&lab.plan()).unwrap();
        let transcript = ceremony::run(&plan, "2026-01-02T00:00:00Z").unwrap();
        let unchanged = |token: &TokenRecord| token.outcome == Outcome::Unchanged;
        assert!(transcript.body.tokens.iter().all(unchanged));
        assert!(custody.health().await && auditor.health().await);
        // one closed for good leaves the other logged in
        drop(custody);
        assert!(auditor.health().await);
        auditor.sign_ed25519("log-1", b"checkpoint").await.unwrap();
        // and it can be opened again
        let custody = lab.open(Role::Custody).await.unwrap();
        let twin = lab.open(Role::Custody).await.unwrap();
        drop(custody);
        assert!(twin.health().await);
    }
}

/// Asks until `healthy` is what it should be.
async fn until(token: &Token, healthy: bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    while token.health().await != healthy {
        assert!(Instant::now() < limit, "health did not become {healthy}");
        tick.tick().await;
    }
}

async fn key(token: &Token, wrapped: &[u8]) -> KeyHandle {
    token.unwrap_key("kek-ek-1", wrapped).await.unwrap()
}

scenario! {
    /// Kryoptic holds its file open and does not notice.
    on Softhsm: async fn a_token_that_goes_is_missed_and_taken_back(lab) {
        let token = lab.open(Role::Custody).await.unwrap();
        let wrapped = token.generate_wrapped("kek-ek-1", 16).await.unwrap();
        let handle = key(&token, &wrapped).await;
        let sealed = token.seal(&handle, [1; 12], b"", b"text").await.unwrap();

        fs::rename(lab.path("tokens"), lab.path("pulled")).unwrap();
        let error = token.unwrap_key("kek-ek-1", &wrapped).await.unwrap_err();
        assert!(matches!(error, Error::TokenGone { .. }), "{error}");
        assert!(!token.health().await);
        assert!(!token.health().await);
        let error = token.seal(&handle, [2; 12], b"", b"text").await.unwrap_err();
        assert!(matches!(error, Error::TokenGone { .. } | Error::StaleKey), "{error}");

        fs::rename(lab.path("pulled"), lab.path("tokens")).unwrap();
        until(&token, true).await;
        let error = token.seal(&handle, [2; 12], b"", b"text").await.unwrap_err();
        assert!(matches!(error, Error::StaleKey), "{error}");
        drop(handle);
        let handle = key(&token, &wrapped).await;
        assert_eq!(token.open_sealed(&handle, [1; 12], b"", &sealed).await.unwrap(), b"text");
    }
}

scenario! {
    on Softhsm: async fn an_auditor_token_that_goes_is_missed_and_taken_back(lab) {
        let token = lab.open(Role::Auditor).await.unwrap();
        fs::rename(lab.path("tokens"), lab.path("pulled")).unwrap();
        until(&token, false).await;
        token.sign_ed25519("log-1", b"checkpoint").await.unwrap_err();
        fs::rename(lab.path("pulled"), lab.path("tokens")).unwrap();
        until(&token, true).await;
        token.sign_ed25519("log-1", b"checkpoint").await.unwrap();
    }
}
