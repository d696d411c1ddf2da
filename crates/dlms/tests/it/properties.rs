//! What holds for all values: decoding undoes encoding, and no input makes anything panic.

use dlms::acse::{Aare, Aarq, AssociationResult, Diagnostic, Rlre, Rlrq};
use dlms::client::{Client, Effect, Event};
use dlms::initiate::{ConfirmedServiceError, InitiateRequest, InitiateResponse};
use dlms::meter::{self, Meter};
use dlms::{
    ActionResult, ApplicationContext, Attribute, CipherFailure, CipherOp, CipherOutput, Ciphered,
    Conformance, Data, DataAccessResult, Exception, Frame, GmacToken, InvokeId, JobId, Mechanism,
    Method, Obis, Protection, Reassembler, Request, Response, SecurityControl, Selection,
    SystemTitle,
};
use proptest::array::uniform;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::pair::{CLIENT_TITLE, METER_TITLE, STOC, action, client_config, get, meter_config};
use crate::soft::Soft;

fn data() -> impl Strategy<Value = Data> {
    let octets = || vec(any::<u8>(), 0..200);
    let leaf = prop_oneof![
        Just(Data::Null),
        Just(Data::DontCare),
        any::<bool>().prop_map(Data::Boolean),
        (0_usize..70, vec(any::<u8>(), 9)).prop_map(|(bits, bytes)| {
            let bytes = bytes[..bits.div_ceil(8)].to_vec();
            Data::BitString { bits, bytes }
        }),
        any::<i32>().prop_map(Data::DoubleLong),
        any::<u32>().prop_map(Data::DoubleLongUnsigned),
        octets().prop_map(Data::OctetString),
        octets().prop_map(Data::VisibleString),
        ".{0,40}".prop_map(Data::Utf8String),
        any::<i8>().prop_map(Data::Bcd),
        any::<i8>().prop_map(Data::Integer),
        any::<i16>().prop_map(Data::Long),
        any::<u8>().prop_map(Data::Unsigned),
        any::<u16>().prop_map(Data::LongUnsigned),
        any::<i64>().prop_map(Data::Long64),
        any::<u64>().prop_map(Data::Long64Unsigned),
        any::<u8>().prop_map(Data::Enum),
        proptest::num::f32::NORMAL.prop_map(Data::Float32),
        proptest::num::f64::NORMAL.prop_map(Data::Float64),
        any::<[u8; 12]>().prop_map(Data::DateTime),
        any::<[u8; 5]>().prop_map(Data::Date),
        any::<[u8; 4]>().prop_map(Data::Time),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Data::Array),
            vec(inner, 0..8).prop_map(Data::Structure),
        ]
    })
}

fn invoke() -> impl Strategy<Value = InvokeId> {
    any::<u8>().prop_map(InvokeId::from_octet)
}

fn title() -> impl Strategy<Value = SystemTitle> {
    uniform::<_, 8>(any::<u8>()).prop_map(SystemTitle::new)
}

fn attribute() -> impl Strategy<Value = Attribute> {
    (any::<u16>(), any::<[u8; 6]>(), any::<i8>()).prop_map(|(class_id, name, index)| Attribute {
        class_id,
        name: Obis::new(name),
        index,
    })
}

fn selection() -> impl Strategy<Value = Selection> {
    prop_oneof![
        (data(), data(), data(), vec(data(), 0..3)).prop_map(|(column, from, to, columns)| {
            Selection::Range {
                column,
                from,
                to,
                columns,
            }
        }),
        any::<(u32, u32, u16, u16)>().prop_map(|(from_entry, to_entry, from_column, to_column)| {
            Selection::Entry {
                from_entry,
                to_entry,
                from_column,
                to_column,
            }
        }),
        (3_u8.., data()).prop_map(|(selector, parameters)| Selection::Other {
            selector,
            parameters
        }),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (invoke(), attribute(), option::of(selection())).prop_map(
            |(invoke, attribute, selection)| Request::Get {
                invoke,
                attribute,
                selection
            }
        ),
        (invoke(), any::<u32>()).prop_map(|(invoke, block)| Request::GetNext { invoke, block }),
        (invoke(), attribute(), option::of(selection()), data()).prop_map(
            |(invoke, attribute, selection, value)| {
                Request::Set {
                    invoke,
                    attribute,
                    selection,
                    value,
                }
            }
        ),
        (invoke(), attribute(), option::of(data())).prop_map(|(invoke, at, parameter)| {
            let method = Method {
                class_id: at.class_id,
                name: at.name,
                index: at.index,
            };
            Request::Action {
                invoke,
                method,
                parameter,
            }
        }),
    ]
}

