use dlms::{Attribute, Conformance, Data, InvokeId};

use super::*;

const SCRIPTS: Obis = Obis::new([0, 0, 10, 1, 0, 255]);
const RELAY: Obis = Obis::new([0, 0, 96, 3, 10, 255]);
const GLOBAL_RESET: Obis = Obis::new([0, 0, 10, 0, 0, 255]);
const MDI_RESET: Obis = Obis::new([0, 0, 10, 0, 1, 255]);
const COUNTER: Obis = Obis::new([0, 0, 43, 1, 0, 255]);

fn action(class_id: u16, name: Obis, index: i8, parameter: Option<Data>) -> Vec<u8> {
    let method = Method {
        class_id,
        name,
        index,
    };
    Request::Action {
        invoke: InvokeId::new(1),
        method,
        parameter,
    }
    .encode()
}

fn get(class_id: u16, name: Obis, index: i8) -> Vec<u8> {
    let attribute = Attribute {
        class_id,
        name,
        index,
    };
    Request::Get {
        invoke: InvokeId::new(1),
        attribute,
        selection: None,
    }
    .encode()
}

fn set(class_id: u16, name: Obis, index: i8, value: Data) -> Vec<u8> {
    let attribute = Attribute {
        class_id,
        name,
        index,
    };
    Request::Set {
        invoke: InvokeId::new(1),
        attribute,
        selection: None,
        value,
    }
    .encode()
}

fn asked(apdu: &[u8]) -> Asked {
    match parse(apdu).unwrap() {
        Parsed::Command { asked, .. } => asked,
        other => panic!("{other:?} is no command"),
    }
}

/// A permit to run script 3 and to read the relay and the load profile's last entry.
fn allowed() -> Vec<Allowed> {
    let last = dlms::Selection::Entry {
        from_entry: 1,
        to_entry: 1,
        from_column: 1,
        to_column: 0,
    };
    [
        asked(&action(9, SCRIPTS, 1, Some(Data::LongUnsigned(3)))),
        asked(&get(70, RELAY, 2)),
        Asked {
            selection: last.encode(),
            ..asked(&get(7, Obis::new([1, 0, 99, 1, 0, 255]), 2))
        },
    ]
    .into_iter()
    .map(|asked| Allowed { asked, max_uses: 1 })
    .collect()
}

fn verdict(apdu: &[u8]) -> Result<usize, &'static str> {
    use kit::status::Fault as _;
    let decide = || match parse(apdu)? {
        Parsed::Command { asked, .. } => covered(&asked, &allowed()),
        _ => Err(Error::ApduNotPermitted { why: "no command" }),
    };
    decide().map_err(|error: Error| error.reason())
}

#[test]
fn what_the_permit_says_and_nothing_else() {
    assert_eq!(
        verdict(&action(9, SCRIPTS, 1, Some(Data::LongUnsigned(3)))),
        Ok(0)
    );
    assert_eq!(verdict(&get(70, RELAY, 2)), Ok(1));
    let profile = Obis::new([1, 0, 99, 1, 0, 255]);
    let not_permitted = [
        (
            "another script",
            action(9, SCRIPTS, 1, Some(Data::LongUnsigned(2))),
        ),
        (
            "the parameter as another type",
            action(9, SCRIPTS, 1, Some(Data::Unsigned(3))),
        ),
        ("no parameter", action(9, SCRIPTS, 1, None)),
        ("null for none", action(9, SCRIPTS, 1, Some(Data::Null))),
        (
            "another method",
            action(9, SCRIPTS, 2, Some(Data::LongUnsigned(3))),
        ),
        (
            "another object",
            action(
                9,
                Obis::new([0, 0, 10, 1, 1, 255]),
                1,
                Some(Data::LongUnsigned(3)),
            ),
        ),
        (
            "another class",
            action(8, SCRIPTS, 1, Some(Data::LongUnsigned(3))),
        ),
        ("another service", set(9, SCRIPTS, 1, Data::LongUnsigned(3))),
        ("another attribute", get(70, RELAY, 3)),
        ("all attributes", get(70, RELAY, 0)),
        ("the whole profile", get(7, profile, 2)),
        (
            "the billing profile",
            get(7, Obis::new([1, 0, 98, 1, 0, 255]), 2),
        ),
        ("a release without an association", Vec::from([0x62, 0x00])),
        ("an AARQ", Vec::from([0x60, 0x00])),
        ("nothing", Vec::new()),
        ("a list of GETs", Vec::from([0xC0, 0x03, 0xC1, 0x01])),
        (
            "an ACTION in blocks",
            Vec::from([0xC3, 0x04, 0xC1, 0x00, 0x46]),
        ),
        (
            "an APDU that is ciphered already",
            Vec::from([0xCB, 0x05, 0x30, 0, 0, 0, 1]),
        ),
    ];
    for (what, apdu) in not_permitted {
        assert_eq!(verdict(&apdu), Err("APDU_NOT_PERMITTED"), "{what}");
    }
}

