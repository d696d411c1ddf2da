//! What holds for every attribute and method of every class, and the worked examples.

mod examples;

use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Debug;

use proptest::collection;
use proptest::prelude::*;

use super::association::{ClientSap, ContextName, MechanismName, MethodMode, Secret};
use super::profile::Row;
use super::push_setup::{BufferPart, PushObject, RepetitionDelay};
use super::register::Unit;
use super::security_setup::{CertificateId, KeyId, KeyTransfer, Policy};
use super::*;
use crate::conformance::Conformance;
use crate::mechanism::{ApplicationContext, Mechanism};
use crate::security::{Suite, SystemTitle};

/// Octets that values are made of: the same octets make the same value.
pub(super) struct Seed(Vec<u8>);

impl Seed {
    pub(super) fn next<T: Sample>(&mut self) -> T {
        T::sample(self)
    }

    pub(super) fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let octet: u8 = self.next();
        &choices[usize::from(octet) % choices.len()]
    }
}

/// A value made of octets.
pub(super) trait Sample {
    fn sample(seed: &mut Seed) -> Self;
}

/// Who looks at every attribute and method.
pub(super) trait Visitor {
    fn field<T: Value + Sample + PartialEq + Debug>(&mut self, field: &Field<T>);
    fn verb<P: Value + Sample + PartialEq + Debug, R>(&mut self, verb: &Verb<P, R>);
}

fn visit_all(visitor: &mut impl Visitor) {
    data::visit(visitor);
    register::visit(visitor);
    profile::visit(visitor);
    clock::visit(visitor);
    script_table::visit(visitor);
    association::visit(visitor);
    image_transfer::visit(visitor);
    activity_calendar::visit(visitor);
    schedule::visit(visitor);
    push_setup::visit(visitor);
    security_setup::visit(visitor);
    disconnect_control::visit(visitor);
    limiter::visit(visitor);
}

/// A value, through its octets, is what it was.
struct RoundTrip(Seed);

impl Visitor for RoundTrip {
    fn field<T: Value + Sample + PartialEq + Debug>(&mut self, field: &Field<T>) {
        let value: T = self.0.next();
        let octets = field.data(&value).encode();
        let read = field.read(&Data::decode(&octets).unwrap());
        assert_eq!(read, Ok(value), "class {} {}", field.class_id, field.name);
    }

    fn verb<P: Value + Sample + PartialEq + Debug, R>(&mut self, verb: &Verb<P, R>) {
        let value: P = self.0.next();
        let octets = verb.data(&value).encode();
        let read = verb.read(Some(&Data::decode(&octets).unwrap()));
        assert_eq!(read, Ok(value), "class {} {}", verb.class_id, verb.name);
        assert!(verb.read(None).is_err());
    }
}

/// Whatever can be read of foreign data means the same when it is written as we write it.
struct Stable<'a>(&'a Data);

impl Visitor for Stable<'_> {
    fn field<T: Value + Sample + PartialEq + Debug>(&mut self, field: &Field<T>) {
        match field.read(self.0) {
            Ok(value) => assert_eq!(field.read(&field.data(&value)), Ok(value)),
            Err(wrong) => assert!(wrong.to_string().contains(field.name)),
        }
    }

    fn verb<P: Value + Sample + PartialEq + Debug, R>(&mut self, verb: &Verb<P, R>) {
        if let Ok(value) = verb.read(Some(self.0)) {
            assert_eq!(verb.read(Some(&verb.data(&value))), Ok(value));
        }
    }
}

proptest! {
    #[test]
    fn every_value_is_what_it_was(octets in collection::vec(any::<u8>(), 0..600)) {
        visit_all(&mut RoundTrip(Seed(octets)));
    }

    #[test]
    fn foreign_data_is_read_or_refused(octets in collection::vec(any::<u8>(), 0..60)) {
        visit_all(&mut Stable(&Data::sample(&mut Seed(octets))));
    }

    #[test]
    fn moments_survive(ms in -62_135_596_800_000_i64..253_402_300_800_000) {
        let ms = ms - ms.rem_euclid(10);
        prop_assert_eq!(DateTime::utc(ms).and_then(DateTime::unix_ms), Some(ms));
    }

    #[test]
    fn any_twelve_octets_can_be_asked(octets: [u8; 12], later: u32) {
        let time = DateTime(octets);
        let _ = (time.to_string(), time.unix_ms(), time.later(later), time.date().weekday());
    }
}

#[test]
fn the_tables_of_names_are_in_order() {
    for class in Class::ALL {
        assert_eq!(Class::find(class.class_id), Some(class));
        for members in [class.attributes, class.methods] {
            let indices: Vec<i8> = members.iter().map(|(index, _)| *index).collect();
            let wanted: Vec<i8> = (1..).take(indices.len()).collect();
            assert_eq!(indices, wanted, "{}", class.name);
        }
    }
    assert_eq!(Class::find(70).unwrap().method(2), Some("remote_reconnect"));
    assert_eq!(disconnect_control::CLASS.attribute(5), None);
    assert_eq!(Class::find(8192), None);
}

