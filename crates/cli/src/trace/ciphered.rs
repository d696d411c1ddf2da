//! Ciphered APDUs (IEC 62056-5-3, 5.7): the security header, the content, and with keys the plaintext.

use dlms::SecurityControl;
use serde_json::{Value, json};

use super::acse::system_title;
use super::content_key::{self, Parties, Source};
use super::fault::{Fault, Kind};
use super::keys::{Key, Opened, Sealed};
use super::talk::{Context, Talk};
use super::walk::{Said, Step, Walk, first, unsigned};
use super::{apdu, keys::Keys};

/// Octets of an authentication tag.
const TAG: usize = 12;

/// What comes before the ciphered content.
pub(crate) struct Head {
    /// The APDU's tag.
    pub(crate) tag: u8,
    /// The originator's title, if the APDU names it.
    pub(crate) title: Option<[u8; 8]>,
    pub(crate) dedicated: bool,
    /// What is authenticated besides control octet and key.
    pub(crate) extra: Vec<u8>,
    /// Where the key comes from, if it is not the global or the dedicated one.
    pub(crate) source: Option<(Source, Parties)>,
}

pub(crate) fn service_specific(w: &mut Walk<'_>, c: &mut Context<'_>, tag: u8) -> Step {
    let head = Head {
        tag,
        title: None,
        dedicated: matches!(tag, 0x41..=0x58 | 0xd0..=0xd7),
        extra: Vec::new(),
        source: None,
    };
    content(w, c, &head)
}

pub(crate) fn general(w: &mut Walk<'_>, c: &mut Context<'_>, tag: u8) -> Step {
    let title = w.prefixed("system-title", system_title)?;
    let head = Head {
        tag,
        title: title.try_into().ok(),
        dedicated: tag == 0xdc,
        extra: Vec::new(),
        source: None,
    };
    content(w, c, &head)
}

/// The content with its length: control octet, invocation counter, text, tag.
pub(crate) fn content(w: &mut Walk<'_>, c: &mut Context<'_>, head: &Head) -> Step {
    let length = w.length("ciphered-content")?;
    // a segment that ends before the content does has no tag to check, and no text that is whole
    let begins = w.partial == Some(w.at().saturating_add(length));
    w.within(length, Kind::LengthMismatch, |w| {
        w.group("ciphered-content", |w| match begins {
            true => beginning(w, c, head),
            false => sealed(w, c, head),
        })
    })
}

fn beginning(w: &mut Walk<'_>, c: &mut Context<'_>, head: &Head) -> Step {
    let control = control(w)?;
    let counter = w.u32("invocation-counter")?;
    let security = security(c, head, control, counter);
    c.security.get_or_insert(security);
    w.rest_as("the beginning of the text");
    Ok(())
}

fn security(c: &Context<'_>, head: &Head, control: SecurityControl, counter: u32) -> Value {
    let title = head.title.or_else(|| expected(c.talk, head.tag));
    json!({
        "control_byte": format!("{:02x}", control.octet()),
        "control": control_json(control),
        "suite": control.octet() & 0x0f,
        "system_title": title.map(hex::encode),
        "invocation_counter": counter,
        "authentication_tag": Value::Null,
    })
}

fn sealed(w: &mut Walk<'_>, c: &mut Context<'_>, head: &Head) -> Step {
    let control = control(w)?;
    let counter = w.u32("invocation-counter")?;
    let outermost = c.security.is_none();
    let mut security = security(c, head, control, counter);
    if outermost {
        c.security = Some(security.clone());
    }
    let tag_len = if control.is_authenticated() { TAG } else { 0 };
    let text_len = w.left().saturating_sub(tag_len);
    let start = w.at();
    let in_clear = if control.is_encrypted() {
        w.leaf("ciphertext", text_len, Said::hex)?;
        None
    } else if control.is_compressed() {
        w.leaf("compressed-text", text_len, Said::hex)?;
        None
    } else {
        w.within(text_len, Kind::LengthMismatch, |w| apdu::apdu(w, c))?;
        w.done().cloned()
    };
    let body = w.since(start);
    let at = w.at();
    let tag = match tag_len {
        0 => None,
        len => Some(w.leaf("authentication-tag", len, Said::hex)?),
    };
    security["authentication_tag"] = json!(tag.map(hex::encode));
    let sealed = Sealed {
        control,
        counter,
        body,
        tag,
        extra: &head.extra,
    };
    let opened = (!c.keys.is_empty()).then(|| open(c, head, &sealed));
    let (title, plaintext) = match in_clear {
        Some(node) => {
            let verified = said_of_tag(w, opened.as_ref(), at);
            let hex = super::talk::masked(body, &shifted(node.clone(), start));
            let found = matches!(opened, Some(Opened::Verified(..)));
            (
                opened.and_then(|opened| opened.title()).filter(|_| found),
                json!({ "hex": hex, "apdu": node.json(), "verified": verified }),
            )
        }
        None => deciphered(w, c, opened, at, control.is_compressed()),
    };
    if let Some(title) = title {
        security["system_title"] = json!(hex::encode(title));
    }
    if outermost {
        c.security = Some(security);
        c.plaintext = Some(plaintext).filter(|plaintext| !plaintext.is_null());
    }
    Ok(())
}

