//! Many meters: how long a delivery takes to come in, and what an association costs where a thousand, a hundred thousand
//! and a million meters are held. In one run, on SQLite and SoftHSM.
//!
//! Custody is the real program in a process of its own: its CPU time is what the kernel counts for it, in steps of 10 ms.
//! The machine may be shared: compare within a run. `LATCHKEY_BENCH_QUICK` divides the numbers of meters by 20.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark may fail by panicking, prints, and has tasks of its own"
)]

#[path = "../hot_path/gauge.rs"]
#[allow(dead_code, reason = "the other benchmark uses the rest")]
mod gauge;
#[path = "../../tests/support/mod.rs"]
mod support;
#[path = "../hot_path/talk.rs"]
#[allow(dead_code, reason = "the other benchmark uses the rest")]
mod talk;

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use association::lane::Lane;
use futures::stream;
use kit::Tasks;
use latchkey_proto::custody::v1::{ImportMeterKeysBatchRequest, ImportMeterKeysRequest, Mechanism};
use sqlx::Row as _;
use support::{AK, Bed, CLIENT, COMPONENTS, SERVER, until};
use talk::Talk;

/// Rows of a batch.
const BATCH: u32 = 512;

fn main() {
    support::with_token("stock", |dir| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(everything(dir));
    });
}

async fn everything(dir: &Path) {
    let divide = if std::env::var_os("LATCHKEY_BENCH_QUICK").is_some() {
        20
    } else {
        1
    };
    let (few, many, most) = (1_000, 100_000 / divide, 1_000_000 / divide);
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let bed = Bed::new(dir, &tasks).await;
    println!("# a delivery under a transport key: EK, AK, GBEK and master key of each meter");
    import(&bed, "come in", 0..few).await;
    println!("# {few} rows");
    associations(&bed, &tasks, few).await;
    println!("# the rest of {many}");
    import(&bed, "come in", few..many).await;
    import(&bed, "come again", few..many).await;
    println!("# {many} rows");
    associations(&bed, &tasks, many).await;
    fill(&bed, most - many).await;
    println!("# {most} rows");
    associations(&bed, &tasks, many).await;
    trigger.fire();
    tasks.join().await;
}

fn meter(number: u32) -> String {
    // Not in the order of their numbers: rows come in all over the index.
    format!("m-{:08x}", number.wrapping_mul(0x9E37_79B1))
}

fn ek(meter_id: &str) -> [u8; 16] {
    let mut key = [0x42; 16];
    let id = meter_id.as_bytes();
    key[..id.len()].copy_from_slice(id);
    key
}

/// Imports meters over one stream, through a custody of its own.
async fn import(bed: &Bed, what: &str, numbers: std::ops::Range<u32>) {
    let count = f64::from(numbers.end - numbers.start);
    let [a, b] = COMPONENTS;
    let transport: [u8; 32] = std::array::from_fn(|i| a[i] ^ b[i]);
    let wrapped = |key: &[u8]| talk::wrapped(&transport, key);
    let record = |number: u32| {
        let meter_id = meter(number);
        ImportMeterKeysRequest {
            wrapped_encryption_key: wrapped(&ek(&meter_id)),
            wrapped_authentication_key: wrapped(&AK),
            wrapped_broadcast_key: wrapped(&[0xBC; 16]),
            wrapped_key_encryption_key: wrapped(&[0x4D; 16]),
            meter_id,
            client_system_title: CLIENT.to_vec(),
            server_system_title: SERVER.to_vec(),
            mechanisms: vec![Mechanism::HlsGmac.into()],
            ..ImportMeterKeysRequest::default()
        }
    };
    let batches: Vec<_> = numbers
        .clone()
        .step_by(usize::try_from(BATCH).expect("small"))
        .map(|first| ImportMeterKeysBatchRequest {
            meters: (first..numbers.end.min(first + BATCH))
                .map(record)
                .collect(),
        })
        .collect();
    let custody = Custody::start(bed).await;
    let mut keys = bed.keys(custody.address);
    let (cpu, began) = (custody.cpu_us(), Instant::now());
    let mut answers = keys
        .import_meter_keys_batch(stream::iter(batches))
        .await
        .expect("begun")
        .into_inner();
    let (mut stored, mut unchanged) = (0, 0);
    while let Some(answer) = answers.message().await.expect("an answer") {
        assert!(answer.rejected.is_empty(), "{:?}", answer.rejected);
        stored += answer.stored_count;
        unchanged += answer.unchanged_count;
    }
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), custody.cpu_us() - cpu);
    assert_eq!(stored + unchanged, numbers.end - numbers.start);
    println!(
        "{count:>9.0} meters {what:<12} {seconds:>8.1} s  {:>7.0} /s  {:>7.1} us CPU each  {stored} stored, {unchanged} held already, {} KiB resident",
        count / seconds,
        cpu / count,
        gauge::rss_kib(custody.child.id())
    );
}

