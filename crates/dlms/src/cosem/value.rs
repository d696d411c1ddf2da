//! Values between Rust and COSEM, and the three macros that the classes are written in.

use alloc::borrow::Cow;
use alloc::format;
use alloc::vec::Vec;
use core::fmt;

use crate::data::Data;
use crate::obis::Obis;
use crate::security::SystemTitle;

/// A value with a COSEM type.
pub trait Value: Sized {
    /// What it looks like, for errors.
    const EXPECTED: &'static str;

    /// In its COSEM type.
    fn to_data(&self) -> Data;

    /// From what a peer sent.
    ///
    /// # Errors
    /// What stands where something else is expected.
    fn from_data(data: &Data) -> Result<Self, Mismatch>;
}

/// Something else than expected, somewhere in a value. It never holds octets of the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The elements on the way to it, counted from 1, the outermost first; empty if it is the value itself.
    pub place: Vec<usize>,
    /// What belongs there.
    pub expected: &'static str,
    /// What stands there: its type, and its number or its size.
    pub found: Cow<'static, str>,
}

impl Mismatch {
    pub(super) fn of(expected: &'static str, found: &'static str) -> Self {
        Self {
            place: Vec::new(),
            expected,
            found: Cow::Borrowed(found),
        }
    }

    pub(super) fn new(expected: &'static str, data: &Data) -> Self {
        let found = if let Some(elements) = data.as_elements() {
            Cow::Owned(format!("{} of {}", kind(data), elements.len()))
        } else if let Some(octets) = data.as_bytes() {
            Cow::Owned(format!("{} of {} octets", kind(data), octets.len()))
        } else if let Some(number) = data.as_i64() {
            Cow::Owned(format!("{} {number}", kind(data)))
        } else {
            Cow::Borrowed(kind(data))
        };
        Self {
            place: Vec::new(),
            expected,
            found,
        }
    }

    /// The same, seen from one level further out.
    fn inside(mut self, position: usize) -> Self {
        self.place.insert(0, position);
        self
    }
}

/// ` element 2.1: expected enum 0..2, found enum 5`.
impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (level, position) in self.place.iter().enumerate() {
            let lead = if level == 0 { " element " } else { "." };
            write!(f, "{lead}{position}")?;
        }
        write!(f, ": expected {}, found {}", self.expected, self.found)
    }
}

/// The name of its type; every value has one.
fn kind(data: &Data) -> &'static str {
    Data::name_of(data.tag()).unwrap_or_default()
}

/// The elements of a structure, one after another.
pub(super) struct Elements<'a> {
    rest: core::slice::Iter<'a, Data>,
    position: usize,
}

impl<'a> Elements<'a> {
    /// Of a structure with exactly `count` elements.
    pub(super) fn of(
        data: &'a Data,
        count: usize,
        expected: &'static str,
    ) -> Result<Self, Mismatch> {
        if let Data::Structure(elements) = data
            && elements.len() == count
        {
            return Ok(Self {
                rest: elements.iter(),
                position: 0,
            });
        }
        Err(Mismatch::new(expected, data))
    }

    pub(super) fn next<T: Value>(&mut self) -> Result<T, Mismatch> {
        self.position = self.position.saturating_add(1);
        self.rest
            .next()
            .ok_or_else(|| Mismatch::of(T::EXPECTED, "none"))
            .and_then(T::from_data)
            .map_err(|mismatch| mismatch.inside(self.position))
    }
}

impl Value for Data {
    const EXPECTED: &'static str = "any data";

    fn to_data(&self) -> Data {
        self.clone()
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        Ok(data.clone())
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "boolean";

    fn to_data(&self) -> Data {
        Data::Boolean(*self)
    }

    /// Strict: a boolean and nothing else.
    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        data.as_bool()
            .ok_or_else(|| Mismatch::new(Self::EXPECTED, data))
    }
}

macro_rules! whole_number {
    ($($type:ty, $variant:ident, $expected:literal;)*) => {$(
        /// Reading takes any whole number that fits: meters differ in the width they answer with.
        impl Value for $type {
            const EXPECTED: &'static str = $expected;

            fn to_data(&self) -> Data {
                Data::$variant(*self)
            }

            fn from_data(data: &Data) -> Result<Self, Mismatch> {
                data.as_i64()
                    .and_then(|number| Self::try_from(number).ok())
                    .ok_or_else(|| Mismatch::new($expected, data))
            }
        }
    )*};
}

whole_number! {
    u8, Unsigned, "unsigned";
    u16, LongUnsigned, "long-unsigned";
    u32, DoubleLongUnsigned, "double-long-unsigned";
    i8, Integer, "integer";
    i16, Long, "long";
}

