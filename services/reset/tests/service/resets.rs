//! `ResetService` from the outside.

use latchkey_proto::{
    association::v1::Fit,
    audit::v1::{CommandService, EntryKind, Purpose, Tier},
    reset::v1::{
        CancelResetRequest, CreateResetRequest, GetResetRequest, ListResetsRequest, ResetState,
        Verdict,
    },
};
use tonic::Code;

use crate::{
    bed::{Bed, wish},
    meter::Lists,
};

#[tokio::test]
async fn one_reset_from_wish_to_verdict() {
    let bed = Bed::new().await;
    let reset = bed.reset().await;
    assert_eq!(reset.state(), ResetState::Planned);
    let story = bed.story(&reset.reset_id, 0).await;
    let events: Vec<_> = story
        .iter()
        .filter_map(|response| response.event.clone())
        .collect();
    let sequences: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(
        sequences,
        (1..=u64::try_from(events.len()).unwrap()).collect::<Vec<_>>()
    );
    let last = story
        .last()
        .and_then(|response| response.reset.clone())
        .expect("a reset");
    assert_eq!(
        (last.verdict(), last.exit_code),
        (Verdict::Succeeded, 0),
        "{events:#?}"
    );
    assert_eq!(last.principal, "spiffe://latchkey.test/operator/ann");
    let told = |text: &str| events.iter().any(|event| event.text.contains(text));
    for text in [
        "guard: relay closed (connected), control mode 4",
        "signed, leaf ",
        "act: ACTION 9/0.0.10.1.0.255 method 1 script 3",
        "rejoined after",
        "relay unchanged",
        "verdict in the trail, leaf ",
    ] {
        assert!(told(text), "{text} in {events:#?}");
    }
    let office = bed.auditor.office();
    assert_eq!(
        office.kinds(),
        [
            EntryKind::Intent,
            EntryKind::Intent,
            EntryKind::Outcome,
            EntryKind::Verdict
        ]
    );
    assert_eq!(office.starts, 1, "the start is in the trail");
    let plan = office
        .asked
        .iter()
        .find(|plea| plea.purpose() == Purpose::Reset)
        .expect("a plan");
    assert_eq!(
        (plan.tier(), plan.on_behalf_of.as_str()),
        (Tier::Cold, "spiffe://latchkey.test/operator/ann")
    );
    let mut acts = plan.commands.clone();
    acts.retain(|c| c.service() != CommandService::Get);
    assert!(matches!(acts.as_slice(), [act] if act.max_uses == 1 && act.class_id == 9));
    let verdict = office.entries.last().expect("a verdict");
    assert_eq!(
        (verdict.verdict.as_str(), verdict.reset_id.as_str()),
        ("SUCCEEDED", reset.reset_id.as_str())
    );
    let outcome = office.entries.get(2).expect("an outcome");
    assert!(
        outcome.invocation_counter > 1000
            && outcome.commands.len() == 1
            && !outcome.permit_id.is_empty()
    );
}

#[tokio::test]
async fn a_disconnected_meter_stays_disconnected() {
    let bed = Bed::new().await;
    bed.meter.world().relay_closed = false;
    let reset = bed.reset().await;
    let reset = bed.finished(&reset.reset_id).await;
    assert_eq!(reset.verdict(), Verdict::Succeeded, "{}", reset.detail);
    assert!(!bed.meter.world().relay_closed);
    assert!(bed.meter.world().acts.iter().all(|act| act.class_id != 70));
}

#[tokio::test]
async fn a_story_can_be_resumed() {
    let bed = Bed::new().await;
    let reset = bed.reset().await;
    let whole = bed.story(&reset.reset_id, 0).await;
    let rest = bed.story(&reset.reset_id, 3).await;
    assert_eq!(rest.len(), whole.len() - 3);
    assert_eq!(
        rest.first()
            .and_then(|r| r.event.clone())
            .map(|e| e.sequence),
        Some(4)
    );
}

