//! The relay over real sockets: who gets through, and what becomes of the rest.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::{io::ErrorKind, sync::atomic::Ordering, time::Duration};

use gateway::proxy::Answer;
use kit::{Listener, ServiceConfig as _, Tasks};
use support::{
    Auditor, PATIENCE, Pki, Stack, connect_from, free_address, gateway_config, meter, pdu,
    start_gateway, until,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

const US: &str = "127.0.0.1";
const STRANGER: &str = "127.9.9.9";
const ANY_PORT: &str = "lab_any_port = true";

/// Reads to the end; the octets, and whether the end was orderly.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> (Vec<u8>, bool) {
    let mut octets = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut octets))
        .await
        .expect("an end");
    (octets, end.is_ok())
}

#[tokio::test]
async fn whole_pdus_pass_both_ways_and_the_meters_end_is_orderly() {
    let (listener, address) = meter().await;
    let stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.1/32"], ANY_PORT).await;
    let (mut tls, answer) = stack.dial(US, "association", address).await.unwrap();
    assert_eq!(answer, Answer::Connected as u8);
    let (mut meter, _) = listener.accept().await.unwrap();

    let request = pdu(b"request");
    let (head, tail) = request.split_at(5);
    tls.write_all(head).await.unwrap();
    tls.flush().await.unwrap();
    tls.write_all(&[tail, &pdu(b"second")].concat())
        .await
        .unwrap();
    tls.flush().await.unwrap();
    let mut heard = vec![0; request.len() + pdu(b"second").len()];
    meter.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, [request, pdu(b"second")].concat());

    meter.write_all(&pdu(b"answer")).await.unwrap();
    drop(meter);
    let (octets, orderly) = rest(&mut tls).await;
    assert_eq!(octets, pdu(b"answer"));
    assert!(orderly, "the meter closed, and the association must know");
    stack.stop().await;
}

#[tokio::test]
async fn a_stranger_is_reset_before_a_word_and_counted_once_for_many() {
    let stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.1/32"], ANY_PORT).await;
    for _ in 0..20 {
        // The reset may arrive before `connect` returns.
        let refused = match connect_from(STRANGER, stack.relay).await {
            Ok(mut tcp) => tcp.read_u8().await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(refused.kind(), ErrorKind::ConnectionReset);
    }
    let entries = stack
        .auditor
        .drops("from 127.9.9.9: the source is not in the allowlist", 20)
        .await;
    assert!(entries <= 3, "{entries} entries for 20 drops");
    stack.stop().await;
}

#[tokio::test]
async fn drops_wait_for_the_auditor() {
    let stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.1/32"], ANY_PORT).await;
    stack.auditor.away.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        drop(connect_from(STRANGER, stack.relay).await);
    }
    until("the gateway has noticed", || async {
        TcpStream::connect(stack.relay).await.is_ok()
    })
    .await;
    stack.auditor.away.store(false, Ordering::SeqCst);
    stack.auditor.drops("from 127.9.9.9", 3).await;
    stack.stop().await;
}

#[tokio::test]
async fn a_good_certificate_of_the_wrong_name_is_refused() {
    let (listener, address) = meter().await;
    let stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.1/32"], ANY_PORT).await;
    assert!(stack.dial(US, "reset", address).await.is_err());
    stack
        .auditor
        .drops(
            "may not use the relay (spiffe://gateway.test/latchkey/reset)",
            1,
        )
        .await;
    assert!(
        timeout(Duration::from_millis(1), listener.accept())
            .await
            .is_err(),
        "nobody dialled"
    );
    stack.stop().await;
}

#[tokio::test]
async fn a_foreign_authority_and_no_tls_are_refused() {
    let (_listener, address) = meter().await;
    let mut stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.1/32"], ANY_PORT).await;
    let mut tcp = connect_from(US, stack.relay).await.unwrap();
    tcp.write_all(&pdu(b"no TLS")).await.unwrap();
    rest(&mut tcp).await;
    let own = std::mem::replace(&mut stack.pki, Pki::new());
    assert!(stack.dial(US, "association", address).await.is_err());
    // The third is the look of `Stack::start` whether the relay listens.
    stack.auditor.drops("the TLS handshake failed", 3).await;
    drop(own);
    stack.stop().await;
}

