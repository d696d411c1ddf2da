//! ACSE: AARQ, AARE, RLRQ, RLRE (IEC 62056-5-3, 9.4.2; BER).

use serde_json::json;

use super::apdu;
use super::fault::{Fault, Kind};
use super::talk::Context;
use super::walk::{Said, Step, Walk, first, unsigned};

pub(crate) fn walk(w: &mut Walk<'_>, c: &mut Context<'_>, tag: u8) -> Step {
    if tag == 0x60 {
        c.talk.opened();
    }
    let at = w.at();
    let mut length = length(w, "the APDU")?;
    let left = w.left();
    // a length that cuts an element in two is wrong; one that ends between two is followed by something else
    if length < left && !elements_fit(w.ahead().get(..length).unwrap_or_default()) {
        w.record(Fault::new(
            Kind::LengthMismatch,
            at,
            format!("a length of {left}, which the elements have"),
            length.to_string(),
        ));
        length = left;
    }
    w.within(length, Kind::LengthMismatch, |w| {
        let mut mechanism = None;
        while w.left() > 0 {
            element(w, c, tag, &mut mechanism)?;
        }
        Ok(())
    })
}

/// A BER length. Two stacks write lengths over 127 in one octet; they are understood, and called what they are.
fn length(w: &mut Walk<'_>, of: &'static str) -> Step<usize> {
    let left = w.left();
    let octets = w.ahead();
    let head = first(octets);
    if head > 0x80 {
        let more = usize::from(head & 0x7f);
        let long = octets.get(1..more.saturating_add(1)).map(unsigned);
        let room = left.saturating_sub(more).saturating_sub(1);
        let fits = more <= 4
            && long.is_some_and(|long| usize::try_from(long).is_ok_and(|long| long <= room));
        let short = usize::from(head).saturating_add(1) == left;
        let tag_follows = matches!(octets.get(1), Some(0x04 | 0x80..=0x8b | 0xa1..=0xbe));
        if !fits && short && tag_follows {
            let at = w.at();
            w.record(Fault::new(
                Kind::LengthMismatch,
                at,
                format!("a length over 127 in long form (81 {head:02x})"),
                format!("{head:02x} in one octet"),
            ));
            w.mark("length", 1, |_| format!("{head} of {of}, not in long form"))?;
            return Ok(head.into());
        }
    }
    w.length(of)
}

