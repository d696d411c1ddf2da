//! Signatures: Ed25519 by the token, ECDSA by the token over a digest made here.

use aws_lc_rs::digest;
use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;

use crate::cipher::short;
use crate::curve::Curve;
use crate::error::Error;
use crate::key::{Found, Kind};
use crate::pool::Engine;
use crate::token::Token;

impl Token {
    /// Signs with an Ed25519 key (RFC 8032, pure).
    pub async fn sign_ed25519(&self, label: &str, message: &[u8]) -> Result<[u8; 64], Error> {
        let signature = self.sign(Kind::Ed25519, label, message).await?;
        let length = signature.len();
        signature
            .try_into()
            .map_err(|_| short("the signature", 64, length))
    }

    /// Signs with an ECDSA key of this curve (`sign-p256-N`, `sign-p384-N`), over SHA-256 or
    /// SHA-384: r, then s, 64 or 96 octets.
    pub async fn sign_ecdsa(
        &self,
        curve: Curve,
        label: &str,
        message: &[u8],
    ) -> Result<Vec<u8>, Error> {
        self.sign(Kind::Sign(curve), label, message).await
    }

    /// Signs with a key of that label that certificates are about: `tls-N`, `sign-*-N`, and `agree-*-N` for the one
    /// signature that such a key makes, that of a certificate request. ECDSA over the hash of its curve: r, then s.
    ///
    /// # Errors
    /// [`Error::KeyNotFound`] for a label of another kind, [`Error::KeyOff`] for a key of key agreement that was made
    /// before requests were.
    pub async fn sign_certified(&self, label: &str, message: &[u8]) -> Result<Vec<u8>, Error> {
        crate::cipher::limit("the message", message)?;
        let (label, message) = (label.to_owned(), message.to_vec());
        self.on_any(move |engine| {
            let (kind, object) = engine.certified(&label)?;
            sign(engine.session(), kind, object, &message)
        })
        .await
    }

    /// Curve and public key, an uncompressed point, of a key that certificates are about.
    ///
    /// # Errors
    /// As [`Token::sign_certified`].
    pub async fn certified_key(&self, label: &str) -> Result<(Curve, Vec<u8>), Error> {
        let label = label.to_owned();
        self.on_any(move |engine| {
            engine.certified(&label)?;
            let mut keys = engine.keys();
            let found = keys.find(|(name, _)| *name == label);
            found
                .and_then(|(_, key)| Some((key.kind.curve()?, key.public.clone()?)))
                .ok_or_else(|| no_such_key(engine, &label))
        })
        .await
    }

    /// The public key of that label: 32 octets for Ed25519, an uncompressed point (65 or 97 octets)
    /// for P-256 and P-384.
    pub async fn public_key(&self, label: &str) -> Result<Vec<u8>, Error> {
        let label = label.to_owned();
        self.on_any(move |engine| {
            let found = engine.keys().find(|(name, _)| *name == label);
            let public = found.and_then(|(_, key)| Some((key.kind, key.public.clone()?)));
            let (kind, public) = public.ok_or_else(|| Error::KeyNotFound {
                token: engine.shared().label.clone(),
                what: "public key",
                label: label.clone(),
            })?;
            engine.key(&label, kind).map(|_| public)
        })
        .await
    }

    async fn sign(&self, kind: Kind, label: &str, message: &[u8]) -> Result<Vec<u8>, Error> {
        crate::cipher::limit("the message", message)?;
        let (label, message) = (label.to_owned(), message.to_vec());
        self.on_any(move |engine| {
            let object = engine.key(&label, kind)?;
            sign(engine.session(), kind, object, &message)
        })
        .await
    }
}

impl Engine {
    /// A key that certificates are about.
    fn certified(&self, label: &str) -> Result<(Kind, ObjectHandle), Error> {
        let found = self
            .keys()
            .find(|(name, key)| *name == label && key.kind.is_certified())
            .map(|(_, key)| key.clone())
            .ok_or_else(|| no_such_key(self, label))?;
        if found.attributes.get("SIGN").map(String::as_str) == Some("false") {
            return Err(Error::KeyOff {
                token: self.shared().label.clone(),
                label: label.to_owned(),
                why: "it was made for key agreement alone and signs no certificate request; add \
                      the next one with a ceremony (add_keys = true)"
                    .to_owned(),
            });
        }
        Ok((found.kind, self.key(label, found.kind)?))
    }
}

fn no_such_key(engine: &Engine, label: &str) -> Error {
    Error::KeyNotFound {
        token: engine.shared().label.clone(),
        what: "key for a certificate",
        label: label.to_owned(),
    }
}