#[tokio::test]
async fn only_listed_meters_on_listed_ports_are_dialled() {
    let (listener, address) = meter().await;
    let more = format!("meter_ports = [{}]", address.port());
    let stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.1/32"], &more).await;
    let unlisted = "127.0.0.2:4059".parse().unwrap();
    let (mut tls, answer) = stack.dial(US, "association", unlisted).await.unwrap();
    assert_eq!(
        (answer, rest(&mut tls).await),
        (Answer::Refused as u8, (vec![], true))
    );
    stack
        .auditor
        .drops(
            "the destination is not in the allowlist (to 127.0.0.2:4059)",
            1,
        )
        .await;

    let other_port = "127.0.0.1:22".parse().unwrap();
    assert_eq!(
        stack.dial(US, "association", other_port).await.unwrap().1,
        Answer::Refused as u8
    );
    stack
        .auditor
        .drops("the destination port is not allowed (to 127.0.0.1:22)", 1)
        .await;

    let masked = format!("[::ffff:127.0.0.2]:{}", address.port())
        .parse()
        .unwrap();
    let mut tls = stack.greet(US, "association").await.unwrap();
    let from: std::net::SocketAddr = "[::1]:1".parse().unwrap();
    let header = ppp::v2::Builder::with_addresses(
        ppp::v2::Version::Two | ppp::v2::Command::Proxy,
        ppp::v2::Protocol::Stream,
        (from, masked),
    );
    tls.write_all(&header.build().unwrap()).await.unwrap();
    rest(&mut tls).await;
    stack
        .auditor
        .drops(&format!("(to 127.0.0.2:{})", address.port()), 1)
        .await;

    assert_eq!(
        stack.dial(US, "association", address).await.unwrap().1,
        Answer::Connected as u8
    );
    listener.accept().await.unwrap();
    stack.stop().await;
}

/// Somebody enrols a meter and talks to it at once: the list the gateway holds does not have it yet.
#[tokio::test]
async fn a_meter_enrolled_a_moment_ago_is_asked_for() {
    let (_listener, address) = meter().await;
    let seldom = format!("{ANY_PORT}\npoll_ms = 60000");
    let stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.9/32"], &seldom).await;
    stack.auditor.set(&["127.0.0.1/32"], &["127.0.0.1/32"]);
    let (_tls, answer) = stack.dial(US, "association", address).await.unwrap();
    assert_eq!(answer, Answer::Connected as u8);
    stack.stop().await;
}

#[tokio::test]
async fn a_meter_that_does_not_listen_is_unreachable_and_no_drop() {
    let nobody = free_address().await;
    let stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.1/32"], ANY_PORT).await;
    let (mut tls, answer) = stack.dial(US, "association", nobody).await.unwrap();
    assert_eq!(
        (answer, rest(&mut tls).await),
        (Answer::Unreachable as u8, (vec![], true))
    );
    stack.stop().await;
}

#[tokio::test]
async fn no_header_no_way() {
    let stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.1/32"], ANY_PORT).await;
    let mut tls = stack.greet(US, "association").await.unwrap();
    tls.write_all(&pdu(b"straight to the point")).await.unwrap();
    assert!(!rest(&mut tls).await.1);
    stack
        .auditor
        .drops("no PROXY header that names a destination", 1)
        .await;
    stack.stop().await;
}

#[tokio::test]
async fn garbage_never_reaches_the_other_side() {
    let (listener, address) = meter().await;
    let stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.1/32"], ANY_PORT).await;
    let (mut tls, _) = stack.dial(US, "association", address).await.unwrap();
    let (mut meter, _) = listener.accept().await.unwrap();
    tls.write_all(&[0, 1, 0, 16, 0, 1]).await.unwrap();
    tls.write_all(&[0xff, 0xff, 1, 2, 3]).await.unwrap();
    tls.flush().await.unwrap();
    assert!(!rest(&mut tls).await.1, "the end is abrupt");
    assert_eq!(rest(&mut meter).await.0, b"");
    stack.auditor.drops("garbage from the source", 1).await;

    let (mut tls, _) = stack.dial(US, "association", address).await.unwrap();
    let (mut meter, _) = listener.accept().await.unwrap();
    meter
        .write_all(b"\x7e\xa0 HDLC has no business here")
        .await
        .unwrap();
    assert_eq!(rest(&mut tls).await, (vec![], false));
    stack.auditor.drops("garbage from the meter", 1).await;
    stack.stop().await;
}

#[tokio::test]
async fn a_change_of_the_list_cuts_those_it_concerns_and_no_others() {
    let (listener, address) = meter().await;
    let both = ["127.0.0.1/32", "127.0.0.3/32"];
    let stack = Stack::start(&both, &["127.0.0.1/32"], ANY_PORT).await;
    let (mut stays, _) = stack.dial(US, "association", address).await.unwrap();
    let (mut its_meter, _) = listener.accept().await.unwrap();
    let (mut goes, _) = stack
        .dial("127.0.0.3", "association", address)
        .await
        .unwrap();
    let (mut other_meter, _) = listener.accept().await.unwrap();

    stack
        .auditor
        .set(&["127.0.0.1/32"], &["127.0.0.1/32", "127.0.0.2/32"]);
    assert!(!rest(&mut goes).await.1);
    rest(&mut other_meter).await;
    stack
        .auditor
        .drops(
            "from 127.0.0.3: removed from the allowlist while connected",
            1,
        )
        .await;
    stays.write_all(&pdu(b"still here")).await.unwrap();
    stays.flush().await.unwrap();
    let mut heard = vec![0; pdu(b"still here").len()];
    its_meter.read_exact(&mut heard).await.unwrap();

    stack.auditor.set(&["127.0.0.1/32"], &["127.0.0.2/32"]);
    assert!(!rest(&mut stays).await.1, "its meter was removed");
    stack.stop().await;
}

