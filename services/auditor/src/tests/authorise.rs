//! Authorise: record, then sign.

use kit::permit;
use latchkey_proto::audit::v1::{AuthoriseResponse, Permit};
use std::time::Duration;

use super::*;

async fn authorise(
    running: &Running,
    request: &AuthoriseRequest,
) -> Result<AuthoriseResponse, Error> {
    running.api.auditor.authorise(&reset(), request).await
}

fn opened(running: &Running, response: &AuthoriseResponse) -> Permit {
    let signed = response.permit.as_ref().unwrap();
    let key = &running.api.auditor.keys.permit;
    permit::verify(signed, key, kit::clock::now(), Duration::ZERO).unwrap()
}

#[tokio::test]
async fn a_permit_says_what_was_asked_and_where_its_intent_is() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let request = cold_reset(1);
    let response = authorise(&running, &request).await.unwrap();
    assert_eq!(response.policy_ids, ["reset-act"]);
    let permit = opened(&running, &response);
    assert_eq!(permit.commands, request.commands);
    assert_eq!(permit.meter_id, request.meter_id);
    assert_eq!(permit.principal, request.on_behalf_of);
    assert_eq!(permit.requester, reset().to_string());
    assert_eq!(permit.log_origin, ORIGIN);
    assert_eq!(permit.reset_id, request.reset_id);
    let at = usize::try_from(permit.leaf_index).unwrap();
    let intent = &running.entries().await[at];
    assert_eq!(intent.kind(), EntryKind::Intent);
    assert_eq!(intent.permit_id, permit.permit_id);
    assert_eq!(intent.policy_ids, ["reset-act"]);
    assert_eq!(intent.commands[0].digest.len(), 32);
    running.stop().await;
}

#[tokio::test]
async fn the_same_request_gets_the_same_permit_and_another_is_refused() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let first = authorise(&running, &cold_reset(1)).await.unwrap();
    let again = authorise(&running, &cold_reset(1)).await.unwrap();
    assert_eq!(first, again);
    let other_body = AuthoriseRequest {
        reason: "something else".to_owned(),
        ..cold_reset(1)
    };
    let refused = authorise(&running, &other_body).await;
    assert!(matches!(refused, Err(Error::RequestReused(_))));
    let other_caller = peer("spiffe://latchkey.test/latchkey/other");
    let request = cold_reset(1);
    let refused = running.api.auditor.authorise(&other_caller, &request);
    assert!(matches!(refused.await, Err(Error::RequestReused(_))));
    running.stop().await;

    let running = Running::start(&dir).await;
    let after_restart = authorise(&running, &cold_reset(1)).await.unwrap();
    assert_eq!(first, after_restart);
    assert_eq!(running.of_kind(EntryKind::Intent).await.len(), 1);
    let second = authorise(&running, &cold_reset(2)).await.unwrap();
    assert_ne!(opened(&running, &second), opened(&running, &first));
    running.stop().await;
}

#[tokio::test]
async fn many_at_once_with_one_id_get_one_permit() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let request = cold_reset(1);
    let answers = futures::future::join_all((0..20).map(|_| authorise(&running, &request))).await;
    let permits: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert!(permits.iter().all(|permit| *permit == permits[0]));
    assert_eq!(running.of_kind(EntryKind::Intent).await.len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_denial_is_in_the_trail_once_with_its_cause() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let mut request = cold_reset(1);
    request.commands[0].class_id = 70;
    request.commands[0].logical_name = "0.0.96.3.10.255".to_owned();
    for _ in 0..2 {
        let error = authorise(&running, &request).await.unwrap_err();
        let status = tonic::Status::from(error);
        assert_eq!(status.code(), tonic::Code::PermissionDenied);
        assert_eq!(
            kit::status::reason(&status).as_deref(),
            Some("POLICY_DENIED")
        );
        assert!(status.message().contains("never-relay"), "{status}");
    }
    let denials = running.of_kind(EntryKind::Denial).await;
    assert_eq!(denials.len(), 1);
    assert!(denials[0].policy_ids.contains(&"never-relay".to_owned()));
    assert!(denials[0].detail.contains("0.0.96.3.10.255"));
    assert_eq!(denials[0].commands.len(), 1);
    assert!(running.of_kind(EntryKind::Intent).await.is_empty());
    running.stop().await;
}

