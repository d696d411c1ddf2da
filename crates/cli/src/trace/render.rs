//! A frame for people: offset, octets, meaning; and for programs.

use serde_json::{Value, json};

use super::explain::Explained;
use super::fault::Fault;
use super::input::Origin;
use super::node::{Node, Shape};

/// Octets a line.
const WIDTH: usize = 8;

pub(crate) fn json(number: usize, origin: &Origin, explained: &Explained) -> Value {
    json!({
        "number": number,
        "line": origin.line,
        "time": origin.time,
        "meter": origin.meter,
        "direction": origin.direction.map(|direction| match direction {
            '>' => "to_meter",
            _ => "from_meter",
        }),
        "frame": explained.frame,
        "apdu": explained.apdu,
        "security": explained.security,
        "plaintext": explained.plaintext,
        "fault": explained.fault.as_ref().map(Fault::json),
        "notes": explained.notes,
    })
}

pub(crate) fn text(number: usize, origin: &Origin, explained: &Explained) -> String {
    let mut lines = vec![title(number, origin, explained)];
    tree(&mut lines, &explained.tree, &explained.octets);
    for part in &explained.parts {
        lines.push(format!("  {}, {} octets", part.title, part.octets.len()));
        tree(&mut lines, &part.tree, &part.octets);
    }
    for note in &explained.notes {
        lines.push(format!("  note: {note}"));
    }
    if let Some(fault) = &explained.fault {
        lines.push(format!("  FAULT: {fault}"));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn title(number: usize, origin: &Origin, explained: &Explained) -> String {
    let mut title = format!(
        "frame {number}, line {}: {}, {} octets",
        origin.line,
        explained.form.name(),
        explained.octets.len()
    );
    if let Some(meter) = &origin.meter {
        title.push_str(&format!(", meter {meter}"));
    }
    match origin.direction {
        Some('>') => title.push_str(", to the meter"),
        Some(_) => title.push_str(", from the meter"),
        None => {}
    }
    if let Some(time) = origin.time.as_deref().and_then(instant) {
        title.push_str(&format!(", {time}"));
    }
    title
}

/// `SECONDS.MICROS` as RFC 3339.
fn instant(time: &str) -> Option<String> {
    let (seconds, micros) = time.split_once('.')?;
    let at = jiff::Timestamp::new(seconds.parse().ok()?, 0).ok()?;
    Some(format!("{at:.0}").replace('Z', &format!(".{micros}Z")))
}

fn tree(lines: &mut Vec<String>, root: &Node, octets: &[u8]) {
    for child in &root.children {
        node(lines, child, octets, 0);
    }
}

fn node(lines: &mut Vec<String>, node_: &Node, octets: &[u8], depth: usize) {
    let indent = "  ".repeat(depth);
    let said = match node_.text.as_str() {
        "" => String::new(),
        text => format!(": {text}"),
    };
    match node_.shape {
        Shape::Leaf => {
            let end = node_.offset.saturating_add(node_.len);
            let own = octets.get(node_.offset..end).unwrap_or_default();
            let mut rows = own.chunks(WIDTH);
            let row =
                |at: usize, row: &[u8]| format!("  {at:04x}  {:<24}", shown(row, node_.secret));
            let first = row(node_.offset, rows.next().unwrap_or_default());
            lines.push(format!("{first}{indent}{}{said}", node_.name));
            for (number, octets) in (1..).zip(rows) {
                let at = node_.offset.saturating_add(WIDTH.saturating_mul(number));
                lines.push(row(at, octets).trim_end().to_owned());
            }
        }
        Shape::Group | Shape::List => {
            let kind = match &node_.value {
                Value::String(kind) if said.is_empty() => format!(": {kind}"),
                _ => said,
            };
            lines.push(format!("{:32}{indent}{}{kind}", "", node_.name));
            for child in &node_.children {
                node(lines, child, octets, depth.saturating_add(1));
            }
        }
    }
}

fn shown(octets: &[u8], secret: bool) -> String {
    let octets: Vec<String> = octets
        .iter()
        .map(|octet| match secret {
            true => "xx".to_owned(),
            false => format!("{octet:02x}"),
        })
        .collect();
    octets.join(" ")
}
