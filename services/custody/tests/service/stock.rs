//! Many meters at one time, and changes of what is stored.

use std::collections::BTreeMap;

use aws_lc_rs::{
    digest,
    key_wrap::{AES_256, AesKek, KeyWrap as _},
};
use futures::stream;
use latchkey_proto::{
    audit::v1::EntryKind,
    custody::v1::{
        DestroyMeterKeysRequest, GetMeterKeysRequest, ImportMeterKeysBatchRequest,
        ImportMeterKeysBatchResponse, ImportMeterKeysRequest, KeyState, ListKeyFingerprintsRequest,
        ListMeterKeysRequest, MarkMeterKeysCompromisedRequest, Mechanism, MeterKeys,
        UpdateMeterKeysRequest,
    },
};
use tonic::{Code, Status};

use crate::{
    House, METER,
    support::{AK, Association, CLIENT, COMPONENTS, Meter, SERVER, ek, permit, reason, until},
};

fn wrap(key: &[u8]) -> Vec<u8> {
    let [a, b] = COMPONENTS;
    let transport: [u8; 32] = std::array::from_fn(|i| a[i] ^ b[i]);
    let kek = AesKek::new(&AES_256, &transport).unwrap();
    kek.wrap(key, &mut [0; 24]).unwrap().to_vec()
}

fn record(meter_id: &str) -> ImportMeterKeysRequest {
    ImportMeterKeysRequest {
        meter_id: meter_id.to_owned(),
        client_system_title: CLIENT.to_vec(),
        server_system_title: SERVER.to_vec(),
        wrapped_encryption_key: wrap(&ek(meter_id)),
        wrapped_authentication_key: wrap(&AK),
        wrapped_broadcast_key: wrap(&[0xBC; 16]),
        wrapped_key_encryption_key: wrap(&[0x4D; 16]),
        ..ImportMeterKeysRequest::default()
    }
}

async fn import(
    house: &House,
    batches: &[Vec<ImportMeterKeysRequest>],
) -> Result<Vec<ImportMeterKeysBatchResponse>, Status> {
    let batches: Vec<_> = batches.to_vec();
    let asked = batches
        .into_iter()
        .map(|meters| ImportMeterKeysBatchRequest { meters });
    let mut keys = house.bed.keys(house.running.address);
    let mut answers = keys
        .import_meter_keys_batch(stream::iter(asked))
        .await?
        .into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.push(answer);
    }
    Ok(all)
}

async fn held(house: &House, meter_id: &str) -> MeterKeys {
    let request = GetMeterKeysRequest {
        meter_id: meter_id.to_owned(),
    };
    let mut keys = house.bed.keys(house.running.address);
    let held = keys.get_meter_keys(request).await.unwrap();
    held.into_inner().keys.unwrap()
}

async fn opens(house: &House, meter_id: &str) -> Result<Association, Status> {
    let signed = house.bed.auditor.sign(&permit(meter_id, Vec::new()));
    Association::hls(&house.custody, &signed, meter_id).await
}

