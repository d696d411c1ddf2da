//! Invocation counters through restored databases, lost files and several replicas: none is used twice.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
};

use dlms::{Data, Method};
use kit::Tasks;
use latchkey_proto::{
    audit::v1::EntryKind,
    custody::v1::{GetMeterKeysRequest, ImportLabKeysRequest, Mechanism, Protection},
};
use sqlx::ConnectOptions as _;
use support::{
    Association, Bed, Meter, Process, Running, SERVER, get, lab_keys, permit, reason, until,
    with_token,
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

const OBJECT: &str = "0.0.96.1.0.255";
const GAP: u32 = 1 << 20;

#[test]
fn counters_through_everything() {
    with_token("counters_through_everything", |dir| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(everything(dir));
    });
}

async fn everything(dir: &Path) {
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let bed = Bed::new(dir, &tasks).await;
    a_restored_database_repeats_no_counter(&bed, &tasks).await;
    a_database_that_goes_back_under_custody_is_noticed(&bed, &tasks).await;
    a_replica_without_memory_trusts_no_database(&bed, &tasks).await;
    a_later_association_anywhere_ends_the_older(&bed).await;
    trigger.fire();
    tasks.join().await;
}

fn state_file(bed: &Bed, name: &str) -> PathBuf {
    bed.dir.join(format!("{name}.counters"))
}

async fn start(bed: &Bed, tasks: &Tasks) -> Running {
    let state = state_file(bed, "one");
    let more = format!("lab_import = true\ncounter_block = 4\ncounter_state_file = {state:?}");
    bed.custody(&more, tasks).await
}

/// An association with some reading. [`Meter::open`] fails the test at a counter that was used before.
async fn read(bed: &Bed, running: &Running, meter_id: &str, meter: &mut Meter, reads: usize) {
    let signed = bed.auditor.sign(&permit(meter_id, vec![get(1, OBJECT, 2)]));
    let cipher = bed.cipher(running.address, "latchkey/association");
    let mut association = Association::hls(&cipher, &signed, meter_id).await.unwrap();
    association.establish(meter).await.unwrap();
    for _ in 0..reads {
        let asked = association.get_apdu(1, OBJECT, 2);
        let (ciphered, _) = association.protect(asked).await.unwrap();
        meter.open(&ciphered);
    }
    association.close().await.unwrap();
}

async fn next_counter(bed: &Bed, running: &Running, meter_id: &str) -> u64 {
    let asked = GetMeterKeysRequest {
        meter_id: meter_id.to_owned(),
    };
    let held = bed.keys(running.address).get_meter_keys(asked).await;
    held.unwrap()
        .into_inner()
        .keys
        .unwrap()
        .next_invocation_counter
}

/// What the trail says of counters that were raised.
fn raises(bed: &Bed) -> Vec<String> {
    let entries = bed.auditor.entries(EntryKind::Key);
    let details = entries.into_iter().map(|entry| entry.detail);
    details.filter(|it| it.contains("is raised by")).collect()
}

/// A backup is brought back after both meters went on, one of them by more than the gap.
async fn a_restored_database_repeats_no_counter(bed: &Bed, tasks: &Tasks) {
    let (idle, busy) = ("restored-1", "restored-2");
    let mut meters = [Meter::new(idle), Meter::new(busy)];
    let running = start(bed, tasks).await;
    for meter_id in [idle, busy] {
        let keys = lab_keys(meter_id);
        bed.keys(running.address)
            .import_lab_keys(keys)
            .await
            .unwrap();
    }
    read(bed, &running, idle, &mut meters[0], 20).await;
    read(bed, &running, busy, &mut meters[1], 20).await;
    running.stop().await;

    let backup = bed.dir.join("backup.db");
    backup_into(bed, &backup).await;
    let running = start(bed, tasks).await;
    let before = next_counter(bed, &running, busy).await;
    assert!(raises(bed).is_empty(), "a restart is no restore");
    read(bed, &running, idle, &mut meters[0], 30).await;
    read(bed, &running, busy, &mut meters[1], 5).await;
    running.stop().await;
    // The busy one used two million more.
    change(bed, busy, "next_counter = next_counter + 2097152").await;
    let running = start(bed, tasks).await;
    read(bed, &running, busy, &mut meters[1], 5).await;
    let after = next_counter(bed, &running, busy).await;
    running.stop().await;

    for end in ["-wal", "-shm"] {
        let file = format!("{}{end}", bed.database().display());
        drop(std::fs::remove_file(file));
    }
    std::fs::rename(&backup, bed.database()).unwrap();
    let running = start(bed, tasks).await;
    assert!(next_counter(bed, &running, idle).await > GAP.into());
    let known = next_counter(bed, &running, busy).await;
    assert!(known >= after && after > before + u64::from(GAP));
    for (meter_id, meter) in [idle, busy].iter().zip(&mut meters) {
        read(bed, &running, meter_id, meter, 50).await;
    }
    until("the trail says so", async || raises(bed).len() == 1).await;
    assert!(raises(bed)[0].contains("the database went back"));
    running.stop().await;
    let running = start(bed, tasks).await;
    assert_eq!(raises(bed).len(), 1, "once");
    running.stop().await;
}

