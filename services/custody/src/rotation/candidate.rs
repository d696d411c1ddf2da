//! New keys: made, kept, and taken into use to find out whether the meter has them.

use dlms::agreement::{KeyId, KeyTransfer};
use hsm::MasterKeyHandle;
use zeroize::Zeroizing;

use super::{KeySet, name_of};
use crate::{
    error::Error,
    keyring::{Keyring, MeterKeys, Need},
    seal::{Kind, bound},
    store::{Claim, GenerationRow, KeyKind, KeyRow, KeyState},
};

/// What a rotation is made of.
pub(super) struct Candidates {
    pub(super) keys: Vec<GenerationRow>,
    pub(super) fingerprints: Vec<Claim>,
    /// The parameter of `key_transfer` that carries them.
    pub(super) send: Vec<u8>,
    /// The one that a meter with the new master key takes; empty for other keys.
    pub(super) confirm: Vec<u8>,
}

/// `kek-{kind}-{generation}`.
pub(super) fn kek(kind: &str, generation: u32) -> String {
    format!("kek-{kind}-{generation}")
}

impl GenerationRow {
    /// A new key of a meter, not wrapped yet. It never was anywhere: none of its counters is used.
    fn new(row: &KeyRow, key: KeyId, generation: u32) -> Self {
        Self {
            meter_id: row.meter_id.clone(),
            key,
            generation,
            secret: Vec::new(),
            check_value: Vec::new(),
            seal: Vec::new(),
            kek_generation: row.generations.kek,
            next_counter: 1,
            last_received: None,
        }
    }

    /// A master key that was agreed; `highest` is the highest generation that is not in use.
    pub(super) fn agreed(row: &KeyRow, highest: u32, wrapped: Vec<u8>) -> Self {
        let generation = highest.max(row.generations.master).saturating_add(1);
        Self {
            secret: wrapped,
            ..Self::new(row, KeyId::Master, generation)
        }
    }

    /// The additional authenticated data of what is sealed in it. A wrapped key is bound by it, a sealed one is inside.
    pub(crate) fn binding(&self) -> Vec<u8> {
        let wrapped: &[u8] = match self.key {
            KeyId::GlobalAuthentication => &[],
            _ => &self.secret,
        };
        bound(
            b"latchkey-key-generation-v1",
            &[
                self.meter_id.as_bytes(),
                name_of(self.key).as_bytes(),
                &self.generation.to_be_bytes(),
                wrapped,
                &self.check_value,
            ],
        )
    }
}

impl Keyring {
    /// Makes new keys for a meter; `generations` are their numbers, in the order of `keys`.
    pub(super) async fn candidates(
        &self,
        row: &KeyRow,
        keys: KeySet,
        generations: &[u32],
    ) -> Result<Candidates, Error> {
        let of = row.generations.kek;
        let master = self
            .token()
            .unwrap_master_key(&kek("mk", of), &row.wrapped_master_key)
            .await
            .map_err(|error| changed(error, row))?;
        let mut made = Candidates {
            keys: Vec::new(),
            fingerprints: Vec::new(),
            send: Vec::new(),
            confirm: Vec::new(),
        };
        let (mut items, mut confirms) = (Vec::new(), Vec::new());
        for (key, generation) in keys.iter().zip(generations) {
            let mut fresh = GenerationRow::new(row, key, *generation);
            let item = |wrapped| KeyTransfer { key, wrapped };
            match key {
                KeyId::GlobalAuthentication => {
                    items.push(item(self.new_ak(row, &master, &mut fresh).await?));
                }
                KeyId::Master => {
                    let token = self.token();
                    let octets = row.suite.key_len();
                    let label = kek("mk", of);
                    let new = token.generate_master_for_meter(&label, &master, octets);
                    let new = new.await?;
                    fresh.secret = new.kept;
                    items.push(item(new.sent));
                    confirms.push(item(new.confirmed));
                }
                KeyId::GlobalUnicastEncryption | KeyId::GlobalBroadcastEncryption => {
                    let (sent, mark) = self.new_ek(row, &master, &mut fresh).await?;
                    made.fingerprints.push(Claim {
                        fingerprint: mark,
                        kind: match key {
                            KeyId::GlobalBroadcastEncryption => KeyKind::Broadcast,
                            _ => KeyKind::Unicast,
                        },
                        generation: *generation,
                    });
                    items.push(item(sent));
                }
            }
            self.seal_generation(&mut fresh).await?;
            made.keys.push(fresh);
        }
        made.send = KeyTransfer::to_data(&items).encode();
        if !confirms.is_empty() {
            made.confirm = KeyTransfer::to_data(&confirms).encode();
        }
        Ok(made)
    }

