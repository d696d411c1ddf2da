//! HDLC frames of format type 3 (IEC 62056-46): flags, format, addresses, control, check sequences, information.

use serde_json::{Map, Value, json};

use super::fault::{Fault, Kind};
use super::talk::Context;
use super::walk::{Said, Step, Walk, first};

mod information;

use information::Field;
pub(crate) use information::Segments;

/// The flag that opens and closes a frame.
pub(crate) const FLAG: u8 = 0x7e;
/// Octets of a check sequence.
const CHECK: usize = 2;

const CRC: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_IBM_SDLC);

/// A check sequence as it goes over the wire: low octet first.
pub(crate) fn check_sequence(octets: &[u8]) -> [u8; 2] {
    CRC.checksum(octets).to_le_bytes()
}

/// Octets between the flags by the format field; nothing if it is not of type 3.
pub(crate) fn length(octets: &[u8]) -> Option<usize> {
    match *octets {
        [high, low, ..] if high & 0xf0 == 0xa0 => {
            Some(usize::from(u16::from_be_bytes([high & 0x07, low])))
        }
        _ => None,
    }
}

/// What a frame is made of, before its octets are gone through.
struct Shape {
    /// Flags before the format field.
    flags: usize,
    /// Octets that the format field promises between the flags.
    promised: usize,
    /// Octets that stand between the flags.
    body: usize,
}

/// The parts of an HDLC frame that later parts depend on.
#[derive(Default)]
struct Header {
    segmented: bool,
    stream: String,
    control: u8,
}

/// Walks a frame. The object is what `frame` says of it; the value is the APDU that was joined from segments.
pub(crate) fn frame(
    w: &mut Walk<'_>,
    c: &mut Context<'_>,
    segments: &mut Segments,
    meter: &str,
) -> (Map<String, Value>, Option<Value>) {
    let mut said = Map::new();
    said.insert("kind".to_owned(), json!("hdlc"));
    let joined = walk(w, c, segments, meter, &mut said).unwrap_or(None);
    (said, joined)
}

fn walk(
    w: &mut Walk<'_>,
    c: &mut Context<'_>,
    segments: &mut Segments,
    meter: &str,
    said: &mut Map<String, Value>,
) -> Step<Option<Value>> {
    let shape = shape(w)?;
    if shape.flags > 0 {
        w.mark("flag", shape.flags, |_| "opening".to_owned())?;
    }
    let start = w.at();
    let damage = damage(w, &shape);
    let header = header(w, c, meter, said).inspect_err(|_| {
        // an address that has no end is a consequence
        if let Some(damage) = damage {
            w.fault = Some(damage);
        }
    })?;
    let header_len = w.at().saturating_sub(start);
    // a frame that was cut goes by its own length
    let whole = if shape.body < shape.promised && w.partial.is_none() {
        shape.promised
    } else {
        shape.body
    };
    let left = whole.saturating_sub(header_len);
    let mut joined = None;
    if left > CHECK {
        check(w, "HCS", Kind::WrongHcs, start, said)?;
        if w.partial.is_some() {
            let left = w.left();
            return w
                .region(left, |w| information::payload(w, c))
                .map(|()| None);
        }
        let info = left.saturating_sub(CHECK.saturating_mul(2));
        let sound = w.fault.is_none() && fcs_fits(w, info, start);
        w.whole = sound;
        let field = Field {
            control: header.control,
            segmented: header.segmented,
            stream: &header.stream,
            len: info,
            sound,
        };
        joined = information::walk(w, c, segments, &field, said)?;
    }
    check(w, "FCS", Kind::WrongFcs, start, said)?;
    while w.peek() == Some(FLAG) {
        w.mark("flag", 1, |_| "closing".to_owned())?;
    }
    w.trailing();
    Ok(joined)
}

/// Where the frame begins and ends, and what is wrong with that.
fn shape(w: &mut Walk<'_>) -> Step<Shape> {
    let octets = w.ahead();
    let flags = octets.iter().take_while(|octet| **octet == FLAG).count();
    let rest = octets.get(flags..).unwrap_or_default();
    let Some(promised) = length(rest) else {
        return Err(match rest {
            [] | [_] => {
                let at = octets.len();
                w.fail(Fault::new(Kind::Truncated, at, "an HDLC frame", "the end"))
            }
            [high, ..] => w.fail(Fault::new(
                Kind::BadValue,
                flags,
                "a frame format of type 3 (a0 to af)",
                format!("{high:02x}"),
            )),
        });
    };
    let shape = |body| Shape {
        flags,
        promised,
        body,
    };
    if w.partial.is_some() {
        return Ok(shape(rest.len()));
    }
    let closes = rest.get(promised) == Some(&FLAG);
    if closes || (flags == 0 && rest.len() == promised) {
        if flags == 0 {
            match closes {
                true => w.record(Fault::new(
                    Kind::MissingFlag,
                    0,
                    "the opening flag 7e",
                    "none",
                )),
                false => w.note("the flags of this frame were left out"),
            }
        }
        return Ok(shape(promised));
    }
    let between = rest
        .len()
        .saturating_sub(usize::from(rest.last() == Some(&FLAG)));
    let (fault, body) = unclosed(octets, flags, promised, between);
    w.record(fault);
    Ok(shape(body))
}

