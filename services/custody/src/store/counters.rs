//! Invocation counters, both ways, and the fence between the contexts of a meter.
//!
//! Any number of replicas share these rows. A block is taken by one statement, so no two have a counter in common (P4).
//! A context that ends the others of its meter raises the meter's fence, and every statement of an older one says
//! which fence it stands behind: wherever it is, it takes no block, counts no use and stores no counter any more.
//! Whatever changes the key that a row's counters are of must raise the fence in the same transaction: a context under
//! the old key would else take counters of the new one, and use them under the old a second time.

use std::ops::Range;

use kit::{clock, crash_point};
use latchkey_proto::audit::v1::{Entry, EntryKind};
use sqlx::{Any, Executor, Row as _};

use super::{Store, counter, keys::KeyState, outbox::enqueue};
use crate::{crash, error::Error, metrics, trail};

/// No counter at or above this is reserved. The rest is left for a key transfer, which needs counters too
/// (a GCM nonce must not repeat under one key: NIST SP 800-38D, 8).
pub(crate) const COUNTER_END: u32 = 0xFF00_0000;

/// Of which key counters are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CounterOf {
    /// The encryption key in use: the row of the meter, while it has this generation.
    InUse {
        /// From 1.
        generation: u32,
    },
    /// Another generation of it: its row of `key_generations`, unless that is DESTROYED.
    Other {
        /// From 1.
        generation: u32,
    },
}

impl CounterOf {
    /// Of the encryption key.
    pub(crate) fn generation(self) -> u32 {
        match self {
            Self::InUse { generation } | Self::Other { generation } => generation,
        }
    }
}

/// How `key_generations` names the encryption key (GUEK).
pub(crate) const ENCRYPTION: &str = "encryption";

/// A block that is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reservation<'a> {
    pub(crate) meter_id: &'a str,
    pub(crate) of: CounterOf,
    /// How many; fewer are given where fewer are left.
    pub(crate) size: u32,
    /// The first counter that is worth a warning: whoever takes it leaves an entry in the trail.
    pub(crate) warning: u32,
}

/// What a context begins with.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) fence: i64,
    /// The last invocation counter taken from the meter, if there was one.
    pub(crate) last_received: Option<u32>,
    /// Empty where none were wanted.
    pub(crate) counters: Range<u32>,
    /// Of the meter's keys, as it is behind this fence: whoever changes it raises the fence.
    pub(crate) state: KeyState,
}

impl Store {
    /// Raises the fence of a meter: every older context that ends with a new one has ended, in every replica. Takes the
    /// first block along, if one is wanted.
    pub(crate) async fn begin_context(
        &self,
        meter_id: &str,
        wanted: Option<Reservation<'_>>,
    ) -> Result<Begun, Error> {
        if let Some(wanted) = wanted.filter(|it| matches!(it.of, CounterOf::InUse { .. }))
            && let Some(begun) = self.begin_with_block(&wanted).await?
        {
            return Ok(begun);
        }
        let row = sqlx::query(
            "UPDATE meter_keys SET fence = fence + 1 WHERE meter_id = $1 RETURNING fence, last_received, state",
        )
        .bind(meter_id)
        .fetch_optional(&self.pool)
        .await?
        .ok_or_else(|| Error::KeysUnknown {
            meter: meter_id.to_owned(),
        })?;
        let fence = row.try_get("fence")?;
        let counters = match wanted {
            Some(wanted) => self.reserve_counters(&wanted, fence).await?,
            None => 0..0,
        };
        Ok(Begun {
            fence,
            last_received: received(row.try_get("last_received")?)?,
            counters,
            state: KeyState::of(row.try_get("state")?)?,
        })
    }

    /// The usual case in one statement; none where the block must be looked at more closely.
    async fn begin_with_block(&self, wanted: &Reservation<'_>) -> Result<Option<Begun>, Error> {
        crash_point(crash::BEFORE_RESERVE);
        let row = sqlx::query(
            "UPDATE meter_keys SET fence = fence + 1, next_counter = next_counter + $2, counter_block = $2, \
             reserve_us = $3 WHERE meter_id = $1 AND next_counter + $2 <= $4 AND ek_generation = $5 \
             RETURNING fence, last_received, next_counter, state",
        )
        .bind(wanted.meter_id)
        .bind(i64::from(wanted.size))
        .bind(clock::micros(clock::now()))
        .bind(i64::from(wanted.warning.min(COUNTER_END)))
        .bind(i64::from(wanted.of.generation()))
        .fetch_optional(&self.pool)
        .await?;
        crash_point(crash::AFTER_RESERVE);
        let Some(row) = row else { return Ok(None) };
        let end = counter(row.try_get("next_counter")?, "next_counter")?;
        Ok(Some(Begun {
            fence: row.try_get("fence")?,
            last_received: received(row.try_get("last_received")?)?,
            counters: end.saturating_sub(wanted.size)..end,
            state: KeyState::of(row.try_get("state")?)?,
        }))
    }

