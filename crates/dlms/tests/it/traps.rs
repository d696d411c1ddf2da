//! The traps of other stacks, each by its name: T1, T3, T6 to T11 here, T2, T4, T5, T15 to T17 in `authentication`, T12 and
//! T18 to T22 in `exchange`. Others, or more of them, stand beside what they are about:
//!
//! | trap | where |
//! |---|---|
//! | T13 lengths of frames of 256 octets and more | `hdlc::t13_lengths_around_256_are_right_and_wrong_ones_are_told` |
//! | T14 a frame whose FCS ends in 7E | `hdlc::t14_a_flag_in_the_last_octet_of_the_fcs_ends_nothing` |
//! | T16 what the tokens of HLS 6 and 7 are over | `dlms::mechanism`, `softcipher`, and here with both roles |
//! | T18 a meter that loses count after a segmented request | `stations::t18_a_meter_that_lost_count_is_not_believed`, and here |
//! | T20 a client that spins when the meter closes | `associations::an_answer_counts_even_if_the_meter_closes_right_after_it`, and here |

mod authentication;
mod exchange;

use dlms::acse::{Aare, AssociationResult, Diagnostic};
use dlms::client::Event;
use dlms::{
    Awaiting, Cause, CauseClass, CipherFailure, Ciphered, Conformance, Data, Exception, Frame,
    InvokeId, Mechanism, Protection, Response, SystemTitle, meter,
};

use crate::pair::{METER_TITLE, Pair, client_config, get, meter_config};

fn frame(apdu: Vec<u8>) -> Vec<u8> {
    let (source, destination) = (1, 1);
    Frame {
        source,
        destination,
        apdu,
    }
    .encode()
    .unwrap()
}

/// Hands an APDU to the meter, and takes what it answers.
fn ask(pair: &mut Pair, apdu: Vec<u8>) -> Vec<u8> {
    pair.to_client = Box::new(|_| vec![]);
    pair.meter.handle_bytes(0, &frame(apdu));
    pair.run();
    pair.frames.last().unwrap().apdu.clone()
}

/// An open association whose next answer is bent on its way.
fn bent(protection: Protection, bend: impl Fn(Vec<u8>) -> Vec<Vec<u8>> + 'static) -> Pair {
    let mut pair = Pair::opened(Mechanism::HlsGmac, protection);
    pair.to_client = Box::new(move |octets| {
        let apdus = bend(octets[8..].to_vec());
        apdus.into_iter().map(frame).collect()
    });
    pair.request(get());
    pair
}

/// A client whose meter the test plays: it has sent its AARQ.
fn asking(mechanism: Mechanism, protection: Protection) -> Pair {
    let mut pair = Pair::new(mechanism, protection);
    pair.to_meter = Box::new(|_| vec![]);
    pair.open();
    pair
}

#[test]
fn t1_a_wrong_tag_is_never_taken() {
    let spoil = |mut apdu: Vec<u8>| {
        *apdu.last_mut().unwrap() ^= 1;
        vec![apdu]
    };
    let mut pair = bent(Protection::Glo, spoil);
    let failure = CipherFailure::AuthFailed;
    let during = Awaiting::Answer;
    assert_eq!(pair.failure(), Cause::Cipher { during, failure });
    let mut pair = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
    let request = get().with(InvokeId::new(3)).encode();
    let mut request = pair.client_keys.protect(&request, Protection::Glo, 50);
    *request.last_mut().unwrap() ^= 1;
    let answer = ask(&mut pair, request);
    assert_eq!(answer, Response::Exception(Exception::DECIPHERING).encode());
    assert!(pair.asked.is_empty());
}

#[test]
fn t1_a_replayed_answer_is_waited_out_and_a_plain_one_refused() {
    let mut pair = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
    pair.request(get());
    pair.value();
    let old = pair.frames.last().unwrap().apdu.clone();
    pair.to_client = Box::new(move |_| vec![frame(old.clone())]);
    pair.request(get());
    assert!(pair.events.is_empty(), "not taken");
    pair.expire();
    let awaiting = Awaiting::Answer;
    assert_eq!(pair.failure(), Cause::TimedOut { awaiting });
    let plain = vec![0xC4, 1, 0xC2, 0, 0x11, 7];
    let mut pair = bent(Protection::Glo, move |_| vec![plain.clone()]);
    assert_eq!(pair.failure(), Cause::Unprotected { tag: 0xC4 });
}

