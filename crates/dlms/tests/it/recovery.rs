//! An association that the meter still holds: released, and asked for once more.

use dlms::acse::{Aare, AssociationResult, Diagnostic};
use dlms::client::Event;
use dlms::{Cause, Exception, LinkConfig, Mechanism, Protection, hdlc};

use crate::joined::Terms;
use crate::pair::{Pair, client_config, meter_config};

/// A client whose AARQ was answered with this, by a meter that the test plays.
fn refused(recover: bool, says: &[u8]) -> Pair {
    let mut config = client_config(Mechanism::HlsGmac, Protection::Glo);
    config.recover = recover;
    let mut pair = Pair::with(config, meter_config(Mechanism::HlsGmac, true));
    pair.to_meter = Box::new(|_| vec![]);
    pair.open();
    pair.inject(says.to_vec());
    pair
}

const NOT_NOW: [u8; 3] = [0xD8, 1, 1];

fn tags(pair: &Pair) -> Vec<u8> {
    pair.frames.iter().map(|frame| frame.apdu[0]).collect()
}

#[test]
fn an_old_association_is_released_and_a_new_one_asked_for_once() {
    for protection in [Protection::Plain, Protection::Glo] {
        // the meter value holds none: it refuses the release as it would any request without association
        let mut config = client_config(Mechanism::HlsGmac, protection);
        config.recover = true;
        let mut pair = Pair::with(
            config,
            meter_config(Mechanism::HlsGmac, protection.is_ciphered()),
        );
        let mut first = true;
        pair.to_meter = Box::new(move |octets| {
            let lost = octets[8] == 0x60 && core::mem::take(&mut first);
            if lost { vec![] } else { vec![octets] }
        });
        pair.open();
        pair.inject(NOT_NOW.to_vec());
        assert!(
            matches!(pair.event(), Event::Opened { .. }),
            "{protection:?}"
        );
        let request = if protection.is_ciphered() { 0xCB } else { 0xC3 };
        let tags = tags(&pair);
        assert_eq!(tags[..4], [0x60, 0x62, 0xD8, 0x60], "{protection:?}");
        assert_eq!(tags[5], request, "pass 3");
        if protection.is_ciphered() {
            let rlrq = dlms::acse::Rlrq::decode(&pair.frames[1].apdu).unwrap();
            assert_eq!(rlrq.user_information.unwrap()[0], 0x21);
        }
    }
}

#[test]
fn a_busy_meter_is_recovered_from_as_well_and_a_silent_release_is_waited_out() {
    let mut pair = Pair::with(
        dlms::ClientConfig {
            recover: true,
            ..client_config(Mechanism::None, Protection::Plain)
        },
        meter_config(Mechanism::None, false),
    );
    let mut frames = 0;
    pair.to_meter = Box::new(move |octets| {
        frames += 1;
        if frames <= 2 { vec![] } else { vec![octets] }
    });
    pair.open();
    let busy = Aare {
        context: dlms::ApplicationContext::LogicalName,
        result: AssociationResult::RejectedTransient,
        diagnostic: Diagnostic::NO_REASON,
        responding_title: None,
        responding_ae_qualifier: None,
        mechanism: None,
        authentication_value: None,
        user_information: None,
    };
    pair.inject(busy.encode());
    assert!(pair.events.is_empty());
    pair.expire();
    assert!(matches!(pair.event(), Event::Opened { .. }));
}

#[test]
fn it_is_tried_once_and_only_for_what_passes() {
    let said = Cause::NotOpened(Exception::NOT_POSSIBLE);
    // not asked for
    let mut pair = refused(false, &NOT_NOW);
    assert_eq!(pair.failure(), said);
    assert_eq!(tags(&pair), [0x60]);
    // a matter of keys: nothing would come of another try
    let mut pair = refused(true, &[0xD8, 1, 5]);
    assert_eq!(pair.failure(), Cause::NotOpened(Exception::DECIPHERING));
    assert_eq!(tags(&pair), [0x60]);
    // the same again
    let mut config = client_config(Mechanism::None, Protection::Plain);
    config.recover = true;
    let mut pair = Pair::with(config, meter_config(Mechanism::None, false));
    pair.to_meter = Box::new(|_| vec![]);
    pair.open();
    pair.inject(NOT_NOW.to_vec());
    pair.inject(NOT_NOW.to_vec());
    pair.inject(NOT_NOW.to_vec());
    assert_eq!(pair.failure(), said);
    assert_eq!(tags(&pair), [0x60, 0x62, 0x60]);
    // what the meter had said first is told, if it then says nothing
    let mut config = client_config(Mechanism::None, Protection::Plain);
    config.recover = true;
    let mut pair = Pair::with(config, meter_config(Mechanism::None, false));
    pair.to_meter = Box::new(|_| vec![]);
    pair.open();
    pair.inject(NOT_NOW.to_vec());
    pair.client.closed();
    pair.run();
    assert_eq!(pair.failure(), said);
}

#[test]
fn over_hdlc_the_link_is_taken_down_in_between() {
    let terms = Terms {
        link: LinkConfig::Hdlc(hdlc::Config::default()),
        mechanism: Mechanism::None,
        form: Protection::Plain,
        control: dlms::SecurityControl::AUTH_ENC,
        signed: false,
        client_pdu: 1024,
        meter_pdu: 1024,
        conformance: dlms::Conformance::RESET,
    };
    let config = dlms::ClientConfig {
        recover: true,
        release: false,
        ..terms.client()
    };
    let mut client = dlms::Client::new(config);
    let mut stuck = hdlc::Station::secondary(hdlc::Config::default(), 1, 1024).unwrap();
    client.open(0);
    let mut controls = vec![];
    for _ in 0..20 {
        while let Some(effect) = client.poll() {
            if let dlms::Effect::Transmit(octets) = effect {
                controls.push(octets[5]);
                stuck.receive(0, &octets);
            }
        }
        while stuck.take().is_some() {
            stuck.send(0, &NOT_NOW).unwrap();
        }
        while let Some(effect) = stuck.poll() {
            if let hdlc::Effect::Transmit(octets) = effect {
                client.handle_bytes(0, &octets);
            }
        }
    }
    let [snrm, aarq, disc, again, aarq_again] = controls[..] else {
        panic!("{controls:02x?}")
    };
    assert_eq!((snrm, disc, again), (0x93, 0x53, 0x93));
    assert_eq!((aarq, aarq_again), (0x10, 0x10));
    assert_eq!(
        client.cause(),
        Some(&Cause::NotOpened(Exception::NOT_POSSIBLE))
    );
}
