//! Every mechanism, and which counters it makes believable.

use dlms::{CipherOp, CipherOutput, Data, Mechanism, Method, Protection, Request, Response, Suite};
use latchkey_proto::audit::v1::EntryKind;
use softcipher::Counters;

use crate::{
    House,
    forms::commands,
    support::{PASSWORD, SERVER, reason, until},
    talk::{Meter, Talk, client, how},
};

const OBJECT: &str = "0.0.96.1.0.255";
const HLS: [Mechanism; 5] = [
    Mechanism::HlsMd5,
    Mechanism::HlsSha1,
    Mechanism::HlsGmac,
    Mechanism::HlsSha256,
    Mechanism::HlsEcdsa,
];

pub(crate) async fn every_mechanism_ciphered(house: &House) {
    for suite in [Suite::Suite0, Suite::Suite1, Suite::Suite2] {
        let mut meter = Meter::new(house, &format!("hls-{}", suite.id()), suite)
            .enrolled(house)
            .await;
        for mechanism in [Mechanism::Low].into_iter().chain(HLS) {
            if mechanism == Mechanism::HlsEcdsa && suite == Suite::Suite0 {
                continue;
            }
            let how = how(mechanism, Protection::Glo);
            let mut talk = Talk::open(house, meter, how, commands()).await.unwrap();
            let length = match mechanism {
                Mechanism::Low => PASSWORD.len(),
                Mechanism::HlsEcdsa => 64,
                _ => 16,
            };
            assert_eq!(talk.association.challenge.len(), length, "{mechanism:?}");
            assert_eq!(talk.opened.server_system_title, SERVER);
            talk.establish().await.unwrap();
            talk.read(1, OBJECT, 2).await.unwrap();
            assert!(talk.counter > 0);
            talk.association.close().await.unwrap();
            meter = talk.meter;
        }
    }
}

/// A meter without keys for ciphering, whose APDUs go in clear: authenticated all the same, and under the permit.
pub(crate) async fn every_mechanism_in_clear(house: &House) {
    for suite in [Suite::Suite0, Suite::Suite1, Suite::Suite2] {
        let id = format!("clear-{}", suite.id());
        let meter = Meter::new(house, &id, suite).bare().enrolled(house).await;
        for mechanism in [
            Mechanism::Low,
            Mechanism::HlsMd5,
            Mechanism::HlsSha1,
            Mechanism::HlsSha256,
            Mechanism::HlsEcdsa,
        ] {
            if mechanism == Mechanism::HlsEcdsa && suite == Suite::Suite0 {
                continue;
            }
            let how = how(mechanism, Protection::Plain);
            let mut talk = Talk::open(house, meter.clone(), how, commands())
                .await
                .unwrap();
            if mechanism.is_high_level() {
                let read = talk.association.get_apdu(1, OBJECT, 2);
                let early = talk.association.protect(read).await;
                assert_eq!(reason(early), "OUT_OF_ORDER", "{mechanism:?}");
                // The answer of the AARE need not pass through custody, nor that of reply_to_HLS.
                let token = talk.association.answer(&[7; 32], SERVER).await.unwrap();
                let wrong = talk
                    .association
                    .action_apdu(Method::REPLY_TO_HLS, Some(Data::OctetString(vec![1; 32])));
                let wrong = talk.association.protect(wrong).await;
                assert_eq!(reason(wrong), "APDU_NOT_PERMITTED", "another token");
                talk.reply(&[7; 32], token).await.unwrap();
            }
            talk.read(1, OBJECT, 2).await.unwrap();
            let other = talk.association.get_apdu(1, OBJECT, 3);
            let refused = talk.association.protect(other).await;
            assert_eq!(reason(refused), "APDU_NOT_PERMITTED", "{mechanism:?}");
            assert_eq!(talk.counter, 0);
        }
    }
    // An AARE of a meter with MD5 or SHA-1 may have no title.
    let meter = Meter::new(house, "untitled", Suite::Suite0)
        .bare()
        .enrolled(house)
        .await;
    for (mechanism, expected) in [
        (Mechanism::HlsSha1, None),
        (Mechanism::HlsSha256, Some("CHALLENGE_REFUSED")),
    ] {
        let how = how(mechanism, Protection::Plain);
        let mut talk = Talk::open(house, meter.clone(), how, vec![]).await.unwrap();
        let request = latchkey_proto::custody::v1::AnswerChallengeRequest {
            server_certificate: Vec::new(),
            context_id: talk.association.context_id.clone(),
            server_challenge: vec![3; 16],
            server_system_title: Vec::new(),
        };
        let answered = talk.association.custody.answer_challenge(request).await;
        match expected {
            None => assert_eq!(answered.unwrap().into_inner().token.len(), 20),
            Some(expected) => assert_eq!(reason(answered), expected),
        }
        drop(talk);
    }
}

