//! What works: every mechanism and protection, and wires that split, merge, lose and double.

use dlms::acse::Aare;
use dlms::client::Event;
use dlms::meter;
use dlms::{
    Awaiting, Cause, CauseClass, CipherFailure, Command, Conformance, Data, Error, Mechanism,
    Protection, Response, Retry,
};

use crate::pair::{COUNTER, METER_TITLE, Pair, TIMEOUT, action, client_config, get, meter_config};

const MECHANISMS: [Mechanism; 3] = [Mechanism::None, Mechanism::Low, Mechanism::HlsGmac];
const PROTECTIONS: [Protection; 3] = [Protection::Plain, Protection::Glo, Protection::GeneralGlo];

fn all() -> impl Iterator<Item = (Mechanism, Protection)> {
    MECHANISMS
        .into_iter()
        .flat_map(|mechanism| PROTECTIONS.map(|protection| (mechanism, protection)))
}

fn frame(apdu: Vec<u8>) -> dlms::Frame {
    dlms::Frame {
        source: 1,
        destination: 1,
        apdu,
    }
}

/// Opens, reads, writes, acts, releases.
fn life(pair: &mut Pair) {
    pair.open();
    let Event::Opened {
        server_title,
        conformance,
        max_pdu,
    } = pair.event()
    else {
        panic!("not opened");
    };
    assert!(server_title.is_none_or(|title| title == METER_TITLE));
    assert!(conformance.contains(Conformance::GET) && max_pdu == 1024);
    pair.request(get());
    assert_eq!(pair.value(), Data::DoubleLongUnsigned(5009));
    pair.request(Command::Set {
        attribute: COUNTER,
        selection: None,
        value: Data::Unsigned(1),
    });
    assert!(
        matches!(pair.event(), Event::Answered(Response::Set { result, .. }) if result.is_success())
    );
    pair.request(action());
    let Event::Answered(Response::Action {
        result, data: None, ..
    }) = pair.event()
    else {
        panic!("no answer");
    };
    assert_eq!(result.retry(), Retry::Done);
    pair.release();
    assert_eq!(pair.event(), Event::Released);
    assert_eq!(pair.asked.len(), 3);
    assert!(matches!(
        pair.meter_events.as_slice(),
        [meter::Event::Opened { .. }, meter::Event::Released]
    ));
}

#[test]
fn every_mechanism_with_every_protection() {
    for (mechanism, protection) in all() {
        let mut pair = Pair::new(mechanism, protection);
        life(&mut pair);
        let tags: Vec<u8> = pair.frames.iter().map(|frame| frame.apdu[0]).collect();
        let expected: &[u8] = match protection {
            Protection::Plain => &[0xC0, 0xC4, 0xC1, 0xC5, 0xC3, 0xC7],
            Protection::Glo => &[0xC8, 0xCC, 0xC9, 0xCD, 0xCB, 0xCF],
            Protection::GeneralGlo => &[0xDB; 6],
            other => panic!("{other:?} is not in this table"),
        };
        let passes = if mechanism == Mechanism::HlsGmac {
            2
        } else {
            0
        };
        assert_eq!(&tags[..2], &[0x60, 0x61]);
        assert_eq!(
            &tags[2 + passes..8 + passes],
            expected,
            "{mechanism:?} {protection:?}"
        );
        assert_eq!(&tags[8 + passes..], &[0x62, 0x63]);
    }
}

#[test]
fn segments_may_be_split_and_merged() {
    for (mechanism, protection) in all() {
        for size in [1, 5, 9] {
            let mut pair = Pair::new(mechanism, protection);
            let split = move |frame: Vec<u8>| frame.chunks(size).map(<[u8]>::to_vec).collect();
            pair.to_meter = Box::new(split);
            pair.to_client = Box::new(split);
            life(&mut pair);
        }
    }
}

#[test]
fn doubled_frames_change_nothing() {
    for (mechanism, protection) in all() {
        let mut pair = Pair::new(mechanism, protection);
        pair.to_client = Box::new(|frame| vec![[frame.clone(), frame].concat()]);
        life(&mut pair);
    }
}

