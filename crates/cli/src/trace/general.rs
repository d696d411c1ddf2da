//! general-ciphering, general-signing and general-block-transfer (IEC 62056-5-3, 9.2.7 and 9.4).

use serde_json::json;

use super::acse::system_title;
use super::apdu;
use super::ciphered::{self, Head};
use super::content_key::{Parties, Source};
use super::fault::{Fault, Kind};
use super::notification::time;
use super::talk::Context;
use super::walk::{Said, Step, Walk, first};

pub(crate) fn ciphering(w: &mut Walk<'_>, c: &mut Context<'_>) -> Step {
    let (parties, extra) = parties(w)?;
    let source = if w.present("key-info")? {
        w.group("key-info", key_info)?
    } else {
        None
    };
    let head = Head {
        tag: 0xdd,
        title: parties.originator,
        dedicated: false,
        extra,
        source: source.map(|source| (source, parties)),
    };
    ciphered::content(w, c, &head)
}

pub(crate) fn signing(w: &mut Walk<'_>, c: &mut Context<'_>) -> Step {
    parties(w)?;
    let length = w.length("content")?;
    w.within(length, Kind::LengthMismatch, |w| {
        w.group("content", |w| apdu::apdu(w, c))
    })?;
    w.prefixed("signature", |octets| {
        let curve = match octets.len() {
            64 => "ECDSA P-256, r and s",
            96 => "ECDSA P-384, r and s",
            _ => "of no suite's length",
        };
        Said::new(
            hex::encode(octets),
            format!("{} octets, {curve}", octets.len()),
        )
    })
    .map(drop)
}

/// From the transaction-id to the other-information; also as octets, for they are authenticated.
fn parties(w: &mut Walk<'_>) -> Step<(Parties, Vec<u8>)> {
    let start = w.at();
    let transaction_id = w.prefixed("transaction-id", Said::hex)?.to_vec();
    let originator = w.prefixed("originator-system-title", system_title)?;
    let recipient = w.prefixed("recipient-system-title", system_title)?;
    time(w)?;
    w.prefixed("other-information", Said::hex)?;
    let parties = Parties {
        transaction_id,
        originator: originator.try_into().ok(),
        recipient: recipient.try_into().ok(),
    };
    Ok((parties, w.since(start).to_vec()))
}

fn key_info(w: &mut Walk<'_>) -> Step<Option<Source>> {
    let at = w.at();
    let octets = w.mark("choice", 1, |octets| format!("[{}]", first(octets)))?;
    match first(octets) {
        0 => {
            w.say("identified-key", "identified-key");
            w.code("key-id", |id| match id {
                0 => "global-unicast-encryption-key",
                1 => "global-broadcast-encryption-key",
                _ => "not in the standard",
            })?;
            Ok(None)
        }
        1 => {
            w.say("wrapped-key", "wrapped-key");
            w.code("kek-id", |id| match id {
                0 => "master-key",
                _ => "not in the standard",
            })?;
            let wrapped = w.prefixed("key-ciphered-data", Said::hex)?;
            Ok(Some(Source::Wrapped(wrapped.to_vec())))
        }
        2 => {
            w.say("agreed-key", "agreed-key");
            let parameters = w.prefixed("key-parameters", |octets| {
                let name = match octets {
                    [1] => "one-pass Diffie-Hellman C(1e, 1s)",
                    [2] => "static unified model C(0e, 2s)",
                    _ => "not in the standard",
                };
                Said::new(json!({ "value": hex::encode(octets), "name": name }), name)
            })?;
            let data = w.prefixed("key-ciphered-data", |octets| {
                let said = match octets.len() {
                    0 => "none",
                    128 => "ephemeral public key of P-256 and its signature",
                    192 => "ephemeral public key of P-384 and its signature",
                    _ => "key data",
                };
                Said::new(
                    hex::encode(octets),
                    format!("{} octets, {said}", octets.len()),
                )
            })?;
            Ok(Some(match parameters {
                [2] => Source::Static,
                _ => Source::OnePass(data.to_vec()),
            }))
        }
        found => Err(w.fail(Fault::new(
            Kind::UnknownTag,
            at,
            "00 identified, 01 wrapped or 02 agreed key",
            format!("{found:02x}"),
        ))),
    }
}

pub(crate) fn block_transfer(w: &mut Walk<'_>, c: &mut Context<'_>) -> Step {
    let control = w.leaf("block-control", 1, |octets| {
        let octet = first(octets);
        let (last, streaming, window) = (octet & 0x80 != 0, octet & 0x40 != 0, octet & 0x3f);
        Said::new(
            json!({ "last_block": last, "streaming": streaming, "window": window }),
            format!("last-block {last}, streaming {streaming}, window {window}"),
        )
    })?;
    let last = first(control) & 0x80 != 0;
    let number = w.u16("block-number")?;
    w.u16("block-number-ack")?;
    let raw = w.prefixed("block-data", Said::hex)?;
    if raw.is_empty() {
        return Ok(());
    }
    if let Some(whole) = c
        .talk
        .block("general-block-transfer", number.into(), last, raw, w)
    {
        let (json, fault) = apdu::inner(c, "joined APDU", whole);
        w.member("joined_apdu", json);
        if let Some(fault) = fault {
            w.record(fault);
        }
    }
    Ok(())
}