/// More octets than one request may have; each batch a transaction, each one entry.
pub(super) async fn many_meters_come_in_over_one_stream(house: &House) {
    let id = |number: usize| format!("bulk-{number:05}");
    let mut batches: Vec<Vec<_>> = (0..10)
        .map(|batch| (0..512).map(|row| record(&id(batch * 512 + row))).collect())
        .collect();
    // One by one what a delivery has wrong; and once a row that comes twice, the same.
    let few = &mut batches[3];
    few.truncate(40);
    few[5].wrapped_encryption_key[7] ^= 1;
    few[6].meter_id = "no/meter".to_owned();
    few[7].wrapped_encryption_key = wrap(&ek(METER));
    few[8].meter_id = METER.to_owned();
    few[9].wrapped_authentication_key[7] ^= 1;
    few[10].wrapped_broadcast_key[7] ^= 1;
    few[11].wrapped_key_encryption_key.pop();
    few[12] = few[11].clone();
    few[13] = few[14].clone();
    few[15].meter_id = few[16].meter_id.clone();
    few[17].wrapped_encryption_key = few[18].wrapped_encryption_key.clone();
    few[19].wrapped_broadcast_key = wrap(&ek(METER));
    let expected = [
        (5, "WRAPPED_KEY_INVALID"),
        (6, "REQUEST_INVALID"),
        (7, "KEY_IN_USE"),
        (8, "KEYS_EXIST"),
        (9, "WRAPPED_KEY_INVALID"),
        (10, "WRAPPED_KEY_INVALID"),
        (11, "REQUEST_INVALID"),
        (12, "REQUEST_INVALID"),
        (16, "REQUEST_INVALID"),
        (18, "KEY_IN_USE"),
        (19, "KEY_IN_USE"),
    ];
    let answers = import(house, &batches).await.unwrap();
    assert_eq!(answers.len(), batches.len());
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(answer.batch, u32::try_from(number).unwrap());
        let rejected: Vec<_> = answer
            .rejected
            .iter()
            .map(|it| (it.index, it.reason.as_str()))
            .collect();
        if number == 3 {
            assert_eq!(rejected, expected);
            assert_eq!((answer.stored_count, answer.unchanged_count), (28, 1));
            continue;
        }
        assert_eq!(rejected, []);
        assert_eq!((answer.stored_count, answer.unchanged_count), (512, 0));
    }
    for answer in &import(house, &batches[..4]).await.unwrap() {
        let whole = if answer.batch == 3 { 29 } else { 512 };
        assert_eq!((answer.stored_count, answer.unchanged_count), (0, whole));
        assert!(answer.import_id.is_empty() && answer.digest.is_empty());
    }
    trail_has_batches(house, &answers).await;
    opens(house, &id(100))
        .await
        .unwrap()
        .establish(&mut Meter::new(&id(100)))
        .await
        .unwrap();
    let too_many = vec![record("x"); 513];
    let refused = import(house, &[too_many]).await;
    assert_eq!(reason(refused), "REQUEST_INVALID");
}

/// One entry for each batch; its digest can be made again from what is listed.
async fn trail_has_batches(house: &House, answers: &[ImportMeterKeysBatchResponse]) {
    let entries = async || {
        let entries = house.bed.auditor.entries(EntryKind::Key);
        let batches = entries.into_iter().filter(|it| it.detail.contains("batch"));
        batches.map(|entry| entry.detail).collect::<Vec<_>>()
    };
    until("every batch is in the trail", async || {
        entries().await.len() == answers.len()
    })
    .await;
    let mut keys = house.bed.keys(house.running.address);
    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    let mut page = ListMeterKeysRequest {
        page_size: 1000,
        source: "imported".to_owned(),
        ..ListMeterKeysRequest::default()
    };
    loop {
        let list = keys
            .list_meter_keys(page.clone())
            .await
            .unwrap()
            .into_inner();
        for keys in list.keys {
            let line = format!("{} {}\n", keys.meter_id, hex::encode(keys.check_value));
            lines.entry(keys.import_id).or_default().push_str(&line);
        }
        if list.next_page_token.is_empty() {
            break;
        }
        page.page_token = list.next_page_token;
    }
    let entries = entries().await;
    for answer in answers {
        let made = digest::digest(&digest::SHA256, lines[&answer.import_id].as_bytes());
        assert_eq!(answer.digest, made.as_ref());
        let told = entries
            .iter()
            .find(|entry| entry.contains(&answer.import_id));
        let told = told.expect("its entry");
        assert!(told.contains(&hex::encode(&answer.digest)), "{told}");
        let refused =
            "refused 10 (KEYS_EXIST 1, KEY_IN_USE 3, REQUEST_INVALID 3, WRAPPED_KEY_INVALID 3)";
        assert_eq!(told.ends_with(refused), answer.batch == 3, "{told}");
    }
}

