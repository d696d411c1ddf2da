//! Arbitrary values of every kind.

use dlms::acse::{Aare, Aarq, AssociationResult, Diagnostic};
use dlms::initiate::{
    ConfirmedService, ConfirmedServiceError, InitiateRequest, InitiateResponse, ServiceError,
    ServiceErrorKind,
};
use dlms::{
    ApplicationContext, Attribute, Ciphered, CompactArray, Conformance, Data, InvokeId, Mechanism,
    Obis, SecurityControl, Selection, SimpleType, SystemTitle, TypeDescription,
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
        compact().prop_map(|array| Data::CompactArray(Box::new(array))),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Data::Array),
            vec(inner, 0..8).prop_map(Data::Structure),
        ]
    })
}

/// Elements of a type that is a structure of some simple types and an array.
pub(crate) fn compact() -> impl Strategy<Value = CompactArray> {
    let simple = |tag| TypeDescription::Simple(SimpleType::new(tag).unwrap());
    let element = |count: u16| {
        let parts = (
            any::<u16>(),
            any::<bool>(),
            vec(any::<u8>(), 0..20),
            vec(any::<i32>(), usize::from(count)),
        );
        parts.prop_map(|(number, flag, octets, list)| {
            Data::Structure(vec![
                Data::LongUnsigned(number),
                Data::Boolean(flag),
                Data::OctetString(octets),
                Data::Array(list.into_iter().map(Data::DoubleLong).collect()),
            ])
        })
    };
    (0_u16..4).prop_flat_map(move |count| {
        let list = TypeDescription::Array {
            count,
            of: Box::new(simple(5)),
        };
        let of = TypeDescription::Structure(vec![simple(18), simple(3), simple(9), list]);
        vec(element(count), 0..6)
            .prop_map(move |elements| CompactArray::new(of.clone(), elements).unwrap())
    })
}

pub(crate) fn service_error() -> impl Strategy<Value = ConfirmedServiceError> {
    let service = prop::sample::select(ConfirmedService::ALL);
    let kind = prop::sample::select(ServiceErrorKind::ALL);
    (service, kind, any::<u8>()).prop_map(|(service, kind, value)| ConfirmedServiceError {
        service,
        error: ServiceError { kind, value },
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
