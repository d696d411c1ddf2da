//! Sessions and logins that go, memory that runs out, faults that pass.

use hsm::Error;
use hsm_shim::Fault;

use crate::site::{KEK, Site, until, unwrap};

const HOST_MEMORY: u64 = 0x02;
const GENERAL_ERROR: u64 = 0x05;
const DEVICE_ERROR: u64 = 0x30;
const KEY_HANDLE_INVALID: u64 = 0x60;
const OBJECT_HANDLE_INVALID: u64 = 0x82;
const OPERATION_ACTIVE: u64 = 0x90;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_sessions_are_opened_again_and_their_keys_are_stale() {
    let site = Site::new();
    let shim = site.token("a");
    let token = site.open(&shim).await.unwrap();
    let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
    let before = unwrap(&token, &wrapped).await;
    let sealed = token.seal(&before, [1; 12], b"", b"text").await.unwrap();
    shim.always("C_CloseSession", Fault::Log);
    shim.next(1, "C_UnwrapKey", Fault::CloseAll);
    let after = unwrap(&token, &wrapped).await;
    let refused = token.seal(&before, [2; 12], b"", b"t").await;
    assert!(matches!(refused, Err(Error::StaleKey)), "{refused:?}");
    drop(before);
    let opened = token.open_sealed(&after, [1; 12], b"", &sealed).await;
    assert_eq!(opened.unwrap(), b"text");
    assert!(token.health().await);
    assert_eq!(
        shim.log(),
        Vec::<String>::new(),
        "a lost session is forgotten, not closed"
    );
    let health = &token.tokens()[0];
    assert_eq!(
        (health.epoch, health.forced),
        (0, 0),
        "no need to initialise anew"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_lost_under_a_key_makes_it_stale_and_no_more() {
    let site = Site::new();
    let shim = site.token("a");
    let token = site.open(&shim).await.unwrap();
    let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
    let key = unwrap(&token, &wrapped).await;
    shim.next(1, "C_EncryptInit", Fault::CloseAll);
    let refused = token.seal(&key, [1; 12], b"", b"t").await;
    assert!(matches!(refused, Err(Error::StaleKey)), "{refused:?}");
    let key = unwrap(&token, &wrapped).await;
    token.seal(&key, [1; 12], b"", b"t").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_logged_out_behind_our_back_is_logged_in_again() {
    let site = Site::new();
    let shim = site.token("a");
    let token = site.open(&shim).await.unwrap();
    let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
    let key = unwrap(&token, &wrapped).await;
    shim.next(1, "C_UnwrapKey", Fault::Logout);
    // logging out destroyed the session's keys
    let fresh = unwrap(&token, &wrapped).await;
    let refused = token.seal(&key, [1; 12], b"", b"t").await;
    assert!(matches!(refused, Err(Error::StaleKey)), "{refused:?}");
    token.seal(&fresh, [1; 12], b"", b"t").await.unwrap();
    shim.next(1, "C_EncryptInit", Fault::Logout);
    let refused = token.seal(&fresh, [2; 12], b"", b"t").await;
    assert!(matches!(refused, Err(Error::StaleKey)), "{refused:?}");
    let fresh = unwrap(&token, &wrapped).await;
    token.seal(&fresh, [2; 12], b"", b"t").await.unwrap();
    assert!(token.health().await);
}

/// It happens to every login: not even a new initialisation helps, and that is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_never_logged_in_says_so_until_it_is() {
    let site = Site::new();
    let shim = site.token("a");
    let token = site.open(&shim).await.unwrap();
    let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
    shim.always("C_UnwrapKey", Fault::Return(0x101));
    let refused = token.unwrap_key(KEK, &wrapped).await;
    assert!(
        matches!(
            refused,
            Err(Error::NotLoggedIn { .. } | Error::TokenGone { .. })
        ),
        "{refused:?}"
    );
    assert!(!token.health().await);
    shim.clear();
    until("it is taken back", async || token.health().await).await;
    unwrap(&token, &wrapped).await;
}

/// An operation that began and did not end would be in the way of all later ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poisoned_session_is_discarded() {
    let site = Site::new();
    let shim = site.token("a");
    let token = site.open(&shim).await.unwrap();
    let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
    let key = unwrap(&token, &wrapped).await;
    shim.always("C_CloseSession", Fault::Log);
    shim.next(1, "C_Encrypt", Fault::Return(OPERATION_ACTIVE));
    let refused = token.seal(&key, [1; 12], b"", b"t").await;
    assert!(matches!(refused, Err(Error::StaleKey)), "{refused:?}");
    assert_eq!(shim.logged("C_CloseSession"), 1);
    let refused = token.seal(&key, [1; 12], b"", b"t").await;
    assert!(matches!(refused, Err(Error::StaleKey)), "{refused:?}");
    let key = unwrap(&token, &wrapped).await;
    token.seal(&key, [1; 12], b"", b"t").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_runs_out_is_said_and_costs_no_restart() {
    let site = Site::new();
    let shim = site.token("a");
    let token = site.open(&shim).await.unwrap();
    let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
    shim.always("C_UnwrapKey", Fault::Return(HOST_MEMORY));
    let refused = token.unwrap_key(KEK, &wrapped).await;
    assert!(
        matches!(refused, Err(Error::HostMemory { .. })),
        "{refused:?}"
    );
    shim.clear();
    unwrap(&token, &wrapped).await;
    assert_eq!(token.tokens()[0].forced, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_with_a_fault_is_named_and_taken_back() {
    let site = Site::new();
    let shim = site.token("a");
    let token = site.open(&shim).await.unwrap();
    let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
    shim.always("C_UnwrapKey", Fault::Return(DEVICE_ERROR));
    let refused = token.unwrap_key(KEK, &wrapped).await;
    assert!(
        matches!(refused, Err(Error::DeviceError { .. })),
        "{refused:?}"
    );
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("custody") && text.contains("fault"), "{text}");
    assert!(!token.health().await);
    shim.clear();
    until("it is taken back", async || token.health().await).await;
    unwrap(&token, &wrapped).await;
    assert!(
        token.tokens()[0].forced > 0,
        "the module was initialised anew"
    );
}

/// SoftHSM says GENERAL_ERROR, Kryoptic DEVICE_ERROR, both when the data is at fault and when the
/// token is. A fault that has passed must not count as a verdict on the data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passing_fault_is_no_verdict_on_the_data() {
    let site = Site::new();
    let shim = site.token("a");
    let token = site.open(&shim).await.unwrap();
    let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
    for code in [GENERAL_ERROR, DEVICE_ERROR] {
        shim.next(1, "C_UnwrapKey", Fault::Return(code));
        let key = unwrap(&token, &wrapped).await;
        let sealed = token.seal(&key, [1; 12], b"", b"text").await.unwrap();
        shim.next(1, "C_Decrypt", Fault::Return(code));
        let opened = token.open_sealed(&key, [1; 12], b"", &sealed).await;
        assert_eq!(opened.unwrap(), b"text");
    }
    // and what is really wrong is still said to be
    let key = unwrap(&token, &wrapped).await;
    let mut sealed = token.seal(&key, [1; 12], b"", b"text").await.unwrap();
    sealed[0] ^= 1;
    let refused = token.open_sealed(&key, [1; 12], b"", &sealed).await;
    assert!(matches!(refused, Err(Error::AuthFailed)), "{refused:?}");
    let refused = token.unwrap_key(KEK, &[7; 24]).await;
    assert!(
        matches!(refused, Err(Error::WrappedKeyInvalid { .. })),
        "{refused:?}"
    );
}

/// A tag that is wrong, on a token that is gone: the data is not to blame.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_general_error_of_a_dead_token_is_no_wrong_tag() {
    let site = Site::new();
    let shim = site.token("a");
    let token = site.open(&shim).await.unwrap();
    let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
    let key = unwrap(&token, &wrapped).await;
    let sealed = token.seal(&key, [1; 12], b"", b"text").await.unwrap();
    shim.always("C_Decrypt", Fault::Return(GENERAL_ERROR));
    let refused = token.open_sealed(&key, [1; 12], b"", &sealed).await;
    assert!(
        matches!(refused, Err(Error::TokenGone { .. })),
        "{refused:?}"
    );
}

/// Kryoptic says so of a key-encryption key that is gone, from C_UnwrapKey.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_key_encryption_key_is_a_lost_token() {
    let site = Site::new();
    for code in [OBJECT_HANDLE_INVALID, KEY_HANDLE_INVALID] {
        let shim = site.token(&format!("a{code}"));
        let token = site.open(&shim).await.unwrap();
        let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
        shim.always("C_UnwrapKey", Fault::Return(code));
        let refused = token.unwrap_key(KEK, &wrapped).await;
        assert!(
            matches!(refused, Err(Error::TokenGone { .. })),
            "{refused:?}"
        );
        shim.clear();
        until("it is taken back", async || token.health().await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_the_token_does_not_know_any_more_is_stale() {
    let site = Site::new();
    let shim = site.token("a");
    let token = site.open(&shim).await.unwrap();
    let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
    let key = unwrap(&token, &wrapped).await;
    shim.next(1, "C_EncryptInit", Fault::Return(KEY_HANDLE_INVALID));
    let refused = token.seal(&key, [1; 12], b"", b"t").await;
    assert!(matches!(refused, Err(Error::StaleKey)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_token_is_gone_and_comes_back() {
    let site = Site::new();
    let shim = site.token("a");
    let token = site.open(&shim).await.unwrap();
    let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
    let key = unwrap(&token, &wrapped).await;
    shim.remove_token();
    let refused = token.unwrap_key(KEK, &wrapped).await;
    assert!(
        matches!(refused, Err(Error::TokenGone { .. })),
        "{refused:?}"
    );
    let refused = token.seal(&key, [1; 12], b"", b"t").await;
    assert!(
        matches!(refused, Err(Error::TokenGone { .. } | Error::StaleKey)),
        "{refused:?}"
    );
    assert!(!token.health().await);
    shim.clear();
    until("it is taken back", async || token.health().await).await;
    unwrap(&token, &wrapped).await;
}
