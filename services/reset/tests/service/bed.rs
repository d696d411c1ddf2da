//! Certificates, the fakes, and the reset service, which can be killed and started again on the same database.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use kit::{
    Channel, Listener, PeerName, Server, ServiceConfig, Tasks,
    config::{self, Client, Tls},
};
use latchkey_proto::{
    association::v1::{
        association_service_server::AssociationServiceServer,
        meter_service_server::MeterServiceServer,
    },
    audit::v1::{
        Tier, permit_service_server::PermitServiceServer, trail_service_server::TrailServiceServer,
    },
    reset::v1::{
        CreateResetRequest, GetResetRequest, Reset, ResetState, WatchResetRequest,
        WatchResetResponse, key_rotation_service_client::KeyRotationServiceClient,
        meter_access_service_client::MeterAccessServiceClient,
        reset_service_client::ResetServiceClient,
    },
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use serde::Deserialize;
use tokio::runtime::Runtime;

use crate::{auditor, meter};

const DOMAIN: &str = "latchkey.test";
/// How long any condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Bed {
    pub(crate) meter: meter::Fake,
    pub(crate) auditor: auditor::Fake,
    issuer: Issuer<'static, KeyPair>,
    dir: tempfile::TempDir,
    association: SocketAddr,
    audit: SocketAddr,
    /// The fakes end with the test.
    _tasks: Tasks,
    process: Option<Process>,
}

/// A runtime of its own: dropping it is as sudden as a kill.
struct Process {
    runtime: Runtime,
    address: SocketAddr,
}

#[derive(Deserialize)]
struct FakeConfig {
    server: config::Server,
    #[serde(default)]
    telemetry: config::Telemetry,
}

impl ServiceConfig for FakeConfig {
    fn server(&self) -> &config::Server {
        &self.server
    }
    fn telemetry(&self) -> &config::Telemetry {
        &self.telemetry
    }
}

