//! Frames of foreign stacks, conversations of several frames, and what a standard allows although nobody here sends it.

use super::*;

/// The Green Book's ciphered GET, of the title [`SERVER`].
const CIPHERED: &str = "C81E3001234567411312FF935A47566827C467BC7D825C3BE4A77C3FCC056B6B";
/// The Green Book's ciphered InitiateRequest, of the title [`SERVER`].
const INITIATE: &str = "21303001234567801302FF8A7874133D414CED25B42534D28DB0047720606B175BD52211BE6841DB204D39EE6FDB8E356855";

#[test]
fn departures_from_the_standard_are_named_and_explained_all_the_same() {
    // a length over 127 in one octet
    let challenge = "41".repeat(64);
    let contents = format!(
        "A109060760857405080103A60A04084D4D4D00000000018A0207808B0760857405080205AC428040{challenge}\
         BE340432{INITIATE}"
    );
    let len = contents.len() / 2;
    assert!((128..256).contains(&len), "{len}");
    let short = json(&format!("60{len:02X}{contents}"), Keys::default());
    assert_eq!(short[0]["fault"]["kind"], "length_mismatch");
    assert_eq!(short[0]["fault"]["offset"], 1);
    let long = json(&format!("6081{len:02X}{contents}"), Keys::default());
    assert_eq!(long[0]["fault"], Value::Null);
    assert_eq!(long[0]["apdu"], short[0]["apdu"]);
    // a release response whose length is four too small
    let rlre =
        "6324800100BE23042128 1F 30 00000001 000102030405060708090A0B0C0D 0102030405060708090A0B0C";
    let rlre = rlre.replace(' ', "");
    let found = json(&rlre, Keys::default());
    assert_eq!(found[0]["fault"]["kind"], "length_mismatch", "{}", found[0]);
    assert_eq!(found[0]["fault"]["offset"], 1);
    assert_eq!(found[0]["security"]["invocation_counter"], 1);
}

#[test]
fn what_the_standard_allows_is_no_fault() {
    for (what, hex) in [
        (
            "protocol-version, no mechanism name, diagnostic 0",
            "612F80020780A109060760857405080101A203020100A305A103020100AA0A8008503677524A323146BE0604040E010601",
        ),
        ("release without a word", "6200"),
        ("release response", "6303800100"),
        ("conformance tag in one octet", "01000000065F0400007E1F04B0"),
        (
            "response allowed, quality of service",
            "0100010001000 65F1F0400007E1F04B0",
        ),
        ("ACTION without return data", "C701C10000"),
        (
            "a date-time with everything open",
            "C401C100090CFFFFFFFFFFFFFFFFFF8000FF",
        ),
        ("a compact array", "C401C100130202121106000102000304"),
        (
            "list of attributes",
            "C003C1020001000060010 0FF020000080000010000FF0200",
        ),
        ("list of results", "C403C10200120001 0103"),
        (
            "SET in blocks",
            "C102C1000800000100 00FF020001 00000001 0E 090C07E50118FF0E303950FFC400",
        ),
        ("SET answers", "C503C10000000001"),
        (
            "ACTION in blocks",
            "C304C1004000002B0000FF02 00 00000001 02 0101",
        ),
        ("event", "C20000010000600B00FF02 1101"),
        ("notification without time", "0F0000000100 0201 1101"),
        (
            "notification with time",
            "0F00000001 0C07E50118FF0E303950FFC400 1101",
        ),
        (
            "notification with a tagged time",
            "0F40000000 090C07E50118FF0E303950FFC400 06000004D2",
        ),
        ("confirmation", "100000000100"),
        ("ACCESS answer", "DA4000000000 00 01 0600001391 01 01 00"),
        ("read", "0501020320"),
        ("read answer", "0C020009 02 0102 0103"),
        ("write", "060102032001 1101"),
        ("write answer", "0D02000103"),
        (
            "general-ciphering",
            "DD08 0102030405060708 08 4D4D4D0000000001 08 4D4D4D0000BC614E 00 00 01 00 00 06 20 00000001 AA",
        ),
        (
            "general-signing",
            "DF00 08 4D4D4D0000000001 00 00 00 0D C001C1000100002B0100FF0200 04 01020304",
        ),
        ("an empty title", "DB00 06 20 00000001 AA"),
    ] {
        let hex = hex.replace(' ', "");
        let found = json(&hex, Keys::default());
        assert_eq!(found.len(), 1, "{what}");
        assert_eq!(found[0]["fault"], Value::Null, "{what}: {}", found[0]);
    }
}

