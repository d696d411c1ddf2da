//! Several tokens with the same keys.

use std::fs;

use hsm::{Error, Failure, Role, Token, TokenState};
use hsm_shim::{Fault, Shim};

use crate::site::{KEK, Load, Site, copy, until, unwrap};

/// Two tokens, and both are given work.
async fn two(site: &Site, timeout_ms: u64) -> (Shim, Shim, Token) {
    let (a, b) = (site.token("a"), site.token("b"));
    let mut configs = [site.config(&a), site.config(&b)];
    for config in &mut configs {
        config.call_timeout_ms = timeout_ms;
    }
    let token = Token::open_all(&configs, Role::Custody).await.unwrap();
    (a, b, token)
}

fn out(token: &Token, member: usize) -> Option<Failure> {
    match token.tokens().remove(member).state {
        TokenState::Works => None,
        TokenState::Out { why, .. } => Some(why),
    }
}

/// Under load, one of two tokens dies in the way that `kill` says and comes back after `mend`: no
/// caller sees it, no ciphertext is under another key, and health says which one it was.
async fn one_dies(
    site: Site,
    timeout_ms: u64,
    kill: impl Fn(&Site, &Shim),
    mend: impl Fn(&Site, &Shim),
) -> Vec<Failure> {
    let (a, b, token) = two(&site, timeout_ms).await;
    let load = Load::start(&token, 8).await;
    load.more(200).await;
    kill(&site, &a);
    let mut seen = Vec::new();
    until("one is taken out", async || {
        token.health().await && out(&token, 0).is_some()
    })
    .await;
    seen.extend(out(&token, 0));
    assert_eq!(out(&token, 1), None, "the other works");
    assert!(token.health().await, "one works");
    load.more(200).await;
    let (names, text) = (token.tokens(), format!("{:?}", token.tokens()[0].state));
    assert!(
        names[0].name.contains("a.so") && names[1].name.contains("b.so"),
        "{names:?}"
    );
    assert!(text.contains("a.so"), "{text}");
    mend(&site, &a);
    until("it is taken back", async || {
        token.health().await && out(&token, 0).is_none()
    })
    .await;
    load.more(200).await;
    // and then the other one goes, for good
    b.remove_token();
    until("the other is taken out", async || {
        token.health().await && out(&token, 1).is_some()
    })
    .await;
    load.more(200).await;
    let counts = load.end().await;
    assert!(counts.failed.is_empty(), "{:?}", counts.failed);
    assert!(counts.stale > 0, "{counts:?}");
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_a_token_that_is_removed() {
    let seen = one_dies(
        Site::new(),
        10_000,
        |_, a| a.remove_token(),
        |_, a| a.clear(),
    )
    .await;
    assert_eq!(seen, [Failure::Gone]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_a_device_with_a_fault() {
    let fault = |_: &Site, a: &Shim| {
        for function in ["C_EncryptInit", "C_UnwrapKey", "C_Decrypt", "C_OpenSession"] {
            a.always(function, Fault::Return(0x30));
        }
    };
    let seen = one_dies(Site::new(), 10_000, fault, |_, a| a.clear()).await;
    assert!(
        matches!(seen[..], [Failure::Device | Failure::Gone]),
        "{seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_a_module_that_hangs() {
    let hang = |_: &Site, a: &Shim| {
        a.always("C_Encrypt", Fault::Hang);
        a.always("C_UnwrapKey", Fault::Hang);
    };
    let seen = one_dies(Site::new(), 500, hang, |_, a| a.clear()).await;
    assert_eq!(seen, [Failure::Hung]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_a_token_directory_go() {
    let gone = |site: &Site, _: &Shim| {
        fs::rename(site.tokens("a"), site.path("pulled")).unwrap();
    };
    let back = |site: &Site, _: &Shim| {
        fs::rename(site.path("pulled"), site.tokens("a")).unwrap();
    };
    let site = Site::new();
    let (a, _b, token) = two(&site, 10_000).await;
    let load = Load::start(&token, 8).await;
    load.more(200).await;
    gone(&site, &a);
    // session keys go on working: only a check with the token's own keys finds out
    until("it is taken out", async || {
        token.health().await && out(&token, 0).is_some()
    })
    .await;
    load.more(200).await;
    back(&site, &a);
    until("it is taken back", async || {
        token.health().await && out(&token, 0).is_none()
    })
    .await;
    load.more(200).await;
    let counts = load.end().await;
    assert!(counts.failed.is_empty(), "{:?}", counts.failed);
}

/// Sessions that are closed and logins that are ended, again and again: nobody sees it, and no token
/// is taken out for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_sessions_and_logins_go() {
    let site = Site::new();
    let (a, b, token) = two(&site, 10_000).await;
    let load = Load::start(&token, 4).await;
    for _ in 0..10 {
        a.next(1, "C_EncryptInit", Fault::CloseAll);
        b.next(1, "C_EncryptInit", Fault::Logout);
        load.more(50).await;
        assert!(token.health().await);
    }
    let counts = load.end().await;
    assert!(counts.failed.is_empty(), "{:?}", counts.failed);
    assert!(counts.stale > 0, "{counts:?}");
    assert_eq!((out(&token, 0), out(&token, 1)), (None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_with_other_keys_is_refused_by_name() {
    let site = Site::new();
    let (a, stranger) = (site.token("a"), site.stranger("stranger"));
    let mut other = site.config(&stranger);
    other.pin_file = Some(site.path("stranger.pin"));
    let refused = Token::open_all(&[site.config(&a), other.clone()], Role::Custody).await;
    let error = refused.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::KeysDiffer { .. }), "{text}");
    assert!(
        text.contains("stranger.so") && text.contains("copies of each other"),
        "{text}"
    );
    // alone it will do
    Token::open(&other, Role::Custody).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_not_there_is_taken_in_when_it_is() {
    let site = Site::new();
    let (a, b) = (site.token("a"), site.token("b"));
    let kept = site.path("kept");
    fs::rename(site.tokens("b"), &kept).unwrap();
    fs::create_dir(site.tokens("b")).unwrap();
    let configs = [site.config(&b), site.config(&a)];
    let token = Token::open_all(&configs, Role::Custody).await.unwrap();
    assert_eq!(out(&token, 0), Some(Failure::Gone));
    let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
    assert!(token.health().await);
    copy(&kept, &site.tokens("b"));
    until("it is taken in", async || {
        token.health().await && out(&token, 0).is_none()
    })
    .await;
    a.remove_token();
    let key = unwrap(&token, &wrapped).await;
    token.seal(&key, [1; 12], b"", b"text").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_are_out_it_is_said_and_the_first_that_is_back_serves() {
    let site = Site::new();
    let (a, b, token) = two(&site, 10_000).await;
    let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
    a.remove_token();
    b.remove_token();
    let refused = token.unwrap_key(KEK, &wrapped).await;
    assert!(
        matches!(refused, Err(Error::TokenGone { .. })),
        "{refused:?}"
    );
    assert!(!token.health().await);
    b.clear();
    until("one is taken back", async || token.health().await).await;
    unwrap(&token, &wrapped).await;
    let none = Token::open_all(&[site.config(&a)], Role::Custody).await;
    assert!(none.is_err());
}

/// As the ceremony makes them: both are clones of one backup token, each with a transcript key of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clones_of_one_backup_token_work_together() {
    let site = Site::new();
    let shim = site.clones("clones", &["custody-1", "custody-2"]);
    let configs = ["custody-1", "custody-2"].map(|label| {
        let pin = site.path(&format!("{label}.pin"));
        hsm::TokenConfig::new(shim.module(), label, pin)
    });
    let token = Token::open_all(&configs, Role::Custody).await.unwrap();
    let load = Load::start(&token, 4).await;
    load.more(100).await;
    let counts = load.end().await;
    assert!(counts.failed.is_empty(), "{:?}", counts.failed);
    assert!(
        token.tokens().iter().all(|token| token.operations > 0),
        "{:?}",
        token.tokens()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_is_one_to_sixteen_tokens() {
    let site = Site::new();
    let a = site.token("a");
    for count in [0, 17] {
        let configs = vec![site.config(&a); count];
        let error = Token::open_all(&configs, Role::Custody).await.unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
    }
}
