//! compact-array: the type of the elements once, then their contents without tags.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::decode::{Budget, below, leaf, make_room};
use super::{Data, MAX_DEPTH};
use crate::axdr::{Reader, put_length, put_prefixed};
use crate::error::Error;

/// The type of each element of a compact array (TypeDescription of IEC 62056-5-3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeDescription {
    /// 01: an array of `count` elements.
    Array {
        /// How many.
        count: u16,
        /// Of which type.
        of: Box<Self>,
    },
    /// 02: a structure of elements of these types.
    Structure(Vec<Self>),
    /// A type without elements.
    Simple(SimpleType),
}

/// A type of [`Data`] that has no elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SimpleType(u8);

impl SimpleType {
    /// From the tag of the type; nothing for array, structure, compact-array and tags that are none.
    #[must_use]
    pub const fn new(tag: u8) -> Option<Self> {
        match tag {
            0 | 3..=6 | 9 | 10 | 12 | 13 | 15..=18 | 20..=27 | 255 => Some(Self(tag)),
            _ => None,
        }
    }

    /// The tag of the type.
    #[must_use]
    pub const fn tag(self) -> u8 {
        self.0
    }
}

impl TypeDescription {
    fn read(reader: &mut Reader<'_>, depth: usize) -> Result<Self, Error> {
        let offset = reader.offset();
        match reader.u8()? {
            1 => Ok(Self::Array {
                count: reader.u16()?,
                of: Box::new(Self::read(reader, below(depth, offset)?)?),
            }),
            2 => {
                let depth = below(depth, offset)?;
                let count = reader.length()?;
                (0..count)
                    .map(|_| Self::read(reader, depth))
                    .collect::<Result<_, _>>()
                    .map(Self::Structure)
            }
            found => SimpleType::new(found)
                .map(Self::Simple)
                .ok_or(Error::Unexpected {
                    offset,
                    expected: "the tag of a type description (0..6, 9, 10, 12, 13, 15..18, 20..27, 255)",
                    found,
                }),
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Array { count, of } => {
                out.push(1);
                out.extend_from_slice(&count.to_be_bytes());
                of.put(out);
            }
            Self::Structure(types) => {
                out.push(2);
                put_length(out, types.len());
                types.iter().for_each(|one| one.put(out));
            }
            Self::Simple(simple) => out.push(simple.tag()),
        }
    }

    /// Whether a value is of this type, all levels of it.
    fn fits(&self, value: &Data) -> bool {
        match (self, value) {
            (Self::Array { count, of }, Data::Array(elements)) => {
                elements.len() == usize::from(*count) && elements.iter().all(|one| of.fits(one))
            }
            (Self::Structure(types), Data::Structure(elements)) => {
                types.len() == elements.len()
                    && types.iter().zip(elements).all(|(of, one)| of.fits(one))
            }
            (Self::Simple(simple), value) => simple.tag() == value.tag(),
            (Self::Array { .. } | Self::Structure(_), _) => false,
        }
    }

    /// One element, without tags.
    fn element(&self, budget: &mut Budget, reader: &mut Reader<'_>) -> Result<Data, Error> {
        budget.spend(reader.offset())?;
        match self {
            Self::Array { count, of } => {
                let mut elements = Vec::new();
                for read in 0..*count {
                    let most = usize::from(count.saturating_sub(read));
                    make_room(&mut elements, most.min(budget.elements));
                    elements.push(of.element(budget, reader)?);
                }
                Ok(Data::Array(elements))
            }
            Self::Structure(types) => {
                let mut elements = Vec::with_capacity(types.len());
                for of in types {
                    elements.push(of.element(budget, reader)?);
                }
                Ok(Data::Structure(elements))
            }
            Self::Simple(simple) => leaf(reader, simple.tag(), reader.offset()),
        }
    }
}

/// A compact-array, tag 19. Its elements are as those of an array: arrays and structures in them too.
#[derive(Debug, Clone, PartialEq)]
pub struct CompactArray {
    of: TypeDescription,
    elements: Vec<Data>,
}

impl CompactArray {
    /// Of these elements; nothing if one is of another type, takes no octets, or if the octets cannot be told apart
    /// (more than two elements of all levels for each).
    #[must_use]
    pub fn new(of: TypeDescription, elements: Vec<Data>) -> Option<Self> {
        let array = Self { of, elements };
        let mut octets = Vec::new();
        array.put_value(&mut octets);
        let same = array.elements.iter().all(|element| array.of.fits(element))
            && Self::read(&mut Budget::default(), &mut Reader::new(&octets), MAX_DEPTH)
                .is_ok_and(|read| read.elements.len() == array.elements.len());
        same.then_some(array)
    }

