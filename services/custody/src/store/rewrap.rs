//! Rows on their way from one generation of key-encryption keys to another.

use kit::crash_point;
use latchkey_proto::audit::v1::Entry;
use sqlx::{Any, Row as _, Transaction};

use super::{
    GenerationRow, KeyRow, RotationRow, Store, counter,
    keys::{change, key_columns, key_row},
    outbox::enqueue,
    rotations::row::{generation_row, rotation_row},
};
use crate::{crash, error::Error, rotation::name_of};

impl Store {
    /// How many rows need each generation of key-encryption keys, in rising order: rows of meters, and of their keys that
    /// are not in use yet or no longer.
    pub(crate) async fn kek_generations(&self) -> Result<Vec<(u32, u64)>, Error> {
        let rows = sqlx::query(
            "SELECT kek_generation, CAST(SUM(needed) AS BIGINT) AS needed FROM (\
             SELECT kek_generation, COUNT(*) AS needed FROM meter_keys GROUP BY kek_generation UNION ALL \
             SELECT kek_generation, COUNT(*) AS needed FROM key_generations WHERE state <> 'DESTROYED' \
             GROUP BY kek_generation UNION ALL \
             SELECT kek_generation, COUNT(*) AS needed FROM rotations WHERE state IN ('new', 'unsettled') \
             GROUP BY kek_generation) AS needs GROUP BY kek_generation ORDER BY kek_generation",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let needed: i64 = row.try_get("needed")?;
                let needed =
                    u64::try_from(needed).map_err(|_| Error::RowInvalid { column: "needed" })?;
                let generation = counter(row.try_get("kek_generation")?, "kek_generation")?;
                Ok((generation, needed))
            })
            .collect()
    }

    /// How many meters have something under another generation.
    pub(crate) async fn meters_not_under(&self, generation: u32) -> Result<u64, Error> {
        let count: i64 = sqlx::query(
            "SELECT COUNT(*) AS meters FROM meter_keys WHERE kek_generation <> $1 OR EXISTS (\
             SELECT 1 FROM key_generations WHERE key_generations.meter_id = meter_keys.meter_id \
             AND key_generations.kek_generation <> $1 AND key_generations.state <> 'DESTROYED') OR EXISTS (\
             SELECT 1 FROM rotations WHERE rotations.meter_id = meter_keys.meter_id \
             AND rotations.kek_generation <> $1 AND rotations.state IN ('new', 'unsettled'))",
        )
        .bind(i64::from(generation))
        .fetch_one(&self.pool)
        .await?
        .try_get("meters")?;
        u64::try_from(count).map_err(|_| Error::RowInvalid { column: "meters" })
    }

    /// Up to `limit` meters after `after` that have something under another generation, by id.
    pub(crate) async fn keys_not_under(
        &self,
        generation: u32,
        after: &str,
        limit: u32,
    ) -> Result<Vec<KeyRow>, Error> {
        sqlx::query(concat!(
            "SELECT ",
            key_columns!(),
            " FROM meter_keys WHERE meter_id > $2 AND (kek_generation <> $1 OR EXISTS (\
             SELECT 1 FROM key_generations WHERE key_generations.meter_id = meter_keys.meter_id \
             AND key_generations.kek_generation <> $1 AND key_generations.state <> 'DESTROYED') OR EXISTS (\
             SELECT 1 FROM rotations WHERE rotations.meter_id = meter_keys.meter_id \
             AND rotations.kek_generation <> $1 AND rotations.state IN ('new', 'unsettled'))) \
             ORDER BY meter_id LIMIT $3"
        ))
        .bind(i64::from(generation))
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(key_row)
        .collect()
    }

    /// What the meters from the one id to the other have under another generation, besides their rows.
    pub(crate) async fn others_not_under(
        &self,
        generation: u32,
        (first, last): (&str, &str),
    ) -> Result<(Vec<GenerationRow>, Vec<RotationRow>), Error> {
        let keys = sqlx::query(
            "SELECT meter_id, kind, generation, secret, check_value, seal, kek_generation, next_counter, last_received \
             FROM key_generations WHERE meter_id >= $2 AND meter_id <= $3 AND kek_generation <> $1 \
             AND state <> 'DESTROYED'",
        )
        .bind(i64::from(generation))
        .bind(first)
        .bind(last)
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(generation_row)
        .collect::<Result<_, _>>()?;
        let rotations = sqlx::query(
            "SELECT rotation_id, meter_id, key_bits, agreed, state, sealed_send, sealed_confirm, kek_generation, \
             attempts, openings, detail, create_us FROM rotations WHERE meter_id >= $2 AND meter_id <= $3 \
             AND kek_generation <> $1 AND state IN ('new', 'unsettled')",
        )
        .bind(i64::from(generation))
        .bind(first)
        .bind(last)
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(rotation_row)
        .collect::<Result<_, _>>()?;
        Ok((keys, rotations))
    }

    /// Stores meters under their new generation with the one entry that reports them. Those that somebody changed since
    /// they were read stay as they are: the ids of the others.
    pub(crate) async fn store_rewrapped(
        &self,
        meters: &[Rewrapped],
        entry: impl FnOnce(usize) -> Entry + Send,
    ) -> Result<Vec<String>, Error> {
        crash_point(crash::BEFORE_STORE_REWRAPPED);
        let mut tx = self.pool.begin().await?;
        let mut stored = Vec::with_capacity(meters.len());
        for meter in meters {
            if change(&mut tx, &meter.row).await? {
                change_others(&mut tx, meter).await?;
                stored.push(meter.row.meter_id.clone());
            }
        }
        if !stored.is_empty() {
            enqueue(&mut tx, &entry(stored.len())).await?;
        }
        crash_point(crash::WITHIN_STORE_REWRAPPED);
        tx.commit().await?;
        crash_point(crash::AFTER_STORE_REWRAPPED);
        Ok(stored)
    }
}