/// Whether tag-length-value elements fill the octets exactly.
fn elements_fit(mut octets: &[u8]) -> bool {
    while let [_, length, rest @ ..] = octets {
        let (length, rest) = match length {
            0..=0x7f => (usize::from(*length), rest),
            0x81 => match rest {
                [length, rest @ ..] => (usize::from(*length), rest),
                [] => return false,
            },
            0x82 => match rest {
                [high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
                _ => return false,
            },
            _ => return false,
        };
        let Some(rest) = rest.get(length..) else {
            return false;
        };
        octets = rest;
    }
    octets.is_empty()
}

fn element(w: &mut Walk<'_>, c: &mut Context<'_>, apdu: u8, mechanism: &mut Option<u8>) -> Step {
    let tag = w.peek().unwrap_or_default();
    let request = apdu == 0x60;
    match (apdu, tag) {
        (0x60 | 0x61, 0x80) => bits(w, "protocol-version", "version"),
        (0x60 | 0x61, 0xa1) => constructed(w, "application-context-name", |w| {
            primitive(w, 0x06, "object identifier", context_name)
        }),
        (0x60, 0xa2) => octet_string(w, "called-AP-title"),
        (0x60, 0xa3) => octet_string(w, "called-AE-qualifier"),
        (0x60, 0xa4) => integer(w, "called-AP-invocation-id"),
        (0x60, 0xa5) => integer(w, "called-AE-invocation-id"),
        (0x60, 0xa6) => title(w, c, "calling-AP-title", true),
        (0x60, 0xa7) => certificate(w, "calling-AE-qualifier"),
        (0x60, 0xa8) => integer(w, "calling-AP-invocation-id"),
        (0x60, 0xa9) => integer(w, "calling-AE-invocation-id"),
        (0x60, 0x8a) => bits(w, "sender-acse-requirements", "authentication"),
        (0x60, 0x8b) => mechanism_name(w, c, mechanism),
        (0x60, 0xac) => {
            authentication_value(w, c, "calling-authentication-value", *mechanism, request)
        }
        (0x61, 0xa2) => constructed(w, "result", |w| {
            primitive(w, 0x02, "value", |octets| {
                code(
                    octets,
                    &["accepted", "rejected-permanent", "rejected-transient"],
                )
            })
        }),
        (0x61, 0xa3) => constructed(w, "result-source-diagnostic", diagnostic),
        (0x61, 0xa4) => title(w, c, "responding-AP-title", false),
        (0x61, 0xa5) => certificate(w, "responding-AE-qualifier"),
        (0x61, 0xa6) => integer(w, "responding-AP-invocation-id"),
        (0x61, 0xa7) => integer(w, "responding-AE-invocation-id"),
        (0x61, 0x88) => bits(w, "responder-acse-requirements", "authentication"),
        (0x61, 0x89) => mechanism_name(w, c, mechanism),
        (0x61, 0xaa) => {
            let mechanism = mechanism.or(c.talk.mechanism);
            authentication_value(w, c, "responding-authentication-value", mechanism, request)
        }
        (0x60 | 0x61, 0x9d | 0xbd) => plain(w, "implementation-information"),
        (0x62, 0x80) => reason(w, &["normal", "urgent"]),
        (0x63, 0x80) => reason(w, &["normal", "not-finished"]),
        (_, 0xbe) => constructed(w, "user-information", |w| {
            let at = w.at();
            if w.peek() != Some(0x04) {
                let found = w
                    .peek()
                    .map_or("the end".to_owned(), |tag| format!("{tag:02x}"));
                return Err(w.fail(Fault::new(
                    Kind::UnknownTag,
                    at,
                    "04, an octet string",
                    found,
                )));
            }
            w.mark("tag", 1, |_| "octet string".to_owned())?;
            let length = length(w, "the xDLMS APDU")?;
            w.within(length, Kind::LengthMismatch, |w| apdu::apdu(w, c))
        }),
        _ => {
            let at = w.at();
            w.record(Fault::new(
                Kind::UnknownTag,
                at,
                "an element of this APDU",
                format!("{tag:02x}"),
            ));
            plain(w, "unknown element")
        }
    }
}

/// An element in its tag and length.
fn constructed(
    w: &mut Walk<'_>,
    name: &'static str,
    walk: impl FnOnce(&mut Walk<'_>) -> Step,
) -> Step {
    w.group(name, |w| {
        w.mark("tag", 1, |octets| format!("[{}]", first(octets) & 0x1f))?;
        let length = length(w, name)?;
        w.within(length, Kind::LengthMismatch, walk)
    })
}

/// A value in its universal tag and length.
fn primitive(
    w: &mut Walk<'_>,
    tag: u8,
    name: &'static str,
    say: impl FnOnce(&[u8]) -> Said,
) -> Step {
    let at = w.at();
    if let Some(found) = w.peek().filter(|found| *found != tag) {
        w.record(Fault::new(
            Kind::UnknownTag,
            at,
            format!("{tag:02x}"),
            format!("{found:02x}"),
        ));
    }
    w.mark("tag", 1, |octets| universal(first(octets)).to_owned())?;
    let length = length(w, name)?;
    w.leaf(name, length, say).map(drop)
}

const fn universal(tag: u8) -> &'static str {
    match tag {
        0x02 => "integer",
        0x03 => "bit string",
        0x04 => "octet string",
        0x06 => "object identifier",
        _ => "tag",
    }
}

fn plain(w: &mut Walk<'_>, name: &'static str) -> Step {
    constructed(w, name, |w| {
        let left = w.left();
        w.leaf("value", left, Said::hex).map(drop)
    })
}

fn octet_string(w: &mut Walk<'_>, name: &'static str) -> Step {
    constructed(w, name, |w| primitive(w, 0x04, "value", Said::hex))
}

fn certificate(w: &mut Walk<'_>, name: &'static str) -> Step {
    constructed(w, name, |w| {
        primitive(w, 0x04, "value", |octets| {
            let said = Said::hex(octets);
            match octets {
                [0x30, ..] => said.also("content", "certificate (X.509, DER)"),
                _ => said,
            }
        })
    })
}

fn integer(w: &mut Walk<'_>, name: &'static str) -> Step {
    constructed(w, name, |w| {
        primitive(w, 0x02, "value", |octets| {
            Said::new(unsigned(octets), unsigned(octets).to_string())
        })
    })
}

fn title(w: &mut Walk<'_>, c: &mut Context<'_>, name: &'static str, client: bool) -> Step {
    constructed(w, name, |w| {
        primitive(w, 0x04, "system-title", |octets| {
            c.talk.title(octets, client);
            system_title(octets)
        })
    })
}

/// A system title: three letters of the manufacturer, five octets of its own.
pub(crate) fn system_title(octets: &[u8]) -> Said {
    let hex = hex::encode(octets);
    let maker = octets.get(..3).and_then(super::data::words);
    match (octets.len(), maker) {
        (0, _) => Said::new(hex, "empty"),
        (8, Some(maker)) => Said::new(hex, format!("system title of manufacturer {maker}")),
        (8, None) => Said::new(hex, "system title"),
        _ => Said::new(
            hex,
            format!("{} octets, a system title has 8", octets.len()),
        ),
    }
}

fn bits(w: &mut Walk<'_>, name: &'static str, first_bit: &'static str) -> Step {
    constructed(w, name, |w| {
        w.mark("unused bits", 1, |octets| {
            format!("{} unused bits", first(octets))
        })?;
        let left = w.left();
        w.leaf("value", left, |octets| {
            let set = first(octets) & 0x80 != 0;
            Said::new(
                hex::encode(octets),
                if set {
                    format!("bit 0: {first_bit}")
                } else {
                    "no bit 0".to_owned()
                },
            )
        })
        .map(drop)
    })
}

fn reason(w: &mut Walk<'_>, names: &[&'static str]) -> Step {
    constructed(w, "reason", |w| {
        let left = w.left();
        w.leaf("value", left, |octets| match unsigned(octets) {
            30 => Said::code(30, "user-defined"),
            _ => code(octets, names),
        })
        .map(drop)
    })
}

