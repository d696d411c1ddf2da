//! A server and its callers over real sockets and real certificates.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::sync::Arc;

use kit::{PeerName, config::Tls, status};
use latchkey_proto::audit::v1::{GetPermitKeyRequest, permit_service_client::PermitServiceClient};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use support::{Pki, because, start};

#[tokio::test]
async fn a_named_peer_is_served_and_its_context_travels() {
    let running = start().await;
    let mut client = running.client("spiffe://kit.test/caller");
    let call = client.authorise(because("x"));
    let told = kit::context::scope("request-17".to_owned(), call)
        .await
        .expect("an answer")
        .into_inner()
        .policy_ids;
    assert_eq!(told[0], "spiffe://kit.test/caller");
    assert_eq!(told[1], "request-17");
    let left: u64 = told[2].parse().expect("a number");
    assert!(
        (1..=5000).contains(&left),
        "the deadline came along: {left} ms"
    );
    running.trigger.fire();
    running.tasks.join().await;
}

#[tokio::test]
async fn strangers_are_refused() {
    let running = start().await;
    let refused = running
        .client("spiffe://kit.test/other")
        .authorise(because("x"))
        .await
        .expect_err("refused");
    assert_eq!(
        (refused.code(), status::reason(&refused).as_deref()),
        (Code::PermissionDenied, Some("PEER_FORBIDDEN"))
    );
    // A foreign trust domain, no name, two names: no handshake.
    for names in [
        &["spiffe://else.test/caller"][..],
        &[],
        &["spiffe://kit.test/caller", "spiffe://kit.test/x"],
    ] {
        let tls = running.pki.leaf("odd", names);
        let channel = running
            .channel(&tls, "spiffe://kit.test/server")
            .expect("a channel");
        let refused = PermitServiceClient::new(channel)
            .authorise(because("x"))
            .await
            .expect_err("refused");
        assert_ne!(
            refused.code(),
            Code::PermissionDenied,
            "{names:?}: not even a request"
        );
    }
    // A certificate of another authority.
    let foreign = Tls {
        ca_file: running.pki.dir.path().join("ca.pem"),
        ..Pki::new().leaf("f", &["spiffe://kit.test/caller"])
    };
    assert!(
        running
            .channel(&foreign, "spiffe://kit.test/server")
            .is_err()
            || {
                let channel = running
                    .channel(&foreign, "spiffe://kit.test/server")
                    .expect("a channel");
                PermitServiceClient::new(channel)
                    .authorise(because("x"))
                    .await
                    .is_err()
            }
    );
    running.trigger.fire();
    running.tasks.join().await;
}

/// A resumed session would skip the check of the certificate, for ever anew.
#[tokio::test]
async fn no_session_is_resumed_at_either_end() {
    use rustls::{
        ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection,
        client::Resumption,
    };
    let pki = Pki::new();
    let expected: PeerName = "spiffe://kit.test/server".parse().expect("a name");
    let server = kit::tls::server_config(&pki.leaf("server", &["spiffe://kit.test/server"]))
        .expect("a server");
    let client = kit::tls::client_config(
        &pki.leaf("client", &["spiffe://kit.test/caller"]),
        &expected,
    )
    .expect("a client");
    let kind = |client: &Arc<ClientConfig>, server: &Arc<ServerConfig>| {
        let name = "localhost".try_into().expect("a name");
        let mut near = ClientConnection::new(client.clone(), name).expect("a client");
        let mut far = ServerConnection::new(server.clone()).expect("a server");
        for _ in 0..4 {
            let mut wire = Vec::new();
            near.write_tls(&mut wire).expect("written");
            far.read_tls(&mut wire.as_slice()).expect("read");
            far.process_new_packets().expect("a good flight");
            let mut wire = Vec::new();
            far.write_tls(&mut wire).expect("written");
            near.read_tls(&mut wire.as_slice()).expect("read");
            near.process_new_packets().expect("a good flight");
        }
        near.handshake_kind().expect("shaken hands")
    };
    // Each end by itself: against a peer that would resume.
    let mut keen = ClientConfig::clone(&client);
    keen.resumption = Resumption::in_memory_sessions(8);
    let keen = Arc::new(keen);
    let mut generous = ServerConfig::clone(&server);
    generous.session_storage = rustls::server::ServerSessionMemoryCache::new(8);
    generous.send_tls13_tickets = 2;
    let generous = Arc::new(generous);
    for (client, server) in [(&keen, &server), (&client, &generous)] {
        for _ in 0..2 {
            assert_eq!(kind(client, server), HandshakeKind::Full);
        }
    }
    kind(&keen, &generous);
    assert_eq!(
        kind(&keen, &generous),
        HandshakeKind::Resumed,
        "this test can fail"
    );
}

