//! Requests and answers, and what carries them.

use dlms::client::Event;
use dlms::{
    Awaiting, Cause, Command, Conformance, Data, Error, Exception, InvokeId, LinkConfig, Mechanism,
    Method, Protection, Request, Response, SecurityControl, Suite, hdlc,
};

use super::authentication::ecdsa;
use super::{ask, bent, frame};
use crate::joined::Terms;
use crate::pair::{METER_TITLE, Pair, TIMEOUT, action, client_config, get, meter_config};

#[test]
fn t12_general_block_transfer_is_never_proposed_granted_or_used_by_default() {
    let general = Conformance::GENERAL_BLOCK_TRANSFER;
    assert!(!dlms::ClientConfig::default().conformance.contains(general));
    assert!(
        !dlms::MeterConfig::new(METER_TITLE, vec![])
            .conformance
            .contains(general)
    );
    // a client that proposes it is not granted it, and blocks are no requests then
    let mut config = client_config(Mechanism::None, Protection::Plain);
    config.conformance = config.conformance | general;
    let mut pair = Pair::with(config, meter_config(Mechanism::None, false));
    pair.open();
    let Event::Opened { conformance, .. } = pair.event() else {
        panic!("not opened")
    };
    assert!(!conformance.contains(general));
    let block = vec![0xE0, 0x81, 0, 1, 0, 0, 1, 0xC0];
    let answer = Response::decode(&ask(&mut pair, block.clone()));
    assert_eq!(answer, Ok(Response::Exception(Exception::NOT_SUPPORTED)));
    // nor is one an answer
    let mut pair = bent(Protection::Plain, move |_| vec![block.clone()]);
    assert!(matches!(pair.failure(), Cause::Malformed(_)));
}

#[test]
fn t18_an_association_request_stays_in_one_frame() {
    let line = LinkConfig::Hdlc(hdlc::Config::default());
    for mechanism in [Mechanism::None, Mechanism::Low, Mechanism::HlsGmac] {
        for form in [Protection::Plain, Protection::Glo] {
            let terms = Terms {
                link: line.clone(),
                mechanism,
                form,
                control: SecurityControl::AUTH_ENC,
                ..ecdsa()
            };
            let mut config = terms.client();
            if mechanism == Mechanism::HlsGmac {
                config.authentication_value = vec![7; 16];
            }
            let mut client = dlms::Client::new(config);
            let mut keys = crate::joined::keys(Suite::Suite0, 1).0;
            client.open(0);
            let accepted = hdlc::Frame {
                destination: hdlc::Address::client(1).unwrap(),
                source: hdlc::Address::server(1, 1, 0).unwrap(),
                control: hdlc::Control::UnnumberedAcknowledge { poll: true },
                segmented: false,
                // what is not said is the default
                information: vec![],
            }
            .encode()
            .unwrap();
            let mut frames = vec![];
            for _ in 0..10 {
                match client.poll() {
                    Some(dlms::Effect::Transmit(octets)) => {
                        frames.push(octets);
                        if frames.len() == 1 {
                            client.handle_bytes(0, &accepted);
                        }
                    }
                    Some(dlms::Effect::Cipher(job)) => {
                        let done = keys.run(job.op);
                        client.handle_cipher(0, job.id, done);
                    }
                    Some(dlms::Effect::Timer(_)) => {}
                    other => assert_eq!(other, None),
                }
            }
            let [_, aarq] = frames.as_slice() else {
                panic!("{} frames", frames.len())
            };
            assert_eq!(aarq[1] & 0x08, 0, "not segmented: {mechanism:?} {form:?}");
        }
    }
}

