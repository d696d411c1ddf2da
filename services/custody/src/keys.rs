//! Putting meter keys in. None comes out.

use std::time::{Duration, UNIX_EPOCH};

use dlms::{Mechanism, SecurityControl, Suite};
use kit::clock;
use latchkey_proto::audit::v1::EntryKind;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::{
    custody::Custody,
    error::Error,
    keyring::{Kek, TRANSPORT},
    seal::Kind,
    store::{Generations, KeyRow},
    trail,
};

/// When the invocation counters of imported keys begin: 2026-01-01T00:00:00Z.
const COUNTERS_BEGIN: Duration = Duration::from_secs(1_767_225_600);

/// What is known of a meter in clear, and the titles its nonces are made of; parsed.
pub(crate) struct Identity {
    pub(crate) meter_id: String,
    pub(crate) client_title: Vec<u8>,
    pub(crate) server_title: Vec<u8>,
    pub(crate) suite: Suite,
    /// Bit n: the mechanism with id n was named. 0: none was.
    pub(crate) mechanisms: u8,
    /// As [`KeyRow::policies`].
    pub(crate) policies: u8,
    /// X || Y, a point of the suite's curve; or empty.
    pub(crate) signing_key: Vec<u8>,
    /// X || Y, a point of the suite's curve; or empty.
    pub(crate) agreement_key: Vec<u8>,
}

/// Secrets wrapped under the transport key; the last two may be empty.
pub(crate) struct WrappedKeys {
    pub(crate) encryption_key: Vec<u8>,
    pub(crate) authentication_key: Vec<u8>,
    pub(crate) hls_secret: Vec<u8>,
    pub(crate) master_key: Vec<u8>,
}

/// Secrets of a laboratory meter, in clear; each may be empty.
pub(crate) struct LabKeys {
    pub(crate) encryption_key: Zeroizing<Vec<u8>>,
    pub(crate) authentication_key: Zeroizing<Vec<u8>>,
    pub(crate) password: Zeroizing<Vec<u8>>,
    pub(crate) hls_secret: Zeroizing<Vec<u8>>,
    pub(crate) master_key: Zeroizing<Vec<u8>>,
}

/// Secrets on their way into a row: those that the token keeps are wrapped, and empty for none.
#[derive(Default)]
struct Secrets {
    /// The generation of the key-encryption keys they are under.
    kek: u32,
    wrapped_ek: Vec<u8>,
    wrapped_hls_secret: Vec<u8>,
    wrapped_master_key: Vec<u8>,
    ak: Incoming,
    password: Incoming,
    /// For what the token cannot digest.
    hls_secret: Incoming,
}

/// How a secret that is to be sealed comes in.
#[derive(Default)]
enum Incoming {
    /// Not at all.
    #[default]
    None,
    /// In clear.
    Clear(Zeroizing<Vec<u8>>),
    /// An AES key, wrapped under the transport key.
    Key(Vec<u8>),
    /// An HLS secret, wrapped under the transport key.
    Secret(Vec<u8>),
}

impl From<Zeroizing<Vec<u8>>> for Incoming {
    fn from(secret: Zeroizing<Vec<u8>>) -> Self {
        if secret.is_empty() {
            Self::None
        } else {
            Self::Clear(secret)
        }
    }
}

impl Identity {
    fn names(&self, mechanism: Mechanism) -> bool {
        self.mechanisms & bit(mechanism) != 0
    }
}

/// Its place in [`KeyRow::mechanisms`].
pub(crate) fn bit(mechanism: Mechanism) -> u8 {
    1_u8.checked_shl(mechanism.id().into()).unwrap_or(0)
}

/// The place in [`KeyRow::policies`] of what is not both authenticated and encrypted.
pub(crate) fn policy_bit(control: SecurityControl) -> u8 {
    match (control.is_authenticated(), control.is_encrypted()) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    }
}