/// A tree whose offsets begin at `start`, as one that begins at 0.
fn shifted(mut node: super::node::Node, start: usize) -> super::node::Node {
    node.offset = node.offset.saturating_sub(start);
    node.children = node
        .children
        .into_iter()
        .map(|child| shifted(child, start))
        .collect();
    node
}

impl Opened {
    fn title(&self) -> Option<[u8; 8]> {
        match self {
            Self::Verified(_, title) => Some(*title),
            Self::Unverified(_) | Self::WrongTag | Self::NoKey | Self::NoTitle => None,
        }
    }
}

/// Whether the tag is right, if that can be said.
fn said_of_tag(w: &mut Walk<'_>, opened: Option<&Opened>, at: usize) -> Option<bool> {
    match opened? {
        Opened::Verified(..) => Some(true),
        Opened::WrongTag => {
            w.record(wrong_tag(at));
            Some(false)
        }
        Opened::NoTitle => {
            w.note(NO_TITLE);
            None
        }
        Opened::Unverified(_) | Opened::NoKey => None,
    }
}

fn wrong_tag(at: usize) -> Fault {
    Fault::new(
        Kind::WrongTag,
        at,
        "the tag that the given keys and titles make",
        "another: wrong key, wrong title, or changed octets",
    )
}

const NO_TITLE: &str =
    "the sender's system title is not known: give --system-title, or the AARQ and AARE too";

/// Explains the plaintext, if there is one.
fn deciphered(
    w: &mut Walk<'_>,
    c: &mut Context<'_>,
    opened: Option<Opened>,
    at: usize,
    compressed: bool,
) -> (Option<[u8; 8]>, Value) {
    let (plain, title, verified) = match opened {
        Some(Opened::Verified(plain, title)) => (plain, title, Some(true)),
        Some(Opened::Unverified(tries)) => {
            let Some((plain, title)) = tries.into_iter().find(|(plain, _)| is_apdu(plain)) else {
                w.note("no key and title that were given decipher this to an APDU");
                return (None, Value::Null);
            };
            w.note("deciphered, but there is no tag or no authentication key: not verified");
            (plain, title, None)
        }
        Some(Opened::WrongTag) => {
            w.record(wrong_tag(at));
            return (None, Value::Null);
        }
        Some(Opened::NoTitle) => {
            w.note(NO_TITLE);
            return (None, Value::Null);
        }
        Some(Opened::NoKey) => {
            w.note("no key was given for this APDU");
            return (None, Value::Null);
        }
        None => return (None, Value::Null),
    };
    if compressed {
        w.note("the plaintext is compressed (V.44), which is not undone here");
        let json = json!({ "hex": hex::encode(plain), "apdu": null, "verified": verified });
        return (Some(title), json);
    }
    let (json, fault) = apdu::inner(c, "plaintext", plain);
    if let Some(fault) = fault {
        w.record(fault);
    }
    let hex = c
        .parts
        .iter()
        .rev()
        .find(|part| part.title == "plaintext")
        .map(super::talk::Part::hex);
    let json = json!({ "hex": hex, "apdu": json, "verified": verified });
    (Some(title), json)
}

