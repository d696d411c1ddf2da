//! A server that tells what it was told, with certificates of its own.
#![allow(dead_code, reason = "each test binary uses its part of this")]

use std::{net::SocketAddr, path::Path, time::Duration};

use kit::{
    Channel, Listener, PeerName, Server, ServiceConfig, Shutdown, StartError, Tasks,
    config::{self, Client, Tls},
    shutdown,
};
use latchkey_proto::audit::v1::{
    AuthoriseRequest, AuthoriseResponse, GetPermitKeyRequest, GetPermitKeyResponse,
    permit_service_client::PermitServiceClient,
    permit_service_server::{PermitService, PermitServiceServer},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use serde::Deserialize;
use tonic::{Request, Response, Status};

pub(crate) const DOMAIN: &str = "kit.test";

pub(crate) struct Pki {
    pub issuer: Issuer<'static, KeyPair>,
    pub dir: tempfile::TempDir,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let issuer = Self::authority(dir.path());
        Self { issuer, dir }
    }

    /// Makes another authority in the place of the one there is; leaves made from now on are its own.
    pub(crate) fn renew(&mut self) {
        self.issuer = Self::authority(self.dir.path());
    }

    fn authority(dir: &Path) -> Issuer<'static, KeyPair> {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).expect("a certificate");
        std::fs::write(dir.join("ca.pem"), ca.pem()).expect("written");
        Issuer::new(params, key)
    }

    /// A certificate with these URI names.
    pub(crate) fn leaf(&self, file: &str, names: &[&str]) -> Tls {
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
        Tls::files(
            path("pem"),
            path("key"),
            self.dir.path().join("ca.pem"),
            DOMAIN,
        )
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
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

pub(crate) fn config(dir: &Path, tls: &Tls) -> config::Server {
    let file = dir.join("server.toml");
    let text = format!(
        "[server]\nlisten = '127.0.0.1:0'\nmax_message_bytes = 4096\nmax_concurrent_requests = 1\ndrain_seconds = 1\n\
         [server.peers]\n'latchkey.audit.v1.PermitService' = ['spiffe://kit.test/caller']\n\
         [server.tls]\ncertificate_file = {:?}\nkey_file = {:?}\nca_file = {:?}\ntrust_domain = 'kit.test'\n",
        tls.certificate_file.as_ref().expect("a file"),
        tls.key_file.as_ref().expect("a file"),
        tls.ca_file
    );
    std::fs::write(&file, text).expect("written");
    config::load::<Config>(&file)
        .expect("a good configuration")
        .server
}

/// Answers with what it was told about the call.
pub(crate) struct Echo;

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

pub(crate) struct Running {
    pub pki: Pki,
    pub address: SocketAddr,
    pub tasks: Tasks,
    pub trigger: kit::ShutdownTrigger,
}

pub(crate) async fn start() -> Running {
    start_with(|_| {}).await
}

/// The same after a change of its configuration.
pub(crate) async fn start_with(change: impl FnOnce(&mut config::Server)) -> Running {
    let pki = Pki::new();
    let tls = pki.leaf("server", &["spiffe://kit.test/server"]);
    let mut config = config(pki.dir.path(), &tls);
    change(&mut config);
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
    pub(crate) fn channel(&self, tls: &Tls, expected: &str) -> Result<Channel, StartError> {
        let peer: PeerName = expected.parse()?;
        let client = Client {
            endpoint: format!("https://{}", self.address),
            peer,
            timeout_ms: 5000,
        };
        kit::client::channel(&client, tls)
    }

    pub(crate) fn client(&self, name: &str) -> PermitServiceClient<Channel> {
        let tls = self.pki.leaf("client", &[name]);
        PermitServiceClient::new(
            self.channel(&tls, "spiffe://kit.test/server")
                .expect("a channel"),
        )
    }
}

pub(crate) fn because(reason: &str) -> AuthoriseRequest {
    AuthoriseRequest {
        reason: reason.to_owned(),
        ..AuthoriseRequest::default()
    }
}