/// A frame whose closing flag is not where its length says: why, and how many octets count as its own.
fn unclosed(octets: &[u8], flags: usize, promised: usize, between: usize) -> (Fault, usize) {
    let rest = octets.get(flags..).unwrap_or_default();
    let end = octets.len();
    let truncated = |expected: String, found: String| {
        (Fault::new(Kind::Truncated, end, expected, found), between)
    };
    if rest.len() > promised && sound(rest.get(..promised).unwrap_or_default()) {
        let found = rest.get(promised).copied().unwrap_or_default();
        let at = flags.saturating_add(promised);
        let expected = "the closing flag 7e";
        let fault = Fault::new(Kind::MissingFlag, at, expected, format!("{found:02x}"));
        (fault, promised)
    } else if rest.len() > promised || rest.last() == Some(&FLAG) {
        (mismatch(flags, promised, between), between)
    } else if rest.len() == promised {
        truncated("the closing flag 7e".to_owned(), "the end".to_owned())
    } else {
        truncated(
            format!("{promised} octets and the closing flag"),
            format!("{} and the end", rest.len()),
        )
    }
}

fn mismatch(at: usize, promised: usize, found: usize) -> Fault {
    Fault::new(
        Kind::LengthMismatch,
        at,
        format!("{promised} octets between the flags, as the format field says"),
        found.to_string(),
    )
}

/// Whether the octets between flags end in their right check sequence.
pub(crate) fn sound(body: &[u8]) -> bool {
    body.len()
        .checked_sub(CHECK)
        .and_then(|end| body.split_at_checked(end))
        .is_some_and(|(octets, fcs)| fcs == check_sequence(octets))
}

/// What is wrong with a frame that is whole, but not what was sent.
fn damage(w: &Walk<'_>, shape: &Shape) -> Option<Fault> {
    let body = w.ahead().get(..shape.body)?;
    let (octets, fcs) = body.split_at_checked(shape.body.checked_sub(CHECK)?)?;
    let right = check_sequence(octets);
    let damaged = shape.body == shape.promised && w.fault.is_none() && fcs != right;
    damaged.then(|| {
        let at = w.at().saturating_add(octets.len());
        Fault::new(Kind::WrongFcs, at, hex::encode(right), hex::encode(fcs))
    })
}

/// Said before the information field is looked at: what is wrong in there is a consequence.
fn fcs_fits(w: &mut Walk<'_>, info: usize, start: usize) -> bool {
    let Some((field, fcs)) = w
        .ahead()
        .get(..info.saturating_add(CHECK))
        .and_then(|octets| octets.split_at_checked(info))
    else {
        return false;
    };
    let right = check_sequence(&[w.since(start), field].concat());
    if fcs != right {
        let at = w.at().saturating_add(info);
        w.record(Fault::new(
            Kind::WrongFcs,
            at,
            hex::encode(right),
            hex::encode(fcs),
        ));
    }
    fcs == right
}

fn header(
    w: &mut Walk<'_>,
    c: &mut Context<'_>,
    meter: &str,
    said: &mut Map<String, Value>,
) -> Step<Header> {
    let mut header = Header::default();
    w.group("HDLC header", |w| {
        let format = w.leaf("frame-format", 2, |octets| {
            let segmented = first(octets) & 0x08 != 0;
            let length = length(octets).unwrap_or_default();
            let more = if segmented {
                "segmented"
            } else {
                "not segmented"
            };
            Said::new(
                hex::encode(octets),
                format!("type 3, {length} octets between the flags, {more}"),
            )
        })?;
        header.segmented = first(format) & 0x08 != 0;
        said.insert("length".to_owned(), json!(length(format)));
        said.insert("segmented".to_owned(), json!(header.segmented));
        let (to, destination) = address(w, "destination-address")?;
        let (from, source) = address(w, "source-address")?;
        header.stream = format!("{meter} {from}>{to}");
        c.talk.stream.clone_from(&header.stream);
        said.insert("destination".to_owned(), destination);
        said.insert("source".to_owned(), source);
        let control = w.leaf("control", 1, |octets| {
            let (value, text) = control(first(octets));
            Said::new(value, text)
        })?;
        header.control = first(control);
        said.insert("control".to_owned(), self::control(header.control).0);
        Ok(header)
    })
}

