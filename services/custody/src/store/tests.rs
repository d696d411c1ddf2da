use std::collections::HashSet;

use dlms::Suite;
use futures::future::join_all;
use kit::{config::Database, status::Fault as _};
use latchkey_proto::audit::v1::Entry;

use super::*;

mod counters;

const METER: &str = "meter-0001";
const PERMIT: &str = "018f3c5e-7b1a-7c3d-9e4f-5a6b7c8d9e0f";

pub(super) async fn open(dir: &std::path::Path) -> Store {
    let url = format!("sqlite://{}", dir.join("custody.db").display());
    let database = Database {
        url,
        max_connections: 8,
    };
    Store::new(
        kit::sql::open(&database, MIGRATIONS)
            .await
            .expect("the database opens"),
    )
}

pub(super) fn row(meter_id: &str, next_counter: u32) -> KeyRow {
    KeyRow {
        meter_id: meter_id.to_owned(),
        client_system_title: b"CCCCCCCC".to_vec(),
        server_system_title: b"SSSSSSSS".to_vec(),
        wrapped_encryption_key: meter_id.bytes().cycle().take(24).collect(),
        sealed_authentication_key: vec![2; 44],
        sealed_password: Vec::new(),
        check_value: vec![3; 5],
        source: "lab".to_owned(),
        next_counter,
        create_us: 7,
        ..KeyRow::default()
    }
}

/// So many counters of the key in use.
fn block(size: u32) -> Reservation<'static> {
    Reservation {
        meter_id: METER,
        of: CounterOf::InUse { generation: 1 },
        size,
        warning: COUNTER_END,
    }
}

fn used(invocation_counter: u32, use_us: i64) -> Use {
    Use {
        command_index: 3,
        invocation_counter,
        use_us,
    }
}

#[tokio::test]
async fn keys_are_stored_once_with_their_entry() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let entry = Entry {
        detail: "stored".to_owned(),
        ..Entry::default()
    };
    assert_eq!(
        store.insert_keys(&row(METER, 1), &[], &entry).await?,
        Placed::Stored
    );
    assert_eq!(
        store.insert_keys(&row(METER, 9), &[], &entry).await?,
        Placed::MeterHasKeys
    );
    let pending = store.pending("", 10).await?;
    assert_eq!(pending.len(), 1, "a refused insert reports nothing");
    assert_eq!(pending[0].entry, entry);
    store.forget(&pending[0].request_id).await?;
    assert!(store.pending("", 10).await?.is_empty());
    let held = store.keys(METER).await?.unwrap();
    assert_eq!(
        (
            held.next_counter,
            held.last_received,
            held.sealed_password.len()
        ),
        (1, None, 0)
    );
    store.set_received(METER, None, 42, None).await?;
    assert_eq!(store.keys(METER).await?.unwrap().last_received, Some(42));
    assert!(store.keys("meter-0002").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn one_key_is_of_one_meter() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let entry = Entry::default();
    assert_eq!(
        store.insert_keys(&row("a", 1), &[], &entry).await?,
        Placed::Stored
    );
    let twin = KeyRow {
        client_system_title: b"other...".to_vec(),
        ..row("a", 9)
    };
    let twin = KeyRow {
        meter_id: "b".to_owned(),
        ..twin
    };
    assert_eq!(
        store.insert_keys(&twin, &[], &entry).await?,
        Placed::KeyInUse,
        "the nonces of a"
    );
    for without in ["c", "d"] {
        let row = KeyRow {
            wrapped_encryption_key: Vec::new(),
            ..row(without, 1)
        };
        assert_eq!(
            store.insert_keys(&row, &[], &entry).await?,
            Placed::Stored,
            "no key, no nonces"
        );
    }
    Ok(())
}

#[tokio::test]
async fn pages_are_in_order() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    for meter in ["c", "a", "b"] {
        store
            .insert_keys(&row(meter, 1), &[], &Entry::default())
            .await?;
    }
    let ids = |rows: Vec<KeyRow>| rows.into_iter().map(|row| row.meter_id).collect::<Vec<_>>();
    assert_eq!(
        ids(store.list_keys("", 2, &Filter::default()).await?),
        ["a", "b"]
    );
    assert_eq!(
        ids(store.list_keys("b", 2, &Filter::default()).await?),
        ["c"]
    );
    Ok(())
}

