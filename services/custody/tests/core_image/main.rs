//! A core image of custody after the work of 1,000 resets: which keys are in it, beside a bare program that made the
//! same calls to the same token.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed"
)]

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "the other user of this file uses the rest")]
#[path = "../complete/talk.rs"]
mod talk;

mod image;
mod store;
mod yardstick;

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use dlms::{KeyChoice, Mechanism, Protection, Suite};
use image::{Findings, Needles, scan};
use kit::{Channel, Tasks};
use latchkey_proto::custody::v1::{
    GetClientKeysRequest, GetClientKeysResponse, ImportMeterKeysRequest,
    cipher_service_client::CipherServiceClient,
};
use support::{Bed, COMPONENTS, action, get, until, with_token};
use talk::{How, Meter, Talk, how};
use yardstick::Wrapped;

const RELAY: &str = "0.0.96.3.10.255";
const SCRIPTS: &str = "0.0.10.1.0.255";
/// Meters, and resets of each.
const METERS: usize = 40;
const RESETS: usize = 25;
/// Set in the process that is the yardstick: what it is to do.
const ORDER: &str = "LATCHKEY_CORE_IMAGE_ORDER";

#[test]
fn a_core_image_shows_no_more_than_the_token_does() {
    with_token("a_core_image_shows_no_more_than_the_token_does", |dir| {
        if let Some(order) = std::env::var_os(ORDER) {
            return yardstick::run(dir, Path::new(&order));
        }
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(everything(dir));
    });
}

/// What [`talk`] needs around it.
struct House {
    bed: Bed,
    running: Process,
    custody: CipherServiceClient<Channel>,
    client_keys: [GetClientKeysResponse; 2],
}

/// The real program.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    async fn start(bed: &Bed) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let config = bed.config("process", address, "");
        let child = Command::new(env!("CARGO_BIN_EXE_latchkey-custody"))
            .arg("--config")
            .arg(config)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("custody listens", async || {
            TcpStream::connect(address).is_ok()
        })
        .await;
        Self { child, address }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl House {
    async fn open(bed: Bed) -> Self {
        let running = Process::start(&bed).await;
        let custody = bed.cipher(running.address, "latchkey/association");
        let mut keys = bed.keys(running.address);
        let mut of = async |security_suite| {
            let request = GetClientKeysRequest { security_suite };
            keys.get_client_keys(request).await.unwrap().into_inner()
        };
        let client_keys = [of(1).await, of(2).await];
        Self {
            bed,
            running,
            custody,
            client_keys,
        }
    }

    /// Imports a meter's keys as they come in production: wrapped.
    async fn enrol(&self, meter: &Meter) -> Wrapped {
        let [a, b] = COMPONENTS;
        let transport: [u8; 32] = std::array::from_fn(|i| a[i] ^ b[i]);
        let wrap = |key: &[u8]| {
            let kek = AesKek::new(&AES_256, &transport).unwrap();
            kek.wrap(key, &mut vec![0; key.len() + 8]).unwrap().to_vec()
        };
        let clear = &meter.request;
        let wrapped = Wrapped {
            encryption: wrap(&clear.encryption_key),
            authentication: wrap(&clear.authentication_key),
            secret: wrap(&clear.hls_secret),
            master: wrap(&clear.key_encryption_key),
        };
        let mechanisms = [3, 4, 5].map(|n: usize| clear.mechanisms[n]);
        let request = ImportMeterKeysRequest {
            meter_id: clear.meter_id.clone(),
            client_system_title: clear.client_system_title.clone(),
            server_system_title: clear.server_system_title.clone(),
            wrapped_encryption_key: wrapped.encryption.clone(),
            wrapped_authentication_key: wrapped.authentication.clone(),
            security_suite: clear.security_suite,
            wrapped_hls_secret: wrapped.secret.clone(),
            wrapped_key_encryption_key: wrapped.master.clone(),
            server_signing_key: clear.server_signing_key.clone(),
            server_agreement_key: clear.server_agreement_key.clone(),
            mechanisms: mechanisms.to_vec(),
            ..ImportMeterKeysRequest::default()
        };
        let mut keys = self.bed.keys(self.running.address);
        keys.import_meter_keys(request).await.unwrap();
        wrapped
    }

    /// What custody does for one reset: HLS, guards read, the script, evidence read.
    async fn reset(&self, meter: Meter, how: How) -> Talk {
        let commands = [get(70, RELAY, 2), action(9, SCRIPTS, 1, &[0x12, 0, 3])];
        let mut talk = Talk::established(self, meter, how, commands.to_vec()).await;
        for _ in 0..5 {
            talk.read(70, RELAY, 2).await.unwrap();
        }
        talk
    }
}

