//! Meter keys in use: the encryption key as an object of the token, the authentication key in zeroized memory.
//!
//! The encryption key (EK) never leaves the token (P3), nor do a meter's master key and HLS secret, nor the head-end's
//! own keys. The authentication key (AK) must: it is part of the additional authenticated data, which PKCS#11 takes as
//! octets. Alone it forges nothing and reads nothing. It lives as long as the cipher context that needs it, and no
//! response carries it.

mod cache;

use std::sync::{Mutex, PoisonError};

use dlms::{Suite, SystemTitle, security::SecurityControl};
use hsm::{Curve, KeyHandle, Token};
use zeroize::Zeroizing;

use self::cache::Cache;
use crate::{error::Error, seal::Kind, store::KeyRow};

/// A kind of key-encryption key. Each has generations: `kek-ek-1`, `kek-ek-2` and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kek {
    /// `kek-ek-N` wraps encryption keys (RFC 3394).
    Encryption,
    /// `kek-ak-N` seals authentication keys and passwords (AES-GCM).
    Authentication,
    /// `kek-hs-N` wraps HLS secrets (RFC 3394).
    Secret,
    /// `kek-mk-N` wraps meters' master keys (RFC 3394).
    Master,
}

impl Kek {
    /// The label of a generation.
    pub(crate) fn of(self, generation: u32) -> String {
        let stem = match self {
            Self::Encryption => "kek-ek",
            Self::Authentication => "kek-ak",
            Self::Secret => "kek-hs",
            Self::Master => "kek-mk",
        };
        format!("{stem}-{generation}")
    }
}

/// Unwraps keys on their way in, unless another is named.
pub(crate) const TRANSPORT: &str = "transport-1";

/// The labels of one generation of key-encryption keys that wrap.
pub(crate) fn keks(generation: u32) -> hsm::Keks {
    hsm::Keks {
        encryption: Kek::Encryption.of(generation),
        master: Kek::Master.of(generation),
        secret: Kek::Secret.of(generation),
    }
}

/// The curve of a suite; suite 0 has none.
pub(crate) fn curve(suite: Suite) -> Option<Curve> {
    match suite {
        Suite::Suite0 => None,
        Suite::Suite1 => Some(Curve::P256),
        Suite::Suite2 => Some(Curve::P384),
    }
}

/// The head-end's own key that signs.
pub(crate) fn signing_label(curve: Curve) -> &'static str {
    match curve {
        Curve::P256 => "sign-p256-1",
        Curve::P384 => "sign-p384-1",
    }
}

/// The head-end's own key of key agreement.
pub(crate) fn agreement_label(curve: Curve) -> &'static str {
    match curve {
        Curve::P256 => "agree-p256-1",
        Curve::P384 => "agree-p384-1",
    }
}

/// What is held for one meter, for the life of a cipher context. Nobody else's row has its seals.
pub(crate) struct MeterKeys {
    pub(crate) meter_id: String,
    pub(crate) client_title: SystemTitle,
    pub(crate) server_title: SystemTitle,
    pub(crate) suite: Suite,
    /// Of a ciphered context.
    encryption: Option<Encryption>,
    pub(crate) hls_secret: HlsSecret,
    /// N of the `kek-..-N` that its secrets are under. A context that is open keeps what it has when the row comes under
    /// another.
    pub(crate) kek_generation: u32,
    /// RFC 3394 under `kek-mk-N`; empty for none.
    pub(crate) wrapped_master_key: Vec<u8>,
    /// X || Y; empty if not known.
    pub(crate) signing_key: Vec<u8>,
    /// X || Y; empty if not known.
    pub(crate) agreement_key: Vec<u8>,
}

struct Encryption {
    wrapped: Vec<u8>,
    /// Of the encryption key.
    generation: u32,
    check_value: Vec<u8>,
    ak: Zeroizing<Vec<u8>>,
}