#[tokio::test]
async fn associations_are_counted_for_one_body() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let entry = Entry::default();
    assert_eq!(
        store.count_association(PERMIT, b"body", 2, &entry).await?,
        1
    );
    let error = store
        .count_association(PERMIT, b"twin", 2, &entry)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "PERMIT_INVALID");
    store.pool.close().await;
    let store = open(dir.path()).await;
    assert_eq!(
        store.count_association(PERMIT, b"body", 2, &entry).await?,
        2
    );
    let error = store
        .count_association(PERMIT, b"body", 2, &entry)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "PERMIT_ASSOCIATIONS_SPENT");
    assert_eq!(store.permit_use(PERMIT).await?, (Vec::new(), 2));
    assert_eq!(
        store.pending("", 10).await?.len(),
        2,
        "a refusal is not reported as an association"
    );
    Ok(())
}

#[tokio::test]
async fn a_command_is_counted_for_ever() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let entry = Entry::default();
    let tries = (100..108).map(async |counter| {
        let counted = store
            .count_uses(
                PERMIT,
                (METER, None),
                &[(used(counter, counter.into()), 1)],
                &entry,
            )
            .await;
        counted.ok().map(|()| counter)
    });
    let won: Vec<u32> = join_all(tries).await.into_iter().flatten().collect();
    assert_eq!(won.len(), 1, "one of eight at once");
    store.pool.close().await;
    let store = open(dir.path()).await;
    let error = store
        .count_uses(PERMIT, (METER, None), &[(used(200, 9), 1)], &entry)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "PERMIT_USES_SPENT");
    let (uses, associations) = store.permit_use(PERMIT).await?;
    assert_eq!((uses.len(), associations), (1, 0));
    assert_eq!(uses[0].invocation_counter, won[0]);
    assert_eq!(store.pending("", 10).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn uses_come_in_the_order_of_ciphering() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let entry = Entry::default();
    for used in [
        used(7, 20),
        Use {
            command_index: 1,
            ..used(5, 10)
        },
        used(9, 30),
    ] {
        store
            .count_uses(PERMIT, (METER, None), &[(used, 2)], &entry)
            .await?;
    }
    let (uses, _) = store.permit_use(PERMIT).await?;
    let order: Vec<_> = uses
        .iter()
        .map(|used| (used.command_index, used.invocation_counter))
        .collect();
    assert_eq!(order, [(1, 5), (3, 7), (3, 9)]);
    assert_eq!(store.permit_use("another").await?, (Vec::new(), 0));
    Ok(())
}

#[tokio::test]
async fn uses_of_a_list_are_counted_all_or_none() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let entry = Entry::default();
    let of = |command_index, use_us| Use {
        command_index,
        ..used(100, use_us)
    };
    let both = [(of(0, 1), 1), (of(1, 1), 2)];
    store
        .count_uses(PERMIT, (METER, None), &both, &entry)
        .await?;
    // The first may be used again, the second may not: neither is counted, and nothing is reported.
    let both = [(of(1, 2), 2), (of(0, 2), 1)];
    let error = store
        .count_uses(PERMIT, (METER, None), &both, &entry)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "PERMIT_USES_SPENT");
    assert_eq!(store.permit_use(PERMIT).await?.0.len(), 2);
    assert_eq!(store.pending("", 10).await?.len(), 1);
    // The same command twice in one list is two uses.
    let twice = [(of(1, 3), 2), (of(1, 3), 2)];
    let error = store
        .count_uses(PERMIT, (METER, None), &twice, &entry)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "PERMIT_USES_SPENT");
    let twice = [(of(2, 3), 2), (of(2, 3), 2)];
    store
        .count_uses(PERMIT, (METER, None), &twice, &entry)
        .await?;
    assert_eq!(store.permit_use(PERMIT).await?.0.len(), 4);
    Ok(())
}