#[test]
fn values_keep_their_types() {
    for (hex, value) in [
        ("0F FF", serde_json::json!({"type": "integer", "value": -1})),
        ("10 FFFE", serde_json::json!({"type": "long", "value": -2})),
        (
            "14 FFFFFFFFFFFFFFFF",
            serde_json::json!({"type": "long64", "value": -1}),
        ),
        (
            "15 FFFFFFFFFFFFFFFF",
            serde_json::json!({"type": "long64-unsigned", "value": u64::MAX}),
        ),
        (
            "17 3FC00000",
            serde_json::json!({"type": "float32", "value": 1.5}),
        ),
        (
            "17 7F800000",
            serde_json::json!({"type": "float32", "value": "inf"}),
        ),
        (
            "04 0A FF40",
            serde_json::json!({"type": "bit-string", "value": "1111111101", "hex": "ff40"}),
        ),
        (
            "0A 02 4142",
            serde_json::json!({"type": "visible-string", "value": "AB", "hex": "4142"}),
        ),
        (
            "09 06 0100010800FF",
            serde_json::json!({"type": "octet-string", "value": "0100010800ff", "obis": "1.0.1.8.0.255", "object": "active energy import (+A)"}),
        ),
        (
            "00",
            serde_json::json!({"type": "null-data", "value": null}),
        ),
        (
            "02 01 03 01",
            serde_json::json!({"type": "structure", "value": [{"type": "boolean", "value": true}]}),
        ),
        (
            "13 02 02 12 11 06 000102 000304",
            serde_json::json!({
                "type": "compact-array",
                "contents_description": {"type": "structure", "elements": [{"type": "long-unsigned"}, {"type": "unsigned"}]},
                "value": [
                    {"type": "structure", "value": [{"type": "long-unsigned", "value": 1}, {"type": "unsigned", "value": 2}]},
                    {"type": "structure", "value": [{"type": "long-unsigned", "value": 3}, {"type": "unsigned", "value": 4}]},
                ],
            }),
        ),
    ] {
        let found = json(
            &format!("C401C100{}", hex.replace(' ', "")),
            Keys::default(),
        );
        assert_eq!(found[0]["fault"], Value::Null, "{hex}");
        assert_eq!(found[0]["apdu"]["result"]["data"], value, "{hex}");
    }
}

#[test]
fn what_would_grow_without_octets_is_bounded() {
    // arrays of 65535 arrays of 65535 null-data, in no octets
    let found = kinds("C401C1001301FFFF01FFFF01FFFF000101");
    assert_eq!(found, [Some(Kind::BadValue)]);
    let deep = format!("C401C100{}00", "0101".repeat(5_000));
    assert_eq!(kinds(&deep), [Some(Kind::BadValue)]);
    let signed = "DF0000000000".repeat(2_000);
    assert!(kinds(&signed)[0].is_some());
}

/// An HDLC frame with right check sequences.
fn hdlc(format: u8, addresses: &str, control: u8, info: &[u8]) -> String {
    let mut header = hex::decode(addresses).unwrap();
    header.push(control);
    let len = u8::try_from(header.len() + info.len() + 6).unwrap();
    let mut octets = vec![format, len];
    octets.extend(header);
    octets.extend(super::super::hdlc::check_sequence(&octets));
    octets.extend(info);
    octets.extend(super::super::hdlc::check_sequence(&octets));
    format!("7E{}7E", hex::encode(octets))
}

