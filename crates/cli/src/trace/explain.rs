//! Frames explained one after another.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::apdu;
use super::cut::Form;
use super::fault::{Fault, Kind};
use super::hdlc::{self, Segments};
use super::input::Frame;
use super::keys::Keys;
use super::node::Node;
use super::talk::{Context, Part, Talk};
use super::walk::{Said, Step, Walk, unsigned};

/// Octets of a wrapper header.
const WRAPPER: usize = 8;

/// Explains frames in their order; what earlier ones said helps to explain later ones.
pub(crate) struct Explainer {
    keys: Keys,
    talks: HashMap<String, Talk>,
    segments: Segments,
}

/// A frame with the meaning of every octet.
pub(crate) struct Explained {
    pub(crate) form: Form,
    pub(crate) octets: Vec<u8>,
    pub(crate) tree: Node,
    pub(crate) frame: Value,
    pub(crate) apdu: Value,
    pub(crate) security: Option<Value>,
    pub(crate) plaintext: Option<Value>,
    pub(crate) parts: Vec<Part>,
    pub(crate) fault: Option<Fault>,
    pub(crate) notes: Vec<String>,
}

impl Explainer {
    pub(crate) fn new(keys: Keys) -> Self {
        Self {
            keys,
            talks: HashMap::new(),
            segments: Segments::new(),
        }
    }

    pub(crate) fn explain(&mut self, frame: &Frame) -> Explained {
        let meter = frame.origin.meter.as_deref().unwrap_or_default();
        let talk = self
            .talks
            .entry(conversation(meter, frame.form, &frame.octets))
            .or_default();
        talk.stream = format!("{meter} {}", frame.origin.direction.unwrap_or(' '));
        let mut c = Context::new(&self.keys, talk);
        let mut w = Walk::new(&frame.octets);
        if frame.withheld.is_some() {
            w.partial = Some(frame.octets.len());
        }
        let (mut said, joined) = match frame.form {
            Form::Hdlc => hdlc::frame(&mut w, &mut c, &mut self.segments, meter),
            Form::Wrapper => (wrapper(&mut w, &mut c), None),
            Form::Apdu => (naked(&mut w, &mut c), None),
        };
        said.insert("octets".to_owned(), json!(frame.octets.len()));
        said.insert("withheld".to_owned(), json!(frame.withheld));
        if let Some(withheld) = frame.withheld {
            w.note(format!(
                "{withheld} octets of plain APDU, withheld by the trace"
            ));
        }
        if let Some(found) = &frame.bad_hex {
            let expected = "pairs of hexadecimal digits";
            w.record(Fault::new(
                Kind::BadHex,
                frame.octets.len(),
                expected,
                found.clone(),
            ));
        }
        let (tree, fault, mut notes) = w.finish();
        notes.extend(std::mem::take(&mut c.notes));
        let own = tree.find("apdu").map_or(Value::Null, Node::json);
        Explained {
            form: frame.form,
            octets: frame.octets.clone(),
            frame: Value::Object(said),
            apdu: joined.unwrap_or(own),
            security: c.security,
            plaintext: c.plaintext,
            parts: c.parts,
            tree,
            fault,
            notes,
        }
    }
}

/// Who talks to whom, whichever of them sends.
fn conversation(meter: &str, form: Form, octets: &[u8]) -> String {
    match (form, octets) {
        (Form::Wrapper, [_, _, a, b, c, d, ..]) => {
            let (one, other) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
            format!("{meter} {} {}", one.min(other), one.max(other))
        }
        _ => meter.to_owned(),
    }
}

fn wrapper(w: &mut Walk<'_>, c: &mut Context<'_>) -> Map<String, Value> {
    let mut said = Map::new();
    said.insert("kind".to_owned(), json!("wrapper"));
    // why it stopped is in the walk
    let _ = wrapped(w, c, &mut said);
    said
}

fn wrapped(w: &mut Walk<'_>, c: &mut Context<'_>, said: &mut Map<String, Value>) -> Step {
    let mut promised = 0_usize;
    w.group("wrapper header", |w| {
        for name in ["version", "source-wPort", "destination-wPort", "length"] {
            let octets = w.leaf(name, 2, |octets| {
                let number = unsigned(octets);
                let text = match name {
                    "version" => format!("{number}, the wrapper of IEC 62056-47"),
                    "length" => format!("{number} octets of APDU"),
                    _ => number.to_string(),
                };
                Said::new(number, text)
            })?;
            let key = name.trim_end_matches("-wPort");
            said.insert(key.to_owned(), json!(unsigned(octets)));
            promised = usize::try_from(unsigned(octets)).unwrap_or_default();
        }
        Ok(())
    })?;
    let found = w.left();
    if w.partial.is_some() {
        return apdu::apdu(w, c);
    }
    let mut len = promised;
    if promised < found
        && apdu_fault(w.ahead().get(..promised).unwrap_or_default()).is_some()
        && apdu_fault(w.ahead()).is_none()
    {
        w.record(length_mismatch(found, promised));
        len = found;
    }
    w.whole = promised <= found;
    // beyond the length may be a part of the frame that it forgot, or one that does not belong to it
    let result = w.within(len, Kind::Truncated, |w| apdu::apdu(w, c));
    if promised > found {
        let cut = w
            .fault
            .as_ref()
            .is_some_and(|fault| fault.kind == Kind::Truncated);
        if cut {
            let end = WRAPPER.saturating_add(found);
            let left = format!("{found} and the end");
            let expected = format!("{promised} octets after the header");
            w.fault = Some(Fault::new(Kind::Truncated, end, expected, left));
        }
        w.record(length_mismatch(found, promised));
    }
    result?;
    w.trailing();
    Ok(())
}

fn length_mismatch(found: usize, promised: usize) -> Fault {
    Fault::new(
        Kind::LengthMismatch,
        6,
        format!("a length of {found}, which the APDU has"),
        promised.to_string(),
    )
}

fn naked(w: &mut Walk<'_>, c: &mut Context<'_>) -> Map<String, Value> {
    let mut said = Map::new();
    said.insert("kind".to_owned(), json!("apdu"));
    // why it stopped is in the walk
    let walked = hdlc::llc(w).and_then(|_| apdu::apdu(w, c));
    if walked.is_ok() {
        w.trailing();
    }
    said
}

/// What is wrong with a frame by itself.
pub(crate) fn fault(form: Form, octets: &[u8]) -> Option<Fault> {
    let mut explainer = Explainer::new(Keys::default());
    explainer.explain(&Frame::of(form, octets)).fault
}

/// What is wrong with an APDU by itself.
pub(crate) fn apdu_fault(octets: &[u8]) -> Option<Fault> {
    let (end, fault) = apdu_extent(octets);
    fault.or_else(|| {
        (end < octets.len()).then(|| {
            Fault::new(
                Kind::TrailingOctets,
                end,
                "the end",
                (octets.len().saturating_sub(end)).to_string(),
            )
        })
    })
}

/// Where the first APDU ends, and what is wrong with it. Nothing is learnt from it.
pub(crate) fn apdu_extent(octets: &[u8]) -> (usize, Option<Fault>) {
    let keys = Keys::default();
    let mut talk = Talk::default();
    let mut c = Context::new(&keys, &mut talk);
    let mut w = Walk::new(octets);
    // why it stopped is in the walk
    let _ = hdlc::llc(&mut w).and_then(|_| apdu::apdu(&mut w, &mut c));
    (w.at(), w.fault)
}