impl Value for Obis {
    const EXPECTED: &'static str = "octet-string of 6 octets";

    fn to_data(&self) -> Data {
        Data::OctetString(self.bytes().to_vec())
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        fixed(data, Self::EXPECTED).map(Self::new)
    }
}

/// The octets of a string, if there are `N`.
pub(super) fn fixed<const N: usize>(
    data: &Data,
    expected: &'static str,
) -> Result<[u8; N], Mismatch> {
    data.as_bytes()
        .and_then(|octets| octets.try_into().ok())
        .ok_or_else(|| Mismatch::new(expected, data))
}

/// An array, also a compact one: every element of the same type.
impl<T: Value> Value for Vec<T> {
    const EXPECTED: &'static str = "array";

    fn to_data(&self) -> Data {
        Data::Array(self.iter().map(T::to_data).collect())
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        let elements = match data.as_elements() {
            Some(elements) if !matches!(data, Data::Structure(_)) => elements,
            _ => return Err(Mismatch::new(Self::EXPECTED, data)),
        };
        let read = |(position, element)| {
            T::from_data(element).map_err(|mismatch| mismatch.inside(position))
        };
        (1..).zip(elements).map(read).collect()
    }
}

/// A value that may be null-data.
impl<T: Value> Value for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn to_data(&self) -> Data {
        self.as_ref().map_or(Data::Null, T::to_data)
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        match data == &Data::Null {
            true => Ok(None),
            false => T::from_data(data).map(Some),
        }
    }
}

/// Octets; any kind of string is taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Octets(pub Vec<u8>);

impl Value for Octets {
    const EXPECTED: &'static str = "octet-string";

    fn to_data(&self) -> Data {
        Data::OctetString(self.0.clone())
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        strings(data, Self::EXPECTED).map(Self)
    }
}

/// A name for people, as a visible-string; any kind of string is taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Text(pub Vec<u8>);

impl Value for Text {
    const EXPECTED: &'static str = "visible-string";

    fn to_data(&self) -> Data {
        Data::VisibleString(self.0.clone())
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        strings(data, Self::EXPECTED).map(Self)
    }
}

fn strings(data: &Data, expected: &'static str) -> Result<Vec<u8>, Mismatch> {
    data.as_bytes()
        .map(<[u8]>::to_vec)
        .ok_or_else(|| Mismatch::new(expected, data))
}

/// The parameter `integer (0)` that methods take which need none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Zero;

impl Value for Zero {
    const EXPECTED: &'static str = "integer 0";

    fn to_data(&self) -> Data {
        Data::Integer(0)
    }

    /// Strict: a method is not started by anything else.
    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        match data == &Data::Integer(0) {
            true => Ok(Self),
            false => Err(Mismatch::new(Self::EXPECTED, data)),
        }
    }
}

/// An enum whose codes are open: the standard adds to them, manufacturers have their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Code(pub u8);

impl Value for Code {
    const EXPECTED: &'static str = "enum";

    fn to_data(&self) -> Data {
        Data::Enum(self.0)
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        code(data, Self::EXPECTED).map(Self)
    }
}

/// An enum, or another whole number of one octet.
pub(super) fn code(data: &Data, expected: &'static str) -> Result<u8, Mismatch> {
    data.as_u64()
        .and_then(|number| u8::try_from(number).ok())
        .ok_or_else(|| Mismatch::new(expected, data))
}

/// A bit-string.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Bits {
    /// How many bits.
    pub count: usize,
    /// The octets that hold them, `count` / 8 rounded up; the first bit in the most significant place.
    pub octets: Vec<u8>,
}

impl Bits {
    /// The bit at this place, counted from 0.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<bool> {
        let octet = *self.octets.get(place / 8)?;
        (place < self.count).then_some(octet & (0x80 >> (place % 8)) != 0)
    }
}

impl Value for Bits {
    const EXPECTED: &'static str = "bit-string";

    fn to_data(&self) -> Data {
        Data::BitString {
            bits: self.count,
            bytes: self.octets.clone(),
        }
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        if let Data::BitString { bits, bytes } = data {
            return Ok(Self {
                count: *bits,
                octets: bytes.clone(),
            });
        }
        Err(Mismatch::new(Self::EXPECTED, data))
    }
}

/// A system title that may not be set yet: an octet-string of 8 octets, or an empty one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Title(pub Option<SystemTitle>);

impl Value for Title {
    const EXPECTED: &'static str = "octet-string of 8 octets, or an empty one";

    fn to_data(&self) -> Data {
        let octets = self.0.map(|title| title.bytes().to_vec());
        Data::OctetString(octets.unwrap_or_default())
    }

