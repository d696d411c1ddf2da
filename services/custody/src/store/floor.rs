//! Floors: below what no counter is given out any more. They only rise.

use kit::{clock, crash_point};
use latchkey_proto::audit::v1::Entry;
use sqlx::Row as _;

use super::{COUNTER_END, ENCRYPTION, Store, counter, outbox::enqueue};
use crate::{crash, error::Error};

/// How far the counters of a key have come in this database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The database never heard of the key.
    Unknown,
    /// The meter's keys were deleted, or this one is of the past: nobody takes a counter of it any more.
    Over,
    /// The next counter of it.
    Next(u32),
}

/// Where a floor was learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Anybody may have said it.
    Hint,
    /// The meter said it under its key, or a person answers for it.
    Certain,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Hint => "hint",
            Self::Certain => "certain",
        }
    }
}

/// A floor that is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Floor<'a> {
    pub(crate) meter_id: &'a str,
    /// The generation of the encryption key it is of: the one in use, or nothing is raised.
    pub(crate) generation: u32,
    /// The first counter that may be given out.
    pub(crate) at_least: u32,
    pub(crate) source: Source,
    /// By how many all hints of one day may raise it.
    pub(crate) hint_max: u32,
}

/// What became of a floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Raised {
    /// The counters were there, or above; this is the next one.
    Already(u32),
    /// They went on from here.
    From(u32),
    /// Hints may raise it by so many more today, which is not enough.
    TooFar {
        /// The next counter.
        next: u32,
        /// How many more.
        left: u32,
    },
}

/// Hints are counted over so long.
const DAY_US: i64 = 86_400_000_000;

impl Store {
    /// How far the counters of a key have come.
    pub(crate) async fn standing(
        &self,
        meter_id: &str,
        generation: u32,
    ) -> Result<Standing, Error> {
        let row =
            sqlx::query("SELECT next_counter, ek_generation FROM meter_keys WHERE meter_id = $1")
                .bind(meter_id)
                .fetch_optional(&self.pool)
                .await?;
        let Some(row) = row else {
            // Fingerprints outlive the keys.
            let deleted = sqlx::query("SELECT 1 FROM key_fingerprints WHERE meter_id = $1 LIMIT 1")
                .bind(meter_id)
                .fetch_optional(&self.pool)
                .await?
                .is_some();
            return Ok(if deleted {
                Standing::Over
            } else {
                Standing::Unknown
            });
        };
        let in_use = counter(row.try_get("ek_generation")?, "ek_generation")?;
        if in_use == generation {
            let next = counter(row.try_get("next_counter")?, "next_counter")?;
            return Ok(Standing::Next(next));
        }
        let other = sqlx::query(
            "SELECT next_counter FROM key_generations WHERE meter_id = $1 AND kind = $2 AND generation = $3",
        )
        .bind(meter_id)
        .bind(ENCRYPTION)
        .bind(i64::from(generation))
        .fetch_optional(&self.pool)
        .await?;
        match other {
            Some(row) => Ok(Standing::Next(counter(
                row.try_get("next_counter")?,
                "next_counter",
            )?)),
            None if generation < in_use => Ok(Standing::Over),
            None => Ok(Standing::Unknown),
        }
    }

    /// Whether a counter was ever reserved here.
    pub(crate) async fn is_used(&self) -> Result<bool, Error> {
        let used = sqlx::query("SELECT 1 FROM meter_keys WHERE reserve_us > 0 LIMIT 1")
            .fetch_optional(&self.pool)
            .await?;
        Ok(used.is_some())
    }

    /// Raises the counters of every key by `gap`, or to the end, and ends every context of every replica. How many meters.
    pub(crate) async fn raise_all(&self, gap: u32, entry: &Entry) -> Result<u64, Error> {
        crash_point(crash::BEFORE_RAISE);
        let mut tx = self.pool.begin().await?;
        let raised = sqlx::query(
            "UPDATE meter_keys SET fence = fence + 1, \
             next_counter = CASE WHEN next_counter + $1 > $2 THEN $2 ELSE next_counter + $1 END \
             WHERE LENGTH(wrapped_encryption_key) > 0",
        )
        .bind(i64::from(gap))
        .bind(i64::from(COUNTER_END))
        .execute(&mut *tx)
        .await?
        .rows_affected();
        sqlx::query(
            "UPDATE key_generations SET next_counter = CASE WHEN next_counter + $1 > $2 THEN $2 \
             ELSE next_counter + $1 END WHERE kind = $3 AND state <> 'DESTROYED'",
        )
        .bind(i64::from(gap))
        .bind(i64::from(COUNTER_END))
        .bind(ENCRYPTION)
        .execute(&mut *tx)
        .await?;
        enqueue(&mut tx, entry).await?;
        tx.commit().await?;
        crash_point(crash::AFTER_RAISE);
        Ok(raised)
    }

    /// Raises the counters of one key, with the entry that reports it; never lowers them. Contexts that are open keep
    /// the counters they have.
    pub(crate) async fn raise_floor(
        &self,
        floor: Floor<'_>,
        entry: impl FnOnce(u32) -> Entry + Send,
    ) -> Result<Raised, Error> {
        crash_point(crash::BEFORE_RAISE);
        let mut tx = self.pool.begin().await?;
        // First a write: on PostgreSQL it locks the row, so that what follows is one after the other.
        let next = sqlx::query(
            "UPDATE meter_keys SET next_counter = next_counter WHERE meter_id = $1 AND ek_generation = $2 \
             RETURNING next_counter",
        )
        .bind(floor.meter_id)
        .bind(i64::from(floor.generation))
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(|| Error::KeysUnknown {
            meter: floor.meter_id.to_owned(),
        })?;
        let next = counter(next.try_get("next_counter")?, "next_counter")?;
        let by = floor.at_least.saturating_sub(next);
        if by == 0 {
            tx.rollback().await?;
            return Ok(Raised::Already(next));
        }
        let now = clock::micros(clock::now());
        if floor.source == Source::Hint {
            let hinted: i64 = sqlx::query(
                "SELECT CAST(COALESCE(SUM(to_counter - from_counter), 0) AS BIGINT) AS hinted FROM counter_floors \
                 WHERE meter_id = $1 AND source = $2 AND raise_us > $3",
            )
            .bind(floor.meter_id)
            .bind(floor.source.name())
            .bind(now.saturating_sub(DAY_US))
            .fetch_one(&mut *tx)
            .await?
            .try_get("hinted")?;
            let left = i64::from(floor.hint_max).saturating_sub(hinted);
            let left = u32::try_from(left).unwrap_or_default();
            if by > left {
                tx.rollback().await?;
                return Ok(Raised::TooFar { next, left });
            }
        }
        sqlx::query("UPDATE meter_keys SET next_counter = $2 WHERE meter_id = $1")
            .bind(floor.meter_id)
            .bind(i64::from(floor.at_least))
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO counter_floors (floor_id, meter_id, source, from_counter, to_counter, raise_us) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(kit::context::new_id())
        .bind(floor.meter_id)
        .bind(floor.source.name())
        .bind(i64::from(next))
        .bind(i64::from(floor.at_least))
        .bind(now)
        .execute(&mut *tx)
        .await?;
        enqueue(&mut tx, &entry(next)).await?;
        tx.commit().await?;
        crash_point(crash::AFTER_RAISE);
        Ok(Raised::From(next))
    }
}
