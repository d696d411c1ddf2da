//! `KeyRotationService` from the outside.

use std::time::Duration;

use latchkey_proto::{
    audit::v1::{EntryKind, Purpose},
    custody::v1::{KeyKind, RotationState},
    reset::v1::{
        GetKeyRotationRequest, KeyRotation, KeyRotationState, ListKeyRotationsRequest,
        RetryKeyRotationRequest, RotateKeysRequest, RotationVerdict, WatchKeyRotationRequest,
    },
};
use tonic::Code;

use crate::{bed::Bed, meter::Turn};

const PATIENCE: Duration = Duration::from_secs(30);

fn wish() -> RotateKeysRequest {
    RotateKeysRequest {
        request_id: kit::context::new_id(),
        meter_id: "m-1".to_owned(),
        keys: vec![
            KeyKind::GlobalUnicastEncryption.into(),
            KeyKind::GlobalAuthentication.into(),
        ],
        agree: false,
        reason: "due".to_owned(),
        ticket: "T-9".to_owned(),
    }
}

async fn rotate(bed: &Bed, turns: &[Turn]) -> KeyRotation {
    bed.meter.world().rotations = turns.iter().copied().collect();
    let begun = bed.rotations().rotate_keys(wish()).await.unwrap();
    begun.into_inner().rotation.unwrap()
}

