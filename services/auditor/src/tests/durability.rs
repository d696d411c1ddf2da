//! What was acknowledged is there; what is there is what was signed.

use tlog::proof::{self, Head};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_many_append_at_once_is_all_there_once_and_after_a_restart() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let begun = u64::try_from(running.entries().await.len()).unwrap();
    let ids: Vec<String> = (0..500).map(id).collect();
    let receipts = ids.iter().map(|id| running.record(id, id));
    let mut receipts: Vec<u64> = futures::future::try_join_all(receipts).await.unwrap();
    for (id, index) in ids.iter().zip(&receipts) {
        let at = usize::try_from(*index).unwrap();
        assert_eq!(&running.entries().await[at].detail, id);
        if *index > begun + 20 {
            break; // a sample is enough; all are counted below
        }
    }
    receipts.sort_unstable();
    assert!(receipts.into_iter().eq(begun..begun + 500));
    assert_eq!(running.verified().await, begun + 500);
    let file = running.export().await;
    running.stop().await;

    let running = Running::start(&dir).await;
    let longer = running.export().await;
    let tail = |file: &[u8]| {
        let text = String::from_utf8(file.to_vec()).unwrap();
        text.split("\n\n").nth(2).unwrap().to_owned()
    };
    assert!(tail(&longer).starts_with(&tail(&file)));
    running.stop().await;
}

#[tokio::test]
async fn proofs_lead_to_the_checkpoints() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let trail = &running.api.trail;
    let head = |note: &str| {
        let key = tlog::VerifierKey::parse(&trail.verifier_key()).unwrap();
        let opened = tlog::Checkpoint::open(note, &key, signer::ed25519).unwrap();
        Head {
            size: opened.size(),
            root: opened.root(),
        }
    };
    let old = head(&trail.checkpoint().await.unwrap().note);
    for number in 0..7 {
        running.record(&id(number), "x").await.unwrap();
    }
    let new = head(&trail.checkpoint().await.unwrap().note);
    assert_eq!(new.size, old.size + 7);
    let (size, path) = trail.consistency(old.size, 0).await.unwrap();
    assert_eq!(size, new.size);
    assert_eq!(proof::verify_consistency(old, new, &path), Ok(()));
    for index in 0..new.size {
        let found = trail.inclusion(index, 0).await.unwrap();
        let holds = proof::verify_inclusion(found.leaf, index, new.size, &found.path, new.root);
        assert_eq!(holds, Ok(()));
    }
    let found = trail.inclusion(0, old.size).await.unwrap();
    let holds = proof::verify_inclusion(found.leaf, 0, old.size, &found.path, old.root);
    assert_eq!(holds, Ok(()));
    for refused in [
        trail.inclusion(new.size, 0).await.map(drop),
        trail.inclusion(0, new.size + 1).await.map(drop),
        trail.consistency(new.size + 1, 0).await.map(drop),
    ] {
        assert!(matches!(refused, Err(Error::BeyondTrail { .. })));
    }
    running.stop().await;
}

#[tokio::test]
async fn pages_hold_everything_once_in_order() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    for number in 0..10 {
        running.record(&id(number), "x").await.unwrap();
    }
    running
        .api
        .auditor
        .authorise(&reset(), &cold_reset(50))
        .await
        .unwrap();
    let trail = &running.api.trail;
    let mut seen = Vec::new();
    let mut from = Some(0);
    while let Some(next) = from {
        let page = trail.page(next, 3, "meter-0001", "").await.unwrap();
        assert!(page.entries.len() <= 3);
        seen.extend(page.entries.iter().map(|entry| entry.leaf_index));
        from = page.next;
    }
    assert_eq!(seen.len(), 11);
    assert!(seen.is_sorted());
    let of_reset = trail.page(0, 10, "", &id(1050)).await.unwrap();
    assert_eq!(of_reset.entries.len(), 1);
    let both = trail.page(0, 10, "meter-0002", &id(1050)).await.unwrap();
    assert!(both.entries.is_empty());
    running.stop().await;
}

