//! Keys go in, none comes out.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use kit::Tasks;
use latchkey_proto::{
    audit::v1::{Entry, EntryKind},
    custody::v1::{
        GenerateMeterKeysRequest, GetMeterKeysRequest, ImportLabKeysRequest,
        ImportMeterKeysRequest, ListMeterKeysRequest,
    },
};
use prost::Message as _;
use tonic::Code;

use crate::{
    House, METER,
    support::{
        AK, Association, Bed, CLIENT, COMPONENTS, Meter, PASSWORD, REFUSED, SERVER, ek, lab_keys,
        permit, reason, until,
    },
};

pub(super) async fn lab_import_is_off_unless_configured(bed: &Bed, tasks: &Tasks) {
    let running = bed.custody("", tasks).await;
    let mut keys = bed.keys(running.address);
    let refused = keys.import_lab_keys(lab_keys(METER)).await;
    assert_eq!(
        refused.as_ref().unwrap_err().code(),
        Code::FailedPrecondition
    );
    assert_eq!(reason(refused), "LAB_IMPORT_OFF");
    let unknown = keys
        .get_meter_keys(GetMeterKeysRequest {
            meter_id: METER.to_owned(),
        })
        .await;
    assert_eq!(reason(unknown), "KEYS_UNKNOWN");
    until("the refusal is in the trail", async || {
        !bed.auditor.entries(EntryKind::Denial).is_empty()
    })
    .await;
    until("the start is in the trail", async || {
        bed.auditor.entries(EntryKind::Start).len() == 1
    })
    .await;
    running.stop().await;
}

pub(super) async fn keys_go_in_and_none_comes_out(house: &House) {
    let mut keys = house.bed.keys(house.running.address);
    let first = keys
        .import_lab_keys(lab_keys(METER))
        .await
        .unwrap()
        .into_inner()
        .keys
        .unwrap();
    assert_eq!(
        (
            first.check_value.len(),
            first.has_password,
            first.source.as_str()
        ),
        (5, true, "lab")
    );
    assert!(
        first.next_invocation_counter > 20_000_000,
        "above what was used before the import"
    );
    let again = keys
        .import_lab_keys(lab_keys(METER))
        .await
        .unwrap()
        .into_inner()
        .keys
        .unwrap();
    assert_eq!(first, again, "the same keys change nothing");
    for other in [
        ImportLabKeysRequest {
            encryption_key: vec![7; 16],
            ..lab_keys(METER)
        },
        ImportLabKeysRequest {
            authentication_key: vec![7; 16],
            ..lab_keys(METER)
        },
        ImportLabKeysRequest {
            password: b"another".to_vec(),
            ..lab_keys(METER)
        },
        ImportLabKeysRequest {
            server_system_title: vec![7; 8],
            ..lab_keys(METER)
        },
    ] {
        let refused = keys.import_lab_keys(other).await;
        assert_eq!(refused.as_ref().unwrap_err().code(), Code::AlreadyExists);
        assert_eq!(reason(refused), "KEYS_EXIST");
    }
}

pub(super) async fn bad_keys_are_refused(house: &House) {
    let mut keys = house.bed.keys(house.running.address);
    for bad in [
        ImportLabKeysRequest {
            encryption_key: vec![7; 15],
            ..lab_keys("m")
        },
        ImportLabKeysRequest {
            authentication_key: Vec::new(),
            ..lab_keys("m")
        },
        ImportLabKeysRequest {
            server_system_title: CLIENT.to_vec(),
            ..lab_keys("m")
        },
        ImportLabKeysRequest {
            password: vec![b'x'; 65],
            ..lab_keys("m")
        },
        lab_keys("no/meter"),
    ] {
        assert_eq!(reason(keys.import_lab_keys(bad).await), "REQUEST_INVALID");
    }
}

