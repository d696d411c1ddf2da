//! One APDU: which it is, and on to its fields (IEC 62056-5-3).

use serde_json::Value;

use super::fault::{Fault, Kind};
use super::talk::{Context, Part};
use super::walk::{Step, Walk};
use super::{acse, ciphered, general, initiate, notification, service, short};

/// APDUs in APDUs: a block transfer of a general-signing of a general-ciphering of a GET is four.
const NESTED_MAX: usize = 6;

/// Walks one APDU, as a group of the tree.
pub(crate) fn apdu(w: &mut Walk<'_>, c: &mut Context<'_>) -> Step {
    w.group("apdu", |w| {
        c.depth = c.depth.saturating_add(1);
        let result = if c.depth > NESTED_MAX {
            let at = w.at();
            Err(w.fail(Fault::new(
                Kind::BadValue,
                at,
                format!("at most {NESTED_MAX} APDUs in each other"),
                "more",
            )))
        } else {
            tagged(w, c)
        };
        c.depth = c.depth.saturating_sub(1);
        result
    })
}

fn tagged(w: &mut Walk<'_>, c: &mut Context<'_>) -> Step {
    let at = w.at();
    let Some(tag) = w.peek() else {
        return w.leaf("tag", 1, super::walk::Said::hex).map(drop);
    };
    let Some(name) = name(tag) else {
        return Err(w.fail(Fault::new(
            Kind::UnknownTag,
            at,
            "the tag of an APDU",
            format!("{tag:02x}"),
        )));
    };
    w.say(name, "");
    w.leaf("tag", 1, |_| {
        super::walk::Said::new(format!("{tag:02x}"), name)
    })?;
    match tag {
        0x01 => initiate::request(w, c),
        0x08 => initiate::response(w),
        0x0e => initiate::confirmed_service_error(w),
        0x05 | 0x06 | 0x0c | 0x0d | 0x16 | 0x18 => short::walk(w, tag),
        0x0f | 0x10 | 0xc2 => notification::walk(w, tag),
        0x60..=0x63 => acse::walk(w, c, tag),
        0xc0 | 0xc1 | 0xc3 | 0xc4 | 0xc5 | 0xc7 | 0xd9 | 0xda => service::walk(w, c, tag),
        0xd8 => initiate::exception(w),
        0xdb | 0xdc => ciphered::general(w, c, tag),
        0xdd => general::ciphering(w, c),
        0xdf => general::signing(w, c),
        0xe0 => general::block_transfer(w, c),
        tag => ciphered::service_specific(w, c, tag),
    }
}

/// The name of an APDU.
pub(crate) const fn name(tag: u8) -> Option<&'static str> {
    Some(match tag {
        0x01 => "initiateRequest",
        0x05 => "readRequest",
        0x06 => "writeRequest",
        0x08 => "initiateResponse",
        0x0c => "readResponse",
        0x0d => "writeResponse",
        0x0e => "confirmedServiceError",
        0x0f => "data-notification",
        0x10 => "data-notification-confirm",
        0x16 => "unconfirmedWriteRequest",
        0x18 => "informationReportRequest",
        0x21 => "glo-initiateRequest",
        0x25 => "glo-readRequest",
        0x26 => "glo-writeRequest",
        0x28 => "glo-initiateResponse",
        0x2c => "glo-readResponse",
        0x2d => "glo-writeResponse",
        0x2e => "glo-confirmedServiceError",
        0x36 => "glo-unconfirmedWriteRequest",
        0x38 => "glo-informationReportRequest",
        0x41 => "ded-initiateRequest",
        0x45 => "ded-readRequest",
        0x46 => "ded-writeRequest",
        0x48 => "ded-initiateResponse",
        0x4c => "ded-readResponse",
        0x4d => "ded-writeResponse",
        0x4e => "ded-confirmedServiceError",
        0x56 => "ded-unconfirmedWriteRequest",
        0x58 => "ded-informationReportRequest",
        0x60 => "AARQ",
        0x61 => "AARE",
        0x62 => "RLRQ",
        0x63 => "RLRE",
        0xc0 => "get-request",
        0xc1 => "set-request",
        0xc2 => "event-notification-request",
        0xc3 => "action-request",
        0xc4 => "get-response",
        0xc5 => "set-response",
        0xc7 => "action-response",
        0xc8 => "glo-get-request",
        0xc9 => "glo-set-request",
        0xca => "glo-event-notification-request",
        0xcb => "glo-action-request",
        0xcc => "glo-get-response",
        0xcd => "glo-set-response",
        0xcf => "glo-action-response",
        0xd0 => "ded-get-request",
        0xd1 => "ded-set-request",
        0xd2 => "ded-event-notification-request",
        0xd3 => "ded-action-request",
        0xd4 => "ded-get-response",
        0xd5 => "ded-set-response",
        0xd7 => "ded-action-response",
        0xd8 => "exception-response",
        0xd9 => "access-request",
        0xda => "access-response",
        0xdb => "general-glo-ciphering",
        0xdc => "general-ded-ciphering",
        0xdd => "general-ciphering",
        0xdf => "general-signing",
        0xe0 => "general-block-transfer",
        _ => return None,
    })
}

/// Explains octets that are not the frame's own as one APDU, and keeps them as a part.
pub(crate) fn inner(
    c: &mut Context<'_>,
    title: &'static str,
    octets: Vec<u8>,
) -> (Value, Option<Fault>) {
    let mut w = Walk::new(&octets);
    w.whole = true;
    if apdu(&mut w, c).is_ok() {
        w.trailing();
    }
    keep(c, title, w, octets.clone())
}

/// Explains octets that are not the frame's own, by the first walk that understands them whole.
pub(crate) fn first_of(
    c: &mut Context<'_>,
    title: &'static str,
    octets: &[u8],
    walks: &[fn(&mut Walk<'_>) -> Step],
) -> Value {
    for (number, walk) in walks.iter().enumerate() {
        let mut w = Walk::new(octets);
        if walk(&mut w).is_ok() {
            w.trailing();
        }
        if w.fault.is_none() || number + 1 == walks.len() {
            return keep(c, title, w, octets.to_vec()).0;
        }
    }
    Value::Null
}

fn keep(
    c: &mut Context<'_>,
    title: &'static str,
    w: Walk<'_>,
    octets: Vec<u8>,
) -> (Value, Option<Fault>) {
    let (tree, fault, notes) = w.finish();
    c.notes.extend(notes);
    let json = tree
        .children
        .iter()
        .find(|child| child.in_json)
        .map_or(Value::Null, super::node::Node::json);
    c.parts.push(Part::new(title, octets, tree));
    (json, fault.map(|fault| fault.within(title)))
}
