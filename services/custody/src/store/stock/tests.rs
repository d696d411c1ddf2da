use std::fmt::Write as _;

use super::*;
use crate::store::{
    Generations,
    tests::{open, row},
};

fn claim(octet: u8, kind: KeyKind) -> Claim {
    Claim {
        fingerprint: [octet; 16],
        kind,
        generation: 1,
    }
}

fn arrival(meter_id: &str, octet: u8) -> Arrival {
    Arrival {
        row: KeyRow {
            row_version: 0,
            ..row(meter_id, 1)
        },
        claims: vec![claim(octet, KeyKind::Unicast)],
    }
}

fn entry() -> Entry {
    Entry {
        detail: "a batch".to_owned(),
        ..Entry::default()
    }
}

async fn insert(store: &Store, arrivals: &[Arrival]) -> Result<Vec<Placed>, Error> {
    store.insert_many(arrivals, |_| Some(entry())).await
}

#[tokio::test]
async fn a_batch_is_stored_without_the_rows_that_are_refused() -> Result<(), Error> {
    use Placed::{KeyInUse, MeterHasKeys, Stored};
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let few = [arrival("a", 1), arrival("b", 2), arrival("c", 1)];
    assert_eq!(insert(&store, &few).await?, [Stored, Stored, KeyInUse]);
    let more = [arrival("d", 4), arrival("a", 9), arrival("e", 2)];
    assert_eq!(
        insert(&store, &more).await?,
        [Stored, MeterHasKeys, KeyInUse]
    );
    // Neither c nor e, which were refused, has left anything.
    let rest = [arrival("c", 3), arrival("e", 9)];
    assert_eq!(insert(&store, &rest).await?, [Stored, Stored]);
    assert_eq!(store.pending("", 9).await?.len(), 3, "one entry a batch");
    let held = store.keys_of(&["a", "c", "nobody"]).await?;
    assert_eq!(held.len(), 2);
    assert_eq!(held["a"].row_version, 1);
    // An index that earlier programs rely on says the same.
    let mut twin = arrival("g", 8);
    twin.row.wrapped_encryption_key = row("a", 1).wrapped_encryption_key;
    assert_eq!(insert(&store, &[twin]).await?, [KeyInUse]);
    let none = store.insert_many(&[arrival("f", 7)], |_| None).await?;
    assert_eq!(
        (none, store.keys("f").await?.is_some()),
        (vec![Stored], false)
    );
    Ok(())
}

#[tokio::test]
async fn a_group_shares_a_broadcast_key_that_is_nothing_else() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let member = |meter_id: &str, octet| {
        let mut member = arrival(meter_id, octet);
        member.claims.push(claim(0xBB, KeyKind::Broadcast));
        member
    };
    let group = [member("a", 1), member("b", 2)];
    assert_eq!(insert(&store, &group).await?, [Placed::Stored; 2]);
    assert_eq!(insert(&store, &[member("c", 3)]).await?, [Placed::Stored]);
    for octet in [0xBB, 1] {
        let mut odd = arrival("d", octet);
        if octet == 1 {
            odd.claims = vec![claim(1, KeyKind::Broadcast)];
        }
        assert_eq!(insert(&store, &[odd]).await?, [Placed::KeyInUse], "{octet}");
    }
    Ok(())
}

#[tokio::test]
async fn more_rows_than_one_statement_takes() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut many: Vec<_> = (0..200).map(|n| arrival(&format!("m{n:03}"), n)).collect();
    many[150].claims = vec![claim(3, KeyKind::Unicast)];
    let placed = insert(&store, &many).await?;
    for (number, placed) in placed.iter().enumerate() {
        let stored = *placed == Placed::Stored;
        assert_eq!(stored, number != 150, "{number}");
    }
    assert_eq!(
        store.list_keys("", 1000, &Filter::default()).await?.len(),
        199
    );
    Ok(())
}

