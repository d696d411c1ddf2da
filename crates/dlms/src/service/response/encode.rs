//! Responses into octets.

use alloc::vec::Vec;

use super::{ActionOutcome, Response};
use crate::axdr::put_prefixed;
use crate::data::Data;
use crate::service::access::put_accessed;
use crate::service::part::{put_block, put_list, put_result, put_time};
use crate::status::{ActionResult, DataAccessResult};

/// Room for a response about one object.
const USUAL: usize = 48;

impl Response {
    /// The octets of the APDU.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(USUAL);
        self.encode_into(&mut out);
        out
    }

    /// Appends the octets of the APDU.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        if let (Some([tag, kind]), Some(invoke)) = (self.head(), self.invoke()) {
            out.extend_from_slice(&[tag, kind, invoke.octet()]);
        }
        match self {
            Self::GetData { data, .. } => {
                out.push(0);
                data.encode_into(out);
            }
            Self::GetError { result, .. } => out.extend_from_slice(&[1, result.code()]),
            Self::GetBlock {
                last,
                block,
                payload,
                ..
            } => put_get_block(out, *last, *block, payload.as_deref()),
            Self::GetList { results, .. } => put_list(out, results, put_result),
            Self::Set { result, .. } => out.push(result.code()),
            Self::SetBlockAck { block, .. } | Self::ActionNextBlock { block, .. } => {
                out.extend_from_slice(&block.to_be_bytes());
            }
            Self::SetLastBlock { result, block, .. } => {
                out.push(result.code());
                out.extend_from_slice(&block.to_be_bytes());
            }
            Self::SetLastBlockList { results, block, .. } => {
                put_list(out, results, |out, result| out.push(result.code()));
                out.extend_from_slice(&block.to_be_bytes());
            }
            Self::SetList { results, .. } => {
                put_list(out, results, |out, result| out.push(result.code()));
            }
            Self::Action { result, data, .. } => put_outcome(out, *result, data.as_ref()),
            Self::ActionBlock {
                last,
                block,
                octets,
                ..
            } => put_block(out, *last, *block, octets),
            Self::ActionList { outcomes, .. } => {
                put_list(out, outcomes, |out, (result, data): &ActionOutcome| {
                    put_outcome(out, *result, data.as_ref());
                });
            }
            Self::Access {
                invoke,
                time,
                specifications,
                results,
            } => {
                out.push(0xDA);
                out.extend_from_slice(&invoke.bits().to_be_bytes());
                put_time(out, time.as_ref());
                put_accessed(out, specifications.as_deref(), results);
            }
            Self::Exception(exception) => exception.encode_into(out),
            Self::ConfirmedServiceError(error) => error.encode_into(out),
        }
    }

    /// Tag and type of those that have an invoke id of one octet.
    const fn head(&self) -> Option<[u8; 2]> {
        Some(match self {
            Self::GetData { .. } | Self::GetError { .. } => [0xC4, 1],
            Self::GetBlock { .. } => [0xC4, 2],
            Self::GetList { .. } => [0xC4, 3],
            Self::Set { .. } => [0xC5, 1],
            Self::SetBlockAck { .. } => [0xC5, 2],
            Self::SetLastBlock { .. } => [0xC5, 3],
            Self::SetLastBlockList { .. } => [0xC5, 4],
            Self::SetList { .. } => [0xC5, 5],
            Self::Action { .. } => [0xC7, 1],
            Self::ActionBlock { .. } => [0xC7, 2],
            Self::ActionList { .. } => [0xC7, 3],
            Self::ActionNextBlock { .. } => [0xC7, 4],
            Self::Access { .. } | Self::Exception(_) | Self::ConfirmedServiceError(_) => {
                return None;
            }
        })
    }
}

fn put_get_block(
    out: &mut Vec<u8>,
    last: bool,
    block: u32,
    payload: Result<&[u8], &DataAccessResult>,
) {
    out.push(u8::from(last));
    out.extend_from_slice(&block.to_be_bytes());
    match payload {
        Ok(octets) => {
            out.push(0);
            put_prefixed(out, octets);
        }
        Err(result) => out.extend_from_slice(&[1, result.code()]),
    }
}

/// Action-Response-With-Optional-Data.
fn put_outcome(
    out: &mut Vec<u8>,
    result: ActionResult,
    data: Option<&Result<Data, DataAccessResult>>,
) {
    out.extend_from_slice(&[result.code(), u8::from(data.is_some())]);
    if let Some(data) = data {
        put_result(out, data);
    }
}
