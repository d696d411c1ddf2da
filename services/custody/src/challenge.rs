//! Challenges: ours, and which of the meter's are answered. Whoever sends a challenge chooses what is authenticated.
//!
//! A token of HLS5 is a GMAC over SC || AK || challenge, with the nonce of client title and counter (IEC 62056-5-3). An
//! APDU that is authenticated only is a GMAC over the same octets, with the APDU in the place of the challenge; in
//! general-ciphering with the header before the APDU. Both are under the same key, and SC is the same octet in both, in
//! every suite: 10, 11, 12. So a token over a challenge *is* the tag of an APDU with these octets, and a meter whose
//! policy asks for authentication alone would obey it. The counter of the token is fresh, so it does not help that the
//! meter counts. It does not help either that this association encrypts: nothing keeps the attacker from sending the
//! APDU in another one. So custody answers no challenge that could be read as a request, bare or after a header of
//! general-ciphering, whatever the context. A meter's random challenge is refused so about once in 1,700 associations;
//! the next association has another.
//!
//! The other way round our own challenge must not be a response: an attacker who holds back a meter's token over it
//! would hold the tag of a response with these octets, fresh counter and all. It is 16 octets that our token drew, and
//! drawn again while it begins like a response.
//!
//! A token of HLS7 is an ECDSA signature over ST-C || ST-S || StoC || CtoS with the key that also signs APDUs
//! (general-signing) and ephemeral keys of key agreement (C(1e, 1s): the bare X || Y; C(2e, 0s): key-id || X || Y).
//! General-signing signs the header and the content, and begins with the length of the transaction id; what custody
//! signs so begins with 08. A client title begins with the three letters of its manufacturer (FLAG): custody computes no
//! HLS7 token for a title that does not begin with a capital letter, 41..5A, so no signature custody makes for one
//! purpose is of octets it would sign for the other. Our own challenge is 64 octets, so what is signed is 112 or more,
//! and an ephemeral key with its id 97 at most. Read by a meter as general-signing, a token's octets would be a
//! transaction id of 65..90 octets, which swallows both titles and most of the meter's challenge; what is left must
//! still be a header, a length that fits and an APDU, and its end is our own challenge, which the attacker cannot
//! choose. To be sure, a message that parses so is not signed.
//!
//! Tokens of HLS 3, 4 and 6 are hashes with a secret that is used for nothing else. Those of 3 and 4 are the same in
//! both directions (challenge || secret), and an attacker who has two associations opened at once could have the one
//! answer the challenge of the other: opening a context ends the others of its meter.

use dlms::{
    SystemTitle,
    security::{GENERAL_SIGNING, GeneralSigning},
};

/// Octets of our challenge CtoS (IEC 62056-5-3 allows 8..64).
pub(crate) const CHALLENGE: usize = 16;
/// The same for HLS with ECDSA, which asks for 32..64: the longest, see above.
pub(crate) const CHALLENGE_ECDSA: usize = 64;

/// Whether a challenge of ours could be read as the beginning of a response.
pub(crate) fn is_response(challenge: &[u8]) -> bool {
    matches!(
        challenge.first(),
        // InitiateResponse, ConfirmedServiceError, notifications; responses; general forms, whose header comes first
        Some(0x08 | 0x0E | 0x0F | 0xC2 | 0xC4..=0xC7 | 0xD8..=0xE0) | None
    )
}

/// Whether the meter's challenge could be read as a request of authentication alone.
pub(crate) fn is_request(challenge: &[u8]) -> bool {
    begins_request(challenge) || general(challenge).is_some_and(begins_request)
}

/// Whether octets begin like a request. Lengths are read in every form: a lenient meter takes 81 08 for 08.
fn begins_request(octets: &[u8]) -> bool {
    let Some((tag, rest)) = octets.split_first() else {
        return false;
    };
    let counts = |octets, wanted: &[usize]| {
        length(octets).is_some_and(|(length, _)| wanted.contains(&length))
    };
    match (tag, rest) {
        // GET, SET, ACTION: service types normal .. with-list-and-block.
        (0xC0 | 0xC1 | 0xC3, [1..=6, ..]) => true,
        // InitiateRequest: then response-allowed or its absence, or a dedicated key of an AES length. A-XDR takes any
        // octet but 0 for "present". With a key of its own choice an attacker would cipher the rest of the association
        // alone.
        (0x01, [0, 0 | 1, ..]) => true,
        (0x01, [1..=255, key @ ..]) => counts(key, &[16, 24, 32]),
        // Read, Write, UnconfirmedWrite of an association with short names, which custody never asks for, but whoever
        // sends the AARQ might: a few accesses, the first by variable name, with parameters, or of a block.
        (0x05 | 0x06 | 0x16, accesses) => length(accesses).is_some_and(|(count, first)| {
            (1..=16).contains(&count) && matches!(first, [2 | 4..=7, ..])
        }),
        // ACCESS request: long-invoke-id-and-priority, then a date-time of 0 or 12 octets.
        (0xD9, [_, _, _, _, time @ ..]) => counts(time, &[0, 12]),
        // General block transfer: any of the first 255 blocks.
        (0xE0, [_, 0, ..]) => true,
        // An APDU that is ciphered or signed once more: a title or a transaction id of the usual length, or none; with a
        // transaction id of another length the rest of the header tells.
        (0xDB..=0xDF, header) => counts(header, &[0, 8]) || general(header).is_some(),
        _ => false,
    }
}

/// What follows a header of general-ciphering: transaction id, two titles, date-time, other information, each after its
/// length.
fn general(octets: &[u8]) -> Option<&[u8]> {
    let any: &[usize] = &[];
    let mut rest = octets;
    for allowed in [any, &[0, 8], &[0, 8], &[0, 12], any] {
        let (length, after) = length(rest)?;
        if !allowed.is_empty() && !allowed.contains(&length) {
            return None;
        }
        rest = after.get(length..)?;
    }
    Some(rest)
}

/// A length, and what is after it: one octet below 80, or 80 + n and n octets, however many of them are 0.
fn length(octets: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = octets.split_first()?;
    let Some(count) = first.checked_sub(0x80) else {
        return Some((usize::from(*first), rest));
    };
    let (digits, rest) = rest.split_at_checked(count.into())?;
    let zeros = digits.iter().take_while(|digit| **digit == 0).count();
    let length = match digits.get(zeros..)? {
        [] => 0,
        [digit] => usize::from(*digit),
        // More than fits into a challenge.
        _ => usize::MAX,
    };
    Some((length, rest))
}

/// Whether a client with this title may sign challenges.
pub(crate) fn is_flag(title: SystemTitle) -> bool {
    title.bytes().first().is_some_and(u8::is_ascii_uppercase)
}

/// Whether what HLS7 signs could be read as a signed APDU.
pub(crate) fn is_signed_apdu(message: &[u8]) -> bool {
    GeneralSigning::decode(&[&[GENERAL_SIGNING][..], message, &[0]].concat()).is_ok()
}

#[cfg(test)]
mod tests;
