//! Permits: checked offline, with nothing but the auditor's public key.

use std::time::{Duration, SystemTime};

use aws_lc_rs::{digest, signature};
use latchkey_proto::audit::v1::{Permit, SignedPermit};
use prost::Message as _;

use crate::clock;

/// Largest encoded permit.
const BODY_MAX: usize = 64 * 1024;
/// Longest life of a permit.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The Ed25519 public key that permits are checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermitKey([u8; 32]);

/// Why a permit does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PermitError {
    /// It cannot be parsed, or misses what a permit must have.
    #[error("the permit is malformed: {0}")]
    Malformed(&'static str),
    /// Another key signed it.
    #[error("the permit is signed by key {found:?}, expected {expected}")]
    ForeignKey {
        /// Key id in the permit.
        found: String,
        /// Key id of our key.
        expected: String,
    },
    /// The signature does not fit the body.
    #[error("the permit's signature is wrong")]
    Signature,
    /// It is not valid yet.
    #[error("the permit is not valid yet")]
    NotYet,
    /// It has expired.
    #[error("the permit has expired")]
    Expired,
}

impl PermitKey {
    /// From the 32 octets of the public key; `None` if there are not 32.
    #[must_use]
    pub fn new(octets: &[u8]) -> Option<Self> {
        octets.try_into().ok().map(Self)
    }

    /// The 32 octets.
    #[must_use]
    pub fn octets(&self) -> &[u8; 32] {
        &self.0
    }

    /// First 8 octets, in hex, of the SHA-256 of the key.
    #[must_use]
    pub fn key_id(&self) -> String {
        let hash = digest::digest(&digest::SHA256, &self.0);
        hash.as_ref()
            .iter()
            .take(8)
            .map(|octet| format!("{octet:02x}"))
            .collect()
    }
}

/// What is signed: a label that keeps this signature from meaning anything else, then the body.
#[must_use]
pub fn signing_input(body: &[u8]) -> Vec<u8> {
    [b"latchkey-permit-v1\n".as_slice(), body].concat()
}

/// Checks signature, shape and time. `skew` is how far the clocks of auditor and checker may differ.
///
/// # Errors
/// Says why it does not hold.
pub fn verify(
    signed: &SignedPermit,
    key: &PermitKey,
    now: SystemTime,
    skew: Duration,
) -> Result<Permit, PermitError> {
    if signed.body.len() > BODY_MAX {
        return Err(PermitError::Malformed("it has more than 64 KiB"));
    }
    if signed.key_id != key.key_id() {
        let found = signed.key_id.chars().take(32).collect();
        return Err(PermitError::ForeignKey {
            found,
            expected: key.key_id(),
        });
    }
    signature::UnparsedPublicKey::new(&signature::ED25519, key.octets())
        .verify(&signing_input(&signed.body), &signed.signature)
        .map_err(|_| PermitError::Signature)?;
    let permit = Permit::decode(signed.body.as_slice())
        .map_err(|_| PermitError::Malformed("it is no Permit"))?;
    let time = |t: &Option<prost_types::Timestamp>| t.as_ref().and_then(clock::from_timestamp);
    let not_before =
        time(&permit.not_before).ok_or(PermitError::Malformed("it has no not_before"))?;
    let expiry =
        time(&permit.expire_time).ok_or(PermitError::Malformed("it has no expire_time"))?;
    match expiry.duration_since(not_before) {
        Ok(life) if life <= LIFETIME_MAX => {}
        _ => {
            return Err(PermitError::Malformed(
                "its life is negative or longer than 24 hours",
            ));
        }
    }
    if permit.permit_id.is_empty() || permit.meter_id.is_empty() {
        return Err(PermitError::Malformed("it has no permit_id or no meter_id"));
    }
    if now + skew < not_before {
        return Err(PermitError::NotYet);
    }
    if now >= expiry + skew {
        return Err(PermitError::Expired);
    }
    Ok(permit)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    const SKEW: Duration = Duration::from_secs(5);

    fn signed(permit: &Permit) -> (SignedPermit, PermitKey) {
        let pair = Ed25519KeyPair::generate().expect("a key");
        let key = PermitKey::new(pair.public_key().as_ref()).expect("32 octets");
        let body = permit.encode_to_vec();
        let signature = pair.sign(&signing_input(&body)).as_ref().to_vec();
        (
            SignedPermit {
                body,
                signature,
                key_id: key.key_id(),
            },
            key,
        )
    }

    fn permit(now: SystemTime, life: u64) -> Permit {
        Permit {
            permit_id: "p".to_owned(),
            meter_id: "m".to_owned(),
            not_before: Some(clock::timestamp(now)),
            expire_time: Some(clock::timestamp(now + Duration::from_secs(life))),
            ..Permit::default()
        }
    }

    #[test]
    fn holds_only_in_its_time() {
        let now = clock::from_micros(1_700_000_000_000_000);
        let (signed, key) = signed(&permit(now, 60));
        assert!(verify(&signed, &key, now, SKEW).is_ok());
        assert!(verify(&signed, &key, now - Duration::from_secs(4), SKEW).is_ok());
        assert_eq!(
            verify(&signed, &key, now - Duration::from_secs(6), SKEW),
            Err(PermitError::NotYet)
        );
        assert!(verify(&signed, &key, now + Duration::from_secs(64), SKEW).is_ok());
        assert_eq!(
            verify(&signed, &key, now + Duration::from_secs(65), SKEW),
            Err(PermitError::Expired)
        );
    }

    #[test]
    fn every_changed_octet_is_noticed() {
        let now = clock::from_micros(1_700_000_000_000_000);
        let (good, key) = signed(&permit(now, 60));
        for at in 0..good.body.len() {
            let mut bad = good.clone();
            bad.body[at] ^= 1;
            assert_eq!(verify(&bad, &key, now, SKEW), Err(PermitError::Signature));
        }
        for at in 0..good.signature.len() {
            let mut bad = good.clone();
            bad.signature[at] ^= 1;
            assert_eq!(verify(&bad, &key, now, SKEW), Err(PermitError::Signature));
        }
    }

    #[test]
    fn refuses_foreign_and_odd_permits() {
        let now = clock::from_micros(1_700_000_000_000_000);
        let (good, _) = signed(&permit(now, 60));
        let (_, other) = signed(&permit(now, 60));
        assert!(matches!(
            verify(&good, &other, now, SKEW),
            Err(PermitError::ForeignKey { .. })
        ));
        let (long, key) = signed(&permit(now, 25 * 60 * 60));
        assert!(matches!(
            verify(&long, &key, now, SKEW),
            Err(PermitError::Malformed(_))
        ));
        let (timeless, key) = signed(&Permit {
            expire_time: None,
            ..permit(now, 60)
        });
        assert!(matches!(
            verify(&timeless, &key, now, SKEW),
            Err(PermitError::Malformed(_))
        ));
    }
}
