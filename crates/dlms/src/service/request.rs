//! Requests.

mod decode;
mod encode;

use alloc::vec::Vec;

use super::{Access, Attribute, InvokeId, LongInvokeId, Method};
use crate::data::Data;
use crate::selection::Selection;

/// A plaintext request (IEC 62056-5-3).
///
/// Blocks carry parts of the A-XDR encoding of what a request without blocks has at its end: the value of a SET, the
/// list of values, the parameter of an ACTION, the list of parameters.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// C0 01: read an attribute.
    Get {
        /// Id and priority.
        invoke: InvokeId,
        /// Which.
        attribute: Attribute,
        /// Which part of it.
        selection: Option<Selection>,
    },
    /// C0 02: the block after this one.
    GetNext {
        /// Id and priority of the GET it continues.
        invoke: InvokeId,
        /// The number of the block received last.
        block: u32,
    },
    /// C0 03: read several attributes.
    GetList {
        /// Id and priority.
        invoke: InvokeId,
        /// Which, and which parts of them.
        attributes: Vec<(Attribute, Option<Selection>)>,
    },
    /// C1 01: write an attribute.
    Set {
        /// Id and priority.
        invoke: InvokeId,
        /// Which.
        attribute: Attribute,
        /// Which part of it.
        selection: Option<Selection>,
        /// What to write.
        value: Data,
    },
    /// C1 02: write an attribute, with the first block of the value.
    SetFirstBlock {
        /// Id and priority.
        invoke: InvokeId,
        /// Which.
        attribute: Attribute,
        /// Which part of it.
        selection: Option<Selection>,
        /// Whether it is the only block.
        last: bool,
        /// Its number, 1.
        block: u32,
        /// Its part of the encoded value.
        octets: Vec<u8>,
    },
    /// C1 03: the next block of a SET.
    SetBlock {
        /// Id and priority of the SET it continues.
        invoke: InvokeId,
        /// Whether it is the last.
        last: bool,
        /// Its number.
        block: u32,
        /// Its part of what is encoded.
        octets: Vec<u8>,
    },
    /// C1 04: write several attributes.
    SetList {
        /// Id and priority.
        invoke: InvokeId,
        /// Which, which parts of them, and what to write.
        values: Vec<(Attribute, Option<Selection>, Data)>,
    },
    /// C1 05: write several attributes, with the first block of the list of values.
    SetListFirstBlock {
        /// Id and priority.
        invoke: InvokeId,
        /// Which, and which parts of them.
        attributes: Vec<(Attribute, Option<Selection>)>,
        /// Whether it is the only block.
        last: bool,
        /// Its number, 1.
        block: u32,
        /// Its part of the encoded list.
        octets: Vec<u8>,
    },
    /// C3 01: execute a method.
    Action {
        /// Id and priority.
        invoke: InvokeId,
        /// Which.
        method: Method,
        /// Its parameter.
        parameter: Option<Data>,
    },
    /// C3 02: the block of the answer after this one.
    ActionNext {
        /// Id and priority of the ACTION it continues.
        invoke: InvokeId,
        /// The number of the block received last.
        block: u32,
    },
    /// C3 03: execute several methods.
    ActionList {
        /// Id and priority.
        invoke: InvokeId,
        /// Which, and their parameters; null-data and none are one on the wire.
        methods: Vec<(Method, Option<Data>)>,
    },
    /// C3 04: execute a method, with the first block of its parameter.
    ActionFirstBlock {
        /// Id and priority.
        invoke: InvokeId,
        /// Which.
        method: Method,
        /// Whether it is the only block.
        last: bool,
        /// Its number, 1.
        block: u32,
        /// Its part of the encoded parameter.
        octets: Vec<u8>,
    },
    /// C3 05: execute several methods, with the first block of the list of parameters.
    ActionListFirstBlock {
        /// Id and priority.
        invoke: InvokeId,
        /// Which.
        methods: Vec<Method>,
        /// Whether it is the only block.
        last: bool,
        /// Its number, 1.
        block: u32,
        /// Its part of the encoded list.
        octets: Vec<u8>,
    },
    /// C3 06: the next block of an ACTION.
    ActionBlock {
        /// Id and priority of the ACTION it continues.
        invoke: InvokeId,
        /// Whether it is the last.
        last: bool,
        /// Its number.
        block: u32,
        /// Its part of what is encoded.
        octets: Vec<u8>,
    },
    /// D9: read, write and execute, several objects.
    Access {
        /// Id, flags and priority.
        invoke: LongInvokeId,
        /// When, by the client's clock: a COSEM date-time.
        time: Option<[u8; 12]>,
        /// What, in this order.
        accesses: Vec<Access>,
    },
}

impl Request {
    /// Its id and priority; of an ACCESS the short form of them.
    #[must_use]
    pub const fn invoke(&self) -> InvokeId {
        match self {
            Self::Get { invoke, .. }
            | Self::GetNext { invoke, .. }
            | Self::GetList { invoke, .. }
            | Self::Set { invoke, .. }
            | Self::SetFirstBlock { invoke, .. }
            | Self::SetBlock { invoke, .. }
            | Self::SetList { invoke, .. }
            | Self::SetListFirstBlock { invoke, .. }
            | Self::Action { invoke, .. }
            | Self::ActionNext { invoke, .. }
            | Self::ActionList { invoke, .. }
            | Self::ActionFirstBlock { invoke, .. }
            | Self::ActionListFirstBlock { invoke, .. }
            | Self::ActionBlock { invoke, .. } => *invoke,
            Self::Access { invoke, .. } => invoke.short(),
        }
    }

    /// Whether it carries, or asks for, a block of a service that was begun by another request.
    #[must_use]
    pub const fn continues(&self) -> bool {
        matches!(
            self,
            Self::GetNext { .. }
                | Self::SetBlock { .. }
                | Self::ActionNext { .. }
                | Self::ActionBlock { .. }
        )
    }
}