    /// The type of each element.
    #[must_use]
    pub const fn of(&self) -> &TypeDescription {
        &self.of
    }

    /// The elements.
    #[must_use]
    pub fn elements(&self) -> &[Data] {
        &self.elements
    }

    /// The array it stands for.
    #[must_use]
    pub fn into_array(self) -> Data {
        Data::Array(self.elements)
    }

    /// What follows the tag.
    pub(super) fn read(
        budget: &mut Budget,
        reader: &mut Reader<'_>,
        depth: usize,
    ) -> Result<Self, Error> {
        let of = TypeDescription::read(reader, depth)?;
        let mut contents = reader.nested()?;
        let (begin, length) = (contents.offset(), contents.left());
        let mut spending = budget.of_contents(length);
        let before = spending.elements;
        let mut elements = Vec::new();
        while contents.left() > 0 {
            let (offset, left) = (contents.offset(), contents.left());
            make_room(&mut elements, left);
            elements.push(of.element(&mut spending, &mut contents)?);
            // It would never end.
            if contents.left() == left {
                return Err(Error::Bounds {
                    offset,
                    expected: "elements of a compact array that take octets",
                    found: 0,
                });
            }
        }
        let spent = before.saturating_sub(spending.elements);
        budget.elements = budget.elements.saturating_sub(spent);
        let array = Self { of, elements };
        // A length may have been written in five octets where one would do: what was decoded must encode to what decodes.
        if spent.saturating_mul(5) > length.saturating_mul(2) {
            Budget::default()
                .of_contents(array.contents().len())
                .spend_all(begin, spent)?;
        }
        Ok(array)
    }

    /// What follows the tag.
    pub(super) fn put_value(&self, out: &mut Vec<u8>) {
        self.of.put(out);
        put_prefixed(out, &self.contents());
    }

    /// The elements, without tags.
    fn contents(&self) -> Vec<u8> {
        let mut contents = Vec::new();
        for element in &self.elements {
            put_untagged(element, &mut contents);
        }
        contents
    }
}

/// How many elements an array or a structure has is known from the description.
fn put_untagged(value: &Data, out: &mut Vec<u8>) {
    if let Data::Array(elements) | Data::Structure(elements) = value {
        for element in elements {
            put_untagged(element, out);
        }
    } else {
        value.put_value(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const fn simple(tag: u8) -> TypeDescription {
        TypeDescription::Simple(SimpleType(tag))
    }

    #[test]
    fn a_description_and_contents_both_ways() {
        // structure of long-unsigned, array of two unsigned, octet-string; two elements
        let octets: &[u8] = &[
            19, 2, 3, 18, 1, 0, 2, 17, 9, 11, 0, 1, 2, 3, 1, 0xAA, 0, 4, 5, 6, 0,
        ];
        let value = Data::decode(octets).unwrap();
        let element = |number, parts: [u8; 2], octets: &[u8]| {
            Data::Structure(vec![
                Data::LongUnsigned(number),
                Data::Array(parts.into_iter().map(Data::Unsigned).collect()),
                Data::OctetString(octets.to_vec()),
            ])
        };
        let elements = [element(1, [2, 3], &[0xAA]), element(4, [5, 6], &[])];
        assert_eq!(value.as_elements(), Some(&elements[..]));
        assert_eq!(value.encode(), octets);
    }

    #[test]
    fn what_takes_no_octets_is_refused() {
        for octets in [
            &[19, 0, 1, 0][..],
            &[19, 2, 0, 1, 0],
            &[19, 1, 0, 0, 17, 1, 0],
        ] {
            let error = Data::decode(octets);
            assert!(matches!(error, Err(Error::Bounds { .. })), "{error:?}");
        }
        // no contents, no elements
        assert!(Data::decode(&[19, 0, 0]).is_ok());
        assert!(CompactArray::new(simple(0), vec![Data::Null]).is_none());
        assert!(CompactArray::new(simple(17), vec![Data::Enum(1)]).is_none());
    }

    #[test]
    fn a_few_octets_do_not_become_many_elements() {
        // structure of an unsigned and an array of 65535 nulls: one octet of contents would make 65538 elements
        let octets = [19, 2, 2, 17, 1, 0xFF, 0xFF, 0, 1, 7];
        assert!(matches!(
            Data::decode(&octets),
            Err(Error::Bounds { offset: 10, .. })
        ));
        assert!(matches!(
            Data::decode(&[19, 19, 0]),
            Err(Error::Unexpected { offset: 1, .. })
        ));
    }
}
