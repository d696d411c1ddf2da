//! HLS secrets: kept wrapped, used as objects that can be digested and nothing else.
//!
//! HLS with SHA-1 and SHA-256 (IEC 62056-5-3, mechanisms 4 and 6) hashes a secret together with
//! challenges and titles. The token does that with a secret it never shows (C_DigestKey).

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectHandle};
use cryptoki::session::Session;
use zeroize::Zeroizing;

use crate::cipher;
use crate::error::Error;
use crate::key::{self, KeyHandle, Kind};
use crate::oaep;
use crate::pool::Engine;
use crate::token::Token;
use crate::wrap::wrap_and_destroy;

/// An HLS secret inside the token: unreadable, gone with its last clone.
#[derive(Clone, Debug)]
pub struct SecretHandle(KeyHandle);

/// A hash that a token computes over a secret it does not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-1, 20 octets: for old meters only.
    Sha1,
    /// SHA-256, 32 octets.
    Sha256,
}

impl Token {
    /// Takes an HLS secret wrapped under `transport` (`transport-N`: RFC 3394, 24 to 72 octets;
    /// `transport-rsa-N`: RSA-OAEP, 384 octets) and returns what [`Token::wrap_secret`] would have
    /// made of it.
    pub async fn import_secret(
        &self,
        transport: &str,
        wrapped: &[u8],
        kek_hs: &str,
    ) -> Result<Vec<u8>, Error> {
        oaep::sent_length(transport, wrapped, wrapped_length)?;
        let (transport, kek_hs) = (transport.to_owned(), kek_hs.to_owned());
        let wrapped = wrapped.to_vec();
        self.on_any(move |engine| engine.import_secret(&transport, &wrapped, &kek_hs))
            .await
    }

    /// The same, but the secret is returned as [`Token::protect_ak`] would have made it, to be
    /// revealed again: for a hash that the token does not compute, and for a length that is no
    /// multiple of 8 (1 to 64 octets), which only RSA-OAEP brings in.
    pub async fn import_readable_secret(
        &self,
        transport: &str,
        wrapped: &[u8],
        kek_ak: &str,
        aad: &[u8],
    ) -> Result<Vec<u8>, Error> {
        oaep::sent_length(transport, wrapped, wrapped_length)?;
        cipher::limit("the associated data", aad)?;
        let (transport, kek_ak) = (transport.to_owned(), kek_ak.to_owned());
        let (wrapped, aad) = (wrapped.to_vec(), aad.to_vec());
        self.on_any(move |engine| {
            let secret = engine.reveal_incoming(&transport, &wrapped, KeyType::GENERIC_SECRET)?;
            engine.protect_ak(&kek_ak, &aad, &secret)
        })
        .await
    }

    /// Wraps an HLS secret known in clear (RFC 3394: 16 to 64 octets, a multiple of 8; SoftHSM
    /// unwraps RFC 5649 with its padding). For laboratories. The same secret gives the same octets.
    pub async fn wrap_secret(
        &self,
        kek_hs: &str,
        secret: &Zeroizing<Vec<u8>>,
    ) -> Result<Vec<u8>, Error> {
        secret_length(secret.len())?;
        let (kek_hs, secret) = (kek_hs.to_owned(), secret.clone());
        self.on_any(move |engine| engine.wrap_secret(&kek_hs, &secret))
            .await
    }

    /// Brings a stored HLS secret into use.
    pub async fn unwrap_secret(&self, kek_hs: &str, wrapped: &[u8]) -> Result<SecretHandle, Error> {
        wrapped_length(wrapped)?;
        let (kek_hs, wrapped) = (kek_hs.to_owned(), wrapped.to_vec());
        let held = self.on_any(move |engine| {
            let object = engine.unwrap_secret(&kek_hs, &wrapped)?;
            Ok(engine.hold(object))
        });
        Ok(SecretHandle(held.await?))
    }

