//! ECDSA and ECDH on the curves of suites 1 and 2. Keys and signatures are plain: x || y and r || s, no DER.

use std::fmt;

use dlms::Suite;
use p256::{
    ecdsa::signature::{Signer as _, Verifier as _},
    elliptic_curve::sec1::ToSec1Point as _,
};
use zeroize::Zeroizing;

use crate::random::Random;

/// A private key: P-256 in suite 1, P-384 in suite 2. For signing or for key agreement, never for both.
#[derive(Clone)]
pub struct PrivateKey(Private);

#[derive(Clone)]
enum Private {
    P256(p256::SecretKey),
    P384(p384::SecretKey),
}

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(Public);

#[derive(Clone, PartialEq, Eq)]
enum Public {
    P256(p256::PublicKey),
    P384(p384::PublicKey),
}

impl PrivateKey {
    /// From its scalar, big endian: 32 octets (P-256) or 48 (P-384). Nothing if it is none.
    #[must_use]
    pub fn from_octets(octets: &[u8]) -> Option<Self> {
        match octets.len() {
            32 => p256::SecretKey::from_slice(octets).ok().map(Private::P256),
            48 => p384::SecretKey::from_slice(octets).ok().map(Private::P384),
            _ => None,
        }
        .map(Self)
    }

    /// The suite whose curve it is on: 1 or 2.
    #[must_use]
    pub const fn suite(&self) -> Suite {
        match &self.0 {
            Private::P256(_) => Suite::Suite1,
            Private::P384(_) => Suite::Suite2,
        }
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(match &self.0 {
            Private::P256(key) => Public::P256(key.public_key()),
            Private::P384(key) => Public::P384(key.public_key()),
        })
    }

    /// A fresh one; nothing in suite 0, which has no curve.
    pub(crate) fn generate(suite: Suite, random: &mut Random) -> Option<Self> {
        let mut scalar = Zeroizing::new(vec![0; suite.public_key_len() / 2]);
        // one draw in 2^32 is no scalar of P-256; of P-384 practically none
        (0..16).find_map(|_| {
            random.fill(&mut scalar);
            Self::from_octets(&scalar)
        })
    }

    /// r || s over the message: ECDSA with SHA-256 or SHA-384, nonces as RFC 6979 derives them.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.0 {
            Private::P256(key) => {
                let signature: p256::ecdsa::Signature =
                    p256::ecdsa::SigningKey::from(key).sign(message);
                signature.to_bytes().to_vec()
            }
            Private::P384(key) => {
                let signature: p384::ecdsa::Signature =
                    p384::ecdsa::SigningKey::from(key).sign(message);
                signature.to_bytes().to_vec()
            }
        }
    }

    /// Z, the shared secret of ECDH; nothing between different curves.
    #[must_use]
    pub fn agree(&self, public: &PublicKey) -> Option<crate::Secret> {
        match (&self.0, &public.0) {
            (Private::P256(own), Public::P256(public)) => {
                let shared = own.diffie_hellman(public);
                Some(shared.raw_secret_bytes().as_slice().into())
            }
            (Private::P384(own), Public::P384(public)) => {
                let shared = own.diffie_hellman(public);
                Some(shared.raw_secret_bytes().as_slice().into())
            }
            (Private::P256(_), Public::P384(_)) | (Private::P384(_), Public::P256(_)) => None,
        }
    }
}

impl PublicKey {
    /// From x || y: 64 octets (P-256) or 96 (P-384). Nothing if it is no point of the curve.
    #[must_use]
    pub fn from_octets(octets: &[u8]) -> Option<Self> {
        let uncompressed = [&[0x04][..], octets].concat();
        match octets.len() {
            64 => p256::PublicKey::from_sec1_bytes(&uncompressed)
                .ok()
                .map(Public::P256),
            96 => p384::PublicKey::from_sec1_bytes(&uncompressed)
                .ok()
                .map(Public::P384),
            _ => None,
        }
        .map(Self)
    }

    /// x || y.
    #[must_use]
    pub fn octets(&self) -> Vec<u8> {
        let uncompressed = match &self.0 {
            Public::P256(key) => key.to_sec1_point(false).as_bytes().to_vec(),
            Public::P384(key) => key.to_sec1_point(false).as_bytes().to_vec(),
        };
        uncompressed.get(1..).unwrap_or_default().to_vec()
    }

    /// The suite whose curve it is on: 1 or 2.
    #[must_use]
    pub const fn suite(&self) -> Suite {
        match &self.0 {
            Public::P256(_) => Suite::Suite1,
            Public::P384(_) => Suite::Suite2,
        }
    }

    /// Whether r || s is the owner's signature over the message.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.0 {
            Public::P256(key) => p256::ecdsa::Signature::from_slice(signature).is_ok_and(|found| {
                p256::ecdsa::VerifyingKey::from(key)
                    .verify(message, &found)
                    .is_ok()
            }),
            Public::P384(key) => p384::ecdsa::Signature::from_slice(signature).is_ok_and(|found| {
                p384::ecdsa::VerifyingKey::from(key)
                    .verify(message, &found)
                    .is_ok()
            }),
        }
    }
}

/// Shows the curve only.
impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({:?}, ..)", self.suite())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:?})", self.suite())
    }
}
