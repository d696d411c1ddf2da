//! Deliveries and changes, with `kill -9` in the middle: run again, they are complete, and nothing is told twice.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use futures::stream;
use kit::Tasks;
use latchkey_proto::{
    audit::v1::EntryKind,
    custody::v1::{
        DestroyMeterKeysRequest, GetMeterKeysRequest, ImportMeterKeysBatchRequest,
        ImportMeterKeysBatchResponse, ImportMeterKeysRequest, KeyState, ListMeterKeysRequest,
        MarkMeterKeysCompromisedRequest, MeterKeys,
    },
};
use support::{AK, Bed, CLIENT, COMPONENTS, Process, SERVER, until, with_token};
use tonic::Status;

const BATCHES: usize = 8;
const ROWS: usize = 64;

#[test]
fn a_delivery_and_changes_outlive_kill_9() {
    with_token("a_delivery_and_changes_outlive_kill_9", |dir| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(everything(dir));
    });
}

struct House {
    bed: Bed,
    config: PathBuf,
    address: SocketAddr,
}

async fn everything(dir: &Path) {
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let bed = Bed::new(dir, &tasks).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let house = House {
        config: bed.config("process", address, ""),
        bed,
        address,
    };
    for point in ["custody.keys.before_store", "custody.keys.after_store"] {
        for answers in [0, 3] {
            house.delivery(point, answers).await;
        }
    }
    for point in ["custody.keys.before_change", "custody.keys.after_change"] {
        house.compromise(point).await;
        house.destruction(point).await;
    }
    trigger.fire();
    tasks.join().await;
}

impl House {
    async fn start(&self, crash_at: Option<(&str, &Path)>) -> Process {
        Process::start(&self.config, self.address, crash_at).await
    }

    fn armed(&self) -> PathBuf {
        self.bed.dir.join("crash")
    }

    /// The process dies at `point` once that many batches were answered; then everything is sent again.
    async fn delivery(&self, point: &str, answers: usize) {
        let name = format!("{}-{answers}", point.rsplit('.').next().unwrap());
        let mut process = self.start(Some((point, &self.armed()))).await;
        let (told, broken) = self.import(&name, Some(answers)).await;
        assert!(broken.is_err(), "{name}: it died on the way");
        until(point, async || process.is_dead()).await;
        assert!(!self.armed().exists(), "{name}: at this point");
        drop(process);

        let process = self.start(None).await;
        let (again, done) = self.import(&name, None).await;
        done.unwrap();
        let stored: u32 = again.iter().map(|it| it.stored_count).sum();
        let unchanged: u32 = again.iter().map(|it| it.unchanged_count).sum();
        assert!(again.iter().all(|it| it.rejected.is_empty()), "{name}");
        assert_eq!(again.len(), BATCHES);
        assert_eq!(stored + unchanged, u32::try_from(BATCHES * ROWS).unwrap());
        // What was answered is stored; one batch may be stored that nobody was told of.
        let before = u32::try_from(told.len() * ROWS).unwrap();
        let one = u32::try_from(ROWS).unwrap();
        assert!(
            [before, before + one].contains(&unchanged),
            "{name}: {unchanged}"
        );
        let (third, done) = self.import(&name, None).await;
        done.unwrap();
        assert!(third.iter().all(|it| it.stored_count == 0), "{name}");
        self.is_told_once(&name).await;
        drop(process);
    }

    /// Every batch that is in the store is in the trail, once.
    async fn is_told_once(&self, name: &str) {
        let mut keys = self.bed.keys(self.address);
        let page = ListMeterKeysRequest {
            page_size: 1000,
            page_token: name.to_owned(),
            ..ListMeterKeysRequest::default()
        };
        let list = keys.list_meter_keys(page).await.unwrap().into_inner().keys;
        let of = list.iter().filter(|it| it.meter_id.starts_with(name));
        let imports: Vec<_> = of.map(|it| it.import_id.clone()).collect();
        assert_eq!(imports.len(), BATCHES * ROWS, "{name}: every meter");
        let imports: BTreeSet<String> = imports.into_iter().collect();
        assert_eq!(imports.len(), BATCHES, "{name}: no batch was torn");
        until("each is in the trail once", async || {
            let entries = self.bed.auditor.entries(EntryKind::Key);
            imports.iter().all(|id| {
                let told = entries
                    .iter()
                    .filter(|entry| entry.detail.contains(id.as_str()));
                told.count() == 1
            })
        })
        .await;
    }

    /// What was answered, and how it ended. The crash point is armed after that many answers.
    async fn import(
        &self,
        name: &str,
        arm_after: Option<usize>,
    ) -> (Vec<ImportMeterKeysBatchResponse>, Result<(), Status>) {
        let batches: Vec<_> = (0..BATCHES)
            .map(|batch| ImportMeterKeysBatchRequest {
                meters: (0..ROWS)
                    .map(|row| record(name, batch * ROWS + row))
                    .collect(),
            })
            .collect();
        let mut told = Vec::new();
        if arm_after == Some(0) {
            std::fs::write(self.armed(), "").unwrap();
        }
        let mut keys = self.bed.keys(self.address);
        let begun = keys.import_meter_keys_batch(stream::iter(batches)).await;
        let mut answers = match begun {
            Ok(answers) => answers.into_inner(),
            Err(status) => return (told, Err(status)),
        };
        loop {
            match answers.message().await {
                Ok(Some(answer)) => told.push(answer),
                Ok(None) => return (told, Ok(())),
                Err(status) => return (told, Err(status)),
            }
            if arm_after == Some(told.len()) {
                std::fs::write(self.armed(), "").unwrap();
            }
        }
    }