fn response() -> impl Strategy<Value = Response> {
    let result = || any::<u8>().prop_map(DataAccessResult::new);
    let or_error =
        move |good: BoxedStrategy<Data>| prop_oneof![good.prop_map(Ok), result().prop_map(Err)];
    let payload = prop_oneof![
        vec(any::<u8>(), 0..300).prop_map(Ok),
        result().prop_map(Err)
    ];
    prop_oneof![
        (invoke(), data()).prop_map(|(invoke, data)| Response::GetData { invoke, data }),
        (invoke(), result()).prop_map(|(invoke, result)| Response::GetError { invoke, result }),
        (invoke(), any::<bool>(), any::<u32>(), payload).prop_map(
            |(invoke, last, block, payload)| Response::GetBlock {
                invoke,
                last,
                block,
                payload
            }
        ),
        (invoke(), result()).prop_map(|(invoke, result)| Response::Set { invoke, result }),
        (invoke(), any::<u8>(), option::of(or_error(data().boxed()))).prop_map(
            |(invoke, result, data)| {
                Response::Action {
                    invoke,
                    result: ActionResult::new(result),
                    data,
                }
            }
        ),
        any::<(u8, u32)>().prop_map(|(state, counter)| {
            Response::Exception(Exception {
                state,
                ..Exception::invocation_counter(counter)
            })
        }),
        (any::<u8>(), 0_u8..6).prop_map(|(state, service)| Response::Exception(Exception {
            state,
            service,
            counter: None
        })),
    ]
}

fn mechanism() -> impl Strategy<Value = Mechanism> {
    (0_u8..8).prop_map(|id| Mechanism::from_id(id).unwrap())
}

fn octets() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..300)
}

fn aarq() -> impl Strategy<Value = Aarq> {
    let parts = (
        any::<u8>(),
        option::of(title()),
        option::of(octets()),
        option::of(mechanism()),
    );
    (parts, option::of(octets()), option::of(octets())).prop_map(
        |(
            (context, calling_title, calling_ae_qualifier, mechanism),
            authentication_value,
            user_information,
        )| Aarq {
            context: ApplicationContext::from_id(context),
            calling_title,
            calling_ae_qualifier,
            mechanism,
            authentication_value,
            user_information,
        },
    )
}

fn aare() -> impl Strategy<Value = Aare> {
    let result = prop_oneof![
        Just(AssociationResult::Accepted),
        Just(AssociationResult::RejectedPermanent),
        Just(AssociationResult::RejectedTransient),
    ];
    let diagnostic = prop_oneof![
        any::<u8>().prop_map(Diagnostic::User),
        any::<u8>().prop_map(Diagnostic::Provider),
    ];
    (aarq(), result, diagnostic).prop_map(|(aarq, result, diagnostic)| Aare {
        context: aarq.context,
        result,
        diagnostic,
        responding_title: aarq.calling_title,
        responding_ae_qualifier: aarq.calling_ae_qualifier,
        mechanism: aarq.mechanism,
        authentication_value: aarq.authentication_value,
        user_information: aarq.user_information,
    })
}

fn initiate_request() -> impl Strategy<Value = InitiateRequest> {
    let key = option::of(vec(any::<u8>(), 0..32));
    (
        key,
        any::<bool>(),
        option::of(any::<i8>()),
        any::<u8>(),
        any::<u32>(),
        any::<u16>(),
    )
        .prop_map(
            |(
                dedicated_key,
                response_allowed,
                quality_of_service,
                version,
                conformance,
                max_pdu,
            )| InitiateRequest {
                dedicated_key,
                response_allowed,
                quality_of_service,
                version,
                conformance: Conformance::new(conformance),
                max_pdu,
            },
        )
}