#[tokio::test]
async fn a_request_id_used_again_hides_no_denial() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let relay = |method| {
        let mut request = cold_reset(1);
        request.commands[0].class_id = 70;
        request.commands[0].logical_name = "0.0.96.3.10.255".to_owned();
        request.commands[0].index = method;
        request
    };
    for method in [1, 2] {
        let denied = authorise(&running, &relay(method)).await;
        assert!(matches!(denied, Err(Error::Denied { .. })), "{denied:?}");
    }
    assert_eq!(running.of_kind(EntryKind::Denial).await.len(), 2);
    // nor behind a permit
    authorise(&running, &cold_reset(2)).await.unwrap();
    let other = AuthoriseRequest {
        request_id: id(2),
        ..relay(1)
    };
    for _ in 0..2 {
        let refused = authorise(&running, &other).await;
        assert!(
            matches!(refused, Err(Error::RequestReused(_))),
            "{refused:?}"
        );
    }
    assert_eq!(running.of_kind(EntryKind::Denial).await.len(), 3);
    running.stop().await;
}

#[tokio::test]
async fn who_is_not_a_reset_service_or_not_an_operator_is_denied() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let gateway = peer("spiffe://latchkey.test/latchkey/gateway");
    let request = cold_reset(1);
    let denied = running.api.auditor.authorise(&gateway, &request);
    assert!(matches!(denied.await, Err(Error::Denied { .. })));
    for (number, person) in [(2, "sam"), (3, "ines"), (4, "nobody")] {
        let request = AuthoriseRequest {
            on_behalf_of: format!("spiffe://latchkey.test/operator/{person}"),
            ..cold_reset(number)
        };
        let denied = authorise(&running, &request).await;
        assert!(matches!(denied, Err(Error::Denied { .. })), "{person}");
    }
    // a plan of the operator, in the name of the service
    let request = AuthoriseRequest {
        on_behalf_of: reset().to_string(),
        ..cold_reset(5)
    };
    let denied = authorise(&running, &request).await;
    assert!(matches!(denied, Err(Error::Denied { .. })));
    assert_eq!(running.of_kind(EntryKind::Denial).await.len(), 5);
    running.stop().await;
}

#[tokio::test]
async fn a_malformed_plan_is_refused_and_leaves_a_denial_without_its_text() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let mut request = cold_reset(1);
    request.commands[0].logical_name = "0.0.10.1".to_owned();
    request.meter_id = "a\nb".to_owned();
    request.reason = "x\ny".repeat(300);
    let error = authorise(&running, &request).await.unwrap_err();
    let status = tonic::Status::from(error);
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let denial = running.of_kind(EntryKind::Denial).await.remove(0);
    assert!(denial.detail.contains("commands[0].logical_name"));
    assert!(denial.meter_id.is_empty() && denial.commands.is_empty());
    assert!(denial.reason.len() <= 256 && !denial.reason.contains('\n'));
    running.stop().await;
}

#[tokio::test]
async fn a_rehearsal_signs_nothing_and_leaves_nothing_but_denials() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let before = running.entries().await.len();
    let request = AuthoriseRequest {
        validate_only: true,
        ..cold_reset(1)
    };
    let response = authorise(&running, &request).await.unwrap();
    assert!(response.permit.is_none() && !response.policy_ids.is_empty());
    assert_eq!(running.entries().await.len(), before);
    let denied = AuthoriseRequest {
        on_behalf_of: "spiffe://latchkey.test/operator/nobody".to_owned(),
        ..request
    };
    authorise(&running, &denied).await.unwrap_err();
    assert_eq!(running.of_kind(EntryKind::Denial).await.len(), 1);
    // the id is still free for the real thing
    authorise(&running, &cold_reset(1)).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn no_parameter_is_in_the_trail() {
    let (_guard, dir) = temporary();
    let running = Running::start(&dir).await;
    let secret = b"open sesame, meter";
    let mut request = cold_reset(1);
    request.commands[0].parameter = secret.to_vec();
    authorise(&running, &request).await.unwrap_err();
    authorise(&running, &cold_reset(2)).await.unwrap();
    for entry in running.entries().await {
        let body = entry.encode_to_vec();
        assert!(!body.windows(secret.len()).any(|w| w == secret));
        assert!(entry.commands.iter().all(|c| c.digest.len() == 32));
    }
    running.stop().await;
}