    /// Takes invocation counters that nobody had before and nobody will have again, for a context behind this fence.
    pub(crate) async fn reserve_counters(
        &self,
        wanted: &Reservation<'_>,
        fence: i64,
    ) -> Result<Range<u32>, Error> {
        crash_point(crash::BEFORE_RESERVE);
        let below = wanted.warning.min(COUNTER_END);
        let taken = take(&self.pool, wanted, fence, (wanted.size, below)).await?;
        crash_point(crash::AFTER_RESERVE);
        match taken {
            Some(counters) => Ok(counters),
            None => self.reserve_last(wanted, fence).await,
        }
    }

    /// The same near the end, where the block may be the first that is worth a warning, or the last.
    async fn reserve_last(
        &self,
        wanted: &Reservation<'_>,
        fence: i64,
    ) -> Result<Range<u32>, Error> {
        loop {
            let next = self.next_behind(wanted, fence).await?;
            let size = wanted.size.min(COUNTER_END.saturating_sub(next));
            if size == 0 {
                return Err(Error::CountersExhausted {
                    meter: wanted.meter_id.to_owned(),
                });
            }
            let mut tx = self.pool.begin().await?;
            // Another context may have taken a part of what was left.
            let Some(counters) = take(&mut *tx, wanted, fence, (size, COUNTER_END)).await? else {
                tx.rollback().await?;
                continue;
            };
            // One block, and no other, has the first counter from the warning on.
            if counters.start <= wanted.warning && wanted.warning < counters.end {
                enqueue(&mut tx, &warning(wanted, &counters)).await?;
                metrics::counters_warned();
            }
            tx.commit().await?;
            crash_point(crash::AFTER_RESERVE);
            return Ok(counters);
        }
    }

    /// The next counter that nobody has; an error if there is no such key, or the context has ended.
    async fn next_behind(&self, wanted: &Reservation<'_>, fence: i64) -> Result<u32, Error> {
        self.check_fence(wanted.meter_id, Some(fence)).await?;
        let row = match wanted.of {
            CounterOf::InUse { generation } => {
                sqlx::query(
                    "SELECT next_counter FROM meter_keys WHERE meter_id = $1 AND ek_generation = $2",
                )
                .bind(wanted.meter_id)
                .bind(i64::from(generation))
                .fetch_optional(&self.pool)
                .await?
            }
            CounterOf::Other { generation } => {
                sqlx::query(
                    "SELECT next_counter FROM key_generations \
                     WHERE meter_id = $1 AND kind = $2 AND generation = $3 AND state <> 'DESTROYED'",
                )
                .bind(wanted.meter_id)
                .bind(ENCRYPTION)
                .bind(i64::from(generation))
                .fetch_optional(&self.pool)
                .await?
            }
        };
        // The meter is there, and this key of it is not, or no longer.
        let row = row.ok_or(Error::ContextFenced)?;
        counter(row.try_get("next_counter")?, "next_counter")
    }