    fn from_data(data: &Data) -> Result<Self, Mismatch> {
        match data.as_bytes() {
            Some([]) => Ok(Self(None)),
            _ => fixed(data, Self::EXPECTED).map(|title| Self(Some(SystemTitle::new(title)))),
        }
    }
}

/// A class: its constants, and its table of names. Attribute 1, the logical name, comes by itself.
macro_rules! class {
    (
        $class_id:literal, $name:literal;
        attributes { $($(#[$attribute_doc:meta])* $index:literal $attribute:ident $attribute_name:literal: $type:ty;)* }
        methods { $($(#[$method_doc:meta])* $number:literal $method:ident $method_name:literal: $parameter:ty $(=> $answer:ty)?;)* }
    ) => {
        /// The class and its members by name.
        pub const CLASS: $crate::cosem::Class = $crate::cosem::Class {
            class_id: $class_id,
            name: $name,
            attributes: &[(1, "logical_name"), $(($index, $attribute_name)),*],
            methods: &[$(($number, $method_name)),*],
        };
        /// Attribute 1: the logical name.
        pub const LOGICAL_NAME: $crate::cosem::Field<$crate::obis::Obis> =
            $crate::cosem::Field::new($class_id, 1, "logical_name");
        $(
            $(#[$attribute_doc])*
            pub const $attribute: $crate::cosem::Field<$type> =
                $crate::cosem::Field::new($class_id, $index, $attribute_name);
        )*
        $(
            $(#[$method_doc])*
            pub const $method: $crate::cosem::Verb<$parameter $(, $answer)?> =
                $crate::cosem::Verb::new($class_id, $number, $method_name);
        )*

        /// Shows every attribute and method of the class to a visitor.
        #[cfg(test)]
        pub(super) fn visit(visitor: &mut impl $crate::cosem::tests::Visitor) {
            visitor.field(&LOGICAL_NAME);
            $(visitor.field(&$attribute);)*
            $(visitor.verb(&$method);)*
        }
    };
}

/// A structure: its elements in the order of the Blue Book.
macro_rules! structure {
    (
        $(#[$doc:meta])*
        pub struct $name:ident as $expected:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $crate::cosem::Value for $name {
            const EXPECTED: &'static str = $expected;

            fn to_data(&self) -> $crate::data::Data {
                $crate::data::Data::Structure(alloc::vec![$(self.$field.to_data()),*])
            }

            fn from_data(data: &$crate::data::Data) -> Result<Self, $crate::cosem::Mismatch> {
                let count = [$(stringify!($field)),*].len();
                let mut elements = $crate::cosem::value::Elements::of(data, count, $expected)?;
                Ok(Self { $($field: elements.next()?),* })
            }
        }

        #[cfg(test)]
        impl $crate::cosem::tests::Sample for $name {
            fn sample(seed: &mut $crate::cosem::tests::Seed) -> Self {
                Self { $($field: seed.next()),* }
            }
        }
    };
}

/// An enum with a closed set of codes. `strict` takes an enum only, `lenient` any whole number.
macro_rules! codes {
    (
        $(#[$doc:meta])*
        pub enum $name:ident as $expected:literal, $manner:ident { $($(#[$item_doc:meta])* $item:ident = $code:literal, $text:literal;)* }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$item_doc])* $item,)*
        }

        impl $name {
            /// All of them, by rising code.
            pub const ALL: &'static [Self] = &[$(Self::$item),*];

            /// From the code on the wire.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$item),)*
                    _ => None,
                }
            }

            /// The code on the wire.
            #[must_use]
            pub const fn code(self) -> u8 {
                match self {
                    $(Self::$item => $code,)*
                }
            }

            /// The name the Blue Book gives it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$item => $text,)*
                }
            }
        }

        impl $crate::cosem::Value for $name {
            const EXPECTED: &'static str = $expected;

            fn to_data(&self) -> $crate::data::Data {
                $crate::data::Data::Enum(self.code())
            }

            fn from_data(data: &$crate::data::Data) -> Result<Self, $crate::cosem::Mismatch> {
                let code = $crate::cosem::value::$manner(data, $expected)?;
                Self::from_code(code).ok_or_else(|| $crate::cosem::Mismatch::new($expected, data))
            }
        }

        #[cfg(test)]
        impl $crate::cosem::tests::Sample for $name {
            fn sample(seed: &mut $crate::cosem::tests::Seed) -> Self {
                *seed.of(Self::ALL)
            }
        }
    };
}

/// An enum, and nothing else that looks like a number.
pub(super) fn strict(data: &Data, expected: &'static str) -> Result<u8, Mismatch> {
    if let Data::Enum(code) = data {
        return Ok(*code);
    }
    Err(Mismatch::new(expected, data))
}

pub(super) use code as lenient;
