//! Pass 3 and 4 of HLS: what reply_to_HLS_authentication carries (IEC 62056-5-3, 7.2.2.3).

use serde_json::{Value, json};

use super::acse::mechanism_words;
use super::ciphered;
use super::data::data;
use super::keys::{Opened, Sealed};
use super::talk::Context;
use super::walk::{Said, Step, Walk, first};

/// Octets of an HLS5 token.
const TOKEN: usize = 17;

/// The octet string with f(StoC), from the client, or f(CtoS), from the server.
pub(crate) fn parameter(
    w: &mut Walk<'_>,
    c: &mut Context<'_>,
    name: &'static str,
    client: bool,
) -> Step {
    if w.peek() != Some(9) {
        return data(w, name);
    }
    let of = if client { "f(StoC)" } else { "f(CtoS)" };
    w.group(name, |w| {
        w.say("octet-string", format!("octet-string, {of}"));
        w.mark("tag", 1, |_| "octet-string".to_owned())?;
        let length = w.length(of)?;
        let gmac = match c.talk.mechanism {
            Some(5) => length == TOKEN,
            None => length == TOKEN && matches!(w.peek(), Some(0x10..=0x12)),
            Some(_) => false,
        };
        if !gmac {
            let words = c.talk.mechanism.map(mechanism_words);
            return w
                .leaf("value", length, |octets| {
                    let text = match words {
                        Some(words) => format!("{of}, {} octets, {words}", octets.len()),
                        None => format!("{of}, {} octets", octets.len()),
                    };
                    Said::new(hex::encode(octets), text).also("of", of)
                })
                .map(drop);
        }
        let start = w.at();
        w.group("token", |w| {
            w.say(
                Value::Null,
                format!("{of} of HLS5: control octet, counter, tag"),
            );
            let (control, counter, tag) = ciphered::token(w)?;
            let verified = verified(c, control.octet(), counter, &tag, client);
            w.member("of", json!(of));
            w.member("verified", json!(verified));
            match verified {
                Some(true) => w.add_text("verifies"),
                Some(false) => w.note(format!("{of} does not verify with the given keys")),
                None => {}
            }
            Ok(())
        })?;
        let octets = w.since(start);
        w.member("value", json!(hex::encode(octets)));
        Ok(())
    })
}

/// Whether a token is right, if keys, title and challenge are known.
fn verified(c: &Context<'_>, control: u8, counter: u32, tag: &[u8], client: bool) -> Option<bool> {
    let (challenge, title) = if client {
        (c.talk.stoc.as_ref()?, c.talk.client_title)
    } else {
        (c.talk.ctos.as_ref()?, c.talk.server_title)
    };
    // the whole challenge stands where an authenticated plaintext would
    let sealed = Sealed {
        control: dlms::SecurityControl::new(first(&[control]) & !0x20),
        counter,
        body: challenge,
        tag: Some(tag),
        extra: &[],
    };
    let keys: Vec<_> = c.keys.ek.iter().collect();
    let titles: Vec<_> = title
        .into_iter()
        .chain(c.keys.titles.iter().copied())
        .collect();
    match c.keys.open(&sealed, &keys, &titles) {
        Opened::Verified(..) => Some(true),
        Opened::WrongTag => Some(false),
        Opened::Unverified(_) | Opened::NoKey | Opened::NoTitle => None,
    }
}