/// The secret of HLS with MD5, SHA-1 or SHA-256.
pub(crate) enum HlsSecret {
    /// None is held, or none is needed.
    None,
    /// RFC 3394 under `kek-hs-N`: the token digests it.
    Wrapped(Vec<u8>),
    /// One that the token cannot digest.
    Readable(Zeroizing<Vec<u8>>),
}

/// What a cipher context wants of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) ciphering: bool,
    pub(crate) secret: Option<NeedOfSecret>,
}

/// For what an HLS secret is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NeedOfSecret {
    /// A hash that a token computes.
    Sha,
    /// One that none does.
    Md5,
}

/// Which end of the association a nonce is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    Client,
    Server,
}

impl MeterKeys {
    /// The authentication key; empty in a context without ciphering.
    pub(crate) fn ak(&self) -> &[u8] {
        self.encryption.as_ref().map_or(&[], |keys| &keys.ak)
    }

    /// The generation of the encryption key, whose counters its nonces have; 0 in a context without ciphering.
    pub(crate) fn generation(&self) -> u32 {
        self.encryption.as_ref().map_or(0, |keys| keys.generation)
    }

    /// Another encryption key in the place of this one, wrapped, with its check value.
    pub(crate) fn replace_ek(
        &mut self,
        generation: u32,
        (wrapped, check_value): (Vec<u8>, Vec<u8>),
    ) {
        if let Some(keys) = &mut self.encryption {
            keys.wrapped = wrapped;
            keys.check_value = check_value;
            keys.generation = generation;
        }
    }

    /// Another authentication key in the place of this one.
    pub(crate) fn replace_ak(&mut self, ak: Zeroizing<Vec<u8>>) {
        if let Some(keys) = &mut self.encryption {
            keys.ak = ak;
        }
    }

    /// Nonce and associated data of an APDU or token. `aad` is complete, and none without authentication.
    pub(crate) fn gcm(&self, control: SecurityControl, sender: Sender, counter: u32) -> Gcm {
        let title = match sender {
            Sender::Client => self.client_title,
            Sender::Server => self.server_title,
        };
        Gcm {
            control,
            nonce: dlms::security::nonce(title, counter),
            aad: Zeroizing::default(),
        }
    }

    fn changed(&self) -> Error {
        Error::KeyRowChanged {
            meter: self.meter_id.clone(),
        }
    }
}

/// One use of AES-GCM: everything but key and text.
pub(crate) struct Gcm {
    control: SecurityControl,
    nonce: [u8; 12],
    aad: Zeroizing<Vec<u8>>,
}

impl Gcm {
    pub(crate) fn with_aad(self, aad: Vec<u8>) -> Self {
        Self {
            aad: Zeroizing::new(aad),
            ..self
        }
    }

    /// The body of a ciphered APDU: what its security control says, from the plaintext.
    async fn protect(
        &self,
        token: &Token,
        key: &KeyHandle,
        plain: &[u8],
    ) -> Result<Vec<u8>, hsm::Error> {
        match (self.control.is_authenticated(), self.control.is_encrypted()) {
            (true, true) => token.seal(key, self.nonce, &self.aad, plain).await,
            (true, false) => {
                let tag = token.gmac(key, self.nonce, &self.aad).await?;
                Ok([plain, &tag].concat())
            }
            (false, _) => token.cipher_only(key, self.nonce, plain).await,
        }
    }

    /// The reverse. Without authentication it never fails, and says nothing.
    async fn unprotect(
        &self,
        token: &Token,
        key: &KeyHandle,
        body: &[u8],
    ) -> Result<Vec<u8>, hsm::Error> {
        match (self.control.is_authenticated(), self.control.is_encrypted()) {
            (true, true) => token.open_sealed(key, self.nonce, &self.aad, body).await,
            (true, false) => {
                let (plain, tag) = split_tag(body);
                token.open_sealed(key, self.nonce, &self.aad, tag).await?;
                Ok(plain.to_vec())
            }
            (false, _) => token.cipher_only(key, self.nonce, body).await,
        }
    }
}

