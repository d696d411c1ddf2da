//! The meter directory, as its callers see it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod bench;

use std::{net::SocketAddr, sync::atomic::Ordering, time::Duration};

use bench::{Bench, support::Pki, why};
use latchkey_proto::{
    association::v1::{
        CreateMeterRequest, DeleteMeterRequest, GetMeterRequest, ListMetersRequest, Meter,
    },
    audit::v1::EntryKind,
    custody::v1::{Mechanism, Protection},
};
use tonic::Code;

fn elsewhere() -> SocketAddr {
    "127.0.0.3:4059".parse().unwrap()
}

#[tokio::test]
async fn enrolment_is_idempotent_and_in_the_trail() {
    let bench = Bench::start(|_| {}, "").await;
    let again = bench
        .enrol("m-1", bench.meter, Mechanism::HlsGmac, Protection::Glo)
        .await
        .unwrap();
    let by_address = GetMeterRequest {
        meter_id: String::new(),
        address: bench.meter.to_string(),
    };
    let found = bench
        .meters()
        .get_meter(by_address)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(found.meter, Some(again));
    let entries = bench.stack.auditor.entries(EntryKind::Meter);
    assert_eq!(entries.len(), 1, "the second enrolment changed nothing");
    assert_eq!(
        (entries[0].principal.as_str(), entries[0].meter_id.as_str()),
        (Pki::name("cli").as_str(), "m-1")
    );

    let other = bench
        .enrol("m-1", elsewhere(), Mechanism::HlsGmac, Protection::Glo)
        .await;
    assert_eq!(why(other), (Code::AlreadyExists, "METER_EXISTS".to_owned()));
    let taken = bench
        .enrol("m-9", bench.meter, Mechanism::HlsGmac, Protection::Glo)
        .await;
    assert_eq!(
        why(taken),
        (Code::AlreadyExists, "ADDRESS_TAKEN".to_owned())
    );
    assert_eq!(bench.stack.auditor.entries(EntryKind::Meter).len(), 1);
    bench.stop().await;
}

#[tokio::test]
async fn meters_are_listed_by_page_and_forgotten() {
    let bench = Bench::start(|_| {}, "").await;
    bench
        .enrol("m-2", elsewhere(), Mechanism::None, Protection::Plain)
        .await
        .unwrap();
    let mut meters = bench.meters();
    let first = ListMetersRequest {
        page_size: 1,
        page_token: String::new(),
    };
    let page = meters.list_meters(first).await.unwrap().into_inner();
    assert_eq!(page.meters[0].meter_id, "m-1");
    let rest = ListMetersRequest {
        page_size: 1,
        page_token: page.next_page_token,
    };
    let page = meters.list_meters(rest).await.unwrap().into_inner();
    assert_eq!(
        (
            page.meters[0].meter_id.as_str(),
            page.next_page_token.as_str()
        ),
        ("m-2", "")
    );
    for bad in [(1001, ""), (1, "zz")] {
        let request = ListMetersRequest {
            page_size: bad.0,
            page_token: bad.1.to_owned(),
        };
        assert_eq!(
            why(meters.list_meters(request).await).0,
            Code::InvalidArgument
        );
    }

    let delete = DeleteMeterRequest {
        meter_id: "m-2".to_owned(),
    };
    meters.delete_meter(delete.clone()).await.unwrap();
    assert_eq!(
        why(meters.delete_meter(delete).await),
        (Code::NotFound, "METER_UNKNOWN".to_owned())
    );
    assert_eq!(bench.stack.auditor.entries(EntryKind::Meter).len(), 3);
    bench.stop().await;
}

#[tokio::test]
async fn no_trail_no_enrolment() {
    let bench = Bench::start(|_| {}, "").await;
    bench.stack.auditor.away.store(true, Ordering::SeqCst);
    let meter = Meter {
        meter_id: "m-3".to_owned(),
        address: elsewhere().to_string(),
        mechanism: Mechanism::None.into(),
        protection: Protection::Plain.into(),
        profile: "standard".to_owned(),
        ..Meter::default()
    };
    let mut hasty = tonic::Request::new(CreateMeterRequest { meter: Some(meter) });
    hasty.set_timeout(Duration::from_secs(1));
    assert!(bench.meters().create_meter(hasty).await.is_err());
    let get = GetMeterRequest {
        meter_id: "m-3".to_owned(),
        address: String::new(),
    };
    assert_eq!(
        why(bench.meters().get_meter(get).await),
        (Code::NotFound, "METER_UNKNOWN".to_owned())
    );
    bench.stop().await;
}