/// Facts change, one at a time, from what was seen.
pub(super) async fn facts_are_changed_from_what_was_seen(house: &House) {
    let meter_id = "bulk-00001";
    let mut keys = house.bed.keys(house.running.address);
    let before = held(house, meter_id).await;
    let change = |paths: &[&str]| UpdateMeterKeysRequest {
        meter_id: meter_id.to_owned(),
        row_version: before.row_version,
        update_mask: Some(prost_types::FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        }),
        client_system_title: b"NEWTITLE".to_vec(),
        mechanisms: vec![Mechanism::HlsGmac.into()],
        server_system_title: b"short".to_vec(),
        justification: "the installer's list was wrong".to_owned(),
        ..UpdateMeterKeysRequest::default()
    };
    for paths in [
        &[][..],
        &["check_value"],
        &["server_system_title"],
        &["mechanisms", "source"],
    ] {
        let refused = keys.update_meter_keys(change(paths)).await;
        assert_eq!(reason(refused), "REQUEST_INVALID", "{paths:?}");
    }
    let open = opens(house, meter_id).await.unwrap();
    let good = change(&["client_system_title", "mechanisms"]);
    let now = keys.update_meter_keys(good.clone()).await.unwrap();
    let now = now.into_inner().keys.unwrap();
    assert_eq!(now.client_system_title, b"NEWTITLE");
    assert_eq!(now.mechanisms, [i32::from(Mechanism::HlsGmac)]);
    assert_eq!(now.server_system_title, before.server_system_title);
    assert_eq!(now.row_version, before.row_version + 1);
    assert!(now.change_time.is_some());
    let refused = keys.update_meter_keys(good).await;
    assert_eq!(refused.as_ref().unwrap_err().code(), Code::Aborted);
    assert_eq!(reason(refused), "KEYS_CHANGED");
    let mut meter = Meter::new(meter_id);
    let ended = { open }.establish(&mut meter).await;
    assert_eq!(reason(ended), "CONTEXT_UNKNOWN", "it had the old title");
    let opened = opens(house, meter_id).await.unwrap();
    assert_eq!(opened.client_title, b"NEWTITLE");
}

/// Keys that somebody else may have serve for nothing, whatever is written into the database.
pub(super) async fn compromised_keys_are_refused(house: &House) {
    let meter_id = "bulk-00002";
    let mut keys = house.bed.keys(house.running.address);
    let mark = MarkMeterKeysCompromisedRequest {
        meter_id: meter_id.to_owned(),
        row_version: 0,
        justification: "found in a mail".to_owned(),
    };
    let open = opens(house, meter_id).await.unwrap();
    let marked = keys
        .mark_meter_keys_compromised(mark.clone())
        .await
        .unwrap();
    let marked = marked.into_inner().keys.unwrap();
    assert_eq!(marked.state(), KeyState::Compromised);
    assert_eq!(marked.state_reason, "found in a mail");
    let again = keys.mark_meter_keys_compromised(mark).await.unwrap();
    assert_eq!(again.into_inner().keys.unwrap(), marked);
    let mut meter = Meter::new(meter_id);
    let ended = { open }.establish(&mut meter).await;
    assert_eq!(reason(ended), "CONTEXT_UNKNOWN");
    let refused = opens(house, meter_id).await.map(drop);
    assert_eq!(reason(refused), "KEYS_COMPROMISED");
    let list = ListMeterKeysRequest {
        state: KeyState::Compromised.into(),
        ..ListMeterKeysRequest::default()
    };
    let list = keys.list_meter_keys(list).await.unwrap().into_inner();
    assert_eq!(list.keys, [marked]);
    // Whose hand writes rows cannot make them good again.
    write(
        house,
        "UPDATE meter_keys SET state = 'ACTIVE' WHERE state = 'COMPROMISED'",
    )
    .await;
    let refused = opens(house, meter_id).await.map(drop);
    assert_eq!(reason(refused), "KEY_ROW_CHANGED");
}