    async fn new_ek(
        &self,
        row: &KeyRow,
        master: &MasterKeyHandle,
        fresh: &mut GenerationRow,
    ) -> Result<(Vec<u8>, [u8; 16]), Error> {
        let token = self.token();
        let label = kek("ek", row.generations.kek);
        let new = token
            .generate_for_meter(&label, master, row.suite.key_len())
            .await?;
        let handle = token.unwrap_key(&label, &new.kept).await?;
        fresh.check_value = token.check_value(&handle).await?.to_vec();
        fresh.secret = new.kept;
        Ok((new.sent, token.fingerprint(&handle).await?))
    }

    /// An authentication key is part of what APDUs authenticate, and so is known here, in zeroized memory.
    async fn new_ak(
        &self,
        row: &KeyRow,
        master: &MasterKeyHandle,
        fresh: &mut GenerationRow,
    ) -> Result<Vec<u8>, Error> {
        let token = self.token();
        let ak = Zeroizing::new(token.random(row.suite.key_len()).await?);
        fresh.secret = self.protect_generation(fresh, &ak).await?;
        Ok(token.wrap_for_meter(master, &ak).await?)
    }

    /// Binds a wrapped key to its row.
    pub(super) async fn seal_generation(&self, row: &mut GenerationRow) -> Result<(), Error> {
        if row.key != KeyId::GlobalAuthentication {
            row.seal = self.protect_generation(row, &[]).await?;
        }
        Ok(())
    }

    async fn protect_generation(
        &self,
        row: &GenerationRow,
        secret: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let label = kek("ak", row.kek_generation);
        Ok(self
            .token()
            .protect_ak(&label, &row.binding(), secret)
            .await?)
    }

    /// Opens the seal of a key that is not in use: its authentication key, or nothing.
    pub(super) async fn open_generation(
        &self,
        row: &GenerationRow,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let sealed = match row.key {
            KeyId::GlobalAuthentication => &row.secret,
            _ => &row.seal,
        };
        let label = kek("ak", row.kek_generation);
        let opened = self.token().reveal_ak(&label, &row.binding(), sealed).await;
        opened.map_err(|error| match error {
            hsm::Error::AuthFailed | hsm::Error::Length { .. } => Error::KeyRowChanged {
                meter: row.meter_id.clone(),
            },
            other => other.into(),
        })
    }

    /// The keys of a row with the new ones in their places.
    pub(crate) async fn candidate_keys(
        &self,
        row: &KeyRow,
        new: &[GenerationRow],
        need: Need,
    ) -> Result<MeterKeys, Error> {
        let mut keys = self.meter_keys(row, need).await?;
        for key in new {
            // One of the two was read before a re-wrap and the other after it.
            if key.kek_generation != row.generations.kek {
                let meter = row.meter_id.clone();
                return Err(Error::KeysChanged { meter });
            }
            let opened = self.open_generation(key).await?;
            match key.key {
                KeyId::GlobalUnicastEncryption => keys.replace_ek(
                    key.generation,
                    (key.secret.clone(), key.check_value.clone()),
                ),
                KeyId::GlobalAuthentication => keys.replace_ak(opened),
                KeyId::GlobalBroadcastEncryption | KeyId::Master => {}
            }
        }
        Ok(keys)
    }

