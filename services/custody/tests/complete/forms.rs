//! Every form of ciphering and signing, in every suite.

use dlms::{
    Access, Attribute, Data, InvokeId, KeyChoice, LongInvokeId, Mechanism, Method, Protection,
    Request, Response, Suite, agreement::AlgorithmId, initiate::InitiateRequest,
    security::GeneralCiphering,
};
use latchkey_proto::audit::v1::Command;
use softcipher::Keys;

use crate::{
    House,
    support::{SERVER, action, get, method, reason},
    talk::{How, Meter, Talk, how},
};

const SUITES: [Suite; 3] = [Suite::Suite0, Suite::Suite1, Suite::Suite2];
const OBJECT: &str = "0.0.96.1.0.255";
const SCRIPTS: &str = "0.0.10.1.0.255";

pub(crate) fn commands() -> Vec<Command> {
    vec![get(1, OBJECT, 2), action(9, SCRIPTS, 1, &[0x12, 0, 3])]
}

fn forms(suite: Suite) -> Vec<Protection> {
    let mut forms = vec![
        Protection::Glo,
        Protection::GeneralGlo,
        Protection::Ded,
        Protection::GeneralDed,
        Protection::GeneralCiphering(KeyChoice::Identified),
        Protection::GeneralCiphering(KeyChoice::Wrapped),
    ];
    if suite != Suite::Suite0 {
        forms.push(Protection::GeneralCiphering(KeyChoice::OnePass));
        forms.push(Protection::GeneralCiphering(KeyChoice::Static));
    }
    forms
}

fn is_global(protection: Protection) -> bool {
    matches!(
        protection,
        Protection::Glo
            | Protection::GeneralGlo
            | Protection::GeneralCiphering(KeyChoice::Identified)
    )
}

/// A read, an act, an ACCESS where the form can carry one, and the release.
async fn converse(talk: &mut Talk) {
    let protection = talk.how.protection;
    let what = format!("{:?} {:?}", talk.meter.suite, talk.how);
    talk.read(1, OBJECT, 2).await.unwrap();
    let act = talk
        .association
        .action_apdu(method(9, SCRIPTS, 1), Some(Data::LongUnsigned(3)));
    assert_eq!(talk.send(act.clone()).await.unwrap(), act, "{what}");
    assert_eq!(
        talk.counter != 0,
        is_global(protection),
        "{what}: counter {}",
        talk.counter
    );
    let invoke = talk.association.invoke();
    let acted = Response::Action {
        invoke,
        result: dlms::ActionResult::new(0),
        data: None,
    };
    talk.receive(&acted.encode()).await.unwrap();
    let again = talk.association.protect(act).await;
    assert_eq!(reason(again), "PERMIT_USES_SPENT", "{what}");
    let access = Request::Access {
        invoke: LongInvokeId::new(9),
        time: None,
        accesses: vec![Access::Get {
            attribute: Attribute {
                class_id: 1,
                name: OBJECT.parse().unwrap(),
                index: 2,
            },
            selection: None,
        }],
    };
    // It has no service-specific tag: it goes, and is answered, in the general form of the same key.
    let (apdu, _) = talk.association.protect(access.encode()).await.unwrap();
    let general = match protection {
        Protection::Glo => Protection::GeneralGlo,
        Protection::Ded => Protection::GeneralDed,
        other => other,
    };
    if !talk.how.signed && general != protection {
        assert!(matches!(apdu[0], 0xDB | 0xDC), "{what}");
    }
    assert_eq!(talk.meter_reads(apdu).unwrap(), access.encode(), "{what}");
    let answer = Response::Access {
        invoke: LongInvokeId::new(9),
        time: None,
        specifications: None,
        results: vec![dlms::Accessed {
            outcome: dlms::AccessOutcome::Get(dlms::DataAccessResult::new(0)),
            data: Data::Boolean(true),
        }],
    };
    let how = How {
        protection: general,
        ..talk.how
    };
    let answer = talk.meter_sends_as(&answer.encode(), how);
    talk.association.unprotect(answer).await.unwrap();
    let release = InitiateRequest::new(dlms::Conformance::new(0x10), 1024).encode();
    assert_eq!(talk.send(release.clone()).await.unwrap(), release, "{what}");
    talk.association.close().await.unwrap();
}

