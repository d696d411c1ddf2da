//! Ciphering an APDU, from the bare token call to a whole reset through gRPC and mTLS, in one run on one token.
//!
//! Custody is the real program in a process of its own: its CPU time is what the kernel counts for it, and the caller's
//! is not in it. The machine may be shared: compare within a run.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark may fail by panicking, prints, and has tasks of its own"
)]

#[path = "../../tests/support/mod.rs"]
mod support;

mod gauge;
mod talk;
mod token;

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use association::lane::Lane;
use futures::future::join_all;
use gauge::{rss_kib, spent_us, total};
use kit::Tasks;
use latchkey_proto::custody::v1::{ImportMeterKeysRequest, Mechanism};
use support::{AK, Bed, CLIENT, COMPONENTS, SERVER, ek, until};
use talk::Talk;

/// Contexts that are open at one time: a batch of 16 is one APDU of each.
const CONTEXTS: u32 = 16;
/// Which part of the benchmark a process is.
const PART: &str = "LATCHKEY_BENCH_PART";

fn main() {
    support::with_token("hot_path", |dir| {
        if let Some(part) = std::env::var_os(PART) {
            return token::part(dir, &part);
        }
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(everything(dir));
    });
}

/// Runs a part in a process of its own, so that its CPU time is its own.
fn part(name: &str) {
    let program = std::env::current_exe().expect("this program");
    let status = Command::new(program).env(PART, name).status();
    assert!(status.expect("it runs").success(), "{name}");
}

async fn everything(dir: &Path) {
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let bed = Bed::new(dir, &tasks).await;
    println!("# the token, in the process that calls it");
    part("bare");
    part("hsm");
    let custody = Custody::start(&bed).await;
    let house = House {
        lane: Lane::new(
            bed.cipher(custody.address, "latchkey/association"),
            tasks.clone(),
            Duration::from_secs(10),
        ),
        bed,
        custody,
    };
    println!("# custody, a process of its own, through gRPC and mTLS: its CPU alone");
    house.enrol(0..CONTEXTS).await;
    let mut talks = Vec::new();
    for number in 0..CONTEXTS {
        talks.push(house.open(number).await);
    }
    let quick = std::env::var_os("LATCHKEY_BENCH_QUICK").is_some();
    let n = if quick { 2_000 } else { 20_000 };
    house.calls(&talks[0], n).await;
    house.jobs(&talks, n).await;
    house.exchanges(&mut talks, n / 10).await;
    println!("# throughput, Protect, callers with a context each");
    for callers in [1, 2, 4, 8, 16] {
        house.callers(&talks[..callers], n).await;
    }
    part("bare");
    println!("# a whole reset, and the first use of a meter");
    house.resets(n / 100).await;
    house.cold(n / 100).await;
    println!("# memory");
    house
        .memory(&talks, if quick { 20_000 } else { 1_000_000 })
        .await;
    drop((talks, house));
    trigger.fire();
    tasks.join().await;
}

struct House {
    bed: Bed,
    custody: Custody,
    lane: Lane,
}

impl House {
    fn meter(number: u32) -> String {
        format!("m-{number:06}")
    }

    /// Imports meters' keys, wrapped as they come in production.
    async fn enrol(&self, numbers: std::ops::Range<u32>) {
        let [a, b] = COMPONENTS;
        let transport: [u8; 32] = std::array::from_fn(|i| a[i] ^ b[i]);
        let mut keys = self.bed.keys(self.custody.address);
        for number in numbers {
            let meter_id = Self::meter(number);
            let request = ImportMeterKeysRequest {
                wrapped_encryption_key: talk::wrapped(&transport, &ek(&meter_id)),
                wrapped_authentication_key: talk::wrapped(&transport, &AK),
                meter_id,
                client_system_title: CLIENT.to_vec(),
                server_system_title: SERVER.to_vec(),
                mechanisms: vec![Mechanism::HlsGmac.into()],
                ..ImportMeterKeysRequest::default()
            };
            keys.import_meter_keys(request).await.expect("imported");
        }
    }

    async fn open(&self, number: u32) -> Talk {
        let mut talk = Talk::open(&self.bed, &self.lane, &Self::meter(number)).await;
        talk.establish().await;
        talk
    }