    /// The hash of `before`, the secret, and `after`, made in the token.
    pub async fn digest_secret(
        &self,
        secret: &SecretHandle,
        hash: Hash,
        before: &[u8],
        after: &[u8],
    ) -> Result<Vec<u8>, Error> {
        cipher::limit("the data", before)?;
        cipher::limit("the data", after)?;
        let held = secret.0.clone();
        let (before, after) = (before.to_vec(), after.to_vec());
        self.on_owner(&secret.0, move |engine| {
            let object = engine.held(&held)?;
            digest(
                engine.session(),
                &hash.mechanism(),
                (&before, &after),
                object,
            )
        })
        .await
    }
}

impl Hash {
    pub(crate) fn mechanism(self) -> Mechanism<'static> {
        match self {
            Self::Sha1 => Mechanism::Sha1,
            Self::Sha256 => Mechanism::Sha256,
        }
    }
}

impl Engine {
    pub(crate) fn import_secret(
        &mut self,
        transport: &str,
        wrapped: &[u8],
        kek_hs: &str,
    ) -> Result<Vec<u8>, Error> {
        let kek = (self.key(kek_hs, Kind::KekHs)?, kek_hs);
        let template = key::incoming_key(KeyType::GENERIC_SECRET, false);
        let incoming = self.unwrap_incoming(transport, wrapped, &template)?;
        self.rewrap_incoming(transport, incoming, kek, secret_length)
    }

    pub(crate) fn wrap_secret(&self, kek_hs: &str, secret: &[u8]) -> Result<Vec<u8>, Error> {
        let kek = self.key(kek_hs, Kind::KekHs)?;
        let template = key::incoming_key(KeyType::GENERIC_SECRET, false);
        let incoming = key::create_with_value(self.session(), template, secret)?;
        wrap_and_destroy(self.session(), kek, incoming)
    }

    pub(crate) fn unwrap_secret(
        &mut self,
        kek_hs: &str,
        wrapped: &[u8],
    ) -> Result<ObjectHandle, Error> {
        self.unwrap(Kind::KekHs, kek_hs, wrapped, &key::secret())
    }
}

/// Whether a token keeps an HLS secret of this length without showing it.
fn can_be_wrapped(length: usize) -> bool {
    (16..=64).contains(&length) && length.is_multiple_of(8)
}

fn secret_length(length: usize) -> Result<(), Error> {
    if can_be_wrapped(length) {
        return Ok(());
    }
    Err(Error::Length {
        what: "the HLS secret",
        length,
        allowed: "16..=64, a multiple of 8",
    })
}

/// Digests the data before a secret, the secret, and the data after it.
pub(crate) fn digest(
    session: &Session,
    hash: &Mechanism<'_>,
    (before, after): (&[u8], &[u8]),
    secret: ObjectHandle,
) -> Result<Vec<u8>, Error> {
    session.digest_init(hash)?;
    let update = |data: &[u8]| match data {
        [] => Ok(()),
        data => session.digest_update(data),
    };
    let fed = update(before)
        .and_then(|()| session.digest_key(secret))
        .and_then(|()| update(after));
    // Also after a failure: a digest that was begun and not ended would be in the next one's way.
    let ended = session.digest_final();
    fed?;
    Ok(ended?)
}

fn wrapped_length(wrapped: &[u8]) -> Result<(), Error> {
    if wrapped.len().checked_sub(8).is_some_and(can_be_wrapped) {
        return Ok(());
    }
    Err(Error::Length {
        what: "the wrapped secret",
        length: wrapped.len(),
        allowed: "24..=72, a multiple of 8",
    })
}

/// A secret that PKCS#11 made, to be destroyed whatever comes of its use.
pub(crate) fn used_once<T>(
    session: &Session,
    object: ObjectHandle,
    used: impl FnOnce(ObjectHandle) -> Result<T, Error>,
) -> Result<T, Error> {
    let outcome = used(object);
    session.destroy_object(object)?;
    outcome
}

/// Attributes for a secret of this length that the token derives.
pub(crate) fn derived(length: usize) -> Vec<Attribute> {
    // First: SoftHSM sets one after the other, and after MODIFIABLE none.
    let mut template = vec![key::value_length(length)];
    template.extend(key::secret());
    template
}
