//! PINs: wrong ones are tried once, whatever happens.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use hsm::{Error, Role, Token};
use hsm_shim::Fault;

use crate::site::{KEK, Site, in_a_process, unwrap};

const PIN_INCORRECT: u64 = 0xA0;
const PIN_LOCKED: u64 = 0xA4;
const USER_PIN_COUNT_LOW: u64 = 0x1_0000;
const USER_PIN_FINAL_TRY: u64 = 0x2_0000;
const USER_PIN_LOCKED: u64 = 0x4_0000;

/// A service that is started again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_pin_is_tried_once_however_often_the_process_starts() {
    let site = Site::new();
    let shim = site.token("a");
    let right = fs::read(site.path("pin")).unwrap();
    fs::write(site.path("pin"), "00000001\n").unwrap();
    shim.always("C_Login", Fault::Log);
    let error = site.open(&shim).await.unwrap_err();
    assert!(matches!(error, Error::PinIncorrect { .. }), "{error}");
    for _ in 0..5 {
        let error = site.open(&shim).await.unwrap_err();
        assert!(matches!(error, Error::PinRefusedBefore { .. }), "{error}");
        let text = format!("{error} {error:?}");
        assert!(
            !text.contains("00000001") && text.contains("pin.custody.refused"),
            "{text}"
        );
    }
    assert_eq!(shim.logged("C_Login"), 1);
    // another wrong one is another try, and one
    fs::write(site.path("pin"), "00000002\n").unwrap();
    let error = site.open(&shim).await.unwrap_err();
    assert!(matches!(error, Error::PinIncorrect { .. }), "{error}");
    assert_eq!(shim.logged("C_Login"), 2);
    // the right one ends it
    fs::write(site.path("pin"), &right).unwrap();
    let token = site.open(&shim).await.unwrap();
    assert!(token.health().await);
    assert!(!site.path("pin.custody.refused").exists());
}

/// Somebody reset the PIN on the token to what is in the file: removing the note has it tried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_note_that_is_removed_lets_the_same_pin_in() {
    let site = Site::new();
    let shim = site.token("a");
    shim.next(1, "C_Login", Fault::Return(PIN_INCORRECT));
    site.open(&shim).await.unwrap_err();
    let error = site.open(&shim).await.unwrap_err();
    assert!(matches!(error, Error::PinRefusedBefore { .. }), "{error}");
    fs::remove_file(site.path("pin.custody.refused")).unwrap();
    site.open(&shim).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_try_is_left_to_a_human() {
    let site = Site::new();
    for flags in [USER_PIN_FINAL_TRY, USER_PIN_LOCKED] {
        let shim = site.token(&format!("a{flags}"));
        shim.always("C_Login", Fault::Log);
        shim.always("C_GetTokenInfo", Fault::TokenFlags(flags));
        let error = site.open(&shim).await.unwrap_err();
        assert!(matches!(error, Error::PinLocked { .. }), "{error}");
        assert_eq!(shim.logged("C_Login"), 0);
    }
    let shim = site.token("b");
    shim.next(1, "C_Login", Fault::Return(PIN_LOCKED));
    let error = site.open(&shim).await.unwrap_err();
    assert!(matches!(error, Error::PinLocked { .. }), "{error}");
    let shim = site.token("c");
    fs::remove_file(site.path("pin.custody.refused")).unwrap();
    shim.always("C_GetTokenInfo", Fault::TokenFlags(USER_PIN_COUNT_LOW));
    site.open(&shim).await.unwrap();
}

/// The PIN was changed while the process ran, and the module has to be initialised anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_that_has_become_wrong_is_not_tried_again() {
    let site = Site::new();
    let shim = site.token("a");
    let token = site.open(&shim).await.unwrap();
    let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
    shim.always("C_Login", Fault::Log);
    shim.always("C_Login", Fault::Return(PIN_INCORRECT));
    shim.next(2, "C_UnwrapKey", Fault::Return(0x32));
    token.unwrap_key(KEK, &wrapped).await.unwrap_err();
    let error = token.unwrap_key(KEK, &wrapped).await.unwrap_err();
    assert!(matches!(error, Error::PinIncorrect { .. }), "{error}");
    for _ in 0..3 {
        assert!(!token.health().await);
    }
    assert_eq!(shim.logged("C_Login"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_sessions_are_opened_than_the_token_has() {
    let site = Site::new();
    let shim = site.token("a");
    shim.always("C_GetTokenInfo", Fault::SessionsMax(3));
    let mut config = site.config(&shim);
    config.sessions = 3;
    let error = Token::open(&config, Role::Custody).await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, Error::Config { .. }) && text.contains("at most 2"),
        "{text}"
    );
    config.sessions = 2;
    let token = Token::open(&config, Role::Custody).await.unwrap();
    assert!(token.health().await);
}

const CREDENTIAL: &str = "LATCHKEY_TEST_CREDENTIAL";

/// As systemd hands a PIN over: a directory that the environment names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_comes_from_a_credential_of_systemd() {
    let Some(module) = std::env::var_os(CREDENTIAL).map(PathBuf::from) else {
        let site = Site::new();
        let shim = site.token("a");
        let credentials = site.path("credentials");
        fs::create_dir(&credentials).unwrap();
        fs::copy(site.path("pin"), credentials.join("custody-pin")).unwrap();
        // as systemd shows an access list
        let mode = fs::Permissions::from_mode(0o440);
        fs::set_permissions(credentials.join("custody-pin"), mode).unwrap();
        let output = in_a_process(
            "pin::a_pin_comes_from_a_credential_of_systemd",
            &[
                ("CREDENTIALS_DIRECTORY", &credentials),
                ("STATE_DIRECTORY", &site.path("")),
                (CREDENTIAL, shim.module()),
            ],
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}"
        );
        return;
    };
    let mut config = hsm::TokenConfig::new(module, "custody", "");
    config.pin_file = None;
    config.pin_credential = Some("custody-pin".to_owned());
    let token = Token::open(&config, Role::Custody).await.unwrap();
    let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
    unwrap(&token, &wrapped).await;
    config.pin_credential = Some("another".to_owned());
    let error = Token::open(&config, Role::Custody).await.unwrap_err();
    assert!(matches!(error, Error::PinFile { .. }), "{error}");
}
