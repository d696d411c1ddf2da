//! A server and its callers over real sockets and real certificates.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use kit::{
    Channel, Listener, PeerName, Server, ServiceConfig, Shutdown, StartError, Tasks,
    config::{self, Client, Tls},
    shutdown, status,
};
use latchkey_proto::audit::v1::{
    AuthoriseRequest, AuthoriseResponse, GetPermitKeyRequest, GetPermitKeyResponse,
    permit_service_client::PermitServiceClient,
    permit_service_server::{PermitService, PermitServiceServer},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use serde::Deserialize;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const DOMAIN: &str = "kit.test";

struct Pki {
    issuer: Issuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

impl Pki {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).expect("a certificate");
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).expect("written");
        Self {
            issuer: Issuer::new(params, key),
            dir,
        }
    }

    /// A certificate with these URI names.
    fn leaf(&self, file: &str, names: &[&str]) -> Tls {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        params.subject_alt_names.extend(
            names
                .iter()
                .map(|name| SanType::URI((*name).try_into().expect("a URI"))),
        );
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        let path = |end: &str| self.dir.path().join(format!("{file}.{end}"));
        std::fs::write(path("pem"), leaf.pem()).expect("written");
        std::fs::write(path("key"), key.serialize_pem()).expect("written");
        Tls {
            certificate_file: path("pem"),
            key_file: path("key"),
            ca_file: self.dir.path().join("ca.pem"),
            trust_domain: DOMAIN.to_owned(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    server: config::Server,
    #[serde(default)]
    telemetry: config::Telemetry,
}

impl ServiceConfig for Config {
    fn server(&self) -> &config::Server {
        &self.server
    }
    fn telemetry(&self) -> &config::Telemetry {
        &self.telemetry
    }
}

fn config(dir: &Path, tls: &Tls) -> config::Server {
    let file = dir.join("server.toml");
    let text = format!(
        "[server]\nlisten = '127.0.0.1:0'\nmax_message_bytes = 4096\nmax_concurrent_requests = 1\ndrain_seconds = 1\n\
         [server.peers]\n'latchkey.audit.v1.PermitService' = ['spiffe://kit.test/caller']\n\
         [server.tls]\ncertificate_file = {:?}\nkey_file = {:?}\nca_file = {:?}\ntrust_domain = 'kit.test'\n",
        tls.certificate_file, tls.key_file, tls.ca_file
    );
    std::fs::write(&file, text).expect("written");
    config::load::<Config>(&file)
        .expect("a good configuration")
        .server
}

/// Answers with what it was told about the call.
struct Echo;

#[tonic::async_trait]
impl PermitService for Echo {
    async fn authorise(
        &self,
        request: Request<AuthoriseRequest>,
    ) -> Result<Response<AuthoriseResponse>, Status> {
        match request.get_ref().reason.as_str() {
            "panic" => panic!("as asked"),
            "hang" => std::future::pending().await,
            _ => {}
        }
        let left = kit::context::time_left(Duration::from_secs(3600));
        let policy_ids = vec![
            kit::peer(&request).to_string(),
            kit::context::request_id(),
            left.as_millis().to_string(),
        ];
        Ok(Response::new(AuthoriseResponse {
            permit: None,
            policy_ids,
        }))
    }

    async fn get_permit_key(
        &self,
        _: Request<GetPermitKeyRequest>,
    ) -> Result<Response<GetPermitKeyResponse>, Status> {
        Ok(Response::new(GetPermitKeyResponse::default()))
    }
}

struct Running {
    pki: Pki,
    address: SocketAddr,
    tasks: Tasks,
    trigger: kit::ShutdownTrigger,
}

async fn start() -> Running {
    let pki = Pki::new();
    let tls = pki.leaf("server", &["spiffe://kit.test/server"]);
    let config = config(pki.dir.path(), &tls);
    let listener = Listener::bind(config.listen).await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let (trigger, shutdown): (_, Shutdown) = shutdown();
    let tasks = Tasks::new(shutdown.clone());
    let server = Server::new("echo", &config)
        .expect("a server")
        .add(PermitServiceServer::new(Echo));
    let served = server.serve(listener, shutdown);
    tasks.spawn("server", async move { served.await.expect("served") });
    Running {
        pki,
        address,
        tasks,
        trigger,
    }
}

impl Running {
    fn channel(&self, tls: &Tls, expected: &str) -> Result<Channel, StartError> {
        let peer: PeerName = expected.parse()?;
        let client = Client {
            endpoint: format!("https://{}", self.address),
            peer,
            timeout_ms: 5000,
        };
        kit::client::channel(&client, tls)
    }

    fn client(&self, name: &str) -> PermitServiceClient<Channel> {
        let tls = self.pki.leaf("client", &[name]);
        PermitServiceClient::new(
            self.channel(&tls, "spiffe://kit.test/server")
                .expect("a channel"),
        )
    }
}

fn because(reason: &str) -> AuthoriseRequest {
    AuthoriseRequest {
        reason: reason.to_owned(),
        ..AuthoriseRequest::default()
    }
}

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
