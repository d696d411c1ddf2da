use super::*;
use crate::agreement::KeyId;
use alloc::vec;

#[test]
fn tags_go_there_and_back() {
    for plain in 0..=u8::MAX {
        if let Some(glo) = glo_tag(plain) {
            assert_eq!(plain_tag(glo), Some(plain));
        }
    }
    for plain in [0x01, 0xC0, 0xC7] {
        assert_eq!(ded_tag(plain).and_then(plain_tag), Some(plain));
    }
    assert_eq!((glo_tag(0), ded_tag(0), plain_tag(0)), (None, None, None));
    assert_eq!((ded_tag(0xC0), ded_tag(0xC7)), (Some(0xD0), Some(0xD7)));
    assert_eq!(glo_tag(0xC7), Some(0xCF));
    assert_eq!(Protection::GeneralGlo.tag(0xC0), Some(GENERAL_GLO));
    for (plain, glo) in [(0x01, 0x21), (0x08, 0x28), (0x0E, 0x2E)] {
        for protection in FORMS.into_iter().skip(1) {
            assert_eq!(protection.tag(plain), Some(glo), "{protection:?}");
        }
    }
    assert_eq!(Protection::Plain.tag(0xC0), None);
    assert_eq!(Protection::Glo.tag(0xD8), None);
}

const CLIENT: SystemTitle = SystemTitle::new([1; 8]);
const METER: SystemTitle = SystemTitle::new([2; 8]);

const FORMS: [Protection; 9] = [
    Protection::Plain,
    Protection::Glo,
    Protection::GeneralGlo,
    Protection::Ded,
    Protection::GeneralDed,
    Protection::GeneralCiphering(KeyChoice::Identified),
    Protection::GeneralCiphering(KeyChoice::Wrapped),
    Protection::GeneralCiphering(KeyChoice::OnePass),
    Protection::GeneralCiphering(KeyChoice::Static),
];

fn key_info(choice: KeyChoice, suite: Suite) -> KeyInfo {
    match choice {
        KeyChoice::Identified => KeyInfo::Identified(KeyId::GlobalUnicastEncryption),
        KeyChoice::Wrapped => KeyInfo::Wrapped(vec![3; suite.wrapped_len()]),
        KeyChoice::OnePass => {
            KeyInfo::one_pass(vec![4; suite.public_key_len() + suite.signature_len()])
        }
        KeyChoice::Static => KeyInfo::of_static(),
    }
}

/// A GET request of this length in this form, with zeros for what keys would make.
fn apdu(protection: Protection, control: SecurityControl, plain: usize) -> Vec<u8> {
    let tag = if control.is_authenticated() { TAG } else { 0 };
    let (counter, body) = (1, vec![0; plain + tag]);
    match protection {
        Protection::Plain => vec![0xC0; plain],
        Protection::GeneralCiphering(choice) => GeneralCiphering {
            header: GeneralHeader::between(CLIENT, METER, 7),
            key_info: Some(key_info(choice, control.suite().unwrap())),
            control,
            counter,
            body,
        }
        .encode(),
        _ => {
            let tag = protection.tag(0xC0).unwrap();
            let title = protection.is_general().then_some(CLIENT);
            Ciphered {
                tag,
                title,
                control,
                counter,
                body,
            }
            .encode()
        }
    }
}

fn controls() -> impl Iterator<Item = SecurityControl> {
    [Suite::Suite0, Suite::Suite1, Suite::Suite2]
        .into_iter()
        .flat_map(|suite| {
            [(true, true), (true, false), (false, true)]
                .map(|(auth, enc)| SecurityControl::of(suite, auth, enc))
        })
}

