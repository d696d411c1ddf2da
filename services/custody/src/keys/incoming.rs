//! What comes in: keys, and what is known of the meter they are for.

use std::time::{Duration, UNIX_EPOCH};

use dlms::{Mechanism, SecurityControl, Suite};
use kit::clock;
use zeroize::Zeroizing;

use crate::store::{Claim, Generations, KeyKind, KeyRow, KeyState};

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

/// Secrets wrapped under a transport key; those after the authentication key may be empty.
pub(crate) struct WrappedKeys {
    /// Label of the transport key.
    pub(crate) transport: String,
    pub(crate) encryption_key: Vec<u8>,
    pub(crate) authentication_key: Vec<u8>,
    pub(crate) hls_secret: Vec<u8>,
    pub(crate) master_key: Vec<u8>,
    pub(crate) broadcast_key: Vec<u8>,
}

/// Where a new meter's broadcast key comes from.
pub(crate) enum Broadcast {
    /// It has none.
    None,
    /// It is made, the first of a group.
    New,
    /// It is that of this meter's group.
    Of(String),
}

/// Secrets of a laboratory meter, in clear; each may be empty.
pub(crate) struct LabKeys {
    pub(crate) encryption_key: Zeroizing<Vec<u8>>,
    pub(crate) authentication_key: Zeroizing<Vec<u8>>,
    pub(crate) password: Zeroizing<Vec<u8>>,
    pub(crate) hls_secret: Zeroizing<Vec<u8>>,
    pub(crate) master_key: Zeroizing<Vec<u8>>,
    pub(crate) broadcast_key: Zeroizing<Vec<u8>>,
}

/// Where new keys of a meter go.
pub(crate) struct Place {
    /// What they are wrapped under.
    pub(crate) keks: hsm::Keks,
    pub(crate) generations: Generations,
    /// Of the row whose place they take; 0 for none.
    pub(crate) row_version: i64,
    pub(crate) state: KeyState,
}

/// What is said of new keys, besides what the meter is.
pub(crate) struct New {
    pub(crate) source: &'static str,
    /// The first invocation counter that is used with them.
    pub(crate) counter: u32,
    pub(crate) place: Place,
}

impl New {
    /// The row without its secrets.
    pub(crate) fn row(&self, identity: Identity) -> KeyRow {
        KeyRow {
            source: self.source.to_owned(),
            next_counter: self.counter,
            create_us: clock::micros(clock::now()),
            meter_id: identity.meter_id,
            client_system_title: identity.client_title,
            server_system_title: identity.server_title,
            suite: identity.suite,
            mechanisms: identity.mechanisms,
            policies: identity.policies,
            server_signing_key: identity.signing_key,
            server_agreement_key: identity.agreement_key,
            generations: self.place.generations,
            row_version: self.place.row_version,
            state: self.place.state,
            ..KeyRow::default()
        }
    }
}

impl KeyRow {
    /// Takes the marks of its keys: what is shown of them, and what is claimed for them.
    pub(crate) fn take_marks(
        &mut self,
        encryption: Option<hsm::Marks>,
        broadcast: Option<hsm::Marks>,
    ) -> Vec<Claim> {
        let shown = |marks: Option<hsm::Marks>| marks.map(|marks| marks.check_value.to_vec());
        self.check_value = shown(encryption).unwrap_or_default();
        self.broadcast_check_value = shown(broadcast).unwrap_or_default();
        let of = self.generations;
        [
            (encryption, KeyKind::Unicast, of.encryption),
            (broadcast, KeyKind::Broadcast, of.broadcast),
        ]
        .into_iter()
        .filter_map(|(marks, kind, generation)| {
            Some(Claim {
                fingerprint: marks?.fingerprint,
                kind,
                generation,
            })
        })
        .collect()
    }
}

impl Identity {
    pub(crate) fn names(&self, mechanism: Mechanism) -> bool {
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

/// The first counter of keys that may have been in use: elsewhere, or here before this database was lost. Counters that
/// begin with the seconds since 2026 are above all that came before, unless a meter was sent more than one request per
/// second all the time; they reach the end of the space in 2161.
pub(crate) fn first_counter() -> u32 {
    let since = clock::now()
        .duration_since(UNIX_EPOCH + COUNTERS_BEGIN)
        .unwrap_or_default()
        .as_secs();
    u32::try_from(since).unwrap_or(u32::MAX).max(1)
}

/// Octets that RFC 3394 adds.
pub(super) const WRAP: usize = 8;
/// Octets that a seal adds: nonce and tag.
pub(super) const SEAL: usize = 12 + 16;
pub(crate) const ENCRYPTION_KEY: &str = "wrapped_encryption_key";
pub(crate) const AUTHENTICATION_KEY: &str = "wrapped_authentication_key";
pub(crate) const MASTER_KEY: &str = "wrapped_key_encryption_key";
pub(crate) const BROADCAST_KEY: &str = "wrapped_broadcast_key";
pub(crate) const HLS_SECRET: &str = "wrapped_hls_secret";
