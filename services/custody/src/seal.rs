//! What binds a secret at rest to its row.
//!
//! Secrets are sealed with AES-GCM under `kek-ak-N`; what they belong to is the additional authenticated data. RFC 3394,
//! which keeps encryption keys, master keys and HLS secrets, has none: a wrapped key alone could be moved to another
//! meter's row, check value and all. So the seal of the authentication key covers *every* fact of the row: after any
//! such change it does not open, and without authentication key nothing is ciphered. A row without one has a seal of
//! nothing in its place. The facts are secrets and the public keys that the meter's signatures are checked with, the
//! suite, and the mechanisms and policies the meter may be asked for by: whoever writes into the database can take a meter
//! away, but not weaken it.

use crate::store::{Generations, KeyRow, KeyState};

/// What a sealed secret is. Part of its AAD, so one cannot stand in for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    AuthenticationKey,
    Password,
    /// An HLS secret that the token cannot digest.
    HlsSecret,
    /// Nothing: the seal of a row without authentication key.
    Row,
}

impl Kind {
    fn name(self) -> &'static [u8] {
        match self {
            Self::AuthenticationKey => b"authentication-key",
            Self::Password => b"password",
            Self::HlsSecret => b"hls-secret",
            Self::Row => b"row",
        }
    }

    /// The place of it.
    pub(crate) fn place(self, row: &mut KeyRow) -> &mut Vec<u8> {
        match self {
            Self::AuthenticationKey => &mut row.sealed_authentication_key,
            Self::Password => &mut row.sealed_password,
            Self::HlsSecret => &mut row.sealed_hls_secret,
            Self::Row => &mut row.row_seal,
        }
    }

    /// Where it is kept.
    pub(crate) fn of(self, row: &KeyRow) -> &[u8] {
        match self {
            Self::AuthenticationKey => &row.sealed_authentication_key,
            Self::Password => &row.sealed_password,
            Self::HlsSecret => &row.sealed_hls_secret,
            Self::Row => &row.row_seal,
        }
    }
}

impl KeyRow {
    /// Whether it has a fact that rows of the first schemas did not have: then the seals are of the second kind.
    pub(crate) fn is_extended(&self) -> bool {
        self.suite != dlms::Suite::Suite0
            || self.mechanisms != 0
            || self.policies != 0
            || self.is_later_generation()
            || self.later_facts().iter().any(|fact| !fact.is_empty())
    }

    /// Whether its facts are bound by nothing but the seal of the row.
    pub(crate) fn needs_seal(&self) -> bool {
        self.is_extended() && self.sealed_authentication_key.is_empty()
    }

    /// The additional authenticated data of a secret in this row.
    pub(crate) fn binding(&self, kind: Kind) -> Vec<u8> {
        let facts: [&[u8]; 5] = [
            self.meter_id.as_bytes(),
            kind.name(),
            &self.client_system_title,
            &self.server_system_title,
            &self.wrapped_encryption_key,
        ];
        if !self.is_extended() {
            return bound(b"latchkey-custody-v1", &facts);
        }
        // Rows that name no policy keep the seals they have: a part of another length is another row.
        let numbers = [self.suite.id(), self.mechanisms, self.policies];
        let numbers = match self.policies {
            0 => numbers.get(..2),
            _ => numbers.get(..),
        };
        let later = self.later_facts();
        let mut facts: Vec<&[u8]> = facts.into_iter().chain(numbers).chain(later).collect();
        if !self.is_later_generation() {
            return bound(b"latchkey-custody-v2", &facts);
        }
        let of = &self.generations;
        let generations = [
            of.kek,
            of.encryption,
            of.authentication,
            of.master,
            of.broadcast,
        ];
        let generations = generations.map(u32::to_be_bytes).concat();
        facts.extend([&generations[..], &self.wrapped_broadcast_key]);
        if self.state != KeyState::Active {
            facts.push(self.state.name().as_bytes());
        }
        bound(b"latchkey-custody-v3", &facts)
    }

    /// Whether a key of it was changed, or wrapped anew, or is one that the first schemas did not have, or is not to be
    /// used any more.
    fn is_later_generation(&self) -> bool {
        self.generations != Generations::default()
            || !self.wrapped_broadcast_key.is_empty()
            || self.state != KeyState::Active
    }

    fn later_facts(&self) -> [&[u8]; 4] {
        [
            &self.wrapped_hls_secret,
            &self.wrapped_master_key,
            &self.server_signing_key,
            &self.server_agreement_key,
        ]
    }
}

pub(crate) fn bound(version: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut bound = version.to_vec();
    for part in parts {
        // Each part after its length: no two rows have the same octets.
        bound.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        bound.extend_from_slice(part);
    }
    bound
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dlms::Suite;

    use super::*;

    fn row() -> KeyRow {
        KeyRow {
            meter_id: "m1".to_owned(),
            client_system_title: b"CCCCCCCC".to_vec(),
            server_system_title: b"SSSSSSSS".to_vec(),
            wrapped_encryption_key: b"ek".to_vec(),
            ..KeyRow::default()
        }
    }

    #[test]
    fn every_part_of_a_row_is_bound() {
        let changes: [fn(&mut KeyRow); 23] = [
            |_| {},
            |row| row.meter_id = "m2".to_owned(),
            |row| std::mem::swap(&mut row.client_system_title, &mut row.server_system_title),
            |row| row.wrapped_encryption_key = b"ke".to_vec(),
            |row| {
                row.client_system_title.push(b'S');
                row.server_system_title.pop();
            },
            |row| row.suite = Suite::Suite1,
            |row| row.suite = Suite::Suite2,
            |row| row.mechanisms = 0x20,
            |row| row.mechanisms = 0x22,
            |row| row.policies = 1,
            |row| row.policies = 2,
            |row| row.wrapped_hls_secret = b"x".to_vec(),
            |row| row.wrapped_master_key = b"x".to_vec(),
            |row| row.server_signing_key = b"x".to_vec(),
            |row| row.server_agreement_key = b"x".to_vec(),
            |row| row.generations.kek = 2,
            |row| row.generations.encryption = 2,
            |row| row.generations.authentication = 2,
            |row| row.generations.master = 2,
            |row| row.generations.broadcast = 2,
            |row| row.wrapped_broadcast_key = b"x".to_vec(),
            |row| row.state = KeyState::Compromised,
            |row| row.state = KeyState::Destroyed,
        ];
        let kinds = [
            Kind::AuthenticationKey,
            Kind::Password,
            Kind::HlsSecret,
            Kind::Row,
        ];
        let mut seen = BTreeSet::new();
        for (number, change) in changes.iter().enumerate() {
            for kind in kinds {
                let mut row = row();
                change(&mut row);
                assert!(seen.insert(row.binding(kind)), "change {number}, {kind:?}");
            }
        }
        assert_eq!(seen.len(), changes.len() * kinds.len());
    }

    #[test]
    fn rows_of_the_first_schemas_keep_their_seals() {
        let mut old = row();
        assert!(
            old.binding(Kind::Password)
                .starts_with(b"latchkey-custody-v1")
        );
        assert!(!old.is_extended() && !old.needs_seal());
        old.server_signing_key = vec![4; 64];
        assert!(
            old.binding(Kind::Password)
                .starts_with(b"latchkey-custody-v2")
        );
        assert!(old.needs_seal(), "no authentication key binds it");
        old.sealed_authentication_key = vec![1; 44];
        assert!(!old.needs_seal());
    }
}
