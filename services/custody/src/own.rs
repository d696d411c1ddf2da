//! Keys of a single APDU, in general-ciphering: wrapped under the meter's master key, or agreed.
//!
//! They are made in the token and stay there, but for the agreed ones: see `hsm`. Their counters say nothing about
//! freshness, because a meter may begin anew with each key. The transaction does: each request has one that our token
//! drew, 8 octets, which an answer repeats under its tag; so an answer is of a request of this context, and of one that
//! has no other.

use dlms::{
    KeyChoice, Suite,
    agreement::{KeyId, SignedKey, other_info, party_u_static},
    security::{GeneralHeader, KeyInfo},
};
use hsm::{Curve, KeyHandle};

use crate::{
    error::Error,
    keyring::{Kek, Keyring, MeterKeys, agreement_label, curve, signing_label},
    terms::Terms,
};

/// A key for one APDU of ours, and what the meter is told of it; no key for the global one.
pub(crate) async fn make(
    keyring: &Keyring,
    keys: &MeterKeys,
    terms: &Terms,
    (choice, header): (KeyChoice, &GeneralHeader),
) -> Result<(Option<KeyHandle>, KeyInfo), Error> {
    let token = keyring.token();
    let client = keys.client_title.bytes();
    match choice {
        KeyChoice::Identified => {
            let unicast = KeyId::GlobalUnicastEncryption;
            Ok((None, KeyInfo::Identified(unicast)))
        }
        KeyChoice::Wrapped => {
            let master = token
                .unwrap_master_key(
                    &Kek::Master.of(keys.kek_generation),
                    &keys.wrapped_master_key,
                )
                .await?;
            let octets = keys.suite.key_len();
            let (key, wrapped) = token.generate_under(&master, octets).await?;
            Ok((Some(key), KeyInfo::Wrapped(wrapped)))
        }
        KeyChoice::OnePass => {
            let curve = curve_of(keys.suite)?;
            let info = info(terms, &client, &keys.server_title.bytes());
            let agreed = token.agree_once(curve, &keys.agreement_key, &info).await?;
            let (key, public) = agreed;
            let signature = token
                .sign_ecdsa(curve, signing_label(curve), &public)
                .await?;
            let signed = SignedKey { public, signature };
            Ok((Some(key), KeyInfo::one_pass(signed.encode())))
        }
        KeyChoice::Static => {
            let party_u = party_u_static(keys.client_title, &header.transaction_id);
            let info = info(terms, &party_u, &keys.server_title.bytes());
            let key = fixed(keyring, keys, &info).await?;
            Ok((Some(key), KeyInfo::of_static()))
        }
    }
}

/// The key of an APDU of the meter's; no key for the global one.
pub(crate) async fn find(
    keyring: &Keyring,
    keys: &MeterKeys,
    terms: &Terms,
    (key_info, header): (Option<&KeyInfo>, &GeneralHeader),
) -> Result<Option<KeyHandle>, Error> {
    let token = keyring.token();
    let (client, server) = (keys.client_title.bytes(), keys.server_title.bytes());
    let found = match key_info {
        None | Some(KeyInfo::Identified(KeyId::GlobalUnicastEncryption)) => return Ok(None),
        Some(KeyInfo::Identified(_)) => return Err(invalid("it names a key that is not ours")),
        Some(KeyInfo::Wrapped(wrapped)) => {
            let master = token
                .unwrap_master_key(
                    &Kek::Master.of(keys.kek_generation),
                    &keys.wrapped_master_key,
                )
                .await?;
            token.unwrap_under(&master, wrapped).await
        }
        Some(info_of @ KeyInfo::Agreed { data, .. }) => match info_of.choice() {
            Some(KeyChoice::OnePass) => {
                let curve = curve_of(keys.suite)?;
                let signed = SignedKey::decode(keys.suite, data)
                    .map_err(|_| invalid("its ephemeral key is malformed"))?;
                // An ephemeral key that nobody signed would be anybody's.
                if !curve.verifies(&keys.signing_key, &signed.public, &signed.signature) {
                    return Err(invalid("its ephemeral key is not signed by the meter"));
                }
                let info = info(terms, &server, &client);
                let label = agreement_label(curve);
                token.agree(curve, label, &signed.public, &info).await
            }
            Some(KeyChoice::Static) if data.is_empty() => {
                let party_u = party_u_static(keys.server_title, &header.transaction_id);
                let info = info(terms, &party_u, &client);
                return fixed(keyring, keys, &info).await.map(Some);
            }
            _ => return Err(invalid("its key information is of no known kind")),
        },
    };
    match found {
        Ok(key) => Ok(Some(key)),
        Err(hsm::Error::WrappedKeyInvalid { .. } | hsm::Error::Length { .. }) => {
            Err(invalid("its key does not unwrap under the meter's"))
        }
        Err(hsm::Error::PublicKeyInvalid) => Err(invalid("its ephemeral key is none")),
        Err(other) => Err(other.into()),
    }
}

/// The key of two static key pairs.
async fn fixed(keyring: &Keyring, keys: &MeterKeys, info: &[u8]) -> Result<KeyHandle, Error> {
    let curve = curve_of(keys.suite)?;
    let label = agreement_label(curve);
    let token = keyring.token();
    Ok(token.agree(curve, label, &keys.agreement_key, info).await?)
}

fn info(terms: &Terms, party_u: &[u8], party_v: &[u8]) -> Vec<u8> {
    other_info(terms.algorithm_id, terms.algorithm(), party_u, party_v)
}

fn curve_of(suite: Suite) -> Result<Curve, Error> {
    curve(suite).ok_or(Error::AssociationRefused {
        why: "suite 0 has no key agreement",
    })
}

fn invalid(why: &'static str) -> Error {
    Error::CiphertextInvalid { why }
}
