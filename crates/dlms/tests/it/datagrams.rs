//! What UDP does to an association, and what anybody may send to it.

use dlms::client::Event;
use dlms::{
    Awaiting, Cause, CipherFailure, Exception, Frame, InvokeId, LinkConfig, Mechanism, Protection,
    Response, meter,
};

use crate::pair::{Pair, action, client_config, get, meter_config};

fn pair(mechanism: Mechanism, protection: Protection) -> Pair {
    let mut client = client_config(mechanism, protection);
    client.link = LinkConfig::Udp;
    let mut meter = meter_config(mechanism, protection.is_ciphered());
    meter.link = LinkConfig::Udp;
    Pair::with(client, meter)
}

fn opened(mechanism: Mechanism, protection: Protection) -> Pair {
    let mut pair = pair(mechanism, protection);
    pair.open();
    assert!(matches!(pair.event(), Event::Opened { .. }));
    pair
}

fn datagram(apdu: Vec<u8>) -> Vec<u8> {
    let (source, destination) = (1, 1);
    Frame {
        source,
        destination,
        apdu,
    }
    .encode()
    .unwrap()
}

/// Hands a datagram to the meter; what it says to it.
fn say(pair: &mut Pair, octets: &[u8]) -> Vec<Vec<u8>> {
    let before = pair.frames.len();
    pair.to_client = Box::new(|_| vec![]);
    pair.meter.handle_bytes(0, octets);
    pair.run();
    let said = pair.frames[before..].iter();
    said.map(|frame| frame.apdu.clone()).collect()
}

#[test]
fn every_datagram_twice_changes_nothing() {
    for mechanism in [Mechanism::None, Mechanism::Low, Mechanism::HlsGmac] {
        for protection in [Protection::Plain, Protection::Glo, Protection::GeneralGlo] {
            let mut pair = pair(mechanism, protection);
            pair.to_meter = Box::new(|octets| vec![octets.clone(), octets]);
            pair.to_client = Box::new(|octets| vec![octets.clone(), octets]);
            pair.open();
            assert!(
                matches!(pair.event(), Event::Opened { .. }),
                "{mechanism:?} {protection:?}"
            );
            for _ in 0..40 {
                pair.request(action());
                assert!(matches!(
                    pair.event(),
                    Event::Answered(Response::Action { .. })
                ));
            }
            assert_eq!(pair.asked.len(), 40, "{mechanism:?} {protection:?}");
            pair.release();
            assert_eq!(pair.event(), Event::Released);
        }
    }
}

#[test]
fn a_duplicate_is_answered_again_but_not_executed_again() {
    let mut pair = opened(Mechanism::None, Protection::Plain);
    let mut act = |id| {
        say(
            &mut pair,
            &datagram(action().with(InvokeId::new(id)).encode()),
        )
    };
    let first = act(1);
    assert_eq!(act(1), first, "what was answered last is answered again");
    act(2);
    assert_eq!(
        act(1),
        Vec::<Vec<u8>>::new(),
        "what is older is known, and left"
    );
    // after eight others it is a new one: the client has come round with its ids
    (3..11).for_each(|id| assert_eq!(act(id).len(), 1));
    assert_eq!(act(1).len(), 1);
    assert_eq!(pair.asked.len(), 11);
}

#[test]
fn a_replay_is_not_talked_about_but_a_new_client_is_told_its_counter() {
    let mut pair = opened(Mechanism::HlsGmac, Protection::Glo);
    let aarq = datagram(pair.frames[0].apdu.clone());
    let aare = pair.frames[1].apdu.clone();
    let request =
        pair.client_keys
            .protect(&get().with(InvokeId::new(3)).encode(), Protection::Glo, 50);
    assert_eq!(say(&mut pair, &datagram(request.clone())).len(), 1);
    assert_eq!(say(&mut pair, &datagram(request)).len(), 0);
    let expected = 51;
    let replay = CipherFailure::Replay { expected };
    assert_eq!(
        pair.meter_events.last(),
        Some(&meter::Event::NotDeciphered(replay))
    );
    // the AARQ once more is answered as it was, and the association goes on
    assert_eq!(say(&mut pair, &aarq), [aare]);
    let request =
        pair.client_keys
            .protect(&get().with(InvokeId::new(4)).encode(), Protection::Glo, 60);
    assert_eq!(say(&mut pair, &datagram(request)).len(), 1);
    // but not once it is released
    let rlrq = "6200";
    assert_eq!(
        say(&mut pair, &datagram(hex::decode(rlrq).unwrap())),
        [Response::Exception(Exception::DECIPHERING).encode()],
        "anybody could release it in clear"
    );
    pair.client_keys.set_sent(60);
    pair.release();
    let expected = Exception::invocation_counter(61);
    assert_eq!(pair.meter_events.last(), Some(&meter::Event::Released));
    pair.meter.refill(vec![6; 16]);
    let again = say(&mut pair, &aarq);
    assert!(
        matches!(Response::decode(&again[0]), Ok(Response::Exception(found)) if found.counter >= expected.counter)
    );
}