#[test]
fn octets_a_meter_could_read_otherwise_are_refused() {
    let good = action(9, SCRIPTS, 1, Some(Data::LongUnsigned(3)));
    let mut trailing = good.clone();
    trailing.push(0);
    assert_eq!(verdict(&trailing), Err("APDU_NOT_PERMITTED"));
    for length in 0..good.len() {
        assert!(verdict(&good[..length]).is_err(), "{length} octets");
    }
    // An octet-string whose length is written in two octets where one would do.
    let object = Obis::new([0, 0, 96, 1, 2, 255]);
    let short = set(1, object, 2, Data::OctetString(vec![1, 2]));
    let mut long = short[..short.len() - 3].to_vec();
    long.extend_from_slice(&[0x81, 0x02, 1, 2]);
    assert!(parse(&short).is_ok());
    assert!(matches!(parse(&long), Err(Error::ApduNotPermitted { .. })));
    // A flag that is not 0 or 1: whatever a meter makes of it.
    let mut flag = good;
    flag[12] = 0x02;
    assert!(parse(&flag).is_err());
}

#[test]
fn every_changed_octet_but_the_invoke_id_is_noticed() {
    let good = action(9, SCRIPTS, 1, Some(Data::LongUnsigned(3)));
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert_eq!(verdict(&bad).is_ok(), at == 2, "octet {at}, bit {bit}");
        }
    }
}

#[test]
fn the_deny_list_is_above_every_permit() {
    let name = Obis::new([0, 0, 1, 2, 3, 255]);
    let zero = || Data::Integer(0);
    let forbidden_apdus = [
        ("disconnect", action(70, RELAY, 1, Some(zero()))),
        ("reconnect", action(70, RELAY, 2, Some(zero()))),
        (
            "a later method of the relay",
            action(70, RELAY, 9, Some(zero())),
        ),
        ("control mode", set(70, RELAY, 4, Data::Enum(0))),
        (
            "global reset",
            action(9, GLOBAL_RESET, 1, Some(Data::LongUnsigned(1))),
        ),
        (
            "scripts of the global reset",
            set(9, GLOBAL_RESET, 2, Data::Null),
        ),
        (
            "MDI reset",
            action(9, MDI_RESET, 1, Some(Data::LongUnsigned(1))),
        ),
        ("register reset", action(3, name, 1, Some(zero()))),
        ("extended register reset", action(4, name, 1, Some(zero()))),
        ("demand register reset", action(5, name, 1, Some(zero()))),
        ("profile reset", action(7, name, 1, Some(zero()))),
        (
            "security activate",
            action(64, name, 1, Some(Data::Enum(0))),
        ),
        ("key transfer", action(64, name, 2, Some(zero()))),
        ("remove certificate", action(64, name, 8, Some(zero()))),
        ("security policy", set(64, name, 2, Data::Enum(0))),
    ];
    no_permit_helps(&forbidden_apdus);
    for (what, apdu) in [
        ("reading the relay", get(70, RELAY, 2)),
        (
            "reading the global reset's scripts",
            get(9, GLOBAL_RESET, 2),
        ),
        ("reading a register", get(3, name, 2)),
        (
            "a vendor's reset script",
            action(9, SCRIPTS, 1, Some(Data::LongUnsigned(1))),
        ),
    ] {
        assert_eq!(forbidden(&asked(&apdu)), None, "{what}");
    }
}