#[tokio::test]
async fn a_server_with_another_name_is_not_spoken_to() {
    let running = start().await;
    let tls = running.pki.leaf("client", &["spiffe://kit.test/caller"]);
    let channel = running
        .channel(&tls, "spiffe://kit.test/custody")
        .expect("a channel");
    let refused = PermitServiceClient::new(channel)
        .authorise(because("x"))
        .await
        .expect_err("refused");
    assert!(status::is_transient(&refused), "{refused:?}");
    running.trigger.fire();
    running.tasks.join().await;
}

#[tokio::test]
async fn limits_hold_and_a_panic_ends_one_request() {
    let running = start().await;
    let mut client = running.client("spiffe://kit.test/caller");
    let large = client
        .authorise(because(&"x".repeat(5000)))
        .await
        .expect_err("too large");
    assert_ne!(large.code(), Code::Ok);
    let panicked = client
        .authorise(because("panic"))
        .await
        .expect_err("panicked");
    assert_eq!(panicked.code(), Code::Internal);
    assert!(
        !panicked.message().contains("as asked"),
        "a panic's text stays inside"
    );
    // One slot: while one call hangs the other is told to come back.
    let mut hanging = client.clone();
    let hung = hanging.authorise(because("hang"));
    tokio::pin!(hung);
    let busy = async {
        loop {
            match client.get_permit_key(GetPermitKeyRequest {}).await {
                Err(error) => return error,
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::select! {
        _ = &mut hung => panic!("it hangs"),
        busy = busy => assert_eq!(status::reason(&busy).as_deref(), Some("BUSY")),
    }
    running.trigger.fire();
    running.tasks.join().await;
}

/// Nobody without a certificate can keep those with one out.
#[tokio::test]
async fn silent_connections_do_not_fill_the_door() {
    let running = start().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        let stream = tokio::net::TcpStream::connect(running.address).await;
        silent.push(stream.expect("connected"));
    }
    let mut client = running.client("spiffe://kit.test/caller");
    client.authorise(because("x")).await.expect("an answer");
    drop(silent);
    running.trigger.fire();
    running.tasks.join().await;
}

#[tokio::test]
async fn health_is_for_every_good_certificate() {
    let running = start().await;
    let tls = running.pki.leaf("client", &["spiffe://kit.test/anybody"]);
    let channel = running
        .channel(&tls, "spiffe://kit.test/server")
        .expect("a channel");
    let request = HealthCheckRequest {
        service: "latchkey.audit.v1.PermitService".to_owned(),
    };
    let answer = HealthClient::new(channel)
        .check(request)
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(answer.status, 1, "SERVING");
    running.trigger.fire();
    running.tasks.join().await;
}

/// TLS 1.3 alone: a client that can do no better than 1.2 gets no handshake.
#[tokio::test]
async fn an_older_tls_is_not_spoken() {
    let running = start().await;
    let shake = async |version: &'static rustls::SupportedProtocolVersion| {
        let mut roots = rustls::RootCertStore::empty();
        let ca = running.pki.dir.path().join("ca.pem");
        for certificate in CertificateDer::pem_file_iter(ca).expect("a file") {
            roots
                .add(certificate.expect("a certificate"))
                .expect("a root");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = tokio::net::TcpStream::connect(running.address)
            .await
            .expect("connected");
        let name = "localhost".try_into().expect("a name");
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map(drop)
    };
    assert!(shake(&rustls::version::TLS12).await.is_err(), "TLS 1.2");
    // The same client is greeted in TLS 1.3; that it has no certificate is refused after its part of the handshake.
    assert!(shake(&rustls::version::TLS13).await.is_ok(), "TLS 1.3");
    running.trigger.fire();
    running.tasks.join().await;
}