pub(crate) async fn a_wrong_answer_ends_the_context(house: &House) {
    let meter = Meter::new(house, "wrong", Suite::Suite1)
        .enrolled(house)
        .await;
    for mechanism in HLS {
        let length = mechanism.token_len(Suite::Suite1).unwrap();
        for wrong in 0..3 {
            let how = how(mechanism, Protection::Glo);
            let mut talk = Talk::open(house, meter.clone(), how, commands())
                .await
                .unwrap();
            talk.initiate().await.unwrap();
            let challenge = [9; 32];
            let token = talk.association.answer(&challenge, SERVER).await.unwrap();
            assert_eq!(token.len(), length, "{mechanism:?}");
            let reply = talk
                .association
                .action_apdu(Method::REPLY_TO_HLS, Some(Data::OctetString(token.clone())));
            talk.send(reply).await.unwrap();
            let mut theirs = talk.meter_answers(&challenge);
            match wrong {
                0 => theirs[length - 1] ^= 1,
                // Our own token, sent back.
                1 => theirs = token,
                _ => theirs.truncate(length - 1),
            }
            let answer = Response::Action {
                invoke: talk.association.invoke(),
                result: dlms::ActionResult::new(0),
                data: Some(Ok(Data::OctetString(theirs.clone()))),
            };
            talk.receive(&answer.encode()).await.unwrap();
            let refused = talk.association.verify(theirs).await;
            assert_eq!(reason(refused), "HLS_ANSWER_WRONG", "{mechanism:?} {wrong}");
            let read = talk.association.get_apdu(1, OBJECT, 2);
            assert_eq!(
                reason(talk.association.protect(read).await),
                "CONTEXT_UNKNOWN"
            );
        }
    }
}

/// A signature can be longer than what a meter takes at once: reply_to_HLS goes in blocks, and of this token only.
pub(crate) async fn a_long_answer_goes_in_blocks(house: &House) {
    let meter = Meter::new(house, "long-answer", Suite::Suite2);
    let meter = meter.enrolled(house).await;
    let how = how(Mechanism::HlsEcdsa, Protection::Glo);
    let mut talk = Talk::open(house, meter, how, commands()).await.unwrap();
    talk.initiate().await.unwrap();
    let challenge = [5; 48];
    let token = talk.association.answer(&challenge, SERVER).await.unwrap();
    let value = Data::OctetString(token).encode();
    let first = |talk: &mut Talk, octets: &[u8]| {
        Request::ActionFirstBlock {
            invoke: talk.association.next(),
            method: Method::REPLY_TO_HLS,
            last: false,
            block: 1,
            octets: octets.to_vec(),
        }
        .encode()
    };
    let wrong = first(&mut talk, &value[1..50]);
    let refused = talk.association.protect(wrong).await;
    assert_eq!(reason(refused), "APDU_NOT_PERMITTED", "not this token");
    let right = first(&mut talk, &value[..50]);
    assert_eq!(talk.send(right.clone()).await.unwrap(), right);
    let invoke = talk.association.invoke();
    let go_on = Response::ActionNextBlock { invoke, block: 1 };
    talk.receive(&go_on.encode()).await.unwrap();
    let last = Request::ActionBlock {
        invoke,
        last: true,
        block: 2,
        octets: value[50..].to_vec(),
    };
    talk.send(last.encode()).await.unwrap();
    let theirs = talk.meter_answers(&challenge);
    let answer = Response::Action {
        invoke,
        result: dlms::ActionResult::new(0),
        data: Some(Ok(Data::OctetString(theirs.clone()))),
    };
    talk.receive(&answer.encode()).await.unwrap();
    talk.association.verify(theirs).await.unwrap();
    talk.read(1, OBJECT, 2).await.unwrap();
}

async fn received(house: &House, meter_id: &str) -> i64 {
    let url = format!("sqlite://{}", house.bed.database().display());
    let pool = sqlx::AnyPool::connect(&url).await.unwrap();
    let statement = "SELECT last_received FROM meter_keys WHERE meter_id = $1";
    let last = sqlx::query_scalar(statement)
        .bind(meter_id)
        .fetch_one(&pool)
        .await
        .unwrap();
    pool.close().await;
    last
}

