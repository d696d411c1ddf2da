//! Challenges and tokens.

use dlms::acse::{Aare, Aarq, AssociationResult};
use dlms::client::Event;
use dlms::{
    ActionResult, Cause, CauseClass, Ciphered, Conformance, Exception, GmacToken, InvokeId,
    LinkConfig, Mechanism, Protection, Response, SecurityControl, Suite, SystemTitle, meter,
};

use super::{ask, frame};
use crate::joined::{ALL, Terms};
use crate::pair::{CLIENT_TITLE, Pair, client_config, get, meter_config};

#[test]
fn t2_challenges_make_lengths_of_two_octets_and_ours_are_long_enough() {
    let mut config = client_config(Mechanism::HlsGmac, Protection::Glo);
    config.authentication_value = vec![7; 64];
    let mut pair = Pair::with(config, meter_config(Mechanism::HlsGmac, true));
    pair.meter.refill(vec![8; 64]);
    pair.open();
    assert!(matches!(pair.event(), Event::Opened { .. }));
    assert_eq!(pair.frames[0].apdu[..2], [0x60, 0x81]);
    assert_eq!(pair.frames[1].apdu[..2], [0x61, 0x81]);
    // 16 octets are proposed by a known peer even with ECDSA; we propose 32 at least
    for (length, opened) in [(16, false), (31, false), (32, true)] {
        let terms = ecdsa();
        let mut config = terms.client();
        config.authentication_value = vec![9; length];
        let keys = crate::joined::keys(Suite::Suite1, 1);
        let mut world = crate::world::World::new(config, terms.meter(), keys, 1);
        world.open();
        let event = world.event();
        assert_eq!(matches!(event, Event::Opened { .. }), opened, "{event:?}");
    }
    let mut meter = meter::Meter::new(ecdsa().meter(), vec![5; 32]);
    let aarq = Aarq {
        context: dlms::ApplicationContext::LogicalName,
        calling_title: Some(CLIENT_TITLE),
        calling_ae_qualifier: None,
        mechanism: Some(Mechanism::HlsEcdsa),
        authentication_value: Some(vec![9; 16]),
        user_information: Some(dlms::initiate::InitiateRequest::new(ALL, 500).encode()),
    };
    meter.handle_bytes(0, &frame(aarq.encode()));
    let Some(meter::Effect::Transmit(aare)) = meter.poll() else {
        panic!("no answer")
    };
    assert_eq!(
        Aare::decode(&aare[8..]).unwrap().result,
        AssociationResult::Accepted
    );
}

pub(super) fn ecdsa() -> Terms {
    Terms {
        link: LinkConfig::Tcp,
        mechanism: Mechanism::HlsEcdsa,
        form: Protection::Plain,
        control: SecurityControl::of(Suite::Suite1, true, true),
        signed: false,
        client_pdu: 1024,
        meter_pdu: 1024,
        conformance: Conformance::RESET,
    }
}

#[test]
fn t4_a_server_that_foresees_another_counter_refuses_pass_3_and_is_quoted() {
    let mut pair = Pair::new(Mechanism::HlsGmac, Protection::Plain);
    pair.to_client = Box::new(|octets| match Response::decode(&octets[8..]) {
        Ok(response) => {
            let (invoke, result) = (response.invoke().unwrap(), ActionResult::OTHER_REASON);
            let data = None;
            vec![frame(
                Response::Action {
                    invoke,
                    result,
                    data,
                }
                .encode(),
            )]
        }
        Err(_) => vec![octets],
    });
    pair.open();
    let cause = pair.failure();
    assert_eq!(
        cause,
        Cause::AuthenticationRefused(ActionResult::OTHER_REASON)
    );
    assert_eq!(cause.class(), CauseClass::Security);
}

#[test]
fn t5_a_token_may_share_the_counter_of_its_apdu_but_ours_never_does() {
    let mut pair = Pair::new(Mechanism::HlsGmac, Protection::Glo);
    pair.client_keys.token_shares_counter = true;
    pair.meter_keys.token_shares_counter = true;
    pair.open();
    assert!(matches!(pair.event(), Event::Opened { .. }));

    let mut client = Pair::opened(Mechanism::HlsGmac, Protection::Glo);
    let counters = |pair: &Pair| -> Vec<u32> {
        let ciphered = pair
            .frames
            .iter()
            .filter_map(|frame| Ciphered::decode(&frame.apdu).ok());
        ciphered.map(|ciphered| ciphered.counter).collect()
    };
    let passes = counters(&client);
    assert_eq!(
        passes,
        [3, 3],
        "InitiateRequest, token, pass 3: 1, 2, 3 on each side"
    );
    client.request(get());
    assert_eq!(counters(&client), [3, 3, 4, 4]);
}

