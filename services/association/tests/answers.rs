//! What a meter answers that is wrong, refused, doubled or unasked; and what is known before it is asked anything.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod bench;

use std::{sync::Mutex, time::Duration};

use bench::{Bench, get, script, support::until, why};
use dlms::Data;
use kit::status::reason;
use latchkey_proto::association::v1::{
    Delivery, Fit, InvokeListRequest, InvokeRequest, OpenAssociationRequest, PlanAssociationRequest,
};
use tonic::Code;
use tonic_types::StatusExt as _;

fn fault(text: &str) -> impl FnOnce(&mut simulator::MeterOptions) + use<> {
    let fault = text.parse().unwrap();
    move |options| options.fault = Some(fault)
}

fn said(code: Code, reason: &str) -> (Code, String) {
    (code, reason.to_owned())
}

#[tokio::test]
async fn a_wrong_key_is_a_matter_of_the_security_context() {
    let bench = Bench::start(|options| options.lab_keys = bench::lab_keys(2), "").await;
    let refused = why(bench.open("reset", "r-1").await);
    assert_eq!(
        refused,
        (Code::FailedPrecondition, "SECURITY_CONTEXT".to_owned())
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_meter_with_less_protection_than_enrolled_is_refused() {
    let bench = Bench::start(|options| options.auth = simulator::Auth::None, "").await;
    let (code, reason) = why(bench.open("reset", "r-1").await);
    let known = ["ASSOCIATION_REJECTED_PERMANENT", "DOWNGRADE_REFUSED"];
    assert!(
        code == Code::FailedPrecondition && known.contains(&reason.as_str()),
        "{code:?} {reason}"
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_meter_that_holds_an_old_association_says_so_and_comes_round() {
    let bench = Bench::start(fault("stuck-association=1"), "").await;
    let busy = bench.open("reset", "r-1").await.unwrap_err();
    assert_eq!(
        (busy.code(), reason(&busy).unwrap().as_str()),
        (Code::Unavailable, "ASSOCIATION_REJECTED_TRANSIENT")
    );
    assert!(
        busy.message().contains("operation-not-possible"),
        "what the meter said, not that it closed: {busy}"
    );
    let wait = busy.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert_eq!(wait, Duration::from_secs(15 * 60));
    assert!(bench.open("reset", "r-1").await.is_ok());
    bench.stop().await;
}

#[tokio::test]
async fn answers_that_are_less_than_agreed_are_not_believed() {
    for name in [
        "plain-answer",
        "weaker-answer",
        "wrong-suite",
        "bad-tag",
        "replayed-counter",
    ] {
        let bench = Bench::start(fault(name), "").await;
        let opened = bench.open("reset", "r-1").await.unwrap();
        let mut question = get(&opened.association_id, 1, "0.0.42.0.0.255", 2);
        question.answer_timeout_ms = 500;
        let answer = bench.client("reset").invoke(question).await;
        let answer = answer.unwrap().into_inner();
        assert_eq!(
            (answer.delivery(), answer.result, answer.data),
            (Delivery::Unknown, 0, vec![]),
            "{name}"
        );
        assert!(!answer.cause.is_empty(), "{name}");
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_doubled_answer_is_taken_once() {
    let bench = Bench::start(fault("doubled-answer=9"), "").await;
    let opened = bench.open("reset", "r-1").await.unwrap();
    let mut client = bench.client("reset");
    for _ in 0..3 {
        let question = get(&opened.association_id, 1, "0.0.42.0.0.255", 2);
        let answer = client.invoke(question).await.unwrap().into_inner();
        assert_eq!(answer.delivery(), Delivery::Answered, "{}", answer.cause);
    }
    bench.stop().await;
}

#[tokio::test]
async fn what_a_meter_says_unasked_waits_for_the_next_call() {
    let bench = Bench::start(
        |options| {
            fault("partial-metrology-only")(options);
            options.notify.events = true;
        },
        "",
    )
    .await;
    let opened = bench.open("reset", "r-1").await.unwrap();
    let mut client = bench.client("reset");
    let cold = client.invoke(script(&opened.association_id, 3)).await;
    let heard = cold.unwrap().into_inner().notifications;
    // The board comes back, and logs it, while nothing is asked.
    bench.told(r#""event":"logged","code":2"#).await;
    let heard = Mutex::new(heard);
    until("both events are heard", || async {
        let question = get(&opened.association_id, 70, "0.0.96.3.10.255", 2);
        let answer = bench.client("reset").invoke(question).await;
        let answer = answer.unwrap().into_inner();
        assert_eq!(answer.delivery(), Delivery::Answered, "{}", answer.cause);
        assert_eq!(answer.dropped_notification_count, 0);
        let mut heard = heard.lock().unwrap();
        heard.extend(answer.notifications);
        heard.len() >= 2
    })
    .await;
    let heard = heard.into_inner().unwrap();
    for notification in heard {
        let attribute = notification.attribute.unwrap();
        assert!(
            attribute.class_id > 0 && attribute.index > 0,
            "{attribute:?}"
        );
        assert!(Data::decode(&notification.data).is_ok());
    }
    bench.stop().await;
}

#[tokio::test]
async fn lists_that_are_not_granted_are_not_sent() {
    let bench = Bench::start(|options| options.services.lists = false, "").await;
    let relay = |index| get("", 70, "0.0.96.3.10.255", index).command.unwrap();
    let commands = vec![relay(2), relay(3)];
    let request = OpenAssociationRequest {
        meter_id: "m-1".to_owned(),
        permit: Some(bench::permit_for("m-1", "reset", commands.clone())),
        holder: "r-1".to_owned(),
        public_client: false,
    };
    let mut client = bench.client("reset");
    let opened = client.open_association(request).await.unwrap().into_inner();
    let seen = bench.gets_seen();
    let list = InvokeListRequest {
        association_id: opened.association_id,
        commands,
        ..InvokeListRequest::default()
    };
    let refused = client.invoke_list(list).await.unwrap_err();
    assert!(refused.message().contains("nothing was sent"), "{refused}");
    assert_eq!(
        why(Err::<(), _>(refused)),
        said(Code::FailedPrecondition, "SERVICE_NOT_GRANTED")
    );
    assert_eq!(bench.gets_seen(), seen, "custody was not asked either");
    bench.stop().await;
}

#[tokio::test]
async fn a_plan_touches_no_meter() {
    let bench = Bench::start(|_| {}, "").await;
    let command = |request: InvokeRequest| request.command.unwrap();
    let request = PlanAssociationRequest {
        meter_id: "m-1".to_owned(),
        commands: vec![
            command(get("", 8, "0.0.1.0.0.255", 2)),
            command(script("", 3)),
        ],
    };
    let mut client = bench.client("reset");
    let plan = client.plan_association(request.clone()).await.unwrap();
    let plan = plan.into_inner();
    assert_eq!(plan.client_max_receive_pdu_size, 1_024);
    let fits: Vec<_> = plan
        .fits
        .iter()
        .map(|fit| (fit.request(), fit.request_octets, fit.response()))
        .collect();
    // GET: 13 octets, ciphered 32; ACTION: 16 and 35; and the wrapper, and TCP over IPv4.
    assert_eq!(
        fits,
        [
            (Fit::OneFrame, 80, Fit::OneFrame),
            (Fit::OneFrame, 83, Fit::OneFrame)
        ]
    );
    assert_eq!(bench.custody.opened(), 0);
    assert!(!bench.has_told(r#""event":"connected""#));
    let unknown = PlanAssociationRequest {
        meter_id: "m-2".to_owned(),
        ..request
    };
    assert_eq!(
        why(client.plan_association(unknown).await),
        said(Code::NotFound, "METER_UNKNOWN")
    );
    bench.stop().await;
}