    /// Whether a context behind this fence is still the newest of its meter. One without fence always is.
    pub(crate) async fn check_fence(
        &self,
        meter_id: &str,
        fence: Option<i64>,
    ) -> Result<(), Error> {
        let Some(fence) = fence else { return Ok(()) };
        let row = sqlx::query("SELECT fence FROM meter_keys WHERE meter_id = $1")
            .bind(meter_id)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| Error::KeysUnknown {
                meter: meter_id.to_owned(),
            })?;
        if row.try_get::<i64, _>("fence")? == fence {
            Ok(())
        } else {
            Err(Error::ContextFenced)
        }
    }

    /// Stores the invocation counter with which the meter has proven itself to the context behind this fence, above the
    /// one stored or not. An entry comes along when it is remarkable.
    pub(crate) async fn set_received(
        &self,
        meter_id: &str,
        fence: Option<i64>,
        last: u32,
        entry: Option<&Entry>,
    ) -> Result<(), Error> {
        crash_point(crash::BEFORE_STORE_RECEIVED);
        let mut tx = self.pool.begin().await?;
        // An older context that comes late must not bring back an older counter: recordings would be new again.
        let stored = sqlx::query(
            "UPDATE meter_keys SET last_received = $2 WHERE meter_id = $1 AND ($3 < 0 OR fence = $3)",
        )
        .bind(meter_id)
        .bind(i64::from(last))
        .bind(fence.unwrap_or(-1))
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if stored == 0 {
            tx.rollback().await?;
            return Err(Error::ContextFenced);
        }
        if let Some(entry) = entry {
            enqueue(&mut tx, entry).await?;
        }
        tx.commit().await?;
        crash_point(crash::AFTER_STORE_RECEIVED);
        Ok(())
    }

    /// Stores the last invocation counter taken from the meter, if it is above the one stored. `false` if it is not:
    /// another context, here or in another replica, has taken a later one meanwhile. An error if the context behind
    /// this fence has ended; no fence, no such error: what is proven may always rise.
    pub(crate) async fn raise_received(
        &self,
        meter_id: &str,
        fence: Option<i64>,
        last: u32,
    ) -> Result<bool, Error> {
        crash_point(crash::BEFORE_STORE_RECEIVED);
        let raised = sqlx::query(
            "UPDATE meter_keys SET last_received = $2 \
             WHERE meter_id = $1 AND last_received < $2 AND ($3 < 0 OR fence = $3)",
        )
        .bind(meter_id)
        .bind(i64::from(last))
        .bind(fence.unwrap_or(-1))
        .execute(&self.pool)
        .await?
        .rows_affected();
        crash_point(crash::AFTER_STORE_RECEIVED);
        if raised == 0 {
            self.check_fence(meter_id, fence).await?;
        }
        Ok(raised == 1)
    }
}

/// One statement, whatever it runs in: the block, or none if the fence or the limit forbids it.
async fn take<'e>(
    on: impl Executor<'e, Database = Any>,
    wanted: &Reservation<'_>,
    fence: i64,
    (size, limit): (u32, u32),
) -> Result<Option<Range<u32>>, Error> {
    let query = match wanted.of {
        CounterOf::InUse { generation } => sqlx::query(
            "UPDATE meter_keys SET next_counter = next_counter + $2, counter_block = $2, reserve_us = $5 \
             WHERE meter_id = $1 AND next_counter + $2 <= $3 AND fence = $4 AND ek_generation = $6 \
             RETURNING next_counter",
        )
        .bind(wanted.meter_id)
        .bind(i64::from(size))
        .bind(i64::from(limit))
        .bind(fence)
        .bind(clock::micros(clock::now()))
        .bind(i64::from(generation)),
        CounterOf::Other { generation } => sqlx::query(
            "UPDATE key_generations SET next_counter = next_counter + $2 \
             WHERE meter_id = $1 AND kind = $5 AND generation = $6 AND state <> 'DESTROYED' \
             AND next_counter + $2 <= $3 \
             AND EXISTS (SELECT 1 FROM meter_keys WHERE meter_keys.meter_id = $1 AND fence = $4) \
             RETURNING next_counter",
        )
        .bind(wanted.meter_id)
        .bind(i64::from(size))
        .bind(i64::from(limit))
        .bind(fence)
        .bind(ENCRYPTION)
        .bind(i64::from(generation)),
    };
    let Some(row) = query.fetch_optional(on).await? else {
        return Ok(None);
    };
    let end = counter(row.try_get("next_counter")?, "next_counter")?;
    Ok(Some(end.saturating_sub(size)..end))
}

fn warning(wanted: &Reservation<'_>, counters: &Range<u32>) -> Entry {
    let detail = format!(
        "the invocation counters have come to {} and end at {COUNTER_END}: transfer a new encryption key to the meter",
        counters.end
    );
    trail::entry(EntryKind::Key, "", wanted.meter_id, detail)
}

/// A counter of the meter's as it is stored: -1 for none.
pub(super) fn received(stored: i64) -> Result<Option<u32>, Error> {
    match stored {
        ..0 => Ok(None),
        last => counter(last, "last_received").map(Some),
    }
}
