//! What is believed of a meter.

use dlms::{Data, Request, Response};
use latchkey_proto::{
    audit::v1::EntryKind,
    custody::v1::{Mechanism, Protection},
};
use tonic::Code;

use crate::{
    House, METER, RELAY, reset_permit,
    support::{Association, CLIENT, Meter, PASSWORD, SERVER, method, reason, until},
};

pub(super) async fn nothing_comes_before_its_turn(house: &House, meter: &mut Meter) {
    let mut association = house.hls().await;
    let read = association.get_apdu(70, RELAY, 2);
    let early = reason(association.protect(read.clone()).await);
    assert_eq!(early, "OUT_OF_ORDER", "before the AARQ");
    let early = reason(association.answer(&[1; 16], SERVER).await);
    assert_eq!(early, "OUT_OF_ORDER");
    assert_eq!(
        reason(association.verify(vec![0x10; 17]).await),
        "OUT_OF_ORDER"
    );
    let release = dlms::initiate::InitiateRequest::new(dlms::Conformance::new(1), 0).encode();
    // The meter held an old association: AARQ, RLRQ, and the AARQ once more.
    for _ in 0..2 {
        let (apdu, _) = association.protect(release.clone()).await.unwrap();
        meter.open(&apdu);
    }
    association.initiate(meter).await.unwrap();
    assert_eq!(
        reason(association.protect(read.clone()).await),
        "OUT_OF_ORDER",
        "before HLS"
    );
    assert_eq!(
        reason(association.reply(vec![0x10; 17]).await),
        "APDU_NOT_PERMITTED",
        "no token yet"
    );
    let token = association.answer(&[0xAB; 16], SERVER).await.unwrap();
    meter
        .spent
        .insert(u32::from_be_bytes(token[1..5].try_into().unwrap()));
    assert_eq!(
        reason(association.answer(&[0xAC; 16], SERVER).await),
        "OUT_OF_ORDER",
        "once"
    );
    assert_eq!(
        reason(association.reply(vec![0x10; 17]).await),
        "APDU_NOT_PERMITTED",
        "another token"
    );
    assert_eq!(
        reason(association.protect(read.clone()).await),
        "OUT_OF_ORDER",
        "before pass 4"
    );
    let reply = association.reply(token.clone()).await.unwrap();
    meter.open(&reply);
    assert_eq!(
        reason(association.reply(token).await),
        "APDU_NOT_PERMITTED",
        "once"
    );
    let early = reason(association.verify(vec![0x10; 17]).await);
    assert_eq!(early, "OUT_OF_ORDER", "the answer has not come");
    let (apdu, _) = association.protect(release.clone()).await.unwrap();
    meter.open(&apdu);
    assert_eq!(
        reason(association.protect(release).await),
        "OUT_OF_ORDER",
        "released"
    );
    assert_eq!(
        reason(association.protect(read).await),
        "OUT_OF_ORDER",
        "after the RLRQ"
    );
}

