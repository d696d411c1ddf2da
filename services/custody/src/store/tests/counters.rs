use kit::clock;

use super::*;

#[tokio::test]
async fn a_late_answer_does_not_lower_the_counter() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store
        .insert_keys(&row(METER, 1), &[], &Entry::default())
        .await?;
    for (last, raised, held) in [(7, true, 7), (7, false, 7), (5, false, 7), (9, true, 9)] {
        let fence = Some(0);
        assert_eq!(
            store.raise_received(METER, fence, last).await?,
            raised,
            "{last}"
        );
        assert_eq!(store.keys(METER).await?.unwrap().last_received, Some(held));
    }
    // One that HLS has proven alive may have lost its counter.
    store.set_received(METER, Some(0), 3, None).await?;
    assert_eq!(store.keys(METER).await?.unwrap().last_received, Some(3));
    Ok(())
}

#[tokio::test]
async fn no_counter_is_reserved_twice() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = HashSet::new();
    let mut highest = 0;
    // Each turn is a process that dies with most of its blocks unused.
    for turn in 0..5 {
        let store = open(dir.path()).await;
        store
            .insert_keys(&row(METER, 1), &[], &Entry::default())
            .await?;
        let begun = store.begin_context(METER, Some(block(32))).await?;
        assert_eq!(begun.fence, turn + 1);
        let wanted = block(32);
        let blocks = join_all((0..19).map(|_| store.reserve_counters(&wanted, begun.fence))).await;
        for block in blocks.into_iter().chain([Ok(begun.counters)]) {
            let block = block?;
            assert_eq!(block.len(), 32);
            assert!(block.start > highest, "a reopened store goes on above");
            assert!(
                block.clone().all(|counter| seen.insert(counter)),
                "{block:?} was reserved before"
            );
        }
        highest = seen.iter().copied().max().unwrap_or(0);
        store.pool.close().await;
    }
    assert_eq!(seen.len(), 5 * 20 * 32);
    assert_eq!(seen.iter().min(), Some(&1));
    Ok(())
}

#[tokio::test]
async fn counters_end_before_they_wrap() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store
        .insert_keys(&row(METER, COUNTER_END - 40), &[], &Entry::default())
        .await?;
    let begun = store.begin_context(METER, Some(block(32))).await?;
    assert_eq!(begun.counters, COUNTER_END - 40..COUNTER_END - 8);
    let rest = store.reserve_counters(&block(32), begun.fence).await?;
    assert_eq!(rest, COUNTER_END - 8..COUNTER_END, "what is left");
    let error = store.reserve_counters(&block(1), begun.fence).await;
    assert_eq!(error.unwrap_err().reason(), "INVOCATION_COUNTER_EXHAUSTED");
    for wanted in [1, 32] {
        let error = store.begin_context(METER, Some(block(wanted))).await;
        assert_eq!(error.unwrap_err().reason(), "INVOCATION_COUNTER_EXHAUSTED");
    }
    let nobody = Reservation {
        meter_id: "nobody",
        ..block(32)
    };
    for error in [
        store.reserve_counters(&nobody, 1).await.unwrap_err(),
        store
            .begin_context("nobody", Some(nobody))
            .await
            .unwrap_err(),
        store.begin_context("nobody", None).await.unwrap_err(),
    ] {
        assert_eq!(error.reason(), "KEYS_UNKNOWN");
    }
    assert_eq!(
        store.keys(METER).await?.unwrap().next_counter,
        COUNTER_END,
        "a refusal takes nothing"
    );
    Ok(())
}

/// Whatever the sizes of blocks, one and only one of them brings the warning.
#[tokio::test]
async fn the_warning_comes_once() -> Result<(), Error> {
    for size in [1, 3, 7, 10, 64] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await;
        store
            .insert_keys(&row(METER, 1), &[], &Entry::default())
            .await?;
        let wanted = Reservation {
            warning: 21,
            ..block(size)
        };
        let begun = store.begin_context(METER, Some(wanted)).await?;
        let mut last = begun.counters;
        while last.end <= 100 {
            let warned = store.pending("", 99).await?.len() - 1;
            assert_eq!(warned, usize::from(last.end > 21), "{size}: {last:?}");
            let next = store.reserve_counters(&wanted, begun.fence).await?;
            assert_eq!((next.start, next.len()), (last.end, last.len()));
            last = next;
        }
        let pending = store.pending("", 99).await?;
        let detail = &pending[1].entry.detail;
        assert!(detail.contains("transfer a new encryption key"), "{detail}");
    }
    Ok(())
}

