//! The auditor without its edge: on SQLite, with a key in memory in place of the token.

mod authorise;
mod changes;
mod crashes;
mod durability;

use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use futures::TryStreamExt as _;
use kit::{PeerName, ShutdownTrigger};
use latchkey_proto::audit::v1::{
    AuthoriseRequest, Command, CommandService, Entry, EntryKind, Purpose, RecordRequest, Tier,
};
use prost::Message as _;

use super::*;

const ORIGIN: &str = "latchkey.test/trail";
const PARAMETER: [u8; 3] = [0x12, 0, 3];

/// Signs without a token.
struct InMemory;

impl InMemory {
    fn pair(label: &str) -> Ed25519KeyPair {
        let seed = if label == signer::LOG_KEY { 1 } else { 2 };
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }
}

impl Sign for InMemory {
    fn sign<'a>(
        &'a self,
        label: &'static str,
        message: &'a [u8],
    ) -> BoxFuture<'a, Result<[u8; 64], Error>> {
        let signature = Self::pair(label).sign(message);
        let octets = signature.as_ref().try_into().unwrap();
        Box::pin(std::future::ready(Ok(octets)))
    }

    fn public_key<'a>(&'a self, label: &'static str) -> BoxFuture<'a, Result<Vec<u8>, Error>> {
        let key = Self::pair(label).public_key().as_ref().to_vec();
        Box::pin(std::future::ready(Ok(key)))
    }
}

/// A running auditor over the database of a directory.
struct Running {
    api: Api,
    writable: watch::Receiver<bool>,
    tasks: Tasks,
    trigger: ShutdownTrigger,
}

fn config(dir: &Path) -> Config {
    let text = format!(
        r#"
        origin = "{ORIGIN}"
        [server]
        listen = "127.0.0.1:0"
        [server.tls]
        certificate_file = "unused"
        key_file = "unused"
        ca_file = "unused"
        trust_domain = "latchkey.test"
        [server.peers]
        "latchkey.audit.v1.PermitService" = ["spiffe://latchkey.test/latchkey/reset"]
        [database]
        url = "{}"
        [token]
        module = "unused"
        token_label = "unused"
        pin_file = "unused"
        [roles]
        "spiffe://latchkey.test/operator/alice" = ["operator"]
        "spiffe://latchkey.test/operator/sam" = ["security-admin"]
        "spiffe://latchkey.test/operator/ines" = ["installer"]
        [[allowlist]]
        side = "source"
        network = "127.0.0.1/32"
        reason = "the association service"
        "#,
        url(dir)
    );
    toml::from_str(&text).unwrap()
}

fn url(dir: &Path) -> String {
    format!("sqlite://{}", dir.join("auditor.db").display())
}

async fn try_start(dir: &Path) -> Result<Running, StartError> {
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let (api, writable) = start(
        config(dir),
        Arc::new(InMemory),
        &tasks,
        tasks.shutdown().clone(),
    )
    .await?;
    Ok(Running {
        api,
        writable,
        tasks,
        trigger,
    })
}

impl Running {
    async fn start(dir: &Path) -> Self {
        try_start(dir).await.map_err(|e| e.to_string()).unwrap()
    }

    async fn stop(self) {
        self.trigger.fire();
        self.tasks.join().await;
    }

    async fn export(&self) -> Vec<u8> {
        let pieces = self.api.trail.clone().export().await.unwrap();
        let pieces: Vec<Vec<u8>> = pieces.try_collect().await.unwrap();
        assert!(pieces.iter().all(|piece| piece.len() <= 64 * 1024));
        pieces.concat()
    }

    /// How many entries an offline verification of the export counts.
    async fn verified(&self) -> u64 {
        let file = self.export().await;
        let key = tlog::VerifierKey::parse(&self.api.trail.verifier_key()).unwrap();
        let summary = tlog::export::verify(&file, &key, signer::ed25519).unwrap();
        summary.size
    }

    async fn entries(&self) -> Vec<Entry> {
        let page = self.api.trail.page(0, 1000, "", "").await.unwrap();
        assert!(page.next.is_none());
        let entries = page.entries.into_iter();
        entries.map(|indexed| indexed.entry.unwrap()).collect()
    }

    async fn of_kind(&self, kind: EntryKind) -> Vec<Entry> {
        let mut entries = self.entries().await;
        entries.retain(|entry| entry.kind() == kind);
        entries
    }

    async fn record(&self, request_id: &str, detail: &str) -> Result<u64, Error> {
        let request = RecordRequest {
            request_id: request_id.to_owned(),
            entry: Some(Entry {
                kind: EntryKind::Outcome.into(),
                meter_id: "meter-0001".to_owned(),
                detail: detail.to_owned(),
                ..Entry::default()
            }),
        };
        self.api.auditor.record(&reset(), request).await
    }
}

fn peer(name: &str) -> PeerName {
    name.parse().unwrap()
}

fn reset() -> PeerName {
    peer("spiffe://latchkey.test/latchkey/reset")
}

fn id(number: u32) -> String {
    format!("0190b6a0-0000-7000-8000-{number:012}")
}

fn cold_reset(number: u32) -> AuthoriseRequest {
    AuthoriseRequest {
        request_id: id(number),
        meter_id: "meter-0001".to_owned(),
        purpose: Purpose::Reset.into(),
        tier: Tier::Cold.into(),
        commands: vec![Command {
            service: CommandService::Action.into(),
            class_id: 9,
            logical_name: "0.0.10.1.0.255".to_owned(),
            index: 1,
            parameter: PARAMETER.to_vec(),
            selection: Vec::new(),
            max_uses: 1,
        }],
        on_behalf_of: "spiffe://latchkey.test/operator/alice".to_owned(),
        reason: "does not answer".to_owned(),
        ticket: "T-1".to_owned(),
        reset_id: id(number + 1000),
        max_associations: 8,
        lifetime_seconds: 600,
        validate_only: false,
    }
}

/// A second connection to the database, as an intruder or an accident has it.
async fn tamper(dir: &Path, statements: &[&'static str]) {
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(&url(dir)).await.unwrap();
    for statement in statements {
        sqlx::query(*statement).execute(&pool).await.unwrap();
    }
    pool.close().await;
}

fn temporary() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    (dir, path)
}
