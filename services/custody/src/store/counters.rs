//! Invocation counters, both ways.

use std::ops::Range;

use kit::crash_point;
use latchkey_proto::audit::v1::Entry;
use sqlx::Row as _;

use super::{Store, counter, outbox::enqueue};
use crate::{crash, error::Error};

/// No counter at or above this is reserved. The rest is left for a key transfer, which needs counters too
/// (a GCM nonce must not repeat under one key: NIST SP 800-38D, 8).
pub(crate) const COUNTER_END: u32 = 0xFF00_0000;

impl Store {
    /// Takes `block` invocation counters that nobody had before and nobody will have again.
    pub(crate) async fn reserve_counters(
        &self,
        meter_id: &str,
        block: u32,
    ) -> Result<Range<u32>, Error> {
        crash_point(crash::BEFORE_RESERVE);
        // One statement: two replicas, or two contexts, can never take the same block.
        let end = sqlx::query(
            "UPDATE meter_keys SET next_counter = next_counter + $2 \
             WHERE meter_id = $1 AND next_counter + $2 <= $3 RETURNING next_counter",
        )
        .bind(meter_id)
        .bind(i64::from(block))
        .bind(i64::from(COUNTER_END))
        .fetch_optional(&self.pool)
        .await?;
        crash_point(crash::AFTER_RESERVE);
        let Some(row) = end else {
            let known = self.keys(meter_id).await?.is_some();
            let meter = meter_id.to_owned();
            return Err(if known {
                Error::CountersExhausted { meter }
            } else {
                Error::KeysUnknown { meter }
            });
        };
        let end = counter(row.try_get("next_counter")?, "next_counter")?;
        Ok(end.saturating_sub(block)..end)
    }

    /// Stores the invocation counter with which the meter has proven itself, above the one stored or not. An entry comes along when it is remarkable.
    pub(crate) async fn set_received(
        &self,
        meter_id: &str,
        last: u32,
        entry: Option<&Entry>,
    ) -> Result<(), Error> {
        crash_point(crash::BEFORE_STORE_RECEIVED);
        let mut tx = self.pool.begin().await?;
        sqlx::query("UPDATE meter_keys SET last_received = $2 WHERE meter_id = $1")
            .bind(meter_id)
            .bind(i64::from(last))
            .execute(&mut *tx)
            .await?;
        if let Some(entry) = entry {
            enqueue(&mut tx, entry).await?;
        }
        tx.commit().await?;
        crash_point(crash::AFTER_STORE_RECEIVED);
        Ok(())
    }

    /// Stores the last invocation counter taken from the meter, if it is above the one stored. `false` if it is not:
    /// another context, here or in another replica, has taken a later one meanwhile.
    pub(crate) async fn raise_received(&self, meter_id: &str, last: u32) -> Result<bool, Error> {
        crash_point(crash::BEFORE_STORE_RECEIVED);
        let raised = sqlx::query(
            "UPDATE meter_keys SET last_received = $2 WHERE meter_id = $1 AND last_received < $2",
        )
        .bind(meter_id)
        .bind(i64::from(last))
        .execute(&self.pool)
        .await?
        .rows_affected();
        crash_point(crash::AFTER_STORE_RECEIVED);
        Ok(raised == 1)
    }
}
