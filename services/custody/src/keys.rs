//! Putting meter keys in. None comes out.

pub(crate) mod batch;
pub(crate) mod change;
mod incoming;
mod marks;

use dlms::Mechanism;
use latchkey_proto::audit::v1::EntryKind;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

pub(crate) use self::incoming::*;
use crate::{
    custody::Custody,
    error::Error,
    keyring::{self, Kek},
    seal::Kind,
    store::{Claim, Generations, KeyRow, KeyState, Placed},
    trail,
};

/// Secrets on their way into a row: those that the token keeps are wrapped, and empty for none.
#[derive(Default)]
struct Secrets {
    wrapped_ek: Vec<u8>,
    wrapped_hls_secret: Vec<u8>,
    wrapped_master_key: Vec<u8>,
    wrapped_broadcast_key: Vec<u8>,
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
    /// An AES key, wrapped under the transport key of this label.
    Key(String, Vec<u8>),
    /// An HLS secret, wrapped likewise.
    Secret(String, Vec<u8>),
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

impl Custody {
    /// Makes new keys in the token.
    pub(crate) async fn generate_keys(
        &self,
        principal: &str,
        identity: Identity,
        broadcast: Broadcast,
    ) -> Result<KeyRow, Error> {
        let held = self.store.keys(&identity.meter_id).await?;
        let held = held.as_ref();
        if held.is_some_and(|held| held.state != KeyState::Destroyed) {
            return Err(Error::KeysExist {
                meter: identity.meter_id,
            });
        }
        let place = self.place(held);
        let keks = &place.keks;
        let token = self.keyring.token();
        let octets = identity.suite.key_len();
        let secrets = Secrets {
            wrapped_ek: token.generate_wrapped(&keks.encryption, octets).await?,
            wrapped_broadcast_key: match broadcast {
                Broadcast::None => Vec::new(),
                Broadcast::New => token.generate_wrapped(&keks.encryption, octets).await?,
                Broadcast::Of(meter) => self.broadcast_key(&meter, &place, octets).await?,
            },
            ak: Zeroizing::new(token.random(octets).await?).into(),
            ..Secrets::default()
        };
        // Keys that never were anywhere else have no counter in use.
        let new = New {
            source: "generated",
            counter: 1,
            place,
        };
        let (row, claims) = self.row(identity, new, &secrets).await?;
        match self.insert(principal, &row, &claims).await? {
            Placed::Stored => self.stored_keys(&row.meter_id).await,
            Placed::MeterHasKeys => Err(Error::KeysExist {
                meter: row.meter_id,
            }),
            Placed::KeyInUse => Err(Error::KeyInUse {
                meter: row.meter_id,
            }),
        }
    }

    /// The broadcast key of a meter's group, for another meter of it.
    async fn broadcast_key(
        &self,
        meter: &str,
        place: &Place,
        octets: usize,
    ) -> Result<Vec<u8>, Error> {
        let row = self.stored_keys(meter).await?;
        let wrapped = row.wrapped_broadcast_key;
        if row.generations.kek == place.generations.kek && wrapped.len() == octets + WRAP {
            return Ok(wrapped);
        }
        let why = "has no broadcast key of this suite under the newest key-encryption keys";
        Err(Error::Request(vec![(
            "broadcast_key_of".to_owned(),
            format!("{meter} {why}"),
        )]))
    }

    /// Takes keys wrapped under a transport key.
    pub(crate) async fn import_keys(
        &self,
        principal: &str,
        identity: Identity,
        keys: WrappedKeys,
    ) -> Result<KeyRow, Error> {
        let held = self.store.keys(&identity.meter_id).await?;
        let place = self.place(held.as_ref());
        let (token, keks, transport) = (self.keyring.token(), &place.keks, &keys.transport);
        let key = async |wrapped: &[u8], kek: &str, which| match wrapped {
            [] => Ok(Vec::new()),
            wrapped => token
                .import_wrapped(transport, wrapped, kek)
                .await
                .map_err(|e| wrapped_wrong(e, which)),
        };
        let wrapped_hls_secret = match keys.hls_secret.as_slice() {
            [] => Vec::new(),
            wrapped => token
                .import_secret(transport, wrapped, &keks.secret)
                .await
                .map_err(|e| wrapped_wrong(e, HLS_SECRET))?,
        };
        let readable = !keys.hls_secret.is_empty() && identity.names(Mechanism::HlsMd5);
        let secrets = Secrets {
            wrapped_ek: key(&keys.encryption_key, &keks.encryption, ENCRYPTION_KEY).await?,
            wrapped_master_key: key(&keys.master_key, &keks.master, MASTER_KEY).await?,
            wrapped_broadcast_key: key(&keys.broadcast_key, &keks.encryption, BROADCAST_KEY)
                .await?,
            wrapped_hls_secret,
            hls_secret: if readable {
                Incoming::Secret(keys.transport.clone(), keys.hls_secret)
            } else {
                Incoming::None
            },
            ak: Incoming::Key(keys.transport, keys.authentication_key),
            password: Incoming::None,
        };
        let new = New {
            source: "imported",
            counter: first_counter(),
            place,
        };
        self.import(principal, identity, new, &secrets).await
    }

