//! Signatures: Ed25519 by the token, ECDSA by the token over a digest made here.

use aws_lc_rs::digest;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;

use crate::cipher::short;
use crate::curve::Curve;
use crate::error::Error;
use crate::key::{Found, Kind};
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
            let signature = session.sign(&Mechanism::Ecdsa, key, digest.as_ref())?;
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
