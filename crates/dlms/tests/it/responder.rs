//! What a meter refuses, and how it says so.

use dlms::acse::{Aare, Aarq, AssociationResult, Diagnostic};
use dlms::meter::{self, Event};
use dlms::{
    ActionResult, ApplicationContext, Command, Conformance, Data, Error, Exception, Frame,
    InvokeId, Mechanism, Method, Protection, Request, Response, SystemTitle,
};

use crate::pair::{CLIENT_TITLE, METER_TITLE, Pair, get};

/// Sends an APDU to the meter from this port, and returns what it answers.
fn say(pair: &mut Pair, source: u16, apdu: Vec<u8>) -> Vec<u8> {
    let octets = Frame {
        source,
        destination: 1,
        apdu,
    }
    .encode()
    .unwrap();
    let before = pair.frames.len();
    pair.to_client = Box::new(|_| vec![]);
    pair.meter.handle_bytes(0, &octets);
    pair.run();
    match &pair.frames[before..] {
        [answer] => {
            assert_eq!(
                (answer.source, answer.destination),
                (1, source),
                "ports are swapped"
            );
            answer.apdu.clone()
        }
        answers => panic!("{} answers", answers.len()),
    }
}

fn exception(apdu: &[u8]) -> Exception {
    match Response::decode(apdu) {
        Ok(Response::Exception(exception)) => exception,
        other => panic!("{other:?}"),
    }
}

fn aarq(mechanism: Option<Mechanism>, value: &[u8]) -> Aarq {
    let request = dlms::initiate::InitiateRequest::new(Conformance::RESET, 500);
    Aarq {
        context: ApplicationContext::LogicalName,
        calling_title: Some(CLIENT_TITLE),
        calling_ae_qualifier: None,
        mechanism,
        authentication_value: mechanism.map(|_| value.to_vec()),
        user_information: Some(request.encode()),
    }
}

#[test]
fn nothing_is_served_without_an_association() {
    let mut pair = Pair::new(Mechanism::HlsGmac, Protection::Glo);
    for apdu in [
        get().with(InvokeId::new(1)).encode(),
        vec![0x62, 3, 0x80, 1, 0],
        vec![0xC8, 0],
        vec![0xFF],
    ] {
        assert_eq!(exception(&say(&mut pair, 1, apdu)), Exception::NOT_POSSIBLE);
    }
    assert!(pair.asked.is_empty());
}

fn low(password: &[u8]) -> Aarq {
    aarq(Some(Mechanism::Low), password)
}

/// Sends one to a meter of low-level security, and checks how it is refused.
#[track_caller]
fn refused(sap: u16, aarq: &Aarq, diagnostic: Diagnostic, error: Option<u8>) {
    let mut pair = Pair::new(Mechanism::Low, Protection::Plain);
    let aare = Aare::decode(&say(&mut pair, sap, aarq.encode())).unwrap();
    assert_eq!(
        (aare.result, aare.diagnostic),
        (AssociationResult::RejectedPermanent, diagnostic)
    );
    assert_eq!(
        aare.user_information,
        error.map(|value| vec![0x0E, 1, 6, value])
    );
    assert!(
        matches!(pair.meter_events.as_slice(), [Event::Refused { client_sap, .. }] if *client_sap == sap)
    );
}

#[test]
fn wrong_association_requests_are_refused_by_diagnostic() {
    let good = || low(b"12345678");
    refused(9, &good(), Diagnostic::NO_REASON, None);
    let ciphered = Aarq {
        context: ApplicationContext::LogicalNameCiphered,
        ..good()
    };
    refused(1, &ciphered, Diagnostic::CONTEXT_NOT_SUPPORTED, None);
    refused(1, &aarq(None, &[]), Diagnostic::MECHANISM_REQUIRED, None);
    let other = aarq(Some(Mechanism::HlsGmac), &[1; 16]);
    refused(1, &other, Diagnostic::MECHANISM_NOT_RECOGNISED, None);
    for password in [&b"12345679"[..], b"1234567", b"123456789", b""] {
        refused(1, &low(password), Diagnostic::AUTHENTICATION_FAILURE, None);
    }
    refused(
        1,
        &Aarq {
            user_information: None,
            ..good()
        },
        Diagnostic::NO_REASON,
        None,
    );
}