#[test]
fn t1_a_doubled_answer_is_not_that_of_the_next_request() {
    for protection in [Protection::Plain, Protection::Glo] {
        let mut pair = Pair::opened(Mechanism::HlsGmac, protection);
        pair.to_client = Box::new(|octets| vec![octets.clone(), octets]);
        let mut values = 0..;
        pair.objects = Box::new(move |request| Response::GetData {
            invoke: request.invoke(),
            data: Data::Unsigned(values.next().unwrap()),
        });
        for value in 0..40 {
            pair.request(get());
            assert_eq!(pair.value(), Data::Unsigned(value));
        }
    }
}

#[test]
fn t3_a_client_that_starts_its_counter_anew_is_refused() {
    let mut pair = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
    let spent = pair.client_keys.sent();
    pair.client_keys.set_sent(0);
    let mut again = Pair::new(Mechanism::HlsGmac, Protection::Glo);
    (again.client_keys, again.meter_keys) = (pair.client_keys, pair.meter_keys);
    again.open();
    let expected = Exception::invocation_counter(spent + 1);
    let cause = again.failure();
    assert_eq!(cause, Cause::NotOpened(expected));
    assert_eq!(
        (cause.class(), cause.is_transient()),
        (CauseClass::Security, false)
    );
}

#[test]
fn t6_the_same_association_request_is_never_accepted_twice() {
    let mut pair = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
    let aarq = pair.frames[0].apdu.clone();
    for _ in 0..2 {
        pair.meter.refill(vec![5; 16]);
        let answer = Response::decode(&ask(&mut pair, aarq.clone()));
        let expected = Exception::invocation_counter(pair.client_keys.sent() + 1);
        assert_eq!(answer, Ok(Response::Exception(expected)));
    }
}

#[test]
fn t7_the_first_counter_of_a_meter_may_be_0_and_must_rise() {
    let answer = |invoke: u8| vec![0xC4, 1, 0xC0 | invoke, 0, 0x11, invoke];
    let mut pair = Pair::new(Mechanism::None, Protection::Glo);
    let keys = pair.meter_keys.clone();
    let aare = move |mut aare: Aare| {
        let initiate = dlms::initiate::InitiateResponse::new(Conformance::RESET, 0).encode();
        aare.user_information = Some(keys.protect(&initiate, Protection::Glo, 1));
        aare.encode()
    };
    pair.to_client = Box::new(move |octets| match Aare::decode(&octets[8..]) {
        Ok(decoded) => vec![frame(aare(decoded))],
        Err(_) => vec![],
    });
    pair.open();
    assert!(matches!(pair.event(), Event::Opened { .. }));
    for (invoke, counter, taken) in [(1, 1, false), (1, 2, true), (2, 2, false), (2, 90, true)] {
        if pair.client.is_ready() {
            pair.request(get());
        }
        let apdu = pair
            .meter_keys
            .protect(&answer(invoke), Protection::Glo, counter);
        pair.inject(apdu);
        assert_eq!(
            pair.events.drain(..).count(),
            usize::from(taken),
            "{counter}"
        );
    }
}

#[test]
fn t8_pass_3_is_decided_by_the_mechanism_proposed() {
    for (diagnostic, named) in [
        (Diagnostic::NULL, false),
        (Diagnostic::NULL, true),
        (Diagnostic::AUTHENTICATION_REQUIRED, false),
    ] {
        let mut pair = Pair::new(Mechanism::HlsGmac, Protection::Glo);
        pair.to_client = Box::new(move |octets| {
            let Ok(mut aare) = Aare::decode(&octets[8..]) else {
                return vec![octets];
            };
            aare.diagnostic = diagnostic;
            aare.mechanism = aare.mechanism.filter(|_| named);
            let mut apdu = aare.encode();
            // protocol-version, 80 02 07 80, before everything else
            apdu[1] += 4;
            apdu.splice(2..2, [0x80, 2, 7, 0x80]);
            vec![frame(apdu)]
        });
        pair.open();
        assert!(matches!(pair.event(), Event::Opened { .. }));
    }
    // a refusal may come with ciphered user-information
    let mut pair = asking(Mechanism::HlsGmac, Protection::Glo);
    let aare = Aare {
        context: dlms::ApplicationContext::LogicalNameCiphered,
        result: AssociationResult::RejectedPermanent,
        diagnostic: Diagnostic::AUTHENTICATION_FAILURE,
        responding_title: None,
        responding_ae_qualifier: None,
        mechanism: None,
        authentication_value: None,
        user_information: Some(vec![0x28, 3, 1, 2, 3]),
    };
    pair.inject(aare.encode());
    assert_eq!(pair.failure().class(), CauseClass::Security);
}

