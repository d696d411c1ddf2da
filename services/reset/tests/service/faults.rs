//! What goes wrong between the command and its verdict.

use latchkey_proto::{
    audit::v1::EntryKind,
    reset::v1::{ResetState, Verdict},
};

use crate::{
    bed::Bed,
    meter::{Lists, Strike},
};

/// Runs one reset with these strikes; verdict, acts and executions must be as given, whether evidence is read one by one
/// or in lists. The bed is the former's.
async fn expect(strikes: &[Strike], verdict: Verdict, acts: usize, executed: u32) -> Bed {
    let expected = (verdict, acts, executed);
    let (bed, _) = tokio::join!(
        run(strikes, Lists::NotGranted, expected),
        run(strikes, Lists::Answered, expected)
    );
    bed
}

async fn run(
    strikes: &[Strike],
    lists: Lists,
    (verdict, acts, executed): (Verdict, usize, u32),
) -> Bed {
    let bed = Bed::new().await;
    {
        let mut world = bed.meter.world();
        world.lists = lists;
        world.strikes.extend(strikes);
    }
    let reset = bed.reset().await;
    let reset = bed.finished(&reset.reset_id).await;
    let story: Vec<String> = bed
        .story(&reset.reset_id, 0)
        .await
        .into_iter()
        .filter_map(|response| response.event.map(|event| event.text))
        .collect();
    assert_eq!(
        reset.verdict(),
        verdict,
        "{lists:?}: {}\n{story:#?}",
        reset.detail
    );
    {
        let world = bed.meter.world();
        assert_eq!(
            (world.acts.len(), world.executed),
            (acts, executed),
            "{story:#?}"
        );
    }
    bed
}

#[tokio::test]
async fn a_lost_answer_is_resolved_by_evidence() {
    expect(&[Strike::AnswerLost], Verdict::ZombieResolved, 1, 1).await;
}

#[tokio::test]
async fn a_lost_request_is_sent_again_under_a_new_permit() {
    let bed = expect(&[Strike::RequestLost], Verdict::Succeeded, 2, 1).await;
    assert_eq!(bed.meter.world().acted_under.len(), 2);
}

#[tokio::test]
async fn a_broken_connection_to_the_association_service_proves_nothing() {
    expect(
        &[Strike::Broken { executed: true }],
        Verdict::ZombieResolved,
        1,
        1,
    )
    .await;
    expect(
        &[Strike::Broken { executed: false }],
        Verdict::Succeeded,
        2,
        1,
    )
    .await;
}

#[tokio::test]
async fn a_command_that_was_not_sent_is_sent_under_a_new_permit() {
    let bed = expect(&[Strike::NotSent], Verdict::Succeeded, 1, 1).await;
    let outcomes = bed
        .auditor
        .office()
        .kinds()
        .iter()
        .filter(|kind| **kind == EntryKind::Outcome)
        .count();
    assert_eq!(outcomes, 2, "both attempts are in the trail");
}

#[tokio::test]
async fn temporary_failure_is_tried_again() {
    expect(&[Strike::Result(2)], Verdict::Succeeded, 2, 1).await;
}

#[tokio::test]
async fn a_refusal_of_the_meter_is_final() {
    expect(&[Strike::Result(3)], Verdict::NotAccepted, 1, 0).await;
}

#[tokio::test]
async fn a_meter_that_only_says_yes_is_found_out() {
    expect(&[Strike::Ignored], Verdict::NotAccepted, 1, 0).await;
}

#[tokio::test]
async fn harm_is_found_out() {
    expect(&[Strike::RelayMoves], Verdict::SupplyChanged, 1, 1).await;
    expect(&[Strike::DataLost], Verdict::DataRisk, 1, 1).await;
    let bed = expect(&[Strike::MetrologyOnly], Verdict::Partial, 1, 1).await;
    let entries = &bed.auditor.office().entries;
    let last = entries.last().expect("a verdict");
    assert!(
        last.detail.contains("communication module"),
        "{}",
        last.detail
    );
}

#[tokio::test]
async fn a_session_that_ended_on_our_side_proves_nothing() {
    // The communication module did not restart only because the association service did.
    expect(
        &[Strike::Forgotten { executed: false }],
        Verdict::NotAccepted,
        1,
        0,
    )
    .await;
    let detail = |bed: &Bed| bed.auditor.office().entries.last().unwrap().detail.clone();
    let strikes = [Strike::Forgotten { executed: true }];
    let bed = expect(&strikes, Verdict::Succeeded, 1, 1).await;
    assert!(detail(&bed).contains("unproven"), "{}", detail(&bed));
    let bed = expect(&[], Verdict::Succeeded, 1, 1).await;
    assert!(!detail(&bed).contains("unproven"), "{}", detail(&bed));
}

#[tokio::test]
async fn an_event_log_that_was_half_cleared_is_found_out() {
    let bed = Bed::new().await;
    {
        let mut world = bed.meter.world();
        world.events = vec![7; 12];
        world.strikes.push_back(Strike::EventsLost);
    }
    let reset = bed.reset().await;
    let reset = bed.finished(&reset.reset_id).await;
    assert_eq!(reset.verdict(), Verdict::DataRisk, "{}", reset.detail);
    assert!(reset.detail.contains("12 -> 8"), "{}", reset.detail);
}

#[tokio::test]
async fn a_permit_that_does_not_cover_the_evidence_is_replaced() {
    let bed = Bed::new().await;
    bed.meter.world().uncovered = Some(("0.0.99.98.0.255", 8));
    let reset = bed.reset().await;
    let reset = bed.finished(&reset.reset_id).await;
    assert_eq!(reset.verdict(), Verdict::Succeeded, "{}", reset.detail);
}