#[test]
fn wrong_initiate_requests_are_refused_by_error() {
    type Change = fn(&mut dlms::initiate::InitiateRequest);
    let table: [(Change, u8); 4] = [
        (|request| request.version = 5, 1),
        (|request| request.conformance = Conformance::NONE, 2),
        (|request| request.max_pdu = 11, 3),
        (|request| request.dedicated_key = Some(vec![0; 16]), 4),
    ];
    for (change, error) in table {
        let mut request = dlms::initiate::InitiateRequest::new(Conformance::RESET, 500);
        change(&mut request);
        let aarq = Aarq {
            user_information: Some(request.encode()),
            ..low(b"12345678")
        };
        refused(1, &aarq, Diagnostic::NO_REASON, Some(error));
    }
}

#[test]
fn high_level_needs_titles_and_a_fresh_challenge() {
    let hls = || aarq(Some(Mechanism::HlsGmac), &[1; 16]);
    let table = [
        (
            Aarq {
                calling_title: None,
                ..hls()
            },
            Diagnostic::CALLING_TITLE_NOT_RECOGNISED,
        ),
        (
            Aarq {
                calling_title: Some(METER_TITLE),
                ..hls()
            },
            Diagnostic::CALLING_TITLE_NOT_RECOGNISED,
        ),
        (
            aarq(Some(Mechanism::HlsGmac), &[1; 7]),
            Diagnostic::AUTHENTICATION_FAILURE,
        ),
        (
            aarq(Some(Mechanism::HlsGmac), crate::pair::STOC),
            Diagnostic::NO_REASON,
        ),
    ];
    for (aarq, diagnostic) in table {
        let mut pair = Pair::new(Mechanism::HlsGmac, Protection::Plain);
        let aare = Aare::decode(&say(&mut pair, 1, aarq.encode())).unwrap();
        assert_eq!(aare.diagnostic, diagnostic);
    }
    let mut pair = Pair::new(Mechanism::HlsGmac, Protection::Plain);
    let results = [(); 2].map(|()| {
        Aare::decode(&say(&mut pair, 1, hls().encode()))
            .unwrap()
            .result
    });
    assert_eq!(
        results,
        [
            AssociationResult::Accepted,
            AssociationResult::RejectedTransient
        ]
    );
    pair.meter.refill(vec![5; 16]);
    assert_eq!(
        Aare::decode(&say(&mut pair, 1, hls().encode()))
            .unwrap()
            .result,
        AssociationResult::Accepted
    );
}

#[test]
fn before_pass_3_nothing_else_is_served() {
    let mut pair = Pair::new(Mechanism::HlsGmac, Protection::Plain);
    say(
        &mut pair,
        1,
        aarq(Some(Mechanism::HlsGmac), &[1; 16]).encode(),
    );
    assert_eq!(
        exception(&say(&mut pair, 1, get().with(InvokeId::new(1)).encode())),
        Exception::NOT_POSSIBLE
    );
    let token = pair.client_keys.token(crate::pair::STOC, 1);
    let reply = Command::Action {
        method: Method::REPLY_TO_HLS,
        parameter: Some(Data::OctetString(token)),
    };
    let answer = Response::decode(&say(&mut pair, 1, reply.with(InvokeId::new(2)).encode()));
    assert!(matches!(
        answer,
        Ok(Response::Action {
            result: ActionResult::SUCCESS,
            data: Some(Ok(_)),
            ..
        })
    ));
    assert!(matches!(
        pair.meter_events.as_slice(),
        [Event::Opened { client_sap: 1, .. }]
    ));
}

