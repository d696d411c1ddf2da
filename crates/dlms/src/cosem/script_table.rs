//! Class 9, Script table: actions that are executed together, by a number.

use alloc::vec::Vec;

use crate::data::Data;
use crate::obis::Obis;

class! {
    9, "Script table";
    attributes {
        /// The scripts.
        2 SCRIPTS "scripts": Vec<Script>;
    }
    methods {
        /// Executes the script with this identifier.
        1 EXECUTE "execute": u16;
    }
}

structure! {
    /// A script.
    pub struct Script as "structure of script_identifier and actions" {
        /// Its number, 1 to 65535.
        identifier: u16,
        /// What it does, in this order.
        actions: Vec<Action>,
    }
}

structure! {
    /// One action of a script.
    pub struct Action as "structure of service_id, class_id, logical_name, index and parameter" {
        /// Whether it writes or invokes.
        service: Service,
        /// The class of the object it acts on.
        class_id: u16,
        /// The object it acts on.
        name: Obis,
        /// The attribute it writes (0: all of them), or the method it invokes.
        index: i8,
        /// The value it writes, or the parameter of the method.
        parameter: Data,
    }
}

structure! {
    /// A script of some table: what a schedule, a calendar or a limiter executes.
    pub struct Reference as "structure of script_logical_name and script_selector" {
        /// The table; 0.0.0.0.0.0 or a selector of 0 is none.
        table: Obis,
        /// The number of the script.
        selector: u16,
    }
}

impl Reference {
    /// No script.
    pub const NONE: Self = Self {
        table: Obis::new([0; 6]),
        selector: 0,
    };
}

codes! {
    /// What an action does.
    pub enum Service as "enum 1..2", lenient {
        /// Writes an attribute.
        Write = 1, "write attribute";
        /// Invokes a method.
        Execute = 2, "execute method";
    }
}
