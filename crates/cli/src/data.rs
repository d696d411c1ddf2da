//! COSEM data on the command line: typed text in, readable text and JSON out.

use dlms::{Data, cosem::DateTime};
use serde_json::{Value, json};

use crate::failure::Failure;

const FORMS: &str = "N (an integer), null, boolean:true, integer:N, unsigned:N, long:N, long-unsigned:N, \
    double-long:N, double-long-unsigned:N, long64:N, long64-unsigned:N, enum:N, octets:HEX, text:WORDS, axdr:HEX";

/// A-XDR octets of a `--data` argument. A bare number is an integer (tag 15), as in the procedure's `--data 0`.
pub(crate) fn parse(text: &str) -> Result<Vec<u8>, Failure> {
    let malformed = |why: String| {
        Failure::usage(format!("--data {text:?} is malformed: {why}"))
            .mend(format!("write it as one of: {FORMS}"))
    };
    let (kind, value) = text.split_once(':').unwrap_or(match text {
        "null" => ("null", ""),
        number => ("integer", number),
    });
    let data = typed(kind, value).map_err(malformed)?;
    match data {
        Typed::Data(data) => Ok(data.encode()),
        Typed::Encoded(octets) => {
            Data::decode(&octets).map_err(|error| malformed(format!("no A-XDR data: {error}")))?;
            Ok(octets)
        }
    }
}

enum Typed {
    Data(Data),
    Encoded(Vec<u8>),
}

fn typed(kind: &str, value: &str) -> Result<Typed, String> {
    let data = match kind {
        "null" if value.is_empty() => Data::Null,
        "boolean" => Data::Boolean(value.parse().map_err(|_| "a boolean is true or false")?),
        "integer" => Data::Integer(number(value)?),
        "unsigned" => Data::Unsigned(number(value)?),
        "long" => Data::Long(number(value)?),
        "long-unsigned" => Data::LongUnsigned(number(value)?),
        "double-long" => Data::DoubleLong(number(value)?),
        "double-long-unsigned" => Data::DoubleLongUnsigned(number(value)?),
        "long64" => Data::Long64(number(value)?),
        "long64-unsigned" => Data::Long64Unsigned(number(value)?),
        "enum" => Data::Enum(number(value)?),
        "octets" => Data::OctetString(octets(value)?),
        "text" => Data::VisibleString(value.as_bytes().to_vec()),
        "axdr" => return octets(value).map(Typed::Encoded),
        _ => return Err(format!("{kind:?} is no type")),
    };
    Ok(Typed::Data(data))
}

fn number<T>(value: &str) -> Result<T, String>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    value.parse().map_err(|error| format!("{value:?}: {error}"))
}

fn octets(value: &str) -> Result<Vec<u8>, String> {
    hex::decode(value).map_err(|error| format!("{value:?} is not hex: {error}"))
}

/// What a meter returned, as JSON. Octets that are no data are shown as they are.
pub(crate) fn json(octets: &[u8]) -> Value {
    match Data::decode(octets) {
        Ok(data) => json!({ "axdr": hex::encode(octets), "value": value(&data) }),
        Err(error) => json!({ "axdr": hex::encode(octets), "undecodable": error.to_string() }),
    }
}

/// What a meter returned, for people.
pub(crate) fn text(octets: &[u8]) -> String {
    match Data::decode(octets) {
        Ok(data) => readable(&data),
        Err(error) => format!("undecodable ({error}): {}", hex::encode(octets)),
    }
}

fn value(data: &Data) -> Value {
    match data {
        Data::Null | Data::DontCare => Value::Null,
        Data::Array(items) | Data::Structure(items) => items.iter().map(value).collect(),
        Data::CompactArray(array) => array.elements().iter().map(value).collect(),
        Data::Boolean(yes) => json!(yes),
        Data::DoubleLong(n) => json!(n),
        Data::DoubleLongUnsigned(n) => json!(n),
        Data::Long(n) => json!(n),
        Data::LongUnsigned(n) => json!(n),
        Data::Long64(n) => json!(n),
        Data::Long64Unsigned(n) => json!(n),
        Data::Bcd(n) | Data::Integer(n) => json!(n),
        Data::Unsigned(n) | Data::Enum(n) => json!(n),
        Data::Float32(x) => json!(x),
        Data::Float64(x) => json!(x),
        Data::Utf8String(text) => json!(text),
        // A meter may put anything in it.
        Data::VisibleString(octets) => json!(String::from_utf8_lossy(octets)),
        Data::OctetString(octets) => match clock(octets) {
            Some(time) => json!({ "hex": hex::encode(octets), "time": time }),
            None => json!({ "hex": hex::encode(octets), "text": words(octets) }),
        },
        Data::BitString { bits, bytes } => json!({ "bits": bits, "hex": hex::encode(bytes) }),
        Data::DateTime(octets) => json!({ "hex": hex::encode(octets), "time": clock(octets) }),
        Data::Date(octets) => json!({ "hex": hex::encode(octets) }),
        Data::Time(octets) => json!({ "hex": hex::encode(octets) }),
    }
}

