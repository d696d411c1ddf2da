//! Meter keys in use: the encryption key as an object of the token, the authentication key in zeroized memory.
//!
//! The encryption key (EK) never leaves the token (P3). The authentication key (AK) must: it is part of the additional
//! authenticated data, which PKCS#11 takes as octets. Alone it forges nothing and reads nothing. It lives as long as
//! the cipher context that needs it, and no response carries it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use dlms::{
    SystemTitle,
    security::{SecurityControl, aad, nonce},
};
use hsm::{KeyHandle, Token};
use zeroize::Zeroizing;

use crate::{error::Error, store::KeyRow};

/// Wraps encryption keys (RFC 3394).
pub(crate) const KEK_EK: &str = "kek-ek-1";
/// Seals authentication keys and passwords (AES-GCM).
pub(crate) const KEK_AK: &str = "kek-ak-1";
/// Unwraps keys on their way in.
pub(crate) const TRANSPORT: &str = "transport-1";

/// What a sealed secret is. Part of its AAD, so one cannot stand in for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    AuthenticationKey,
    Password,
}

/// What binds a sealed secret to its row: AAD of its AES-GCM seal.
///
/// RFC 3394 has no AAD, so a wrapped EK alone could be moved to another meter's row, check value and all. The AK's
/// seal covers meter, kind, titles *and* the wrapped EK: after any such move the AK does not open, and without AK
/// nothing is ciphered.
pub(crate) fn binding(
    kind: Kind,
    meter_id: &str,
    titles: (&[u8], &[u8]),
    wrapped_ek: &[u8],
) -> Vec<u8> {
    let kind: &[u8] = match kind {
        Kind::AuthenticationKey => b"authentication-key",
        Kind::Password => b"password",
    };
    let mut bound = b"latchkey-custody-v1".to_vec();
    for part in [meter_id.as_bytes(), kind, titles.0, titles.1, wrapped_ek] {
        // Each part after its length: no two rows have the same octets.
        bound.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        bound.extend_from_slice(part);
    }
    bound
}

/// The keys of one meter, for the life of a cipher context.
pub(crate) struct MeterKeys {
    meter_id: String,
    pub(crate) client_title: SystemTitle,
    pub(crate) server_title: SystemTitle,
    wrapped_ek: Vec<u8>,
    check_value: Vec<u8>,
    ak: Zeroizing<Vec<u8>>,
}

/// Which end of the association a nonce is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    Client,
    Server,
}

impl MeterKeys {
    fn nonce(&self, sender: Sender, counter: u32) -> [u8; 12] {
        match sender {
            Sender::Client => nonce(self.client_title, counter),
            Sender::Server => nonce(self.server_title, counter),
        }
    }
}

/// The token, and the keys unwrapped in it.
pub(crate) struct Keyring {
    token: Token,
    cache: Mutex<Cache>,
}

impl Keyring {
    /// Holds at most `max` unwrapped keys.
    pub(crate) fn new(token: Token, max: usize) -> Self {
        Self {
            token,
            cache: Mutex::new(Cache {
                max,
                tick: 0,
                held: HashMap::new(),
            }),
        }
    }

    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    /// The keys of a row that has an encryption key. Opens the AK, unwraps the EK and compares its check value, so a
    /// row that another hand changed is refused here, before a counter is spent.
    pub(crate) async fn meter_keys(&self, row: &KeyRow) -> Result<MeterKeys, Error> {
        let changed = || Error::KeyRowChanged {
            meter: row.meter_id.clone(),
        };
        let title = |octets: &[u8]| SystemTitle::from_slice(octets).ok_or_else(changed);
        let keys = MeterKeys {
            meter_id: row.meter_id.clone(),
            client_title: title(&row.client_system_title)?,
            server_title: title(&row.server_system_title)?,
            wrapped_ek: row.wrapped_encryption_key.clone(),
            check_value: row.check_value.clone(),
            ak: self.reveal(row, Kind::AuthenticationKey).await?,
        };
        self.handle(&keys).await?;
        Ok(keys)
    }

    /// Opens a sealed secret of a row.
    pub(crate) async fn reveal(
        &self,
        row: &KeyRow,
        kind: Kind,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let titles = (
            row.client_system_title.as_slice(),
            row.server_system_title.as_slice(),
        );
        let bound = binding(kind, &row.meter_id, titles, &row.wrapped_encryption_key);
        let sealed = match kind {
            Kind::AuthenticationKey => &row.sealed_authentication_key,
            Kind::Password => &row.sealed_password,
        };
        self.token
            .reveal_ak(KEK_AK, &bound, sealed)
            .await
            .map_err(|e| match e {
                hsm::Error::AuthFailed | hsm::Error::Length { .. } => Error::KeyRowChanged {
                    meter: row.meter_id.clone(),
                },
                other => other.into(),
            })
    }

