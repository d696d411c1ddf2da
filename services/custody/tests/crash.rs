//! `kill -9` at every crash point of custody: no counter twice, no second ciphering, nothing missing from the trail.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use dlms::Data;
use kit::{Tasks, status};
use latchkey_proto::{
    audit::v1::{EntryKind, SignedPermit},
    custody::v1::GetPermitUseRequest,
};
use support::{
    Association, Bed, Meter, Process, action, lab_keys, method, permit, until, with_token,
};
use tonic::Status;

const SCRIPTS: &str = "0.0.10.1.0.255";

#[test]
fn a_crash_at_any_point_is_clean() {
    with_token("a_crash_at_any_point_is_clean", |dir| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(every_point(dir));
    });
}

async fn every_point(dir: &Path) {
    let (trigger, shutdown) = kit::shutdown();
    let tasks = Tasks::new(shutdown);
    let bed = Bed::new(dir, &tasks).await;
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    // A block of two: reservations happen in the middle of an association too.
    let state = bed.dir.join("counters");
    let more = format!("lab_import = true\ncounter_block = 2\ncounter_state_file = {state:?}");
    let config = bed.config("process", address, &more);
    // What is not on the way of an act has a test of its own.
    let on_the_way = |point: &&&str| {
        !["custody.rewrap.", "custody.rotation."]
            .iter()
            .any(|other| point.starts_with(other))
            && !point.ends_with("_change")
    };
    for (number, point) in custody::CRASH_POINTS.iter().filter(on_the_way).enumerate() {
        let meter_id = format!("meter-{number}");
        if point.contains("counters") && point.contains("raise") {
            // Counters are raised at the next start: it remembers nothing of them.
            std::fs::remove_file(&state).unwrap();
        }
        round(&bed, (config.as_path(), address), point, &meter_id).await;
    }
    trigger.fire();
    tasks.join().await;
}

/// One act under one permit, with a crash at `point` on the way.
async fn round(bed: &Bed, (config, address): (&Path, SocketAddr), point: &str, meter_id: &str) {
    let file: PathBuf = bed.dir.join("crash");
    std::fs::write(&file, "").unwrap();
    let commands = vec![action(9, SCRIPTS, 1, &[0x12, 0, 3])];
    let permit = permit(meter_id, commands);
    let signed = bed.auditor.sign(&permit);
    let mut meter = Meter::new(meter_id);
    let mut acts = Vec::new();
    let mut process = Process::start(config, address, Some((point, &file))).await;
    let first = act(bed, &process, meter_id, &signed, &mut meter).await;
    acts.extend(first.ok());
    // The trail's points are passed in the background.
    until(point, async || process.is_dead()).await;
    assert!(
        !file.exists(),
        "{point}: it was not the crash point that ended it"
    );
    drop(process);

    let process = Process::start(config, address, None).await;
    match act(bed, &process, meter_id, &signed, &mut meter).await {
        Ok(counter) => acts.push(counter),
        Err(error) => assert_eq!(
            status::reason(&error).as_deref(),
            Some("PERMIT_USES_SPENT"),
            "{point}: {error:?}"
        ),
    }
    assert!(acts.len() <= 1, "{point}: the act was ciphered twice");
    let asked = GetPermitUseRequest {
        permit_id: permit.permit_id.clone(),
    };
    let mut cipher = bed.cipher(process.address, "latchkey/association");
    let used = cipher.get_permit_use(asked).await.unwrap().into_inner();
    assert_eq!(used.uses.len(), 1, "{point}: counted once, ciphered or not");
    if let Some(counter) = acts.first() {
        assert_eq!(used.uses[0].invocation_counter, *counter, "{point}");
    }
    until(
        "the trail has each association, the act and the keys, once",
        async || {
            let of_permit =
                |entry: &&latchkey_proto::audit::v1::Entry| entry.permit_id == permit.permit_id;
            let entries = bed.auditor.entries(EntryKind::KeyUse);
            let entries: Vec<_> = entries.iter().filter(of_permit).collect();
            let acts = entries
                .iter()
                .filter(|entry| entry.invocation_counter != 0)
                .count();
            let opened = entries
                .iter()
                .filter(|entry| entry.detail.starts_with("association opened"))
                .count();
            let keys = bed.auditor.entries(EntryKind::Key);
            let keys = keys
                .iter()
                .filter(|entry| entry.meter_id == meter_id)
                .count();
            (acts, u32::try_from(opened).unwrap(), keys) == (1, used.associations, 1)
        },
    )
    .await;
}

/// Keys, association, HLS, act: everything custody does for a reset. Returns the counter of the act.
async fn act(
    bed: &Bed,
    process: &Process,
    meter_id: &str,
    permit: &SignedPermit,
    meter: &mut Meter,
) -> Result<u32, Status> {
    bed.keys(process.address)
        .import_lab_keys(lab_keys(meter_id))
        .await?;
    let cipher = bed.cipher(process.address, "latchkey/association");
    let mut association = Association::hls(&cipher, permit, meter_id).await?;
    association.establish(meter).await?;
    let apdu = association.action_apdu(method(9, SCRIPTS, 1), Some(Data::LongUnsigned(3)));
    let (ciphered, counter) = association.protect(apdu).await?;
    meter.open(&ciphered);
    Ok(counter)
}