#[test]
fn overhead_is_what_encoding_adds() {
    for (protection, control) in FORMS
        .into_iter()
        .flat_map(|form| controls().map(move |control| (form, control)))
    {
        for plain in [1, 90, 110, 111, 120, 123, 238, 239, 250, 1000, 65_000] {
            let length = apdu(protection, control, plain).len();
            let due = plain + protection.overhead(control, plain);
            assert_eq!(length, due, "{protection:?} {control} {plain}");
        }
    }
    for suite in [Suite::Suite1, Suite::Suite2] {
        for content in [0, 127, 128, 255, 256, 65_000] {
            let signed = GeneralSigning {
                header: GeneralHeader::between(CLIENT, METER, 7),
                content: vec![9; content],
                signature: vec![8; suite.signature_len()],
            };
            let due = content + GeneralSigning::overhead(suite, content);
            assert_eq!(signed.encode().len(), due, "{suite:?} {content}");
        }
    }
}

#[test]
fn an_envelope_tells_what_is_on_the_wire() {
    for (protection, control) in FORMS
        .into_iter()
        .flat_map(|form| controls().map(move |control| (form, control)))
    {
        let apdu = apdu(protection, control, 40);
        let envelope = Envelope::of(&apdu).unwrap();
        let ciphered = protection.is_ciphered();
        assert_eq!(envelope.protection, protection);
        assert_eq!(envelope.control, ciphered.then_some(control));
        assert_eq!(envelope.counter, ciphered.then_some(1));
        assert_eq!(
            envelope.originator,
            protection.is_general().then_some(CLIENT)
        );
        let signed = GeneralSigning {
            header: GeneralHeader::between(CLIENT, METER, 7),
            content: apdu,
            signature: vec![8; 64],
        };
        let found = Envelope::of(&signed.encode()).unwrap();
        assert_eq!(GeneralSigning::decode(&signed.encode()), Ok(signed.clone()));
        assert_eq!(
            found,
            Envelope {
                originator: Some(CLIENT),
                recipient: Some(METER),
                signed: true,
                ..envelope
            }
        );
        let mut twice = signed.clone();
        twice.content = signed.encode();
        assert!(Envelope::of(&twice.encode()).is_err());
        let mut other = signed;
        other.header.originator = Some(METER);
        assert_eq!(
            Envelope::of(&other.encode()).is_err(),
            protection.is_general()
        );
    }
    for tag in [0x48, 0xD4] {
        let ded = Ciphered {
            tag,
            title: None,
            control: SecurityControl::AUTH_ENC,
            counter: 0,
            body: vec![0; 20],
        };
        let found = Envelope::of(&ded.encode()).unwrap();
        assert_eq!(found.protection, Protection::Ded);
    }
}

#[test]
fn general_headers_count_lengths_and_empty_fields() {
    let control = SecurityControl::new(0x31);
    let header = GeneralHeader {
        transaction_id: vec![1, 2, 3, 4, 5, 6, 7, 8],
        ..GeneralHeader::between(CLIENT, METER, 0)
    };
    let aad = header.aad(control, &[0xD0; 16], b"not here");
    let due = [
        &[0x31][..],
        &[0xD0; 16],
        &[8, 1, 2, 3, 4, 5, 6, 7, 8],
        &[8, 1, 1, 1, 1, 1, 1, 1, 1],
        &[8, 2, 2, 2, 2, 2, 2, 2, 2],
        &[0, 0],
    ]
    .concat();
    assert_eq!(aad, due);
    assert_eq!(
        aad.capacity(),
        due.len() + 8,
        "its room is what it began with"
    );
    let auth = header.aad(SecurityControl::new(0x11), &[0xD0; 16], b"here");
    assert!(auth.ends_with(&[0, 0, b'h', b'e', b'r', b'e']));
    assert!(
        header
            .aad(SecurityControl::new(0x21), &[0xD0; 16], b"x")
            .is_empty()
    );
}