/// An ECDSA signature, r then s, as X.509 and TLS write it: a DER SEQUENCE of two INTEGERs.
pub fn der_signature(pair: &[u8]) -> Vec<u8> {
    let (r, s) = pair.split_at(pair.len() / 2);
    let mut body = integer(r);
    body.extend_from_slice(&integer(s));
    let mut der = vec![0x30];
    // Two coordinates of P-384 are 102 octets at most: one octet of length.
    der.push(u8::try_from(body.len()).unwrap_or(u8::MAX));
    der.extend_from_slice(&body);
    der
}

/// A DER INTEGER: no leading zeros but one where the number would look negative.
fn integer(octets: &[u8]) -> Vec<u8> {
    let zeros = octets.iter().take_while(|octet| **octet == 0).count();
    let digits = octets.get(zeros..).unwrap_or_default();
    let sign = digits.first().is_none_or(|first| first & 0x80 != 0);
    let length = digits.len() + usize::from(sign);
    let mut der = vec![0x02, u8::try_from(length).unwrap_or(u8::MAX)];
    der.extend(sign.then_some(0));
    der.extend_from_slice(digits);
    der
}

/// Signs with a key of a signing kind.
pub(crate) fn sign(
    session: &Session,
    kind: Kind,
    key: ObjectHandle,
    message: &[u8],
) -> Result<Vec<u8>, Error> {
    let (signature, length) = match kind.curve() {
        Some(curve) => {
            // SoftHSM 2.6 has no CKM_ECDSA_SHA256; the digest needs no token.
            let digest = digest::digest(curve.hash(), message);
            let signature = match session.sign(&Mechanism::Ecdsa, key, digest.as_ref()) {
                // A token that wants to hash by itself: its keys were made for that.
                Err(Pkcs11Error::Pkcs11(code, _)) if is_other_way(code) => {
                    session.sign(&hashing(curve).0, key, message)?
                }
                signature => signature?,
            };
            (signature, curve.pair())
        }
        None => {
            let pure = EddsaParams::new(EddsaSignatureScheme::Pure);
            (session.sign(&Mechanism::Eddsa(pure), key, message)?, 64)
        }
    };
    if signature.len() == length {
        Ok(signature)
    } else {
        Err(short("the signature", length, signature.len()))
    }
}

/// ECDSA over a message that the token hashes.
fn hashing(curve: Curve) -> (Mechanism<'static>, MechanismType) {
    match curve {
        Curve::P256 => (Mechanism::EcdsaSha256, MechanismType::ECDSA_SHA256),
        Curve::P384 => (Mechanism::EcdsaSha384, MechanismType::ECDSA_SHA384),
    }
}

/// The mechanism that a new key of this curve is to sign with: the one over a digest, if a key made for the question
/// signs with it, else the one over the message.
pub(crate) fn choose(session: &Session, curve: Curve) -> Result<MechanismType, Error> {
    let (public, private) = session.generate_key_pair(
        &Mechanism::EccKeyPairGen,
        &[
            Attribute::Token(false),
            Attribute::EcParams(curve.oid().to_vec()),
        ],
        &[
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sign(true),
        ],
    )?;
    let digest = digest::digest(curve.hash(), b"");
    let signed = session.sign(&Mechanism::Ecdsa, private, digest.as_ref());
    session.destroy_object(public)?;
    session.destroy_object(private)?;
    match signed {
        Err(Pkcs11Error::Pkcs11(code, _)) if is_other_way(code) => Ok(hashing(curve).1),
        signed => Ok(signed.map(|_| MechanismType::ECDSA)?),
    }
}

/// What a token answers that has not the mechanism, or whose key may not be used with it.
fn is_other_way(code: RvError) -> bool {
    matches!(
        code,
        RvError::MechanismInvalid | RvError::KeyFunctionNotPermitted
    )
}

/// Whether `signature` is `key`'s over `message`, decided here and not by the token.
pub(crate) fn verifies(key: &Found, message: &[u8], signature: &[u8]) -> bool {
    let public = key.public.as_deref().unwrap_or_default();
    verifies_raw(key.kind.curve(), public, message, signature)
}

/// The same, for a bare public key: of the curve, or Ed25519.
pub(crate) fn verifies_raw(
    curve: Option<Curve>,
    public: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    match (curve, public) {
        (Some(curve), [0x04, public @ ..]) => curve.verifies(public, message, signature),
        (Some(_), _) => false,
        (None, public) => UnparsedPublicKey::new(&ED25519, public)
            .verify(message, signature)
            .is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_in_der_is_the_shortest() {
        let mut pair = [0; 64];
        assert_eq!(der_signature(&pair), b"\x30\x06\x02\x01\x00\x02\x01\x00");
        (pair[31], pair[32]) = (0x7F, 0x80);
        let der = der_signature(&pair);
        assert_eq!(der[..7], *b"\x30\x26\x02\x01\x7F\x02\x21");
        assert_eq!((der[7], der[8], der.len()), (0, 0x80, 40));
    }
}
