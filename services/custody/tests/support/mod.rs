//! A real token, a real custody over mTLS, an auditor that only listens, and the meter's end of the cryptography by an
//! implementation of its own.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed; each test binary uses its own part"
)]

mod auditor;
mod meter;
mod process;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use kit::{
    Channel, Listener, PeerName, ShutdownTrigger, Tasks,
    config::{Client, Tls},
};
use latchkey_proto::custody::v1::{
    cipher_service_client::CipherServiceClient, key_service_client::KeyServiceClient,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tonic_health::pb::health_client::HealthClient;

pub use auditor::{Auditor, REFUSED, action, get, permit, set};

pub use meter::{AK, Association, CLIENT, Meter, PASSWORD, SERVER, ek, lab_keys, method};
pub use process::Process;

/// Names the directory of the token, and that this process is the inner one.
const DIR: &str = "LATCHKEY_CUSTODY_TEST_DIR";

/// The transport key's components; the key is their XOR.
pub const COMPONENTS: [[u8; 32]; 2] = [[0x5A; 32], [0x0F; 32]];

/// Runs `inside` in a process of its own, with a fresh SoftHSM: its configuration comes from the environment, once per
/// process, and the environment belongs to the parent.
pub fn with_token(test: &str, inside: fn(&Path)) {
    if let Some(dir) = std::env::var_os(DIR) {
        return inside(Path::new(&dir));
    }
    let dir = tempfile::tempdir().expect("a directory");
    let tokens = dir.path().join("tokens");
    std::fs::create_dir(&tokens).expect("a directory");
    let conf = dir.path().join("softhsm2.conf");
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    std::fs::write(&conf, text).expect("written");
    let status = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env("SOFTHSM2_CONF", &conf)
        .env(DIR, dir.path())
        .status()
        .expect("it runs");
    assert!(status.success(), "{status}");
}

/// Everything around custody.
pub struct Bed {
    pub dir: PathBuf,
    pub pki: Pki,
    pub auditor: Auditor,
}

impl Bed {
    /// Holds the key ceremony and starts the auditor.
    pub async fn new(dir: &Path, tasks: &Tasks) -> Self {
        let components: Vec<_> = COMPONENTS
            .iter()
            .enumerate()
            .map(|(number, octets)| {
                secret_file(dir, &format!("transport.{number}"), &hex::encode(octets))
            })
            .collect();
        let plan = format!(
            "module = '/usr/lib/softhsm/libsofthsm2.so'\ncreate_pins = true\n[[token]]\nlabel = 'custody-test'\n\
             role = 'custody'\nso_pin_file = {:?}\npin_file = {:?}\ntransport_components = {components:?}\n",
            dir.join("so-pin"),
            dir.join("pin"),
        );
        Self::held(dir, &plan, tasks).await
    }

    /// The same after the ceremony of this plan, which makes the token `custody-test` with the PIN in `pin`.
    pub async fn held(dir: &Path, plan: &str, tasks: &Tasks) -> Self {
        let plan = hsm::ceremony::Plan::parse(plan).expect("a good plan");
        hsm::ceremony::run(&plan, "2026-11-22").expect("the ceremony ends well");
        let pki = Pki::new(dir);
        let auditor = Auditor::start(&pki, tasks).await;
        Self {
            dir: dir.to_owned(),
            pki,
            auditor,
        }
    }

    /// Writes custody's configuration.
    pub fn config(&self, name: &str, listen: SocketAddr, more: &str) -> PathBuf {
        let Tls {
            certificate_file,
            key_file,
            ca_file,
            ..
        } = self.pki.leaf("latchkey/custody");
        let (certificate_file, key_file) = certificate_file.zip(key_file).expect("both are files");
        let key = self.dir.join("permit.key");
        std::fs::write(&key, hex::encode(self.auditor.permit_key().octets())).expect("written");
        let text = format!(
            "permit_key_file = {key:?}\nrequesters = ['spiffe://latchkey.test/latchkey/reset']\n{more}\n\
             [database]\nurl = 'sqlite://{}'\n\
             [token]\nmodule = '/usr/lib/softhsm/libsofthsm2.so'\ntoken_label = 'custody-test'\npin_file = {:?}\n\
             [auditor]\nendpoint = {:?}\npeer = 'spiffe://latchkey.test/latchkey/auditor'\n\
             [server]\nlisten = '{listen}'\ndrain_seconds = 1\n\
             [server.peers]\n'latchkey.custody.v1.KeyService' = ['spiffe://latchkey.test/operator/anna']\n\
             'latchkey.custody.v1.CipherService' = ['spiffe://latchkey.test/latchkey/association', \
             'spiffe://latchkey.test/latchkey/other']\n\
             [server.tls]\ncertificate_file = {certificate_file:?}\nkey_file = {key_file:?}\nca_file = {ca_file:?}\n\
             trust_domain = 'latchkey.test'\n",
            self.database().display(),
            self.dir.join("pin"),
            self.auditor.endpoint(),
        );
        let file = self.dir.join(format!("{name}.toml"));
        std::fs::write(&file, text).expect("written");
        file
    }

    pub fn database(&self) -> PathBuf {
        self.dir.join("custody.db")
    }

    /// Starts custody in this process.
    pub async fn custody(&self, more: &str, tasks: &Tasks) -> Running {
        let listen: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let file = self.config("custody", listen, more);
        let config: custody::Config = kit::config::load(&file).expect("a good configuration");
        let listener = Listener::bind(listen).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (trigger, shutdown) = kit::shutdown();
        let (ended, end) = tokio::sync::oneshot::channel();
        tasks.spawn("custody", async move {
            let result = custody::serve(config, listener, shutdown).await;
            drop(ended.send(result.map_err(|e| e.to_string())));
        });
        Running {
            address,
            trigger,
            end,
        }
    }

    /// A client of custody's ciphering, by the name of a service.
    pub fn cipher(&self, address: SocketAddr, path: &str) -> CipherServiceClient<Channel> {
        CipherServiceClient::new(self.channel(address, path))
    }

    /// A client of custody's keys, by the name of a person.
    pub fn keys(&self, address: SocketAddr) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.channel(address, "operator/anna"))
    }

    /// A client of custody's health, by the name of anybody.
    pub fn health(&self, address: SocketAddr) -> HealthClient<Channel> {
        HealthClient::new(self.channel(address, "operator/ben"))
    }

    fn channel(&self, address: SocketAddr, path: &str) -> Channel {
        let client = Client {
            endpoint: format!("https://{address}"),
            peer: name("latchkey/custody"),
            timeout_ms: 10_000,
        };
        kit::client::channel(&client, &self.pki.leaf(path)).expect("a channel")
    }
}

