//! Signatures: Ed25519 by the token, ECDSA P-256 by the token over a digest made here.

use aws_lc_rs::digest;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;

use crate::cipher::short;
use crate::error::Error;
use crate::key::{Found, Kind};
use crate::token::Token;

impl Token {
    /// Signs with an Ed25519 key (RFC 8032, pure).
    pub async fn sign_ed25519(&self, label: &str, message: &[u8]) -> Result<[u8; 64], Error> {
        self.sign(Kind::Ed25519, label, message).await
    }

    /// Signs with an ECDSA P-256 key over SHA-256: r, then s.
    pub async fn sign_ecdsa_p256(&self, label: &str, message: &[u8]) -> Result<[u8; 64], Error> {
        self.sign(Kind::P256, label, message).await
    }

    /// The public key of that label: 32 octets for Ed25519, 65 (an uncompressed point) for P-256.
    pub async fn public_key(&self, label: &str) -> Result<Vec<u8>, Error> {
        let label = label.to_owned();
        self.on_any(move |engine| {
            let found = engine.keys().find(|(name, _)| *name == label);
            let public = found.and_then(|(_, key)| key.public.clone());
            public.ok_or_else(|| Error::KeyNotFound {
                token: engine.shared().label.clone(),
                what: "signing key",
                label: label.clone(),
            })
        })
        .await
    }

    async fn sign(&self, kind: Kind, label: &str, message: &[u8]) -> Result<[u8; 64], Error> {
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
) -> Result<[u8; 64], Error> {
    let signature = if kind == Kind::P256 {
        // SoftHSM 2.6 has no CKM_ECDSA_SHA256; the digest of public data needs no token.
        let digest = digest::digest(&digest::SHA256, message);
        session.sign(&Mechanism::Ecdsa, key, digest.as_ref())?
    } else {
        let pure = EddsaParams::new(EddsaSignatureScheme::Pure);
        session.sign(&Mechanism::Eddsa(pure), key, message)?
    };
    let length = signature.len();
    signature
        .try_into()
        .map_err(|_| short("the signature", 64, length))
}

/// Whether `signature` is `key`'s over `message`, decided here and not by the token.
pub(crate) fn verifies(key: &Found, message: &[u8], signature: &[u8]) -> bool {
    let public = key.public.as_deref().unwrap_or_default();
    verifies_raw(key.kind == Kind::P256, public, message, signature)
}

/// The same, for a bare public key.
pub(crate) fn verifies_raw(p256: bool, public: &[u8], message: &[u8], signature: &[u8]) -> bool {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
    if p256 {
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public);
        public.verify(message, signature).is_ok()
    } else {
        UnparsedPublicKey::new(&ED25519, public)
            .verify(message, signature)
            .is_ok()
    }
}
