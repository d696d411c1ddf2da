//! Keys of every kind go in, none comes out.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use dlms::{KeyChoice, Mechanism, Protection, Suite};
use latchkey_proto::{
    audit::v1::EntryKind,
    custody::v1::{
        GenerateMeterKeysRequest, GetClientKeysRequest, GetMeterKeysRequest, ImportLabKeysRequest,
        ImportMeterKeysRequest, Mechanism as PbMechanism,
    },
};

use crate::{
    House,
    support::{CLIENT, COMPONENTS, SERVER, get, reason, until},
    talk::{Meter, Talk, how},
};

const SUITES: [Suite; 3] = [Suite::Suite0, Suite::Suite1, Suite::Suite2];

pub(crate) async fn keys_of_every_suite_come_in(house: &House) {
    let mut keys = house.bed.keys(house.running.address);
    for suite in SUITES {
        let id = format!("suite-{}", suite.id());
        let meter = Meter::new(house, &id, suite);
        let held = keys.import_lab_keys(meter.request.clone()).await.unwrap();
        let held = held.into_inner().keys.unwrap();
        assert_eq!(held.security_suite, u32::from(suite.id()));
        assert!(held.has_password && held.has_hls_secret && held.has_key_encryption_key);
        assert_eq!(held.server_signing_key, meter.request.server_signing_key);
        assert_eq!(
            held.server_agreement_key,
            meter.request.server_agreement_key
        );
        assert_eq!((held.mechanisms.len(), held.check_value.len()), (6, 5));
        let again = keys
            .import_lab_keys(meter.request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(again.keys.unwrap(), held, "the same keys change nothing");
        let request = GetMeterKeysRequest {
            meter_id: id.clone(),
        };
        let shown = keys.get_meter_keys(request).await.unwrap().into_inner();
        assert_eq!(shown.keys.unwrap(), held);
        let generate = GenerateMeterKeysRequest {
            meter_id: format!("made-{}", suite.id()),
            client_system_title: CLIENT.to_vec(),
            server_system_title: SERVER.to_vec(),
            security_suite: suite.id().into(),
            mechanisms: vec![PbMechanism::HlsGmac.into()],
            policies: Vec::new(),
            ..GenerateMeterKeysRequest::default()
        };
        let made = keys
            .generate_meter_keys(generate)
            .await
            .unwrap()
            .into_inner();
        let made = made.keys.unwrap();
        assert_eq!(made.security_suite, u32::from(suite.id()));
        assert_eq!(made.mechanisms, [i32::from(PbMechanism::HlsGmac)]);
        assert!(!made.has_hls_secret && !made.has_key_encryption_key);
    }
    for (keys, length) in house.client_keys.iter().zip([64, 96]) {
        assert_eq!(
            (keys.signing_key.len(), keys.agreement_key.len()),
            (length, length)
        );
        assert_ne!(keys.signing_key, keys.agreement_key);
        assert!(keys.signing_certificate.is_empty(), "none is configured");
    }
    for security_suite in [0, 3] {
        let request = GetClientKeysRequest { security_suite };
        assert_eq!(
            reason(keys.get_client_keys(request).await),
            "REQUEST_INVALID"
        );
    }
    until("the trail says what was enrolled", async || {
        let entries = house.bed.auditor.entries(EntryKind::Key);
        entries
            .iter()
            .any(|entry| entry.detail.contains("suite 2, HLS secret held"))
    })
    .await;
}

pub(crate) async fn other_keys_are_others(house: &House) {
    let mut keys = house.bed.keys(house.running.address);
    let meter = Meter::new(house, "suite-1", Suite::Suite1);
    let other = Meter::new(house, "someone", Suite::Suite1);
    type Change = fn(&mut ImportLabKeysRequest, &ImportLabKeysRequest);
    let changes: [Change; 9] = [
        |mine, theirs| mine.hls_secret.clone_from(&theirs.hls_secret),
        |mine, _| mine.hls_secret.clear(),
        |mine, theirs| {
            mine.key_encryption_key
                .clone_from(&theirs.key_encryption_key)
        },
        |mine, _| mine.key_encryption_key.clear(),
        |mine, theirs| {
            mine.server_signing_key
                .clone_from(&theirs.server_signing_key)
        },
        |mine, theirs| {
            mine.server_agreement_key
                .clone_from(&theirs.server_agreement_key)
        },
        |mine, _| mine.mechanisms.truncate(2),
        |mine, _| mine.mechanisms.clear(),
        |mine, _| mine.policies.clear(),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut request = meter.request.clone();
        change(&mut request, &other.request);
        let refused = keys.import_lab_keys(request).await;
        assert_eq!(reason(refused), "KEYS_EXIST", "change {number}");
    }
}

pub(crate) async fn bad_fields_are_named(house: &House) {
    let mut keys = house.bed.keys(house.running.address);
    let good = |suite| Meter::new(house, "bad", suite).request;
    type Change = fn(&mut ImportLabKeysRequest);
    let changes: [(Suite, &str, Change); 12] = [
        (Suite::Suite0, "security_suite", |it| it.security_suite = 3),
        (Suite::Suite0, "server_signing_key", |it| {
            it.server_signing_key = vec![4; 64]
        }),
        (Suite::Suite1, "server_signing_key", |it| {
            it.server_signing_key[63] ^= 1
        }),
        (Suite::Suite1, "server_agreement_key", |it| {
            it.server_agreement_key.truncate(63)
        }),
        (Suite::Suite2, "server_agreement_key", |it| {
            it.server_agreement_key.truncate(64)
        }),
        (Suite::Suite2, "encryption_key", |it| {
            it.encryption_key.truncate(16)
        }),
        (Suite::Suite1, "encryption_key", |it| {
            it.encryption_key = vec![7; 32]
        }),
        (Suite::Suite1, "key_encryption_key", |it| {
            it.key_encryption_key.truncate(15)
        }),
        (Suite::Suite0, "hls_secret", |it| it.hls_secret.truncate(7)),
        (Suite::Suite0, "hls_secret", |it| {
            it.hls_secret = vec![7; 65]
        }),
        (Suite::Suite0, "mechanisms", |it| {
            it.mechanisms.push(PbMechanism::None.into())
        }),
        (Suite::Suite0, "mechanisms", |it| it.mechanisms = vec![99]),
    ];
    for (suite, field, change) in changes {
        let mut request = good(suite);
        change(&mut request);
        let refused = keys.import_lab_keys(request).await;
        let message = refused.as_ref().unwrap_err().message().to_owned();
        assert!(message.contains(field), "{field}: {message}");
        assert_eq!(reason(refused), "REQUEST_INVALID", "{field}");
    }
    let mut master_alone = good(Suite::Suite0);
    master_alone.encryption_key.clear();
    master_alone.authentication_key.clear();
    assert_eq!(
        reason(keys.import_lab_keys(master_alone).await),
        "REQUEST_INVALID"
    );
}

fn wrapped(key: &[u8]) -> Vec<u8> {
    let [a, b] = COMPONENTS;
    let transport: [u8; 32] = std::array::from_fn(|i| a[i] ^ b[i]);
    let kek = AesKek::new(&AES_256, &transport).unwrap();
    kek.wrap(key, &mut vec![0; key.len() + 8]).unwrap().to_vec()
}

/// A meter's keys as their maker sends them.
fn sent(meter: &Meter, mechanisms: &[PbMechanism]) -> ImportMeterKeysRequest {
    let clear = meter.request.clone();
    ImportMeterKeysRequest {
        meter_id: clear.meter_id,
        client_system_title: clear.client_system_title,
        server_system_title: clear.server_system_title,
        wrapped_encryption_key: wrapped(&clear.encryption_key),
        wrapped_authentication_key: wrapped(&clear.authentication_key),
        security_suite: clear.security_suite,
        wrapped_hls_secret: wrapped(&clear.hls_secret),
        wrapped_key_encryption_key: wrapped(&clear.key_encryption_key),
        server_signing_key: clear.server_signing_key,
        server_agreement_key: clear.server_agreement_key,
        mechanisms: mechanisms.iter().map(|it| (*it).into()).collect(),
        policies: Vec::new(),
        ..ImportMeterKeysRequest::default()
    }
}

pub(crate) async fn wrapped_keys_of_every_kind_come_in(house: &House) {
    let mut keys = house.bed.keys(house.running.address);
    for suite in SUITES {
        let meter = Meter::new(house, &format!("wrapped-{}", suite.id()), suite);
        let request = sent(&meter, &[]);
        let held = keys.import_meter_keys(request.clone()).await.unwrap();
        let again = keys.import_meter_keys(request.clone()).await.unwrap();
        let held = held.into_inner();
        assert_eq!(again.into_inner(), held);
        let held = held.keys.unwrap();
        assert!(held.has_hls_secret && held.has_key_encryption_key && held.mechanisms.is_empty());
        for field in 0..2 {
            let mut damaged = request.clone();
            match field {
                0 => damaged.wrapped_hls_secret[3] ^= 1,
                _ => damaged.wrapped_key_encryption_key[3] ^= 1,
            }
            let refused = keys.import_meter_keys(damaged).await;
            assert_eq!(reason(refused), "WRAPPED_KEY_INVALID");
        }
        for length in [16, 25, 80] {
            let mut bad = request.clone();
            bad.wrapped_hls_secret.resize(length, 1);
            assert_eq!(reason(keys.import_meter_keys(bad).await), "REQUEST_INVALID");
        }
        wrapped_keys_work(house, &meter).await;
    }
    // Where MD5 is named, the secret is kept for it.
    let meter = Meter::new(house, "wrapped-md5", Suite::Suite0);
    let request = sent(&meter, &[PbMechanism::HlsMd5]);
    keys.import_meter_keys(request).await.unwrap();
    let md5 = how(Mechanism::HlsMd5, Protection::Glo);
    Talk::established(house, meter, md5, vec![]).await;
}

/// A hash with the secret, and a key under the master key.
async fn wrapped_keys_work(house: &House, meter: &Meter) {
    const OBJECT: &str = "0.0.96.1.0.255";
    let wrapped = Protection::GeneralCiphering(KeyChoice::Wrapped);
    for (mechanism, protection) in [
        (Mechanism::HlsSha256, Protection::Glo),
        (Mechanism::HlsGmac, wrapped),
    ] {
        let (how, commands) = (how(mechanism, protection), vec![get(1, OBJECT, 2)]);
        let mut talk = Talk::established(house, meter.clone(), how, commands).await;
        talk.read(1, OBJECT, 2).await.unwrap();
    }
    // MD5 was not named, so the secret is nowhere that it could be digested so.
    let md5 = how(Mechanism::HlsMd5, Protection::Glo);
    let refused = Talk::open(house, meter.clone(), md5, vec![]).await;
    assert_eq!(reason(refused.map(|_| ())), "ASSOCIATION_REFUSED");
}

/// Whoever writes into the database can take a meter away, but not weaken it.
pub(crate) async fn rows_cannot_be_weakened(house: &House) {
    let meter = Meter::new(house, "row", Suite::Suite1)
        .enrolled(house)
        .await;
    let mut named = Meter::new(house, "row-named", Suite::Suite1).bare();
    named.request.mechanisms = vec![PbMechanism::HlsEcdsa.into()];
    let named = named.enrolled(house).await;
    let other = Meter::new(house, "row-other", Suite::Suite1)
        .enrolled(house)
        .await;
    sqlx::any::install_default_drivers();
    let url = format!("sqlite://{}", house.bed.database().display());
    let pool = sqlx::AnyPool::connect(&url).await.unwrap();
    let gmac = how(Mechanism::HlsGmac, Protection::Glo);
    let ecdsa = how(Mechanism::HlsEcdsa, Protection::Plain);
    for (set, meter, how) in [
        ("mechanisms = 0", &meter, gmac),
        ("policies = 0", &meter, gmac),
        ("server_signing_key = ?", &meter, gmac),
        ("server_agreement_key = ?", &meter, gmac),
        ("wrapped_hls_secret = ?", &meter, gmac),
        ("wrapped_master_key = NULL", &meter, gmac),
        ("server_signing_key = ?", &named, ecdsa),
        ("mechanisms = 255", &named, ecdsa),
        ("row_seal = ?", &named, ecdsa),
    ] {
        Talk::open(house, meter.clone(), how, vec![]).await.unwrap();
        let column = set.split(' ').next().unwrap();
        let kept = format!(
            "CREATE TABLE kept AS SELECT {column} AS it FROM meter_keys WHERE meter_id = '{}'",
            meter.id
        );
        let changed = format!(
            "UPDATE meter_keys SET {set} WHERE meter_id = '{}'",
            meter.id
        );
        let back = format!(
            "UPDATE meter_keys SET {column} = (SELECT it FROM kept) WHERE meter_id = '{}'",
            meter.id
        );
        let run = async |statement: String, bind: Option<Vec<u8>>| {
            let mut query = sqlx::query(sqlx::AssertSqlSafe(statement));
            if let Some(bind) = bind {
                query = query.bind(bind);
            }
            query.execute(&pool).await.unwrap();
        };
        let theirs = other.request.server_signing_key.clone();
        run(kept, None).await;
        run(changed, set.contains('?').then_some(theirs)).await;
        let refused = Talk::open(house, meter.clone(), how, vec![]).await;
        let why = reason(refused.map(|_| ()));
        assert!(
            ["KEY_ROW_CHANGED", "ASSOCIATION_REFUSED"].contains(&why.as_str()),
            "{set}: {why}"
        );
        run(back, None).await;
        run("DROP TABLE kept".to_owned(), None).await;
    }
    Talk::open(house, meter, gmac, vec![]).await.unwrap();
    pool.close().await;
}

pub(crate) async fn no_secret_is_at_rest(house: &House) {
    let mut files = Vec::new();
    for end in ["", "-wal"] {
        let mut path = house.bed.database().into_os_string();
        path.push(end);
        files.extend(std::fs::read(path).unwrap_or_default());
    }
    assert!(files.len() > 10_000);
    for id in ["suite-0", "suite-1", "suite-2", "wrapped-2"] {
        let suite = Suite::from_id(id.bytes().last().unwrap() - b'0').unwrap();
        let request = Meter::new(house, id, suite).request;
        let public = &request.server_signing_key;
        let found = |secret: &[u8]| files.windows(secret.len()).any(|window| window == secret);
        assert!(
            public.is_empty() || found(public),
            "the search finds what is there"
        );
        for secret in [
            &request.encryption_key,
            &request.authentication_key,
            &request.hls_secret,
            &request.key_encryption_key,
        ] {
            assert!(!found(secret), "{id}");
        }
    }
}