pub(crate) async fn every_form_in_every_suite(house: &House) {
    for suite in SUITES {
        let mut meter = Meter::new(house, &format!("form-{}", suite.id()), suite)
            .enrolled(house)
            .await;
        for protection in forms(suite) {
            for encrypted in [true, false] {
                if protection.is_dedicated() && !encrypted {
                    continue;
                }
                let how = How {
                    encrypted,
                    ..how(Mechanism::HlsGmac, protection)
                };
                let mut talk = Talk::established(house, meter, how, commands()).await;
                converse(&mut talk).await;
                meter = talk.meter;
            }
        }
    }
}

pub(crate) async fn signed_forms(house: &House) {
    for suite in [Suite::Suite1, Suite::Suite2] {
        let mut meter = Meter::new(house, &format!("sign-{}", suite.id()), suite)
            .enrolled(house)
            .await;
        for protection in forms(suite) {
            let how = How {
                signed: true,
                ..how(Mechanism::HlsEcdsa, protection)
            };
            let mut talk = Talk::established(house, meter, how, commands()).await;
            // Not signed by the meter, or by somebody else.
            let read = talk.association.get_apdu(1, OBJECT, 2);
            talk.send(read).await.unwrap();
            let value = talk.association.value(Data::Boolean(true));
            let unsigned = How {
                signed: false,
                ..talk.how
            };
            let unsigned = talk
                .meter
                .cipher
                .clone()
                .run(protect(&talk, &value, unsigned));
            let refused = talk.association.unprotect(apdu(unsigned)).await;
            assert_eq!(reason(refused), "RESPONSE_REFUSED", "{protection:?}");
            let mut forged = talk.meter.cipher.clone();
            let mut forged = apdu(forged.run(protect(&talk, &value, talk.how)));
            *forged.last_mut().unwrap() ^= 1;
            let refused = talk.association.unprotect(forged).await;
            assert_eq!(reason(refused), "CIPHERTEXT_INVALID", "{protection:?}");
            talk.receive(&value).await.unwrap();
            converse(&mut talk).await;
            meter = talk.meter;
        }
    }
}

fn protect(talk: &Talk, plain: &[u8], how: How) -> dlms::CipherOp {
    dlms::CipherOp::Protect {
        apdu: plain.to_vec(),
        protection: how.protection,
        control: talk.control(),
        signed: how.signed,
    }
}

fn apdu(output: Result<dlms::CipherOutput, dlms::CipherFailure>) -> Vec<u8> {
    match output.unwrap() {
        dlms::CipherOutput::Apdu(apdu, _) => apdu,
        other => panic!("{other:?}"),
    }
}

/// Nothing received is authentic, and no counter of it is believed or kept.
pub(crate) async fn encryption_without_authentication(house: &House) {
    for mechanism in [Mechanism::HlsGmac, Mechanism::HlsSha256, Mechanism::Low] {
        let id = format!("bare-{}", mechanism.id());
        let mut meter = Meter::new(house, &id, Suite::Suite0).enrolled(house).await;
        for protection in [Protection::Glo, Protection::GeneralGlo, Protection::Ded] {
            let how = How {
                authenticated: false,
                ..how(mechanism, protection)
            };
            let mut talk = Talk::established(house, meter, how, commands()).await;
            let read = talk.association.get_apdu(1, OBJECT, 2);
            talk.send(read).await.unwrap();
            let value = talk.association.value(Data::Boolean(true));
            // An attacker changes the counter and has the rest be what it may: no counter is locked out by it.
            let mut changed = talk.meter.cipher.clone();
            let mut changed = apdu(changed.run(protect(&talk, &value, talk.how)));
            let at = changed.len() - value.len() - 4;
            changed[at] = 0xFF;
            assert!(talk.association.unprotect(changed).await.is_err());
            talk.receive(&value).await.unwrap();
            converse(&mut talk).await;
            meter = talk.meter;
        }
    }
}