/// The APDU that carried a right answer has the meter's true counter, whatever the mechanism.
pub(crate) async fn a_meter_that_lost_its_counter_is_believed(house: &House) {
    for (number, mechanism) in HLS.into_iter().enumerate() {
        let id = format!("lost-{number}");
        let meter = Meter::new(house, &id, Suite::Suite1).enrolled(house).await;
        let how = how(mechanism, Protection::Glo);
        let mut talk = Talk::established(house, meter, how, commands()).await;
        // What the meter says now is recorded, and a recording later.
        let read = talk.association.get_apdu(1, OBJECT, 2);
        talk.send(read).await.unwrap();
        let value = talk.association.value(Data::Boolean(true));
        let recorded = talk.meter_sends(&value);
        talk.association.close().await.unwrap();
        let before = received(house, &id).await;
        assert!(before > 5000, "{mechanism:?}: {before}");

        let mut talk = Talk::established(house, talk.meter, how, commands()).await;
        let read = talk.association.get_apdu(1, OBJECT, 2);
        talk.send(read).await.unwrap();
        let refused = talk.association.unprotect(recorded).await;
        assert_eq!(reason(refused), "CIPHERTEXT_INVALID", "{mechanism:?}");

        let mut meter = talk.meter;
        let sent = Counters {
            sent: 10,
            received: meter.cipher.counters().received,
        };
        meter.cipher.resume(sent);
        let mut talk = Talk::established(house, meter, how, commands()).await;
        talk.read(1, OBJECT, 2).await.unwrap();
        talk.association.close().await.unwrap();
        assert!(received(house, &id).await < 100, "{mechanism:?}");
        until("the trail says so", async || {
            let entries = house.bed.auditor.entries(EntryKind::KeyUse);
            let of = |entry: &&latchkey_proto::audit::v1::Entry| entry.meter_id == id;
            entries
                .iter()
                .filter(of)
                .any(|entry| entry.detail.contains("went back"))
        })
        .await;
    }
}

/// Under a dedicated key, or one of its own, nothing proves a counter of the global key; an HLS5 token does.
pub(crate) async fn what_is_unproven_is_not_stored(house: &House) {
    use dlms::KeyChoice::Wrapped;
    for (number, (mechanism, protection, proven)) in [
        (Mechanism::HlsSha256, Protection::Ded, false),
        (Mechanism::HlsEcdsa, Protection::GeneralDed, false),
        (
            Mechanism::HlsSha1,
            Protection::GeneralCiphering(Wrapped),
            false,
        ),
        (Mechanism::HlsGmac, Protection::Ded, true),
        (
            Mechanism::HlsGmac,
            Protection::GeneralCiphering(Wrapped),
            true,
        ),
        (Mechanism::HlsSha256, Protection::GeneralGlo, true),
        (Mechanism::Low, Protection::Ded, true),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("unproven-{number}");
        let meter = Meter::new(house, &id, Suite::Suite1).enrolled(house).await;
        let how = how(mechanism, protection);
        let mut talk = Talk::established(house, meter, how, commands()).await;
        talk.read(1, OBJECT, 2).await.unwrap();
        talk.association.close().await.unwrap();
        let stored = received(house, &id).await;
        assert_eq!(
            stored > 5000,
            proven,
            "{mechanism:?} {protection:?}: {stored}"
        );
    }
    // With low-level security the answer to the AARQ is all there is under the global key: it must be new.
    let meter = Meter::new(house, "unproven-low", Suite::Suite0)
        .enrolled(house)
        .await;
    let how = how(Mechanism::Low, Protection::Ded);
    let mut talk = Talk::established(house, meter, how, commands()).await;
    let counters = talk.meter.cipher.counters();
    talk.meter.cipher.resume(Counters {
        sent: counters.sent - 1,
        ..counters
    });
    let mut talk = Talk::open(house, talk.meter, how, commands())
        .await
        .unwrap();
    assert_eq!(reason(talk.initiate().await), "CIPHERTEXT_INVALID");
    let stranger = CipherOp::Answer {
        peer_certificate: None,
        mechanism: Mechanism::HlsGmac,
        challenge: vec![1; 16],
        own_challenge: vec![2; 16],
        peer_title: client(),
        suite: Suite::Suite0,
    };
    assert!(matches!(
        talk.meter.cipher.run(stranger),
        Ok(CipherOutput::Token(_))
    ));
}
