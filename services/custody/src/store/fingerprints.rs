//! One key, one place: which keys there are, and were.
//!
//! Counters belong to a row. One key in two rows, or back in a row that begins its counters anew, would have every nonce
//! twice. RFC 3394 has no randomness, so equal keys are equal octets, but only under the same key-encryption key; a
//! fingerprint is the same under all of them, and stays when the key is destroyed.

use kit::clock;
use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use super::{Store, counter, keys::key_columns, keys::key_row};
use crate::{error::Error, store::KeyRow};

/// Which of a meter's keys a fingerprint is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// The global unicast encryption key (GUEK): of one meter.
    Unicast,
    /// The global broadcast encryption key (GBEK): of all meters of a group, and of none as anything else.
    Broadcast,
}

impl KeyKind {
    /// As the column has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unicast => "GUEK",
            Self::Broadcast => "GBEK",
        }
    }
}

/// A key that is about to be stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    pub(crate) fingerprint: [u8; 16],
    pub(crate) kind: KeyKind,
    pub(crate) generation: u32,
}

/// A key that is, or was, stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub(crate) fingerprint: Vec<u8>,
    /// Of a broadcast key, the first meter that it came for.
    pub(crate) meter_id: String,
    /// The name of its [`KeyKind`].
    pub(crate) kind: String,
    pub(crate) generation: u32,
    pub(crate) create_us: i64,
}

impl Fingerprint {
    /// Whether a key of this fingerprint may be stored by `claim`, for `meter_id`.
    pub(super) fn allows(&self, meter_id: &str, claim: &Claim) -> bool {
        let shared = claim.kind == KeyKind::Broadcast;
        self.kind == claim.kind.name()
            && (shared || self.meter_id == meter_id && self.generation == claim.generation)
    }
}

impl Store {
    /// What a meter has and had; by generation.
    pub(crate) async fn fingerprints(&self, meter_id: &str) -> Result<Vec<Fingerprint>, Error> {
        sqlx::query(
            "SELECT fingerprint, meter_id, kind, generation, create_us FROM key_fingerprints WHERE meter_id = $1 \
             ORDER BY kind DESC, generation LIMIT 1000",
        )
        .bind(meter_id)
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(fingerprint)
        .collect()
    }

    /// Whose key it is, or was.
    pub(crate) async fn owner(&self, octets: &[u8]) -> Result<Option<Fingerprint>, Error> {
        sqlx::query(
            "SELECT fingerprint, meter_id, kind, generation, create_us FROM key_fingerprints WHERE fingerprint = $1",
        )
        .bind(octets)
        .fetch_optional(&self.pool)
        .await?
        .map(|row| fingerprint(&row))
        .transpose()
    }

    /// Up to `limit` rows that an earlier program stored without fingerprints.
    pub(crate) async fn unmarked(&self, limit: u32) -> Result<Vec<KeyRow>, Error> {
        sqlx::query(concat!(
            "SELECT ",
            key_columns!(),
            " FROM meter_keys WHERE meter_id IN (SELECT meter_id FROM unmarked_keys ORDER BY meter_id LIMIT $1)"
        ))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(key_row)
        .collect()
    }

    /// Gives rows of an earlier program their fingerprints: those whose key is in another row already, by meter.
    pub(crate) async fn mark(
        &self,
        marks: &[(String, Option<Claim>)],
    ) -> Result<Vec<String>, Error> {
        let mut doubles = Vec::new();
        let mut tx = self.pool.begin().await?;
        for (meter_id, claimed) in marks {
            if let Some(claimed) = claimed
                && !claim(&mut tx, meter_id, claimed).await?
            {
                doubles.push(meter_id.clone());
            }
            sqlx::query("DELETE FROM unmarked_keys WHERE meter_id = $1")
                .bind(meter_id.as_str())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(doubles)
    }
}

/// Claims a fingerprint for ever, in the transaction that stores the key. `false` if the key is, or was, another's, or
/// this meter's before: then it must not be stored.
pub(crate) async fn claim(
    tx: &mut Transaction<'_, Any>,
    meter_id: &str,
    claim: &Claim,
) -> Result<bool, Error> {
    let claimed = sqlx::query(
        "INSERT INTO key_fingerprints (fingerprint, meter_id, kind, generation, create_us) \
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
    )
    .bind(claim.fingerprint.as_slice())
    .bind(meter_id)
    .bind(claim.kind.name())
    .bind(i64::from(claim.generation))
    .bind(clock::micros(clock::now()))
    .execute(&mut **tx)
    .await?
    .rows_affected();
    if claimed == 1 {
        return Ok(true);
    }
    let there = sqlx::query(
        "SELECT fingerprint, meter_id, kind, generation, create_us FROM key_fingerprints WHERE fingerprint = $1",
    )
    .bind(claim.fingerprint.as_slice())
    .fetch_one(&mut **tx)
    .await?;
    Ok(fingerprint(&there)?.allows(meter_id, claim))
}

pub(super) fn fingerprint(row: &AnyRow) -> Result<Fingerprint, Error> {
    Ok(Fingerprint {
        fingerprint: row.try_get("fingerprint")?,
        meter_id: row.try_get("meter_id")?,
        kind: row.try_get("kind")?,
        generation: counter(row.try_get("generation")?, "generation")?,
        create_us: row.try_get("create_us")?,
    })
}