/// Every way a key is used, but mostly the usual one.
fn manner(round: usize, suite: Suite) -> How {
    let mut how = match (round % 5, suite) {
        (3, _) => how(Mechanism::HlsSha256, Protection::GeneralGlo),
        (4, Suite::Suite0) => how(
            Mechanism::HlsGmac,
            Protection::GeneralCiphering(KeyChoice::Wrapped),
        ),
        (4, _) => how(
            Mechanism::HlsEcdsa,
            Protection::GeneralCiphering(KeyChoice::OnePass),
        ),
        (2, _) => how(Mechanism::HlsGmac, Protection::Ded),
        _ => how(Mechanism::HlsGmac, Protection::Glo),
    };
    how.signed = false;
    how
}

async fn everything(dir: &Path) {
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let bed = Bed::new(dir, &tasks).await;
    let house = House::open(bed).await;
    let (mut meters, mut wrapped) = (Vec::new(), Vec::new());
    for number in 0..METERS {
        let suite = [Suite::Suite0, Suite::Suite0, Suite::Suite1][number % 3];
        let meter = Meter::new(&house, &format!("meter-{number:04}"), suite);
        wrapped.push(house.enrol(&meter).await);
        meters.push(meter);
    }
    let needles = needles(dir, &meters);

    let mut open = Vec::new();
    for round in 0..RESETS {
        for meter in &mut meters {
            let how = manner(round, meter.suite);
            let mut talk = house.reset(meter.clone(), how).await;
            if round + 1 < RESETS {
                talk.association.close().await.unwrap();
            } else {
                open.push(talk.association.clone());
            }
            *meter = talk.meter;
        }
    }
    let while_open = scan(house.running.child.id(), &needles);
    for mut association in open {
        association.close().await.unwrap();
    }
    let closed = scan(house.running.child.id(), &needles);
    let bare = bare(dir, &wrapped, &needles).await;
    println!("open: {while_open:?}\nclosed: {closed:?}\nbare: {bare:?}");
    judge(&while_open, &closed, &bare);
    trigger.fire();
    drop(house);
    tasks.join().await;
}

/// Custody shows no more than the bare program does; but of an authentication key one copy for each open context, and
/// none after it.
fn judge(open: &Findings, closed: &Findings, bare: &Findings) {
    let count = |findings: &Findings, kind: &str| findings.get(kind).map_or(0, |it| it.count);
    for (state, findings) in [("open", open), ("closed", closed)] {
        for (kind, found) in findings {
            let documented = state == "open" && kind == "AK";
            assert!(
                documented || found.count <= count(bare, kind),
                "{state}: {kind} {found:?}, in the bare program {:?}",
                bare.get(kind)
            );
        }
    }
    // It also says that the search finds what is there.
    assert_eq!(count(open, "AK"), METERS);
    assert_eq!(count(closed, "AK"), 0);
    assert_eq!(
        count(closed, "PIN"),
        1,
        "kept for a token that is opened anew"
    );
}

/// The same work by the bare program, in a process of its own.
async fn bare(dir: &Path, meters: &[Wrapped], needles: &Needles) -> Findings {
    let order = dir.join("order");
    yardstick::write_order(&order, meters, RESETS);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_core_image_shows_no_more_than_the_token_does"])
        .arg("--nocapture")
        .env(ORDER, &order)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let done = order.with_extension("done");
    until("the bare program is done", async || {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}");
        done.exists()
    })
    .await;
    let found = scan(child.id(), needles);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    found
}

/// Every secret that custody's work is about, by its kind.
fn needles(dir: &Path, meters: &[Meter]) -> Needles {
    let mut needles = Needles::default();
    for meter in meters {
        needles.add("EK", &meter.request.encryption_key);
        needles.add("AK", &meter.request.authentication_key);
        needles.add("HLS secret", &meter.request.hls_secret);
        needles.add("master key", &meter.request.key_encryption_key);
    }
    let pin = std::fs::read_to_string(dir.join("pin")).unwrap();
    let pin = pin.trim();
    let keys = store::keys(&dir.join("tokens"), pin);
    let [a, b] = COMPONENTS;
    let transport = (0..32).map(|i| a[i] ^ b[i]).collect::<Vec<u8>>();
    let known = ("transport-1".to_owned(), transport);
    assert!(keys.contains(&known), "the token's files are read right");
    for (label, value) in keys {
        needles.add(&label, &value);
    }
    needles.add("PIN", pin.as_bytes());
    needles
}