impl Sample for u8 {
    fn sample(seed: &mut Seed) -> Self {
        seed.0.pop().unwrap_or(0)
    }
}

impl<const N: usize> Sample for [u8; N] {
    fn sample(seed: &mut Seed) -> Self {
        core::array::from_fn(|_| seed.next())
    }
}

macro_rules! sample {
    ($($type:ty: |$seed:ident| $made:expr;)*) => {$(
        impl Sample for $type {
            fn sample($seed: &mut Seed) -> Self {
                $made
            }
        }
    )*};
}

sample! {
    bool: |seed| u8::sample(seed) & 1 == 1;
    i8: |seed| i8::from_be_bytes(seed.next());
    i16: |seed| i16::from_be_bytes(seed.next());
    u16: |seed| u16::from_be_bytes(seed.next());
    u32: |seed| u32::from_be_bytes(seed.next());
    Obis: |seed| Self::new(seed.next());
    Date: |seed| Self(seed.next());
    Time: |seed| Self(seed.next());
    DateTime: |seed| Self(seed.next());
    clock::ClockStatus: |seed| Self(seed.next());
    Octets: |seed| Self(seed.next());
    Text: |seed| Self(seed.next());
    Secret: |seed| Self(seed.next());
    Zero: |_seed| Self;
    Code: |seed| Self(seed.next());
    Unit: |seed| Self(seed.next());
    Row: |seed| Self(seed.next());
    Title: |seed| Self(bool::sample(seed).then(|| SystemTitle::new(seed.next())));
    Policy: |seed| *seed.of(&[0, 1, 2, 3, 0x24, 0x48, 0x6C, 0x9C, 0xFC].map(|code| Self::from_code(code).unwrap()));
    KeyId: |seed| Self::from_id(u8::sample(seed) % 4).unwrap();
    KeyTransfer: |seed| Self { key: seed.next(), wrapped: seed.next() };
    Suite: |seed| Self::from_id(u8::sample(seed) % 3).unwrap();
    ClientSap: |seed| Self(seed.next());
    ContextName: |seed| Self(ApplicationContext::from_id(seed.next()));
    MechanismName: |seed| Self(Mechanism::from_id(u8::sample(seed) % 8).unwrap());
    Conformance: |seed| Self::new(seed.next());
    MethodMode: |seed| match seed.next() {
        true => Self::Flag(seed.next()),
        false => Self::Mode(seed.next()),
    };
    BufferPart: |seed| Self { restriction: seed.next(), columns: seed.next() };
    PushObject: |seed| Self {
        class_id: seed.next(),
        name: seed.next(),
        attribute: seed.next(),
        data_index: seed.next(),
        part: seed.next(),
    };
    RepetitionDelay: |seed| match seed.next() {
        true => Self::Fixed(seed.next()),
        false => Self::Growing(seed.next()),
    };
    CertificateId: |seed| match seed.next() {
        true => Self::Entity { entity: seed.next(), kind: seed.next(), system_title: seed.next() },
        false => Self::Serial { serial_number: seed.next(), issuer: seed.next() },
    };
    Bits: |seed| {
        let octets: Vec<u8> = seed.next();
        Self { count: octets.len() * 8, octets }
    };
    Data: |seed| match u8::sample(seed) % 16 {
        0 => Self::Null,
        1 => Self::Array(seed.next()),
        2 | 3 => Self::Structure(seed.next()),
        4 => Self::Boolean(seed.next()),
        5 => Bits::sample(seed).to_data(),
        6 => Self::DoubleLong(i32::from_be_bytes(seed.next())),
        7 => Self::DoubleLongUnsigned(seed.next()),
        8 => Self::OctetString(seed.next()),
        9 => Self::VisibleString(seed.next()),
        10 => Self::Integer(seed.next()),
        11 => Self::Long(seed.next()),
        12 => Self::Unsigned(seed.next()),
        13 => Self::LongUnsigned(seed.next()),
        14 => Self::Enum(seed.next()),
        _ => Self::DateTime(seed.next()),
    };
}

impl<T: Sample> Sample for Option<T> {
    fn sample(seed: &mut Seed) -> Self {
        bool::sample(seed).then(|| seed.next())
    }
}

/// At most three elements, and none when the octets are used up: data nests no deeper than they last.
impl<T: Sample> Sample for Vec<T> {
    fn sample(seed: &mut Seed) -> Self {
        let count = if seed.0.len() < 8 {
            0
        } else {
            u8::sample(seed) % 4
        };
        (0..count).map(|_| seed.next()).collect()
    }
}
