//! A simulated meter behind a real gateway, and everything that can come of talking to it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod bench;

use std::time::Duration;

use bench::{
    Bench, get, permit, script,
    support::{free_address, until},
    why,
};
use dlms::{Data, Selection};
use kit::status::reason;
use latchkey_proto::{
    association::v1::{
        DeleteMeterRequest, Delivery, InvokeRequest, OpenAssociationRequest,
        ReleaseAssociationRequest,
    },
    audit::v1::SignedPermit,
    custody::v1::{Mechanism, Protection},
};
use tonic::Code;
use tonic_types::StatusExt as _;

fn fault(text: &str) -> impl FnOnce(&mut simulator::MeterOptions) + use<> {
    let fault = text.parse().unwrap();
    move |options| options.fault = Some(fault)
}

/// The association has ended. A meter that was reset may have ended it before anybody else did.
fn assert_over((code, reason): &(Code, String)) {
    let known = ["ASSOCIATION_GONE", "ASSOCIATION_CLOSED_BY_METER"];
    assert!(
        *code == Code::NotFound && known.contains(&reason.as_str()),
        "{code:?} {reason}"
    );
}

/// During an upgrade custody may be older than the stream of jobs.
#[tokio::test]
async fn an_older_custody_is_called() {
    let bench = Bench::start(|_| {}, "").await;
    bench.custody.know_calls_alone();
    for holder in ["r-1", "r-2"] {
        let opened = bench.open("reset", holder).await.unwrap();
        let mut client = bench.client("reset");
        let read = get(&opened.association_id, 70, "0.0.96.3.10.255", 2);
        let answer = client.invoke(read).await.unwrap().into_inner();
        assert_eq!(answer.delivery(), Delivery::Answered);
        let over = ReleaseAssociationRequest {
            association_id: opened.association_id,
        };
        client.release_association(over).await.unwrap();
    }
    assert_eq!(bench.custody.streams(), 0);
    bench.stop().await;
}

#[tokio::test]
async fn reads_acts_and_releases_over_hls5() {
    let bench = Bench::start(|_| {}, "").await;
    let opened = bench.open("reset", "r-1").await.unwrap();
    assert_eq!(
        opened.server_system_title,
        bench::lab_keys(1).server_system_title()
    );
    let mut client = bench.client("reset");

    let answer = client
        .invoke(get(&opened.association_id, 70, "0.0.96.3.10.255", 2))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (answer.delivery(), answer.result, answer.data),
        (Delivery::Answered, 0, Data::Boolean(true).encode())
    );
    let missing = client
        .invoke(get(&opened.association_id, 1, "0.0.96.1.77.255", 2))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (missing.delivery(), missing.result, missing.data),
        (Delivery::Answered, 4, vec![])
    );
    assert!(missing.invocation_counter > answer.invocation_counter);

    let soft = client
        .invoke(script(&opened.association_id, 1))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((soft.delivery(), soft.result), (Delivery::Answered, 0));
    bench.told(r#""event":"reset""#).await;

    let release = ReleaseAssociationRequest {
        association_id: opened.association_id.clone(),
    };
    client.release_association(release.clone()).await.unwrap();
    client.release_association(release).await.unwrap();
    let gone = client
        .invoke(get(&opened.association_id, 1, "0.0.42.0.0.255", 2))
        .await;
    assert_over(&why(gone));
    assert_eq!(bench.custody.open_now(), 0);
    bench.stop().await;
}

#[tokio::test]
async fn a_long_value_comes_in_blocks() {
    let bench = Bench::start(|_| {}, "max_pdu = 256").await;
    let opened = bench.open("reset", "r-1").await.unwrap();
    let mut client = bench.client("reset");
    let buffer = client
        .invoke(get(&opened.association_id, 7, "1.0.99.1.0.255", 2))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (buffer.delivery(), buffer.result),
        (Delivery::Answered, 0),
        "{}",
        buffer.cause
    );
    assert!(buffer.data.len() > 256, "{} octets", buffer.data.len());
    let rows = Data::decode(&buffer.data).unwrap();
    let mut one = get(&opened.association_id, 7, "1.0.99.1.0.255", 2);
    let entry = Selection::Entry {
        from_entry: 1,
        to_entry: 1,
        from_column: 1,
        to_column: 0,
    };
    one.command.as_mut().unwrap().selection = entry.encode();
    let one = client.invoke(one).await.unwrap().into_inner();
    let one = Data::decode(&one.data).unwrap();
    assert_eq!(
        one.as_elements().unwrap(),
        &rows.as_elements().unwrap()[..1]
    );
    bench.stop().await;
}

