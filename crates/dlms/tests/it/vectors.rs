//! The worked examples of `vectors.json`: each is checked by its id, and an id without a check fails.

use dlms::acse::{Aare, Aarq, AssociationResult, Diagnostic};
use dlms::initiate::{ConfirmedServiceError, InitiateRequest, InitiateResponse};
use dlms::security::{GENERAL_GLO, aad, glo_tag};
use dlms::{
    ApplicationContext, Ciphered, Conformance, Data, Exception, Frame, GmacToken, Mechanism,
    Method, Obis, Reassembler, Request, Response, SecurityControl, SystemTitle,
};
use serde_json::Value;

use crate::soft::Soft;

struct Vector(Value);

impl Vector {
    fn bytes(&self, part: &str, key: &str) -> Vec<u8> {
        let text = self.0[part][key].as_str();
        hex::decode(text.unwrap_or_else(|| panic!("no {part}.{key}"))).unwrap()
    }

    fn expected(&self, key: &str) -> Vec<u8> {
        self.bytes("expected", key)
    }

    fn keys(&self) -> Soft {
        let title = SystemTitle::from_slice(&self.bytes("inputs", "system_title")).unwrap();
        let mut keys = Soft::new(title);
        for (key, held) in [("EK", &mut keys.ek), ("AK", &mut keys.ak)] {
            if self.0["inputs"][key].is_string() {
                *held = self.bytes("inputs", key).try_into().unwrap();
            }
        }
        keys
    }

    fn counter(&self) -> u32 {
        u32::from_be_bytes(self.bytes("inputs", "IC").try_into().unwrap())
    }
}

fn vectors() -> Vec<Vector> {
    let file: Value = serde_json::from_str(include_str!("../vectors.json")).unwrap();
    file["vectors"]
        .as_array()
        .unwrap()
        .iter()
        .cloned()
        .map(Vector)
        .collect()
}

#[test]
fn every_worked_example() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 29);
    for vector in vectors {
        let id = vector.0["id"].as_str().unwrap().to_owned();
        println!("{id}");
        match id.as_str() {
            "glo-auth-only-sc10" => auth_only(&vector),
            "glo-enc-only-sc20" => enc_only(&vector),
            "glo-get-request-sc30" | "glo-initiate-request" => {
                ciphered(&vector, &vector.bytes("inputs", "plaintext"))
            }
            "d-glo-action-request" => ciphered(&vector, &vector.bytes("inputs", "plaintext")),
            "d-general-glo-action" => general_glo(&vector),
            "hls5-f-StoC-client" => hls5(&vector),
            id if id.starts_with("aarq-") => aarq(id, &vector.expected("apdu")),
            id if id.starts_with("aare-") => aare(id, &vector.expected("apdu")),
            "get-req-normal-ic-object"
            | "get-req-next"
            | "action-req-hls-reply"
            | "set-req-clock" => {
                request(id.as_str(), &vector.expected("apdu"));
            }
            "get-resp-normal"
            | "get-resp-error"
            | "action-resp-success"
            | "action-resp-hls"
            | "d-exception-ic-error" => {
                response(id.as_str(), &vector.expected("apdu"));
            }
            "d-get-disconnect-output-state" | "d-get-disconnect-control-state" => {
                disconnect(&vector)
            }
            "d-action-script-execute" => script(&vector),
            "d-action-seed-object" => seed_object(&vector),
            "d-key-transfer-guek" => key_transfer(&vector),
            "d-wrapper-tcp-glo-action" => wrapper(&vector),
            id => panic!("{id} has no check"),
        }
    }
}

fn auth_only(vector: &Vector) {
    let (keys, plain) = (vector.keys(), vector.bytes("inputs", "plaintext"));
    let control = SecurityControl::AUTH;
    let tag = keys.seal(
        keys.title,
        vector.counter(),
        &aad(control, &keys.ak, &plain),
        &[],
    );
    assert_eq!(tag, vector.expected("tag"));
    let body = [plain, tag].concat();
    let apdu = Ciphered {
        tag: 0xC8,
        title: None,
        control,
        counter: vector.counter(),
        body,
    }
    .encode();
    assert_eq!(&apdu[2..], vector.expected("secured"));
}

fn enc_only(vector: &Vector) {
    let (keys, plain) = (vector.keys(), vector.bytes("inputs", "plaintext"));
    let control = SecurityControl::ENC;
    assert!(aad(control, &keys.ak, &plain).is_empty());
    let mut body = keys.seal(keys.title, vector.counter(), &[], &plain);
    body.truncate(plain.len());
    let ciphered = Ciphered {
        tag: 0xC8,
        title: None,
        control,
        counter: vector.counter(),
        body,
    };
    assert_eq!(ciphered.encode(), vector.expected("apdu"));
    assert_eq!(Ciphered::decode(&vector.expected("apdu")), Ok(ciphered));
}

