//! The worked examples of `vectors.json`: each is checked by its id, and an id without a check fails.
//!
//! Those of cryptography are in `vectors/ciphering.rs`, the others here; HDLC has more to say of its own in `hdlc.rs`.

mod ciphering;

use dlms::acse::{Aare, Aarq, AssociationResult, Diagnostic};
use dlms::initiate::{ConfirmedServiceError, InitiateRequest, InitiateResponse};
use dlms::{
    ApplicationContext, Conformance, Data, Exception, Frame, GmacToken, Mechanism, Method, Obis,
    Reassembler, Request, Response, SystemTitle,
};
use serde_json::Value;

struct Vector(Value);

impl Vector {
    fn bytes(&self, part: &str, key: &str) -> Vec<u8> {
        let text = self.0[part][key].as_str();
        hex::decode(text.unwrap_or_else(|| panic!("no {part}.{key}"))).unwrap()
    }

    fn input(&self, key: &str) -> Vec<u8> {
        self.bytes("inputs", key)
    }

    fn expected(&self, key: &str) -> Vec<u8> {
        self.bytes("expected", key)
    }

    fn title(&self, key: &str) -> SystemTitle {
        SystemTitle::from_slice(&self.input(key)).unwrap()
    }

    fn counter(&self) -> u32 {
        u32::from_be_bytes(self.input("IC").try_into().unwrap())
    }
}

fn vectors() -> Vec<Vector> {
    let file: Value = serde_json::from_str(include_str!("../vectors.json")).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    vectors.iter().cloned().map(Vector).collect()
}

/// The examples, and how many there are: none is passed over, and none is checked twice.
#[test]
fn every_worked_example() {
    let vectors = vectors();
    let ids: std::collections::BTreeSet<_> = vectors
        .iter()
        .map(|vector| vector.0["id"].as_str())
        .collect();
    assert_eq!((vectors.len(), ids.len()), (53, 53));
    let mut checked = [0; 3];
    for vector in vectors {
        let id = vector.0["id"].as_str().unwrap().to_owned();
        println!("{id}");
        let rooms = [ciphering::check, services, hdlc];
        let took = rooms.map(|room| room(&id, &vector));
        assert_eq!(took.iter().filter(|took| **took).count(), 1, "{id}");
        for (checked, took) in checked.iter_mut().zip(took) {
            *checked += usize::from(took);
        }
    }
    assert_eq!(checked, [21, 22, 10]);
}

fn services(id: &str, vector: &Vector) -> bool {
    match id {
        id if id.starts_with("aarq-") => aarq(id, &vector.expected("apdu")),
        id if id.starts_with("aare-") => aare(id, &vector.expected("apdu")),
        "get-req-normal-ic-object" | "get-req-next" | "action-req-hls-reply" | "set-req-clock" => {
            request(id, &vector.expected("apdu"))
        }
        "get-resp-normal"
        | "get-resp-error"
        | "action-resp-success"
        | "action-resp-hls"
        | "d-exception-ic-error" => response(id, &vector.expected("apdu")),
        "d-get-disconnect-output-state" | "d-get-disconnect-control-state" => disconnect(vector),
        "d-action-script-execute" => script(vector),
        "d-action-seed-object" => seed_object(vector),
        "d-wrapper-tcp-glo-action" => wrapper(vector),
        "d-gbt-single" => general_block(vector),
        _ => return false,
    }
    true
}

/// Whole frames go there and back; check sequences stand in a frame that decodes only if they are right.
fn hdlc(id: &str, vector: &Vector) -> bool {
    match id {
        "hdlc-snrm"
        | "hdlc-ua-params"
        | "hdlc-i-frame-aarq"
        | "hdlc-ua-4byte-addr"
        | "d-hdlc-i-glo-action"
        | "d-hdlc-snrm-neg128" => {
            let octets = vector.expected("frame");
            let frame = dlms::hdlc::Frame::decode(&octets).unwrap();
            assert_eq!(frame.encode().unwrap(), octets);
        }
        "hdlc-fcs-1" | "hdlc-fcs-2" | "hdlc-fcs-3" => {
            let (data, fcs) = (vector.input("data"), vector.expected("fcs_on_wire"));
            let octets = [&[0x7E][..], &data, &fcs, &[0x7E]].concat();
            assert!(dlms::hdlc::Frame::decode(&octets).is_ok());
        }
        "hdlc-hcs" => {
            let header = [vector.input("data"), vector.expected("hcs_on_wire")].concat();
            let whole = vectors()
                .into_iter()
                .find(|vector| vector.0["id"] == "hdlc-i-frame-aarq");
            assert!(whole.unwrap().expected("frame")[1..].starts_with(&header));
        }
        _ => return false,
    }
    true
}

fn general_block(vector: &Vector) {
    let octets = vector.expected("apdu");
    let block = dlms::gbt::GeneralBlock::decode(&octets).unwrap();
    assert!(block.last);
    assert_eq!((block.window, block.block, block.ack), (1, 1, 0));
    assert_eq!(
        block.data,
        hex::decode("C301C1000900000A0100FF0101120001").unwrap()
    );
    assert_eq!(block.encode(), octets);
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