#[tokio::test]
async fn the_public_client_reads_in_clear_what_custody_allows() {
    let bench = Bench::start(|_| {}, "").await;
    let request = OpenAssociationRequest {
        meter_id: "m-1".to_owned(),
        permit: Some(permit("m-1", "reset")),
        holder: "r-1".to_owned(),
        public_client: true,
    };
    let mut client = bench.client("reset");
    let opened = client.open_association(request).await.unwrap().into_inner();
    let counter = client
        .invoke(get(&opened.association_id, 1, "0.0.43.1.0.255", 2))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            counter.delivery(),
            counter.result,
            counter.invocation_counter
        ),
        (Delivery::Answered, 0, 0)
    );
    assert!(matches!(
        Data::decode(&counter.data),
        Ok(Data::DoubleLongUnsigned(_))
    ));

    bench.custody.refuse_scripts();
    let refused = client.invoke(script(&opened.association_id, 3)).await;
    assert_eq!(
        why(refused),
        (Code::PermissionDenied, "APDU_NOT_PERMITTED".to_owned())
    );
    assert!(
        !bench.has_told(r#""event":"refused""#),
        "the meter never saw it"
    );
    bench.stop().await;
}

#[tokio::test]
async fn what_custody_refuses_is_an_error_and_the_association_goes_on() {
    let bench = Bench::start(|_| {}, "").await;
    let opened = bench.open("reset", "r-1").await.unwrap();
    bench.custody.refuse_scripts();
    let mut client = bench.client("reset");
    let refused = client.invoke(script(&opened.association_id, 3)).await;
    assert_eq!(
        why(refused),
        (Code::PermissionDenied, "APDU_NOT_PERMITTED".to_owned())
    );
    let answer = client
        .invoke(get(&opened.association_id, 70, "0.0.96.3.10.255", 3))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.delivery(), Delivery::Answered);
    assert!(!bench.has_told(r#""event":"reset""#));
    bench.stop().await;
}

#[tokio::test]
async fn a_lost_answer_is_unknown_and_the_end_of_the_association() {
    let bench = Bench::start(fault("lost-ack"), "").await;
    let opened = bench.open("reset", "r-1").await.unwrap();
    let mut client = bench.client("reset");
    let mut request = script(&opened.association_id, 3);
    request.answer_timeout_ms = 1_000;
    let lost = client.invoke(request).await.unwrap().into_inner();
    assert_eq!(
        (lost.delivery(), lost.result, lost.data),
        (Delivery::Unknown, 0, vec![])
    );
    assert!(
        !lost.cause.is_empty() && lost.invocation_counter > 0,
        "{}",
        lost.cause
    );
    bench.told(r#""tier":"cold","executed":1"#).await;
    let gone = client
        .invoke(get(&opened.association_id, 1, "0.0.42.0.0.255", 2))
        .await;
    assert_over(&why(gone));
    bench.stop().await;
}

#[tokio::test]
async fn the_callers_deadline_is_kept_without_an_error() {
    let bench = Bench::start(fault("slow=5000"), "").await;
    let mut client = bench.client("reset");
    let mut open = tonic::Request::new(OpenAssociationRequest {
        meter_id: "m-1".to_owned(),
        permit: Some(permit("m-1", "reset")),
        holder: "r-1".to_owned(),
        public_client: true,
    });
    open.set_timeout(Duration::from_secs(25));
    let opened = client.open_association(open).await.unwrap().into_inner();
    let mut request = tonic::Request::new(get(&opened.association_id, 1, "0.0.43.1.0.255", 2));
    request.get_mut().answer_timeout_ms = 60_000;
    request.set_timeout(Duration::from_secs(2));
    let late = client.invoke(request).await.unwrap().into_inner();
    assert_eq!(
        (late.delivery(), late.cause.as_str()),
        (Delivery::Unknown, "no answer before the caller's deadline")
    );
    bench.stop().await;
}

/// An association of the public client: two frames to open it, which a slow meter allows for.
async fn open_public(bench: &Bench) -> String {
    let request = OpenAssociationRequest {
        meter_id: "m-1".to_owned(),
        permit: Some(permit("m-1", "reset")),
        holder: "r-1".to_owned(),
        public_client: true,
    };
    bench
        .client("reset")
        .open_association(request)
        .await
        .unwrap()
        .into_inner()
        .association_id
}

fn slow_get(association_id: &str) -> InvokeRequest {
    let mut request = get(association_id, 1, "0.0.43.1.0.255", 2);
    request.answer_timeout_ms = 60_000;
    request
}

#[tokio::test]
async fn a_link_that_breaks_or_is_taken_over_in_mid_call_is_unknown() {
    let bench = Bench::start(fault("slow=1500"), "").await;
    let id = open_public(&bench).await;
    let mut client = bench.client("reset");
    let (answer, next) = tokio::join!(client.invoke(slow_get(&id)), async {
        bench.sent_get().await;
        open_public(&bench).await
    });
    let answer = answer.unwrap().into_inner();
    assert_eq!(answer.delivery(), Delivery::Unknown);
    assert!(answer.cause.contains("taken over"), "{}", answer.cause);

    let seen = bench.gets_seen();
    let (answer, ()) = tokio::join!(client.invoke(slow_get(&next)), async {
        until("the GET is on its way", || async {
            bench.gets_seen() > seen
        })
        .await;
        bench.stack.auditor.set(&["127.0.0.1/32"], &[]);
    });
    let answer = answer.unwrap().into_inner();
    assert_eq!(answer.delivery(), Delivery::Unknown);
    assert!(answer.cause.contains("broke"), "{}", answer.cause);
    bench.stop().await;
}

#[tokio::test]
async fn a_caller_who_left_gets_nothing_sent() {
    let bench = Bench::start(fault("slow=1000"), "").await;
    let id = open_public(&bench).await;
    let mut first = bench.client("reset");
    let mut second = bench.client("reset");
    let (answer, ()) = tokio::join!(first.invoke(slow_get(&id)), async {
        bench.sent_get().await;
        let mut queued = tonic::Request::new(script(&id, 3));
        queued.set_timeout(Duration::from_millis(600));
        assert!(
            second.invoke(queued).await.is_err(),
            "it waited behind the first, and left"
        );
    });
    assert_eq!(answer.unwrap().into_inner().delivery(), Delivery::Answered);
    let after = second.invoke(slow_get(&id)).await.unwrap().into_inner();
    assert_eq!(after.delivery(), Delivery::Answered, "{}", after.cause);
    assert!(
        !bench.has_told("0.0.10.1.0.255"),
        "the meter never saw the script"
    );
    bench.stop().await;
}

#[tokio::test]
async fn one_holder_at_a_time() {
    let bench = Bench::start(|_| {}, "").await;
    let first = bench.open("reset", "r-1").await.unwrap();
    let busy = bench.open("reset", "r-2").await.unwrap_err();
    assert_eq!(
        (busy.code(), reason(&busy).unwrap().as_str()),
        (Code::Aborted, "METER_BUSY")
    );
    let wait = busy.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(
        wait > Duration::from_secs(50) && wait <= Duration::from_secs(60),
        "{wait:?}"
    );
    assert_eq!(why(bench.open("cli", "r-1").await).1, "METER_BUSY");
    let theirs = bench
        .client("cli")
        .invoke(get(&first.association_id, 1, "0.0.42.0.0.255", 2))
        .await;
    assert_eq!(why(theirs), (Code::NotFound, "ASSOCIATION_GONE".to_owned()));

    let second = bench.open("reset", "r-1").await.unwrap();
    let mut client = bench.client("reset");
    let first = get(&first.association_id, 1, "0.0.42.0.0.255", 2);
    assert_eq!(why(client.invoke(first).await).1, "ASSOCIATION_GONE");
    let answer = client
        .invoke(get(&second.association_id, 1, "0.0.42.0.0.255", 2))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.delivery(), Delivery::Answered);
    bench.stop().await;
}

#[tokio::test]
async fn who_ended_an_association_is_told() {
    let bench = Bench::start(|_| {}, "").await;
    let opened = bench.open("reset", "r-1").await.unwrap();
    let mut client = bench.client("reset");
    let cold = client.invoke(script(&opened.association_id, 3)).await;
    assert_eq!(cold.unwrap().into_inner().delivery(), Delivery::Answered);
    let question = || get(&opened.association_id, 1, "0.0.42.0.0.255", 2);
    until("the meter restarts, and with it its module", || async {
        let asked = bench.client("reset").invoke(question()).await;
        asked.is_err_and(|error| reason(&error).as_deref() == Some("ASSOCIATION_CLOSED_BY_METER"))
    })
    .await;
    // It is told to its own caller alone.
    assert_eq!(
        why(bench.client("cli").invoke(question()).await),
        (Code::NotFound, "ASSOCIATION_GONE".to_owned())
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_lease_ends_by_itself() {
    let bench = Bench::start(|_| {}, "lease_seconds = 1").await;
    let opened = bench.open("reset", "r-1").await.unwrap();
    bench.told(r#""outcome":"released""#).await;
    until("another holder gets it", || async {
        bench.open("reset", "r-2").await.is_ok()
    })
    .await;
    let question = get(&opened.association_id, 1, "0.0.42.0.0.255", 2);
    let gone = why(bench.client("reset").invoke(question).await);
    assert_eq!(gone.1, "ASSOCIATION_GONE", "it was we who ended it");
    bench.stop().await;
}

#[tokio::test]
async fn stopping_releases_what_is_open() {
    let bench = Bench::start(|_| {}, "").await;
    bench.open("reset", "r-1").await.unwrap();
    bench.service_trigger.fire();
    bench.told(r#""outcome":"released""#).await;
    bench.stop().await;
}

/// Why an opening by the reset service fails.
async fn open_fails(bench: &Bench, meter_id: &str, permit: SignedPermit) -> (Code, String) {
    let request = OpenAssociationRequest {
        meter_id: meter_id.to_owned(),
        permit: Some(permit),
        holder: "r-1".to_owned(),
        public_client: false,
    };
    why(bench.client("reset").open_association(request).await)
}

fn said(code: Code, reason: &str) -> (Code, String) {
    (code, reason.to_owned())
}

#[tokio::test]
async fn permits_that_are_plainly_wrong_are_refused() {
    let bench = Bench::start(|_| {}, "").await;
    let reset = |meter_id: &str| permit(meter_id, "reset");
    let cases = [
        ("m-2", reset("m-2"), said(Code::NotFound, "METER_UNKNOWN")),
        (
            "m-1",
            reset("m-2"),
            said(Code::PermissionDenied, "PERMIT_METER_MISMATCH"),
        ),
        (
            "m-1",
            permit("m-1", "cli"),
            said(Code::PermissionDenied, "PERMIT_REQUESTER_MISMATCH"),
        ),
        (
            "no/such",
            reset("no/such"),
            said(Code::InvalidArgument, "INVALID_REQUEST"),
        ),
    ];
    for (meter_id, permit, expected) in cases {
        assert_eq!(open_fails(&bench, meter_id, permit).await, expected);
    }
    assert_eq!(bench.custody.opened(), 0);
    bench.stop().await;
}

#[tokio::test]
async fn ways_that_are_closed_are_told_apart_and_cost_no_use_of_the_permit() {
    let bench = Bench::start(|_| {}, "").await;
    let silent = free_address().await;
    bench
        .enrol("m-silent", silent, Mechanism::HlsGmac, Protection::Glo)
        .await
        .unwrap();
    let unlisted = "127.0.0.2:4059".parse().unwrap();
    bench
        .enrol("m-unlisted", unlisted, Mechanism::HlsGmac, Protection::Glo)
        .await
        .unwrap();
    let open = async |meter_id: &str| open_fails(&bench, meter_id, permit(meter_id, "reset")).await;
    assert_eq!(
        open("m-silent").await,
        said(Code::Unavailable, "METER_UNREACHABLE")
    );
    assert_eq!(
        open("m-unlisted").await,
        said(Code::PermissionDenied, "GATEWAY_REFUSED")
    );

    bench
        .stack
        .auditor
        .set(&["127.0.0.9/32"], &["127.0.0.1/32"]);
    until("the gateway resets us", || async {
        let mut tcp = tokio::net::TcpStream::connect(bench.stack.relay)
            .await
            .unwrap();
        let read = tokio::io::AsyncReadExt::read_u8(&mut tcp);
        matches!(
            tokio::time::timeout(Duration::from_millis(100), read).await,
            Ok(Err(_))
        )
    })
    .await;
    assert_eq!(
        open("m-1").await,
        said(Code::Unavailable, "GATEWAY_REFUSED")
    );
    assert_eq!(bench.custody.opened(), 0);
    bench.stop().await;
}

/// Makes room for another way to enrol the meter.
async fn forget(bench: &Bench) {
    let meter_id = "m-1".to_owned();
    let request = DeleteMeterRequest { meter_id };
    bench.meters().delete_meter(request).await.unwrap();
}

#[tokio::test]
async fn general_ciphering_and_passwords_work_too() {
    let bench = Bench::start(|options| options.auth = simulator::Auth::Low, "").await;
    forget(&bench).await;
    bench
        .enrol("m-1", bench.meter, Mechanism::Low, Protection::Plain)
        .await
        .unwrap();
    let opened = bench.open("reset", "r-1").await.unwrap();
    let request = get(&opened.association_id, 1, "0.0.42.0.0.255", 2);
    let answer = bench
        .client("reset")
        .invoke(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (answer.delivery(), answer.result, answer.invocation_counter),
        (Delivery::Answered, 0, 0)
    );
    bench.stop().await;

    let bench = Bench::start(|_| {}, "").await;
    forget(&bench).await;
    bench
        .enrol(
            "m-1",
            bench.meter,
            Mechanism::HlsGmac,
            Protection::GeneralGlo,
        )
        .await
        .unwrap();
    let opened = bench.open("reset", "r-1").await.unwrap();
    let request = get(&opened.association_id, 1, "0.0.42.0.0.255", 2);
    let answer = bench
        .client("reset")
        .invoke(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((answer.delivery(), answer.result), (Delivery::Answered, 0));
    bench.stop().await;
}

#[tokio::test]
async fn the_trace_shows_no_clear_apdu() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trace");
    let bench = Bench::start(|_| {}, &format!("trace_file = {file:?}")).await;
    let opened = bench.open("reset", "r-1").await.unwrap();
    let mut client = bench.client("reset");
    client
        .invoke(script(&opened.association_id, 1))
        .await
        .unwrap();
    client
        .release_association(ReleaseAssociationRequest {
            association_id: opened.association_id,
        })
        .await
        .unwrap();
    bench.stop().await;
    let trace = std::fs::read_to_string(file).unwrap();
    let lines = |direction: &str, tag: &str| {
        trace
            .lines()
            .filter(|line| {
                line.contains(direction) && line.split(' ').nth(3).unwrap()[16..].starts_with(tag)
            })
            .count()
    };
    assert_eq!(
        (lines(" > ", "60.."), lines(" < ", "61..")),
        (1, 1),
        "{trace}"
    );
    assert_eq!((lines(" > ", "cb"), lines(" < ", "cf")), (2, 2), "{trace}");
    // The script table's name, and the script: 12 00 01.
    assert!(
        !trace.contains("00000a0100ff") && !trace.contains("120001"),
        "{trace}"
    );
}