#[tokio::test]
async fn the_same_request_is_the_same_reset() {
    let bed = Bed::new().await;
    bed.auditor.office().away = true;
    let request = wish();
    let mut client = bed.resets();
    let first = client
        .create_reset(request.clone())
        .await
        .unwrap()
        .into_inner()
        .reset
        .unwrap();
    let again = client
        .create_reset(request.clone())
        .await
        .unwrap()
        .into_inner()
        .reset
        .unwrap();
    assert_eq!(first.reset_id, again.reset_id);
    let mut other = request;
    other.reason = "another reason".to_owned();
    let refused = client.create_reset(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    let second = client.create_reset(wish()).await.unwrap_err();
    assert_eq!(second.code(), Code::FailedPrecondition);
    assert_eq!(
        kit::status::reason(&second).as_deref(),
        Some("RESET_UNDER_WAY")
    );
    assert!(second.message().contains(&first.reset_id));
}

#[tokio::test]
async fn bad_wishes_are_refused_and_recorded() {
    let bed = Bed::new().await;
    let mut client = bed.resets();
    let mut unknown = wish();
    unknown.meter_id = "x-9".to_owned();
    let refused = client.create_reset(unknown).await.unwrap_err();
    assert_eq!(
        (refused.code(), kit::status::reason(&refused).as_deref()),
        (Code::NotFound, Some("METER_UNKNOWN"))
    );
    let mut bad = wish();
    bad.tier = 0;
    bad.reason.clear();
    let refused = client.create_reset(bad).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let office = bed.auditor.office();
    assert_eq!(office.kinds(), [EntryKind::Denial, EntryKind::Denial]);
    let first = office.entries.first().expect("a denial");
    assert_eq!(
        (first.meter_id.as_str(), first.principal.as_str()),
        ("x-9", "spiffe://latchkey.test/operator/ann")
    );
    assert!(first.detail.contains("not enrolled"));
}

#[tokio::test]
async fn a_refusal_reaches_the_trail_when_the_auditor_is_back() {
    let mut bed = Bed::new().await;
    bed.auditor.office().away = true;
    let mut unknown = wish();
    unknown.meter_id = "x-9".to_owned();
    let refused = bed.resets().create_reset(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    // Not even the death of the service loses it.
    bed.kill();
    bed.auditor.office().away = false;
    bed.start().await;
    let told = async {
        while !bed.auditor.office().kinds().contains(&EntryKind::Denial) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), told)
        .await
        .expect("the denial is in the trail");
}

#[tokio::test]
async fn a_refusal_reaches_the_trail_though_the_caller_has_gone() {
    let bed = Bed::new().await;
    bed.auditor.office().away = true;
    let mut unknown = wish();
    unknown.meter_id = "x-9".to_owned();
    let mut client = bed.resets();
    let hasty = tokio::time::timeout(
        std::time::Duration::from_secs(1),
        client.create_reset(unknown),
    );
    hasty.await.expect_err("it waits for the auditor");
    bed.auditor.office().away = false;
    let told = async {
        while !bed.auditor.office().kinds().contains(&EntryKind::Denial) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), told)
        .await
        .expect("the denial is in the trail");
}

fn wish_to_rehearse() -> CreateResetRequest {
    CreateResetRequest {
        validate_only: true,
        ..wish()
    }
}

#[tokio::test]
async fn evidence_is_read_in_lists_by_a_meter_that_takes_them() {
    let mut questions = Vec::new();
    for lists in [Lists::NotGranted, Lists::Answered, Lists::Choked] {
        let bed = Bed::new().await;
        bed.meter.world().lists = lists;
        let reset = bed.reset().await;
        let reset = bed.finished(&reset.reset_id).await;
        assert_eq!(
            reset.verdict(),
            Verdict::Succeeded,
            "{lists:?}: {}",
            reset.detail
        );
        assert_eq!(bed.meter.world().executed, 1, "{lists:?}");
        questions.push(bed.meter.world().questions);
    }
    let [single, listed, choked] = questions[..] else {
        panic!("three meters")
    };
    assert!(
        listed * 2 < single,
        "{listed} questions instead of {single}"
    );
    assert!(choked > single, "one list, and then one by one");
}

