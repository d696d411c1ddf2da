//! Certificates that are exchanged under a running server, and peers that must not outlive theirs.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::time::{Duration, Instant};

use kit::{Channel, tls::Identity};
use latchkey_proto::audit::v1::permit_service_client::PermitServiceClient;

use support::{Running, because, start, start_with};

const SERVER: &str = "spiffe://kit.test/server";
const CALLER: &str = "spiffe://kit.test/caller";

async fn answers(client: &mut PermitServiceClient<Channel>) -> bool {
    client.authorise(because("x")).await.is_ok()
}

/// A client with a certificate file of its own name, so that no other's identity is shared.
fn client(running: &Running, file: &str) -> PermitServiceClient<Channel> {
    let tls = running.pki.leaf(file, &[CALLER]);
    PermitServiceClient::new(running.channel(&tls, SERVER).expect("a channel"))
}

/// Every file is replaced: authority, certificate, key. What is open goes on, what is new uses the new.
#[tokio::test]
async fn sighup_brings_new_certificates_and_cuts_nobody() {
    let mut running = start().await;
    let mut before = client(&running, "before");
    assert!(answers(&mut before).await);
    let stale = running.pki.leaf("stale", &[CALLER]);

    running.pki.renew();
    running.pki.leaf("server", &[SERVER]);
    let us = rustix::process::getpid();
    rustix::process::kill_process(us, rustix::process::Signal::HUP).expect("asked");
    let end = Instant::now() + Duration::from_secs(8);
    let mut tries = 0;
    loop {
        tries += 1;
        let mut after = client(&running, &format!("after{tries}"));
        if answers(&mut after).await {
            break;
        }
        assert!(Instant::now() < end, "the new certificate is not in use");
        tokio::task::yield_now().await;
    }
    assert!(answers(&mut before).await, "an open connection was cut");
    let stale = running.channel(&stale, SERVER);
    let stale = PermitServiceClient::new(stale.expect("a channel"));
    assert!(
        !answers(&mut stale.clone()).await,
        "the old authority still lets in"
    );
    running.trigger.fire();
    running.tasks.join().await;
}

/// Half an exchange, or another's certificate, changes nothing.
#[tokio::test]
async fn files_that_do_not_fit_leave_the_old_in_force() {
    let running = start().await;
    let tls = running.pki.leaf("server", &[SERVER]);
    let identity = Identity::of(&tls).expect("the server's own");
    let name = || kit::tls::own_name(&tls).expect("a name").to_string();
    let certificate = tls.certificate_file.clone().expect("a file");
    for break_it in [
        "-----BEGIN CERTIFICATE-----",
        "",
        &std::fs::read_to_string(tls.ca_file.clone()).expect("read"),
    ] {
        std::fs::write(&certificate, break_it).expect("written");
        identity.refresh();
        assert_eq!(name(), SERVER);
        let mut fresh = client(&running, &format!("fresh{}", break_it.len()));
        assert!(answers(&mut fresh).await, "{break_it}");
    }
    running.pki.leaf("server", &["spiffe://kit.test/custody"]);
    identity.refresh();
    assert_eq!(name(), SERVER, "a service does not become another");
    // the next good one is taken
    running.pki.leaf("server", &[SERVER]);
    identity.refresh();
    assert!(answers(&mut client(&running, "last")).await);
    running.trigger.fire();
    running.tasks.join().await;
}

/// A connection ends with its age; who still has a good certificate does not notice, who has none is out.
#[tokio::test]
async fn a_peer_outlives_its_certificate_by_the_age_of_a_connection_at_most() {
    let mut running = start_with(|config| {
        config.max_connection_age_seconds = 1;
        config.max_connection_grace_seconds = 1;
        config.max_concurrent_requests = 8;
    })
    .await;
    let mut peer = client(&running, "peer");
    let (begun, mut again) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(3) {
        // At the very moment of the exchange a request may be told to come again, as with any connection that ends.
        if let Err(status) = peer.authorise(because("x")).await {
            assert!(kit::status::is_transient(&status), "{status:?}");
            again += 1;
        }
    }
    assert!(again <= 3, "{again} requests in 3 exchanges");
    let server = running.pki.leaf("server", &[SERVER]);
    let identity = Identity::of(&server).expect("the server's own");
    running.pki.renew();
    running.pki.leaf("server", &[SERVER]);
    identity.refresh();
    let removed = Instant::now();
    while answers(&mut peer).await {
        let since = removed.elapsed();
        assert!(
            since < Duration::from_secs(5),
            "still there after {since:?}"
        );
    }
    running.trigger.fire();
    running.tasks.join().await;
}