#[test]
fn t9_a_release_is_ciphered_and_any_end_of_it_will_do() {
    let short = vec![0x63, 0x24, 0x80, 1, 0, 0xBE, 0x23, 4, 1, 1, 1, 1];
    let ends: [fn(&mut Pair, Vec<u8>); 4] = [
        |pair, short| pair.inject(short),
        |pair, _| pair.inject(vec![0xD8, 1, 2]),
        |pair, _| pair.expire(),
        |pair, _| pair.client.closed(),
    ];
    for end in ends {
        let mut pair = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
        let spent = pair.client_keys.sent();
        pair.to_client = Box::new(|_| vec![]);
        pair.release();
        let rlrq = dlms::acse::Rlrq::decode(&pair.frames[pair.frames.len() - 2].apdu).unwrap();
        let initiate = Ciphered::decode(&rlrq.user_information.unwrap()).unwrap();
        assert_eq!((initiate.tag, initiate.counter), (0x21, spent + 1));
        end(&mut pair, short.clone());
        pair.run();
        assert_eq!(pair.event(), Event::Released);
    }
    // and as a meter we take a plain one
    let mut pair = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
    assert_eq!(
        ask(&mut pair, vec![0x62, 3, 0x80, 1, 0]),
        [0x63, 3, 0x80, 1, 0]
    );
    assert_eq!(pair.meter_events.last(), Some(&meter::Event::Released));
}

#[test]
fn t9_a_meter_that_knows_no_release_is_sent_none() {
    let mut config = client_config(Mechanism::HlsGmac, Protection::Glo);
    config.release = false;
    let mut pair = Pair::with(config, meter_config(Mechanism::HlsGmac, true));
    pair.open();
    pair.event();
    let before = pair.frames.len();
    pair.release();
    assert_eq!((pair.event(), pair.frames.len()), (Event::Released, before));
}

#[test]
fn t10_every_way_to_say_wrong_key_or_counter_is_security() {
    let said: [(&[u8], CauseClass, bool); 6] = [
        (&[0xD8, 1, 6, 0, 0, 1, 0x23], CauseClass::Security, false),
        // one octet after a counter error, or none
        (&[0xD8, 1, 6, 9], CauseClass::Security, false),
        (&[0xD8, 1, 5], CauseClass::Security, false),
        // "not now": a meter that boots, or still holds an old association
        (&[0xD8, 1, 1], CauseClass::Refused, true),
        (&[0xD8, 1, 3], CauseClass::Refused, true),
        (&[0xD8, 1, 2], CauseClass::Refused, false),
    ];
    for (apdu, class, transient) in said {
        let mut pair = asking(Mechanism::HlsGmac, Protection::Glo);
        pair.inject(apdu.to_vec());
        let cause = pair.failure();
        assert!(matches!(cause, Cause::NotOpened(_)), "{cause}");
        assert_eq!(
            (cause.class(), cause.is_transient()),
            (class, transient),
            "{cause}"
        );
    }
    let mut pair = asking(Mechanism::HlsGmac, Protection::Glo);
    pair.client.closed();
    pair.run();
    assert_eq!(pair.failure().class(), CauseClass::Security);
    // silence is silence: an unknown client, or a meter that is not there
    let mut pair = asking(Mechanism::HlsGmac, Protection::Glo);
    pair.expire();
    let cause = pair.failure();
    assert_eq!(
        (cause.class(), cause.is_transient()),
        (CauseClass::Link, true)
    );
}

#[test]
fn t11_either_general_or_service_specific_ciphering_is_answered_in_kind() {
    let mut pair = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
    let request = get().with(InvokeId::new(3)).encode();
    let (general, special) = (Protection::GeneralGlo, Protection::Glo);
    for (counter, form, tag) in [
        (100, general, 0xDB),
        (200, special, 0xCC),
        (300, general, 0xDB),
    ] {
        let apdu = pair.client_keys.protect(&request, form, counter);
        assert_eq!(ask(&mut pair, apdu)[0], tag);
    }
    // the title in it must be that of the AARQ, or empty
    let apdu = pair.client_keys.protect(&request, general, 400);
    for (title, taken) in [
        (Some(SystemTitle::new([9; 8])), false),
        (Some(METER_TITLE), false),
        (None, true),
    ] {
        let mut ciphered = Ciphered::decode(&apdu).unwrap();
        ciphered.title = title;
        let answer = ask(&mut pair, ciphered.encode());
        assert_eq!(answer[0] == 0xDB, taken, "{title:?}");
    }
}
