use machine::{Input, Millis, Rules, Survey};

use super::*;

async fn open(dir: &tempfile::TempDir) -> Store {
    let config = kit::config::Database {
        url: format!("sqlite://{}", dir.path().join("reset.db").display()),
        max_connections: 1,
    };
    Store::new(
        kit::sql::open(&config, MIGRATIONS)
            .await
            .expect("a database"),
    )
}

fn order(request_id: &str, meter_id: &str) -> Order {
    Order {
        reset_id: kit::context::new_id(),
        request_id: request_id.to_owned(),
        request_digest: vec![1, 2, 3],
        meter_id: meter_id.to_owned(),
        tier: Tier::Cold,
        reason: "why".to_owned(),
        ticket: String::new(),
        principal: "spiffe://latchkey.test/operator/ann".to_owned(),
        profile: "standard".to_owned(),
    }
}

async fn created(store: &Store, request_id: &str, meter_id: &str) -> Row {
    let order = order(request_id, meter_id);
    let (machine, marks, _) = Reset::begin(Rules::example(), Millis(1)).into_parts();
    let made = store
        .create(&order, &machine, &marks)
        .await
        .expect("stored");
    assert!(matches!(made, Created::New), "{made:?}");
    store
        .load(&order.reset_id)
        .await
        .expect("read")
        .expect("there")
}

/// Takes a step and stores it.
async fn step(store: &Store, row: &mut Row, input: Input) {
    let (machine, marks, _) = row.machine.clone().step(Millis(2), input).into_parts();
    row.machine = machine;
    let records: Vec<Pending> = marks
        .iter()
        .filter(|mark| matches!(mark, Mark::Record(_)))
        .map(|_| Pending {
            request_id: kit::context::new_id(),
            entry: vec![7],
        })
        .collect();
    store.commit(row, &marks, &records).await.expect("stored");
}

#[tokio::test]
async fn a_request_id_names_one_reset() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir).await;
    let first = created(&store, "r-1", "m-1").await;
    let again = order("r-1", "m-1");
    let made = store
        .create(&again, &first.machine, &[])
        .await
        .expect("read");
    assert!(matches!(made, Created::Known(row) if row.order.reset_id == first.order.reset_id));
}

#[tokio::test]
async fn a_meter_has_one_reset_at_a_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir).await;
    let mut first = created(&store, "r-1", "m-1").await;
    let second = order("r-2", "m-1");
    let made = store
        .create(&second, &first.machine, &[])
        .await
        .expect("read");
    assert!(matches!(made, Created::UnderWay(id) if id == first.order.reset_id));
    step(&store, &mut first, Input::Cancel { by: "p".to_owned() }).await;
    step(&store, &mut first, Input::Recorded { leaf: 4 }).await;
    assert!(first.machine.outcome().is_some());
    let made = store
        .create(&second, &first.machine, &[])
        .await
        .expect("stored");
    assert!(matches!(made, Created::New));
}

#[tokio::test]
async fn what_is_stored_is_what_goes_on_after_a_crash() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut row = {
        let store = open(&dir).await;
        let mut row = created(&store, "r-1", "m-1").await;
        step(
            &store,
            &mut row,
            Input::Surveyed(Survey {
                events: Some(3),
                load_profile: None,
            }),
        )
        .await;
        row.permit = vec![1, 2];
        step(
            &store,
            &mut row,
            Input::Permitted {
                permit_id: "p".to_owned(),
                leaf: 17,
            },
        )
        .await;
        store.pool.close().await;
        row
    };
    let store = open(&dir).await;
    let found = store.unfinished().await.expect("read");
    let [found] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!((&found.machine, &found.permit), (&row.machine, &vec![1, 2]));
    let story = store.story(&row.order.reset_id, 0, 10).await.expect("read");
    let kinds: Vec<(i64, &str)> = story
        .iter()
        .map(|line| (line.sequence, line.kind.as_str()))
        .collect();
    assert_eq!(kinds, [(1, "PLANNED"), (2, "PERMIT")]);
    assert_eq!(
        store
            .story(&row.order.reset_id, 1, 10)
            .await
            .expect("read")
            .len(),
        1
    );
    // A second process that still holds the old version must not write.
    let mut stale = found.clone();
    step(&store, &mut row, Input::Cancel { by: "p".to_owned() }).await;
    let refused = store.commit(&mut stale, &[], &[]).await;
    assert!(matches!(refused, Err(Error::Stolen(_))), "{refused:?}");
}

#[tokio::test]
async fn entries_are_owed_until_they_are_receipted() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir).await;
    let mut row = created(&store, "r-1", "m-1").await;
    step(&store, &mut row, Input::Cancel { by: "p".to_owned() }).await;
    let pending = store.pending(&row.order.reset_id).await.expect("read");
    let [owed] = pending.as_slice() else {
        panic!("{pending:?}")
    };
    assert_eq!(
        store.last_leaf(&row.order.reset_id).await.expect("read"),
        None
    );
    store.receipt(&owed.request_id, 23).await.expect("stored");
    assert!(
        store
            .pending(&row.order.reset_id)
            .await
            .expect("read")
            .is_empty()
    );
    assert_eq!(
        store.last_leaf(&row.order.reset_id).await.expect("read"),
        Some(23)
    );
}

#[tokio::test]
async fn identity_is_the_first_one_since_enrolment() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir).await;
    let mut row = created(&store, "r-1", "m-1").await;
    for (ms, name) in [(1_000, "old"), (2_000, "first"), (3_000, "later")] {
        let snapshot = Snapshot {
            taken_at: Millis(ms),
            identity: Some(name.to_owned()),
            ..Snapshot::default()
        };
        let marks = [Mark::Snapshot(Moment::Before, Box::new(snapshot))];
        store.commit(&mut row, &marks, &[]).await.expect("stored");
    }
    let identity = store.identity("m-1", 1_500_000).await.expect("read");
    assert_eq!(identity.as_deref(), Some("first"));
    assert_eq!(store.identity("m-1", 9_000_000).await.expect("read"), None);
    assert_eq!(store.identity("m-2", 0).await.expect("read"), None);
}

#[tokio::test]
async fn pages_are_newest_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(&dir).await;
    for number in 0..5 {
        created(&store, &format!("r-{number}"), &format!("m-{number}")).await;
    }
    let first = store.list("", "", 3).await.expect("read");
    let names: Vec<&str> = first
        .iter()
        .map(|row| row.order.meter_id.as_str())
        .collect();
    assert_eq!(names, ["m-4", "m-3", "m-2"]);
    let last = first
        .last()
        .map(|row| row.order.reset_id.clone())
        .unwrap_or_default();
    let rest = store.list("", &last, 3).await.expect("read");
    assert_eq!(rest.len(), 2);
    assert_eq!(store.list("m-3", "", 3).await.expect("read").len(), 1);
}