fn initiate_response() -> impl Strategy<Value = InitiateResponse> {
    (
        option::of(any::<i8>()),
        any::<u8>(),
        any::<u32>(),
        any::<u16>(),
        any::<i16>(),
    )
        .prop_map(
            |(quality_of_service, version, conformance, max_pdu, vaa_name)| InitiateResponse {
                quality_of_service,
                version,
                conformance: Conformance::new(conformance),
                max_pdu,
                vaa_name,
            },
        )
}

fn ciphered() -> impl Strategy<Value = Ciphered> {
    let tag = prop_oneof![Just(0x21), Just(0x28), Just(0xC8), Just(0xCF)];
    let named = prop_oneof![
        tag.prop_map(|tag| (tag, None)),
        option::of(title()).prop_map(|title| (0xDB, title)),
    ];
    (named, any::<u8>(), any::<u32>(), vec(any::<u8>(), 12..300)).prop_map(
        |((tag, title), control, counter, body)| Ciphered {
            tag,
            title,
            control: SecurityControl::new(control),
            counter,
            body,
        },
    )
}

proptest! {
    #[test]
    fn data_is_what_it_was(data in data()) {
        prop_assert_eq!(Data::decode(&data.encode()), Ok(data));
    }

    #[test]
    fn requests_are_what_they_were(request in request()) {
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
    }

    #[test]
    fn responses_are_what_they_were(response in response()) {
        prop_assert_eq!(Response::decode(&response.encode()), Ok(response));
    }

    #[test]
    fn selections_are_what_they_were(selection in selection()) {
        prop_assert_eq!(Selection::decode(&selection.encode()), Ok(selection));
    }

    #[test]
    fn association_apdus_are_what_they_were(aarq in aarq(), aare in aare()) {
        prop_assert_eq!(Aarq::decode(&aarq.encode()), Ok(aarq));
        prop_assert_eq!(Aare::decode(&aare.encode()), Ok(aare));
    }

    #[test]
    fn release_apdus_are_what_they_were(reason: Option<u8>, information in option::of(octets())) {
        let rlrq = Rlrq { reason, user_information: information.clone() };
        let rlre = Rlre { reason, user_information: information };
        prop_assert_eq!(Rlrq::decode(&rlrq.encode()), Ok(rlrq));
        prop_assert_eq!(Rlre::decode(&rlre.encode()), Ok(rlre));
    }

    #[test]
    fn initiate_apdus_are_what_they_were(
        request in initiate_request(), response in initiate_response(), error: (u8, u8, u8)
    ) {
        prop_assert_eq!(InitiateRequest::decode(&request.encode()), Ok(request));
        prop_assert_eq!(InitiateResponse::decode(&response.encode()), Ok(response));
        let error = ConfirmedServiceError { service: error.0, error: error.1, value: error.2 };
        prop_assert_eq!(ConfirmedServiceError::decode(&error.encode()), Ok(error));
    }

    #[test]
    fn ciphered_apdus_are_what_they_were(ciphered in ciphered()) {
        prop_assert_eq!(Ciphered::decode(&ciphered.encode()), Ok(ciphered));
    }

    #[test]
    fn names_are_what_they_were(groups: [u8; 6]) {
        let name = Obis::new(groups);
        prop_assert_eq!(name.to_string().parse(), Ok(name));
    }

    #[test]
    fn text_never_panics(text in ".{0,64}") {
        let _ = text.parse::<Obis>();
    }
}

/// Everything that reads octets.
fn read_all(octets: &[u8]) {
    let _ = Data::decode(octets);
    let _ = Selection::decode(octets);
    let _ = Request::decode(octets);
    let _ = Response::decode(octets);
    let _ = Aarq::decode(octets);
    let _ = Aare::decode(octets);
    let _ = Rlrq::decode(octets);
    let _ = Rlre::decode(octets);
    let _ = InitiateRequest::decode(octets);
    let _ = InitiateResponse::decode(octets);
    let _ = ConfirmedServiceError::decode(octets);
    let _ = Ciphered::decode(octets);
    let _ = GmacToken::decode(octets);
    let mut reassembler = Reassembler::new(64);
    for chunk in octets.chunks(7) {
        reassembler.push(chunk);
        while let Ok(Some(_)) = reassembler.next() {}
    }
}