#[test]
fn segments_of_both_directions_are_joined() {
    let request = hex::decode("E6E600C001C1000100002B0100FF0200").unwrap();
    let answer = hex::decode("E6E700C401C1000600001391").unwrap();
    let frames = [
        hdlc(0xa8, "022321", 0x10, &request[..7]),
        hdlc(0xa8, "210223", 0x30, &answer[..5]),
        hdlc(0xa8, "022321", 0x12, &request[7..9]),
        // sent again
        hdlc(0xa8, "022321", 0x12, &request[7..9]),
        hdlc(0xa0, "210223", 0x32, &answer[5..]),
        hdlc(0xa0, "022321", 0x14, &request[9..]),
    ];
    let found = json(&frames.join("\n"), Keys::default());
    assert_eq!(found.len(), 6);
    for frame in &found {
        assert_eq!(frame["fault"], Value::Null, "{frame}");
    }
    assert_eq!(found[0]["frame"]["segmented"], true);
    assert_eq!(found[0]["apdu"]["type"], "get-request");
    assert_eq!(found[3]["apdu"], Value::Null);
    assert_eq!(found[4]["apdu"]["result"]["data"]["value"], 5009);
    assert_eq!(
        found[5]["apdu"]["cosem_attribute_descriptor"]["instance_id"],
        "0.0.43.1.0.255"
    );
    // of a ciphered APDU there is no tag to check before it is whole
    let ciphered = hex::decode(format!("E6E600{CIPHERED}")).unwrap();
    for (begins, end) in [(true, 14), (false, 20), (true, 30)] {
        let mut octets = ciphered.clone();
        if !begins {
            octets[5] = 0x10;
        }
        let first = hdlc(0xa8, "022303", 0x10, &octets[..end]);
        let found = json(&first, green_book());
        assert_eq!(found[0]["fault"], Value::Null, "{}", found[0]);
        assert_eq!(found[0]["security"]["invocation_counter"], 0x0123_4567);
    }
    // a segment by itself is a good frame
    for frame in frames {
        assert_eq!(kinds(&frame), [None], "{frame}");
    }
}

#[test]
fn every_kind_of_hdlc_frame_has_its_name() {
    for (control, kind) in [
        (0x93, "SNRM"),
        (0x73, "UA"),
        (0x53, "DISC"),
        (0x1f, "DM"),
        (0x97, "FRMR"),
        (0x13, "UI"),
        (0x11, "RR"),
        (0x15, "RNR"),
        (0xba, "I"),
    ] {
        let mut octets = vec![0xa0, 0x07, 0x03, 0x21, control];
        octets.extend(super::super::hdlc::check_sequence(&octets));
        let found = json(&format!("7E{}7E", hex::encode(octets)), Keys::default());
        assert_eq!(found[0]["frame"]["control"]["kind"], kind);
        assert_eq!(found[0]["fault"], Value::Null, "{kind}");
        assert_eq!(found[0]["frame"]["hcs"], Value::Null, "{kind}");
    }
    let rejected = hdlc(0xa0, "0321", 0x97, &[0x32, 0x22, 0x04]);
    let found = json(&rejected, Keys::default());
    assert_eq!(found[0]["fault"], Value::Null);
}

#[test]
fn a_long_answer_is_joined_from_its_blocks() {
    let blocks = [
        "C402C100 00000001 00 03 090401",
        "C402C100 00000002 00 01 02",
        "C402C101 00000003 00 02 0304",
    ];
    let found = json(&blocks.join("\n").replace(' ', ""), Keys::default());
    assert_eq!(found[2]["fault"], Value::Null);
    assert_eq!(
        found[2]["apdu"]["result"]["joined_value"]["value"],
        "01020304"
    );
    let alone = json(&blocks[2].replace(' ', ""), Keys::default());
    assert_eq!(alone[0]["fault"], Value::Null);
    assert_eq!(alone[0]["apdu"]["result"]["joined_value"], Value::Null);
}

#[test]
fn titles_and_dedicated_key_come_from_the_frames_before() {
    let contents = format!("A109060760857405080103A60A0408{SERVER}BE340432{INITIATE}");
    let aarq = format!("60{:02X}{contents}", contents.len() / 2);
    let found = json(
        &format!("{aarq}\n{CIPHERED}"),
        keys(&[("ek", EK), ("ak", AK)]),
    );
    assert_eq!(
        found[0]["apdu"]["user_information"]["apdu"]["type"],
        "glo-initiateRequest"
    );
    assert_eq!(found[0]["plaintext"]["verified"], true);
    assert_eq!(found[0]["security"]["system_title"], SERVER.to_lowercase());
    assert_eq!(found[1]["plaintext"]["verified"], true);
    // the same title has the dedicated key that the AARQ carried
    let contents = contents.replace(SERVER, CLIENT);
    let aarq = format!("60{:02X}{contents}", contents.len() / 2);
    let ded = "D01E3000000000539E0C47DF152EE3AA4EFAC0F54CDBEF8A9C9CB6E802386B6A";
    let found = json(
        &format!("{aarq}\n{ded}"),
        keys(&[("ek", EK), ("ak", AK), ("system_title", SERVER)]),
    );
    assert_eq!(found[0]["plaintext"]["verified"], true);
    assert_eq!(found[1]["plaintext"]["hex"], "c0010000080000010000ff0200");
}