#[test]
fn a_wrong_pass_3_is_denied_and_drops_the_association() {
    let wrong = |octets: Vec<u8>| Some(Data::OctetString(octets));
    let token = Pair::new(Mechanism::HlsGmac, Protection::Plain)
        .client_keys
        .token(b"another challenge", 1);
    for parameter in [
        None,
        Some(Data::Null),
        wrong(vec![0x10; 16]),
        wrong(vec![0x11; 17]),
        wrong(token),
    ] {
        let mut pair = Pair::new(Mechanism::HlsGmac, Protection::Plain);
        say(
            &mut pair,
            1,
            aarq(Some(Mechanism::HlsGmac), &[1; 16]).encode(),
        );
        let reply = Command::Action {
            method: Method::REPLY_TO_HLS,
            parameter,
        }
        .with(InvokeId::new(1));
        let invoke = reply.invoke();
        let denied = Response::Action {
            invoke,
            result: ActionResult::READ_WRITE_DENIED,
            data: None,
        };
        assert_eq!(
            Response::decode(&say(&mut pair, 1, reply.encode())),
            Ok(denied)
        );
        assert_eq!(
            exception(&say(&mut pair, 1, reply.encode())),
            Exception::NOT_POSSIBLE
        );
        assert!(matches!(
            pair.meter_events.as_slice(),
            [Event::Refused { .. }]
        ));
    }
}

#[test]
fn a_ciphered_association_takes_either_form_and_answers_in_kind() {
    let mut pair = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
    for (counter, protection, tag) in [
        (100, Protection::GeneralGlo, 0xDB),
        (200, Protection::Glo, 0xCC),
    ] {
        let request =
            pair.client_keys
                .protect(&get().with(InvokeId::new(3)).encode(), protection, counter);
        assert_eq!(say(&mut pair, 1, request)[0], tag);
    }
}

#[test]
fn a_ciphered_association_takes_nothing_else() {
    let mut pair = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
    let plain = get().with(InvokeId::new(3)).encode();
    let good = pair
        .client_keys
        .protect(&plain, Protection::GeneralGlo, 100);
    assert_eq!(
        exception(&say(&mut pair, 1, plain.clone())),
        Exception::NOT_POSSIBLE
    );
    let mut bent = dlms::Ciphered::decode(&good).unwrap();
    bent.title = Some(SystemTitle::new([3; 8]));
    assert_eq!(
        exception(&say(&mut pair, 1, bent.encode())),
        Exception::DECIPHERING
    );
    assert_eq!(
        pair.meter_events.len(),
        1,
        "refused before the keys are asked"
    );
    let control = dlms::SecurityControl::ENC;
    let encrypted = pair
        .client_keys
        .protect_as(&plain, Protection::Glo, control, 90);
    assert_eq!(
        exception(&say(&mut pair, 1, encrypted)),
        Exception::DECIPHERING
    );
    assert_eq!(
        pair.meter_events.len(),
        1,
        "refused before the keys are asked"
    );
    let mut action_outside =
        dlms::Ciphered::decode(&pair.client_keys.protect(&plain, Protection::Glo, 95)).unwrap();
    action_outside.tag = 0xCB;
    assert_eq!(
        exception(&say(&mut pair, 1, action_outside.encode())),
        Exception::DECIPHERING
    );
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert_eq!(
        exception(&say(&mut pair, 1, changed)),
        Exception::DECIPHERING
    );
    assert_eq!(say(&mut pair, 1, good.clone())[0], 0xDB);
    assert_eq!(
        exception(&say(&mut pair, 1, good)),
        Exception::invocation_counter(101)
    );
    assert_eq!(pair.asked.len(), 1);
    let expected = dlms::CipherFailure::Replay { expected: 101 };
    assert_eq!(
        pair.meter_events.last(),
        Some(&Event::NotDeciphered(expected))
    );
}

#[test]
fn the_same_association_request_is_not_accepted_twice() {
    let mut pair = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
    let aarq = pair.frames[0].apdu.clone();
    pair.meter.refill(vec![5; 16]);
    assert_eq!(exception(&say(&mut pair, 1, aarq)).service, 6);
    // the old association ended with the attempt: it was the client's own connection
    assert_eq!(
        exception(&say(&mut pair, 1, vec![0xC8, 0])),
        Exception::NOT_POSSIBLE
    );
}

#[test]
fn services_that_are_not_there_and_malformed_requests_are_excepted() {
    let mut pair = Pair::opened(Mechanism::None, Protection::Plain);
    for apdu in [
        vec![0xC0, 4, 0xC1, 0],
        vec![0xC3, 7, 0xC1],
        vec![0xC2, 0, 0],
    ] {
        assert_eq!(
            exception(&say(&mut pair, 1, apdu)),
            Exception::NOT_SUPPORTED
        );
    }
    assert_eq!(
        exception(&say(&mut pair, 1, vec![0xC0, 1, 0xC1, 0])),
        Exception::OTHER_REASON
    );
    assert_eq!(
        exception(&say(&mut pair, 7, get().with(InvokeId::new(1)).encode())),
        Exception::NOT_POSSIBLE
    );
    assert!(pair.asked.is_empty());
}

