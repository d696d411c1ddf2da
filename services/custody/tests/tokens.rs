//! Custody with two tokens of the same keys: nobody sees one of them fail.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use dlms::Data;
use hsm_shim::{Fault, Shim};
use kit::Tasks;
use latchkey_proto::audit::v1::EntryKind;
use support::{Association, Bed, Meter, Running, get, lab_keys, permit, until, with_token};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

const RELAY: &str = "0.0.96.3.10.255";
const METERS: [&str; 3] = ["meter-0001", "meter-0002", "meter-0003"];

#[test]
fn no_request_fails_while_one_of_two_tokens_does() {
    with_token("no_request_fails_while_one_of_two_tokens_does", |dir| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(inside(dir));
    });
}

/// A copy of the token, behind a module that fails on command.
fn second(dir: &Path) -> Shim {
    let tokens = dir.join("second.tokens");
    copy(&dir.join("tokens"), &tokens);
    let conf = dir.join("second.conf");
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    fs::write(&conf, text).unwrap();
    let real = Path::new("/usr/lib/softhsm/libsofthsm2.so");
    Shim::install(dir, "second", real, Some(&conf))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[allow(clippy::too_many_lines, reason = "one story, told in its order")]
async fn inside(dir: &Path) {
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let bed = Arc::new(Bed::new(dir, &tasks).await);
    let shim = second(dir);
    // Unwrapped keys fall out all the time, and modules are initialised anew as planned.
    let more = format!(
        "lab_import = true\nunwrapped_keys_max = 2\n[[tokens]]\nmodule = {:?}\n\
         token_label = 'custody-test'\npin_file = {:?}\ncall_timeout_ms = 1000\nobjects_max = 200\n",
        shim.module(),
        dir.join("pin"),
    );
    let running = bed.custody(&more, &tasks).await;
    for meter in METERS {
        let mut keys = bed.keys(running.address);
        keys.import_lab_keys(lab_keys(meter)).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let talks: Vec<_> = METERS
        .iter()
        .map(|meter| {
            let (bed, stop, done) = (Arc::clone(&bed), Arc::clone(&stop), Arc::clone(&done));
            let custody = bed.cipher(running.address, "latchkey/association");
            let (ended, end) = tokio::sync::oneshot::channel();
            tasks.spawn("talk", async move {
                let mut simulated = Meter::new(meter);
                while !stop.load(Ordering::Relaxed) {
                    let signed = bed.auditor.sign(&permit(meter, vec![get(70, RELAY, 2)]));
                    let mut association = Association::hls(&custody, &signed, meter).await.unwrap();
                    association.establish(&mut simulated).await.unwrap();
                    for _ in 0..4 {
                        let read = association.get_apdu(70, RELAY, 2);
                        let (apdu, _) = association.protect(read.clone()).await.unwrap();
                        assert_eq!(simulated.open(&apdu), read);
                        let value = association.value(Data::Boolean(true));
                        let ciphered = simulated.seal(0xCC, &value);
                        assert_eq!(association.unprotect(ciphered).await.unwrap(), value);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    association.close().await.unwrap();
                }
                let _ = ended.send(());
            });
            end
        })
        .collect();
    let more = async || {
        let before = done.load(Ordering::Relaxed);
        until("work goes on", async || {
            done.load(Ordering::Relaxed) > before + 20
        })
        .await;
    };
    more().await;
    for fault in [Fault::Return(0x32), Fault::Hang] {
        fails_and_works_again(&bed, &running, &shim, fault).await;
        more().await;
    }
    // the other one: its files go
    fs::rename(dir.join("tokens"), dir.join("pulled")).unwrap();
    said(&bed, "is out", 3).await;
    more().await;
    serves(&bed, &running).await;
    fs::rename(dir.join("pulled"), dir.join("tokens")).unwrap();
    said(&bed, "works again", 3).await;
    more().await;
    stop.store(true, Ordering::Relaxed);
    for talk in talks {
        talk.await.expect("no request failed");
    }
    running.stop().await;
    trigger.fire();
    tasks.join().await;
}

/// The second token fails and comes back: custody serves all the time, and the trail says which it was.
async fn fails_and_works_again(bed: &Bed, running: &Running, shim: &Shim, fault: Fault) {
    let before = entries(bed, "is out").len();
    for function in [
        "C_EncryptInit",
        "C_DecryptInit",
        "C_UnwrapKey",
        "C_OpenSession",
    ] {
        shim.always(function, fault);
    }
    said(bed, "is out", before + 1).await;
    serves(bed, running).await;
    let named = entries(bed, "is out");
    assert!(
        named.iter().all(|entry| entry.contains("second.so")),
        "{named:?}"
    );
    shim.clear();
    said(bed, "works again", before + 1).await;
    serves(bed, running).await;
}

async fn said(bed: &Bed, what: &str, times: usize) {
    until(what, async || entries(bed, what).len() >= times).await;
}

fn entries(bed: &Bed, what: &str) -> Vec<String> {
    let entries = bed.auditor.entries(EntryKind::Token).into_iter();
    let details = entries.map(|entry| entry.detail);
    details.filter(|detail| detail.contains(what)).collect()
}

async fn serves(bed: &Bed, running: &Running) {
    let request = HealthCheckRequest {
        service: "latchkey.custody.v1.CipherService".to_owned(),
    };
    let mut health = bed.health(running.address);
    let answer = health.check(request).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
}
