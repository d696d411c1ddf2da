//! COSEM Data (IEC 62056-6-2, 4.1.5), with every tag's own name, compact arrays and delta types included.

use serde_json::{Value, json};

use super::clock;
use super::fault::{Fault, Kind};
use super::objects;
use super::walk::{Said, Step, Walk, first, signed, unsigned};

/// One tagged value: `{"type", "value"}`.
pub(crate) fn data(w: &mut Walk<'_>, name: &'static str) -> Step {
    w.group(name, |w| {
        let tag = tag(w)?;
        content(w, tag)
    })
}

/// A value that holds a secret: its type is shown, its octets are not.
pub(crate) fn secret(w: &mut Walk<'_>, name: &'static str) -> Step {
    if !matches!(w.peek(), Some(9 | 10)) {
        return data(w, name);
    }
    w.group(name, |w| {
        tag(w)?;
        w.prefixed("value", |octets| Said::secret(octets, "a secret"))
            .map(drop)
    })
}

fn tag(w: &mut Walk<'_>) -> Step<u8> {
    let at = w.at();
    let octets = w.mark("tag", 1, |octets| name_of(first(octets)).to_owned())?;
    let tag = first(octets);
    let name = name_of(tag);
    w.say(name, name);
    if name == UNKNOWN {
        return Err(w.fail(Fault::new(
            Kind::UnknownTag,
            at,
            "a Data tag (0..6, 9, 10, 12, 13, 15..33, 255)",
            format!("{tag:02x}"),
        )));
    }
    Ok(tag)
}

/// The value after a tag, or in a compact array.
fn content(w: &mut Walk<'_>, tag: u8) -> Step {
    match tag {
        1 | 2 => {
            let count = w.count("count", "elements")?;
            let text = format!("{}, {count} elements", name_of(tag));
            w.say(name_of(tag), text);
            w.list("value", |w| (0..count).try_for_each(|_| data(w, "element")))
        }
        4 => {
            let bits = w.count("length", "bits")?;
            w.leaf("value", bits.div_ceil(8), |octets| bit_string(bits, octets))
                .map(drop)
        }
        9 | 10 | 12 => w.prefixed("value", |octets| string(tag, octets)).map(drop),
        19 => compact_array(w),
        _ => w
            .leaf("value", fixed(tag), |octets| simple(tag, octets))
            .map(drop),
    }
}

fn bit_string(bits: usize, octets: &[u8]) -> Said {
    let digits: String = octets
        .iter()
        .flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1))
        .take(bits)
        .map(|bit| if bit == 0 { '0' } else { '1' })
        .collect();
    Said::new(digits.clone(), digits).also("hex", hex::encode(octets))
}

fn string(tag: u8, octets: &[u8]) -> Said {
    let hex = hex::encode(octets);
    if tag != 9 {
        let text = String::from_utf8_lossy(octets).into_owned();
        return Said::new(text.clone(), format!("{text:?}")).also("hex", hex);
    }
    match (octets, clock::date_time(octets), words(octets)) {
        (_, Some(time), _) => Said::new(hex, time.clone()).also("date_time", time),
        (&[a, b, c, d, e, f @ 0xff], ..) => {
            let obis = [a, b, c, d, e, f];
            Said::new(hex, objects::named(obis))
                .also("obis", dlms::Obis::new(obis).to_string())
                .also("object", objects::name(obis))
        }
        (_, _, Some(words)) => Said::new(hex, format!("{words:?}")).also("text", words),
        _ => Said::new(hex, format!("{} octets", octets.len())),
    }
}

/// Octets that are printable ASCII, as text.
pub(crate) fn words(octets: &[u8]) -> Option<&str> {
    let printable = octets
        .iter()
        .all(|&octet| octet == b' ' || octet.is_ascii_graphic());
    (printable && !octets.is_empty())
        .then(|| std::str::from_utf8(octets).ok())
        .flatten()
}

