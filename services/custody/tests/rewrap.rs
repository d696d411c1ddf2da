//! A fleet's keys come under another generation of key-encryption keys: under load, after `kill -9`, by two at one time.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and prints what it measured"
)]

mod support;

use std::{
    collections::HashMap,
    net::TcpListener,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use dlms::Data;
use kit::{Channel, Tasks};
use latchkey_proto::{
    audit::v1::{EntryKind, Permit, Purpose},
    custody::v1::{
        BeginRotationRequest, GetMeterKeysRequest, ImportLabKeysRequest, KekGeneration,
        ListKekGenerationsRequest, Mechanism, OpenContextRequest, Protection, RewrapKeysRequest,
        RewrapKeysResponse, RotationKeys, cipher_service_client::CipherServiceClient,
        key_service_client::KeyServiceClient,
    },
};
use support::{
    Association, Bed, Meter, Process, action, get, lab_keys, method, permit, reason, until,
    with_token,
};
use tonic::Status;

const CLOCK: &str = "0.0.1.0.0.255";
const SETUP: &str = "0.0.43.0.0.255";
const OLD: &str = "lab_import = true\nkek_generation = 1";

/// A backup token and one that is cloned from it, with two generations.
async fn bed(dir: &Path, tasks: &Tasks) -> Bed {
    let keks = |n: u32| format!("'kek-ek-{n}', 'kek-ak-{n}', 'kek-hs-{n}', 'kek-mk-{n}'");
    let keys = format!(
        "keys = [{}, {}, 'transport-1', 'transcript']",
        keks(1),
        keks(2)
    );
    let token = |label: &str, role: &str, so: &str, pin: &str| {
        format!(
            "[[token]]\nlabel = '{label}'\nrole = '{role}'\nso_pin_file = {:?}\npin_file = {:?}\n{keys}\n",
            dir.join(so),
            dir.join(pin),
        )
    };
    let plan = format!(
        "module = '/usr/lib/softhsm/libsofthsm2.so'\ncreate_pins = true\n{}{}",
        token("vault", "backup", "vault.so", "vault.pin"),
        token("custody-test", "custody", "so-pin", "pin"),
    );
    Bed::held(dir, &plan, tasks).await
}

/// Custody with the backup token beside.
fn with_backup(dir: &Path) -> String {
    format!(
        "lab_import = true\n[backup_token]\nmodule = '/usr/lib/softhsm/libsofthsm2.so'\ntoken_label = 'vault'\n\
         pin_file = {:?}\n",
        dir.join("vault.pin")
    )
}

fn run(test: &str, inside: fn(&Path)) {
    with_token(test, inside);
}

fn block_on(body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(body);
}

/// Meters of every sort: most with keys alone; some with an HLS secret and a master key, some with a password alone.
fn sort(number: usize) -> ImportLabKeysRequest {
    let all = lab_keys(&meter(number));
    match number % 10 {
        3 => ImportLabKeysRequest {
            hls_secret: b"a secret of 24 octets...".to_vec(),
            key_encryption_key: vec![0x4B; 16],
            ..all
        },
        7 => ImportLabKeysRequest {
            encryption_key: Vec::new(),
            authentication_key: Vec::new(),
            mechanisms: Vec::new(),
            ..all
        },
        _ => all,
    }
}

fn meter(number: usize) -> String {
    format!("m-{number:05}")
}

async fn fill(keys: &KeyServiceClient<Channel>, count: usize) {
    for number in 0..count {
        let imported = keys.clone().import_lab_keys(sort(number)).await;
        imported.unwrap_or_else(|e| panic!("meter {number}: {e:?}"));
    }
}

/// Re-wraps until the end; the last report.
async fn rewrap(keys: &KeyServiceClient<Channel>, to: u32) -> Result<RewrapKeysResponse, Status> {
    let request = RewrapKeysRequest { to_generation: to };
    let mut reports = keys.clone().rewrap_keys(request).await?.into_inner();
    let mut last = RewrapKeysResponse::default();
    while let Some(report) = reports.message().await? {
        assert!(!last.finished && report.meters_done >= last.meters_done);
        last = report;
    }
    Ok(last)
}

async fn generations(keys: &KeyServiceClient<Channel>) -> (u32, Vec<(u32, u64)>) {
    let request = ListKekGenerationsRequest {};
    let listed = keys.clone().list_kek_generations(request).await.unwrap();
    let listed = listed.into_inner();
    let row = |kek: &KekGeneration| {
        assert!(kek.usable && kek.has_hls_secrets && kek.has_master_keys);
        (kek.generation, kek.row_count)
    };
    let rows = listed.generations.iter().map(row).collect();
    (listed.current_generation, rows)
}

type Cipher = CipherServiceClient<Channel>;

/// One association with its meter: HLS, then a clock read. The meter panics if a counter comes twice.
async fn read_clock(bed: &Bed, cipher: &Cipher, meter: &mut Meter, id: &str) {
    let signed = bed.auditor.sign(&permit(id, vec![get(8, CLOCK, 2)]));
    let mut association = Association::hls(cipher, &signed, id).await.unwrap();
    association.establish(meter).await.unwrap();
    for _ in 0..3 {
        ask(&mut association, meter).await;
    }
    association.close().await.unwrap();
}

async fn ask(association: &mut Association, meter: &mut Meter) {
    let apdu = association.get_apdu(8, CLOCK, 2);
    let (ciphered, _) = association.protect(apdu.clone()).await.unwrap();
    assert_eq!(meter.open(&ciphered), apdu);
    let answer = association.value(Data::Unsigned(7));
    let sealed = meter.seal(0xCC, &answer);
    assert_eq!(association.unprotect(sealed).await.unwrap(), answer);
}

#[test]
fn a_fleet_comes_under_a_new_generation_while_it_is_served() {
    run(
        "a_fleet_comes_under_a_new_generation_while_it_is_served",
        |dir| block_on(under_load(dir)),
    );
}

#[allow(clippy::too_many_lines, reason = "one story, told in its order")]
async fn under_load(dir: &Path) {
    const METERS: usize = 2000;
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let bed = Arc::new(bed(dir, &tasks).await);
    let old = bed.custody(OLD, &tasks).await;
    let keys = bed.keys(old.address);
    fill(&keys, METERS).await;
    assert_eq!(
        generations(&keys).await,
        (1, vec![(1, METERS as u64), (2, 0)])
    );
    assert_eq!(reason(rewrap(&keys, 2).await), "REWRAP_REFUSED");
    old.stop().await;

    let custody = bed.custody(&with_backup(dir), &tasks).await;
    let (keys, address) = (bed.keys(custody.address), custody.address);
    assert_eq!(
        generations(&keys).await.0,
        2,
        "new keys come under the newest"
    );
    // opened before, used all the time
    let id = meter(0);
    let signed = bed.auditor.sign(&permit(&id, vec![get(8, CLOCK, 2)]));
    let cipher = bed.cipher(address, "latchkey/association");
    let mut held = Association::hls(&cipher, &signed, &id).await.unwrap();
    let mut theirs = Meter::new(&id);
    held.establish(&mut theirs).await.unwrap();
    let (stop, read) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let mut readers = tokio::task::JoinSet::new();
    for reader in 1..=4 {
        let cipher = cipher.clone();
        let (bed, stop, read) = (Arc::clone(&bed), Arc::clone(&stop), Arc::clone(&read));
        readers.spawn(async move {
            // Each has meters of its own, and they remember every counter they have seen.
            let mut meters: HashMap<String, Meter> = HashMap::new();
            let own: Vec<usize> = (reader..METERS)
                .step_by(44)
                .filter(|n| n % 10 != 7)
                .collect();
            for number in own.iter().cycle() {
                let id = meter(*number);
                let theirs = meters.entry(id.clone()).or_insert_with(|| Meter::new(&id));
                read_clock(&bed, &cipher, theirs, &id).await;
                read.fetch_add(1, Ordering::Relaxed);
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
    }
    until("associations", async || read.load(Ordering::Relaxed) > 8).await;
    let began = Instant::now();
    let request = RewrapKeysRequest { to_generation: 0 };
    let mut reports = keys
        .clone()
        .rewrap_keys(request)
        .await
        .unwrap()
        .into_inner();
    let mut last = RewrapKeysResponse::default();
    let mut batches = 0;
    while let Some(report) = reports.message().await.unwrap() {
        ask(&mut held, &mut theirs).await;
        (last, batches) = (report, batches + 1);
    }
    let seconds = began.elapsed().as_secs_f64();
    let during = read.load(Ordering::Relaxed);
    println!(
        "{METERS} meters came under generation 2 in {seconds:.2} s ({:.0} rows/s) in {batches} reports, beside {during} \
         associations",
        METERS as f64 / seconds
    );
    ask(&mut held, &mut theirs).await;
    until("associations after it", async || {
        read.load(Ordering::Relaxed) > during + 8
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    while let Some(reader) = readers.join_next().await {
        reader.expect("no reader failed");
    }
    assert!(last.finished && last.meters_failed == 0, "{last:?}");
    assert_eq!(
        (last.meters_total, last.meters_done),
        (METERS as u64, METERS as u64)
    );
    assert_eq!(
        generations(&keys).await,
        (2, vec![(1, 0), (2, METERS as u64)])
    );
    // the same keys are the same still, of every sort
    for number in 0..20 {
        keys.clone().import_lab_keys(sort(number)).await.unwrap();
    }
    let again = rewrap(&keys, 2).await.unwrap();
    assert_eq!((again.meters_total, again.finished), (0, true));
    until("begin, batches and end are in the trail", async || {
        let entries = bed.auditor.entries(EntryKind::Key);
        let of = |text: &str| entries.iter().filter(|e| e.detail.contains(text)).count();
        (
            of("re-wrap to generation 2 begun"),
            of("re-wrap to generation 2 ended"),
        ) == (2, 2)
            && of("came under generation 2") >= METERS / 128
    })
    .await;
    custody.stop().await;
    trigger.fire();
    tasks.join().await;
}

#[test]
fn a_rewrap_goes_on_after_a_crash_at_any_point() {
    run("a_rewrap_goes_on_after_a_crash_at_any_point", |dir| {
        block_on(crashes(dir));
    });
}

async fn crashes(dir: &Path) {
    const METERS: usize = 300;
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let bed = bed(dir, &tasks).await;
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let config = bed.config("process", address, &with_backup(dir));
    let process = Process::start(&config, address, None).await;
    fill(&bed.keys(address), METERS).await;
    drop(process);
    let points = custody::CRASH_POINTS.iter();
    let mut to = 1;
    for point in points.filter(|point| point.starts_with("custody.rewrap.")) {
        let file = dir.join("crash");
        std::fs::write(&file, "").unwrap();
        let mut process = Process::start(&config, address, Some((point, &file))).await;
        let keys = bed.keys(address);
        assert!(rewrap(&keys, to).await.is_err(), "{point}");
        until(point, async || process.is_dead()).await;
        assert!(
            !file.exists(),
            "{point}: it was not the crash point that ended it"
        );
        drop(process);
        let process = Process::start(&config, address, None).await;
        let keys = bed.keys(address);
        let (_, rows) = generations(&keys).await;
        let done = rows.iter().find(|(number, _)| *number == to).unwrap().1;
        let expected = if point.ends_with("after_store") {
            128
        } else {
            0
        };
        assert_eq!(
            done, expected,
            "{point}: a batch is there whole or not at all"
        );
        let last = rewrap(&keys, to).await.unwrap();
        assert_eq!(last.meters_total, METERS as u64 - expected, "{point}");
        assert!(
            last.finished && last.meters_failed == 0,
            "{point}: {last:?}"
        );
        let cipher = bed.cipher(address, "latchkey/association");
        for number in [0, 3, 127, 128, 299] {
            let id = meter(number);
            if number % 10 != 7 {
                read_clock(&bed, &cipher, &mut Meter::new(&id), &id).await;
            }
        }
        drop(process);
        to = 3 - to;
    }
    trigger.fire();
    tasks.join().await;
}

#[test]
fn two_replicas_at_it_do_each_row_once() {
    run("two_replicas_at_it_do_each_row_once", |dir| {
        block_on(two(dir));
    });
}

async fn two(dir: &Path) {
    const METERS: usize = 600;
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let bed = bed(dir, &tasks).await;
    let old = bed.custody(OLD, &tasks).await;
    fill(&bed.keys(old.address), METERS).await;
    old.stop().await;
    let one = bed.custody(&with_backup(dir), &tasks).await;
    let other = bed.custody(&with_backup(dir), &tasks).await;
    let (keys, others) = (bed.keys(one.address), bed.keys(other.address));
    let (one_did, other_did) = tokio::join!(rewrap(&keys, 2), rewrap(&others, 2));
    let (one_did, other_did) = (one_did.unwrap(), other_did.unwrap());
    assert_eq!(one_did.meters_done + other_did.meters_done, METERS as u64);
    assert_eq!(one_did.meters_failed + other_did.meters_failed, 0);
    assert_eq!(generations(&keys).await.1, [(1, 0), (2, METERS as u64)]);
    let id = meter(11);
    let cipher = bed.cipher(other.address, "latchkey/association");
    read_clock(&bed, &cipher, &mut Meter::new(&id), &id).await;
    one.stop().await;
    other.stop().await;
    trigger.fire();
    tasks.join().await;
}

#[test]
fn a_rotation_under_way_comes_along() {
    run("a_rotation_under_way_comes_along", |dir| {
        block_on(rotation(dir));
    });
}

/// Keys that are not in use yet, and what carries them to the meter, are under the new generation with the meter's row.
async fn rotation(dir: &Path) {
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let bed = bed(dir, &tasks).await;
    let old = bed.custody(OLD, &tasks).await;
    fill(&bed.keys(old.address), 10).await;
    let id = meter(3);
    let keys = Data::Array(vec![Data::Enum(0), Data::Enum(2)]);
    let named = Data::Structure(vec![Data::OctetString(vec![9; 16]), keys]).encode();
    let rekey = Permit {
        purpose: Purpose::Rekey.into(),
        ..permit(&id, vec![action(64, SETUP, 2, &named)])
    };
    let signed = bed.auditor.sign(&rekey);
    let begin = async |address| {
        let request = BeginRotationRequest {
            permit: Some(signed.clone()),
            meter_id: id.clone(),
        };
        let begun = bed
            .cipher(address, "latchkey/association")
            .begin_rotation(request)
            .await;
        begun.unwrap().into_inner().send.unwrap()
    };
    let send = begin(old.address).await;
    old.stop().await;

    let custody = bed.custody(&with_backup(dir), &tasks).await;
    let last = rewrap(&bed.keys(custody.address), 2).await.unwrap();
    assert_eq!((last.meters_done, last.meters_failed), (10, 0), "{last:?}");
    let (_, rows) = generations(&bed.keys(custody.address)).await;
    assert_eq!(
        rows,
        [(1, 0), (2, 10 + 2 + 1)],
        "two new keys and a rotation"
    );
    assert_eq!(begin(custody.address).await.parameter, send.parameter);
    let cipher = bed.cipher(custody.address, "latchkey/association");
    let open = async |keys: RotationKeys| {
        let request = OpenContextRequest {
            permit: Some(signed.clone()),
            meter_id: id.clone(),
            mechanism: Mechanism::HlsGmac.into(),
            protection: Protection::Glo.into(),
            rotation_keys: keys.into(),
            ..OpenContextRequest::default()
        };
        Association::open_as(&cipher, request).await.unwrap().0
    };
    let (mut association, mut theirs) = (open(RotationKeys::Old).await, Meter::new(&id));
    association.establish(&mut theirs).await.unwrap();
    let parameter = Data::decode(&send.parameter).unwrap();
    let apdu = association.action_apdu(method(64, SETUP, 2), Some(parameter));
    let (ciphered, _) = association.protect(apdu.clone()).await.unwrap();
    assert_eq!(theirs.open(&ciphered), apdu);
    association.close().await.unwrap();
    // the new keys open from their own rows
    open(RotationKeys::New).await.close().await.unwrap();
    custody.stop().await;
    trigger.fire();
    tasks.join().await;
}

#[test]
fn what_does_not_open_is_left_and_named() {
    run("what_does_not_open_is_left_and_named", |dir| {
        block_on(refusals(dir));
    });
}

async fn refusals(dir: &Path) {
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let bed = bed(dir, &tasks).await;
    let old = bed.custody(OLD, &tasks).await;
    fill(&bed.keys(old.address), 12).await;
    old.stop().await;
    // another hand in the database: a fact more, a seal less, no password any more
    sqlx::any::install_default_drivers();
    let url = format!("sqlite://{}", bed.database().display());
    let database = sqlx::AnyPool::connect(&url).await.unwrap();
    for (meter, change) in [
        ("m-00004", "mechanisms = 255"),
        ("m-00007", "sealed_password = x''"),
        ("m-00008", "sealed_authentication_key = x''"),
    ] {
        let sql = format!("UPDATE meter_keys SET {change} WHERE meter_id = '{meter}'");
        let statement = sqlx::query(sqlx::AssertSqlSafe(sql));
        let changed = statement.execute(&database).await.unwrap();
        assert_eq!(changed.rows_affected(), 1, "{meter}");
    }
    let pin = dir.join("vault.pin");
    let away = dir.join("vault.away");
    std::fs::rename(&pin, &away).unwrap();
    let custody = bed.custody(&with_backup(dir), &tasks).await;
    let keys = bed.keys(custody.address);
    assert_eq!(
        reason(rewrap(&keys, 2).await),
        "REWRAP_REFUSED",
        "no PIN, no backup token"
    );
    assert_eq!(reason(rewrap(&keys, 9).await), "KEK_GENERATION_UNKNOWN");
    // the PIN is there for the time of the re-wrap; custody is not restarted for it
    std::fs::rename(&away, &pin).unwrap();
    let last = rewrap(&keys, 2).await.unwrap();
    assert_eq!(last.failed_meter_ids, ["m-00004", "m-00008"], "{last:?}");
    assert_eq!((last.meters_done, last.meters_failed), (10, 2));
    assert_eq!(generations(&keys).await.1, [(1, 2), (2, 10)]);
    for number in [4, 8] {
        let request = GetMeterKeysRequest {
            meter_id: meter(number),
        };
        assert!(
            keys.clone().get_meter_keys(request).await.is_ok(),
            "left as it was"
        );
    }
    custody.stop().await;
    trigger.fire();
    tasks.join().await;
}