#[test]
fn tokens_of_hls5_verify_against_the_challenges_seen() {
    let aarq = "6042A109060760857405080103A60A04084D4D4D00000000018A0207808B0760857405080205AC0A80084B35366956616759BE10040E01000000065F1F0400007E1F04B0";
    let aare = "614EA109060760857405080103A203020100A305A10302010EA40A04084D4D4D0000BC614E88020780890760857405080205AA0A8008503677524A323146BE10040E0800065F1F040000501F01F40007";
    let pass3 = "C301C1000F0000280000FF0101091110000000011A52FE7DD3E72748973C1E28";
    let text = format!("{aarq}\n{aare}\n{pass3}\n");
    let found = json(&text, keys(&[("ek", EK), ("ak", AK)]));
    for frame in &found {
        assert_eq!(frame["fault"], Value::Null, "{frame}");
    }
    let token = &found[2]["apdu"]["method_invocation_parameters"]["token"];
    assert_eq!(token["verified"], true, "{token}");
    let wrong = text.replace("1A52FE7D", "1A52FE7E");
    let found = json(&wrong, keys(&[("ek", EK), ("ak", AK)]));
    assert_eq!(
        found[2]["apdu"]["method_invocation_parameters"]["token"]["verified"],
        false
    );
}

#[test]
fn every_form_of_ciphering_is_deciphered_with_what_a_meter_holds() {
    use dlms::{
        CipherOp, CipherOutput, KeyChoice, Protection, SecurityControl, Suite, SystemTitle,
    };
    use softcipher::{Setup, SoftCipher};

    let title = |hex: &str| -> [u8; 8] { hex::decode(hex).unwrap().try_into().unwrap() };
    let (client, server) = (title(CLIENT), title(SERVER));
    let get = hex::decode("C001C1000100002B0100FF0200").unwrap();
    for suite in [Suite::Suite1, Suite::Suite2] {
        let sides = softcipher::Keys::pair(suite, 7);
        let held = |from: &softcipher::Keys| {
            let key = |key: &Option<softcipher::Secret>| {
                vec![Zeroizing::new(key.as_ref().unwrap().expose().to_vec())]
            };
            Keys {
                ek: key(&from.encryption),
                ak: key(&from.authentication),
                labs: vec![super::super::keys::Lab {
                    server,
                    keys: from.clone(),
                }],
                titles: vec![client, server],
                ..Keys::default()
            }
        };
        let apdu = |to_meter: bool, choice, signed| {
            let (own, peer, keys) = match to_meter {
                true => (client, server, sides.0.clone()),
                false => (server, client, sides.1.clone()),
            };
            let setup = Setup {
                peer: Some(SystemTitle::new(peer)),
                ..Setup::new(suite, SystemTitle::new(own))
            };
            let mut cipher = SoftCipher::new(setup, keys).unwrap();
            let output = cipher.run(CipherOp::Protect {
                apdu: get.clone(),
                protection: Protection::GeneralCiphering(choice),
                control: SecurityControl::of(suite, true, true),
                signed,
            });
            match output {
                Ok(CipherOutput::Apdu(apdu, _)) => hex::encode(apdu),
                other => panic!("{other:?}"),
            }
        };
        for choice in [
            KeyChoice::Identified,
            KeyChoice::Wrapped,
            KeyChoice::OnePass,
            KeyChoice::Static,
        ] {
            for (to_meter, signed) in [(true, false), (false, false), (true, true)] {
                let found = json(&apdu(to_meter, choice, signed), held(&sides.1));
                let what = format!("{suite:?} {choice:?} {to_meter} {signed}: {}", found[0]);
                assert_eq!(found[0]["fault"], Value::Null, "{what}");
                // what the meter agreed with an ephemeral key of its own, the head-end alone can decipher
                let open = to_meter || choice != KeyChoice::OnePass;
                let plaintext = if open {
                    hex::encode(&get).into()
                } else {
                    Value::Null
                };
                assert_eq!(found[0]["plaintext"]["hex"], plaintext, "{what}");
            }
        }
    }
}