#[tokio::test]
async fn rows_of_the_first_schemas_are_read() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("custody.db").display());
    let database = Database {
        url,
        max_connections: 1,
    };
    let old = kit::sql::open(&database, &MIGRATIONS[..2]).await.unwrap();
    sqlx::query(
        "INSERT INTO meter_keys (meter_id, client_system_title, server_system_title, wrapped_encryption_key, \
         sealed_authentication_key, sealed_password, check_value, source, next_counter, last_received, create_us) \
         VALUES ('old', $1, $1, $1, $1, $1, $1, 'lab', 7, -1, 1)",
    )
    .bind(&b"12345678"[..])
    .execute(&old)
    .await?;
    old.close().await;
    let store = open(dir.path()).await;
    let row = store.keys("old").await?.unwrap();
    assert_eq!(
        (row.suite, row.mechanisms, row.policies),
        (Suite::Suite0, 0, 0)
    );
    assert!(row.wrapped_hls_secret.is_empty() && row.row_seal.is_empty());
    assert!(row.server_signing_key.is_empty() && row.wrapped_master_key.is_empty());
    Ok(())
}

#[tokio::test]
async fn every_column_comes_back() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let full = KeyRow {
        suite: Suite::Suite2,
        mechanisms: 0b1010_0000,
        policies: 3,
        wrapped_hls_secret: vec![1; 24],
        sealed_hls_secret: vec![2; 44],
        wrapped_master_key: vec![3; 40],
        server_signing_key: vec![4; 96],
        server_agreement_key: vec![5; 96],
        row_seal: vec![6; 28],
        generations: Generations {
            kek: 2,
            encryption: 3,
            authentication: 4,
            master: 5,
            broadcast: 6,
        },
        wrapped_broadcast_key: vec![7; 40],
        state: KeyState::Compromised,
        state_reason: "lost".to_owned(),
        change_us: 9,
        import_id: "batch".to_owned(),
        broadcast_check_value: vec![8; 5],
        ..row(METER, 1)
    };
    store.insert_keys(&full, &[], &Entry::default()).await?;
    let held = store.keys(METER).await?.unwrap();
    assert_eq!((held.suite, held.mechanisms), (full.suite, full.mechanisms));
    assert_eq!(held.policies, full.policies);
    assert_eq!(held.generations, full.generations);
    assert_eq!((held.row_version, held.fence), (1, 0));
    assert_eq!((held.state, held.change_us), (full.state, full.change_us));
    assert_eq!(held.state_reason, full.state_reason);
    assert_eq!(held.import_id, full.import_id);
    let fields = |row: KeyRow| {
        [
            row.broadcast_check_value,
            row.wrapped_hls_secret,
            row.sealed_hls_secret,
            row.wrapped_master_key,
            row.server_signing_key,
            row.server_agreement_key,
            row.row_seal,
            row.wrapped_broadcast_key,
        ]
    };
    assert_eq!(fields(held), fields(full));
    Ok(())
}

#[tokio::test]
async fn a_row_changes_from_what_it_was_read_as_or_not_at_all() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store
        .insert_keys(&row(METER, 7), &[], &Entry::default())
        .await?;
    let read = store.keys(METER).await?.unwrap();
    store.begin_context(METER, Some(block(32))).await?;
    let change = |policies| KeyRow {
        policies,
        wrapped_encryption_key: vec![policies; 24],
        ..read.clone()
    };
    assert!(store.retire_keys(&change(1), &Entry::default()).await?);
    assert!(!store.retire_keys(&change(2), &Entry::default()).await?);
    let now = store.keys(METER).await?.unwrap();
    assert_eq!((now.policies, now.row_version), (1, read.row_version + 1));
    assert_eq!(now.wrapped_encryption_key, [1; 24]);
    assert_eq!(
        now.next_counter,
        7 + 32,
        "counters are not a change's to set"
    );
    assert_eq!(store.pending("", 9).await?.len(), 2, "one entry a change");
    Ok(())
}