/// What is destroyed is gone, and never comes back; the meter gets other keys.
#[allow(clippy::too_many_lines, reason = "one story, told in its order")]
pub(super) async fn destroyed_keys_never_come_back(house: &House) {
    let meter_id = "bulk-00003";
    let mut keys = house.bed.keys(house.running.address);
    let before = held(house, meter_id).await;
    let destroy = DestroyMeterKeysRequest {
        meter_id: meter_id.to_owned(),
        row_version: before.row_version,
        justification: "the meter was scrapped".to_owned(),
    };
    let mut hasty = destroy.clone();
    hasty.row_version = 0;
    assert_eq!(
        reason(keys.destroy_meter_keys(hasty).await),
        "REQUEST_INVALID"
    );
    let gone = keys.destroy_meter_keys(destroy.clone()).await.unwrap();
    let gone = gone.into_inner().keys.unwrap();
    assert_eq!(gone.state(), KeyState::Destroyed);
    assert!(!gone.has_broadcast_key && !gone.has_key_encryption_key);
    assert_eq!(gone.check_value, before.check_value, "what it was");
    let again = DestroyMeterKeysRequest {
        row_version: gone.row_version,
        ..destroy
    };
    assert_eq!(
        reason(keys.destroy_meter_keys(again).await),
        "KEYS_DESTROYED"
    );
    assert_eq!(
        reason(opens(house, meter_id).await.map(drop)),
        "KEYS_DESTROYED"
    );
    let old = record(meter_id);
    assert_eq!(
        reason(keys.import_meter_keys(old.clone()).await),
        "KEY_IN_USE"
    );
    let batch = import(house, &[vec![old.clone()]]).await.unwrap();
    assert_eq!(batch[0].rejected[0].reason, "KEY_IN_USE");
    let other = ImportMeterKeysRequest {
        wrapped_encryption_key: wrap(&ek("another key")),
        ..old
    };
    let batch = import(house, &[vec![other.clone()]]).await.unwrap();
    assert_eq!(batch[0].stored_count, 1);
    assert_eq!(held(house, meter_id).await.state(), KeyState::Active);
    let mut meter = Meter::new("another key");
    let mut association = opens(house, meter_id).await.unwrap();
    association.establish(&mut meter).await.unwrap();
    let of = ListKeyFingerprintsRequest {
        meter_id: meter_id.to_owned(),
        ..ListKeyFingerprintsRequest::default()
    };
    let had = keys.list_key_fingerprints(of).await.unwrap().into_inner();
    let had = had.fingerprints;
    assert_eq!(had.len(), 2);
    assert_eq!((had[0].generation, had[1].generation), (1, 2));
    let whose = ListKeyFingerprintsRequest {
        fingerprint: had[0].fingerprint.clone(),
        ..ListKeyFingerprintsRequest::default()
    };
    let owner = keys
        .list_key_fingerprints(whose)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(owner.fingerprints, had[..1]);
    until("the end is in the trail", async || {
        let entries = house.bed.auditor.entries(EntryKind::Key);
        entries
            .iter()
            .any(|it| it.meter_id == meter_id && it.detail.contains("scrapped"))
    })
    .await;
}

/// Rows of a program that took no fingerprints get theirs when this one starts.
pub(super) async fn older_rows_lose_their_fingerprints(house: &House) {
    write(house, "DELETE FROM key_fingerprints").await;
    write(
        house,
        "INSERT INTO unmarked_keys (meter_id) SELECT meter_id FROM meter_keys",
    )
    .await;
}

/// After that start: see [`older_rows_lose_their_fingerprints`].
pub(super) async fn older_rows_have_fingerprints_again(house: &House) {
    let mut keys = house.bed.keys(house.running.address);
    let twin = ImportMeterKeysRequest {
        meter_id: "twin".to_owned(),
        // Another key-encryption key, or whoever drops an index, hides that it is the same key.
        wrapped_encryption_key: wrap(&ek("bulk-00004")),
        ..record("twin")
    };
    write(house, "DROP INDEX IF EXISTS meter_keys_encryption_key").await;
    assert_eq!(reason(keys.import_meter_keys(twin).await), "KEY_IN_USE");
}

async fn write(house: &House, statement: &'static str) {
    sqlx::any::install_default_drivers();
    let url = format!("sqlite://{}", house.bed.database().display());
    let pool = sqlx::AnyPool::connect(&url).await.unwrap();
    sqlx::query(statement).execute(&pool).await.unwrap();
    pool.close().await;
}