fn ciphered(vector: &Vector, plain: &[u8]) {
    let (keys, counter) = (vector.keys(), vector.counter());
    let control = SecurityControl::AUTH_ENC;
    let aad = aad(control, &keys.ak, &[]);
    let body = keys.seal(keys.title, counter, &aad, plain);
    let tag = glo_tag(plain[0]).unwrap();
    let ciphered = Ciphered {
        tag,
        title: None,
        control,
        counter,
        body,
    };
    let apdu = vector.expected("apdu");
    assert_eq!(ciphered.encode(), apdu);
    let decoded = Ciphered::decode(&apdu).unwrap();
    assert_eq!(decoded, ciphered);
    assert_eq!(
        keys.open(keys.title, counter, &aad, &decoded.body).unwrap(),
        plain
    );
    if plain[0] == 1 {
        let request = InitiateRequest::decode(plain).unwrap();
        assert_eq!(
            request.dedicated_key.as_deref(),
            Some(&vector.bytes("inputs", "dedicated_key")[..])
        );
        assert_eq!(
            (request.conformance, request.max_pdu),
            (Conformance::new(0x7E1F), 1200)
        );
        assert_eq!(request.encode(), plain);
    }
}

/// Its plaintext is the script's ACTION of the vector before it.
fn general_glo(vector: &Vector) {
    let plain = hex::decode("C301C1000900000A0100FF0101120001").unwrap();
    let (keys, counter) = (vector.keys(), vector.counter());
    let control = SecurityControl::AUTH_ENC;
    let body = keys.seal(keys.title, counter, &aad(control, &keys.ak, &[]), &plain);
    let ciphered = Ciphered {
        tag: GENERAL_GLO,
        title: Some(keys.title),
        control,
        counter,
        body,
    };
    assert_eq!(ciphered.encode(), vector.expected("apdu"));
    assert_eq!(Ciphered::decode(&vector.expected("apdu")), Ok(ciphered));
}

fn hls5(vector: &Vector) {
    let (keys, challenge) = (vector.keys(), vector.bytes("inputs", "challenge"));
    assert_eq!(
        aad(SecurityControl::AUTH, &keys.ak, &challenge),
        vector.bytes("inputs", "aad")
    );
    let token = keys.token(&challenge, vector.counter());
    assert_eq!(token, vector.expected("f"));
    assert_eq!(
        GmacToken::decode(&token).unwrap().tag.to_vec(),
        vector.expected("T")
    );
}

fn aarq(id: &str, apdu: &[u8]) {
    let aarq = Aarq::decode(apdu).unwrap();
    let (mechanism, value) = match id {
        "aarq-no-security" => (None, None),
        "aarq-lls" => (Some(Mechanism::Low), Some(b"12345678".to_vec())),
        "aarq-hls5-no-ciphering" => (Some(Mechanism::HlsGmac), Some(b"K56iVagY".to_vec())),
        id => panic!("{id} has no check"),
    };
    assert_eq!(
        (aarq.mechanism, &aarq.authentication_value),
        (mechanism, &value)
    );
    assert_eq!(aarq.context, ApplicationContext::LogicalName);
    let request = InitiateRequest::new(Conformance::new(0x7E1F), 1200);
    assert_eq!(aarq.user_information, Some(request.encode()));
    assert_eq!(aarq.encode(), apdu);
}

fn aare(id: &str, apdu: &[u8]) {
    let aare = Aare::decode(apdu).unwrap();
    assert_eq!(aare.context, ApplicationContext::LogicalName);
    let initiate = InitiateResponse::new(Conformance::new(0x50_1F), 500).encode();
    let (result, diagnostic, information) = match id {
        "aare-accepted" => (AssociationResult::Accepted, Diagnostic::NULL, initiate),
        "aare-context-rejected" => (
            AssociationResult::RejectedPermanent,
            Diagnostic::CONTEXT_NOT_SUPPORTED,
            initiate,
        ),
        "aare-dlms-version-too-low" => {
            let error = ConfirmedServiceError::initiate(1).encode();
            (
                AssociationResult::RejectedPermanent,
                Diagnostic::NO_REASON,
                error,
            )
        }
        "aare-hls5-pending" => {
            assert_eq!(aare.mechanism, Some(Mechanism::HlsGmac));
            assert_eq!(aare.authentication_value.as_deref(), Some(&b"P6wRJ21F"[..]));
            (
                AssociationResult::Accepted,
                Diagnostic::AUTHENTICATION_REQUIRED,
                initiate,
            )
        }
        id => panic!("{id} has no check"),
    };
    assert_eq!((aare.result, aare.diagnostic), (result, diagnostic));
    assert_eq!(aare.user_information, Some(information));
    assert_eq!(aare.encode(), apdu);
}