#[test]
fn t19_ports_are_swapped_and_other_frames_are_not_ours() {
    let mut config = client_config(Mechanism::None, Protection::Plain);
    config.client_sap = 16;
    let mut pair = Pair::with(config, meter_config(Mechanism::None, false));
    pair.open();
    pair.event();
    let [aarq, aare] = pair.frames.as_slice() else {
        panic!("two frames")
    };
    assert_eq!((aarq.source, aarq.destination), (16, 1));
    assert_eq!((aare.source, aare.destination), (1, 16));
    // not swapped: ignored, until the time is over
    pair.to_client = Box::new(|mut octets| {
        octets.swap(3, 5);
        vec![octets]
    });
    pair.request(get());
    assert!(pair.events.is_empty());
    pair.expire();
    assert!(matches!(pair.failure(), Cause::TimedOut { .. }));
    // another version is no wrapper, nor is what comes before it
    let mut pair = Pair::opened(Mechanism::None, Protection::Plain);
    pair.client.handle_bytes(0, &[0, 2, 0, 1]);
    pair.run();
    let cause = pair.failure();
    assert!(
        matches!(cause, Cause::Malformed(Error::Unexpected { offset: 1, .. })),
        "{cause}"
    );
    // two frames in one segment are two frames
    let mut pair = Pair::opened(Mechanism::None, Protection::Plain);
    let request = |id| frame(get().with(InvokeId::new(id)).encode());
    pair.meter
        .handle_bytes(0, &[request(1), request(2)].concat());
    pair.run();
    assert_eq!(pair.asked.len(), 2);
}

#[test]
fn t20_a_meter_that_closes_after_an_action_leaves_it_unknown_once() {
    let mut pair = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
    pair.to_client = Box::new(|_| vec![]);
    pair.request(action());
    for _ in 0..3 {
        pair.client.closed();
        pair.client.handle_timeout(TIMEOUT);
    }
    pair.run();
    let (awaiting, ciphered) = (Awaiting::Answer, true);
    assert_eq!(pair.failure(), Cause::Closed { awaiting, ciphered });
    assert!(pair.client.poll().is_none(), "nothing more to do");
    // an exception is an answer to a GET as to anything
    let mut pair = bent(Protection::Plain, |_| vec![vec![0xD8, 1, 2]]);
    let exception = Response::Exception(Exception::NOT_SUPPORTED);
    assert_eq!(pair.event(), Event::Answered(exception));
}

#[test]
fn t21_invoke_ids_are_echoed_counted_and_matched_by_their_four_bits() {
    let mut pair = Pair::opened(Mechanism::None, Protection::Plain);
    for octet in [0xC1, 0xC1, 0xC0, 0x42, 0x43] {
        let request = get().with(InvokeId::from_octet(octet)).encode();
        assert_eq!(ask(&mut pair, request)[2], octet);
    }
    // ours count, so that an old answer is not taken for a new one
    let mut pair = Pair::opened(Mechanism::None, Protection::Plain);
    for id in (1..16).chain(0..3) {
        pair.request(get());
        assert_eq!(
            pair.asked.last().map(Request::invoke),
            Some(InvokeId::new(id))
        );
    }
    for (bend, taken) in [(0x80, true), (0x40, true), (0x01, false), (0x08, false)] {
        let mut pair = bent(Protection::Plain, move |mut apdu| {
            apdu[2] ^= bend;
            vec![apdu]
        });
        assert_eq!(
            pair.events.drain(..).count(),
            usize::from(taken),
            "{bend:02x}"
        );
    }
}

#[test]
fn t22_parameters_are_sent_as_they_are_typed_and_success_has_no_data() {
    let method = |class_id, name: [u8; 6]| Method {
        class_id,
        name: dlms::Obis::new(name),
        index: 1,
    };
    for (method, parameter, octets) in [
        (
            method(9, [0, 0, 10, 1, 0, 255]),
            Data::LongUnsigned(3),
            &[0x12, 0, 3][..],
        ),
        (
            method(1, [0, 0, 96, 1, 2, 255]),
            Data::Integer(0),
            &[0x0F, 0],
        ),
    ] {
        let mut pair = Pair::opened(Mechanism::None, Protection::Plain);
        let parameter = Some(parameter);
        pair.request(Command::Action { method, parameter });
        let [.., request, response] = pair.frames.as_slice() else {
            panic!("two frames")
        };
        assert!(request.apdu.ends_with(&[&[1], octets].concat()));
        assert_eq!(response.apdu, [0xC7, 1, 0xC1, 0, 0]);
        let event = pair.event();
        assert!(
            matches!(event, Event::Answered(Response::Action { result, data: None, .. }) if result.is_success()),
            "{event:?}"
        );
    }
}