/// A fail-over to a copy that lags: the same custody, the same address, an older row.
async fn a_database_that_goes_back_under_custody_is_noticed(bed: &Bed, tasks: &Tasks) {
    let meter_id = "lagging";
    let mut meter = Meter::new(meter_id);
    let running = start(bed, tasks).await;
    let keys = lab_keys(meter_id);
    bed.keys(running.address)
        .import_lab_keys(keys)
        .await
        .unwrap();
    read(bed, &running, meter_id, &mut meter, 10).await;
    let known = raises(bed).len();
    change(bed, meter_id, "next_counter = next_counter - 12").await;
    let signed = bed.auditor.sign(&permit(meter_id, vec![get(1, OBJECT, 2)]));
    let cipher = bed.cipher(running.address, "latchkey/association");
    // Either the check was faster, or the block itself shows it.
    if let Err(status) = Association::hls(&cipher, &signed, meter_id).await {
        assert_eq!(
            kit::status::reason(&status).as_deref(),
            Some("INVOCATION_COUNTERS_UNSURE")
        );
    }
    until("it is noticed", async || raises(bed).len() > known).await;
    until("it serves again", async || {
        let request = HealthCheckRequest {
            service: "latchkey.custody.v1.CipherService".to_owned(),
        };
        let mut health = bed.health(running.address);
        health.check(request).await.unwrap().into_inner().status() == ServingStatus::Serving
    })
    .await;
    read(bed, &running, meter_id, &mut meter, 20).await;
    running.stop().await;
}

/// A new machine, and a database of which nobody says whether it was restored.
async fn a_replica_without_memory_trusts_no_database(bed: &Bed, tasks: &Tasks) {
    let (file, kept) = (state_file(bed, "one"), bed.dir.join("kept"));
    std::fs::copy(&file, &kept).unwrap();
    std::fs::remove_file(&file).unwrap();
    let known = raises(bed).len();
    let running = start(bed, tasks).await;
    until("it is in the trail", async || {
        raises(bed).len() == known + 1
    })
    .await;
    running.stop().await;
    // The file of another replica tells as much.
    std::fs::copy(&kept, &file).unwrap();
    start(bed, tasks).await.stop().await;
    assert_eq!(raises(bed).len(), known + 1);
}