    /// Takes keys in clear, of a laboratory meter.
    pub(crate) async fn import_lab_keys(
        &self,
        principal: &str,
        identity: Identity,
        keys: LabKeys,
    ) -> Result<KeyRow, Error> {
        let held = self.store.keys(&identity.meter_id).await?;
        let place = self.place(held.as_ref());
        let (token, keks) = (self.keyring.token(), &place.keks);
        let secret = keys.hls_secret;
        let digestible = secret.len() >= 16 && secret.len().is_multiple_of(8);
        let wrapped_hls_secret = if digestible {
            token.wrap_secret(&keks.secret, &secret).await?
        } else {
            Vec::new()
        };
        // A laboratory's secrets were in clear before: one more is kept so than a token needs, unless others were named.
        let readable = !digestible || identity.mechanisms == 0 || identity.names(Mechanism::HlsMd5);
        let secrets = Secrets {
            wrapped_ek: self
                .wrap_clear(&keks.encryption, &keys.encryption_key)
                .await?,
            wrapped_master_key: self.wrap_clear(&keks.master, &keys.master_key).await?,
            wrapped_broadcast_key: self
                .wrap_clear(&keks.encryption, &keys.broadcast_key)
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
        let new = New {
            source: "lab",
            counter: first_counter(),
            place,
        };
        self.import(principal, identity, new, &secrets).await
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
        new: New,
        secrets: &Secrets,
    ) -> Result<KeyRow, Error> {
        let (row, claims) = self.row(identity, new, secrets).await?;
        row.fits_suite()?;
        let meter = row.meter_id.clone();
        match self.insert(principal, &row, &claims).await? {
            Placed::Stored => return self.stored_keys(&meter).await,
            Placed::KeyInUse => return Err(Error::KeyInUse { meter }),
            Placed::MeterHasKeys => {}
        }
        let held = self.stored_keys(&meter).await?;
        if self.same(&held, &row).await? {
            Ok(held)
        } else {
            Err(Error::KeysExist { meter })
        }
    }

    /// Where new keys of a meter go, beside what is held for it. Those that are compared with what is held are wrapped
    /// as that is; those that come after destroyed ones are the next generation.
    pub(crate) fn place(&self, held: Option<&KeyRow>) -> Place {
        let newest = self.keyring.generation();
        let (generations, row_version, state) = match held {
            None => (Generations::default(), 0, KeyState::Active),
            Some(held) if held.state == KeyState::Destroyed => {
                let was = held.generations;
                let next = Generations {
                    kek: newest,
                    encryption: was.encryption.saturating_add(1),
                    authentication: was.authentication.saturating_add(1),
                    master: was.master.saturating_add(1),
                    broadcast: was.broadcast.saturating_add(1),
                };
                (next, held.row_version, KeyState::Active)
            }
            Some(held) => (held.generations, held.row_version, held.state),
        };
        let generations = match held {
            None => Generations {
                kek: newest,
                ..generations
            },
            Some(_) => generations,
        };
        Place {
            keks: keyring::keks(generations.kek),
            generations,
            row_version,
            state,
        }
    }

    /// What is held for a meter.
    pub(crate) async fn stored_keys(&self, meter_id: &str) -> Result<KeyRow, Error> {
        let row = self.store.keys(meter_id).await?;
        row.ok_or_else(|| Error::KeysUnknown {
            meter: meter_id.to_owned(),
        })
    }

    /// Seals secrets into a row. The facts come first: the seals bind them. With it, what tells its keys from all others.
    async fn row(
        &self,
        identity: Identity,
        new: New,
        secrets: &Secrets,
    ) -> Result<(KeyRow, Vec<Claim>), Error> {
        let token = self.keyring.token();
        let marks = |wrapped: &[u8]| {
            let wrapped = (new.place.keks.encryption.clone(), wrapped.to_vec());
            async move {
                if wrapped.1.is_empty() {
                    return Ok(None);
                }
                let marks = token.marks_of(vec![wrapped]).await?.pop();
                Ok::<_, Error>(marks.transpose()?)
            }
        };
        let encryption = marks(&secrets.wrapped_ek).await?;
        let broadcast = marks(&secrets.wrapped_broadcast_key).await?;
        let mut row = new.row(identity);
        row.wrapped_encryption_key.clone_from(&secrets.wrapped_ek);
        row.wrapped_hls_secret
            .clone_from(&secrets.wrapped_hls_secret);
        row.wrapped_master_key
            .clone_from(&secrets.wrapped_master_key);
        row.wrapped_broadcast_key
            .clone_from(&secrets.wrapped_broadcast_key);
        let claims = row.take_marks(encryption, broadcast);
        row.sealed_authentication_key = self
            .seal(&row, Kind::AuthenticationKey, &secrets.ak)
            .await?;
        row.sealed_password = self.seal(&row, Kind::Password, &secrets.password).await?;
        row.sealed_hls_secret = self
            .seal(&row, Kind::HlsSecret, &secrets.hls_secret)
            .await?;
        if row.needs_seal() {
            let bound = row.binding(Kind::Row);
            let kek = Kek::Authentication.of(row.generations.kek);
            row.row_seal = token.protect_ak(&kek, &bound, &[]).await?;
        }
        Ok((row, claims))
    }

    async fn seal(&self, row: &KeyRow, kind: Kind, secret: &Incoming) -> Result<Vec<u8>, Error> {
        let token = self.keyring.token();
        let bound = row.binding(kind);
        let kek = Kek::Authentication.of(row.generations.kek);
        match secret {
            Incoming::None => Ok(Vec::new()),
            Incoming::Clear(secret) => Ok(token.protect_ak(&kek, &bound, secret).await?),
            Incoming::Key(transport, wrapped) => token
                .import_ak(transport, wrapped, &kek, &bound)
                .await
                .map_err(|e| wrapped_wrong(e, AUTHENTICATION_KEY)),
            Incoming::Secret(transport, wrapped) => token
                .import_readable_secret(transport, wrapped, &kek, &bound)
                .await
                .map_err(|e| wrapped_wrong(e, HLS_SECRET)),
        }
    }

    async fn insert(
        &self,
        principal: &str,
        row: &KeyRow,
        claims: &[Claim],
    ) -> Result<Placed, Error> {
        let entry = trail::entry(EntryKind::Key, principal, &row.meter_id, story(row));
        let inserted = self.store.insert_keys(row, claims, &entry).await?;
        self.reporter.stored();
        Ok(inserted)
    }

    /// Whether the row held is of the same secrets and facts. RFC 3394 has no randomness: the same key wraps to the same
    /// octets.
    pub(crate) async fn same(&self, held: &KeyRow, new: &KeyRow) -> Result<bool, Error> {
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

impl KeyRow {
    /// Whether its keys are as long as the suite has them: what comes under a public key shows it here first.
    fn fits_suite(&self) -> Result<(), Error> {
        let wrapped = self.suite.wrapped_len();
        let sealed = self.suite.key_len() + SEAL;
        let parts = [
            (ENCRYPTION_KEY, &self.wrapped_encryption_key, wrapped),
            (BROADCAST_KEY, &self.wrapped_broadcast_key, wrapped),
            (MASTER_KEY, &self.wrapped_master_key, wrapped),
            (AUTHENTICATION_KEY, &self.sealed_authentication_key, sealed),
        ];
        let wrong = parts
            .into_iter()
            .find(|(_, key, length)| !key.is_empty() && key.len() != *length);
        match wrong {
            None => Ok(()),
            Some((which, ..)) => Err(Error::WrappedKeyInvalid { which }),
        }
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

pub(crate) fn wrapped_wrong(error: hsm::Error, which: &'static str) -> Error {
    match error {
        hsm::Error::WrappedKeyInvalid { .. } | hsm::Error::Length { .. } => {
            Error::WrappedKeyInvalid { which }
        }
        other => other.into(),
    }
}
