//! Modules that are initialised anew, and those that crash.

use std::path::PathBuf;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use hsm::{Error, Role, Token};
use hsm_shim::{Fault, Shim};

use crate::site::{KEK, Load, Site, in_a_process, unwrap};

/// What SoftHSM keeps of each destroyed object is bounded, and nobody sees how.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planned_initialisations_fail_no_request() {
    let site = Site::new();
    let shim = site.token("a");
    let mut config = site.config(&shim);
    config.objects_max = 64;
    let token = Token::open(&config, Role::Custody).await.unwrap();
    shim.always("C_CloseSession", Fault::Log);
    let load = Load::start(&token, 8).await;
    let mut most = 0;
    // others unwrap keys all the time
    for _ in 0..1000 {
        let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
        unwrap(&token, &wrapped).await;
        most = most.max(token.tokens()[0].objects);
    }
    let health = token.tokens().remove(0);
    let counts = load.end().await;
    assert!(counts.failed.is_empty(), "{:?}", counts.failed);
    assert!(counts.done > 0 && counts.stale > 0, "{counts:?}");
    assert!(health.planned >= 3 && health.forced == 0, "{health:?}");
    // an epoch lasts 100 ms at least
    assert!(most < 1500, "{most} of more than 2000 at one time");
    assert_eq!(
        shim.log(),
        Vec::<String>::new(),
        "sessions of an old epoch are not closed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_is_planned_where_it_is_not_wanted() {
    let site = Site::new();
    let shim = site.token("a");
    let mut config = site.config(&shim);
    config.objects_max = 0;
    let token = Token::open(&config, Role::Custody).await.unwrap();
    for _ in 0..200 {
        token.generate_wrapped(KEK, 16).await.unwrap();
    }
    let health = token.tokens().remove(0);
    assert!(health.planned == 0 && health.objects >= 200, "{health:?}");
    config.objects_max = 3;
    let error = Token::open(&config, Role::Custody).await.unwrap_err();
    assert!(error.to_string().contains("objects_max"), "{error}");
}

/// Slot numbers change when tokens come and go; label and serial do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_found_again_under_another_slot_number() {
    let site = Site::new();
    let shim = site.token("a");
    let mut config = site.config(&shim);
    config.objects_max = 64;
    let token = Token::open(&config, Role::Custody).await.unwrap();
    let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
    // a token more in the same store, made through another copy of the module
    let behind = Shim::install(
        &site.path(""),
        "behind",
        crate::site::SOFTHSM.as_ref(),
        Some(&site.path("a.conf")),
    );
    let other = Pkcs11::new(behind.module()).unwrap();
    other
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .unwrap();
    let free = other.get_slots_with_token().unwrap().into_iter();
    let mut free = free.filter(|slot| !other.get_token_info(*slot).unwrap().token_initialized());
    other
        .init_token(free.next().unwrap(), &"12345678".into(), "aaa")
        .unwrap();
    while token.tokens()[0].planned == 0 {
        token.generate_wrapped(KEK, 16).await.unwrap();
    }
    unwrap(&token, &wrapped).await;
    assert!(token.health().await);
}

/// Whoever initialised the module could finalise it under us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_somebody_else_initialised_is_refused() {
    let site = Site::new();
    let shim = site.token("a");
    let other = Pkcs11::new(shim.module()).unwrap();
    other
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .unwrap();
    let error = site.open(&shim).await.unwrap_err();
    assert!(
        error.to_string().contains("another part of this process"),
        "{error}"
    );
}

/// Two opened tokens of one module share it, and the login: closing one leaves the other's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_is_initialised_once_and_its_login_outlives_each_user() {
    let site = Site::new();
    let shim = site.token("a");
    shim.always("C_Initialize", Fault::Log);
    let one = site.open(&shim).await.unwrap();
    let two = site.open(&shim).await.unwrap();
    assert_eq!(shim.logged("C_Initialize"), 1);
    let wrapped = two.generate_wrapped(KEK, 16).await.unwrap();
    let key = unwrap(&two, &wrapped).await;
    drop(one);
    two.seal(&key, [1; 12], b"", b"t").await.unwrap();
    assert!(two.health().await);
}

/// Nobody but the token has a dedicated key: it is brought back, or its association would end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dedicated_key_outlives_its_session_and_its_token() {
    let site = Site::new();
    let (a, b) = (site.token("a"), site.token("b"));
    let configs = [site.config(&a), site.config(&b)];
    let token = Token::open_all(&configs, Role::Custody).await.unwrap();
    let key = token.hold_clear(&vec![7; 16].into()).await.unwrap();
    let sealed = token.seal(&key, [1; 12], b"", b"text").await.unwrap();
    for (gone, back) in [(&a, &b), (&b, &a), (&a, &b)] {
        gone.remove_token();
        let again = token.seal(&key, [1; 12], b"", b"text").await.unwrap();
        assert_eq!(again, sealed);
        gone.clear();
        crate::site::until("both work", async || {
            token.health().await
                && token
                    .tokens()
                    .iter()
                    .all(|t| t.state == hsm::TokenState::Works)
        })
        .await;
        back.next(1, "C_EncryptInit", Fault::CloseAll);
        assert_eq!(
            token.seal(&key, [1; 12], b"", b"text").await.unwrap(),
            sealed
        );
        back.clear();
    }
}

const CRASH: &str = "LATCHKEY_TEST_CRASH";

/// A crash of the module takes the process, and nothing else: the next process goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_crashes_takes_the_process_and_nothing_else() {
    if let Some(directory) = std::env::var_os(CRASH).map(PathBuf::from) {
        let shim = Shim::at(&directory.join("a.so"));
        let config = hsm::TokenConfig::new(shim.module(), "custody", directory.join("pin"));
        let token = Token::open(&config, Role::Custody).await.unwrap();
        let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
        let key = unwrap(&token, &wrapped).await;
        shim.always("C_Encrypt", Fault::Crash);
        drop(token.seal(&key, [1; 12], b"", b"t").await);
        unreachable!("the process is gone");
    }
    let site = Site::new();
    let shim = site.token("a");
    let output = in_a_process(
        "epoch::a_module_that_crashes_takes_the_process_and_nothing_else",
        &[(CRASH, &site.path(""))],
    );
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains("the process is gone"), "{text}");
    shim.clear();
    let token = site.open(&shim).await.unwrap();
    assert!(token.health().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_of_one_token_is_nothing_to_another() {
    let site = Site::new();
    let (a, b) = (site.token("a"), site.token("b"));
    let (one, two) = (site.open(&a).await.unwrap(), site.open(&b).await.unwrap());
    let wrapped = one.generate_wrapped(KEK, 16).await.unwrap();
    let key = unwrap(&one, &wrapped).await;
    let refused = two.seal(&key, [1; 12], b"", b"t").await;
    assert!(matches!(refused, Err(Error::StaleKey)), "{refused:?}");
}