#[test]
fn general_ciphering_goes_there_and_back() {
    for choice in [None, Some(KeyChoice::Identified), Some(KeyChoice::Wrapped)] {
        let general = GeneralCiphering {
            header: GeneralHeader {
                originator: None,
                date_time: vec![7; 12],
                other_info: vec![6; 200],
                ..GeneralHeader::between(CLIENT, METER, 9)
            },
            key_info: choice.map(|choice| key_info(choice, Suite::Suite2)),
            control: SecurityControl::new(0x32),
            counter: 0,
            body: vec![5; 300],
        };
        assert_eq!(GeneralCiphering::decode(&general.encode()), Ok(general));
    }
    let good = apdu(FORMS[5], SecurityControl::AUTH_ENC, 10);
    // key-info: presence, choice, id
    for (at, wrong) in [(30, 2), (31, 3), (31, 1)] {
        let mut bad = good.clone();
        bad[at] = wrong;
        assert!(GeneralCiphering::decode(&bad).is_err(), "octet {at}");
    }
    let reserved = GeneralCiphering {
        key_info: Some(KeyInfo::Agreed {
            parameters: vec![3],
            data: vec![],
        }),
        ..GeneralCiphering::decode(&good).unwrap()
    };
    assert!(Envelope::of(&reserved.encode()).is_err());
}

#[test]
fn control_octets_say_what_they_are() {
    for (octet, text, why) in [
        (0x30, "suite 0, authenticated, encrypted", None),
        (0x52, "suite 2, authenticated, broadcast key", None),
        (
            0xB1,
            "suite 1, authenticated, encrypted, compressed",
            Some("compressed"),
        ),
        (0x33, "suite 3, authenticated, encrypted", Some("suite")),
        (0x00, "suite 0, not protected", Some("neither")),
    ] {
        let control = SecurityControl::new(octet);
        assert_eq!(alloc::format!("{control}"), text);
        assert_eq!(control.unsupported().is_some(), why.is_some(), "{text}");
        assert!(why.is_none_or(|why| control.unsupported().unwrap().contains(why)));
    }
    for suite in [Suite::Suite0, Suite::Suite1, Suite::Suite2] {
        assert_eq!(Suite::from_id(suite.id()), Some(suite));
        let control = SecurityControl::of(suite, true, false);
        assert_eq!(control.suite(), Some(suite));
    }
    assert_eq!(
        SecurityControl::of(Suite::Suite0, true, true),
        SecurityControl::AUTH_ENC
    );
}

#[test]
fn tokens_name_their_suite_or_none() {
    for (octet, suites) in [(0x10, 3), (0x11, 1), (0x12, 1)] {
        let mut octets = [0; 17];
        octets[0] = octet;
        let token = GmacToken::decode(&octets).unwrap();
        assert_eq!(token.encode(), octets);
        let all = [Suite::Suite0, Suite::Suite1, Suite::Suite2];
        assert_eq!(
            all.iter().filter(|suite| token.is_of(**suite)).count(),
            suites
        );
        assert!(token.is_of(token.control.suite().unwrap()));
    }
}

#[test]
fn associated_data_never_moves() {
    for control in [SecurityControl::AUTH, SecurityControl::AUTH_ENC] {
        let data = aad(control, &[7; 16], &[8; 64]);
        assert_eq!(
            (data.capacity(), data.first()),
            (1 + 16 + 64, Some(&control.octet())),
            "its room is what it began with"
        );
    }
}

#[test]
fn malformed_ciphered_apdus_are_named() {
    assert!(matches!(
        Ciphered::decode(&[0xC0, 0]),
        Err(Error::Unexpected { offset: 0, .. })
    ));
    assert!(matches!(
        Ciphered::decode(&[0xC8, 3, 0x30, 0, 0]),
        Err(Error::Truncated { offset: 3, .. })
    ));
    assert!(matches!(
        Ciphered::decode(&[0xC8, 6, 0x30, 0, 0, 0, 1, 9]),
        Err(Error::Truncated { offset: 7, .. })
    ));
    assert!(matches!(
        Ciphered::decode(&[0xDB, 7, 1, 2, 3, 4, 5, 6, 7, 5]),
        Err(Error::Bounds {
            offset: 1,
            found: 7,
            ..
        })
    ));
    assert!(GmacToken::decode(&[0x13; 17]).is_err());
    assert!(GmacToken::decode(&[0x10; 18]).is_err());
}