/// Good octets of every kind, to be spoilt.
fn apdu() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        octets(),
        data().prop_map(|data| data.encode()),
        request().prop_map(|request| request.encode()),
        response().prop_map(|response| response.encode()),
        aarq().prop_map(|aarq| aarq.encode()),
        aare().prop_map(|aare| aare.encode()),
        initiate_request().prop_map(|request| request.encode()),
        initiate_response().prop_map(|response| response.encode()),
        ciphered().prop_map(|ciphered| ciphered.encode()),
    ]
}

fn spoilt() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (apdu(), changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(mut octets, changes, end, cut)| {
            if !octets.is_empty() {
                for (index, value) in changes {
                    let at = index.index(octets.len());
                    octets[at] = value;
                }
                if cut {
                    octets.truncate(end.index(octets.len()));
                }
            }
            octets
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_octets_make_a_decoder_panic(octets in vec(any::<u8>(), 0..400), spoilt in spoilt()) {
        read_all(&octets);
        read_all(&spoilt);
    }
}

/// What may happen to an association, in any order.
#[derive(Debug, Clone)]
enum Input {
    Open,
    Get,
    Action,
    Release,
    /// Octets of the transport as they are.
    Octets(Vec<u8>),
    /// A frame with this APDU.
    Apdu(Vec<u8>),
    /// What the other side really sent last, again.
    Honest,
    /// The oldest job, done well.
    Done,
    /// The oldest job, done badly.
    Spoilt(Vec<u8>),
    Failed(u8),
    Timeout(u64),
    Closed,
    Answer(Response),
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        2 => Just(Input::Open),
        2 => Just(Input::Get),
        1 => Just(Input::Action),
        1 => Just(Input::Release),
        1 => octets().prop_map(Input::Octets),
        4 => spoilt().prop_map(Input::Apdu),
        8 => Just(Input::Honest),
        8 => Just(Input::Done),
        1 => spoilt().prop_map(Input::Spoilt),
        1 => any::<u8>().prop_map(Input::Failed),
        1 => (0_u64..5000).prop_map(Input::Timeout),
        1 => Just(Input::Closed),
        3 => response().prop_map(Input::Answer),
    ]
}

const MECHANISMS: [Mechanism; 3] = [Mechanism::None, Mechanism::Low, Mechanism::HlsGmac];
const PROTECTIONS: [Protection; 3] = [Protection::Plain, Protection::Glo, Protection::GeneralGlo];

/// A client and a meter whose frames and jobs lie about until an input moves them.
struct Table {
    client: Client,
    meter: Meter,
    client_keys: Soft,
    meter_keys: Soft,
    client_jobs: Vec<(JobId, CipherOp)>,
    meter_jobs: Vec<(JobId, CipherOp)>,
    to_meter: Vec<Vec<u8>>,
    to_client: Vec<Vec<u8>>,
    protection: Protection,
    over: bool,
}

impl Table {
    fn new(mechanism: Mechanism, protection: Protection) -> Self {
        Self {
            client: Client::new(client_config(mechanism, protection)),
            meter: Meter::new(
                meter_config(mechanism, protection.is_ciphered()),
                STOC.to_vec(),
            ),
            client_keys: Soft::new(CLIENT_TITLE),
            meter_keys: Soft::new(METER_TITLE),
            client_jobs: vec![],
            meter_jobs: vec![],
            to_meter: vec![],
            to_client: vec![],
            protection,
            over: false,
        }
    }