fn request(id: &str, apdu: &[u8]) {
    let request = Request::decode(apdu).unwrap();
    assert_eq!(request.encode(), apdu);
    match (id, request) {
        (
            "get-req-normal-ic-object",
            Request::Get {
                attribute,
                selection: None,
                ..
            },
        ) => {
            assert_eq!((attribute.class_id, attribute.index), (1, 2));
            assert_eq!(attribute.name.to_string(), "0.0.43.1.0.255");
        }
        ("get-req-next", Request::GetNext { invoke, block }) => {
            assert_eq!((invoke.octet(), block), (0xC1, 1))
        }
        (
            "action-req-hls-reply",
            Request::Action {
                method,
                parameter: Some(Data::OctetString(token)),
                ..
            },
        ) => {
            assert_eq!((method, token.len()), (Method::REPLY_TO_HLS, 17));
        }
        (
            "set-req-clock",
            Request::Set {
                attribute, value, ..
            },
        ) => {
            assert_eq!(attribute.class_id, 8);
            assert_eq!(value.as_bytes().map(<[u8]>::len), Some(12));
        }
        (id, request) => panic!("{id}: {request:?}"),
    }
}

fn response(id: &str, apdu: &[u8]) {
    let response = Response::decode(apdu).unwrap();
    assert_eq!(response.encode(), apdu);
    match (id, response) {
        ("get-resp-normal", Response::GetData { data, .. }) => {
            assert_eq!(data.as_u64(), Some(5009))
        }
        ("get-resp-error", Response::GetError { result, .. }) => {
            assert_eq!(result.name(), "hardware-fault")
        }
        (
            "action-resp-success",
            Response::Action {
                result, data: None, ..
            },
        ) => assert!(result.is_success()),
        (
            "action-resp-hls",
            Response::Action {
                data: Some(Ok(data)),
                ..
            },
        ) => {
            let token = GmacToken::decode(data.as_bytes().unwrap()).unwrap();
            assert_eq!(token.counter, 0x1AFD);
        }
        ("d-exception-ic-error", Response::Exception(exception)) => {
            assert_eq!(exception, Exception::invocation_counter(0x123));
        }
        (id, response) => panic!("{id}: {response:?}"),
    }
}

fn disconnect(vector: &Vector) {
    let Ok(Request::Get { attribute, .. }) = Request::decode(&vector.expected("request")) else {
        panic!("no GET");
    };
    assert_eq!(
        (attribute.class_id, attribute.name),
        (70, Obis::new([0, 0, 96, 3, 10, 255]))
    );
    let table = [
        ("resp_disconnected", 0),
        ("resp_connected", 1),
        ("resp_ready", 2),
    ];
    for (key, state) in table {
        if attribute.index == 2 && key == "resp_ready" {
            continue;
        }
        let data = if attribute.index == 2 {
            Data::Boolean(state == 1)
        } else {
            Data::Enum(state)
        };
        let apdu = vector.expected(key);
        let Ok(Response::GetData { data: found, .. }) = Response::decode(&apdu) else {
            panic!("no data")
        };
        assert_eq!(found, data);
    }
}

fn script(vector: &Vector) {
    let Ok(Request::Action {
        method, parameter, ..
    }) = Request::decode(&vector.expected("request"))
    else {
        panic!("no ACTION");
    };
    assert_eq!(
        (method.class_id, method.name.to_string().as_str()),
        (9, "0.0.10.1.0.255")
    );
    assert_eq!(parameter, Some(Data::LongUnsigned(1)));
    for (key, name) in [
        ("ok", "success"),
        ("temporary_failure", "temporary-failure"),
        ("read_write_denied", "read-write-denied"),
        ("object_undefined", "object-undefined"),
    ] {
        let Ok(Response::Action {
            result, data: None, ..
        }) = Response::decode(&vector.expected(key))
        else {
            panic!("no ACTION response");
        };
        assert_eq!(result.name(), name);
    }
}

fn seed_object(vector: &Vector) {
    let Ok(Request::Action {
        method, parameter, ..
    }) = Request::decode(&vector.expected("request"))
    else {
        panic!("no ACTION");
    };
    assert_eq!(
        (
            method.class_id,
            method.name.to_string().as_str(),
            method.index
        ),
        (1, "0.0.96.1.2.255", 1)
    );
    assert_eq!(parameter, Some(Data::Integer(0)));
}

fn key_transfer(vector: &Vector) {
    let Ok(Request::Action {
        method,
        parameter: Some(data),
        ..
    }) = Request::decode(&vector.expected("request"))
    else {
        panic!("no ACTION");
    };
    assert_eq!((method.class_id, method.index), (64, 2));
    assert_eq!(data.encode(), vector.expected("method_param"));
    let [Data::Structure(key)] = data.as_elements().unwrap() else {
        panic!("no structure")
    };
    assert!(
        matches!(key.as_slice(), [Data::Enum(0), Data::OctetString(wrapped)] if wrapped.len() == 24)
    );
}

fn wrapper(vector: &Vector) {
    let octets = vector.expected("frame");
    let mut reassembler = Reassembler::default();
    reassembler.push(&octets);
    let frame: Frame = reassembler.next().unwrap().unwrap();
    assert_eq!(
        (frame.source, frame.destination, frame.apdu[0]),
        (1, 1, 0xCB)
    );
    assert_eq!(frame.encode().unwrap(), octets);
}