fn no_permit_helps(apdus: &[(&str, Vec<u8>)]) {
    for (what, apdu) in apdus {
        let asked = asked(apdu);
        let rotten = [Allowed {
            asked: asked.clone(),
            max_uses: 1,
        }];
        assert!(
            matches!(covered(&asked, &rotten), Err(Error::ApduForbidden { .. })),
            "{what}"
        );
    }
}

#[test]
fn the_deny_list_goes_by_name_too() {
    let name = Obis::new([0, 0, 1, 2, 3, 255]);
    let zero = || Data::Integer(0);
    let named = |c, e| Obis::new([0, 0, c, 0, e, 255]);
    no_permit_helps(&[
        (
            "reconnect, by a class the meter does not look at",
            action(1, RELAY, 2, Some(zero())),
        ),
        (
            "reconnect in another channel",
            action(1, Obis::new([0, 1, 96, 3, 10, 255]), 2, Some(zero())),
        ),
        (
            "disconnect by script",
            action(9, named(10, 106), 1, Some(Data::LongUnsigned(1))),
        ),
        ("disconnect by schedule", set(22, named(15, 1), 4, zero())),
        ("disconnect by limit", set(71, named(17, 0), 4, zero())),
        (
            "firmware activation by script",
            action(9, named(10, 107), 1, Some(Data::LongUnsigned(1))),
        ),
        (
            "global reset in another channel",
            action(
                9,
                Obis::new([0, 1, 10, 0, 0, 255]),
                1,
                Some(Data::LongUnsigned(1)),
            ),
        ),
        (
            "security activate, by another class",
            action(1, named(43, 0), 1, Some(Data::Enum(0))),
        ),
        (
            "the secret of an association",
            set(15, name, 7, Data::OctetString(vec![0; 8])),
        ),
        (
            "the HLS secret",
            action(15, name, 2, Some(Data::OctetString(vec![0; 16]))),
        ),
        ("profile capture", action(7, name, 2, Some(zero()))),
        ("next demand period", action(5, name, 2, Some(zero()))),
    ]);
}

#[test]
fn a_dedicated_key_is_refused() {
    let mut initiate = InitiateRequest::new(Conformance::new(0x10), 1024);
    assert_eq!(parse(&initiate.encode()).unwrap(), Parsed::Initiate);
    initiate.dedicated_key = Some(vec![7; 16]);
    assert!(matches!(
        parse(&initiate.encode()),
        Err(Error::ApduForbidden { .. })
    ));
}

#[test]
fn the_public_client_reads_counters() {
    assert!(reads_invocation_counter(&asked(&get(1, COUNTER, 2))));
    assert!(reads_invocation_counter(&asked(&get(
        1,
        Obis::new([0, 0, 43, 1, 7, 255]),
        2
    ))));
    for apdu in [
        get(1, COUNTER, 1),
        get(3, COUNTER, 2),
        get(1, Obis::new([0, 0, 43, 0, 0, 255]), 2),
        set(1, COUNTER, 2, Data::DoubleLongUnsigned(0)),
    ] {
        assert!(!reads_invocation_counter(&asked(&apdu)));
    }
}

#[test]
fn only_this_token_replies_to_hls() {
    let token = [0x10; 17];
    let reply = |token: &[u8]| {
        let Method {
            class_id,
            name,
            index,
        } = Method::REPLY_TO_HLS;
        asked(&action(
            class_id,
            name,
            index,
            Some(Data::OctetString(token.to_vec())),
        ))
    };
    assert!(replies_to_hls(&reply(&token), &token));
    assert!(!replies_to_hls(&reply(&[0x11; 17]), &token));
    let other = action(
        15,
        Obis::new([0, 0, 40, 0, 1, 255]),
        1,
        Some(Data::OctetString(token.to_vec())),
    );
    assert!(!replies_to_hls(&asked(&other), &token));
}