pub(super) async fn keys_are_generated_and_listed(house: &House) {
    let mut keys = house.bed.keys(house.running.address);
    let lab = GetMeterKeysRequest {
        meter_id: METER.to_owned(),
    };
    let first = keys
        .get_meter_keys(lab)
        .await
        .unwrap()
        .into_inner()
        .keys
        .unwrap();
    let generate = GenerateMeterKeysRequest {
        meter_id: "meter-0002".to_owned(),
        client_system_title: CLIENT.to_vec(),
        server_system_title: b"MMM\0\0\0\0\x02".to_vec(),
        ..GenerateMeterKeysRequest::default()
    };
    let made = keys
        .generate_meter_keys(generate.clone())
        .await
        .unwrap()
        .into_inner()
        .keys
        .unwrap();
    assert_eq!(
        (
            made.source.as_str(),
            made.next_invocation_counter,
            made.has_password
        ),
        ("generated", 1, false)
    );
    assert_ne!(made.check_value, first.check_value);
    assert_eq!(
        reason(keys.generate_meter_keys(generate).await),
        "KEYS_EXIST"
    );

    let page = |page_token: &str| ListMeterKeysRequest {
        page_size: 1,
        page_token: page_token.to_owned(),
        ..ListMeterKeysRequest::default()
    };
    let one = keys.list_meter_keys(page("")).await.unwrap().into_inner();
    assert_eq!(
        (one.keys[0].meter_id.as_str(), one.next_page_token.as_str()),
        (METER, METER)
    );
    let two = keys
        .list_meter_keys(page(&one.next_page_token))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (two.keys[0].meter_id.as_str(), two.next_page_token.as_str()),
        ("meter-0002", "")
    );
    until("both are in the trail", async || {
        house.bed.auditor.entries(EntryKind::Key).len() == 2
    })
    .await;
}

pub(super) async fn wrapped_keys_are_imported(house: &House) {
    let [a, b] = COMPONENTS;
    let transport: [u8; 32] = std::array::from_fn(|i| a[i] ^ b[i]);
    let wrap = |key: &[u8]| {
        let kek = AesKek::new(&AES_256, &transport).unwrap();
        kek.wrap(key, &mut [0; 24]).unwrap().to_vec()
    };
    let mut keys = house.bed.keys(house.running.address);
    let request = ImportMeterKeysRequest {
        meter_id: "meter-0003".to_owned(),
        client_system_title: CLIENT.to_vec(),
        server_system_title: SERVER.to_vec(),
        wrapped_encryption_key: wrap(&ek("meter-0003")),
        wrapped_authentication_key: wrap(&AK),
        ..ImportMeterKeysRequest::default()
    };
    let held = keys
        .import_meter_keys(request.clone())
        .await
        .unwrap()
        .into_inner()
        .keys
        .unwrap();
    assert_eq!(held.source, "imported");
    let again = keys
        .import_meter_keys(request.clone())
        .await
        .unwrap()
        .into_inner()
        .keys
        .unwrap();
    assert_eq!(again, held);
    let mut other = request.clone();
    other.wrapped_authentication_key = wrap(&[9; 16]);
    assert_eq!(reason(keys.import_meter_keys(other).await), "KEYS_EXIST");
    // Under a second id the counters of METER's key would begin again, beside its own permits.
    let twin = ImportMeterKeysRequest {
        meter_id: "meter-0004".to_owned(),
        wrapped_encryption_key: wrap(&ek(METER)),
        ..request.clone()
    };
    assert_eq!(reason(keys.import_meter_keys(twin).await), "KEY_IN_USE");
    for field in 0..2 {
        let mut damaged = ImportMeterKeysRequest {
            meter_id: "meter-0004".to_owned(),
            ..request.clone()
        };
        match field {
            0 => damaged.wrapped_encryption_key[3] ^= 1,
            _ => damaged.wrapped_authentication_key[3] ^= 1,
        }
        assert_eq!(
            reason(keys.import_meter_keys(damaged).await),
            "WRAPPED_KEY_INVALID"
        );
    }
    // They work: an association proves EK and AK to a meter that has them.
    let signed = house.bed.auditor.sign(&permit("meter-0003", Vec::new()));
    let mut association = Association::hls(&house.custody, &signed, "meter-0003")
        .await
        .unwrap();
    association
        .establish(&mut Meter::new("meter-0003"))
        .await
        .unwrap();
}

