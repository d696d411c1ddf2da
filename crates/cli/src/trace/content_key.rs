//! The key of a general-ciphering APDU that its key-info speaks of: wrapped, or agreed (IEC 62056-5-3, 5.3.4.6).

use dlms::agreement::{AlgorithmId, KeyId, party_u_static};
use dlms::{Suite, SystemTitle};
use zeroize::Zeroizing;

use super::keys::{Key, Keys, Lab};

/// What the APDU says of its key.
pub(crate) enum Source {
    Wrapped(Vec<u8>),
    /// The originator's ephemeral public key, and its signature.
    OnePass(Vec<u8>),
    Static,
}

/// Between whom, and in which transaction.
pub(crate) struct Parties {
    pub(crate) transaction_id: Vec<u8>,
    pub(crate) originator: Option<[u8; 8]>,
    pub(crate) recipient: Option<[u8; 8]>,
}

/// The keys it may be, with what the laboratory meters hold: in one-pass agreement only what goes to the meter, for the
/// head-end's private key is nobody's to have.
pub(crate) fn derived(keys: &Keys, suite: Suite, source: &Source, parties: &Parties) -> Vec<Key> {
    let mut found = Vec::new();
    for lab in &keys.labs {
        match source {
            Source::Wrapped(wrapped) => found.extend(
                lab.keys
                    .master
                    .as_ref()
                    .and_then(|kek| softcipher::unwrap(kek.expose(), wrapped)),
            ),
            Source::OnePass(data) => found.extend(one_pass(lab, suite, data, parties)),
            Source::Static => found.extend(static_static(lab, suite, parties)),
        }
    }
    found
        .iter()
        .map(|key| Zeroizing::new(key.expose().to_vec()))
        .collect()
}

fn one_pass(lab: &Lab, suite: Suite, data: &[u8], parties: &Parties) -> Vec<softcipher::Secret> {
    let own = lab.keys.agreement.as_ref();
    let public = data
        .get(..data.len() / 2)
        .and_then(softcipher::PublicKey::from_octets);
    let to_meter = parties.recipient == Some(lab.server);
    let z = own
        .zip(public.as_ref())
        .filter(|_| to_meter)
        .and_then(|(own, public)| own.agree(public));
    match (z, parties.originator) {
        (Some(z), Some(originator)) => both(suite, &z, &originator, &lab.server),
        _ => Vec::new(),
    }
}

fn static_static(lab: &Lab, suite: Suite, parties: &Parties) -> Vec<softcipher::Secret> {
    let (Some(originator), Some(recipient)) = (parties.originator, parties.recipient) else {
        return Vec::new();
    };
    let own = lab.keys.agreement.as_ref();
    let Some(z) = own
        .zip(lab.keys.peer_agreement.as_ref())
        .and_then(|(own, peer)| own.agree(peer))
    else {
        return Vec::new();
    };
    let party_u = party_u_static(SystemTitle::new(originator), &parties.transaction_id);
    both(suite, &z, &party_u, &recipient)
}

/// With either way of writing the AlgorithmID.
fn both(
    suite: Suite,
    z: &softcipher::Secret,
    party_u: &[u8],
    party_v: &[u8],
) -> Vec<softcipher::Secret> {
    [AlgorithmId::Standard, AlgorithmId::Legacy]
        .into_iter()
        .map(|id| {
            let key = KeyId::GlobalUnicastEncryption;
            softcipher::derive(suite, id, key, z, (party_u, party_v))
        })
        .collect()
}