/// Whether octets are one APDU and nothing more. Nothing is learnt from a guess.
fn is_apdu(octets: &[u8]) -> bool {
    let keys = Keys::default();
    let mut talk = Talk::default();
    let mut c = Context::new(&keys, &mut talk);
    let mut w = Walk::new(octets);
    if apdu::apdu(&mut w, &mut c).is_ok() {
        w.trailing();
    }
    w.fault.is_none()
}

fn open(c: &Context<'_>, head: &Head, sealed: &Sealed<'_>) -> Opened {
    let suite = sealed.control.suite().unwrap_or_default();
    let derived = match &head.source {
        Some((source, parties)) => content_key::derived(c.keys, suite, source, parties),
        None => Vec::new(),
    };
    let dedicated = c.talk.dedicated_key.iter().chain(&c.keys.dk);
    let keys: Vec<&Key> = if head.dedicated {
        dedicated.collect()
    } else {
        derived.iter().chain(&c.keys.ek).collect()
    };
    match c.keys.open(sealed, &keys, &titles(c, head)) {
        // the key it speaks of was not there: nothing is proved
        Opened::WrongTag if head.source.is_some() && derived.is_empty() => Opened::NoKey,
        opened => opened,
    }
}

/// The titles the sender may have, the likely ones first. One that the APDU names is the only one.
fn titles(c: &Context<'_>, head: &Head) -> Vec<[u8; 8]> {
    if let Some(title) = head.title {
        return vec![title];
    }
    let mut titles: Vec<[u8; 8]> = Vec::new();
    let likely = expected(c.talk, head.tag);
    let seen = [c.talk.client_title, c.talk.server_title];
    let all = likely
        .into_iter()
        .chain(c.keys.titles.iter().copied())
        .chain(seen.into_iter().flatten());
    for title in all {
        if !titles.contains(&title) {
            titles.push(title);
        }
    }
    titles
}

/// The title that goes with the APDU's direction, as far as the frames said.
fn expected(talk: &Talk, tag: u8) -> Option<[u8; 8]> {
    match tag {
        0x21 | 0x25 | 0x26 | 0x36 | 0x41 | 0x45 | 0x46 | 0x56 => talk.client_title,
        0xc8 | 0xc9 | 0xcb | 0xd0 | 0xd1 | 0xd3 => talk.client_title,
        _ => talk.server_title,
    }
}

/// The security control octet.
fn control(w: &mut Walk<'_>) -> Step<SecurityControl> {
    let at = w.at();
    let octets = w.leaf("security-control", 1, |octets| {
        let control = SecurityControl::new(first(octets));
        Said::new(control_json(control), control_words(control))
    })?;
    let control = SecurityControl::new(first(octets));
    if control.suite().is_none() {
        w.record(Fault::new(
            Kind::BadValue,
            at,
            "security suite 0, 1 or 2",
            (control.octet() & 0x0f).to_string(),
        ));
    }
    Ok(control)
}

fn control_json(control: SecurityControl) -> Value {
    json!({
        "value": control.octet(),
        "suite": control.octet() & 0x0f,
        "authentication": control.is_authenticated(),
        "encryption": control.is_encrypted(),
        "key_set": if control.is_broadcast() { "broadcast" } else { "unicast" },
        "compression": control.is_compressed(),
    })
}

pub(crate) fn control_words(control: SecurityControl) -> String {
    let protection = match (control.is_authenticated(), control.is_encrypted()) {
        (true, true) => "authenticated and encrypted",
        (true, false) => "authenticated only",
        (false, true) => "encrypted only",
        (false, false) => "neither authenticated nor encrypted",
    };
    let keys = if control.is_broadcast() {
        "broadcast"
    } else {
        "unicast"
    };
    let compression = if control.is_compressed() {
        ", compressed"
    } else {
        ""
    };
    format!(
        "suite {}, {protection}, {keys} key{compression}",
        control.octet() & 0x0f
    )
}

/// An HLS5 token: control octet, invocation counter, tag.
pub(crate) fn token(w: &mut Walk<'_>) -> Step<(SecurityControl, u32, Vec<u8>)> {
    let control = control(w)?;
    let counter = w.leaf("invocation-counter", 4, |octets| {
        Said::new(unsigned(octets), unsigned(octets).to_string())
    })?;
    let counter = u32::try_from(unsigned(counter)).unwrap_or_default();
    let tag = w.leaf("authentication-tag", TAG, Said::hex)?;
    Ok((control, counter, tag.to_vec()))
}
