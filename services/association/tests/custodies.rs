//! Several custodies, and one whose counters are behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed"
)]

mod bench;

use bench::{
    Bench, get, party, permit_for,
    support::free_address,
    why,
};
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

/// A custody whose database lost what it gave out: the meter takes no request, until its counter was read in clear.
#[tokio::test]
async fn a_meter_that_is_ahead_is_caught_up_with() {
    let bench = Bench::bare(party(Suite::Suite0, 1), |_| {}, "answer_timeout_ms = 1000", "").await;
    enrol(&bench).await;
    let commands = || vec![command(70, RELAY), command(1, COUNTER)];
    let opened = open(&bench, commands()).await.unwrap();
    reads(&bench, &opened).await;
    let contexts = bench.custody.opened();

    bench.custody.rewind();
    let refused = why(open(&bench, vec![command(70, RELAY)]).await);
    assert_eq!(
        refused.0,
        Code::FailedPrecondition,
        "no leave to read the counter: {refused:?}"
    );
    assert_eq!(bench.custody.opened(), contexts + 1);

    bench.custody.rewind();
    let opened = open(&bench, commands()).await.unwrap();
    reads(&bench, &opened).await;
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
