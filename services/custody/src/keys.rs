//! Putting meter keys in. None comes out.

use std::time::{Duration, UNIX_EPOCH};

use kit::clock;
use latchkey_proto::audit::v1::EntryKind;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::{
    custody::Custody,
    error::Error,
    keyring::{KEK_AK, KEK_EK, Kind, TRANSPORT, binding},
    store::KeyRow,
    trail,
};

/// Octets of an AES-128 key (security suite 0).
const KEY: usize = 16;
/// When the invocation counters of imported keys begin: 2026-01-01T00:00:00Z.
const COUNTERS_BEGIN: Duration = Duration::from_secs(1_767_225_600);

/// A meter and the titles its nonces are made of; parsed.
pub(crate) struct Identity {
    pub(crate) meter_id: String,
    pub(crate) client_title: Vec<u8>,
    pub(crate) server_title: Vec<u8>,
}

/// Secrets of a laboratory meter, in clear; each may be empty.
pub(crate) struct LabKeys {
    pub(crate) encryption_key: Zeroizing<Vec<u8>>,
    pub(crate) authentication_key: Zeroizing<Vec<u8>>,
    pub(crate) password: Zeroizing<Vec<u8>>,
}

/// Secrets on their way into a row.
struct Secrets {
    /// Empty for none.
    wrapped_ek: Vec<u8>,
    ak: AuthenticationKey,
    /// Empty for none.
    password: Zeroizing<Vec<u8>>,
}

/// How an authentication key comes in.
enum AuthenticationKey {
    /// In clear; empty for none.
    Clear(Zeroizing<Vec<u8>>),
    /// Wrapped under the transport key.
    Wrapped(Vec<u8>),
}

impl Custody {
    /// Makes new keys in the token.
    pub(crate) async fn generate_keys(
        &self,
        principal: &str,
        identity: Identity,
    ) -> Result<KeyRow, Error> {
        if self.store.keys(&identity.meter_id).await?.is_some() {
            return Err(Error::KeysExist {
                meter: identity.meter_id,
            });
        }
        let token = self.keyring.token();
        let secrets = Secrets {
            wrapped_ek: token.generate_wrapped(KEK_EK, 16).await?,
            ak: AuthenticationKey::Clear(Zeroizing::new(token.random(KEY).await?)),
            password: Zeroizing::default(),
        };
        // Keys that never were anywhere else have no counter in use.
        let row = self.row(identity, "generated", &secrets, 1).await?;
        let meter = row.meter_id.clone();
        if self.insert(principal, &row).await? {
            self.stored_keys(&meter).await
        } else {
            Err(Error::KeysExist { meter })
        }
    }

    /// Takes keys wrapped under the transport key.
    pub(crate) async fn import_keys(
        &self,
        principal: &str,
        identity: Identity,
        wrapped_ek: &[u8],
        wrapped_ak: &[u8],
    ) -> Result<KeyRow, Error> {
        let wrapped_ek = self
            .keyring
            .token()
            .import_wrapped(TRANSPORT, wrapped_ek, KEK_EK)
            .await
            .map_err(|e| wrapped_wrong(e, "wrapped_encryption_key"))?;
        let ak = AuthenticationKey::Wrapped(wrapped_ak.to_vec());
        let secrets = Secrets {
            wrapped_ek,
            ak,
            password: Zeroizing::default(),
        };
        self.import(principal, identity, "imported", &secrets).await
    }

    /// Takes keys in clear, of a laboratory meter.
    pub(crate) async fn import_lab_keys(
        &self,
        principal: &str,
        identity: Identity,
        keys: LabKeys,
    ) -> Result<KeyRow, Error> {
        let wrapped_ek = if keys.encryption_key.is_empty() {
            Vec::new()
        } else {
            self.keyring
                .token()
                .wrap_clear(KEK_EK, &keys.encryption_key)
                .await?
        };
        let ak = AuthenticationKey::Clear(keys.authentication_key);
        let secrets = Secrets {
            wrapped_ek,
            ak,
            password: keys.password,
        };
        self.import(principal, identity, "lab", &secrets).await
    }

    async fn import(
        &self,
        principal: &str,
        identity: Identity,
        source: &str,
        secrets: &Secrets,
    ) -> Result<KeyRow, Error> {
        // Imported keys may have been in use: elsewhere, or here before this database was lost. Counters that begin
        // with the seconds since 2026 are above all that came before, unless a meter was sent more than one request
        // per second all the time; they reach the end of the space in 2161.
        let since = clock::now()
            .duration_since(UNIX_EPOCH + COUNTERS_BEGIN)
            .unwrap_or_default()
            .as_secs();
        let first = u32::try_from(since).unwrap_or(u32::MAX).max(1);
        let row = self.row(identity, source, secrets, first).await?;
        let meter = row.meter_id.clone();
        if self.insert(principal, &row).await? {
            return self.stored_keys(&meter).await;
        }
        let Some(held) = self.store.keys(&meter).await? else {
            return Err(Error::KeyInUse { meter });
        };
        if self.same(&held, &row).await? {
            Ok(held)
        } else {
            Err(Error::KeysExist { meter })
        }
    }

