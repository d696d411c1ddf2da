//! Several custodies, and one whose counters are behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed"
)]

mod bench;

use bench::{Bench, get, party, permit_for, support::free_address, why};
use dlms::Suite;
use latchkey_proto::{
    association::v1::{
        CreateMeterRequest, Delivery, Meter, OpenAssociationRequest, OpenAssociationResponse,
        ReleaseAssociationRequest,
    },
    audit::v1::Command,
    custody::v1::{Mechanism, Protection},
};
use tonic::{Code, Status};

const COUNTER: &str = "0.0.43.1.0.255";
const RELAY: &str = "0.0.96.3.10.255";

fn command(class_id: u32, name: &str) -> Command {
    get("", class_id, name, 2).command.unwrap()
}

async fn enrol(bench: &Bench) {
    let meter = Meter {
        meter_id: "m-1".to_owned(),
        address: bench.meter.to_string(),
        mechanism: Mechanism::HlsGmac.into(),
        protection: Protection::Glo.into(),
        profile: "standard".to_owned(),
        invocation_counter_name: COUNTER.to_owned(),
        ..Meter::default()
    };
    let request = CreateMeterRequest { meter: Some(meter) };
    bench.meters().create_meter(request).await.unwrap();
}

async fn open(bench: &Bench, commands: Vec<Command>) -> Result<OpenAssociationResponse, Status> {
    let request = OpenAssociationRequest {
        meter_id: "m-1".to_owned(),
        permit: Some(permit_for("m-1", "reset", commands)),
        holder: "r-1".to_owned(),
        public_client: false,
    };
    let opened = bench.client("reset").open_association(request).await?;
    Ok(opened.into_inner())
}

async fn reads(bench: &Bench, opened: &OpenAssociationResponse) {
    let asked = get(&opened.association_id, 70, RELAY, 2);
    let answer = bench.client("reset").invoke(asked).await.unwrap();
    assert_eq!(answer.into_inner().delivery(), Delivery::Answered);
    let release = ReleaseAssociationRequest {
        association_id: opened.association_id.clone(),
    };
    let mut client = bench.client("reset");
    client.release_association(release).await.unwrap();
}

/// A custody whose database lost what it gave out: the meter takes no request, and says which counter it expects.
#[tokio::test]
async fn a_meter_that_is_ahead_is_caught_up_with() {
    let bench = Bench::bare(party(Suite::Suite0, 1), |_| {}, "", "").await;
    enrol(&bench).await;
    let opened = open(&bench, vec![command(70, RELAY)]).await.unwrap();
    reads(&bench, &opened).await;
    let contexts = bench.custody.opened();
    bench.custody.rewind();
    let opened = open(&bench, vec![command(70, RELAY)]).await.unwrap();
    reads(&bench, &opened).await;
    assert_eq!(bench.custody.opened(), contexts + 2, "once more, and once");
    assert_eq!(bench.custody.hints().len(), 1);
    bench.stop().await;
}

/// A meter that does not say why it refuses is asked for its counter by the public client, where the permit covers it.
/// What it shows is a hint for custody; here it helps nothing, because the key is wrong.
#[tokio::test]
async fn a_meter_that_says_nothing_is_asked_for_its_counter() {
    let (right, wrong) = (party(Suite::Suite0, 1), party(Suite::Suite0, 2));
    let client = bench::Client {
        keys: wrong.client.keys,
        ..right.client
    };
    let party = bench::Party {
        meter: right.meter,
        client,
    };
    let bench = Bench::bare(party, |_| {}, "answer_timeout_ms = 1000", "").await;
    enrol(&bench).await;
    for (commands, hints) in [
        (vec![command(70, RELAY)], 0),
        (vec![command(70, RELAY), command(1, COUNTER)], 1),
    ] {
        let refused = why(open(&bench, commands).await);
        assert_eq!(refused.0, Code::FailedPrecondition, "{refused:?}");
        assert_eq!(bench.custody.hints(), vec![0; hints], "it took none yet");
    }
    bench.stop().await;
}

/// One process of custody is gone: associations are opened through the other.
#[tokio::test]
async fn contexts_are_opened_where_custody_serves() {
    let gone = [free_address().await, free_address().await];
    let party = party(Suite::Suite0, 1);
    let bench = Bench::beside(party, |_| {}, ("", ""), &gone).await;
    enrol(&bench).await;
    for _ in 0..4 {
        let opened = open(&bench, vec![command(70, RELAY)]).await.unwrap();
        reads(&bench, &opened).await;
    }
    bench.stop().await;
}