/// A value of a fixed length.
fn simple(tag: u8, octets: &[u8]) -> Said {
    let number = |value: Value| {
        let text = value.to_string();
        Said::new(value, text)
    };
    match tag {
        0 | 255 => Said::new(Value::Null, name_of(tag)),
        3 => Said::new(first(octets) != 0, (first(octets) != 0).to_string()),
        5 | 15 | 16 | 20 | 28..=30 => number(json!(signed(octets))),
        6 | 17 | 18 | 21 | 22 | 31..=33 => number(json!(unsigned(octets))),
        13 => {
            let text = format!("{:02x}", first(octets));
            Said::new(text.clone(), text)
        }
        23 => {
            let bits = octets.try_into().unwrap_or_default();
            float(
                f64::from(f32::from_be_bytes(bits)),
                &f32::from_be_bytes(bits).to_string(),
            )
        }
        24 => {
            let value = f64::from_be_bytes(octets.try_into().unwrap_or_default());
            float(value, &value.to_string())
        }
        25 => time(octets, clock::date_time(octets)),
        26 => time(octets, clock::date(octets)),
        27 => time(octets, clock::time(octets)),
        _ => Said::hex(octets),
    }
}

/// JSON has no infinity and no NaN.
fn float(value: f64, text: &str) -> Said {
    Said::new(
        serde_json::Number::from_f64(value).map_or_else(|| Value::from(text), Value::Number),
        text,
    )
}

fn time(octets: &[u8], said: Option<String>) -> Said {
    let text = said.clone().unwrap_or_else(|| "no valid time".to_owned());
    Said::new(hex::encode(octets), text).also("date_time", said)
}

/// Octets of a value of a fixed length.
const fn fixed(tag: u8) -> usize {
    match tag {
        0 | 255 => 0,
        16 | 18 | 29 | 32 => 2,
        5 | 6 | 23 | 27 | 30 | 33 => 4,
        26 => 5,
        20 | 21 | 24 => 8,
        25 => 12,
        _ => 1,
    }
}

/// What the elements of a compact array are.
enum Description {
    Array(usize, Box<Self>),
    Structure(Vec<Self>),
    Plain(u8),
}

fn compact_array(w: &mut Walk<'_>) -> Step {
    let mut described = None;
    w.group("contents-description", |w| {
        described = Some(description(w)?);
        Ok(())
    })?;
    let length = w.length("array-contents")?;
    w.within(length, Kind::LengthMismatch, |w| {
        w.list("value", |w| {
            while w.left() > 0 {
                let before = w.at();
                if let Some(described) = &described {
                    element(w, described)?;
                }
                if w.at() == before {
                    return Err(w.fail(Fault::new(
                        Kind::BadValue,
                        before,
                        "elements that take octets",
                        "none",
                    )));
                }
            }
            Ok(())
        })
    })
}

fn description(w: &mut Walk<'_>) -> Step<Description> {
    let tag = tag(w)?;
    match tag {
        1 => {
            let count = w.u16("number-of-elements")?;
            let of = w.group("type-description", description)?;
            Ok(Description::Array(count.into(), Box::new(of)))
        }
        2 => {
            let count = w.count("count", "elements")?;
            w.list("elements", |w| {
                let mut parts = Vec::new();
                for _ in 0..count {
                    parts.push(w.group("type-description", description)?);
                }
                Ok(Description::Structure(parts))
            })
        }
        tag => Ok(Description::Plain(tag)),
    }
}

fn element(w: &mut Walk<'_>, described: &Description) -> Step {
    w.group("element", |w| match described {
        Description::Plain(tag) => {
            w.say(name_of(*tag), name_of(*tag));
            content(w, *tag)
        }
        Description::Array(count, of) => {
            w.say("array", format!("array, {count} elements"));
            w.list("value", |w| (0..*count).try_for_each(|_| element(w, of)))
        }
        Description::Structure(parts) => {
            w.say("structure", format!("structure, {} elements", parts.len()));
            w.list("value", |w| {
                parts.iter().try_for_each(|part| element(w, part))
            })
        }
    })
}

const UNKNOWN: &str = "unknown tag";

/// The standard's name of a Data tag.
fn name_of(tag: u8) -> &'static str {
    dlms::Data::name_of(tag).unwrap_or(UNKNOWN)
}