#[tokio::test]
async fn the_session_of_newer_guards_tells_nothing_about_an_older_command() {
    let bed = Bed::new().await;
    bed.meter.world().strikes.push_back(Strike::Later);
    bed.meter.world().blink = Some("0.0.96.8.0.255");
    let reset = bed.reset().await;
    let reset = bed.finished(&reset.reset_id).await;
    assert_eq!(reset.verdict(), Verdict::ZombieResolved, "{}", reset.detail);
    assert!(reset.detail.contains("cause unproven"), "{}", reset.detail);
    assert_eq!(bed.meter.world().acts.len(), 1);
}

/// Waits for the command to be under way, kills the service, and starts it again.
async fn killed_in_the_act(executed: bool) -> (Bed, Verdict) {
    let mut bed = Bed::new().await;
    bed.meter
        .world()
        .strikes
        .push_back(Strike::Hang { executed });
    let reset = bed.reset().await;
    bed.until(&reset.reset_id, |reset| reset.state() == ResetState::Acting)
        .await;
    let sent = async {
        while bed.meter.world().acts.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), sent)
        .await
        .expect("the command is under way");
    bed.kill();
    bed.start().await;
    let verdict = bed.finished(&reset.reset_id).await.verdict();
    (bed, verdict)
}

#[tokio::test]
async fn killed_after_the_meter_executed_it_is_not_sent_again() {
    let (bed, verdict) = killed_in_the_act(true).await;
    assert_eq!(verdict, Verdict::ZombieResolved);
    let world = bed.meter.world();
    assert_eq!((world.acts.len(), world.executed), (1, 1));
}

#[tokio::test]
async fn killed_before_the_meter_had_it_it_is_sent_once_more() {
    let (bed, verdict) = killed_in_the_act(false).await;
    assert_eq!(verdict, Verdict::Succeeded);
    let world = bed.meter.world();
    assert_eq!((world.acted_under.len(), world.executed), (2, 1));
}

#[tokio::test]
async fn killed_while_waiting_it_goes_on() {
    let mut bed = Bed::new().await;
    let reset = bed.reset().await;
    bed.until(&reset.reset_id, |reset| {
        reset.state() == ResetState::Waiting
    })
    .await;
    bed.kill();
    bed.start().await;
    let reset = bed.finished(&reset.reset_id).await;
    assert_eq!(reset.verdict(), Verdict::Succeeded, "{}", reset.detail);
    assert_eq!(bed.meter.world().executed, 1);
}

#[tokio::test]
async fn a_profile_that_is_gone_or_changed_blocks_no_meter() {
    let change = |bed: &Bed| {
        let text = std::fs::read_to_string(bed.profile()).unwrap();
        std::fs::write(bed.profile(), text.replace("120003", "120002")).unwrap();
    };
    let remove = |bed: &Bed| std::fs::remove_file(bed.profile()).unwrap();
    for (gone, acted) in [(true, false), (true, true), (false, false)] {
        let mut bed = Bed::new().await;
        bed.auditor.office().away = !acted;
        // Longer than anybody waits for it: the process dies while it does.
        bed.meter.world().boot = std::time::Duration::from_secs(3600);
        let reset = bed.reset().await;
        if acted {
            bed.until(&reset.reset_id, |reset| {
                reset.state() == ResetState::Waiting
            })
            .await;
        }
        bed.kill();
        bed.auditor.office().away = false;
        match gone {
            true => remove(&bed),
            false => change(&bed),
        }
        bed.start().await;
        let reset = bed.finished(&reset.reset_id).await;
        let verdict = match acted {
            true => Verdict::Unreachable,
            false => Verdict::Refused,
        };
        assert_eq!(reset.verdict(), verdict, "{}", reset.detail);
        let says = ["reset profile", "quick", "changed or is gone"];
        assert!(
            says.iter().all(|text| reset.detail.contains(text)),
            "{}",
            reset.detail
        );
        assert_eq!(bed.meter.world().acts.len(), usize::from(acted));
        if !gone {
            let again = bed.reset().await;
            assert_ne!(again.reset_id, reset.reset_id, "the meter is free");
        }
    }
}

#[tokio::test]
async fn no_receipt_no_act() {
    let bed = Bed::new().await;
    bed.auditor.office().away = true;
    let reset = bed.reset().await;
    let told = bed.resets();
    // It has tried, and tells that it waits.
    let tried = async {
        let mut told = told;
        let request = latchkey_proto::reset::v1::WatchResetRequest {
            reset_id: reset.reset_id.clone(),
            after_sequence: 1,
        };
        let mut stream = told.watch_reset(request).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap().event.unwrap()
    };
    assert_eq!(tried.await.kind, "NOTE");
    assert!(bed.meter.world().acts.is_empty());
    bed.auditor.office().away = false;
    assert_eq!(
        bed.finished(&reset.reset_id).await.verdict(),
        Verdict::Succeeded
    );
}

#[tokio::test]
async fn a_verdict_waits_for_the_trail() {
    let bed = Bed::new().await;
    let reset = bed.reset().await;
    bed.until(&reset.reset_id, |reset| {
        reset.state() == ResetState::Waiting
    })
    .await;
    bed.auditor.office().away = true;
    bed.until(&reset.reset_id, |reset| {
        reset.state() == ResetState::Validating
    })
    .await;
    bed.auditor.office().away = false;
    let reset = bed.finished(&reset.reset_id).await;
    assert_eq!(reset.verdict(), Verdict::Succeeded);
    let kinds = bed.auditor.office().kinds();
    let last: Vec<EntryKind> = kinds.iter().rev().take(2).rev().copied().collect();
    assert_eq!(last, [EntryKind::Outcome, EntryKind::Verdict]);
}
