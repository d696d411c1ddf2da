//! The information field: negotiated parameters, an APDU, or a segment of one (IEC 62056-46, 6.4.4).

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::super::apdu;
use super::super::fault::Kind;
use super::super::talk::{Context, Part};
use super::super::walk::{Said, Step, Walk, first, unsigned};
use super::{control, kind, llc};

/// Segments of information fields that wait for their last one, by who sends to whom.
pub(crate) type Segments = HashMap<String, Segmented>;

/// The beginning of a segmented information field.
#[derive(Default)]
pub(crate) struct Segmented {
    octets: Vec<u8>,
    /// N(S) of the last segment.
    sequence: u8,
    last: Vec<u8>,
    count: usize,
}

/// An information field and what its frame says of it.
pub(super) struct Field<'a> {
    pub(super) control: u8,
    pub(super) segmented: bool,
    /// Who sends to whom.
    pub(super) stream: &'a str,
    pub(super) len: usize,
    /// The check sequences are right.
    pub(super) sound: bool,
}

/// The information field. The value is an APDU that came in segments, once it is whole.
pub(super) fn walk(
    w: &mut Walk<'_>,
    c: &mut Context<'_>,
    segments: &mut Segments,
    field: &Field<'_>,
    said: &mut Map<String, Value>,
) -> Step<Option<Value>> {
    let len = field.len;
    match kind(field.control) {
        "SNRM" | "UA" if len > 0 => {
            if field.sound {
                segments.remove(field.stream);
            }
            w.region(len, |w| parameters(w, said))?;
            Ok(None)
        }
        "FRMR" => {
            w.region(len, rejection)?;
            Ok(None)
        }
        "I" if field.segmented || segments.contains_key(field.stream) => {
            segment(w, c, segments, field)
        }
        "I" | "UI" => {
            w.region(len, |w| payload(w, c))?;
            Ok(None)
        }
        _ => {
            w.region(len, |w| {
                w.rest_as("information");
                Ok(())
            })?;
            Ok(None)
        }
    }
}

/// LLC header and APDU. A field without the header is a later segment of something this input does not have.
pub(super) fn payload(w: &mut Walk<'_>, c: &mut Context<'_>) -> Step {
    if llc(w)? || is_apdu(w.ahead()) {
        return apdu::apdu(w, c);
    }
    w.rest_as("information");
    w.note("no LLC header: a later segment of an APDU that does not begin in this input");
    Ok(())
}

fn is_apdu(octets: &[u8]) -> bool {
    super::super::explain::apdu_fault(octets).is_none()
}

fn segment(
    w: &mut Walk<'_>,
    c: &mut Context<'_>,
    segments: &mut Segments,
    field: &Field<'_>,
) -> Step<Option<Value>> {
    let len = field.len;
    let octets = w.ahead().get(..len).unwrap_or(w.ahead()).to_vec();
    let sequence = field.control >> 1 & 0x07;
    let begins = matches!(octets.as_slice(), [0xe6, 0xe6 | 0xe7, ..]);
    let follows = segments
        .get(field.stream)
        .is_some_and(|earlier| sequence == (earlier.sequence + 1) % 8);
    let repeats = segments
        .get(field.stream)
        .is_some_and(|earlier| sequence == earlier.sequence && octets == earlier.last);
    if repeats {
        w.note("sent again: counted once");
        w.region(len, rest_of_segment)?;
        return Ok(None);
    }
    if begins && !follows {
        segments.remove(field.stream);
        if !field.segmented {
            w.region(len, |w| payload(w, c))?;
            return Ok(None);
        }
    }
    let new = !segments.contains_key(field.stream);
    if new && begins {
        // as much as this segment holds of it
        w.partial = Some(w.at().saturating_add(len));
        w.region(len, |w| payload(w, c))?;
        w.partial = None;
        w.note("the first segment of a longer APDU");
    } else {
        w.region(len, rest_of_segment)?;
    }
    if !field.sound || (new && !begins) {
        return Ok(None);
    }
    let earlier = segments.entry(field.stream.to_owned()).or_default();
    earlier.octets.extend_from_slice(&octets);
    earlier.sequence = sequence;
    earlier.last = octets;
    earlier.count = earlier.count.saturating_add(1);
    if field.segmented {
        return Ok(None);
    }
    let whole = segments.remove(field.stream).unwrap_or_default();
    w.note(format!("the last of {} segments", whole.count));
    Ok(Some(join(w, c, whole.octets)))
}

fn rest_of_segment(w: &mut Walk<'_>) -> Step {
    w.rest_as("segment of an information field");
    Ok(())
}

fn join(w: &mut Walk<'_>, c: &mut Context<'_>, octets: Vec<u8>) -> Value {
    let mut inner = Walk::new(&octets);
    inner.whole = true;
    let walked = llc(&mut inner).and_then(|_| apdu::apdu(&mut inner, c));
    if walked.is_ok() {
        inner.trailing();
    }
    let (tree, fault, notes) = inner.finish();
    notes.into_iter().for_each(|note| w.note(note));
    if let Some(fault) = fault {
        w.record(fault.within("joined information field"));
    }
    let json = tree
        .find("apdu")
        .map_or(Value::Null, super::super::node::Node::json);
    c.parts.insert(
        0,
        Part::new("joined information field", octets.clone(), tree),
    );
    json
}

/// What SNRM proposes and UA grants (IEC 62056-46, 6.4.4.4.3.2).
fn parameters(w: &mut Walk<'_>, said: &mut Map<String, Value>) -> Step {
    let mut found = Map::new();
    let result = w.group("negotiation parameters", |w| {
        w.mark("format-identifier", 1, |_| String::new())?;
        w.mark("group-identifier", 1, |_| String::new())?;
        let length = w.length("parameters")?;
        w.within(length, Kind::LengthMismatch, |w| {
            while w.left() > 0 {
                let id = w.mark("parameter-identifier", 1, |octets| {
                    parameter(first(octets)).to_owned()
                })?;
                let name = parameter(first(id));
                let value = w.prefixed(name, |octets| {
                    Said::new(unsigned(octets), unsigned(octets).to_string())
                })?;
                let key = name.replace('-', "_");
                found.insert(key, json!(unsigned(value)));
            }
            Ok(())
        })
    });
    said.insert("parameters".to_owned(), Value::Object(found));
    result
}

const fn parameter(id: u8) -> &'static str {
    match id {
        5 => "max-info-transmit",
        6 => "max-info-receive",
        7 => "window-transmit",
        8 => "window-receive",
        _ => "parameter",
    }
}

/// The information of FRMR: what was rejected, and why.
fn rejection(w: &mut Walk<'_>) -> Step {
    if w.left() != 3 {
        w.rest_as("information");
        return Ok(());
    }
    w.leaf("rejected-control", 1, |octets| {
        let (value, text) = control(first(octets));
        Said::new(value, text)
    })?;
    w.leaf("sequence-variables", 1, |octets| {
        let octet = first(octets);
        let (send, receive) = (octet >> 1 & 0x07, octet >> 5);
        Said::new(
            json!({ "vs": send, "vr": receive }),
            format!("V(S) {send}, V(R) {receive}"),
        )
    })?;
    w.leaf("reason", 1, |octets| {
        let names = [
            "W: control field undefined",
            "X: information not permitted",
            "Y: information field too long",
            "Z: N(R) invalid",
        ];
        let said: Vec<_> = (0..)
            .zip(names)
            .filter(|(bit, _)| first(octets) >> bit & 1 != 0)
            .map(|(_, name)| name)
            .collect();
        Said::new(said.join(", "), said.join(", "))
    })
    .map(drop)
}