    /// The row with the new keys in it, sealed anew, and the old ones as they are kept from then on.
    pub(super) async fn replaced(
        &self,
        row: &KeyRow,
        new: &[GenerationRow],
    ) -> Result<(KeyRow, Vec<GenerationRow>), Error> {
        let mut ak = self.ak_of(row).await?;
        let (mut next, mut retiring) = (row.clone(), Vec::new());
        for key in new {
            let opened = self.open_generation(key).await?;
            let (place, generation) = match key.key {
                KeyId::GlobalUnicastEncryption => {
                    next.check_value.clone_from(&key.check_value);
                    (
                        &mut next.wrapped_encryption_key,
                        &mut next.generations.encryption,
                    )
                }
                KeyId::GlobalBroadcastEncryption => {
                    next.broadcast_check_value.clone_from(&key.check_value);
                    (
                        &mut next.wrapped_broadcast_key,
                        &mut next.generations.broadcast,
                    )
                }
                KeyId::Master => (&mut next.wrapped_master_key, &mut next.generations.master),
                KeyId::GlobalAuthentication => {
                    let mut old = GenerationRow::new(row, key.key, next.generations.authentication);
                    if let Some(ak) = &ak {
                        old.secret = self.protect_generation(&old, ak).await?;
                        retiring.push(old);
                    }
                    next.generations.authentication = key.generation;
                    ak = Some(opened);
                    continue;
                }
            };
            let mut old = GenerationRow::new(row, key.key, *generation);
            old.secret = std::mem::replace(place, key.secret.clone());
            *generation = key.generation;
            match key.key {
                KeyId::GlobalUnicastEncryption => old.check_value.clone_from(&row.check_value),
                KeyId::GlobalBroadcastEncryption => {
                    old.check_value.clone_from(&row.broadcast_check_value);
                }
                KeyId::GlobalAuthentication | KeyId::Master => {}
            }
            if !old.secret.is_empty() {
                self.seal_generation(&mut old).await?;
                retiring.push(old);
            }
        }
        // Whoever had the old ones can neither read nor say anything any more.
        let replaced = |wanted| new.iter().any(|key| key.key == wanted);
        if next.state == KeyState::Compromised
            && replaced(KeyId::GlobalUnicastEncryption)
            && replaced(KeyId::GlobalAuthentication)
        {
            next.state = KeyState::Active;
            next.state_reason = String::new();
        }
        self.seal_anew(row, &mut next, ak.as_deref().map(Vec::as_slice))
            .await?;
        Ok((next, retiring))
    }

    async fn ak_of(&self, row: &KeyRow) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        match row.sealed_authentication_key.as_slice() {
            [] => Ok(None),
            _ => self.reveal(row, Kind::AuthenticationKey).await.map(Some),
        }
    }

    /// Seals the secrets of `row` into `next`, whose facts are others.
    async fn seal_anew(
        &self,
        row: &KeyRow,
        next: &mut KeyRow,
        ak: Option<&[u8]>,
    ) -> Result<(), Error> {
        let label = kek("ak", next.generations.kek);
        for kind in [Kind::Password, Kind::HlsSecret] {
            if kind.of(row).is_empty() {
                continue;
            }
            let secret = self.reveal(row, kind).await?;
            let sealed = self
                .token()
                .protect_ak(&label, &next.binding(kind), &secret)
                .await?;
            match kind {
                Kind::Password => next.sealed_password = sealed,
                _ => next.sealed_hls_secret = sealed,
            }
        }
        if let Some(ak) = ak {
            let bound = next.binding(Kind::AuthenticationKey);
            next.sealed_authentication_key = self.token().protect_ak(&label, &bound, ak).await?;
        }
        next.row_seal = match next.needs_seal() {
            true => {
                self.token()
                    .protect_ak(&label, &next.binding(Kind::Row), &[])
                    .await?
            }
            false => Vec::new(),
        };
        Ok(())
    }
}

fn changed(error: hsm::Error, row: &KeyRow) -> Error {
    match error {
        hsm::Error::WrappedKeyInvalid { .. } => Error::KeyRowChanged {
            meter: row.meter_id.clone(),
        },
        other => other.into(),
    }
}
