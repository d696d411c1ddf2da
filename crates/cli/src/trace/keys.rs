//! Keys of laboratory meters, from files, and deciphering with them. No key is ever printed.

use aes_gcm::aead::{Aead as _, Payload, consts::U12};
use aes_gcm::aes::{Aes128, Aes256};
use aes_gcm::{AesGcm, KeyInit as _};
use dlms::SecurityControl;
use zeroize::Zeroizing;

/// A symmetric key.
pub(crate) type Key = Zeroizing<Vec<u8>>;

/// The keys and titles that were given.
#[derive(Default)]
pub(crate) struct Keys {
    /// Global encryption keys.
    pub(crate) ek: Vec<Key>,
    pub(crate) ak: Vec<Key>,
    /// Dedicated keys.
    pub(crate) dk: Vec<Key>,
    /// What laboratory meters hold besides.
    pub(crate) labs: Vec<Lab>,
    /// Titles that a sender may have: of a key file the client's, then the meter's.
    pub(crate) titles: Vec<[u8; 8]>,
}

/// One laboratory meter.
pub(crate) struct Lab {
    pub(crate) server: [u8; 8],
    pub(crate) keys: softcipher::Keys,
}

/// What goes into AES-GCM, but the keys and the title.
pub(crate) struct Sealed<'a> {
    pub(crate) control: SecurityControl,
    pub(crate) counter: u32,
    /// The ciphertext; the plaintext if it is not encrypted; nothing in a token.
    pub(crate) body: &'a [u8],
    /// Nothing if it is not authenticated.
    pub(crate) tag: Option<&'a [u8]>,
    /// What the additional authenticated data hold after the authentication key.
    pub(crate) extra: &'a [u8],
}

/// How deciphering went.
pub(crate) enum Opened {
    /// The tag is right.
    Verified(Vec<u8>, [u8; 8]),
    /// There is no tag, or no authentication key to check it with: every title may be the right one.
    Unverified(Vec<(Vec<u8>, [u8; 8])>),
    /// No key and title that were given make the tag right.
    WrongTag,
    /// No key of this suite was given.
    NoKey,
    /// Nobody said whose title it is.
    NoTitle,
}

impl Keys {
    pub(crate) fn is_empty(&self) -> bool {
        self.ek.is_empty() && self.dk.is_empty()
    }

    /// Deciphers with every key and title that may be meant.
    pub(crate) fn open(&self, sealed: &Sealed<'_>, keys: &[&Key], titles: &[[u8; 8]]) -> Opened {
        let len = sealed.control.suite().map_or(16, |suite| suite.key_len());
        let keys: Vec<_> = keys.iter().filter(|key| key.len() == len).collect();
        let aks: Vec<_> = self.ak.iter().filter(|key| key.len() == len).collect();
        if keys.is_empty() {
            return Opened::NoKey;
        }
        if titles.is_empty() {
            return Opened::NoTitle;
        }
        let tries = || {
            keys.iter()
                .flat_map(|key| titles.iter().map(move |title| (*key, *title)))
        };
        match sealed.tag {
            Some(tag) if !aks.is_empty() => tries()
                .flat_map(|(key, title)| aks.iter().map(move |ak| (key, title, *ak)))
                .find_map(|(key, title, ak)| {
                    sealed
                        .verified(key, title, ak, tag)
                        .map(|plain| Opened::Verified(plain, title))
                })
                .unwrap_or(Opened::WrongTag),
            Some(_) if !sealed.control.is_encrypted() => Opened::NoKey,
            _ => Opened::Unverified(
                tries()
                    .filter_map(|(key, title)| Some((sealed.unverified(key, title)?, title)))
                    .collect(),
            ),
        }
    }
}

impl Sealed<'_> {
    fn nonce(&self, title: [u8; 8]) -> [u8; 12] {
        let mut nonce = [0; 12];
        let octets = title.into_iter().chain(self.counter.to_be_bytes());
        for (place, octet) in nonce.iter_mut().zip(octets) {
            *place = octet;
        }
        nonce
    }

    fn verified(&self, key: &Key, title: [u8; 8], ak: &Key, tag: &[u8]) -> Option<Vec<u8>> {
        let encrypted = self.control.is_encrypted();
        let mut aad = Zeroizing::new(vec![self.control.octet()]);
        aad.extend_from_slice(ak);
        aad.extend_from_slice(self.extra);
        let mut sealed = Vec::new();
        if encrypted {
            sealed.extend_from_slice(self.body);
        } else {
            aad.extend_from_slice(self.body);
        }
        sealed.extend_from_slice(tag);
        let payload = Payload {
            msg: &sealed,
            aad: &aad,
        };
        let plain = gcm(key, self.nonce(title), payload, false)?;
        Some(if encrypted { plain } else { self.body.to_vec() })
    }

    /// AES-GCM is a stream cipher: enciphering the ciphertext gives the plaintext, and a tag that means nothing.
    fn unverified(&self, key: &Key, title: [u8; 8]) -> Option<Vec<u8>> {
        let payload = Payload {
            msg: self.body,
            aad: &[],
        };
        let mut plain = gcm(key, self.nonce(title), payload, true)?;
        plain.truncate(self.body.len());
        Some(plain)
    }
}

fn gcm(key: &Key, nonce: [u8; 12], payload: Payload<'_, '_>, forward: bool) -> Option<Vec<u8>> {
    macro_rules! run {
        ($aes:ty) => {{
            let gcm = AesGcm::<$aes, U12, U12>::new_from_slice(key).ok()?;
            let nonce = nonce.into();
            if forward {
                gcm.encrypt(&nonce, payload).ok()
            } else {
                gcm.decrypt(&nonce, payload).ok()
            }
        }};
    }
    match key.len() {
        16 => run!(Aes128),
        32 => run!(Aes256),
        _ => None,
    }
}