impl KeyRow {
    /// Whether encryption without authentication was named.
    pub(crate) fn names_encryption_alone(&self) -> bool {
        self.policies & policy_bit(SecurityControl::ENC) != 0
    }
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
        let octets = identity.suite.key_len();
        let kek = self.keyring.generation();
        let secrets = Secrets {
            kek,
            wrapped_ek: token
                .generate_wrapped(&Kek::Encryption.of(kek), octets)
                .await?,
            ak: Zeroizing::new(token.random(octets).await?).into(),
            ..Secrets::default()
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
        keys: WrappedKeys,
    ) -> Result<KeyRow, Error> {
        let token = self.keyring.token();
        let kek = self.generation_of(&identity.meter_id).await?;
        let wrapped_ek = token
            .import_wrapped(TRANSPORT, &keys.encryption_key, &Kek::Encryption.of(kek))
            .await
            .map_err(|e| wrapped_wrong(e, "wrapped_encryption_key"))?;
        let wrapped_master_key = match keys.master_key.as_slice() {
            [] => Vec::new(),
            wrapped => token
                .import_wrapped(TRANSPORT, wrapped, &Kek::Master.of(kek))
                .await
                .map_err(|e| wrapped_wrong(e, "wrapped_key_encryption_key"))?,
        };
        let wrapped_hls_secret = match keys.hls_secret.as_slice() {
            [] => Vec::new(),
            wrapped => token
                .import_secret(TRANSPORT, wrapped, &Kek::Secret.of(kek))
                .await
                .map_err(|e| wrapped_wrong(e, HLS_SECRET))?,
        };
        let readable = !keys.hls_secret.is_empty() && identity.names(Mechanism::HlsMd5);
        let secrets = Secrets {
            kek,
            wrapped_ek,
            wrapped_master_key,
            wrapped_hls_secret,
            ak: Incoming::Key(keys.authentication_key),
            hls_secret: if readable {
                Incoming::Secret(keys.hls_secret)
            } else {
                Incoming::None
            },
            password: Incoming::None,
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
        let token = self.keyring.token();
        let kek = self.generation_of(&identity.meter_id).await?;
        let secret = keys.hls_secret;
        let digestible = secret.len() >= 16 && secret.len().is_multiple_of(8);
        let wrapped_hls_secret = if digestible {
            token.wrap_secret(&Kek::Secret.of(kek), &secret).await?
        } else {
            Vec::new()
        };
        // A laboratory's secrets were in clear before: one more is kept so than a token needs, unless others were named.
        let readable = !digestible || identity.mechanisms == 0 || identity.names(Mechanism::HlsMd5);
        let secrets = Secrets {
            kek,
            wrapped_ek: self
                .wrap_clear(&Kek::Encryption.of(kek), &keys.encryption_key)
                .await?,
            wrapped_master_key: self
                .wrap_clear(&Kek::Master.of(kek), &keys.master_key)
                .await?,
            wrapped_hls_secret,
            ak: keys.authentication_key.into(),
            password: keys.password.into(),
            hls_secret: if readable {
                secret.into()
            } else {
                Incoming::None
            },
        };
        self.import(principal, identity, "lab", &secrets).await
    }

    /// The generation that keys for a meter come under: if it has some, theirs, so that the same keys are the same octets.
    async fn generation_of(&self, meter_id: &str) -> Result<u32, Error> {
        let held = self.store.keys(meter_id).await?;
        Ok(held.map_or(self.keyring.generation(), |row| row.generations.kek))
    }

    async fn wrap_clear(&self, kek: &str, key: &Zeroizing<Vec<u8>>) -> Result<Vec<u8>, Error> {
        if key.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.keyring.token().wrap_clear(kek, key).await?)
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

    /// Seals secrets into a row. The facts come first: the seals bind them.
    async fn row(
        &self,
        identity: Identity,
        source: &str,
        secrets: &Secrets,
        first: u32,
    ) -> Result<KeyRow, Error> {
        let token = self.keyring.token();
        let check_value = if secrets.wrapped_ek.is_empty() {
            Vec::new()
        } else {
            let kek = Kek::Encryption.of(secrets.kek);
            let handle = token.unwrap_key(&kek, &secrets.wrapped_ek).await?;
            token.check_value(&handle).await?.to_vec()
        };
        let mut row = KeyRow {
            wrapped_encryption_key: secrets.wrapped_ek.clone(),
            wrapped_hls_secret: secrets.wrapped_hls_secret.clone(),
            wrapped_master_key: secrets.wrapped_master_key.clone(),
            check_value,
            source: source.to_owned(),
            next_counter: first,
            create_us: clock::micros(clock::now()),
            meter_id: identity.meter_id,
            client_system_title: identity.client_title,
            server_system_title: identity.server_title,
            suite: identity.suite,
            mechanisms: identity.mechanisms,
            policies: identity.policies,
            server_signing_key: identity.signing_key,
            server_agreement_key: identity.agreement_key,
            generations: Generations {
                kek: secrets.kek,
                ..Generations::default()
            },
            ..KeyRow::default()
        };
        row.sealed_authentication_key = self
            .seal(&row, Kind::AuthenticationKey, &secrets.ak)
            .await?;
        row.sealed_password = self.seal(&row, Kind::Password, &secrets.password).await?;
        row.sealed_hls_secret = self
            .seal(&row, Kind::HlsSecret, &secrets.hls_secret)
            .await?;
        if row.needs_seal() {
            let bound = row.binding(Kind::Row);
            let kek = Kek::Authentication.of(secrets.kek);
            row.row_seal = token.protect_ak(&kek, &bound, &[]).await?;
        }
        Ok(row)
    }

    async fn seal(&self, row: &KeyRow, kind: Kind, secret: &Incoming) -> Result<Vec<u8>, Error> {
        let token = self.keyring.token();
        let bound = row.binding(kind);
        let kek = Kek::Authentication.of(row.generations.kek);
        match secret {
            Incoming::None => Ok(Vec::new()),
            Incoming::Clear(secret) => Ok(token.protect_ak(&kek, &bound, secret).await?),
            Incoming::Key(wrapped) => token
                .import_ak(TRANSPORT, wrapped, &kek, &bound)
                .await
                .map_err(|e| wrapped_wrong(e, "wrapped_authentication_key")),
            Incoming::Secret(wrapped) => token
                .import_readable_secret(TRANSPORT, wrapped, &kek, &bound)
                .await
                .map_err(|e| wrapped_wrong(e, HLS_SECRET)),
        }
    }

    async fn insert(&self, principal: &str, row: &KeyRow) -> Result<bool, Error> {
        let entry = trail::entry(EntryKind::Key, principal, &row.meter_id, story(row));
        let inserted = self.store.insert_keys(row, &entry).await?;
        self.reporter.stored();
        Ok(inserted)
    }

    /// Whether the row held is of the same secrets and facts. RFC 3394 has no randomness: the same key wraps to the same
    /// octets.
    async fn same(&self, held: &KeyRow, new: &KeyRow) -> Result<bool, Error> {
        // Meter, titles, suite, mechanisms, policies, wrapped and public keys are what the seal of nothing binds.
        if held.binding(Kind::Row) != new.binding(Kind::Row) {
            return Ok(false);
        }
        for kind in [Kind::AuthenticationKey, Kind::Password, Kind::HlsSecret] {
            match (kind.of(held), kind.of(new)) {
                ([], []) => {}
                ([], _) | (_, []) => return Ok(false),
                _ => {
                    let (held, new) = (
                        self.keyring.reveal(held, kind).await?,
                        self.keyring.reveal(new, kind).await?,
                    );
                    if !bool::from(held.ct_eq(new.as_slice())) {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }
}

/// What the trail says of new keys: which there are, and none of them.
fn story(row: &KeyRow) -> String {
    let check_value = match row.check_value.as_slice() {
        [] => "none".to_owned(),
        octets => hex::encode(octets),
    };
    let secret = !row.wrapped_hls_secret.is_empty() || !row.sealed_hls_secret.is_empty();
    let held = |there: bool| if there { "held" } else { "none" };
    let mut story = format!(
        "keys {}: check value {check_value}, password {}, counters from {}",
        row.source,
        held(!row.sealed_password.is_empty()),
        row.next_counter
    );
    if row.is_extended() || secret {
        story += &format!(
            "; suite {}, HLS secret {}, master key {}, public keys {} and {}",
            row.suite.id(),
            held(secret),
            held(!row.wrapped_master_key.is_empty()),
            held(!row.server_signing_key.is_empty()),
            held(!row.server_agreement_key.is_empty()),
        );
    }
    story
}

fn wrapped_wrong(error: hsm::Error, which: &'static str) -> Error {
    match error {
        hsm::Error::WrappedKeyInvalid { .. } => Error::WrappedKeyInvalid { which },
        other => other.into(),
    }
}

const HLS_SECRET: &str = "wrapped_hls_secret";
