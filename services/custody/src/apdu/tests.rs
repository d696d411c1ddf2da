use dlms::{Attribute, Conformance, Data, InvokeId, LongInvokeId};

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
        Parsed::Commands { mut asked, .. } if asked.len() == 1 => asked.remove(0),
        other => panic!("{other:?} is not one command"),
    }
}

/// A permit to run script 3 and to read the relay and the load profile's last entry.
fn allowed() -> Vec<Allowed> {
    let last = Selection::Entry {
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
    .map(|asked| Allowed {
        asked,
        max_uses: 1,
        named: None,
    })
    .collect()
}

fn verdict(apdu: &[u8]) -> Result<usize, &'static str> {
    verdicts(apdu).map(|mut indices| {
        assert_eq!(indices.len(), 1);
        indices.remove(0)
    })
}

fn verdicts(apdu: &[u8]) -> Result<Vec<usize>, &'static str> {
    use kit::status::Fault as _;
    let decide = || match parse(apdu)? {
        Parsed::Commands { list, asked, .. } => covered(&asked, list, &allowed()),
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
            named: None,
        }];
        assert!(
            matches!(
                covered(std::slice::from_ref(&asked), false, &rotten),
                Err(Error::ApduForbidden { .. })
            ),
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
    let reply = |name: Obis, token: &[u8]| {
        asked(&action(
            15,
            name,
            1,
            Some(Data::OctetString(token.to_vec())),
        ))
    };
    let current = Method::REPLY_TO_HLS.name;
    assert_eq!(reply(current, &token), reply_to_hls(&token));
    assert_ne!(reply(current, &[0x11; 17]), reply_to_hls(&token));
    let other = Obis::new([0, 0, 40, 0, 1, 255]);
    assert_ne!(reply(other, &token), reply_to_hls(&token));
}

/// Commands as a list, and as ACCESS.
fn lists(accesses: Vec<Access>) -> [Vec<u8>; 2] {
    let invoke = InvokeId::new(1);
    let with_list = match &accesses[0] {
        Access::Get { .. } => Request::GetList {
            invoke,
            attributes: accesses
                .iter()
                .map(|access| read_of(access).unwrap())
                .collect(),
        },
        _ => Request::ActionList {
            invoke,
            methods: accesses
                .iter()
                .map(|access| act_of(access).unwrap())
                .collect(),
        },
    };
    let access = Request::Access {
        invoke: LongInvokeId::new(7),
        time: None,
        accesses,
    };
    [with_list.encode(), access.encode()]
}

fn read_of(access: &Access) -> Option<(Attribute, Option<Selection>)> {
    match access {
        Access::Get {
            attribute,
            selection,
        } => Some((*attribute, selection.clone())),
        _ => None,
    }
}

fn act_of(access: &Access) -> Option<(Method, Option<Data>)> {
    match access {
        Access::Action { method, parameter } => Some((*method, parameter.clone())),
        _ => None,
    }
}

fn read(class_id: u16, name: Obis, index: i8) -> Access {
    Access::Get {
        attribute: Attribute {
            class_id,
            name,
            index,
        },
        selection: None,
    }
}

fn act(class_id: u16, name: Obis, index: i8, parameter: Option<Data>) -> Access {
    Access::Action {
        method: Method {
            class_id,
            name,
            index,
        },
        parameter,
    }
}

#[test]
fn each_item_of_a_list_is_covered_or_none_is() {
    let script = |number| act(9, SCRIPTS, 1, Some(Data::LongUnsigned(number)));
    let relay = || read(70, RELAY, 2);
    for apdu in lists(vec![relay(), relay()]) {
        assert_eq!(verdicts(&apdu), Ok(vec![1, 1]));
    }
    for apdu in lists(vec![script(3)]) {
        assert_eq!(verdicts(&apdu), Ok(vec![0]));
    }
    for list in [
        vec![relay(), read(7, Obis::new([1, 0, 98, 1, 0, 255]), 2)],
        vec![read(3, Obis::new([1, 0, 1, 8, 0, 255]), 2), relay()],
        vec![script(3), script(2)],
        vec![script(3), act(9, SCRIPTS, 1, None)],
    ] {
        for apdu in lists(list) {
            assert_eq!(verdicts(&apdu), Err("APDU_NOT_PERMITTED"));
        }
    }
    for list in [
        vec![script(3), act(70, RELAY, 2, Some(Data::Integer(0)))],
        vec![
            act(9, GLOBAL_RESET, 1, Some(Data::LongUnsigned(1))),
            script(3),
        ],
    ] {
        for apdu in lists(list) {
            assert_eq!(verdicts(&apdu), Err("APDU_FORBIDDEN"));
        }
    }
    let nothing = Request::Access {
        invoke: LongInvokeId::new(1),
        time: None,
        accesses: Vec::new(),
    };
    assert_eq!(verdicts(&nothing.encode()), Err("APDU_NOT_PERMITTED"));
    let mixed = Request::Access {
        invoke: LongInvokeId::new(1),
        time: Some([0xFF; 12]),
        accesses: vec![relay(), script(3)],
    };
    assert_eq!(verdicts(&mixed.encode()), Ok(vec![1, 0]));
}

/// A list has null-data where a method has no parameter, so there the two are one.
#[test]
fn no_parameter_in_a_list_is_null() {
    let name = Obis::new([0, 0, 96, 1, 2, 255]);
    let bare = asked(&action(1, name, 1, None));
    let allowed = [Allowed {
        asked: bare,
        max_uses: 1,
        named: None,
    }];
    for apdu in lists(vec![act(1, name, 1, None)]) {
        let Parsed::Commands { list, asked, .. } = parse(&apdu).unwrap() else {
            panic!("no commands");
        };
        assert_eq!(covered(&asked, list, &allowed).unwrap(), [0]);
    }
    let null = asked(&action(1, name, 1, Some(Data::Null)));
    assert!(
        covered(&[null], false, &allowed).is_err(),
        "by itself it is another"
    );
}

#[test]
fn what_is_no_request_is_refused() {
    let confirmation = Confirmation {
        invoke: LongInvokeId::new(3),
        time: None,
    };
    assert_eq!(
        parse(&confirmation.encode()).unwrap(),
        Parsed::Confirmation {
            invoke: LongInvokeId::new(3).bits()
        }
    );
    for tag in [
        0x00, 0x05, 0x06, 0x0F, 0x16, 0x60, 0xC2, 0xC4, 0xD8, 0xDA, 0xDB, 0xDD, 0xDF, 0xE0,
    ] {
        let apdu = [tag, 1, 0xC1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(parse(&apdu).is_err(), "{tag:02X}");
    }
}

#[test]
fn nothing_asked_is_printed() {
    let asked = asked(&set(1, COUNTER, 2, Data::OctetString(b"sesame".to_vec())));
    let printed = format!(
        "{asked:?} {:?}",
        Allowed {
            asked: asked.clone(),
            max_uses: 1,
            named: None,
        }
    );
    assert!(
        !printed.contains("115") && !printed.contains("sesame"),
        "{printed}"
    );
}