#[test]
fn invoke_ids_are_echoed_with_their_priority() {
    let mut pair = Pair::opened(Mechanism::None, Protection::Plain);
    for octet in [0x42, 0xC7, 0x00, 0x8F] {
        let request = get().with(InvokeId::from_octet(octet)).encode();
        assert_eq!(say(&mut pair, 1, request)[2], octet);
    }
}

#[test]
fn an_answer_must_be_due_and_of_the_service_asked() {
    let mut meter = Pair::opened(Mechanism::None, Protection::Plain).meter;
    let invoke = InvokeId::new(1);
    let data = Response::GetData {
        invoke,
        data: Data::Null,
    };
    assert!(matches!(
        meter.answer(0, data.clone()),
        Err(Error::State {
            found: "open and idle",
            ..
        })
    ));
    let octets = Frame {
        source: 1,
        destination: 1,
        apdu: get().with(invoke).encode(),
    }
    .encode()
    .unwrap();
    meter.handle_bytes(0, &octets);
    assert!(matches!(
        meter.poll(),
        Some(meter::Effect::Ask(Request::Get { .. }))
    ));
    let other = Response::Action {
        invoke,
        result: ActionResult::SUCCESS,
        data: None,
    };
    assert!(matches!(meter.answer(0, other), Err(Error::State { .. })));
    // pipelined requests wait their turn
    meter.handle_bytes(0, &octets);
    assert!(meter.poll().is_none());
    assert_eq!(meter.answer(0, data), Ok(()));
    assert!(matches!(meter.poll(), Some(meter::Effect::Transmit(_))));
    assert!(matches!(
        meter.poll(),
        Some(meter::Effect::Ask(Request::Get { .. }))
    ));
}

#[test]
fn a_plain_release_of_a_ciphered_association_is_taken() {
    let mut pair = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
    assert_eq!(
        say(&mut pair, 1, vec![0x62, 3, 0x80, 1, 0]),
        [0x63, 3, 0x80, 1, 0]
    );
    assert_eq!(pair.meter_events.last(), Some(&Event::Released));
}

#[test]
fn junk_ends_the_connection_and_other_devices_are_not_ours() {
    let mut pair = Pair::new(Mechanism::None, Protection::Plain);
    let elsewhere = Frame {
        source: 1,
        destination: 2,
        apdu: vec![0x60],
    }
    .encode()
    .unwrap();
    pair.meter.handle_bytes(0, &elsewhere);
    pair.run();
    assert!(pair.frames.is_empty());
    pair.meter.handle_bytes(0, b"GET / HTTP/1.1");
    pair.meter.handle_bytes(0, &elsewhere);
    pair.run();
    assert!(matches!(
        pair.meter_events.as_slice(),
        [Event::Failed(Error::Unexpected { offset: 0, .. })]
    ));
}

#[test]
fn a_meter_whose_keys_fail_drops_the_association() {
    let mut pair = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
    let fails = dlms::CipherFailure::Unavailable;
    pair.objects = Box::new(|request| Response::GetData {
        invoke: request.invoke(),
        data: Data::Null,
    });
    let request =
        pair.client_keys
            .protect(&get().with(InvokeId::new(3)).encode(), Protection::Glo, 100);
    let octets = Frame {
        source: 1,
        destination: 1,
        apdu: request,
    }
    .encode()
    .unwrap();
    pair.meter.handle_bytes(0, &octets);
    let Some(meter::Effect::Cipher(job)) = pair.meter.poll() else {
        panic!("no job")
    };
    let result = pair.meter_keys.run(job.op);
    pair.meter.handle_cipher(0, job.id, result);
    pair.meter_keys.fails = Some(fails);
    pair.run();
    assert!(matches!(
        pair.meter_events.last(),
        Some(Event::Refused { .. })
    ));
}