/// Until it looks as wanted.
async fn until(bed: &Bed, id: &str, wanted: impl Fn(&KeyRotation) -> bool) -> KeyRotation {
    let looked = tokio::time::timeout(PATIENCE, async {
        loop {
            let request = GetKeyRotationRequest {
                rotation_id: id.to_owned(),
            };
            let rotation = bed.rotations().get_key_rotation(request).await.unwrap();
            let rotation = rotation.into_inner().rotation.unwrap();
            if wanted(&rotation) {
                return rotation;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    looked.await.expect("it never came to look as wanted")
}

async fn done(bed: &Bed, id: &str) -> KeyRotation {
    until(bed, id, |it| it.state() == KeyRotationState::Done).await
}

#[tokio::test]
async fn each_outcome_has_its_verdict() {
    use RotationState::{Abandoned, Active, New, Unsettled};
    for (turns, verdict, exit_code, attempts) in [
        (&[Turn::Told(Active, 0)][..], RotationVerdict::Rotated, 0, 1),
        (
            &[
                Turn::Told(Unsettled, 0),
                Turn::Broken,
                Turn::Told(Active, 0),
            ],
            RotationVerdict::Rotated,
            0,
            3,
        ),
        (&[Turn::Told(New, 0)], RotationVerdict::KeptOld, 4, 3),
        (&[Turn::Told(New, 3)], RotationVerdict::Refused, 1, 1),
        (&[Turn::Told(Abandoned, 0)], RotationVerdict::KeptOld, 4, 1),
        (
            &[Turn::Refused(
                Code::FailedPrecondition,
                "ROTATION_IMPOSSIBLE",
            )],
            RotationVerdict::Refused,
            1,
            1,
        ),
        (
            &[Turn::Refused(Code::Unavailable, "METER_UNREACHABLE")],
            RotationVerdict::Unreachable,
            2,
            3,
        ),
    ] {
        let bed = Bed::new().await;
        let begun = rotate(&bed, turns).await;
        let ended = done(&bed, &begun.rotation_id).await;
        assert_eq!(
            (ended.verdict(), ended.exit_code, ended.attempts),
            (verdict, exit_code, attempts),
            "{turns:?}: {}",
            ended.detail
        );
    }
}

#[tokio::test]
async fn every_attempt_has_its_own_permit_and_the_trail_its_verdict() {
    let bed = Bed::new().await;
    let turns = [
        Turn::Told(RotationState::Unsettled, 0),
        Turn::Told(RotationState::Active, 0),
    ];
    let begun = rotate(&bed, &turns).await;
    let ended = done(&bed, &begun.rotation_id).await;
    assert_eq!(ended.principal, "spiffe://latchkey.test/operator/ann");
    let waits = tokio::time::timeout(PATIENCE, async {
        while bed.auditor.office().kinds().last() != Some(&EntryKind::Verdict) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waits.await.expect("the verdict reaches the trail");
    let office = bed.auditor.office();
    let asked: Vec<_> = office.asked.iter().filter(|it| !it.validate_only).collect();
    assert_eq!(asked.len(), 2);
    assert_ne!(asked[0].request_id, asked[1].request_id);
    for plea in asked {
        assert_eq!(plea.purpose(), Purpose::Rekey);
        assert_eq!(plea.reset_id, begun.rotation_id);
        assert_eq!((plea.commands.len(), plea.commands[0].class_id), (1, 64));
    }
    let last = office.entries.last().unwrap();
    assert_eq!(
        (last.verdict.as_str(), last.reset_id.as_str()),
        ("ROTATED", begun.rotation_id.as_str())
    );
}

#[tokio::test]
async fn what_is_not_settled_does_not_end_and_goes_on_after_a_crash() {
    let mut bed = Bed::new().await;
    let begun = rotate(&bed, &[Turn::Told(RotationState::Unsettled, 0)]).await;
    // More attempts than are configured, and no verdict: only a proof ends it.
    let seen = until(&bed, &begun.rotation_id, |it| {
        it.attempts >= 4 && it.state() == KeyRotationState::Unsettled
    })
    .await;
    assert_eq!(seen.verdict(), RotationVerdict::Unspecified);
    let other = bed.rotations().rotate_keys(wish()).await.unwrap_err();
    assert_eq!(kit::status::reason(&other).unwrap(), "ROTATION_UNDER_WAY");
    bed.kill();
    bed.meter.world().rotations = [Turn::Told(RotationState::Active, 0)].into();
    bed.start().await;
    let ended = done(&bed, &begun.rotation_id).await;
    assert_eq!(ended.verdict(), RotationVerdict::Rotated);
    let request = RetryKeyRotationRequest {
        rotation_id: begun.rotation_id,
    };
    let over = bed
        .rotations()
        .retry_key_rotation(request)
        .await
        .unwrap_err();
    assert_eq!(kit::status::reason(&over).unwrap(), "ROTATION_OVER");
}

#[tokio::test]
async fn the_same_request_is_the_same_rotation() {
    let bed = Bed::new().await;
    let mut client = bed.rotations();
    let wish = wish();
    let first = client
        .rotate_keys(wish.clone())
        .await
        .unwrap()
        .into_inner()
        .rotation
        .unwrap();
    let again = client
        .rotate_keys(wish.clone())
        .await
        .unwrap()
        .into_inner()
        .rotation
        .unwrap();
    assert_eq!(first.rotation_id, again.rotation_id);
    let other = RotateKeysRequest {
        keys: vec![KeyKind::Master.into()],
        ..wish
    };
    let refused = client.rotate_keys(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    done(&bed, &first.rotation_id).await;
    let listed = client
        .list_key_rotations(ListKeyRotationsRequest::default())
        .await;
    assert_eq!(listed.unwrap().into_inner().rotations.len(), 1);
    let active = ListKeyRotationsRequest {
        active_only: true,
        ..ListKeyRotationsRequest::default()
    };
    assert!(
        client
            .list_key_rotations(active)
            .await
            .unwrap()
            .into_inner()
            .rotations
            .is_empty()
    );
    let request = WatchKeyRotationRequest {
        rotation_id: first.rotation_id,
    };
    let mut stream = client
        .watch_key_rotation(request)
        .await
        .unwrap()
        .into_inner();
    let told = stream.message().await.unwrap().unwrap().rotation.unwrap();
    assert_eq!(told.verdict(), RotationVerdict::Rotated);
    assert!(stream.message().await.unwrap().is_none());
}

#[tokio::test]
async fn what_policy_refuses_is_not_begun() {
    let bed = Bed::new().await;
    bed.auditor.office().deny = true;
    let refused = bed.rotations().rotate_keys(wish()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(bed.meter.world().turns, 0);
    let nobody = RotateKeysRequest {
        meter_id: "nobody".to_owned(),
        ..wish()
    };
    bed.auditor.office().deny = false;
    let unknown = bed.rotations().rotate_keys(nobody).await.unwrap_err();
    assert_eq!(kit::status::reason(&unknown).unwrap(), "METER_UNKNOWN");
}