/// Text and tag of an authenticated body; no tag if it is too short for one.
pub(crate) fn split_tag(body: &[u8]) -> (&[u8], &[u8]) {
    let text = body.len().saturating_sub(dlms::security::TAG);
    body.split_at_checked(text).unwrap_or((&[], &[]))
}

/// Under which key something is ciphered.
#[derive(Clone, Copy)]
pub(crate) enum Under<'a> {
    /// The meter's global unicast encryption key.
    Global,
    /// A dedicated key, or one of a single APDU. If the token is opened anew it is lost.
    Held(&'a KeyHandle),
}

/// The token, and the keys unwrapped in it.
pub(crate) struct Keyring {
    token: Token,
    /// What new rows are kept under.
    generation: u32,
    cache: Mutex<Cache<KeyHandle>>,
}

impl Keyring {
    /// Holds at most `max` unwrapped keys. New rows are kept under the newest generation that is whole, unless one is
    /// pinned, which must be there.
    pub(crate) async fn new(token: Token, max: usize, pinned: Option<u32>) -> Result<Self, Error> {
        let there = token.kek_generations().await?;
        // A token may lack HLS secrets or master keys altogether: then no generation has them.
        let whole = there
            .iter()
            .map(hsm::KekGeneration::keys)
            .max()
            .unwrap_or(0);
        let newest = there.iter().rev().find(|kek| kek.keys() == whole);
        let generation = match pinned {
            Some(pinned) => there.iter().find(|kek| kek.number == pinned),
            None => newest,
        };
        let generation = generation.ok_or_else(|| Error::GenerationUnknown {
            generation: pinned.unwrap_or(1),
        })?;
        Ok(Self::of(token, max, generation.number))
    }

    fn of(token: Token, max: usize, generation: u32) -> Self {
        Self {
            token,
            generation,
            cache: Mutex::new(Cache::new(max)),
        }
    }

    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    /// The generation that new rows are kept under.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// The keys of a row, as far as they are needed. Opens the seal that binds the row, unwraps the EK and compares its
    /// check value, so a row that another hand changed is refused here, before a counter is spent.
    pub(crate) async fn meter_keys(&self, row: &KeyRow, need: Need) -> Result<MeterKeys, Error> {
        let changed = || Error::KeyRowChanged {
            meter: row.meter_id.clone(),
        };
        let title = |octets: &[u8]| SystemTitle::from_slice(octets).ok_or_else(changed);
        if row.needs_seal() {
            self.reveal(row, Kind::Row).await?;
        }
        let encryption = if need.ciphering {
            Some(Encryption {
                wrapped: row.wrapped_encryption_key.clone(),
                generation: row.generations.encryption,
                check_value: row.check_value.clone(),
                ak: self.reveal(row, Kind::AuthenticationKey).await?,
            })
        } else {
            None
        };
        let keys = MeterKeys {
            meter_id: row.meter_id.clone(),
            client_title: title(&row.client_system_title)?,
            server_title: title(&row.server_system_title)?,
            suite: row.suite,
            encryption,
            hls_secret: self.hls_secret(row, need.secret).await?,
            kek_generation: row.generations.kek,
            wrapped_master_key: row.wrapped_master_key.clone(),
            signing_key: row.server_signing_key.clone(),
            agreement_key: row.server_agreement_key.clone(),
        };
        if need.ciphering {
            self.handle(&keys).await?;
        }
        Ok(keys)
    }

    async fn hls_secret(
        &self,
        row: &KeyRow,
        need: Option<NeedOfSecret>,
    ) -> Result<HlsSecret, Error> {
        match need {
            None => Ok(HlsSecret::None),
            Some(NeedOfSecret::Sha) if !row.wrapped_hls_secret.is_empty() => {
                Ok(HlsSecret::Wrapped(row.wrapped_hls_secret.clone()))
            }
            Some(NeedOfSecret::Sha | NeedOfSecret::Md5) => {
                let secret = self.reveal(row, Kind::HlsSecret).await?;
                Ok(HlsSecret::Readable(secret))
            }
        }
    }