/// What an older context can do once a later one has begun, in whichever process: nothing.
#[tokio::test]
async fn a_later_context_ends_the_older_one() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (open(dir.path()).await, open(dir.path()).await);
    one.insert_keys(&row(METER, 1), &[], &Entry::default())
        .await?;
    let older = one.begin_context(METER, Some(block(8))).await?.fence;
    let entry = Entry::default();
    one.check_fence(METER, Some(older)).await?;
    let later = two.begin_context(METER, Some(block(8))).await?;
    assert_eq!((later.fence, later.counters), (older + 1, 9..17));
    let fenced = [
        one.check_fence(METER, Some(older)).await.err(),
        one.reserve_counters(&block(8), older).await.err(),
        one.set_received(METER, Some(older), 7, Some(&entry))
            .await
            .err(),
        one.raise_received(METER, Some(older), 7).await.err(),
        one.count_uses(PERMIT, (METER, Some(older)), &[(used(3, 1), 1)], &entry)
            .await
            .err(),
    ];
    for error in fenced {
        assert_eq!(error.unwrap().reason(), "CONTEXT_FENCED");
    }
    let held = two.keys(METER).await?.unwrap();
    assert_eq!((held.next_counter, held.last_received), (17, None));
    assert!(two.permit_use(PERMIT).await?.0.is_empty());
    assert_eq!(two.pending("", 9).await?.len(), 1, "nothing is reported");

    two.count_uses(
        PERMIT,
        (METER, Some(later.fence)),
        &[(used(9, 1), 1)],
        &entry,
    )
    .await?;
    two.set_received(METER, Some(later.fence), 7, None).await?;
    assert!(
        one.raise_received(METER, None, 8).await?,
        "proven is proven"
    );
    Ok(())
}

/// A key that is not in use yet has counters of its own, behind the same fence.
#[tokio::test]
async fn another_generation_has_its_own_counters() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store
        .insert_keys(&row(METER, 100), &[], &Entry::default())
        .await?;
    for (generation, state) in [(2, "NEW"), (3, "DESTROYED")] {
        sqlx::query(
            "INSERT INTO key_generations (meter_id, kind, generation, state, secret, check_value, seal, kek_generation, \
             next_counter, last_received, create_us, state_us) VALUES ($1, $5, $2, $3, $4, $4, $4, 1, 1, -1, 7, 7)",
        )
        .bind(METER)
        .bind(generation)
        .bind(state)
        .bind(b"".as_slice())
        .bind(ENCRYPTION)
        .execute(&store.pool)
        .await?;
    }
    let of = |generation| Reservation {
        of: CounterOf::Other { generation },
        ..block(8)
    };
    let begun = store.begin_context(METER, Some(of(2))).await?;
    assert_eq!(begun.counters, 1..9);
    assert_eq!(store.reserve_counters(&of(2), begun.fence).await?, 9..17);
    assert_eq!(store.keys(METER).await?.unwrap().next_counter, 100);
    for wanted in [of(3), of(4)] {
        let error = store.reserve_counters(&wanted, begun.fence).await;
        assert_eq!(error.unwrap_err().reason(), "CONTEXT_FENCED");
    }
    let retired = Reservation {
        of: CounterOf::InUse { generation: 9 },
        ..block(8)
    };
    let error = store.reserve_counters(&retired, begun.fence).await;
    assert_eq!(error.unwrap_err().reason(), "CONTEXT_FENCED");
    store.begin_context(METER, None).await?;
    let error = store.reserve_counters(&of(2), begun.fence).await;
    assert_eq!(error.unwrap_err().reason(), "CONTEXT_FENCED");
    Ok(())
}

/// What nobody signed raises the counters of a meter by so much a day, and nothing lowers them.
#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one story, told in its order")]
async fn hints_are_bounded() -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store
        .insert_keys(&row(METER, 100), &[], &Entry::default())
        .await?;
    let raise = async |at_least, source| {
        let floor = Floor {
            meter_id: METER,
            generation: 1,
            at_least,
            source,
            hint_max: 50,
        };
        store.raise_floor(floor, |_| Entry::default()).await
    };
    let steps = [
        (90, Source::Hint, Raised::Already(100)),
        (100, Source::Hint, Raised::Already(100)),
        (
            151,
            Source::Hint,
            Raised::TooFar {
                next: 100,
                left: 50,
            },
        ),
        (130, Source::Hint, Raised::From(100)),
        (
            151,
            Source::Hint,
            Raised::TooFar {
                next: 130,
                left: 20,
            },
        ),
        (150, Source::Hint, Raised::From(130)),
        (151, Source::Hint, Raised::TooFar { next: 150, left: 0 }),
        (9000, Source::Certain, Raised::From(150)),
        (500, Source::Certain, Raised::Already(9000)),
        (
            9001,
            Source::Hint,
            Raised::TooFar {
                next: 9000,
                left: 0,
            },
        ),
    ];
    let mut entries = 1;
    for (at_least, source, expected) in steps {
        let raised = raise(at_least, source).await?;
        assert_eq!(raised, expected, "{at_least}, {source:?}");
        entries += usize::from(matches!(raised, Raised::From(_)));
        assert_eq!(store.pending("", 99).await?.len(), entries, "one each");
    }
    let yesterday = clock::micros(clock::now()) - 86_400_000_001;
    sqlx::query("UPDATE counter_floors SET raise_us = $1")
        .bind(yesterday)
        .execute(&store.pool)
        .await?;
    assert_eq!(raise(9050, Source::Hint).await?, Raised::From(9000));
    let other = Floor {
        meter_id: METER,
        generation: 2,
        at_least: 99_999,
        source: Source::Certain,
        hint_max: 0,
    };
    let error = store.raise_floor(other, |_| Entry::default()).await;
    assert_eq!(error.unwrap_err().reason(), "KEYS_UNKNOWN");
    assert_eq!(store.keys(METER).await?.unwrap().next_counter, 9050);
    Ok(())
}
