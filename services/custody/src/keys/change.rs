//! Changing what is stored of a meter: what is known in clear, whether its keys may be used, and their end.
//!
//! Facts and state are bound by the seals of the row, so every change seals it anew, in one transaction with its entry of
//! the trail. A change names the version of the row it was made from. The fence of the meter rises with it: contexts
//! that were opened before end, here and in other replicas.

use kit::clock;
use latchkey_proto::audit::v1::EntryKind;

use crate::{
    custody::Custody,
    error::Error,
    keyring::Kek,
    seal::Kind,
    store::{KeyRow, KeyState},
    trail,
};

/// The end of a meter's keys, or of the belief in them; parsed.
pub(crate) struct End {
    pub(crate) meter_id: String,
    /// The version of the row it was decided upon; 0 for any.
    pub(crate) row_version: i64,
    /// For the trail.
    pub(crate) why: String,
}

impl KeyRow {
    /// Whether its keys may be changed now.
    fn changeable(&self) -> Result<(), Error> {
        let meter = self.meter_id.clone();
        match self.state {
            KeyState::Destroyed => Err(Error::KeysDestroyed { meter }),
            KeyState::Active | KeyState::Compromised => Ok(()),
        }
    }

    /// Whether its keys may be used.
    pub(crate) fn usable(&self) -> Result<(), Error> {
        let meter = self.meter_id.clone();
        match self.state {
            KeyState::Active => Ok(()),
            KeyState::Compromised => Err(Error::KeysCompromised { meter }),
            KeyState::Destroyed => Err(Error::KeysDestroyed { meter }),
        }
    }

    /// Without any secret.
    fn emptied(&self) -> Self {
        Self {
            wrapped_encryption_key: Vec::new(),
            sealed_authentication_key: Vec::new(),
            sealed_password: Vec::new(),
            wrapped_hls_secret: Vec::new(),
            sealed_hls_secret: Vec::new(),
            wrapped_master_key: Vec::new(),
            wrapped_broadcast_key: Vec::new(),
            ..self.clone()
        }
    }
}

impl Custody {
    /// A row of a version, to be changed.
    pub(crate) async fn keys_at(&self, meter_id: &str, version: i64) -> Result<KeyRow, Error> {
        let held = self.stored_keys(meter_id).await?;
        if version != 0 && held.row_version != version {
            return Err(Error::KeysChanged {
                meter: held.meter_id,
            });
        }
        Ok(held)
    }

    /// Stores other facts. `changed` is `held` with those facts.
    pub(crate) async fn update_keys(
        &self,
        principal: &str,
        (held, changed): (&KeyRow, KeyRow),
        why: &str,
    ) -> Result<KeyRow, Error> {
        held.changeable()?;
        if let Some(rotation) = &held.rotation_id {
            return Err(Error::KeysUnsettled {
                meter: changed.meter_id,
                rotation: rotation.clone(),
            });
        }
        let story = format!("keys changed: {}; {why}", differences(held, &changed));
        self.retire(principal, (held, changed), story).await
    }

    /// Keys that somebody else may have: they serve for nothing but to be replaced.
    pub(crate) async fn compromise_keys(&self, principal: &str, end: End) -> Result<KeyRow, Error> {
        let held = self.keys_at(&end.meter_id, end.row_version).await?;
        held.changeable()?;
        if held.state == KeyState::Compromised {
            return Ok(held);
        }
        let changed = KeyRow {
            state: KeyState::Compromised,
            state_reason: end.why.clone(),
            ..held.clone()
        };
        let story = format!("keys compromised: {}", end.why);
        self.retire(principal, (&held, changed), story).await
    }

    /// Destroys every secret of a meter.
    pub(crate) async fn destroy_keys(&self, principal: &str, end: End) -> Result<KeyRow, Error> {
        let held = self.keys_at(&end.meter_id, end.row_version).await?;
        held.changeable()?;
        let changed = KeyRow {
            state: KeyState::Destroyed,
            state_reason: end.why.clone(),
            ..held.emptied()
        };
        let story = format!(
            "keys destroyed: check value {}; {}",
            hex::encode(&held.check_value),
            end.why
        );
        self.retire(principal, (&held, changed), story).await
    }

    async fn retire(
        &self,
        principal: &str,
        (held, changed): (&KeyRow, KeyRow),
        story: String,
    ) -> Result<KeyRow, Error> {
        let mut row = self.sealed_anew(held, changed).await?;
        row.change_us = clock::micros(clock::now());
        let entry = trail::entry(EntryKind::Key, principal, &row.meter_id, story);
        let stored = self.store.retire_keys(&row, &entry).await?;
        self.reporter.stored();
        if !stored {
            return Err(Error::KeysChanged {
                meter: row.meter_id,
            });
        }
        self.contexts.end(&row.meter_id);
        self.keyring.forget(&row.meter_id);
        self.stored_keys(&row.meter_id).await
    }

    /// `changed`, with the sealed secrets that it still has bound to its own facts instead of those of `held`.
    pub(crate) async fn sealed_anew(
        &self,
        held: &KeyRow,
        mut changed: KeyRow,
    ) -> Result<KeyRow, Error> {
        let token = self.keyring.token();
        let kek = Kek::Authentication.of(changed.generations.kek);
        for kind in [Kind::AuthenticationKey, Kind::Password, Kind::HlsSecret] {
            if kind.of(&changed).is_empty() {
                continue;
            }
            let secret = self.keyring.reveal(held, kind).await?;
            let sealed = token
                .protect_ak(&kek, &changed.binding(kind), &secret)
                .await?;
            match kind {
                Kind::AuthenticationKey => changed.sealed_authentication_key = sealed,
                Kind::Password => changed.sealed_password = sealed,
                Kind::HlsSecret => changed.sealed_hls_secret = sealed,
                Kind::Row => {}
            }
        }
        changed.row_seal = Vec::new();
        if held.needs_seal() {
            // Who changed the row behind our back must not have that sealed now.
            self.keyring.reveal(held, Kind::Row).await?;
        }
        if changed.needs_seal() {
            let bound = changed.binding(Kind::Row);
            changed.row_seal = token.protect_ak(&kek, &bound, &[]).await?;
        }
        Ok(changed)
    }
}

/// What differs, in words: facts that are no secrets.
fn differences(held: &KeyRow, changed: &KeyRow) -> String {
    let octets = |octets: &[u8]| match octets {
        [] => "none".to_owned(),
        octets => hex::encode(octets.get(..8).unwrap_or(octets)),
    };
    let bits = |bits: u8| format!("{bits:#04x}");
    let facts = [
        (
            "client system title",
            octets(&held.client_system_title),
            octets(&changed.client_system_title),
        ),
        (
            "server system title",
            octets(&held.server_system_title),
            octets(&changed.server_system_title),
        ),
        (
            "mechanisms",
            bits(held.mechanisms),
            bits(changed.mechanisms),
        ),
        ("policies", bits(held.policies), bits(changed.policies)),
        (
            "server signing key",
            octets(&held.server_signing_key),
            octets(&changed.server_signing_key),
        ),
        (
            "server agreement key",
            octets(&held.server_agreement_key),
            octets(&changed.server_agreement_key),
        ),
    ];
    let differ: Vec<_> = facts
        .into_iter()
        .filter(|(_, was, is)| was != is)
        .map(|(what, was, is)| format!("{what} {was} to {is}"))
        .collect();
    match differ.as_slice() {
        [] => "nothing".to_owned(),
        differ => differ.join(", "),
    }
}