fn readable(data: &Data) -> String {
    match value(data) {
        Value::Object(parts) => {
            let said = ["time", "text"]
                .iter()
                .filter_map(|key| parts.get(*key)?.as_str())
                .next();
            let hex = parts.get("hex").and_then(Value::as_str).unwrap_or_default();
            said.map_or_else(|| hex.to_owned(), |said| format!("{said} ({hex})"))
        }
        Value::String(text) => text,
        Value::Array(_) => match data {
            Data::Array(items) => lines(items),
            Data::CompactArray(array) => lines(array.elements()),
            Data::Structure(items) => {
                let parts: Vec<_> = items.iter().map(readable).collect();
                format!("{{ {} }}", parts.join(", "))
            }
            _ => String::new(),
        },
        plain => plain.to_string(),
    }
}

/// One array element per line.
fn lines(items: &[Data]) -> String {
    if items.is_empty() {
        return "(empty array)".to_owned();
    }
    items.iter().map(readable).collect::<Vec<_>>().join("\n")
}

/// Octets that are printable ASCII, as text.
fn words(octets: &[u8]) -> Option<&str> {
    let printable = !octets.is_empty()
        && octets
            .iter()
            .all(|&octet| octet == b' ' || octet.is_ascii_graphic());
    printable
        .then(|| std::str::from_utf8(octets).ok())
        .flatten()
}

/// A COSEM date-time: twelve octets that name a moment of our time.
fn clock(octets: &[u8]) -> Option<String> {
    let time = DateTime(octets.try_into().ok()?);
    let plausible = (1970..=2200).contains(&time.date().year()?) && time.unix_ms().is_some();
    plausible.then(|| time.to_string())
}

/// A meter's own refusal in words: Data-Access-Result and Action-Result (IEC 62056-5-3, clause 7.4).
pub(crate) fn result_name(result: u32) -> &'static str {
    match result {
        0 => "success",
        1 => "hardware-fault",
        2 => "temporary-failure",
        3 => "read-write-denied",
        4 => "object-undefined",
        9 => "object-class-inconsistent",
        11 => "object-unavailable",
        12 => "type-unmatched",
        13 => "scope-of-access-violated",
        14 => "data-block-unavailable",
        15 => "long-get-or-action-aborted",
        16 => "no-long-get-or-action-in-progress",
        17 => "long-set-aborted",
        18 => "no-long-set-in-progress",
        19 => "data-block-number-invalid",
        _ => "other-reason",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_is_the_procedures_integer() {
        assert_eq!(parse("0").unwrap(), [0x0f, 0x00]);
        assert_eq!(parse("-1").unwrap(), [0x0f, 0xff]);
        let failure = parse("300").unwrap_err();
        assert!(failure.to_string().contains("long-unsigned"), "{failure}");
    }

    #[test]
    fn typed_values() {
        for (text, octets) in [
            ("null", "00"),
            ("boolean:true", "0301"),
            ("integer:-128", "0f80"),
            ("unsigned:255", "11ff"),
            ("long:-2", "10fffe"),
            ("long-unsigned:3", "120003"),
            ("double-long:1", "0500000001"),
            ("double-long-unsigned:1", "0600000001"),
            ("enum:2", "1602"),
            ("octets:0102", "09020102"),
            ("text:ab", "0a026162"),
            ("axdr:120003", "120003"),
        ] {
            assert_eq!(hex::encode(parse(text).unwrap()), octets, "{text}");
        }
    }

    #[test]
    fn what_is_malformed_is_a_usage_error() {
        for text in [
            "",
            "x",
            "unsigned:256",
            "octets:0",
            "axdr:12",
            "null:1",
            "colour:red",
            "boolean:1",
        ] {
            assert_eq!(
                parse(text).unwrap_err().exit(),
                crate::exit::Exit::USAGE,
                "{text}"
            );
        }
    }

    #[test]
    fn answers_are_readable() {
        assert_eq!(text(&[0x0f, 0xff]), "-1");
        assert_eq!(text(&[0x09, 0x02, b'O', b'K']), "OK (4f4b)");
        assert_eq!(text(&[0x02, 0x02, 0x11, 0x01, 0x03, 0x00]), "{ 1, false }");
        assert_eq!(text(&[0x01, 0x00]), "(empty array)");
        assert_eq!(text(&[0x13, 0x11, 0x02, 0x01, 0x02]), "1\n2");
        assert!(text(&[0x12, 0x00]).starts_with("undecodable"));
        let time = hex::decode("090c07ea0b16ff150501ff000000").unwrap();
        assert!(
            text(&time).starts_with("2026-11-22 21:05:01"),
            "{}",
            text(&time)
        );
        assert_eq!(json(&[0x11, 0x05])["value"], 5);
    }
}