/// A custody in this process.
pub struct Running {
    pub address: SocketAddr,
    trigger: ShutdownTrigger,
    end: tokio::sync::oneshot::Receiver<Result<(), String>>,
}

impl Running {
    /// Waits for its end, which nobody asked for.
    pub async fn ended(self) -> Result<(), String> {
        self.end.await.expect("it ends")
    }

    /// Stops it and waits for its end.
    pub async fn stop(self) {
        self.trigger.fire();
        self.end.await.expect("it ends").expect("it ends well");
    }
}

/// A peer name in the test's domain.
pub fn name(path: &str) -> PeerName {
    format!("spiffe://latchkey.test/{path}")
        .parse()
        .expect("a name")
}

/// Certificates of one authority.
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    dir: PathBuf,
}

impl Pki {
    fn new(dir: &Path) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).expect("a certificate");
        std::fs::write(dir.join("ca.pem"), ca.pem()).expect("written");
        Self {
            issuer: Issuer::new(params, key),
            dir: dir.to_owned(),
        }
    }

    /// A certificate for this name.
    pub fn leaf(&self, path: &str) -> Tls {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        let uri = name(path).to_string().try_into().expect("a URI");
        params.subject_alt_names.push(SanType::URI(uri));
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        let file = |end: &str| self.dir.join(format!("{}.{end}", path.replace('/', "-")));
        std::fs::write(file("pem"), leaf.pem()).expect("written");
        std::fs::write(file("key"), key.serialize_pem()).expect("written");
        Tls::files(
            file("pem"),
            file("key"),
            self.dir.join("ca.pem"),
            "latchkey.test",
        )
    }
}

fn secret_file(dir: &Path, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = dir.join(name);
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    path
}

/// Waits until `done` says so, at most 30 s.
pub async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..3000 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain: {what}");
}

/// The reason in the status of a refused call.
pub fn reason<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> String {
    let status = result.expect_err("it should be refused");
    assert!(
        kit::status::mend(&status).is_some_and(|mend| !mend.is_empty()),
        "no mend: {status:?}"
    );
    kit::status::reason(&status).unwrap_or_else(|| panic!("no reason: {status:?}"))
}