pub(super) async fn a_false_meter_is_found_out(house: &House, meter: &mut Meter) {
    let mut association = house.hls().await;
    association.initiate(meter).await.unwrap();
    let own = association.challenge.clone();
    assert_eq!(
        reason(association.answer(&own, SERVER).await),
        "CHALLENGE_REFUSED",
        "reflection"
    );
    assert_eq!(
        reason(association.answer(&[1; 16], *b"MMM\0\0\0\0\x09").await),
        "CHALLENGE_REFUSED"
    );
    let reconnect = association.action_apdu(method(70, RELAY, 2), Some(Data::Integer(0)));
    assert_eq!(
        reason(association.answer(&reconnect, SERVER).await),
        "CHALLENGE_AMBIGUOUS",
        "a request in disguise"
    );
    assert_eq!(
        reason(association.answer(&[1; 7], SERVER).await),
        "REQUEST_INVALID"
    );

    let token = association.answer(&[1; 16], SERVER).await.unwrap();
    meter
        .spent
        .insert(u32::from_be_bytes(token[1..5].try_into().unwrap()));
    let reply = association.reply(token.clone()).await.unwrap();
    meter.open(&reply);
    let answer = Response::Action {
        invoke: association.invoke(),
        result: dlms::ActionResult::new(0),
        data: Some(Ok(Data::OctetString(token.clone()))),
    };
    let ciphered = meter.seal(0xCF, &answer.encode());
    association.unprotect(ciphered).await.unwrap();
    let refused = association.verify(token).await;
    assert_eq!(refused.as_ref().unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(
        reason(refused),
        "HLS_ANSWER_WRONG",
        "our own token, sent back"
    );
    let right = meter.token(SERVER, meter.counter, &association.challenge);
    assert_eq!(
        reason(association.verify(right).await),
        "CONTEXT_UNKNOWN",
        "there is one try"
    );
}

pub(super) async fn responses_are_authentic_and_new(house: &House, meter: &mut Meter) {
    let mut association = house.hls().await;
    association.establish(meter).await.unwrap();
    let read = association.get_apdu(70, RELAY, 2);
    let (apdu, _) = association.protect(read).await.unwrap();
    meter.open(&apdu);
    let value = association.value(Data::Boolean(true));
    let good = meter.seal(0xCC, &value);

    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    let refused = association.unprotect(changed).await;
    assert_eq!(refused.as_ref().unwrap_err().code(), Code::DataLoss);
    assert_eq!(reason(refused), "CIPHERTEXT_INVALID");
    let counter = meter.counter;
    for (what, apdu) in [
        (
            "authenticated only",
            meter.seal_with(0xCC, 0x10, counter, &value),
        ),
        (
            "encrypted only",
            meter.seal_with(0xCC, 0x20, counter, &value),
        ),
        (
            "another suite",
            meter.seal_with(0xCC, 0x31, counter, &value),
        ),
        (
            "the broadcast key",
            meter.seal_with(0xCC, 0x70, counter, &value),
        ),
        ("not ciphered", value.clone()),
        (
            "the answer to an ACTION",
            meter.seal_with(0xCF, 0x30, counter, &value),
        ),
        (
            "a dedicated key",
            meter.seal_with(0xD4, 0x30, counter, &value),
        ),
        (
            "a tag that is not the plaintext's",
            meter.seal_with(0xCC, 0x30, counter, &[0xC7, 1, 0xC1, 0, 0]),
        ),
        ("malformed", vec![0xCC, 0x01, 0x30]),
    ] {
        let refused = association.unprotect(apdu).await;
        assert_eq!(
            refused.as_ref().unwrap_err().code(),
            Code::DataLoss,
            "{what}"
        );
        assert_eq!(reason(refused), "RESPONSE_REFUSED", "{what}");
    }
    assert_eq!(association.unprotect(good.clone()).await.unwrap(), value);
    let again = association.unprotect(good).await;
    assert_eq!(reason(again), "RESPONSE_REFUSED", "nothing waits for it");
    let read = association.get_apdu(70, RELAY, 2);
    let (apdu, _) = association.protect(read).await.unwrap();
    meter.open(&apdu);
    let replayed = meter.seal_with(0xCC, 0x30, counter, &association.value(Data::Boolean(true)));
    assert_eq!(
        reason(association.unprotect(replayed).await),
        "CIPHERTEXT_INVALID",
        "an old counter"
    );
    association.close().await.unwrap();
}

pub(super) async fn recordings_are_old(house: &House, meter: &mut Meter) {
    // What the meter said once, in an association long ago.
    let mut association = house.hls().await;
    association.establish(meter).await.unwrap();
    let read = association.get_apdu(70, RELAY, 2);
    meter.open(&association.protect(read).await.unwrap().0);
    let recorded = meter.seal(0xCC, &association.value(Data::Boolean(true)));
    association.close().await.unwrap();

    let mut association = house.hls().await;
    association.establish(meter).await.unwrap();
    let read = association.get_apdu(70, RELAY, 2);
    meter.open(&association.protect(read).await.unwrap().0);
    assert_eq!(
        reason(association.unprotect(recorded).await),
        "CIPHERTEXT_INVALID"
    );
    association.close().await.unwrap();

    // A cold start took the meter's counter away; HLS proves that it is the meter all the same.
    let lost = meter.counter;
    meter.counter = 10;
    let mut association = house.hls().await;
    association.establish(meter).await.unwrap();
    association.close().await.unwrap();
    until("the trail says so", async || {
        let entries = house.bed.auditor.entries(EntryKind::KeyUse);
        entries
            .iter()
            .any(|entry| entry.detail.contains("went back"))
    })
    .await;
    meter.counter = lost;
}

pub(super) async fn blocks_follow_a_permitted_get(house: &House, meter: &mut Meter) {
    let mut association = house.hls().await;
    association.establish(meter).await.unwrap();
    let read = association.get_apdu(70, RELAY, 2);
    meter.open(&association.protect(read).await.unwrap().0);
    let invoke = association.invoke();
    let block = |block, last| {
        Response::GetBlock {
            invoke,
            last,
            block,
            payload: Ok(vec![3, 1]),
        }
        .encode()
    };
    let next = |block| Request::GetNext { invoke, block }.encode();
    assert_eq!(
        reason(association.protect(next(1)).await),
        "APDU_NOT_PERMITTED",
        "no block came"
    );
    let first = meter.seal(0xCC, &block(1, false));
    association.unprotect(first).await.unwrap();
    assert_eq!(
        reason(association.protect(next(2)).await),
        "APDU_NOT_PERMITTED",
        "another block"
    );
    let (apdu, _) = association.protect(next(1)).await.unwrap();
    assert_eq!(meter.open(&apdu), next(1));
    assert_eq!(
        reason(association.protect(next(1)).await),
        "APDU_NOT_PERMITTED",
        "once"
    );
    let last = meter.seal(0xCC, &block(2, true));
    association.unprotect(last).await.unwrap();
    assert_eq!(
        reason(association.protect(next(2)).await),
        "APDU_NOT_PERMITTED",
        "it was the last"
    );
}

pub(super) async fn low_level_security_believes_rising_counters_only(
    house: &House,
    meter: &mut Meter,
) {
    let signed = house.bed.auditor.sign(&reset_permit());
    let how = (Mechanism::Low, Protection::Glo);
    meter.counter += 100;
    let mut association = Association::open(&house.custody, &signed, METER, how)
        .await
        .unwrap();
    assert_eq!(association.challenge, PASSWORD);
    association.initiate(meter).await.unwrap();
    let read = association.get_apdu(70, RELAY, 2);
    meter.open(&association.protect(read).await.unwrap().0);
    let value = association.value(Data::Boolean(false));
    let ciphered = meter.seal(0xCC, &value);
    assert_eq!(association.unprotect(ciphered).await.unwrap(), value);

    let mut association = Association::open(&house.custody, &signed, METER, how)
        .await
        .unwrap();
    let highest = meter.counter;
    meter.counter -= 3;
    let refused = association.initiate(meter).await;
    assert_eq!(
        reason(refused),
        "CIPHERTEXT_INVALID",
        "nothing proves the meter alive"
    );
    meter.counter = highest;
}

pub(super) async fn general_glo_names_the_sender(house: &House, meter: &mut Meter) {
    let signed = house.bed.auditor.sign(&reset_permit());
    let how = (Mechanism::HlsGmac, Protection::GeneralGlo);
    let mut association = Association::open(&house.custody, &signed, METER, how)
        .await
        .unwrap();
    association.initiate(meter).await.unwrap();
    let token = association.answer(&[1; 16], SERVER).await.unwrap();
    meter
        .spent
        .insert(u32::from_be_bytes(token[1..5].try_into().unwrap()));
    let reply = association.reply(token).await.unwrap();
    assert_eq!((reply[0], &reply[2..10]), (0xDB, &CLIENT[..]));
    meter.open(&reply);
    meter.counter += 1;
    let theirs = meter.token(SERVER, meter.counter, &association.challenge);
    let answer = Response::Action {
        invoke: association.invoke(),
        result: dlms::ActionResult::new(0),
        data: Some(Ok(Data::OctetString(theirs.clone()))),
    };
    let good = meter.seal(0xDB, &answer.encode());
    let mut stranger = good.clone();
    stranger[9] ^= 1;
    assert_eq!(
        reason(association.unprotect(stranger).await),
        "RESPONSE_REFUSED"
    );
    association.unprotect(good).await.unwrap();
    association.verify(theirs).await.unwrap();
    let read = association.get_apdu(70, RELAY, 2);
    assert_eq!(
        meter.open(&association.protect(read.clone()).await.unwrap().0),
        read
    );
}