/// Contexts of meters all over the index, with a custody that was just started, and once more.
async fn associations(bed: &Bed, tasks: &Tasks, known: u32) {
    let custody = Custody::start(bed).await;
    let lane = Lane::new(
        bed.cipher(custody.address, "latchkey/association"),
        tasks.clone(),
        Duration::from_secs(10),
    );
    let count = 1_000;
    let sample: Vec<_> = (0..count).map(|n| meter(n * (known / count))).collect();
    // The first of all has the connection made and the code loaded.
    Talk::open(bed, &lane, &sample[0]).await.close().await;
    for name in ["OpenContext, never used before", "OpenContext, used before"] {
        let (cpu, began) = (custody.cpu_us(), Instant::now());
        for meter_id in &sample[1..] {
            Talk::open(bed, &lane, meter_id).await.close().await;
        }
        row(name, count - 1, custody.cpu_us() - cpu, began);
    }
    let mut talks = Vec::new();
    for meter_id in &sample[..16] {
        let mut talk = Talk::open_with(bed, &lane, meter_id, ek(meter_id)).await;
        talk.establish().await;
        talks.push(talk);
    }
    let (cpu, began) = (custody.cpu_us(), Instant::now());
    for n in 0..10_000 {
        talks[n % talks.len()].protect_read().await;
    }
    row(
        "Protect, 16 meters in turn",
        10_000,
        custody.cpu_us() - cpu,
        began,
    );
}

fn row(name: &str, count: u32, cpu: f64, began: Instant) {
    let count = f64::from(count);
    let wall = began.elapsed().as_secs_f64() * 1e6 / count;
    println!("{name:<44} {:>8.1} us CPU {wall:>9.1} us", cpu / count);
}

/// More rows, of meters that nobody asks for: like the first one, but for id and secrets.
async fn fill(bed: &Bed, count: u32) {
    sqlx::any::install_default_drivers();
    let url = format!("sqlite://{}", bed.database().display());
    let pool = sqlx::AnyPool::connect(&url).await.expect("the database");
    let columns = sqlx::query("SELECT name FROM pragma_table_info('meter_keys')")
        .fetch_all(&pool)
        .await
        .expect("the columns");
    let columns: Vec<String> = columns.iter().map(|row| row.get("name")).collect();
    let values: Vec<_> = columns
        .iter()
        .map(|column| match column.as_str() {
            "meter_id" => "'f-' || lower(hex(randomblob(8)))".to_owned(),
            "wrapped_encryption_key" => "randomblob(24)".to_owned(),
            "sealed_authentication_key" => "randomblob(44)".to_owned(),
            column => format!("one.{column}"),
        })
        .collect();
    let number = format!(
        "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {count})"
    );
    for statement in [
        format!(
            "{number} INSERT INTO meter_keys ({}) SELECT {} FROM number, \
             (SELECT * FROM meter_keys ORDER BY meter_id LIMIT 1) AS one",
            columns.join(", "),
            values.join(", ")
        ),
        format!(
            "{number} INSERT INTO key_fingerprints (fingerprint, meter_id, kind, generation, create_us) \
             SELECT randomblob(16), 'f-' || lower(hex(randomblob(8))), 'GUEK', 1, 1 FROM number"
        ),
    ] {
        // Audited: nothing but names of columns and a number.
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(&pool)
            .await
            .expect("filled");
    }
    pool.close().await;
}

/// The real program.
struct Custody {
    child: Child,
    address: SocketAddr,
}

impl Custody {
    async fn start(bed: &Bed) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let config = bed.config("process", address, "unwrapped_keys_max = 4096");
        let child = Command::new(env!("CARGO_BIN_EXE_latchkey-custody"))
            .arg("--config")
            .arg(config)
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        until("custody listens", async || {
            TcpStream::connect(address).is_ok()
        })
        .await;
        Self { child, address }
    }

    fn cpu_us(&self) -> f64 {
        gauge::total(self.child.id())
    }
}

impl Drop for Custody {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