/// The same key and nonce decipher what was sent with a tag: custody reads no recording of it to whoever asks.
pub(crate) async fn recordings_are_not_deciphered_without_their_tag(house: &House) {
    for mechanism in [Mechanism::Low, Mechanism::HlsGmac] {
        let id = format!("recorded-{}", mechanism.id());
        let meter = Meter::new(house, &id, Suite::Suite0).enrolled(house).await;
        let good = how(mechanism, Protection::Glo);
        let bare = How {
            authenticated: false,
            ..good
        };
        let mut talk = Talk::established(house, meter, good, commands()).await;
        let read = talk.association.get_apdu(1, OBJECT, 2);
        talk.send(read).await.unwrap();
        let invoke = talk.association.invoke();
        let value = talk.association.value(Data::Boolean(true));
        let answer = talk.meter_sends(&value);
        talk.association.unprotect(answer.clone()).await.unwrap();
        // The context is not closed: the counter was kept with the answer.
        let mut recorded = dlms::Ciphered::decode(&answer).unwrap();
        recorded.control = dlms::SecurityControl::ENC;
        recorded.body.truncate(value.len());
        let mut talk = Talk::open(house, talk.meter, bare, commands())
            .await
            .unwrap();
        talk.initiate().await.unwrap();
        if mechanism.is_high_level() {
            let token = talk.association.answer(&[3; 32], SERVER).await.unwrap();
            talk.reply(&[3; 32], token).await.unwrap();
        }
        while talk.association.invoke() != invoke {
            talk.association.next();
        }
        let request = Request::Get {
            invoke,
            attribute: Attribute {
                class_id: 1,
                name: OBJECT.parse().unwrap(),
                index: 2,
            },
            selection: None,
        };
        talk.send(request.encode()).await.unwrap();
        let refused = talk.association.unprotect(recorded.encode()).await;
        assert_eq!(reason(refused), "CIPHERTEXT_INVALID", "{mechanism:?}");
        // A counter that goes on is taken.
        talk.receive(&value).await.unwrap();
    }
}

pub(crate) async fn a_dedicated_key_begins_anew(house: &House) {
    let meter = Meter::new(house, "ded", Suite::Suite0)
        .enrolled(house)
        .await;
    let how = how(Mechanism::Low, Protection::Ded);
    let mut talk = Talk::established(house, meter, how, commands()).await;
    let mut counters = Vec::new();
    let mut answers = Vec::new();
    for _ in 0..3 {
        let read = talk.association.get_apdu(1, OBJECT, 2);
        let (apdu, told) = talk.association.protect(read).await.unwrap();
        let ciphered = dlms::Ciphered::decode(&apdu).unwrap();
        assert_eq!((ciphered.tag, told), (0xD0, 0));
        counters.push(ciphered.counter);
        talk.meter_reads(apdu).unwrap();
        let value = talk.association.value(Data::Boolean(true));
        let answer = talk.meter_sends(&value);
        talk.association.unprotect(answer.clone()).await.unwrap();
        answers.push(answer);
    }
    assert_eq!(counters, [0, 1, 2]);
    // An answer of before is old, and one under another association's key is nothing.
    let read = talk.association.get_apdu(1, OBJECT, 2);
    talk.send(read).await.unwrap();
    let refused = talk.association.unprotect(answers[2].clone()).await;
    assert_eq!(reason(refused), "CIPHERTEXT_INVALID");
    let mut other = Talk::established(house, talk.meter.clone(), how, commands()).await;
    let read = other.association.get_apdu(1, OBJECT, 2);
    let (apdu, _) = other.association.protect(read).await.unwrap();
    assert_eq!(
        dlms::Ciphered::decode(&apdu).unwrap().counter,
        0,
        "a new key"
    );
    let refused = other.association.unprotect(answers[0].clone()).await;
    assert_eq!(reason(refused), "CIPHERTEXT_INVALID");
    assert_eq!(
        reason(talk.association.unprotect(answers[0].clone()).await),
        "CONTEXT_UNKNOWN",
        "the newer association ended it"
    );
}