fn code(octets: &[u8], names: &[&'static str]) -> Said {
    let code = u32::try_from(unsigned(octets)).unwrap_or(u32::MAX);
    let name = usize::try_from(code).ok().and_then(|code| names.get(code));
    Said::code(code, name.unwrap_or(&"not in the standard"))
}

fn diagnostic(w: &mut Walk<'_>) -> Step {
    let user = w.peek() == Some(0xa1);
    let names: &[&'static str] = if user { &USER } else { &PROVIDER };
    let source = if user {
        "acse-service-user"
    } else {
        "acse-service-provider"
    };
    let at = w.at();
    if let Some(found) = w.peek().filter(|tag| !matches!(tag, 0xa1 | 0xa2)) {
        w.record(Fault::new(
            Kind::UnknownTag,
            at,
            "a1 or a2, the source of the diagnostic",
            format!("{found:02x}"),
        ));
    }
    constructed(w, source, |w| {
        primitive(w, 0x02, "value", |octets| code(octets, names))
    })
}

const USER: [&str; 15] = [
    "null",
    "no-reason-given",
    "application-context-name-not-supported",
    "calling-AP-title-not-recognized",
    "calling-AP-invocation-identifier-not-recognized",
    "calling-AE-qualifier-not-recognized",
    "calling-AE-invocation-identifier-not-recognized",
    "called-AP-title-not-recognized",
    "called-AP-invocation-identifier-not-recognized",
    "called-AE-qualifier-not-recognized",
    "called-AE-invocation-identifier-not-recognized",
    "authentication-mechanism-name-not-recognised",
    "authentication-mechanism-name-required",
    "authentication-failure",
    "authentication-required",
];

const PROVIDER: [&str; 3] = ["null", "no-reason-given", "no-common-acse-version"];

/// The arc 2.16.756.5.8 of the DLMS UA.
const DLMS_UA: [u8; 5] = [0x60, 0x85, 0x74, 0x05, 0x08];

fn context_name(octets: &[u8]) -> Said {
    let name = match octets.strip_prefix(&DLMS_UA) {
        Some([1, 1]) => "logical name referencing, no ciphering",
        Some([1, 2]) => "short name referencing, no ciphering",
        Some([1, 3]) => "logical name referencing, with ciphering",
        Some([1, 4]) => "short name referencing, with ciphering",
        _ => "not an application context of the DLMS UA",
    };
    identifier(octets, name)
}

fn mechanism_name(w: &mut Walk<'_>, c: &mut Context<'_>, mechanism: &mut Option<u8>) -> Step {
    constructed(w, "mechanism-name", |w| {
        let left = w.left();
        let octets = w.leaf("object identifier", left, |octets| {
            let name = match octets.strip_prefix(&DLMS_UA) {
                Some([2, id]) => mechanism_words(*id),
                _ => "not a mechanism of the DLMS UA",
            };
            identifier(octets, name)
        })?;
        if let Some([2, id]) = octets.strip_prefix(&DLMS_UA) {
            *mechanism = Some(*id);
            c.talk.mechanism = Some(*id);
        }
        Ok(())
    })
}

pub(crate) const fn mechanism_words(id: u8) -> &'static str {
    match id {
        0 => "lowest level security (0)",
        1 => "low level security (1)",
        2 => "high level security, manufacturer-specific (2)",
        3 => "high level security, MD5 (3)",
        4 => "high level security, SHA-1 (4)",
        5 => "high level security, GMAC (5)",
        6 => "high level security, SHA-256 (6)",
        7 => "high level security, ECDSA (7)",
        _ => "not in the standard",
    }
}

/// An object identifier, dotted.
fn identifier(octets: &[u8], name: &str) -> Said {
    let head = u32::from(first(octets));
    let mut arcs = vec![(head / 40).min(2)];
    arcs.push(head.saturating_sub((head / 40).min(2).saturating_mul(40)));
    let mut arc = 0_u32;
    for octet in octets.iter().skip(1) {
        arc = (arc << 7) | u32::from(octet & 0x7f);
        if octet & 0x80 == 0 {
            arcs.push(arc);
            arc = 0;
        }
    }
    let dotted: Vec<_> = arcs.iter().map(u32::to_string).collect();
    let dotted = dotted.join(".");
    Said::new(
        json!({ "id": dotted, "name": name }),
        format!("{dotted}: {name}"),
    )
}

fn authentication_value(
    w: &mut Walk<'_>,
    c: &mut Context<'_>,
    name: &'static str,
    mechanism: Option<u8>,
    request: bool,
) -> Step {
    constructed(w, name, |w| {
        if w.peek() != Some(0x80) {
            let left = w.left();
            return w
                .leaf("value", left, |octets| {
                    Said::secret(octets, "not a charstring")
                })
                .map(drop);
        }
        w.mark("tag", 1, |_| "charstring [0]".to_owned())?;
        let length = length(w, name)?;
        // a server has no password to show; one of them leaves the mechanism's name out
        let challenge = !request || mechanism >= Some(2);
        w.leaf("value", length, |octets| match challenge {
            true => {
                c.talk.challenge(octets, request);
                let whose = if request { "CtoS" } else { "StoC" };
                Said::new(
                    hex::encode(octets),
                    format!("challenge {whose}, {} octets", octets.len()),
                )
            }
            false => Said::secret(octets, "password"),
        })
        .map(drop)
    })
}
