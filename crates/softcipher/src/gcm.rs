//! AES-GCM with tags of 12 octets, in the three ways the security control octet knows, and AES key wrap.

use aes_gcm::{
    AesGcm, KeyInit as _,
    aead::{AeadInOut as _, consts::U12},
    aes::{Aes128, Aes256},
};
use aes_kw::{KwAes128, KwAes256};
use dlms::{
    SecurityControl, SystemTitle,
    security::{TAG, nonce},
};
use zeroize::Zeroizing;

/// A key of either length, its schedule computed once.
#[derive(Clone)]
pub(crate) enum Gcm {
    Aes128(Box<AesGcm<Aes128, U12, U12>>),
    Aes256(Box<AesGcm<Aes256, U12, U12>>),
}

/// Under which nonce, control octet and associated data an APDU is.
pub(crate) struct Seal<'a> {
    pub(crate) control: SecurityControl,
    pub(crate) title: SystemTitle,
    pub(crate) counter: u32,
    pub(crate) aad: &'a [u8],
}

impl Gcm {
    /// From a key of 16 or 32 octets.
    pub(crate) fn new(key: &[u8]) -> Option<Self> {
        match key.len() {
            16 => AesGcm::new_from_slice(key)
                .ok()
                .map(Box::new)
                .map(Self::Aes128),
            32 => AesGcm::new_from_slice(key)
                .ok()
                .map(Box::new)
                .map(Self::Aes256),
            _ => None,
        }
    }

    /// The body of a ciphered APDU: what the control octet asks for.
    pub(crate) fn seal(&self, seal: &Seal<'_>, plain: &[u8]) -> Option<Vec<u8>> {
        let mut body = Vec::with_capacity(plain.len().saturating_add(TAG));
        body.extend_from_slice(plain);
        let tag = if seal.control.is_encrypted() {
            self.encrypt(seal, &mut body)?
        } else {
            self.encrypt(seal, &mut [])?
        };
        if seal.control.is_authenticated() {
            body.extend_from_slice(&tag);
        }
        Some(body)
    }

    /// The plaintext of a body, if its tag is right, where it has one.
    pub(crate) fn open(&self, seal: &Seal<'_>, body: &[u8]) -> Option<Vec<u8>> {
        let shown = if seal.control.is_authenticated() {
            TAG
        } else {
            0
        };
        let (body, tag) = body.split_at_checked(body.len().checked_sub(shown)?)?;
        let mut plain = Zeroizing::new(body.to_vec());
        match (seal.control.is_encrypted(), seal.control.is_authenticated()) {
            (true, true) => self.decrypt(seal, &mut plain, tag)?,
            // without a tag the counter mode goes the same way in both directions
            (true, false) => drop(self.encrypt(seal, &mut plain)?),
            (false, true) => self.decrypt(seal, &mut [], tag)?,
            (false, false) => return None,
        }
        Some(std::mem::take(&mut *plain))
    }

    fn encrypt(&self, seal: &Seal<'_>, buffer: &mut [u8]) -> Option<[u8; TAG]> {
        let nonce = nonce(seal.title, seal.counter).into();
        let tag = match self {
            Self::Aes128(gcm) => gcm.encrypt_inout_detached(&nonce, seal.aad, buffer.into()),
            Self::Aes256(gcm) => gcm.encrypt_inout_detached(&nonce, seal.aad, buffer.into()),
        };
        tag.ok().map(Into::into)
    }

    /// Compares tags in constant time, before it deciphers.
    fn decrypt(&self, seal: &Seal<'_>, buffer: &mut [u8], tag: &[u8]) -> Option<()> {
        let nonce = nonce(seal.title, seal.counter).into();
        let tag = <[u8; TAG]>::try_from(tag).ok()?.into();
        let opened = match self {
            Self::Aes128(gcm) => gcm.decrypt_inout_detached(&nonce, seal.aad, buffer.into(), &tag),
            Self::Aes256(gcm) => gcm.decrypt_inout_detached(&nonce, seal.aad, buffer.into(), &tag),
        };
        opened.ok()
    }
}

/// The part of a body that is in clear, and under the tag: all but the tag, if it is not encrypted.
pub(crate) fn clear(control: SecurityControl, body: &[u8]) -> &[u8] {
    if control.is_encrypted() {
        return &[];
    }
    let length = body.len().saturating_sub(TAG);
    body.get(..length).unwrap_or_default()
}

/// Wraps a key (RFC 3394). Nothing if the lengths do not suit: KEK 16 or 32 octets, key a multiple of 8, at least 16.
#[must_use]
pub fn wrap(kek: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    let mut wrapped = vec![0; key.len().checked_add(8).filter(|_| key.len() >= 16)?];
    match kek.len() {
        16 => KwAes128::new_from_slice(kek)
            .ok()?
            .wrap_key(key, &mut wrapped)
            .ok()?,
        32 => KwAes256::new_from_slice(kek)
            .ok()?
            .wrap_key(key, &mut wrapped)
            .ok()?,
        _ => return None,
    };
    Some(wrapped)
}

/// Unwraps a key (RFC 3394). Nothing if it was wrapped under another KEK, or changed.
#[must_use]
pub fn unwrap(kek: &[u8], wrapped: &[u8]) -> Option<crate::Secret> {
    let mut key = Zeroizing::new(vec![
        0;
        wrapped
            .len()
            .checked_sub(8)
            .filter(|room| *room >= 16)?
    ]);
    match kek.len() {
        16 => KwAes128::new_from_slice(kek)
            .ok()?
            .unwrap_key(wrapped, &mut key)
            .ok()?,
        32 => KwAes256::new_from_slice(kek)
            .ok()?
            .unwrap_key(wrapped, &mut key)
            .ok()?,
        _ => return None,
    };
    Some(crate::Secret::new(std::mem::take(&mut *key)))
}