    /// One row: CPU of custody and of this process, and time, for each of `count` operations.
    async fn row(&self, name: &str, count: u32, work: impl Future<Output = ()>) {
        let (custody, own, began) = (self.custody.cpu_us(), spent_us(), Instant::now());
        work.await;
        let count = f64::from(count);
        let (custody, own) = (
            (self.custody.cpu_us() - custody) / count,
            (spent_us() - own) / count,
        );
        let wall = began.elapsed().as_secs_f64() * 1e6 / count;
        let rate = 1e6 / wall;
        println!(
            "{name:<44} {custody:>8.1} us CPU  (caller {own:>6.1}) {wall:>9.1} us  {rate:>9.0} /s"
        );
    }

    /// A call for each APDU, one after the other.
    async fn calls(&self, talk: &Talk, count: u32) {
        let mut client = self.lane.client();
        let work = async {
            for _ in 0..count {
                client.protect(talk.read()).await.expect("ciphered");
            }
        };
        self.row("Protect, a call each", count, work).await;
    }

    /// Jobs of the stream: one at a time, and 16 at a time.
    async fn jobs(&self, talks: &[Talk], count: u32) {
        let work = async {
            for _ in 0..count {
                talks[0].protect_read().await;
            }
        };
        self.row("Protect, a job each", count, work).await;
        let work = async {
            for _ in 0..count {
                join_all(talks.iter().map(Talk::protect_read)).await;
            }
        };
        self.row("Protect, batches of 16 jobs", count * CONTEXTS, work)
            .await;
    }

    /// A request and its answer.
    async fn exchanges(&self, talks: &mut [Talk], count: u32) {
        let work = async {
            for _ in 0..count {
                talks[0].exchange().await;
            }
        };
        self.row("Protect and Unprotect, a job each", count, work)
            .await;
        let work = async {
            for _ in 0..count {
                join_all(talks.iter_mut().map(Talk::exchange)).await;
            }
        };
        let name = "Protect and Unprotect, batches of 16";
        self.row(name, count * CONTEXTS, work).await;
    }

    async fn callers(&self, talks: &[Talk], count: u32) {
        let callers = u32::try_from(talks.len()).expect("few");
        let each = count / callers;
        let work = async {
            join_all(talks.iter().map(async |talk| {
                for _ in 0..each {
                    talk.protect_read().await;
                }
            }))
            .await;
        };
        self.row(&format!("{callers} callers"), each * callers, work)
            .await;
    }

    /// Context, AARQ, HLS, ten reads, close.
    async fn resets(&self, count: u32) {
        // Others than those whose contexts are open: a new context of a meter ends the one before.
        self.enrol(CONTEXTS..2 * CONTEXTS).await;
        let work = async {
            for number in 0..count {
                let mut talk = self.open(CONTEXTS + number % CONTEXTS).await;
                for _ in 0..10 {
                    talk.exchange().await;
                }
                talk.close().await;
            }
        };
        self.row("a context with HLS and 10 commands", count, work)
            .await;
    }

    /// A context is opened and closed: with the meter's key in the token, and with one never used before.
    async fn cold(&self, count: u32) {
        self.enrol(2 * CONTEXTS..2 * CONTEXTS + count).await;
        for (name, first) in [
            ("OpenContext, the key was never used", 2 * CONTEXTS),
            ("OpenContext, the key is in the token", 2 * CONTEXTS),
        ] {
            let work = async {
                for number in first..first + count {
                    let talk = Talk::open(&self.bed, &self.lane, &Self::meter(number)).await;
                    talk.close().await;
                }
            };
            self.row(name, count, work).await;
        }
    }

    async fn memory(&self, talks: &[Talk], count: u32) {
        let steps = 10;
        let rounds = count / steps / CONTEXTS;
        for step in 0..=steps {
            let rss = rss_kib(self.custody.child.id());
            println!("{:>9} operations: {rss} KiB", step * rounds * CONTEXTS);
            if step < steps {
                join_all(talks.iter().map(async |talk| {
                    for _ in 0..rounds {
                        talk.protect_read().await;
                    }
                }))
                .await;
            }
        }
    }
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
            .stderr(std::fs::File::create(bed.dir.join("custody.log")).expect("a log"))
            .spawn()
            .expect("it starts");
        until("custody listens", async || {
            TcpStream::connect(address).is_ok()
        })
        .await;
        Self { child, address }
    }

    fn cpu_us(&self) -> f64 {
        total(self.child.id())
    }
}

impl Drop for Custody {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