    /// Opens a sealed secret of a row.
    pub(crate) async fn reveal(
        &self,
        row: &KeyRow,
        kind: Kind,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.token
            .reveal_ak(
                &Kek::Authentication.of(row.generations.kek),
                &row.binding(kind),
                kind.of(row),
            )
            .await
            .map_err(|e| match e {
                hsm::Error::AuthFailed | hsm::Error::Length { .. } => Error::KeyRowChanged {
                    meter: row.meter_id.clone(),
                },
                other => other.into(),
            })
    }

    /// Ciphers a request: what its security control says. The caller answers for the counter in `gcm`.
    pub(crate) async fn protect(
        &self,
        keys: &MeterKeys,
        under: Under<'_>,
        gcm: &Gcm,
        apdu: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let mut handle = match under {
            Under::Global => self.handle(keys).await?,
            Under::Held(handle) => return Ok(gcm.protect(&self.token, handle, apdu).await?),
        };
        let mut tries = 0..STALE_MAX;
        loop {
            match gcm.protect(&self.token, &handle, apdu).await {
                // The same nonce, but also the same plaintext: the same ciphertext.
                Err(hsm::Error::StaleKey) if tries.next().is_some() => {
                    handle = Box::pin(self.fresh(keys)).await?;
                }
                done => return Ok(done?),
            }
        }
    }

    /// Deciphers a response of the meter; `None` if its tag is wrong.
    pub(crate) async fn unprotect(
        &self,
        keys: &MeterKeys,
        under: Under<'_>,
        gcm: &Gcm,
        body: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        let opened = match under {
            Under::Held(handle) => gcm.unprotect(&self.token, handle, body).await,
            Under::Global => {
                let mut handle = self.handle(keys).await?;
                let mut tries = 0..STALE_MAX;
                loop {
                    match gcm.unprotect(&self.token, &handle, body).await {
                        Err(hsm::Error::StaleKey) if tries.next().is_some() => {
                            handle = Box::pin(self.fresh(keys)).await?;
                        }
                        opened => break opened,
                    }
                }
            }
        };
        match opened {
            Ok(apdu) => Ok(Some(apdu)),
            Err(hsm::Error::AuthFailed) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The EK as an object of the token.
    async fn handle(&self, keys: &MeterKeys) -> Result<KeyHandle, Error> {
        let encryption = keys.encryption.as_ref().ok_or_else(|| keys.changed())?;
        let held = self.cache().get(&keys.meter_id, &encryption.wrapped);
        match held {
            Some(handle) => Ok(handle),
            None => Box::pin(self.fresh(keys)).await,
        }
    }

    async fn fresh(&self, keys: &MeterKeys) -> Result<KeyHandle, Error> {
        let mut tries = 0..STALE_MAX;
        loop {
            match self.fresh_once(keys).await {
                Err(error) if error.is_stale() && tries.next().is_some() => {}
                done => return done,
            }
        }
    }

    async fn fresh_once(&self, keys: &MeterKeys) -> Result<KeyHandle, Error> {
        let encryption = keys.encryption.as_ref().ok_or_else(|| keys.changed())?;
        let handle = self
            .token
            .unwrap_key(
                &Kek::Encryption.of(keys.kek_generation),
                &encryption.wrapped,
            )
            .await
            .map_err(|e| match e {
                hsm::Error::WrappedKeyInvalid { .. } => keys.changed(),
                other => other.into(),
            })?;
        if self.token.check_value(&handle).await?.as_slice() != encryption.check_value {
            return Err(keys.changed());
        }
        self.cache()
            .put(&keys.meter_id, &encryption.wrapped, handle.clone());
        Ok(handle)
    }

    /// Lets go of a meter's key: the last handle destroys the object.
    pub(crate) fn forget(&self, meter_id: &str) {
        self.cache().remove(meter_id);
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache<KeyHandle>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a key that has become stale is unwrapped again: once for each token that fails, or module that is
/// initialised anew, in this very moment.
pub(crate) const STALE_MAX: usize = 8;