#[test]
fn t15_a_token_of_suite_1_may_say_suite_0() {
    for (suite, said, taken) in [
        (Suite::Suite1, 0x10, true),
        (Suite::Suite1, 0x11, true),
        (Suite::Suite0, 0x11, false),
        (Suite::Suite1, 0x12, false),
    ] {
        let token = GmacToken {
            control: SecurityControl::new(said),
            counter: 1,
            tag: [0; 12],
        };
        assert_eq!(token.is_of(suite), taken, "{said:02x} in {suite:?}");
        let decoded = GmacToken::decode(&token.encode());
        assert_eq!(decoded, Ok(token), "17 octets: SC, counter, tag of 12");
    }
    // the challenge of a known client is always the same: it is no trust in it that makes pass 3 safe
    let fixed = hex::decode("70389cce67b359ac56ab552a158a4522").unwrap();
    let mut config = client_config(Mechanism::HlsGmac, Protection::Glo);
    config.authentication_value = fixed;
    for stoc in [[1; 16], [2; 16]] {
        let mut pair = Pair::with(config.clone(), meter_config(Mechanism::HlsGmac, true));
        pair.meter.refill(stoc.to_vec());
        pair.open();
        assert!(matches!(pair.event(), Event::Opened { .. }));
    }
}

#[test]
fn t16_the_tokens_of_hls_6_and_7_are_over_titles_and_both_challenges() {
    for mechanism in [Mechanism::HlsSha256, Mechanism::HlsEcdsa] {
        let terms = Terms {
            mechanism,
            ..ecdsa()
        };
        let mut world = terms.world(1);
        world.open();
        assert!(matches!(world.event(), Event::Opened { .. }));
        // a meter that is another one by its title makes another token
        let mut config = terms.client();
        config.expected_server_title = None;
        let mut meter = terms.meter();
        meter.server_title = SystemTitle::new(*b"OTHER001");
        let keys = crate::joined::keys(Suite::Suite1, 1);
        let mut world = crate::world::World::new(config, meter, keys, 1);
        world.open();
        let event = world.event();
        assert!(
            matches!(event, Event::Failed(Cause::AuthenticationRefused(_))),
            "{event:?}"
        );
    }
}

#[test]
fn t17_pass_4_is_an_action_response_with_the_meters_own_token() {
    let mut pair = Pair::new(Mechanism::HlsGmac, Protection::Plain);
    pair.open();
    assert!(matches!(pair.event(), Event::Opened { .. }));
    let pass_4 = &pair.frames[3].apdu;
    assert_eq!(pass_4[..8], [0xC7, 1, 0xC1, 0, 1, 0, 9, 17]);
    let token = GmacToken::decode(&pass_4[8..]).unwrap();
    assert_eq!(token.counter, pair.meter_keys.sent());
    // success without a token proves nothing
    let mut pair = Pair::new(Mechanism::HlsGmac, Protection::Plain);
    pair.to_client = Box::new(|octets| match octets[8] {
        0xC7 => vec![frame(vec![0xC7, 1, octets[10], 0, 0])],
        _ => vec![octets],
    });
    pair.open();
    assert_eq!(pair.failure(), Cause::NoServerProof);
    // a wrong pass 3 is result 3, and the end
    let mut pair = Pair::new(Mechanism::HlsGmac, Protection::Plain);
    pair.client_keys
        .change(|_, keys| keys.encryption = Some([1; 16].into()));
    pair.open();
    let denied = ActionResult::READ_WRITE_DENIED;
    assert_eq!(pair.failure(), Cause::AuthenticationRefused(denied));
    let next = ask(&mut pair, get().with(InvokeId::new(2)).encode());
    assert_eq!(next, Response::Exception(Exception::NOT_POSSIBLE).encode());
}
