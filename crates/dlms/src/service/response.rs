//! Responses.

mod decode;
mod encode;

use alloc::vec::Vec;

use super::{AccessSpecification, Accessed, Exception, InvokeId, LongInvokeId};
use crate::data::Data;
use crate::initiate::ConfirmedServiceError;
use crate::status::{ActionResult, DataAccessResult};

/// What became of one method: the result, and what the method returned, or why that cannot be had.
pub type ActionOutcome = (ActionResult, Option<Result<Data, DataAccessResult>>);

/// A plaintext response (IEC 62056-5-3).
///
/// Blocks carry parts of the A-XDR encoding of what a response without blocks has at its end: the value of a GET, the
/// list of results of a GET with list, the outcome of an ACTION, the list of outcomes.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// C4 01 .. 00: the value of an attribute.
    GetData {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// The value.
        data: Data,
    },
    /// C4 01 .. 01: the attribute was not read.
    GetError {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// Why not.
        result: DataAccessResult,
    },
    /// C4 02: a block of a value, or of a list of results.
    GetBlock {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// Whether it is the last.
        last: bool,
        /// Its number, from 1.
        block: u32,
        /// Its part of what is encoded, or why there is none.
        payload: Result<Vec<u8>, DataAccessResult>,
    },
    /// C4 03: the values of several attributes, or why they were not read.
    GetList {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// In the order of the request.
        results: Vec<Result<Data, DataAccessResult>>,
    },
    /// C5 01: what became of a SET.
    Set {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// The outcome.
        result: DataAccessResult,
    },
    /// C5 02: a block of a SET has come; the next may.
    SetBlockAck {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// The number of the block.
        block: u32,
    },
    /// C5 03: the last block of a SET has come; what became of it.
    SetLastBlock {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// The outcome.
        result: DataAccessResult,
        /// The number of the block.
        block: u32,
    },
    /// C5 04: the last block of a SET of several attributes has come; what became of them.
    SetLastBlockList {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// In the order of the request.
        results: Vec<DataAccessResult>,
        /// The number of the block.
        block: u32,
    },
    /// C5 05: what became of a SET of several attributes.
    SetList {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// In the order of the request.
        results: Vec<DataAccessResult>,
    },
    /// C7 01: what became of an ACTION.
    Action {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// The outcome.
        result: ActionResult,
        /// What the method returned, or why that cannot be had.
        data: Option<Result<Data, DataAccessResult>>,
    },
    /// C7 02: a block of the outcome of an ACTION.
    ActionBlock {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// Whether it is the last.
        last: bool,
        /// Its number, from 1.
        block: u32,
        /// Its part of what is encoded.
        octets: Vec<u8>,
    },
    /// C7 03: what became of several methods.
    ActionList {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// In the order of the request.
        outcomes: Vec<ActionOutcome>,
    },
    /// C7 04: a block of an ACTION has come; the next may.
    ActionNextBlock {
        /// Id and priority of the request.
        invoke: InvokeId,
        /// The number of the block.
        block: u32,
    },
    /// DA: what became of an ACCESS.
    Access {
        /// Id, flags and priority of the request.
        invoke: LongInvokeId,
        /// When, by the meter's clock: a COSEM date-time.
        time: Option<[u8; 12]>,
        /// What was asked, if the request wanted it repeated.
        specifications: Option<Vec<AccessSpecification>>,
        /// In the order of the request; shorter where the server stopped at the first that failed.
        results: Vec<Accessed>,
    },
    /// D8: the request was not served. Never ciphered: a hint, not a fact.
    Exception(Exception),
    /// 0E: the request was not served; mostly in place of an InitiateResponse.
    ConfirmedServiceError(ConfirmedServiceError),
}

impl Response {
    /// The same response to the request with this id and priority.
    ///
    /// An exception and a confirmed-service-error have none; an ACCESS keeps its own, which is longer.
    #[must_use]
    pub fn with(mut self, id: InvokeId) -> Self {
        match &mut self {
            Self::GetData { invoke, .. }
            | Self::GetError { invoke, .. }
            | Self::GetBlock { invoke, .. }
            | Self::GetList { invoke, .. }
            | Self::Set { invoke, .. }
            | Self::SetBlockAck { invoke, .. }
            | Self::SetLastBlock { invoke, .. }
            | Self::SetLastBlockList { invoke, .. }
            | Self::SetList { invoke, .. }
            | Self::Action { invoke, .. }
            | Self::ActionBlock { invoke, .. }
            | Self::ActionList { invoke, .. }
            | Self::ActionNextBlock { invoke, .. } => *invoke = id,
            Self::Access { .. } | Self::Exception(_) | Self::ConfirmedServiceError(_) => {}
        }
        self
    }

    /// Id and priority of the request it answers, of an ACCESS the short form of them; an exception and a
    /// confirmed-service-error have none.
    #[must_use]
    pub const fn invoke(&self) -> Option<InvokeId> {
        match self {
            Self::GetData { invoke, .. }
            | Self::GetError { invoke, .. }
            | Self::GetBlock { invoke, .. }
            | Self::GetList { invoke, .. }
            | Self::Set { invoke, .. }
            | Self::SetBlockAck { invoke, .. }
            | Self::SetLastBlock { invoke, .. }
            | Self::SetLastBlockList { invoke, .. }
            | Self::SetList { invoke, .. }
            | Self::Action { invoke, .. }
            | Self::ActionBlock { invoke, .. }
            | Self::ActionList { invoke, .. }
            | Self::ActionNextBlock { invoke, .. } => Some(*invoke),
            Self::Access { invoke, .. } => Some(invoke.short()),
            Self::Exception(_) | Self::ConfirmedServiceError(_) => None,
        }
    }
}
