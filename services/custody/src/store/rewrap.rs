//! Rows on their way from one generation of key-encryption keys to another.

use kit::crash_point;
use latchkey_proto::audit::v1::Entry;
use sqlx::Row as _;

use super::{
    KeyRow, Store, counter,
    keys::{change, key_columns, key_row},
    outbox::enqueue,
};
use crate::{crash, error::Error};

impl Store {
    /// How many rows need each generation of key-encryption keys, in rising order: rows of meters, and of their keys that
    /// are not in use yet or no longer.
    pub(crate) async fn kek_generations(&self) -> Result<Vec<(u32, u64)>, Error> {
        let rows = sqlx::query(
            "SELECT kek_generation, CAST(SUM(needed) AS BIGINT) AS needed FROM (\
             SELECT kek_generation, COUNT(*) AS needed FROM meter_keys GROUP BY kek_generation UNION ALL \
             SELECT kek_generation, COUNT(*) AS needed FROM key_generations WHERE state <> 'DESTROYED' \
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
             AND key_generations.kek_generation <> $1 AND key_generations.state <> 'DESTROYED')",
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
             AND key_generations.kek_generation <> $1 AND key_generations.state <> 'DESTROYED')) \
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

    /// Stores rows under their new generation with the one entry that reports them. Those that somebody changed since
    /// they were read stay as they are: the ids of the others.
    pub(crate) async fn store_rewrapped(
        &self,
        rows: &[KeyRow],
        entry: impl FnOnce(usize) -> Entry + Send,
    ) -> Result<Vec<String>, Error> {
        crash_point(crash::BEFORE_STORE_REWRAPPED);
        let mut tx = self.pool.begin().await?;
        let mut stored = Vec::with_capacity(rows.len());
        for row in rows {
            if change(&mut tx, row).await? {
                stored.push(row.meter_id.clone());
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