impl Bed {
    /// Everything up.
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        let nowhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let (_, shutdown) = kit::shutdown();
        let mut bed = Self {
            meter: meter::Fake::new(),
            auditor: auditor::Fake::default(),
            issuer: Issuer::new(params, key),
            dir,
            association: nowhere,
            audit: nowhere,
            _tasks: Tasks::new(shutdown),
            process: None,
        };
        let meter = bed.meter.clone();
        bed.association = bed
            .fake(
                "association",
                &[
                    "association.v1.AssociationService",
                    "association.v1.MeterService",
                ],
                |server| {
                    server
                        .add(AssociationServiceServer::new(meter.clone()))
                        .add(MeterServiceServer::new(meter))
                },
            )
            .await;
        let auditor = bed.auditor.clone();
        bed.audit = bed
            .fake(
                "auditor",
                &["audit.v1.PermitService", "audit.v1.TrailService"],
                |server| {
                    server
                        .add(PermitServiceServer::new(auditor.clone()))
                        .add(TrailServiceServer::new(auditor))
                },
            )
            .await;
        bed.profiles();
        bed.start().await;
        bed
    }

    async fn fake(
        &self,
        role: &str,
        services: &[&str],
        add: impl FnOnce(Server) -> Server,
    ) -> SocketAddr {
        let file = self.dir.path().join(format!("{role}.toml"));
        std::fs::write(&file, self.server_toml(role, services, "latchkey/reset")).unwrap();
        let config = config::load::<FakeConfig>(&file).unwrap().server;
        let listener = Listener::bind(config.listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_, shutdown) = kit::shutdown();
        let served = add(Server::new("fake", &config).unwrap()).serve(listener, shutdown);
        self._tasks.spawn("fake", async move { drop(served.await) });
        address
    }

    /// The file of the one profile.
    pub(crate) fn profile(&self) -> PathBuf {
        self.dir.path().join("profiles").join("quick.toml")
    }

    /// The standard profile with a meter that boots fast.
    fn profiles(&self) {
        std::fs::create_dir(self.dir.path().join("profiles")).unwrap();
        let text =
            include_str!("../../profiles/standard.toml").replace("\"standard\"", "\"quick\"");
        let quick: Vec<&str> = text
            .lines()
            .map(|line| {
                if line.starts_with("outage_seconds") {
                    "outage_seconds = 2"
                } else {
                    line
                }
            })
            .collect();
        std::fs::write(self.profile(), quick.join("\n")).unwrap();
    }

    fn tls(&self, name: &str) -> Tls {
        let path = |end: &str| -> PathBuf {
            self.dir
                .path()
                .join(format!("{}.{end}", name.replace('/', "-")))
        };
        if !path("pem").exists() {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            let uri = format!("spiffe://{DOMAIN}/{name}");
            params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
            let leaf = params.signed_by(&key, &self.issuer).unwrap();
            std::fs::write(path("pem"), leaf.pem()).unwrap();
            std::fs::write(path("key"), key.serialize_pem()).unwrap();
        }
        let ca = self.dir.path().join("ca.pem");
        Tls::files(path("pem"), path("key"), ca, DOMAIN)
    }

    fn server_toml(&self, role: &str, services: &[&str], peer: &str) -> String {
        let tls = self.tls(&format!("latchkey/{role}"));
        let peers: Vec<String> = services
            .iter()
            .map(|service| format!("'latchkey.{service}' = ['spiffe://{DOMAIN}/{peer}']"))
            .collect();
        format!(
            "[server]\nlisten = '127.0.0.1:0'\ndrain_seconds = 1\n[server.peers]\n{}\n[server.tls]\n\
             certificate_file = {:?}\nkey_file = {:?}\nca_file = {:?}\ntrust_domain = '{DOMAIN}'\n",
            peers.join("\n"),
            tls.certificate_file.unwrap(),
            tls.key_file.unwrap(),
            tls.ca_file
        )
    }

    /// Starts the reset service.
    pub(crate) async fn start(&mut self) {
        let client = |role: &str, address: SocketAddr| {
            format!(
                "[{role}]\nendpoint = 'https://{address}'\npeer = 'spiffe://{DOMAIN}/latchkey/{role}'\ntimeout_ms = 5000\n"
            )
        };
        let text = format!(
            "poll_seconds = 1\nrejoin_seconds = 6\ntemporary_failure_wait_seconds = 1\nact_timeout_ms = 3000\n\
             rotation_retry_seconds = 1\nrotation_attempts_max = 3\n\
             profile_dir = {:?}\n[database]\nurl = 'sqlite://{}'\n{}{}{}",
            self.dir.path().join("profiles"),
            self.dir.path().join("reset.db").display(),
            client("auditor", self.audit),
            client("association", self.association),
            self.server_toml(
                "reset",
                &[
                    "reset.v1.ResetService",
                    "reset.v1.MeterAccessService",
                    "reset.v1.KeyRotationService",
                ],
                "operator/ann"
            ),
        );
        let file = self.dir.path().join("reset.toml");
        std::fs::write(&file, text).unwrap();
        let config: reset::Config = config::load(&file).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let bound = runtime.spawn(Listener::bind(config.server().listen));
        let listener = bound.await.unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        let (trigger, shutdown) = kit::shutdown();
        runtime.spawn(async move {
            // Held for as long as the process lives.
            let _trigger = trigger;
            reset::serve(config, listener, shutdown).await.unwrap();
        });
        self.process = Some(Process { runtime, address });
    }

    /// Kills the reset service where it stands.
    pub(crate) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.runtime.shutdown_background();
        }
    }

    fn channel(&self) -> Channel {
        let peer: PeerName = format!("spiffe://{DOMAIN}/latchkey/reset").parse().unwrap();
        let address = self.process.as_ref().expect("it runs").address;
        let client = Client {
            endpoint: format!("https://{address}"),
            peer,
            timeout_ms: 60_000,
        };
        kit::client::channel(&client, &self.tls("operator/ann")).unwrap()
    }

    pub(crate) fn resets(&self) -> ResetServiceClient<Channel> {
        ResetServiceClient::new(self.channel())
    }

    pub(crate) fn rotations(&self) -> KeyRotationServiceClient<Channel> {
        KeyRotationServiceClient::new(self.channel())
    }

    pub(crate) fn access(&self) -> MeterAccessServiceClient<Channel> {
        MeterAccessServiceClient::new(self.channel())
    }

    /// Starts a cold reset of `m-1`.
    pub(crate) async fn reset(&self) -> Reset {
        let created = self.resets().create_reset(wish()).await.unwrap();
        created.into_inner().reset.unwrap()
    }

    /// Waits until a reset is over.
    pub(crate) async fn finished(&self, reset_id: &str) -> Reset {
        self.until(reset_id, |reset| {
            matches!(reset.state(), ResetState::Done | ResetState::Cancelled)
        })
        .await
    }

    /// Waits until a reset looks as wanted.
    pub(crate) async fn until(&self, reset_id: &str, wanted: impl Fn(&Reset) -> bool) -> Reset {
        let mut client = self.resets();
        let looked = tokio::time::timeout(PATIENCE, async {
            loop {
                let request = GetResetRequest {
                    reset_id: reset_id.to_owned(),
                };
                let reset = client
                    .get_reset(request)
                    .await
                    .unwrap()
                    .into_inner()
                    .reset
                    .unwrap();
                if wanted(&reset) {
                    return reset;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        looked
            .await
            .expect("the reset never came to look as wanted")
    }

    /// The whole story, to its end.
    pub(crate) async fn story(
        &self,
        reset_id: &str,
        after_sequence: u64,
    ) -> Vec<WatchResetResponse> {
        let request = WatchResetRequest {
            reset_id: reset_id.to_owned(),
            after_sequence,
        };
        let mut stream = self
            .resets()
            .watch_reset(request)
            .await
            .unwrap()
            .into_inner();
        let mut story = Vec::new();
        while let Some(response) = stream.message().await.unwrap() {
            story.push(response);
        }
        story
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A wish for a cold reset of `m-1`.
pub(crate) fn wish() -> CreateResetRequest {
    CreateResetRequest {
        request_id: kit::context::new_id(),
        meter_id: "m-1".to_owned(),
        tier: Tier::Cold.into(),
        reason: "it hangs".to_owned(),
        ticket: "T-1".to_owned(),
        validate_only: false,
    }
}
