//! Octets into values and back: this crate beside `dlms-cosem-rs`, in one run. Each function encodes and decodes a
//! request and its answer, as both sides together do.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark may fail by panicking"
)]

use divan::{AllocProfiler, Bencher, black_box};

#[global_allocator]
static ALLOCATOR: AllocProfiler<std::alloc::System> = AllocProfiler::system();

fn main() {
    divan::Divan::from_args()
        .sample_size(500)
        .sample_count(200)
        .main();
}

const CLOCK: [u8; 6] = [0, 0, 1, 0, 0, 255];
const SCRIPT: [u8; 6] = [0, 0, 10, 1, 0, 255];

/// The octets of 24 rows of a profile: time, status, two numbers.
fn rows() -> Vec<u8> {
    let mut octets = vec![1, 24];
    for row in 0..24 {
        octets.extend_from_slice(&[2, 4, 9, 12, 7, 0xEA, 1, 1, 4, row, 0, 0, 0, 0, 0, 0]);
        octets.extend_from_slice(&[17, 8, 6, 0, 0, 0x12, row, 6, 0, 0, 0x34, row]);
    }
    octets
}

mod ours {
    use dlms::acse::{Aare, Aarq, AssociationResult, Diagnostic};
    use dlms::{
        ActionResult, ApplicationContext, Attribute, Data, InvokeId, Mechanism, Method, Obis,
        Request, Response, SystemTitle,
    };

    use super::black_box;

    pub(super) fn get(out: &mut Vec<u8>, value: Data) -> (Request, Response) {
        let invoke = InvokeId::new(1);
        let attribute = Attribute {
            class_id: 8,
            name: Obis::new(super::CLOCK),
            index: 2,
        };
        let request = Request::Get {
            invoke,
            attribute,
            selection: None,
        };
        pair(
            out,
            &request,
            &Response::GetData {
                invoke,
                data: value,
            },
        )
    }

    pub(super) fn action(out: &mut Vec<u8>) -> (Request, Response) {
        let invoke = InvokeId::new(1);
        let method = Method {
            class_id: 9,
            name: Obis::new(super::SCRIPT),
            index: 1,
        };
        let request = Request::Action {
            invoke,
            method,
            parameter: Some(Data::LongUnsigned(1)),
        };
        let response = Response::Action {
            invoke,
            result: ActionResult::SUCCESS,
            data: None,
        };
        pair(out, &request, &response)
    }

    fn pair(out: &mut Vec<u8>, request: &Request, response: &Response) -> (Request, Response) {
        out.clear();
        black_box(request).encode_into(out);
        let request = Request::decode(black_box(out)).unwrap();
        out.clear();
        black_box(response).encode_into(out);
        (request, Response::decode(black_box(out)).unwrap())
    }

    pub(super) fn association(information: &[u8]) -> (Aarq, Aare) {
        let aarq = Aarq {
            context: ApplicationContext::logical_name(true),
            calling_title: Some(SystemTitle::new(*b"LKHcli01")),
            calling_ae_qualifier: None,
            mechanism: Some(Mechanism::HlsGmac),
            authentication_value: Some(b"K56iVagYK56iVagY".to_vec()),
            user_information: Some(information.to_vec()),
        };
        let aare = Aare {
            context: aarq.context,
            result: AssociationResult::Accepted,
            diagnostic: Diagnostic::User(14),
            responding_title: Some(SystemTitle::new(*b"LKMmet01")),
            responding_ae_qualifier: None,
            mechanism: Some(Mechanism::HlsGmac),
            authentication_value: Some(b"P6wRJ21FP6wRJ21F".to_vec()),
            user_information: Some(information.to_vec()),
        };
        let (request, response) = (black_box(&aarq).encode(), black_box(&aare).encode());
        (
            Aarq::decode(black_box(&request)).unwrap(),
            Aare::decode(black_box(&response)).unwrap(),
        )
    }
}

mod theirs {
    use dlms_cosem_rs::acse::{
        Aare, Aarq, ApplicationContext, AssociationResult, AuthMechanism, Diagnostic,
        UserDiagnostic,
    };
    use dlms_cosem_rs::axdr::Data;
    use dlms_cosem_rs::codec::{Decode as _, Encode as _, SliceWriter};
    use dlms_cosem_rs::xdlms::{
        ActionRequest, ActionResponse, ActionResponseWithOptionalData, ActionResult,
        AttributeDescriptor, GetDataResult, GetRequest, GetResponse, InvokeId, MethodDescriptor,
    };
    use dlms_cosem_rs::{Apdu, Obis};

    use super::black_box;

    fn obis([a, b, c, d, e, f]: [u8; 6]) -> Obis {
        Obis::new(a, b, c, d, e, f)
    }

