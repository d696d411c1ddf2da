use dlms::{
    Access, Attribute, Conformance, Data, InvokeId, LongInvokeId, Method, Obis, Request,
    SystemTitle, initiate::InitiateRequest, security::GeneralHeader,
};

use super::*;

const RELAY: Obis = Obis::new([0, 0, 96, 3, 10, 255]);

fn reconnect() -> Method {
    Method {
        class_id: 70,
        name: RELAY,
        index: 2,
    }
}

fn requests() -> Vec<Vec<u8>> {
    let invoke = InvokeId::new(1);
    let (method, parameter) = (reconnect(), Some(Data::Integer(0)));
    let attribute = Attribute {
        class_id: 70,
        name: RELAY,
        index: 2,
    };
    let access = Access::Action {
        method,
        parameter: parameter.clone(),
    };
    let requests = [
        Request::Get {
            invoke,
            attribute,
            selection: None,
        },
        Request::Set {
            invoke,
            attribute,
            selection: None,
            value: Data::Boolean(true),
        },
        Request::Action {
            invoke,
            method,
            parameter: parameter.clone(),
        },
        Request::ActionList {
            invoke,
            methods: vec![(method, parameter)],
        },
        Request::ActionFirstBlock {
            invoke,
            method,
            last: true,
            block: 1,
            octets: vec![15, 0],
        },
        Request::Access {
            invoke: LongInvokeId::new(1),
            time: None,
            accesses: vec![access],
        },
    ];
    let mut octets: Vec<_> = requests.iter().map(Request::encode).collect();
    let mut initiate = InitiateRequest::new(Conformance::new(0x10), 1024);
    octets.push(initiate.encode());
    initiate.dedicated_key = Some(vec![7; 16]);
    octets.push(initiate.encode());
    octets
}

#[test]
fn no_request_is_answered_as_a_challenge() {
    for request in requests() {
        assert!(is_request(&request), "{:02X}", request[0]);
        // In general-ciphering the header is before it, in all its forms.
        let (client, meter) = (
            SystemTitle::new(*b"MMM\0\0\0\0\x01"),
            SystemTitle::new([9; 8]),
        );
        for header in [
            GeneralHeader::between(client, meter, 77),
            GeneralHeader {
                transaction_id: vec![1; 12],
                originator: Some(client),
                ..GeneralHeader::default()
            },
            GeneralHeader::default(),
        ] {
            let challenge = [header.octets(), request.clone()].concat();
            assert!(is_request(&challenge), "{:02X} after a header", request[0]);
        }
    }
    for lenient in [
        // Lengths in long forms, minimal or not.
        &[0xE0, 0xC0, 0, 1, 0, 0, 0x81, 13, 0xC3, 1][..],
        &[0xDB, 0x81, 8, 1, 1, 1, 1, 1],
        &[0xDF, 0x82, 0, 8, 1, 1, 1, 1],
        &[0x81, 2, 7, 7, 0, 0x81, 0, 0, 0, 0xC3, 1],
        &[0x82, 0, 1, 7, 0, 0, 0, 0x81, 1, 7, 0xC3, 1],
        &[0xDD, 3, 7, 7, 7, 0, 0, 0, 0, 0x30],
        &[0x01, 1, 0x83, 0, 0, 32, 1, 1],
        &[0x06, 0x81, 1, 2, 0xFA, 0, 1, 0x0F],
        &[0xD9, 0, 0, 0, 1, 0x81, 0, 1],
        // A dedicated key as a lenient meter reads it: TRUE as FF, its length in the long form, AES-192.
        &[0x01, 0xFF, 16, 1, 1, 1, 1, 1],
        &[0x01, 1, 0x81, 16, 1, 1, 1, 1],
        &[0x01, 1, 24, 1, 1, 1, 1, 1],
        // Short names: write variable FA00, unconfirmed write, parameterised read.
        &[0x06, 1, 2, 0xFA, 0, 1, 0x0F, 0],
        &[0x16, 1, 2, 0xFA, 0, 1, 0x0F, 0],
        &[0x05, 1, 4, 0xFA, 0, 1, 2, 4],
        // Ciphered or signed once more.
        &[0xDB, 8],
        &[0xDD, 0],
        &[0xDF, 8],
    ] {
        assert!(is_request(lenient), "{lenient:02X?}");
    }
    for harmless in [&b"P6wRJ21F"[..], &[1; 16], &[0xC0, 0x80, 1, 2, 3, 4, 5, 6]] {
        assert!(!is_request(harmless), "{harmless:02X?}");
    }
    assert!(is_request(&[0xE0, 0x80, 0, 1, 0, 0, 20, 0xC3, 1]));
}

#[test]
fn random_challenges_are_answered() {
    // A counter through a hash: as good as random, and the same in every run.
    let mut refused = 0;
    for number in 0..20_000_u32 {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &number.to_be_bytes());
        refused += u32::from(is_request(&digest.as_ref()[..16]));
    }
    assert!((1..=30).contains(&refused), "{refused} of 20,000");
}

#[test]
fn our_challenge_is_no_response() {
    for tag in [
        0x08, 0x0E, 0x0F, 0xC2, 0xC4, 0xC5, 0xC7, 0xDA, 0xDB, 0xDD, 0xDF, 0xE0,
    ] {
        assert!(is_response(&[tag, 1, 2]), "{tag:02X}");
    }
    assert!(is_response(&[]));
    let free = (0..=u8::MAX).filter(|tag| !is_response(&[*tag])).count();
    assert!(free > 230, "{free} first octets are left");
}

#[test]
fn a_signature_over_a_challenge_is_of_no_apdu() {
    let title = SystemTitle::new(*b"MMM\0\0\0\0\x01");
    assert!(
        is_flag(title)
            && !is_flag(SystemTitle::new([8; 8]))
            && !is_flag(SystemTitle::new([0x7B; 8]))
    );
    let titles = [&title.bytes()[..], b"MMM\0\0\xBCaN"].concat();
    for length in 32..=64 {
        let message = [&titles[..], &vec![7; length], &[9; CHALLENGE_ECDSA]].concat();
        assert!(!is_signed_apdu(&message), "{length}");
    }
    // A challenge that makes a header and content of it, if the attacker could choose ours as well.
    let mut forged = [b"A".as_slice(), &[1; 65], &[0, 0, 0, 0]].concat();
    let whole = 16 + 64 + CHALLENGE_ECDSA;
    forged.push(u8::try_from(whole - forged.len() - 1).unwrap());
    forged.resize(whole, 3);
    assert!(is_signed_apdu(&forged));
    assert!(!is_signed_apdu(&forged[1..]), "a length that does not fit");
}