/// What came after a destroyed key has counters and a generation of its own, and is not that key.
#[tokio::test]
async fn a_destroyed_row_makes_room_once() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    insert(&store, &[arrival("a", 1), arrival("b", 2)]).await?;
    store.begin_context("a", None).await?;
    let held = store.keys("a").await?.unwrap();
    let gone = KeyRow {
        state: KeyState::Destroyed,
        wrapped_encryption_key: Vec::new(),
        ..held.clone()
    };
    assert!(store.retire_keys(&gone, &entry()).await?);
    assert!(
        !store.retire_keys(&gone, &entry()).await?,
        "of an old version"
    );
    let gone = store.keys("a").await?.unwrap();
    assert_eq!((gone.row_version, gone.fence), (2, 2));
    let next = |octet, row_version, meter_id| {
        let mut next = arrival(meter_id, octet);
        next.row.row_version = row_version;
        next.row.generations.encryption = 2;
        next.claims[0].generation = 2;
        next
    };
    // The key that was, that of b, a row that is not destroyed, one of another version.
    for (refused, placed) in [
        (next(1, 2, "a"), Placed::KeyInUse),
        (next(2, 2, "a"), Placed::KeyInUse),
        (next(3, 1, "b"), Placed::MeterHasKeys),
        (next(3, 1, "a"), Placed::MeterHasKeys),
    ] {
        assert_eq!(insert(&store, &[refused]).await?, [placed]);
    }
    let good = [arrival("c", 8), next(3, 2, "a")];
    assert_eq!(insert(&store, &good).await?, [Placed::Stored; 2]);
    let now = store.keys("a").await?.unwrap();
    assert_eq!((now.state, now.next_counter), (KeyState::Active, 1));
    assert_eq!((now.row_version, now.fence), (3, 3));
    let expected = Generations {
        encryption: 2,
        ..Generations::default()
    };
    assert_eq!(now.generations, expected);
    let had = store.fingerprints("a").await?;
    let had: Vec<_> = had
        .iter()
        .map(|had| (had.fingerprint[0], had.generation))
        .collect();
    assert_eq!(had, [(1, 1), (3, 2)]);
    let owner = store.owner(&[1; 16]).await?.unwrap();
    assert_eq!(
        (owner.meter_id.as_str(), owner.kind.as_str()),
        ("a", "GUEK")
    );
    Ok(())
}

#[tokio::test]
async fn lists_are_of_what_is_asked_for() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut all: Vec<_> = (0..6).map(|n| arrival(&format!("m{n}"), n)).collect();
    all[1].row.source = "imported".to_owned();
    all[2].row.state = KeyState::Compromised;
    all[3].row.generations.kek = 2;
    all[4].row.create_us = 1;
    all[5].row.next_counter = 1000;
    insert(&store, &all).await?;
    let filters = [
        Filter {
            source: "imported".to_owned(),
            ..Filter::default()
        },
        Filter {
            state: KeyState::Compromised.name(),
            ..Filter::default()
        },
        Filter {
            kek_generation: 2,
            ..Filter::default()
        },
        Filter {
            before_us: 7,
            ..Filter::default()
        },
        Filter {
            counter_min: 1000,
            ..Filter::default()
        },
    ];
    let mut said = String::new();
    for filter in filters {
        for row in store.list_keys("", 9, &filter).await? {
            write!(said, "{} ", row.meter_id).unwrap();
        }
    }
    assert_eq!(said, "m1 m2 m3 m4 m5 ");
    Ok(())
}

#[tokio::test]
async fn rows_of_an_earlier_program_get_their_fingerprints_once() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut old = [arrival("a", 1), arrival("b", 2), arrival("c", 3)];
    for arrival in &mut old {
        arrival.claims.clear();
    }
    insert(&store, &old).await?;
    sqlx::query("INSERT INTO unmarked_keys (meter_id) SELECT meter_id FROM meter_keys")
        .execute(&store.pool)
        .await?;
    let some = store.unmarked(2).await?;
    assert_eq!(some.len(), 2);
    let one = Some(claim(1, KeyKind::Unicast));
    let marks = [("a".to_owned(), one), ("b".to_owned(), None)];
    assert!(store.mark(&marks).await?.is_empty());
    assert_eq!(store.unmarked(9).await?.len(), 1);
    // Another replica did the same, or a crash came before its answer.
    assert!(store.mark(&marks).await?.is_empty());
    assert_eq!(store.mark(&[("c".to_owned(), one)]).await?, ["c"]);
    assert!(store.unmarked(9).await?.is_empty());
    assert_eq!(
        insert(&store, &[arrival("d", 1)]).await?,
        [Placed::KeyInUse]
    );
    Ok(())
}