/// All that is held for a meter, under another generation than it was read under.
pub(crate) struct Rewrapped {
    pub(crate) row: KeyRow,
    pub(crate) keys: Vec<GenerationRow>,
    pub(crate) rotation: Option<RotationRow>,
}

/// Who stores a new key raises the row's version, so none is missing here. One that is destroyed meanwhile, or a rotation
/// that is over, keeps what it has: nothing.
async fn change_others(tx: &mut Transaction<'_, Any>, meter: &Rewrapped) -> Result<(), Error> {
    for key in &meter.keys {
        sqlx::query(
            "UPDATE key_generations SET secret = $4, seal = $5, kek_generation = $6 \
             WHERE meter_id = $1 AND kind = $2 AND generation = $3 AND state <> 'DESTROYED'",
        )
        .bind(key.meter_id.as_str())
        .bind(name_of(key.key))
        .bind(i64::from(key.generation))
        .bind(key.secret.as_slice())
        .bind(key.seal.as_slice())
        .bind(i64::from(key.kek_generation))
        .execute(&mut **tx)
        .await?;
    }
    if let Some(rotation) = &meter.rotation {
        // A parameter that was given up meanwhile stays so.
        sqlx::query(
            "UPDATE rotations SET sealed_send = CASE WHEN LENGTH(sealed_send) = 0 THEN sealed_send ELSE $2 END, \
             sealed_confirm = CASE WHEN LENGTH(sealed_confirm) = 0 THEN sealed_confirm ELSE $3 END, \
             kek_generation = $4 WHERE rotation_id = $1 AND state IN ('new', 'unsettled')",
        )
        .bind(rotation.rotation_id.as_str())
        .bind(rotation.sealed_send.as_slice())
        .bind(rotation.sealed_confirm.as_slice())
        .bind(i64::from(rotation.kek_generation))
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}