    pub(super) fn get<'a>(
        request_out: &'a mut [u8],
        response_out: &'a mut [u8],
        value: Data<'_>,
    ) -> (Apdu<'a>, Apdu<'a>) {
        let invoke_id = InvokeId(0xC1);
        let request = Apdu::GetRequest(GetRequest::Normal {
            invoke_id,
            descriptor: AttributeDescriptor::new(8, obis(super::CLOCK), 2),
            access: None,
        });
        let response = Apdu::GetResponse(GetResponse::Normal {
            invoke_id,
            result: GetDataResult::Data(value),
        });
        (trip(request_out, &request), trip(response_out, &response))
    }

    pub(super) fn action<'a>(
        request_out: &'a mut [u8],
        response_out: &'a mut [u8],
    ) -> (Apdu<'a>, Apdu<'a>) {
        let invoke_id = InvokeId(0xC1);
        let request = Apdu::ActionRequest(ActionRequest::Normal {
            invoke_id,
            descriptor: MethodDescriptor::new(9, obis(super::SCRIPT), 1),
            parameters: Some(Data::LongUnsigned(1)),
        });
        let response = Apdu::ActionResponse(ActionResponse::Normal {
            invoke_id,
            response: ActionResponseWithOptionalData {
                result: ActionResult::Success,
                return_parameters: None,
            },
        });
        (trip(request_out, &request), trip(response_out, &response))
    }

    pub(super) fn association<'a>(
        request_out: &'a mut [u8],
        response_out: &'a mut [u8],
        information: &[u8],
    ) -> (Apdu<'a>, Apdu<'a>) {
        let context = ApplicationContext::LogicalNameCiphered;
        let request = Apdu::Aarq(Aarq {
            application_context: Some(context),
            calling_ap_title: Some(b"LKHcli01"),
            sender_acse_requirements: true,
            mechanism_name: Some(AuthMechanism::HighGmac),
            calling_authentication_value: Some(b"K56iVagYK56iVagY"),
            user_information: Some(information),
            ..Aarq::default()
        });
        let response = Apdu::Aare(Aare {
            application_context: Some(context),
            result: AssociationResult::Accepted,
            diagnostic: Diagnostic::User(UserDiagnostic::AuthenticationRequired),
            responding_ap_title: Some(b"LKMmet01"),
            responder_acse_requirements: true,
            mechanism_name: Some(AuthMechanism::HighGmac),
            responding_authentication_value: Some(b"P6wRJ21FP6wRJ21F"),
            user_information: Some(information),
        });
        (trip(request_out, &request), trip(response_out, &response))
    }

    fn trip<'a>(out: &'a mut [u8], apdu: &Apdu<'_>) -> Apdu<'a> {
        let mut writer = SliceWriter::new(out);
        black_box(apdu).encode(&mut writer).unwrap();
        Apdu::from_bytes(black_box(writer.finish())).unwrap()
    }
}

/// GET of a double-long-unsigned: request and response, encoded and decoded.
#[divan::bench_group]
mod get_pair {
    use super::*;

    #[divan::bench]
    fn latchkey(bencher: Bencher<'_, '_>) {
        let mut out = Vec::with_capacity(1024);
        bencher.bench_local(|| ours::get(&mut out, dlms::Data::DoubleLongUnsigned(5009)));
    }

    #[divan::bench]
    fn dlms_cosem_rs(bencher: Bencher<'_, '_>) {
        let (mut first, mut second) = ([0; 1024], [0; 1024]);
        bencher.bench_local(|| {
            let value = dlms_cosem_rs::axdr::Data::DoubleLongUnsigned(5009);
            black_box(theirs::get(&mut first, &mut second, value));
        });
    }
}

/// ACTION with a long-unsigned: request and response, encoded and decoded.
#[divan::bench_group]
mod action_pair {
    use super::*;

    #[divan::bench]
    fn latchkey(bencher: Bencher<'_, '_>) {
        let mut out = Vec::with_capacity(1024);
        bencher.bench_local(|| ours::action(&mut out));
    }

    #[divan::bench]
    fn dlms_cosem_rs(bencher: Bencher<'_, '_>) {
        let (mut first, mut second) = ([0; 1024], [0; 1024]);
        bencher.bench_local(|| {
            black_box(theirs::action(&mut first, &mut second));
        });
    }
}

/// AARQ and AARE of HLS5 with 34 octets of user-information, encoded and decoded.
#[divan::bench_group]
mod aarq_aare {
    use super::*;

    #[divan::bench]
    fn latchkey() -> (dlms::acse::Aarq, dlms::acse::Aare) {
        ours::association(black_box(&[0x21; 34]))
    }

    #[divan::bench]
    fn dlms_cosem_rs(bencher: Bencher<'_, '_>) {
        let (mut first, mut second) = ([0; 1024], [0; 1024]);
        bencher.bench_local(|| {
            black_box(theirs::association(
                &mut first,
                &mut second,
                black_box(&[0x21; 34]),
            ));
        });
    }
}

/// 24 rows of a load profile, decoded and looked at: every number of every row is added up.
#[divan::bench_group]
mod profile_rows {
    use super::*;

    #[divan::bench]
    fn latchkey(bencher: Bencher<'_, '_>) {
        let octets = rows();
        bencher.bench_local(|| {
            let data = dlms::Data::decode(black_box(&octets)).unwrap();
            let rows = data.as_elements().unwrap();
            let cells = rows.iter().filter_map(dlms::Data::as_elements).flatten();
            cells.filter_map(dlms::Data::as_u64).sum::<u64>()
        });
    }

    #[divan::bench]
    fn dlms_cosem_rs(bencher: Bencher<'_, '_>) {
        use dlms_cosem_rs::axdr::Data;
        use dlms_cosem_rs::codec::Decode as _;
        let octets = rows();
        bencher.bench_local(|| {
            let data = Data::from_bytes(black_box(&octets)).unwrap();
            let Data::Array(rows) = data else {
                panic!("an array");
            };
            let mut sum = 0;
            for row in rows.iter() {
                let Data::Structure(cells) = row.unwrap() else {
                    panic!("a structure");
                };
                for cell in cells.iter() {
                    sum += cell.unwrap().as_u64().unwrap_or_default();
                }
            }
            sum
        });
    }
}