/// Two processes on one database. What one has begun, the other ends: HLS 3 and 4 give the same answer in both
/// directions, so an older context must neither answer the challenge of a newer one nor believe that one's answer.
#[allow(clippy::too_many_lines, reason = "one story, told in its order")]
async fn a_later_association_anywhere_ends_the_older(bed: &Bed) {
    let mut replicas = Vec::new();
    for name in ["replica-1", "replica-2"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let state = state_file(bed, name);
        std::fs::copy(state_file(bed, "one"), &state).unwrap();
        let more = format!(
            "lab_import = true\nallow_legacy_hls = true\ncounter_block = 4\ncounter_state_file = {state:?}"
        );
        replicas.push(Process::start(&bed.config(name, address, &more), address, None).await);
    }
    let keys = ImportLabKeysRequest {
        encryption_key: Vec::new(),
        authentication_key: Vec::new(),
        password: Vec::new(),
        hls_secret: vec![7; 16],
        mechanisms: vec![Mechanism::HlsSha1.into()],
        ..lab_keys("reflected")
    };
    bed.keys(replicas[0].address)
        .import_lab_keys(keys)
        .await
        .unwrap();
    let signed = bed
        .auditor
        .sign(&permit("reflected", vec![get(1, OBJECT, 2)]));
    let open = async |replica: usize| {
        let cipher = bed.cipher(replicas[replica].address, "latchkey/association");
        let how = (Mechanism::HlsSha1, Protection::Plain);
        Association::open(&cipher, &signed, "reflected", how)
            .await
            .unwrap()
    };
    // The stolen association service is the meter: it has nothing but what custody says.
    let mut victim = open(0).await;
    let token = victim.answer(&[9; 16], SERVER).await.unwrap();
    let reply = victim.action_apdu(Method::REPLY_TO_HLS, Some(Data::OctetString(token)));
    victim.protect(reply).await.unwrap();
    let mut oracle = open(1).await;
    let stolen = oracle.answer(&victim.challenge, SERVER).await.unwrap();
    assert_eq!(reason(victim.verify(stolen).await), "CONTEXT_FENCED");
    // The other way round: the oracle is older than its victim.
    let newer = open(0).await;
    let asked = oracle.answer(&newer.challenge, SERVER).await;
    assert_eq!(reason(asked.map(drop)), "OUT_OF_ORDER", "once answered");
    let mut older = newer;
    let newest = open(1).await;
    let asked = older.answer(&newest.challenge, SERVER).await;
    assert_eq!(reason(asked.map(drop)), "CONTEXT_FENCED");
    let again = older.answer(&newest.challenge, SERVER).await;
    assert_eq!(
        reason(again.map(drop)),
        "CONTEXT_UNKNOWN",
        "it is forgotten"
    );

    // A ciphered one goes on until it needs the database, and no further.
    let meter_id = "fenced";
    let mut meter = Meter::new(meter_id);
    bed.keys(replicas[0].address)
        .import_lab_keys(lab_keys(meter_id))
        .await
        .unwrap();
    let signed = bed.auditor.sign(&permit(meter_id, vec![get(1, OBJECT, 2)]));
    let mut open = Vec::new();
    for replica in &replicas {
        let cipher = bed.cipher(replica.address, "latchkey/association");
        let mut association = Association::hls(&cipher, &signed, meter_id).await.unwrap();
        association.establish(&mut meter).await.unwrap();
        open.push(association);
    }
    let mut ended = false;
    for _ in 0..5 {
        let asked = open[0].get_apdu(1, OBJECT, 2);
        match open[0].protect(asked).await {
            Ok((ciphered, _)) => assert_eq!(meter.open(&ciphered).len(), 13),
            Err(error) => {
                assert_eq!(reason(Err::<(), _>(error)), "CONTEXT_FENCED");
                ended = true;
                break;
            }
        }
    }
    assert!(ended, "a block of four is soon used up");
    let asked = open[1].get_apdu(1, OBJECT, 2);
    let (ciphered, _) = open[1].protect(asked).await.unwrap();
    meter.open(&ciphered);
}

async fn connect(bed: &Bed) -> sqlx::sqlite::SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(bed.database())
        .busy_timeout(std::time::Duration::from_secs(5));
    options.connect().await.unwrap()
}

async fn backup_into(bed: &Bed, file: &Path) {
    let mut connection = connect(bed).await;
    sqlx::query("VACUUM INTO $1")
        .bind(file.display().to_string())
        .execute(&mut connection)
        .await
        .unwrap();
    sqlx::Connection::close(connection).await.unwrap();
}

/// Changes a meter's row behind custody's back.
async fn change(bed: &Bed, meter_id: &str, what: &str) {
    let mut connection = connect(bed).await;
    let statement = format!("UPDATE meter_keys SET {what} WHERE meter_id = $1");
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(meter_id)
        .execute(&mut connection)
        .await
        .unwrap();
    sqlx::Connection::close(connection).await.unwrap();
}
