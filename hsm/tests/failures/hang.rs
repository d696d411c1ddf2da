//! A module that does not return.

use std::time::{Duration, Instant};

use hsm::{Error, Failure, Role, Token, TokenState};
use hsm_shim::Fault;

use crate::site::{KEK, Site, until, unwrap};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_does_not_return_is_given_up_by_all_who_wait() {
    let site = Site::new();
    let shim = site.token("a");
    let mut config = site.config(&shim);
    config.call_timeout_ms = 500;
    let token = Token::open(&config, Role::Custody).await.unwrap();
    let wrapped = token.generate_wrapped(KEK, 16).await.unwrap();
    let key = unwrap(&token, &wrapped).await;
    shim.always("C_Encrypt", Fault::Hang);
    let begun = Instant::now();
    let first = token.seal(&key, [1; 12], b"", b"t");
    let behind = token.random(8);
    let (first, behind) = tokio::join!(first, behind);
    assert!(matches!(first, Err(Error::TokenHung { .. })), "{first:?}");
    assert!(matches!(behind, Err(Error::TokenHung { .. })), "{behind:?}");
    let text = first.unwrap_err().to_string();
    assert!(
        text.contains("custody") && text.contains("restart the process"),
        "{text}"
    );
    // known by now: the next ones do not wait again
    assert!(matches!(
        token.random(8).await,
        Err(Error::TokenHung { .. })
    ));
    assert!(!token.health().await);
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let state = token.tokens().remove(0).state;
    assert!(
        matches!(
            state,
            TokenState::Out {
                why: Failure::Hung,
                ..
            }
        ),
        "{state:?}"
    );
    // when the call comes back, so does the token: without a restart, and with the same session
    shim.clear();
    until("it is taken back", async || token.health().await).await;
    token.seal(&key, [1; 12], b"", b"t").await.unwrap();
    assert_eq!(token.tokens()[0].state, TokenState::Works);
}

/// Nothing can end the thread; a process that stops does not wait for it either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_hangs_is_let_go() {
    let site = Site::new();
    let shim = site.token("a");
    let mut config = site.config(&shim);
    config.call_timeout_ms = 300;
    let token = Token::open(&config, Role::Custody).await.unwrap();
    shim.always("C_GenerateRandom", Fault::Hang);
    assert!(matches!(
        token.random(8).await,
        Err(Error::TokenHung { .. })
    ));
    let begun = Instant::now();
    drop(token);
    assert!(begun.elapsed() < Duration::from_secs(2));
    shim.clear();
}
