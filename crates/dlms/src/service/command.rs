//! What a client may ask.

use alloc::vec::Vec;

use super::{Access, Attribute, InvokeId, LongInvokeId, Method, Request};
use crate::data::Data;
use crate::selection::Selection;

/// What a client may ask: a [`Request`] that has no invoke id yet, and is not taken apart into blocks.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Read an attribute.
    Get {
        /// Which.
        attribute: Attribute,
        /// Which part of it.
        selection: Option<Selection>,
    },
    /// Write an attribute.
    Set {
        /// Which.
        attribute: Attribute,
        /// Which part of it.
        selection: Option<Selection>,
        /// What to write.
        value: Data,
    },
    /// Execute a method.
    Action {
        /// Which.
        method: Method,
        /// Its parameter.
        parameter: Option<Data>,
    },
    /// Read several attributes.
    GetList(Vec<(Attribute, Option<Selection>)>),
    /// Write several attributes.
    SetList(Vec<(Attribute, Option<Selection>, Data)>),
    /// Execute several methods; null-data and no parameter are one on the wire.
    ActionList(Vec<(Method, Option<Data>)>),
    /// Read, write and execute in this order; what follows the first access that fails is not done.
    Access(Vec<Access>),
}

impl Command {
    /// The request with this invoke id.
    #[must_use]
    pub fn with(self, invoke: InvokeId) -> Request {
        match self {
            Self::Get {
                attribute,
                selection,
            } => Request::Get {
                invoke,
                attribute,
                selection,
            },
            Self::Set {
                attribute,
                selection,
                value,
            } => Request::Set {
                invoke,
                attribute,
                selection,
                value,
            },
            Self::Action { method, parameter } => Request::Action {
                invoke,
                method,
                parameter,
            },
            Self::GetList(attributes) => Request::GetList { invoke, attributes },
            Self::SetList(values) => Request::SetList { invoke, values },
            Self::ActionList(methods) => Request::ActionList { invoke, methods },
            Self::Access(accesses) => Request::Access {
                invoke: LongInvokeId::from(invoke).breaking_on_error(),
                time: None,
                accesses,
            },
        }
    }
}