#[test]
fn an_old_answer_in_front_of_the_right_one_is_dropped() {
    for protection in PROTECTIONS {
        let mut pair = Pair::opened(Mechanism::None, protection);
        let mut values = 0..;
        pair.objects = Box::new(move |request| {
            let data = Data::Unsigned(values.next().unwrap());
            Response::GetData {
                invoke: request.invoke(),
                data,
            }
        });
        let mut last = vec![];
        pair.to_client =
            Box::new(move |frame| vec![core::mem::replace(&mut last, frame.clone()), frame]);
        for value in 0..20 {
            pair.request(get());
            assert_eq!(pair.value(), Data::Unsigned(value), "{protection:?}");
        }
        assert!(pair.events.is_empty());
    }
}

#[test]
fn an_answer_between_other_ports_is_not_ours() {
    let mut pair = Pair::opened(Mechanism::None, Protection::Plain);
    pair.to_client = Box::new(|frame| {
        let foreign = |port: usize| {
            let mut frame = frame.clone();
            frame[port] = 9;
            *frame.last_mut().unwrap() ^= 1;
            frame
        };
        vec![foreign(3), foreign(5), frame]
    });
    pair.request(get());
    assert_eq!(pair.value(), Data::DoubleLongUnsigned(5009));
}

#[test]
fn a_lost_answer_is_a_timeout_and_not_sooner() {
    let mut pair = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
    pair.client.set_answer_timeout_ms(7 * TIMEOUT);
    pair.to_client = Box::new(|_| vec![]);
    pair.request(action());
    pair.now = 7 * TIMEOUT - 1;
    pair.client.handle_timeout(pair.now);
    pair.run();
    assert!(pair.events.is_empty());
    assert_eq!(pair.timer, 7 * TIMEOUT);
    pair.expire();
    let cause = pair.failure();
    assert_eq!(
        cause,
        Cause::TimedOut {
            awaiting: Awaiting::Answer
        }
    );
    assert_eq!(cause.class(), CauseClass::Link);
    assert_eq!(pair.asked.len(), 1, "the meter executed it all the same");
}

#[test]
fn a_replay_does_not_stop_the_clock() {
    let mut pair = Pair::opened(Mechanism::None, Protection::Glo);
    pair.request(get());
    pair.value();
    let old = pair.frames.last().unwrap().apdu.clone();
    pair.to_client = Box::new(|_| vec![]);
    pair.request(get());
    pair.timer = 0;
    let octets = frame(old).encode().unwrap();
    pair.client.handle_bytes(0, &octets);
    // the time comes while it is deciphered: nothing is too late yet
    pair.client.handle_timeout(TIMEOUT);
    pair.run();
    assert_eq!(pair.timer, TIMEOUT, "asked for again");
    assert!(pair.events.is_empty());
    pair.expire();
    assert!(matches!(pair.failure(), Cause::TimedOut { .. }));
}

#[test]
fn an_answer_counts_even_if_the_meter_closes_right_after_it() {
    let mut pair = Pair::opened(Mechanism::None, Protection::Glo);
    pair.client.request(0, action()).unwrap();
    let answer = pair
        .meter_keys
        .protect(&[0xC7, 1, 0xC1, 0, 0], Protection::Glo, 99);
    pair.to_meter = Box::new(|_| vec![]);
    pair.run();
    let octets = dlms::Frame {
        source: 1,
        destination: 1,
        apdu: answer,
    }
    .encode()
    .unwrap();
    pair.client.handle_bytes(0, &octets);
    pair.client.closed();
    pair.run();
    assert!(matches!(
        pair.event(),
        Event::Answered(Response::Action { .. })
    ));
    assert!(matches!(
        pair.failure(),
        Cause::Closed {
            awaiting: Awaiting::Nothing,
            ..
        }
    ));
}