#[test]
fn another_association_request_ends_nothing_before_it_is_deciphered() {
    let mut pair = opened(Mechanism::HlsGmac, Protection::Glo);
    let mut forged = dlms::acse::Aarq::decode(&pair.frames[0].apdu).unwrap();
    let mut keys = pair.client_keys.clone();
    keys.change(|_, keys| keys.encryption = Some([0x55; 16].into()));
    let request = dlms::initiate::InitiateRequest::new(dlms::Conformance::RESET, 0).encode();
    forged.user_information = Some(keys.protect(&request, Protection::Glo, 40));
    pair.meter.refill(vec![6; 16]);
    let said = say(&mut pair, &datagram(forged.encode()));
    assert_eq!(said, [Response::Exception(Exception::DECIPHERING).encode()]);
    assert!(matches!(
        pair.meter_events.last(),
        Some(meter::Event::Refused { .. })
    ));
    let request =
        pair.client_keys
            .protect(&get().with(InvokeId::new(4)).encode(), Protection::Glo, 60);
    let said = say(&mut pair, &datagram(request));
    assert_eq!(said[0][0], 0xCC, "the association goes on");
}

#[test]
fn what_anybody_may_have_sent_is_waited_out_and_told_if_nothing_better_comes() {
    let protection = Protection::Glo;
    let forged = move |pair: &Pair, apdu: &[u8]| {
        let mut keys = pair.meter_keys.clone();
        keys.change(|_, keys| keys.encryption = Some([0x55; 16].into()));
        keys.protect(apdu, protection, 70)
    };
    let during = Awaiting::Answer;
    let failure = CipherFailure::AuthFailed;
    type Forge = Box<dyn Fn(&Pair) -> Vec<u8>>;
    let cases: [(Forge, Cause); 5] = [
        (
            Box::new(move |pair| forged(pair, &[0xC7, 1, 0xC1, 0, 0])),
            Cause::Cipher { during, failure },
        ),
        (
            Box::new(|_| vec![0xD8, 1, 5]),
            Cause::Exception(Exception::DECIPHERING),
        ),
        (
            Box::new(|_| vec![0xC7, 1, 0xC1, 0, 0]),
            Cause::Unprotected { tag: 0xC7 },
        ),
        (
            Box::new(|_| vec![0xD7, 0]),
            Cause::Malformed(dlms::Error::Truncated {
                offset: 2,
                needed: 1,
                found: 0,
            }),
        ),
        (
            Box::new(move |pair| {
                let dedicated = pair
                    .meter_keys
                    .protect(&[0xC7, 1, 0xC1, 0, 0], protection, 70);
                [&[0xD7], &dedicated[1..]].concat()
            }),
            Cause::WrongForm {
                expected: protection,
                found: 0xD7,
            },
        ),
    ];
    for (forge, cause) in cases {
        for answered in [true, false] {
            let mut pair = opened(Mechanism::None, protection);
            let before = pair.frames.len();
            let spoof = datagram(forge(&pair));
            pair.to_client = Box::new(move |octets| match answered {
                true => vec![spoof.clone(), spoof.clone(), octets],
                false => vec![spoof.clone()],
            });
            pair.request(action());
            if answered {
                assert!(
                    matches!(pair.event(), Event::Answered(Response::Action { .. })),
                    "{cause}"
                );
                continue;
            }
            assert!(pair.events.is_empty(), "{cause}");
            pair.expire();
            assert_eq!(pair.failure(), cause);
            assert_eq!(pair.frames.len() - before, 2, "nothing is sent twice");
        }
    }
}

#[test]
fn datagrams_that_are_none_are_counted_and_dropped() {
    let mut pair = opened(Mechanism::None, Protection::Plain);
    let good = datagram(get().with(InvokeId::new(5)).encode());
    for bad in [
        &good[..4],
        &good[..12],
        &[&good[..], &good[..]].concat(),
        b"GET / HTTP/1.1",
    ] {
        assert!(say(&mut pair, bad).is_empty());
        pair.client.handle_bytes(0, bad);
    }
    assert_eq!((pair.meter.dropped(), pair.client.dropped()), (4, 4));
    assert_eq!(say(&mut pair, &good).len(), 1);
    assert!(pair.client.is_ready());
}

#[test]
fn a_release_in_clear_ends_only_what_is_in_clear() {
    for (protection, released) in [(Protection::Plain, true), (Protection::Glo, false)] {
        let mut pair = opened(Mechanism::None, protection);
        say(&mut pair, &datagram(vec![0x62, 0]));
        let last = pair.meter_events.last();
        assert_eq!(
            last == Some(&meter::Event::Released),
            released,
            "{protection:?}"
        );
    }
}
