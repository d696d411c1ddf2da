//! HDLC frames of format type 3 (IEC 62056-46): flags, format, addresses, control, check sequences, information.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::apdu;
use super::fault::{Fault, Kind};
use super::talk::{Context, Part};
use super::walk::{Said, Step, Walk, first, unsigned};

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
    let header = header(w, c, meter, said)?;
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
            return w.region(left, |w| payload(w, c)).map(|()| None);
        }
        let info = left.saturating_sub(CHECK.saturating_mul(2));
        let sound = w.fault.is_none() && fcs_fits(w, info, start);
        w.whole = sound;
        joined = information(w, c, segments, &header, info, said, sound)?;
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
    let fault = if rest.len() <= promised {
        let end = octets.len();
        match rest.last() {
            Some(&FLAG) => mismatch(flags, promised, between),
            _ if rest.len() == promised => {
                Fault::new(Kind::Truncated, end, "the closing flag 7e", "the end")
            }
            _ => Fault::new(
                Kind::Truncated,
                end,
                format!("{promised} octets and the closing flag"),
                format!("{} and the end", rest.len()),
            ),
        }
    } else if sound(rest.get(..promised).unwrap_or_default()) {
        let found = rest.get(promised).copied().unwrap_or_default();
        let at = flags.saturating_add(promised);
        w.record(Fault::new(
            Kind::MissingFlag,
            at,
            "the closing flag 7e",
            format!("{found:02x}"),
        ));
        return Ok(shape(promised));
    } else {
        mismatch(flags, promised, between)
    };
    w.record(fault);
    Ok(shape(between))
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

/// The information field. The value is an APDU that came in segments, once it is whole.
fn information(
    w: &mut Walk<'_>,
    c: &mut Context<'_>,
    segments: &mut Segments,
    header: &Header,
    len: usize,
    said: &mut Map<String, Value>,
    sound: bool,
) -> Step<Option<Value>> {
    match kind(header.control) {
        "SNRM" | "UA" if len > 0 => {
            if sound {
                segments.remove(&header.stream);
            }
            w.region(len, |w| parameters(w, said))?;
            Ok(None)
        }
        "FRMR" => {
            w.region(len, rejection)?;
            Ok(None)
        }
        "I" if header.segmented || segments.contains_key(&header.stream) => {
            segment(w, c, segments, header, len, sound)
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
fn payload(w: &mut Walk<'_>, c: &mut Context<'_>) -> Step {
    if llc(w)? || is_apdu(w.ahead()) {
        return apdu::apdu(w, c);
    }
    w.rest_as("information");
    w.note("no LLC header: a later segment of an APDU that does not begin in this input");
    Ok(())
}

fn is_apdu(octets: &[u8]) -> bool {
    super::explain::apdu_fault(octets).is_none()
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

fn segment(
    w: &mut Walk<'_>,
    c: &mut Context<'_>,
    segments: &mut Segments,
    header: &Header,
    len: usize,
    sound: bool,
) -> Step<Option<Value>> {
    let octets = w.ahead().get(..len).unwrap_or(w.ahead()).to_vec();
    let sequence = header.control >> 1 & 0x07;
    let begins = matches!(octets.as_slice(), [0xe6, 0xe6 | 0xe7, ..]);
    let follows = segments
        .get(&header.stream)
        .is_some_and(|earlier| sequence == (earlier.sequence + 1) % 8);
    let repeats = segments
        .get(&header.stream)
        .is_some_and(|earlier| sequence == earlier.sequence && octets == earlier.last);
    if repeats {
        w.note("sent again: counted once");
        w.region(len, rest_of_segment)?;
        return Ok(None);
    }
    if begins && !follows {
        segments.remove(&header.stream);
        if !header.segmented {
            w.region(len, |w| payload(w, c))?;
            return Ok(None);
        }
    }
    let new = !segments.contains_key(&header.stream);
    if new && begins {
        // as much as this segment holds of it
        w.partial = Some(w.at().saturating_add(len));
        w.region(len, |w| payload(w, c))?;
        w.partial = None;
        w.note("the first segment of a longer APDU");
    } else {
        w.region(len, rest_of_segment)?;
    }
    if !sound || (new && !begins) {
        return Ok(None);
    }
    let earlier = segments.entry(header.stream.clone()).or_default();
    earlier.octets.extend_from_slice(&octets);
    earlier.sequence = sequence;
    earlier.last = octets;
    earlier.count = earlier.count.saturating_add(1);
    if header.segmented {
        return Ok(None);
    }
    let whole = segments.remove(&header.stream).unwrap_or_default();
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
        .map_or(Value::Null, super::node::Node::json);
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