    /// What is held for a meter.
    pub(crate) async fn stored_keys(&self, meter_id: &str) -> Result<KeyRow, Error> {
        let row = self.store.keys(meter_id).await?;
        row.ok_or_else(|| Error::KeysUnknown {
            meter: meter_id.to_owned(),
        })
    }

    /// Seals secrets into a row.
    async fn row(
        &self,
        identity: Identity,
        source: &str,
        secrets: &Secrets,
        first: u32,
    ) -> Result<KeyRow, Error> {
        let token = self.keyring.token();
        let titles = (
            identity.client_title.as_slice(),
            identity.server_title.as_slice(),
        );
        let bound = |kind| binding(kind, &identity.meter_id, titles, &secrets.wrapped_ek);
        let ak_bound = bound(Kind::AuthenticationKey);
        let sealed_authentication_key = match &secrets.ak {
            AuthenticationKey::Clear(ak) if ak.is_empty() => Vec::new(),
            AuthenticationKey::Clear(ak) => token.protect_ak(KEK_AK, &ak_bound, ak).await?,
            AuthenticationKey::Wrapped(wrapped) => token
                .import_ak(TRANSPORT, wrapped, KEK_AK, &ak_bound)
                .await
                .map_err(|e| wrapped_wrong(e, "wrapped_authentication_key"))?,
        };
        let sealed_password = match secrets.password.as_slice() {
            [] => Vec::new(),
            password => {
                token
                    .protect_ak(KEK_AK, &bound(Kind::Password), password)
                    .await?
            }
        };
        let check_value = if secrets.wrapped_ek.is_empty() {
            Vec::new()
        } else {
            let handle = token.unwrap_key(KEK_EK, &secrets.wrapped_ek).await?;
            token.check_value(&handle).await?.to_vec()
        };
        Ok(KeyRow {
            sealed_authentication_key,
            sealed_password,
            wrapped_encryption_key: secrets.wrapped_ek.clone(),
            check_value,
            source: source.to_owned(),
            next_counter: first,
            last_received: None,
            create_us: clock::micros(clock::now()),
            meter_id: identity.meter_id,
            client_system_title: identity.client_title,
            server_system_title: identity.server_title,
        })
    }

    async fn insert(&self, principal: &str, row: &KeyRow) -> Result<bool, Error> {
        let check_value = hex::encode(&row.check_value);
        let detail = format!(
            "keys {}: check value {}, password {}, counters from {}",
            row.source,
            if check_value.is_empty() {
                "none"
            } else {
                &check_value
            },
            if row.sealed_password.is_empty() {
                "none"
            } else {
                "held"
            },
            row.next_counter
        );
        let entry = trail::entry(EntryKind::Key, principal, &row.meter_id, detail);
        let inserted = self.store.insert_keys(row, &entry).await?;
        self.reporter.stored();
        Ok(inserted)
    }

    /// Whether the row held is of the same secrets. RFC 3394 has no randomness: the same key wraps to the same octets.
    async fn same(&self, held: &KeyRow, new: &KeyRow) -> Result<bool, Error> {
        let alike = held.client_system_title == new.client_system_title
            && held.server_system_title == new.server_system_title
            && held.wrapped_encryption_key == new.wrapped_encryption_key
            && held.sealed_authentication_key.is_empty()
                == new.sealed_authentication_key.is_empty()
            && held.sealed_password.is_empty() == new.sealed_password.is_empty();
        if !alike {
            return Ok(false);
        }
        for (kind, sealed) in [
            (Kind::AuthenticationKey, &held.sealed_authentication_key),
            (Kind::Password, &held.sealed_password),
        ] {
            if !sealed.is_empty() {
                let (held, new) = (
                    self.keyring.reveal(held, kind).await?,
                    self.keyring.reveal(new, kind).await?,
                );
                if !bool::from(held.ct_eq(new.as_slice())) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

fn wrapped_wrong(error: hsm::Error, which: &'static str) -> Error {
    match error {
        hsm::Error::WrappedKeyInvalid { .. } => Error::WrappedKeyInvalid { which },
        other => Error::Token(other),
    }
}