pub(crate) async fn an_answer_is_of_its_transaction(house: &House) {
    for key in [KeyChoice::Wrapped, KeyChoice::OnePass, KeyChoice::Static] {
        let id = format!("transaction-{key:?}");
        let meter = Meter::new(house, &id, Suite::Suite1).enrolled(house).await;
        let how = how(Mechanism::Low, Protection::GeneralCiphering(key));
        let mut talk = Talk::established(house, meter, how, commands()).await;
        let mut transactions = std::collections::BTreeSet::new();
        let mut recorded = None;
        for _ in 0..3 {
            // The same invoke id each time: nothing but the transaction tells the answers apart.
            let attribute = Attribute {
                class_id: 1,
                name: OBJECT.parse().unwrap(),
                index: 2,
            };
            let read = Request::Get {
                invoke: InvokeId::new(5),
                attribute,
                selection: None,
            };
            let (apdu, told) = talk.association.protect(read.encode()).await.unwrap();
            let general = GeneralCiphering::decode(&apdu).unwrap();
            assert_eq!((general.header.transaction_id.len(), told), (8, 0));
            let new = transactions.insert(general.header.transaction_id);
            assert!(new, "each has its own");
            talk.meter_reads(apdu).unwrap();
            if let Some(recorded) = recorded.take() {
                let refused = talk.association.unprotect(recorded).await;
                assert_eq!(reason(refused), "RESPONSE_REFUSED", "{key:?}");
            }
            let value = Response::GetData {
                invoke: InvokeId::new(5),
                data: Data::Boolean(true),
            };
            let answer = talk.meter_sends(&value.encode());
            talk.association.unprotect(answer.clone()).await.unwrap();
            recorded = Some(answer);
        }
        // A meter that begins its counters anew with each key is taken: the transaction is what counts.
        talk.meter.cipher.resume(softcipher::Counters {
            sent: 0,
            received: None,
        });
        talk.read(1, OBJECT, 2).await.unwrap();
    }
}

/// Whoever knows every other key of a meter, but not the one it signs with, agrees on none with custody.
pub(crate) async fn an_ephemeral_key_is_signed_by_the_meter(house: &House) {
    let one_pass = how(
        Mechanism::Low,
        Protection::GeneralCiphering(KeyChoice::OnePass),
    );
    let meter = Meter::new(house, "ephemeral", Suite::Suite1);
    let meter = meter.enrolled(house).await;
    let mut keys = meter.cipher.keys().clone();
    let (_, stranger) = Keys::pair(Suite::Suite1, 99);
    keys.signing = stranger.signing;
    let mut talk = Talk::established(house, meter, one_pass, commands()).await;
    talk.read(1, OBJECT, 2).await.unwrap();
    let counters = talk.meter.cipher.counters();
    let mut forger = Meter::with("ephemeral", Suite::Suite1, keys, AlgorithmId::Standard);
    forger.cipher.resume(counters);
    let mut talk = Talk::established(house, forger, one_pass, commands()).await;
    let read = talk.association.get_apdu(1, OBJECT, 2);
    talk.send(read).await.unwrap();
    let value = talk.association.value(Data::Boolean(true));
    let refused = talk.receive(&value).await;
    assert_eq!(reason(refused), "CIPHERTEXT_INVALID");
}

pub(crate) async fn both_algorithm_ids(house: &House) {
    for (number, id) in [AlgorithmId::Standard, AlgorithmId::Legacy]
        .into_iter()
        .enumerate()
    {
        let meter = Meter::new(house, &format!("algorithm-{number}"), Suite::Suite2);
        let keys: Keys = meter.cipher.keys().clone();
        let meter = Meter::with(&meter.id, Suite::Suite2, keys, id)
            .enrolled(house)
            .await;
        let good = How {
            algorithm_id: id,
            ..how(
                Mechanism::HlsEcdsa,
                Protection::GeneralCiphering(KeyChoice::Static),
            )
        };
        let mut talk = Talk::established(house, meter.clone(), good, commands()).await;
        talk.read(1, OBJECT, 2).await.unwrap();
        let other = How {
            algorithm_id: match id {
                AlgorithmId::Standard => AlgorithmId::Legacy,
                AlgorithmId::Legacy => AlgorithmId::Standard,
            },
            ..good
        };
        let mut talk = Talk::open(house, talk.meter, other, commands())
            .await
            .unwrap();
        talk.initiate().await.unwrap();
        let token = talk.association.answer(&[1; 32], SERVER).await.unwrap();
        let reply = talk
            .association
            .action_apdu(Method::REPLY_TO_HLS, Some(Data::OctetString(token)));
        let (apdu, _) = talk.association.protect(reply).await.unwrap();
        assert!(talk.meter_reads(apdu).is_err(), "another key");
    }
}