#[test]
fn a_closed_connection_is_a_security_matter_only_while_a_ciphered_association_opens() {
    for (protection, open, class) in [
        (Protection::Glo, false, CauseClass::Security),
        (Protection::Plain, false, CauseClass::Link),
        (Protection::Glo, true, CauseClass::Link),
    ] {
        let mut pair = Pair::new(Mechanism::Low, protection);
        if open {
            pair.open();
            pair.event();
            pair.to_client = Box::new(|_| vec![]);
            pair.request(action());
        } else {
            pair.to_client = Box::new(|_| vec![]);
            pair.open();
        }
        pair.client.closed();
        pair.run();
        let cause = pair.failure();
        assert!(matches!(cause, Cause::Closed { .. }));
        assert_eq!(cause.class(), class, "{cause}");
    }
}

#[test]
fn release_ends_with_any_answer_with_none_and_with_a_close() {
    let short = [0x63, 0x24, 0x80, 1, 0, 0xBE, 0x23, 4, 1, 1, 1, 1];
    for way in 0..4 {
        let mut pair = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
        pair.to_client = Box::new(|_| vec![]);
        if way == 3 {
            pair.client_keys.fails = Some(CipherFailure::Unavailable);
        }
        pair.release();
        match way {
            0 => pair.inject(short.to_vec()),
            1 => pair.expire(),
            2 => pair.client.closed(),
            _ => {}
        }
        pair.run();
        assert_eq!(pair.event(), Event::Released);
        assert!(pair.events.is_empty() && pair.client.cause().is_none());
    }
}

#[test]
fn a_ciphered_release_carries_a_ciphered_initiate_request() {
    let mut pair = Pair::opened(Mechanism::None, Protection::GeneralGlo);
    pair.release();
    let [.., rlrq, rlre] = pair.frames.as_slice() else {
        panic!("no release")
    };
    let rlrq = dlms::acse::Rlrq::decode(&rlrq.apdu).unwrap();
    let rlre = dlms::acse::Rlre::decode(&rlre.apdu).unwrap();
    assert_eq!(rlrq.user_information.unwrap()[0], 0x21);
    assert_eq!(rlre.user_information.unwrap()[0], 0x28);
}

#[test]
fn a_command_that_custody_does_not_cipher_is_not_sent_and_the_association_lives() {
    let mut pair = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
    let before = pair.frames.len();
    pair.client_keys.fails = Some(CipherFailure::Refused);
    pair.request(action());
    assert_eq!(pair.event(), Event::NotSent(CipherFailure::Refused));
    assert_eq!(pair.frames.len(), before);
    pair.request(get());
    pair.value();
}

#[test]
fn a_command_at_the_wrong_time_or_too_long_changes_nothing() {
    let mut pair = Pair::new(Mechanism::None, Protection::Glo);
    assert!(matches!(
        pair.client.request(0, get()),
        Err(Error::State {
            found: "not open",
            ..
        })
    ));
    pair.open();
    pair.event();
    let long = |octets| Command::Set {
        attribute: COUNTER,
        selection: None,
        value: Data::OctetString(vec![0; octets]),
    };
    // 13 octets of request, 4 of octet-string head, 21 of ciphering: 1024 is reached with 986
    assert!(matches!(
        pair.client.request(0, long(987)),
        Err(Error::TooLong {
            limit: 1024,
            found: 1025
        })
    ));
    pair.request(long(986));
    assert!(matches!(
        pair.event(),
        Event::Answered(Response::Set { .. })
    ));
    pair.client.request(0, get()).unwrap();
    assert!(matches!(
        pair.client.request(0, get()),
        Err(Error::State { found: "busy", .. })
    ));
}

#[test]
fn long_challenges_make_long_form_lengths_on_both_sides() {
    let mut config = client_config(Mechanism::HlsGmac, Protection::Glo);
    config.authentication_value = vec![7; 64];
    let mut pair = Pair::with(config, meter_config(Mechanism::HlsGmac, true));
    pair.meter.refill(vec![8; 64]);
    pair.open();
    assert!(matches!(pair.event(), Event::Opened { .. }));
    assert_eq!(&pair.frames[0].apdu[..2], &[0x60, 0x81]);
    assert_eq!(&pair.frames[1].apdu[..2], &[0x61, 0x81]);
}