#[test]
fn a_challenge_that_is_a_request_is_not_answered() {
    for request in [
        action(70, RELAY, 2, Some(Data::Integer(0))),
        action(9, GLOBAL_RESET, 1, Some(Data::LongUnsigned(1))),
        set(70, RELAY, 4, Data::Enum(0)),
        get(7, Obis::new([1, 0, 98, 1, 0, 255]), 2),
        InitiateRequest {
            dedicated_key: Some(vec![1; 16]),
            ..InitiateRequest::new(Conformance::new(1), 0)
        }
        .encode(),
        vec![0xD9, 0, 0, 0, 1, 0, 1, 3, 0, 70],
        // A dedicated key as a lenient meter reads it: TRUE as FF, its length in the long form, AES-192.
        vec![0x01, 0xFF, 16, 1, 1, 1, 1, 1],
        vec![0x01, 1, 0x81, 16, 1, 1, 1, 1],
        vec![0x01, 1, 24, 1, 1, 1, 1, 1],
        // Short names: write variable FA00, unconfirmed write, parameterised read.
        vec![0x06, 1, 2, 0xFA, 0, 1, 0x0F, 0],
        vec![0x16, 1, 2, 0xFA, 0, 1, 0x0F, 0],
        vec![0x05, 1, 4, 0xFA, 0, 1, 2, 4],
    ] {
        assert!(challenge_is_request(&request), "{request:02X?}");
    }
    assert!(!challenge_is_request(b"P6wRJ21F"));
    assert!(!challenge_is_request(&[1; 16]));
    assert!(!challenge_is_request(&[0xC0, 0x80, 1, 2, 3, 4, 5, 6]));
}

#[test]
fn answers_fit_their_requests() {
    let mut waiting = Outstanding::default();
    let invoke = InvokeId::new(5);
    let data = Response::GetData {
        invoke,
        data: Data::Boolean(true),
    }
    .encode();
    assert!(waiting.answered(&data).is_err(), "nothing was asked");
    waiting.command(5, Service::Get);
    assert!(waiting.expects(0xC4) && !waiting.expects(0xC7) && !waiting.expects(0x08));
    let other = Response::GetData {
        invoke: InvokeId::new(6),
        data: Data::Boolean(true),
    }
    .encode();
    assert!(waiting.answered(&other).is_err(), "another invoke id");
    let action = Response::Action {
        invoke,
        result: dlms::ActionResult::new(0),
        data: None,
    }
    .encode();
    assert!(waiting.answered(&action).is_err(), "another service");
    assert_eq!(waiting.answered(&data).unwrap(), Answer::Other);
    assert!(waiting.answered(&data).is_err(), "once");
}

#[test]
fn blocks_are_asked_for_in_turn() {
    let mut waiting = Outstanding::default();
    let invoke = InvokeId::new(2);
    let block = |block, last| {
        Response::GetBlock {
            invoke,
            last,
            block,
            payload: Ok(vec![1]),
        }
        .encode()
    };
    waiting.command(2, Service::Get);
    assert!(!waiting.continues(2, 1), "no block came yet");
    waiting.answered(&block(1, false)).unwrap();
    assert!(waiting.continues(2, 1) && !waiting.continues(2, 2) && !waiting.continues(3, 1));
    waiting.next_block(2);
    assert!(!waiting.continues(2, 1), "once");
    waiting.answered(&block(2, true)).unwrap();
    assert!(!waiting.continues(2, 2), "it was the last");
}

#[test]
fn an_initiate_is_answered_once() {
    let mut waiting = Outstanding::default();
    let response = InitiateResponse::new(Conformance::new(0x10), 1024).encode();
    assert!(waiting.answered(&response).is_err());
    waiting.initiate();
    assert!(waiting.expects(0x08) && waiting.expects(0x0E));
    assert_eq!(waiting.answered(&response).unwrap(), Answer::Initiated);
    assert!(waiting.answered(&response).is_err());
    waiting.initiate();
    assert_eq!(
        waiting
            .answered(&ConfirmedServiceError::initiate(1).encode())
            .unwrap(),
        Answer::Other
    );
}

#[test]
fn nothing_asked_is_printed() {
    let asked = asked(&set(1, COUNTER, 2, Data::OctetString(b"sesame".to_vec())));
    let printed = format!(
        "{asked:?} {:?}",
        Allowed {
            asked: asked.clone(),
            max_uses: 1
        }
    );
    assert!(
        !printed.contains("115") && !printed.contains("sesame"),
        "{printed}"
    );
}