#[tokio::test]
async fn one_source_cannot_take_every_place() {
    let (_listener, address) = meter().await;
    let more = format!("{ANY_PORT}\n[relay.limits]\nconnections = 3\nconnections_per_source = 2");
    let stack = Stack::start(&["127.0.0.0/24"], &["127.0.0.1/32"], &more).await;
    let _one = stack.dial(US, "association", address).await.unwrap();
    let _two = stack.dial(US, "association", address).await.unwrap();
    assert!(stack.dial(US, "association", address).await.is_err());
    stack
        .auditor
        .drops("too many connections from this source", 1)
        .await;
    let _three = stack
        .dial("127.0.0.2", "association", address)
        .await
        .unwrap();
    assert!(
        stack
            .dial("127.0.0.3", "association", address)
            .await
            .is_err()
    );
    stack
        .auditor
        .drops("from 127.0.0.3: too many connections;", 1)
        .await;
    stack.stop().await;
}

#[tokio::test]
async fn slow_peers_are_dropped() {
    let (listener, address) = meter().await;
    let more =
        format!("{ANY_PORT}\n[relay.limits]\nfirst_octet_timeout_ms = 300\npdu_timeout_ms = 300");
    let stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.1/32"], &more).await;
    let mut silent = connect_from(US, stack.relay).await.unwrap();
    rest(&mut silent).await;
    stack.auditor.drops("from 127.0.0.1: too slow;", 1).await;

    let (mut no_octet, _) = stack.dial(US, "association", address).await.unwrap();
    assert!(!rest(&mut no_octet).await.1);
    let (mut half, _) = stack.dial(US, "association", address).await.unwrap();
    let _meter = listener.accept().await.unwrap();
    half.write_all(&pdu(b"never whole")[..9]).await.unwrap();
    half.flush().await.unwrap();
    assert!(!rest(&mut half).await.1);
    stack
        .auditor
        .drops(&format!("too slow (to {address})"), 2)
        .await;
    stack.stop().await;
}

#[tokio::test]
async fn quiet_connections_are_closed_and_are_no_drop() {
    let (listener, address) = meter().await;
    let more = format!("{ANY_PORT}\n[relay.limits]\nidle_timeout_ms = 200");
    let stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.1/32"], &more).await;
    let (mut tls, _) = stack.dial(US, "association", address).await.unwrap();
    let (mut meter, _) = listener.accept().await.unwrap();
    assert!(!rest(&mut tls).await.1);
    rest(&mut meter).await;
    stack.stop().await;
}

#[tokio::test]
async fn without_a_list_nothing_listens_and_health_says_so() {
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let pki = Pki::new();
    let auditor_listener = Listener::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let auditor_address = auditor_listener.local_addr().unwrap();
    let (relay, admin) = start_gateway(&pki, auditor_address, &tasks, "").await;
    until("health is not serving", || async {
        health(&pki, admin).await == Some(false)
    })
    .await;
    assert_eq!(
        TcpStream::connect(relay).await.unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );

    let auditor = Auditor::new();
    auditor.set(&["127.0.0.1/32"], &[]);
    auditor.serve(&pki, auditor_listener, &tasks);
    until("the relay listens", || async {
        TcpStream::connect(relay).await.is_ok()
    })
    .await;
    until("health is serving", || async {
        health(&pki, admin).await == Some(true)
    })
    .await;
    trigger.fire();
    timeout(PATIENCE, tasks.join()).await.unwrap();
}

#[tokio::test]
async fn the_cache_carries_over_a_restart_until_it_expires() {
    let (listener, address) = meter().await;
    let more = format!("{ANY_PORT}\nmax_age_seconds = 3");
    let mut stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.1/32"], &more).await;
    until("the list is cached", || async {
        stack.pki.path("allowlist.toml").exists()
    })
    .await;
    stack.trigger.fire();
    timeout(PATIENCE, stack.tasks.join()).await.unwrap();

    let (trigger, shutdown) = kit::shutdown();
    (stack.tasks, stack.trigger) = (Tasks::new(shutdown), trigger);
    (stack.relay, stack.admin) =
        start_gateway(&stack.pki, stack.auditor_address, &stack.tasks, &more).await;
    until("the relay listens without the auditor", || async {
        TcpStream::connect(stack.relay).await.is_ok()
    })
    .await;
    let (mut tls, answer) = stack.dial(US, "association", address).await.unwrap();
    assert_eq!(answer, Answer::Connected as u8);
    let _meter = listener.accept().await.unwrap();

    assert!(!rest(&mut tls).await.1, "the list expired: nobody may stay");
    assert!(stack.greet(US, "association").await.is_err());
    until("health is not serving", || async {
        health(&stack.pki, stack.admin).await == Some(false)
    })
    .await;
    stack.stop().await;
}