#[tokio::test]
async fn policy_says_no() {
    let bed = Bed::new().await;
    bed.auditor.office().deny = true;
    let reset = bed.reset().await;
    let reset = bed.finished(&reset.reset_id).await;
    assert_eq!((reset.verdict(), reset.exit_code), (Verdict::Refused, 1));
    assert!(bed.meter.world().acts.is_empty());
    let rehearsal = wish_to_rehearse();
    let refused = bed
        .resets()
        .create_reset(rehearsal.clone())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    bed.auditor.office().deny = false;
    let imagined = bed
        .resets()
        .create_reset(rehearsal)
        .await
        .unwrap()
        .into_inner()
        .reset
        .unwrap();
    assert!(imagined.reset_id.is_empty());
    assert!(
        imagined
            .detail
            .contains("the command crosses the link in one frame (91 octets)"),
        "{}",
        imagined.detail
    );
    bed.meter.world().fit = Fit::TooLong;
    let too_long = wish_to_rehearse();
    let refused = bed.resets().create_reset(too_long).await.unwrap_err();
    assert_eq!(
        (refused.code(), kit::status::reason(&refused).as_deref()),
        (Code::FailedPrecondition, Some("DOES_NOT_FIT"))
    );
    let listed = bed
        .resets()
        .list_resets(ListResetsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.resets.len(), 1, "a rehearsal creates nothing");
}

#[tokio::test]
async fn a_guard_says_no() {
    let bed = Bed::new().await;
    bed.meter.world().image_transfer = 1;
    let reset = bed.reset().await;
    let reset = bed.finished(&reset.reset_id).await;
    assert_eq!((reset.verdict(), reset.exit_code), (Verdict::Refused, 1));
    assert!(reset.detail.contains("firmware update"), "{}", reset.detail);
    assert!(bed.meter.world().acts.is_empty());
}

#[tokio::test]
async fn cancelling_before_and_after_the_pivot() {
    let bed = Bed::new().await;
    bed.auditor.office().away = true;
    let reset = bed.reset().await;
    let request = CancelResetRequest {
        reset_id: reset.reset_id.clone(),
    };
    // The trail cannot hold it yet, and so it is not over; but nothing will be sent any more.
    for _ in 0..2 {
        let cancelled = bed.resets().cancel_reset(request.clone()).await.unwrap();
        let reset = cancelled.into_inner().reset.unwrap();
        assert_eq!((reset.state(), reset.exit_code), (ResetState::Cancelled, 7));
        let said = &reset.detail;
        assert!(
            said.contains("cancelled by spiffe://") && said.contains("nothing was sent"),
            "{said}"
        );
    }
    bed.auditor.office().away = false;
    let reset = bed.finished(&reset.reset_id).await;
    assert_eq!((reset.state(), reset.exit_code), (ResetState::Cancelled, 7));
    bed.resets().cancel_reset(request).await.unwrap();
    assert!(bed.meter.world().acts.is_empty());

    // The meter is free once the trail holds the cancellation.
    bed.story(&reset.reset_id, 0).await;
    let reset = bed.reset().await;
    bed.until(&reset.reset_id, |reset| {
        reset.state() == ResetState::Waiting
    })
    .await;
    let request = CancelResetRequest {
        reset_id: reset.reset_id.clone(),
    };
    let refused = bed
        .resets()
        .cancel_reset(request.clone())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(
        kit::status::reason(&refused).as_deref(),
        Some("PAST_POINT_OF_NO_RETURN")
    );
    assert_eq!(
        bed.finished(&reset.reset_id).await.verdict(),
        Verdict::Succeeded
    );
    let over = bed.resets().cancel_reset(request).await.unwrap_err();
    assert_eq!(kit::status::reason(&over).as_deref(), Some("RESET_OVER"));
}

#[tokio::test]
async fn unknown_resets_are_not_found() {
    let bed = Bed::new().await;
    let request = GetResetRequest {
        reset_id: kit::context::new_id(),
    };
    assert_eq!(
        bed.resets().get_reset(request).await.unwrap_err().code(),
        Code::NotFound
    );
    let request = GetResetRequest {
        reset_id: "7".to_owned(),
    };
    assert_eq!(
        bed.resets().get_reset(request).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}
