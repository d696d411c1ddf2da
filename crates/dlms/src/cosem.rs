//! COSEM interface classes (Blue Book; IEC 62056-6-2) as types: what a head-end needs to read of a meter and a meter
//! to answer, and no more.
//!
//! Each class is a module of constants. A [`Field`] is an attribute and the type of its value, a [`Verb`] a method and
//! the types of its parameter and its answer. The same constant serves both ends:
//!
//! ```
//! use dlms::Data;
//! use dlms::cosem::{disconnect_control::{CONTROL_STATE, ControlState}, name};
//!
//! // the client: what to ask, and what the answer means
//! let asked = CONTROL_STATE.of(name::DISCONNECT_CONTROL);
//! assert_eq!((asked.class_id, asked.index), (70, 3));
//! assert_eq!(CONTROL_STATE.read(&Data::Enum(1))?, ControlState::Connected);
//! // the server: what to answer
//! assert_eq!(CONTROL_STATE.data(&ControlState::Connected), Data::Enum(1));
//! // what does not belong there is named
//! let wrong = CONTROL_STATE.read(&Data::Enum(5)).unwrap_err();
//! assert_eq!(
//!     wrong.to_string(),
//!     "class 70 attribute 3 (control_state): expected enum 0..2, found enum 5"
//! );
//! # Ok::<(), dlms::cosem::Wrong>(())
//! ```
//!
//! Meters differ in the width of their integers, in optional elements and in versions: reading takes every integer
//! that fits, and both forms where the Blue Book has two. It is strict where a wrong guess could hurt: the state of a
//! relay and the status of a firmware update are taken in their own type or not at all.

#[macro_use]
mod value;

pub mod activity_calendar;
pub mod association;
pub mod clock;
pub mod data;
mod date_time;
pub mod disconnect_control;
pub mod image_transfer;
pub mod limiter;
pub mod name;
pub mod profile;
pub mod push_setup;
pub mod register;
pub mod schedule;
pub mod script_table;
pub mod security_setup;

use core::fmt;
use core::marker::PhantomData;

pub use date_time::{Date, DateTime, Day, Month, Time};
pub use value::{Bits, Code, Mismatch, Octets, Text, Title, Value, Zero};

use crate::data::Data;
use crate::obis::Obis;
use crate::service::{Attribute, Method};

/// An attribute of a class, and the type of its value.
pub struct Field<T> {
    /// Interface class.
    pub class_id: u16,
    /// Attribute index, from 1.
    pub index: i8,
    /// The name the Blue Book gives it.
    pub name: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T: Value> Field<T> {
    const fn new(class_id: u16, index: i8, name: &'static str) -> Self {
        Self {
            class_id,
            index,
            name,
            value: PhantomData,
        }
    }

    /// The attribute of the object with this name: what a GET or SET asks for.
    #[must_use]
    pub const fn of(&self, name: Obis) -> Attribute {
        Attribute {
            class_id: self.class_id,
            name,
            index: self.index,
        }
    }

    /// The value in its COSEM type.
    #[must_use]
    pub fn data(&self, value: &T) -> Data {
        value.to_data()
    }

    /// What an answer to a GET, or the value of a SET, means.
    ///
    /// # Errors
    /// What stands where something else is expected.
    pub fn read(&self, data: &Data) -> Result<T, Wrong> {
        T::from_data(data).map_err(|mismatch| Wrong {
            class_id: self.class_id,
            member: Member::Attribute(self.index),
            name: self.name,
            mismatch,
        })
    }
}

/// A method of a class, and the types of its parameter and its answer; `()` is none.
pub struct Verb<P, R = ()> {
    /// Interface class.
    pub class_id: u16,
    /// Method index, from 1.
    pub index: i8,
    /// The name the Blue Book gives it.
    pub name: &'static str,
    value: PhantomData<fn(P) -> R>,
}

impl<P: Value, R> Verb<P, R> {
    const fn new(class_id: u16, index: i8, name: &'static str) -> Self {
        Self {
            class_id,
            index,
            name,
            value: PhantomData,
        }
    }

    /// The method of the object with this name: what an ACTION invokes.
    #[must_use]
    pub const fn of(&self, name: Obis) -> Method {
        Method {
            class_id: self.class_id,
            name,
            index: self.index,
        }
    }

    /// The parameter in its COSEM type.
    #[must_use]
    pub fn data(&self, parameter: &P) -> Data {
        parameter.to_data()
    }

    /// What the parameter of an ACTION means.
    ///
    /// # Errors
    /// What stands where something else is expected, also no parameter.
    pub fn read(&self, parameter: Option<&Data>) -> Result<P, Wrong> {
        parameter
            .ok_or_else(|| Mismatch::of(P::EXPECTED, "none"))
            .and_then(P::from_data)
            .map_err(|mismatch| self.wrong(mismatch))
    }

    const fn wrong(&self, mismatch: Mismatch) -> Wrong {
        Wrong {
            class_id: self.class_id,
            member: Member::Method(self.index),
            name: self.name,
            mismatch,
        }
    }
}

impl<P: Value, R: Value> Verb<P, R> {
    /// What the data of an answer means.
    ///
    /// # Errors
    /// What stands where something else is expected.
    pub fn answer(&self, data: &Data) -> Result<R, Wrong> {
        R::from_data(data).map_err(|mismatch| self.wrong(mismatch))
    }
}

/// An attribute or a method, by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// An attribute.
    Attribute(i8),
    /// A method.
    Method(i8),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attribute(index) => write!(f, "attribute {index}"),
            Self::Method(index) => write!(f, "method {index}"),
        }
    }
}

/// A value that is not what its class says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("class {class_id} {member} ({name}){mismatch}")]
pub struct Wrong {
    /// Interface class.
    pub class_id: u16,
    /// The attribute or method.
    pub member: Member,
    /// Its name.
    pub name: &'static str,
    /// Where in the value, what was expected, what was found.
    pub mismatch: Mismatch,
}

/// A class by name: its attributes and methods, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// Interface class.
    pub class_id: u16,
    /// Its name in the Blue Book.
    pub name: &'static str,
    /// Index and name of each attribute of its latest version known here.
    pub attributes: &'static [(i8, &'static str)],
    /// Index and name of each method of its latest version known here.
    pub methods: &'static [(i8, &'static str)],
}

impl Class {
    /// The classes of this module.
    pub const ALL: &'static [Self] = &[
        data::CLASS,
        register::CLASS,
        profile::CLASS,
        clock::CLASS,
        script_table::CLASS,
        association::CLASS,
        image_transfer::CLASS,
        activity_calendar::CLASS,
        schedule::CLASS,
        push_setup::CLASS,
        security_setup::CLASS,
        disconnect_control::CLASS,
        limiter::CLASS,
    ];

    /// The class with this id, if it is one of [`Class::ALL`].
    #[must_use]
    pub fn find(class_id: u16) -> Option<&'static Self> {
        Self::ALL.iter().find(|class| class.class_id == class_id)
    }

    /// The name of an attribute.
    #[must_use]
    pub fn attribute(&self, index: i8) -> Option<&'static str> {
        name_of(self.attributes, index)
    }

    /// The name of a method.
    #[must_use]
    pub fn method(&self, index: i8) -> Option<&'static str> {
        name_of(self.methods, index)
    }
}

fn name_of(members: &[(i8, &'static str)], index: i8) -> Option<&'static str> {
    let found = members.iter().find(|(known, _)| *known == index);
    found.map(|(_, name)| *name)
}

#[cfg(test)]
mod tests;