/// A question to the auditor may take ten seconds; the list that has expired meanwhile is not kept for it.
#[tokio::test]
async fn an_auditor_that_does_not_answer_keeps_no_list_in_force() {
    let (listener, address) = meter().await;
    let more = format!("{ANY_PORT}\nmax_age_seconds = 2");
    let stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.1/32"], &more).await;
    let (mut tls, answer) = stack.dial(US, "association", address).await.unwrap();
    assert_eq!(answer, Answer::Connected as u8);
    let _meter = listener.accept().await.unwrap();
    stack.auditor.stuck.store(true, Ordering::SeqCst);
    let ended = timeout(Duration::from_secs(5), rest(&mut tls)).await;
    assert!(!ended.expect("it ends when the list does").1);
    stack.stop().await;
}

#[tokio::test]
async fn an_auditor_that_begins_again_is_believed_and_not_the_cache() {
    let stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.1/32"], ANY_PORT).await;
    until("the list is cached", || async {
        stack.pki.path("allowlist.toml").exists()
    })
    .await;
    stack.trigger.fire();
    timeout(PATIENCE, stack.tasks.join()).await.unwrap();

    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let auditor_listener = Listener::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let auditor_address = auditor_listener.local_addr().unwrap();
    let (relay, _) = start_gateway(&stack.pki, auditor_address, &tasks, ANY_PORT).await;
    until("the relay listens with the cached list", || async {
        TcpStream::connect(relay).await.is_ok()
    })
    .await;
    let mut passing = TcpStream::connect(relay).await.unwrap();
    let silence = timeout(Duration::from_millis(100), passing.read_u8()).await;
    assert!(silence.is_err(), "it waits for our handshake");

    // Version 0, and nobody is listed.
    Auditor::new().serve(&stack.pki, auditor_listener, &tasks);
    until("nobody may pass", || async {
        let mut tcp = TcpStream::connect(relay).await.unwrap();
        matches!(
            timeout(Duration::from_millis(100), tcp.read_u8()).await,
            Ok(Err(_))
        )
    })
    .await;
    trigger.fire();
    timeout(PATIENCE, tasks.join()).await.unwrap();
}

#[tokio::test]
async fn connections_that_outlive_the_drain_are_cut() {
    let (listener, address) = meter().await;
    let stack = Stack::start(&["127.0.0.1/32"], &["127.0.0.1/32"], ANY_PORT).await;
    let (mut tls, _) = stack.dial(US, "association", address).await.unwrap();
    let (mut meter, _) = listener.accept().await.unwrap();
    stack.trigger.fire();
    tls.write_all(&pdu(b"during the drain")).await.unwrap();
    tls.flush().await.unwrap();
    let mut heard = vec![0; pdu(b"during the drain").len()];
    meter.read_exact(&mut heard).await.unwrap();
    assert!(!rest(&mut tls).await.1);
    stack.stop().await;
}

#[tokio::test]
async fn configurations_that_would_admit_nobody_or_anybody_are_refused() {
    let pki = Pki::new();
    let here = free_address().await;
    let good = gateway_config(&pki, here, here, here, "");
    assert!(good.check().is_ok());
    assert_eq!(good.relay.meter_ports, [4059]);
    assert!(!good.relay.allows_port(22) && good.relay.allows_port(4059));
    let broken: [fn(&mut gateway::Config); 5] = [
        |config| config.relay.peers.clear(),
        |config| config.relay.meter_ports.clear(),
        |config| config.relay.max_age_seconds = 0,
        |config| (config.relay.max_age_seconds, config.relay.poll_ms) = (60, 60_000),
        |config| config.relay.limits.max_pdu = 65_536,
    ];
    for break_it in broken {
        let mut bad = good.clone();
        break_it(&mut bad);
        assert!(bad.check().is_err(), "{bad:?}");
    }
}

/// What `grpc.health.v1` says: serving or not; `None` while there is no answer.
async fn health(pki: &Pki, admin: std::net::SocketAddr) -> Option<bool> {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    let client = kit::config::Client {
        endpoint: format!("https://{admin}"),
        peer: Pki::name("gateway"),
        timeout_ms: 2_000,
    };
    let channel = kit::client::channel(&client, &pki.identity("association")).unwrap();
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .ok()?;
    Some(answer.into_inner().status() == ServingStatus::Serving)
}