    /// Marking compromised dies at `point`: it is marked and told, or neither; asked again, it is.
    async fn compromise(&self, point: &str) {
        let process = self.start(None).await;
        let meter_id = format!("{}-c", point.rsplit('.').next().unwrap());
        self.one_meter(&meter_id).await;
        drop(process);
        let ask = MarkMeterKeysCompromisedRequest {
            meter_id: meter_id.clone(),
            row_version: 0,
            justification: "found in a mail".to_owned(),
        };
        std::fs::write(self.armed(), "").unwrap();
        let mut process = self.start(Some((point, &self.armed()))).await;
        let mut keys = self.bed.keys(self.address);
        keys.mark_meter_keys_compromised(ask.clone())
            .await
            .unwrap_err();
        until(point, async || process.is_dead()).await;
        drop(process);
        let process = self.start(None).await;
        let marked = self.held(&meter_id).await.state() == KeyState::Compromised;
        assert_eq!(marked, point.ends_with("after_change"), "{point}");
        let mut keys = self.bed.keys(self.address);
        let again = keys.mark_meter_keys_compromised(ask).await.unwrap();
        let again = again.into_inner().keys.unwrap();
        assert_eq!(again.state(), KeyState::Compromised);
        self.is_told(&meter_id, "compromised").await;
        drop(process);
    }

    /// Destroying dies at `point`: keys are there, or gone and told; asked again, they are gone.
    async fn destruction(&self, point: &str) {
        let process = self.start(None).await;
        let meter_id = format!("{}-d", point.rsplit('.').next().unwrap());
        let row_version = self.one_meter(&meter_id).await.row_version;
        drop(process);
        let ask = DestroyMeterKeysRequest {
            meter_id: meter_id.clone(),
            row_version,
            justification: "scrapped".to_owned(),
        };
        std::fs::write(self.armed(), "").unwrap();
        let mut process = self.start(Some((point, &self.armed()))).await;
        let mut keys = self.bed.keys(self.address);
        keys.destroy_meter_keys(ask.clone()).await.unwrap_err();
        until(point, async || process.is_dead()).await;
        drop(process);
        let process = self.start(None).await;
        let after = point.ends_with("after_change");
        let mut keys = self.bed.keys(self.address);
        assert_eq!(
            keys.destroy_meter_keys(ask).await.is_err(),
            after,
            "{point}"
        );
        let gone = self.held(&meter_id).await;
        assert_eq!(gone.state(), KeyState::Destroyed, "{point}");
        assert!(!gone.has_key_encryption_key, "{point}");
        self.is_told(&meter_id, "destroyed").await;
        drop(process);
    }

    async fn one_meter(&self, meter_id: &str) -> MeterKeys {
        let mut record = record(meter_id, 0);
        record.meter_id = meter_id.to_owned();
        let mut keys = self.bed.keys(self.address);
        let stored = keys.import_meter_keys(record).await.unwrap();
        stored.into_inner().keys.unwrap()
    }

    async fn held(&self, meter_id: &str) -> MeterKeys {
        let request = GetMeterKeysRequest {
            meter_id: meter_id.to_owned(),
        };
        let mut keys = self.bed.keys(self.address);
        let held = keys.get_meter_keys(request).await.unwrap();
        held.into_inner().keys.unwrap()
    }

    async fn is_told(&self, meter_id: &str, what: &str) {
        until("it is in the trail once", async || {
            let entries = self.bed.auditor.entries(EntryKind::Key);
            let of = entries.iter().filter(|it| it.meter_id == meter_id);
            of.filter(|it| it.detail.contains(what)).count() == 1
        })
        .await;
    }
}

fn record(name: &str, number: usize) -> ImportMeterKeysRequest {
    let [a, b] = COMPONENTS;
    let transport: [u8; 32] = std::array::from_fn(|i| a[i] ^ b[i]);
    let wrap = |key: &[u8]| {
        let kek = AesKek::new(&AES_256, &transport).unwrap();
        kek.wrap(key, &mut [0; 24]).unwrap().to_vec()
    };
    let meter_id = format!("{name}-{number:04}");
    let mut key = [0; 16];
    for (number, octet) in meter_id.bytes().enumerate() {
        key[number % 16] ^= octet.rotate_left(u32::try_from(number / 16).unwrap() * 3);
    }
    ImportMeterKeysRequest {
        meter_id,
        client_system_title: CLIENT.to_vec(),
        server_system_title: SERVER.to_vec(),
        wrapped_encryption_key: wrap(&key),
        wrapped_authentication_key: wrap(&AK),
        wrapped_key_encryption_key: wrap(&[0x4D; 16]),
        ..ImportMeterKeysRequest::default()
    }
}