    /// Ciphers a request: authenticated and encrypted, suite 0 (IEC 62056-5-3, security control 0x30).
    pub(crate) async fn seal(
        &self,
        keys: &MeterKeys,
        counter: u32,
        apdu: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let iv = keys.nonce(Sender::Client, counter);
        let aad = Zeroizing::new(aad(SecurityControl::AUTH_ENC, &keys.ak, &[]));
        let handle = self.handle(keys).await?;
        let sealed = match self.token.seal(&handle, iv, &aad, apdu).await {
            // The same nonce, but also the same plaintext: the same ciphertext.
            Err(hsm::Error::StaleKey) => {
                self.token
                    .seal(&self.fresh(keys).await?, iv, &aad, apdu)
                    .await
            }
            done => done,
        };
        Ok(sealed?)
    }

    /// Deciphers a response of the meter; `None` if its tag is wrong.
    pub(crate) async fn open(
        &self,
        keys: &MeterKeys,
        counter: u32,
        body: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        let iv = keys.nonce(Sender::Server, counter);
        let aad = Zeroizing::new(aad(SecurityControl::AUTH_ENC, &keys.ak, &[]));
        let handle = self.handle(keys).await?;
        let opened = match self.token.open_sealed(&handle, iv, &aad, body).await {
            Err(hsm::Error::StaleKey) => {
                self.token
                    .open_sealed(&self.fresh(keys).await?, iv, &aad, body)
                    .await
            }
            done => done,
        };
        match opened {
            Ok(apdu) => Ok(Some(apdu)),
            Err(hsm::Error::AuthFailed) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The tag of an HLS5 token over a challenge.
    pub(crate) async fn gmac(
        &self,
        keys: &MeterKeys,
        sender: Sender,
        counter: u32,
        challenge: &[u8],
    ) -> Result<[u8; 12], Error> {
        let iv = keys.nonce(sender, counter);
        let aad = Zeroizing::new(aad(SecurityControl::AUTH, &keys.ak, challenge));
        let handle = self.handle(keys).await?;
        let tag = match self.token.gmac(&handle, iv, &aad).await {
            Err(hsm::Error::StaleKey) => self.token.gmac(&self.fresh(keys).await?, iv, &aad).await,
            done => done,
        };
        Ok(tag?)
    }

    /// The EK as an object of the token.
    async fn handle(&self, keys: &MeterKeys) -> Result<KeyHandle, Error> {
        let held = self.cache().get(&keys.meter_id, &keys.wrapped_ek);
        match held {
            Some(handle) => Ok(handle),
            None => self.fresh(keys).await,
        }
    }

    async fn fresh(&self, keys: &MeterKeys) -> Result<KeyHandle, Error> {
        let changed = || Error::KeyRowChanged {
            meter: keys.meter_id.clone(),
        };
        let handle = self
            .token
            .unwrap_key(KEK_EK, &keys.wrapped_ek)
            .await
            .map_err(|e| match e {
                hsm::Error::WrappedKeyInvalid { .. } => changed(),
                other => other.into(),
            })?;
        if self.token.check_value(&handle).await?.as_slice() != keys.check_value {
            return Err(changed());
        }
        self.cache()
            .put(&keys.meter_id, &keys.wrapped_ek, handle.clone());
        Ok(handle)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys used last. A handle that falls out is destroyed in the token with its last clone.
struct Cache {
    max: usize,
    tick: u64,
    held: HashMap<String, Held>,
}

struct Held {
    wrapped: Vec<u8>,
    handle: KeyHandle,
    used: u64,
}

impl Cache {
    fn get(&mut self, meter_id: &str, wrapped: &[u8]) -> Option<KeyHandle> {
        self.tick += 1;
        let held = self
            .held
            .get_mut(meter_id)
            .filter(|held| held.wrapped == wrapped)?;
        held.used = self.tick;
        Some(held.handle.clone())
    }

    fn put(&mut self, meter_id: &str, wrapped: &[u8], handle: KeyHandle) {
        self.tick += 1;
        if self.held.len() >= self.max && !self.held.contains_key(meter_id) {
            let oldest = self
                .held
                .iter()
                .min_by_key(|(_, held)| held.used)
                .map(|(meter, _)| meter.clone());
            if let Some(oldest) = oldest {
                self.held.remove(&oldest);
            }
        }
        let held = Held {
            wrapped: wrapped.to_vec(),
            handle,
            used: self.tick,
        };
        self.held.insert(meter_id.to_owned(), held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_row_is_bound() {
        let good = binding(
            Kind::AuthenticationKey,
            "m1",
            (b"CCCCCCCC", b"SSSSSSSS"),
            b"ek",
        );
        for other in [
            binding(Kind::Password, "m1", (b"CCCCCCCC", b"SSSSSSSS"), b"ek"),
            binding(
                Kind::AuthenticationKey,
                "m2",
                (b"CCCCCCCC", b"SSSSSSSS"),
                b"ek",
            ),
            binding(
                Kind::AuthenticationKey,
                "m1",
                (b"SSSSSSSS", b"CCCCCCCC"),
                b"ek",
            ),
            binding(
                Kind::AuthenticationKey,
                "m1",
                (b"CCCCCCCC", b"SSSSSSSS"),
                b"ke",
            ),
            binding(
                Kind::AuthenticationKey,
                "m1",
                (b"CCCCCCCCS", b"SSSSSSS"),
                b"ek",
            ),
        ] {
            assert_ne!(good, other);
        }
    }
}
