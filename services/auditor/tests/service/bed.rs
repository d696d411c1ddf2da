//! A token made by the ceremony, certificates, and auditors started on them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kit::config::{Client, Tls};
use kit::{Channel, Listener, ShutdownTrigger, Tasks};
use latchkey_proto::audit::v1::allowlist_service_client::AllowlistServiceClient;
use latchkey_proto::audit::v1::permit_service_client::PermitServiceClient;
use latchkey_proto::audit::v1::trail_service_client::TrailServiceClient;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tokio::sync::oneshot;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Names the directory of the token, and that this process is the inner one.
const DIR: &str = "LATCHKEY_AUDITOR_TEST_DIR";
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// Runs `inside` in a process of its own with a fresh SoftHSM: the module reads its configuration from the
/// environment, once per process, and the environment belongs to the parent.
pub(crate) fn with_token(test: &str, inside: fn(&Path)) {
    if let Some(dir) = std::env::var_os(DIR) {
        return inside(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let conf = dir.path().join("softhsm2.conf");
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    std::fs::write(&conf, text).unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("SOFTHSM2_CONF", &conf)
        .env(DIR, dir.path())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

/// Everything around an auditor.
pub(crate) struct Bed {
    dir: PathBuf,
    pki: Pki,
}

impl Bed {
    /// Holds the key ceremony and makes the certificates.
    pub(crate) fn new(dir: &Path) -> Self {
        let plan = format!(
            "module = '{MODULE}'\ncreate_pins = true\n[[token]]\nlabel = 'auditor-test'\nrole = 'auditor'\n\
             so_pin_file = {:?}\npin_file = {:?}\n",
            dir.join("so-pin"),
            dir.join("pin"),
        );
        let plan = hsm::ceremony::Plan::parse(&plan).unwrap();
        hsm::ceremony::run(&plan, "2026-11-22").unwrap();
        Self {
            dir: dir.to_owned(),
            pki: Pki::new(dir, "ca"),
        }
    }

    /// Where the user PIN is.
    pub(crate) fn pin(&self) -> PathBuf {
        self.dir.join("pin")
    }

    /// Starts an auditor on a free port.
    pub(crate) async fn start(&self) -> Running {
        let config: auditor::Config = kit::config::load(&self.config()).unwrap();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        let (trigger, shutdown) = kit::shutdown();
        let tasks = Tasks::new(shutdown.clone());
        let (ended, end) = oneshot::channel();
        tasks.spawn("auditor", async move {
            let result = auditor::serve(config, listener, shutdown).await;
            drop(ended.send(result.map_err(|e| e.to_string())));
        });
        Running {
            address,
            trigger,
            end,
            pki: self.pki.clone(),
        }
    }

    /// A client whose certificate another authority signed.
    pub(crate) fn foreign_permits(
        &self,
        running: &Running,
        path: &str,
    ) -> PermitServiceClient<Channel> {
        let foreign = Pki::new(&self.dir, "foreign-ca").leaf(path);
        let tls = Tls {
            ca_file: self.dir.join("ca.pem"),
            ..foreign
        };
        PermitServiceClient::new(channel(running.address, &tls))
    }

    /// Changes the database behind the auditor's back.
    pub(crate) async fn sql(&self, statement: &'static str) {
        sqlx::any::install_default_drivers();
        let pool = sqlx::AnyPool::connect(&self.database()).await.unwrap();
        sqlx::query(statement).execute(&pool).await.unwrap();
        pool.close().await;
    }

    fn database(&self) -> String {
        format!("sqlite://{}", self.dir.join("auditor.db").display())
    }

    fn config(&self) -> PathBuf {
        let tls = self.pki.leaf("latchkey/auditor");
        let text = format!(
            r#"
            origin = "latchkey.test/trail"
            [server]
            listen = "127.0.0.1:0"
            drain_seconds = 1
            [server.tls]
            certificate_file = {:?}
            key_file = {:?}
            ca_file = {:?}
            trust_domain = "latchkey.test"
            [server.peers]
            "latchkey.audit.v1.PermitService" = ["spiffe://latchkey.test/latchkey/reset"]
            "latchkey.audit.v1.TrailService" = ["spiffe://latchkey.test/latchkey/reset"]
            "latchkey.audit.v1.AllowlistService" = [
                "spiffe://latchkey.test/operator/sam", "spiffe://latchkey.test/operator/alice"
            ]
            [database]
            url = "{}"
            [token]
            module = "{MODULE}"
            token_label = "auditor-test"
            pin_file = {:?}
            [roles]
            "spiffe://latchkey.test/operator/alice" = ["operator"]
            "spiffe://latchkey.test/operator/sam" = ["security-admin"]
            "#,
            tls.certificate_file.unwrap(),
            tls.key_file.unwrap(),
            tls.ca_file,
            self.database(),
            self.pin(),
        );
        let file = self.dir.join("auditor.toml");
        std::fs::write(&file, text).unwrap();
        file
    }
}

/// An auditor in this process.
pub(crate) struct Running {
    address: SocketAddr,
    trigger: ShutdownTrigger,
    end: oneshot::Receiver<Result<(), String>>,
    pki: Pki,
}

impl Running {
    /// Permits, as a peer of this name sees them.
    pub(crate) fn permits(&self, path: &str) -> PermitServiceClient<Channel> {
        PermitServiceClient::new(self.channel(path))
    }

    /// The trail, likewise.
    pub(crate) fn trail(&self, path: &str) -> TrailServiceClient<Channel> {
        TrailServiceClient::new(self.channel(path))
    }

    /// The allowlist, likewise.
    pub(crate) fn allowlist(&self, path: &str) -> AllowlistServiceClient<Channel> {
        AllowlistServiceClient::new(self.channel(path))
    }

    /// What it says of its health.
    pub(crate) async fn serving(&self) -> bool {
        let mut health = HealthClient::new(self.channel("latchkey/gateway"));
        let asked = HealthCheckRequest {
            service: "latchkey.audit.v1.PermitService".to_owned(),
        };
        let answer = health.check(asked).await;
        answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
    }

    /// Stops it and waits for its end.
    pub(crate) async fn stop(self) {
        self.trigger.fire();
        self.ended().await.unwrap();
    }

    /// How it ends by itself.
    pub(crate) async fn ended(self) -> Result<(), String> {
        let end = tokio::time::timeout(Duration::from_secs(30), self.end);
        end.await.unwrap().unwrap()
    }

    fn channel(&self, path: &str) -> Channel {
        channel(self.address, &self.pki.leaf(path))
    }
}

fn channel(address: SocketAddr, tls: &Tls) -> Channel {
    let client = Client {
        endpoint: format!("https://{address}"),
        peer: "spiffe://latchkey.test/latchkey/auditor".parse().unwrap(),
        timeout_ms: 10_000,
    };
    let made = kit::client::channel(&client, tls);
    made.map_err(|e| e.to_string()).unwrap()
}

/// Certificates of one authority.
#[derive(Clone)]
struct Pki {
    issuer: std::sync::Arc<Issuer<'static, KeyPair>>,
    dir: PathBuf,
    name: String,
}

impl Pki {
    fn new(dir: &Path, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), ca.pem()).unwrap();
        Self {
            issuer: std::sync::Arc::new(Issuer::new(params, key)),
            dir: dir.to_owned(),
            name: name.to_owned(),
        }
    }

    /// A certificate for this name.
    fn leaf(&self, path: &str) -> Tls {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let uri = format!("spiffe://latchkey.test/{path}");
        let uri = uri.try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
        let leaf = params.signed_by(&key, &*self.issuer).unwrap();
        let stem = format!("{}-{}", self.name, path.replace('/', "-"));
        let file = |end: &str| self.dir.join(format!("{stem}.{end}"));
        std::fs::write(file("pem"), leaf.pem()).unwrap();
        std::fs::write(file("key"), key.serialize_pem()).unwrap();
        let ca = self.dir.join(format!("{}.pem", self.name));
        Tls::files(file("pem"), file("key"), ca, "latchkey.test")
    }
}

/// Waits until `done` says so, at most 30 s.
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..3000 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain: {what}");
}