    fn step(&mut self, input: Input) {
        match input {
            Input::Open => self.client.open(0),
            Input::Get => drop(self.client.request(0, get())),
            Input::Action => drop(self.client.request(0, action())),
            Input::Release => self.client.release(0),
            Input::Octets(octets) => {
                self.client.handle_bytes(0, &octets);
                self.meter.handle_bytes(&octets);
            }
            Input::Apdu(apdu) => {
                let octets = Frame {
                    source: 1,
                    destination: 1,
                    apdu,
                }
                .encode()
                .unwrap();
                self.client.handle_bytes(0, &octets);
                self.meter.handle_bytes(&octets);
            }
            Input::Honest => {
                self.to_client
                    .last()
                    .into_iter()
                    .for_each(|octets| self.client.handle_bytes(0, octets));
                self.to_meter
                    .last()
                    .into_iter()
                    .for_each(|octets| self.meter.handle_bytes(octets));
            }
            Input::Done => {
                for (id, op) in core::mem::take(&mut self.client_jobs) {
                    let result = soft(&mut self.client_keys, op);
                    self.client.handle_cipher(0, id, result);
                }
                for (id, op) in core::mem::take(&mut self.meter_jobs) {
                    let result = soft(&mut self.meter_keys, op);
                    self.meter.handle_cipher(id, result);
                }
            }
            Input::Spoilt(octets) => self.finish(&Ok(CipherOutput::Apdu(octets, 1))),
            Input::Failed(kind) => self.finish(&match kind % 6 {
                0 => Err(CipherFailure::AuthFailed),
                1 => Err(CipherFailure::Replay { expected: 9 }),
                2 => Err(CipherFailure::Refused),
                3 => Err(CipherFailure::Unavailable),
                4 => Ok(CipherOutput::Verified),
                _ => Ok(CipherOutput::Token(vec![0x10; 17])),
            }),
            Input::Timeout(now) => self.client.handle_timeout(now),
            Input::Closed => self.client.closed(),
            Input::Answer(response) => drop(self.meter.answer(response)),
        }
        self.collect();
    }

    fn finish(&mut self, result: &Result<CipherOutput, CipherFailure>) {
        for (id, _) in core::mem::take(&mut self.client_jobs) {
            self.client.handle_cipher(0, id, result.clone());
        }
        for (id, _) in core::mem::take(&mut self.meter_jobs) {
            self.meter.handle_cipher(id, result.clone());
        }
    }

    /// Takes the effects, and checks what must hold of them.
    fn collect(&mut self) {
        while let Some(effect) = self.client.poll() {
            assert!(!self.over, "{effect:?} after the end");
            match effect {
                Effect::Transmit(octets) => {
                    let tag = octets[8];
                    assert!(
                        !self.protection.is_ciphered() || !matches!(tag, 0xC0..=0xC3),
                        "a clear request left a ciphered association"
                    );
                    self.to_meter.push(octets);
                }
                Effect::Cipher(job) => self.client_jobs.push((job.id, job.op)),
                Effect::Event(event) => {
                    self.over = matches!(event, Event::Failed(_) | Event::Released)
                }
                Effect::Timer(_) => {}
            }
        }
        while let Some(effect) = self.meter.poll() {
            match effect {
                meter::Effect::Transmit(octets) => {
                    assert!(
                        !self.protection.is_ciphered() || !matches!(octets[8], 0xC4..=0xC7),
                        "a clear answer left a ciphered association"
                    );
                    self.to_client.push(octets);
                }
                meter::Effect::Cipher(job) => self.meter_jobs.push((job.id, job.op)),
                meter::Effect::Ask(_) | meter::Effect::Event(_) => {}
            }
        }
    }
}

/// Jobs over octets that are no ciphered APDU are refused, as any executor must.
fn soft(keys: &mut Soft, op: CipherOp) -> Result<CipherOutput, CipherFailure> {
    match &op {
        CipherOp::Unprotect { apdu, .. } if Ciphered::decode(apdu).is_err() => {
            Err(CipherFailure::AuthFailed)
        }
        _ => keys.run(op),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_inputs_make_an_association_panic(
        mechanism in prop::sample::select(&MECHANISMS[..]),
        protection in prop::sample::select(&PROTECTIONS[..]),
        inputs in vec(input(), 0..60),
    ) {
        let mut table = Table::new(mechanism, protection);
        table.step(Input::Open);
        for input in inputs {
            table.step(input);
        }
    }
}