/// A trail of some entries, signed and closed.
async fn closed_trail(dir: &Path) {
    let running = Running::start(dir).await;
    for number in 0..5 {
        running.record(&id(number), "x").await.unwrap();
    }
    running.api.trail.checkpoint().await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_trail_that_was_tampered_with_is_refused_and_the_message_says_what_and_what_to_do() {
    let cases: [(&[&str], &str); 7] = [
        (
            &["UPDATE entries SET body = x'0801' WHERE idx = 3"],
            "entry 3 was changed",
        ),
        (
            &["UPDATE entries SET leaf_hash = zeroblob(32) WHERE idx = 2"],
            "entry 2 was changed",
        ),
        (
            // the body with its right hash: only the signed root tells
            &["UPDATE entries SET body = x'', leaf_hash = \
                 x'6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d' WHERE idx = 3"],
            "are not those that were signed",
        ),
        (&["DELETE FROM entries WHERE idx = 4"], "entry 4 is missing"),
        (
            &["DELETE FROM entries WHERE idx >= 6"],
            "6 entries are left of at least 8",
        ),
        (
            &[
                "UPDATE entries SET idx = 99 WHERE idx = 3",
                "UPDATE entries SET idx = 3 WHERE idx = 4",
                "UPDATE entries SET idx = 4 WHERE idx = 99",
            ],
            "are not those that were signed",
        ),
        (
            &["UPDATE checkpoint SET note = replace(note, '8', '7')"],
            "does not open with this token's key",
        ),
    ];
    for (statements, expected) in cases {
        let (_guard, dir) = temporary();
        closed_trail(&dir).await;
        tamper(&dir, statements).await;
        let refused = try_start(&dir).await.err().map(|e| e.to_string());
        let refused = refused.unwrap_or_default();
        assert!(refused.contains(expected), "{statements:?}: {refused}");
        assert!(refused.contains("database"), "{refused}");
    }
}

#[tokio::test]
async fn another_origin_is_refused() {
    let (_guard, dir) = temporary();
    closed_trail(&dir).await;
    let (_trigger, shutdown) = kit::shutdown();
    let mut config = config(&dir);
    config.origin = "latchkey.test/other".to_owned();
    let tasks = Tasks::new(shutdown.clone());
    let refused = start(config, Arc::new(InMemory), &tasks, shutdown).await;
    let refused = refused.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(refused.contains("`origin`"), "{refused}");
}

#[tokio::test]
async fn a_trail_that_cannot_be_written_authorises_nothing_until_it_can() {
    let (_guard, dir) = temporary();
    let mut running = Running::start(&dir).await;
    tamper(&dir, &["ALTER TABLE entries RENAME TO hidden"]).await;
    for _ in 0..2 {
        let error = running
            .api
            .auditor
            .authorise(&reset(), &cold_reset(1))
            .await
            .unwrap_err();
        let status = tonic::Status::from(error);
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(
            kit::status::reason(&status).as_deref(),
            Some("TRAIL_UNWRITABLE")
        );
    }
    assert!(!*running.writable.borrow_and_update());
    tamper(&dir, &["ALTER TABLE hidden RENAME TO entries"]).await;
    // it comes back by itself, without anybody asking
    let back = running.writable.wait_for(|writable| *writable);
    tokio::time::timeout(Duration::from_secs(10), back)
        .await
        .unwrap()
        .unwrap();
    let request = cold_reset(1);
    let response = running.api.auditor.authorise(&reset(), &request).await;
    assert!(response.unwrap().permit.is_some());
    assert_eq!(running.of_kind(EntryKind::Intent).await.len(), 1);
    running.verified().await;
    running.stop().await;
}

#[tokio::test]
async fn a_commit_nobody_saw_is_found_before_anything_is_written_on() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let size = u64::try_from(running.entries().await.len()).unwrap();
    // an entry this writer does not know of: as after a commit whose answer was lost
    tamper(
        &dir,
        &[
            "INSERT INTO entries SELECT idx + 1, body, leaf_hash, meter_id, reset_id
           FROM entries ORDER BY idx DESC LIMIT 1",
        ],
    )
    .await;
    let refused = running.record(&id(1), "x").await;
    assert!(matches!(refused, Err(Error::TrailUnwritable(_))));
    let index = running.record(&id(1), "x").await.unwrap();
    assert_eq!(index, size + 1);
    assert_eq!(running.verified().await, size + 2);
    running.stop().await;
}

#[tokio::test]
async fn a_trail_that_shrinks_behind_the_writer_is_never_written_again() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    running.record(&id(1), "x").await.unwrap();
    tamper(
        &dir,
        &[
            "DELETE FROM entries WHERE idx > 1",
            "ALTER TABLE entries RENAME TO hidden",
        ],
    )
    .await;
    running.record(&id(2), "x").await.unwrap_err();
    tamper(&dir, &["ALTER TABLE hidden RENAME TO entries"]).await;
    for number in 3..6 {
        let refused = running.record(&id(number), "x").await;
        assert!(matches!(refused, Err(Error::TrailUnwritable(_))));
    }
    running.stop().await;
}

#[tokio::test]
async fn a_writer_that_is_finished_writes_what_is_waiting_and_takes_nothing_more() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let ids: Vec<String> = (0..50).map(id).collect();
    let waiting = ids.iter().map(|id| running.record(id, "x"));
    let (answers, ()) = futures::join!(futures::future::join_all(waiting), async {
        running.trigger.fire();
    });
    // each was either written or refused, and whoever was told of an index finds it there
    let acknowledged: Vec<u64> = answers.into_iter().filter_map(Result::ok).collect();
    running.tasks.join().await;
    let refused = running.record(&id(99), "x").await;
    assert!(matches!(refused, Err(Error::TrailUnwritable(_))));
    let size = running.verified().await;
    assert!(acknowledged.iter().all(|index| *index < size));
}
