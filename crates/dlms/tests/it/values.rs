//! Arbitrary values of every kind.

use dlms::acse::{Aare, Aarq, AssociationResult, Diagnostic};
use dlms::initiate::{InitiateRequest, InitiateResponse};
use dlms::{
    ActionResult, ApplicationContext, Attribute, Ciphered, Conformance, Data, DataAccessResult,
    Exception, InvokeId, Mechanism, Method, Obis, Request, Response, SecurityControl, Selection,
    SystemTitle,
};
use proptest::array::uniform;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub(crate) fn data() -> impl Strategy<Value = Data> {
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

pub(crate) fn invoke() -> impl Strategy<Value = InvokeId> {
    any::<u8>().prop_map(InvokeId::from_octet)
}

pub(crate) fn title() -> impl Strategy<Value = SystemTitle> {
    uniform::<_, 8>(any::<u8>()).prop_map(SystemTitle::new)
}

pub(crate) fn attribute() -> impl Strategy<Value = Attribute> {
    (any::<u16>(), any::<[u8; 6]>(), any::<i8>()).prop_map(|(class_id, name, index)| Attribute {
        class_id,
        name: Obis::new(name),
        index,
    })
}

pub(crate) fn selection() -> impl Strategy<Value = Selection> {
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

pub(crate) fn request() -> impl Strategy<Value = Request> {
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

pub(crate) fn response() -> impl Strategy<Value = Response> {
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

pub(crate) fn mechanism() -> impl Strategy<Value = Mechanism> {
    (0_u8..8).prop_map(|id| Mechanism::from_id(id).unwrap())
}

pub(crate) fn octets() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..300)
}

pub(crate) fn aarq() -> impl Strategy<Value = Aarq> {
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

pub(crate) fn aare() -> impl Strategy<Value = Aare> {
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

pub(crate) fn initiate_request() -> impl Strategy<Value = InitiateRequest> {
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

pub(crate) fn initiate_response() -> impl Strategy<Value = InitiateResponse> {
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

pub(crate) fn ciphered() -> impl Strategy<Value = Ciphered> {
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
