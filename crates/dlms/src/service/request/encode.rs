//! Requests into octets.

use alloc::vec::Vec;

use super::Request;
use crate::service::access::put_accesses;
use crate::service::part::{
    put_block, put_list, put_method, put_parameter, put_selected, put_time,
};

/// Room for a request about one object.
const USUAL: usize = 48;

impl Request {
    /// The octets of the APDU.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(USUAL);
        self.encode_into(&mut out);
        out
    }

    /// Appends the octets of the APDU.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        if let Self::Access { invoke, time, .. } = self {
            out.push(0xD9);
            out.extend_from_slice(&invoke.bits().to_be_bytes());
            put_time(out, time.as_ref());
        } else {
            let [tag, kind] = self.head();
            out.extend_from_slice(&[tag, kind, self.invoke().octet()]);
        }
        self.put_descriptors(out);
        self.put_rest(out);
    }

    /// Tag and type.
    const fn head(&self) -> [u8; 2] {
        match self {
            Self::Get { .. } => [0xC0, 1],
            Self::GetNext { .. } => [0xC0, 2],
            Self::GetList { .. } => [0xC0, 3],
            Self::Set { .. } => [0xC1, 1],
            Self::SetFirstBlock { .. } => [0xC1, 2],
            Self::SetBlock { .. } => [0xC1, 3],
            Self::SetList { .. } => [0xC1, 4],
            Self::SetListFirstBlock { .. } => [0xC1, 5],
            Self::Action { .. } => [0xC3, 1],
            Self::ActionNext { .. } => [0xC3, 2],
            Self::ActionList { .. } => [0xC3, 3],
            Self::ActionFirstBlock { .. } => [0xC3, 4],
            Self::ActionListFirstBlock { .. } => [0xC3, 5],
            Self::ActionBlock { .. } => [0xC3, 6],
            // no type: the long id follows
            Self::Access { .. } => [0xD9, 0],
        }
    }

    /// What is accessed.
    fn put_descriptors(&self, out: &mut Vec<u8>) {
        match self {
            Self::Get {
                attribute,
                selection,
                ..
            }
            | Self::Set {
                attribute,
                selection,
                ..
            }
            | Self::SetFirstBlock {
                attribute,
                selection,
                ..
            } => put_selected(out, *attribute, selection.as_ref()),
            Self::GetList { attributes, .. } | Self::SetListFirstBlock { attributes, .. } => {
                put_list(out, attributes, |out, (attribute, selection)| {
                    put_selected(out, *attribute, selection.as_ref());
                });
            }
            Self::SetList { values, .. } => {
                put_list(out, values, |out, (attribute, selection, _)| {
                    put_selected(out, *attribute, selection.as_ref());
                });
            }
            Self::Action { method, .. } | Self::ActionFirstBlock { method, .. } => {
                put_method(out, *method);
            }
            Self::ActionList { methods, .. } => {
                put_list(out, methods, |out, (method, _)| put_method(out, *method));
            }
            Self::ActionListFirstBlock { methods, .. } => {
                put_list(out, methods, |out, method| put_method(out, *method));
            }
            Self::GetNext { .. }
            | Self::SetBlock { .. }
            | Self::ActionNext { .. }
            | Self::ActionBlock { .. }
            | Self::Access { .. } => {}
        }
    }

    /// What is written, given, or carried in a block.
    fn put_rest(&self, out: &mut Vec<u8>) {
        match self {
            Self::Get { .. } | Self::GetList { .. } => {}
            Self::GetNext { block, .. } | Self::ActionNext { block, .. } => {
                out.extend_from_slice(&block.to_be_bytes());
            }
            Self::Set { value, .. } => value.encode_into(out),
            Self::SetList { values, .. } => {
                put_list(out, values, |out, (_, _, value)| value.encode_into(out));
            }
            Self::Action { parameter, .. } => {
                out.push(u8::from(parameter.is_some()));
                if let Some(parameter) = parameter {
                    parameter.encode_into(out);
                }
            }
            Self::ActionList { methods, .. } => {
                put_list(out, methods, |out, (_, parameter)| {
                    put_parameter(out, parameter.as_ref());
                });
            }
            Self::SetFirstBlock {
                last,
                block,
                octets,
                ..
            }
            | Self::SetBlock {
                last,
                block,
                octets,
                ..
            }
            | Self::SetListFirstBlock {
                last,
                block,
                octets,
                ..
            }
            | Self::ActionFirstBlock {
                last,
                block,
                octets,
                ..
            }
            | Self::ActionListFirstBlock {
                last,
                block,
                octets,
                ..
            }
            | Self::ActionBlock {
                last,
                block,
                octets,
                ..
            } => put_block(out, *last, *block, octets),
            Self::Access { accesses, .. } => put_accesses(out, accesses),
        }
    }
}