/// One, two or four octets; the lowest bit of the last one is set.
fn address(w: &mut Walk<'_>, name: &'static str) -> Step<(String, Value)> {
    let at = w.at();
    let ahead = w.ahead();
    let octets = ahead.iter().take(4).take_while(|octet| *octet & 1 == 0);
    let len = octets.count().saturating_add(1);
    if !matches!(len, 1 | 2 | 4) && ahead.len() >= len {
        return Err(w.fail(Fault::new(
            Kind::BadValue,
            at,
            "an address of 1, 2 or 4 octets, the last of them odd",
            format!("{} octets", len.min(4)),
        )));
    }
    let octets = w.leaf(name, len, |octets| {
        let (value, text) = address_parts(octets);
        Said::new(value, text)
    })?;
    let (value, text) = address_parts(octets);
    Ok((text, value))
}

fn address_parts(octets: &[u8]) -> (Value, String) {
    let part = |octets: &[u8]| {
        octets
            .iter()
            .fold(0_u64, |value, octet| (value << 7) | u64::from(octet >> 1))
    };
    let (upper, lower) = octets.split_at(octets.len().div_ceil(2));
    let count = octets.len();
    if lower.is_empty() {
        let value = part(upper);
        return (
            json!({ "octets": count, "upper": value }),
            format!("{value}"),
        );
    }
    let (upper, lower) = (part(upper), part(lower));
    (
        json!({ "octets": count, "upper": upper, "lower": lower }),
        format!("{upper}/{lower}"),
    )
}

fn control(octet: u8) -> (Value, String) {
    let bit = octet & 0x10 != 0;
    let (send, receive) = (octet >> 1 & 0x07, octet >> 5);
    let kind = kind(octet);
    let mut value = json!({ "octet": format!("{octet:02x}"), "kind": kind, "poll_final": bit });
    let mut text = kind.to_owned();
    if kind == "I" {
        value["ns"] = json!(send);
        text.push_str(&format!(", N(S) {send}"));
    }
    if matches!(kind, "I" | "RR" | "RNR") {
        value["nr"] = json!(receive);
        text.push_str(&format!(", N(R) {receive}"));
    }
    text.push_str(if bit { ", P/F 1" } else { ", P/F 0" });
    (value, text)
}

const fn kind(octet: u8) -> &'static str {
    match octet & 0xef {
        octet if octet & 0x01 == 0 => "I",
        octet if octet & 0x0f == 0x01 => "RR",
        octet if octet & 0x0f == 0x05 => "RNR",
        octet if octet & 0x0f == 0x09 => "REJ",
        0x83 => "SNRM",
        0x43 => "DISC",
        0x63 => "UA",
        0x0f => "DM",
        0x87 => "FRMR",
        0x03 => "UI",
        _ => "unknown",
    }
}

/// A check sequence over everything since `start`.
fn check(
    w: &mut Walk<'_>,
    name: &'static str,
    kind: Kind,
    start: usize,
    said: &mut Map<String, Value>,
) -> Step {
    let at = w.at();
    let right = check_sequence(w.since(start));
    if w.partial.is_some() && w.left() < CHECK {
        return Ok(());
    }
    let found = w.leaf(name, CHECK, |octets| {
        let verdict = if octets == right { "right" } else { "wrong" };
        Said::new(hex::encode(octets), verdict)
    })?;
    let key = name.to_lowercase();
    said.insert(
        key,
        json!({ "value": hex::encode(found), "right": found == right }),
    );
    if found != right {
        w.record(Fault::new(kind, at, hex::encode(right), hex::encode(found)));
    }
    Ok(())
}

/// The LLC header (IEC 62056-46, 6.2): E6 E6 00 of a command, E6 E7 00 of a response.
pub(crate) fn llc(w: &mut Walk<'_>) -> Step<bool> {
    if !matches!(w.ahead(), [0xe6, 0xe6 | 0xe7, ..]) {
        return Ok(false);
    }
    w.mark("LLC header", 3, |octets| match octets {
        [0xe6, 0xe6, ..] => "command".to_owned(),
        _ => "response".to_owned(),
    })?;
    Ok(true)
}