pub(super) async fn a_moved_row_is_noticed(house: &House) {
    sqlx::any::install_default_drivers();
    let url = format!("sqlite://{}", house.bed.database().display());
    let pool = sqlx::AnyPool::connect(&url).await.unwrap();
    // The keys of the generated meter-0002 replace those of a victim, check value and all.
    let mut keys = house.bed.keys(house.running.address);
    keys.import_lab_keys(lab_keys("victim")).await.unwrap();
    let (good, moved, swapped) = (
        "SELECT 1",
        "UPDATE meter_keys SET (wrapped_encryption_key, check_value) = \
         (SELECT wrapped_encryption_key, check_value FROM meter_keys WHERE meter_id = 'meter-0002') WHERE meter_id = 'victim'",
        "UPDATE meter_keys SET (sealed_authentication_key) = \
         (SELECT sealed_authentication_key FROM meter_keys WHERE meter_id = 'meter-0002') WHERE meter_id = 'victim'",
    );
    for (statement, expected) in [
        (good, None),
        // Whose hand writes rows can also drop an index.
        ("DROP INDEX meter_keys_encryption_key", None),
        (moved, Some("KEY_ROW_CHANGED")),
        (swapped, Some("KEY_ROW_CHANGED")),
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
        let signed = house.bed.auditor.sign(&permit("victim", Vec::new()));
        let opened = Association::hls(&house.custody, &signed, "victim")
            .await
            .map(drop);
        match expected {
            None => opened.unwrap(),
            Some(expected) => assert_eq!(reason(opened), expected),
        }
    }
    pool.close().await;
}

/// More entries that the auditor refuses than are carried at one time, all older than those it takes.
pub(super) async fn refused_entries_hold_up_no_others(house: &House) {
    sqlx::any::install_default_drivers();
    let url = format!("sqlite://{}", house.bed.database().display());
    let pool = sqlx::AnyPool::connect(&url).await.unwrap();
    let refused = Entry {
        detail: REFUSED.to_owned(),
        ..Entry::default()
    };
    for number in 0..100 {
        sqlx::query("INSERT INTO outbox (request_id, entry) VALUES ($1, $2)")
            .bind(format!("00000000-{number:04}"))
            .bind(refused.encode_to_vec())
            .execute(&pool)
            .await
            .unwrap();
    }
    let mut keys = house.bed.keys(house.running.address);
    keys.import_lab_keys(lab_keys("meter-0005")).await.unwrap();
    until("the keys are in the trail", async || {
        let entries = house.bed.auditor.entries(EntryKind::Key);
        entries.iter().any(|entry| entry.meter_id == "meter-0005")
    })
    .await;
    sqlx::query("DELETE FROM outbox WHERE request_id < '1'")
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
}

pub(super) async fn no_secret_is_at_rest(house: &House) {
    let pin = std::fs::read_to_string(house.bed.dir.join("pin")).unwrap();
    let key = ek(METER);
    let secrets: [&[u8]; 4] = [&key, &AK, PASSWORD, pin.trim().as_bytes()];
    for file in std::fs::read_dir(&house.bed.dir).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("custody.db") {
            continue;
        }
        let content = std::fs::read(&path).unwrap();
        for secret in secrets {
            let hex = hex::encode(secret);
            for form in [secret, hex.as_bytes(), hex.to_uppercase().as_bytes()] {
                assert!(
                    !content.windows(form.len()).any(|window| window == form),
                    "{name} holds a secret"
                );
            }
        }
    }
}