#[test]
fn a_token_with_the_counter_of_its_apdu_is_accepted() {
    let mut pair = Pair::new(Mechanism::HlsGmac, Protection::Glo);
    pair.client_keys.token_shares_counter = true;
    pair.meter_keys.token_shares_counter = true;
    pair.open();
    assert!(matches!(pair.event(), Event::Opened { .. }));
}

#[test]
fn pass_3_is_decided_by_the_mechanism_proposed() {
    let mut pair = Pair::new(Mechanism::HlsGmac, Protection::Glo);
    pair.to_client = Box::new(|frame| {
        if frame[8] != 0x61 {
            return vec![frame];
        }
        // as jDLMS says it: protocol version first, diagnostic 0, no mechanism name
        let mut aare = Aare::decode(&frame[8..]).unwrap();
        aare.diagnostic = dlms::acse::Diagnostic::NULL;
        aare.mechanism = None;
        let mut apdu = aare.encode();
        apdu[1] += 4;
        apdu.splice(2..2, [0x80, 2, 7, 0x80]);
        vec![
            dlms::Frame {
                source: 1,
                destination: 1,
                apdu,
            }
            .encode()
            .unwrap(),
        ]
    });
    pair.open();
    assert!(matches!(pair.event(), Event::Opened { .. }));
    assert!(matches!(
        pair.meter_events.as_slice(),
        [meter::Event::Opened {
            mechanism: Mechanism::HlsGmac,
            ..
        }]
    ));
}

#[test]
fn a_title_that_is_not_expected_is_learnt() {
    let mut config = client_config(Mechanism::HlsGmac, Protection::Glo);
    config.expected_server_title = None;
    let mut pair = Pair::with(config, meter_config(Mechanism::HlsGmac, true));
    pair.open();
    assert!(matches!(
        pair.event(),
        Event::Opened {
            server_title: Some(METER_TITLE),
            ..
        }
    ));
}

#[test]
fn a_configuration_that_cannot_work_sends_nothing() {
    type Change = fn(&mut dlms::ClientConfig);
    let change: [(Mechanism, Change); 5] = [
        (Mechanism::HlsGmac, |config| config.client_title = None),
        (Mechanism::HlsGmac, |config| {
            config.authentication_value = vec![1; 7]
        }),
        (Mechanism::HlsGmac, |config| {
            config.authentication_value = vec![1; 65]
        }),
        (Mechanism::None, |config| {
            config.authentication_value = vec![1]
        }),
        (Mechanism::HlsGmac, |config| {
            config.mechanism = Mechanism::HlsManufacturer
        }),
    ];
    for (mechanism, change) in change {
        let mut config = client_config(mechanism, Protection::Glo);
        change(&mut config);
        let mut pair = Pair::with(config, meter_config(mechanism, true));
        pair.open();
        assert_eq!(pair.failure().class(), CauseClass::Local);
        assert!(pair.frames.is_empty());
    }
}

#[test]
fn a_release_that_comes_to_nothing_does_not_hide_what_the_meter_said() {
    let mut client = dlms::Client::new(dlms::ClientConfig {
        recover: true,
        ..dlms::ClientConfig::default()
    });
    client.open(0);
    let not_now = dlms::Frame {
        source: 1,
        destination: 16,
        apdu: vec![0xD8, 1, 1],
    };
    client.handle_bytes(0, &not_now.encode().unwrap());
    let sent: Vec<_> = core::iter::from_fn(|| client.poll())
        .filter_map(|effect| match effect {
            dlms::Effect::Transmit(frame) => Some(frame[8]),
            _ => None,
        })
        .collect();
    assert_eq!(sent, [0x60, 0x62], "AARQ, RLRQ");
    client.closed();
    assert_eq!(
        client.cause(),
        Some(&Cause::NotOpened(dlms::Exception::NOT_POSSIBLE))
    );
}
