//! Rotations of keys, and the keys of meters that are not yet in use, or no longer.
//!
//! A rotation is `new` until its keys may have left, `unsettled` until the meter proves something, then `new` again or
//! `active`. While it is unsettled the meter's row names it: nobody else guesses. What the meter has proven is one
//! transaction: there is no moment at which the row holds neither or both.

pub(super) mod row;

use dlms::agreement::KeyId;
use kit::{clock, crash_point, sql};
use latchkey_proto::audit::v1::Entry;
use sqlx::{Any, Row as _, Transaction};

pub(crate) use self::row::{GenerationRow, RotationRow, RotationState};
use self::row::{generation_row, rotation_row};

use super::{
    KeyRow, Store, counter,
    counters::received,
    fingerprints::{Claim, claim},
    keys::change,
    outbox::enqueue,
};
use crate::{crash, error::Error, rotation::name_of};

/// What is stored when a rotation begins.
pub(crate) struct Beginning<'a> {
    pub(crate) rotation: &'a RotationRow,
    pub(crate) keys: &'a [GenerationRow],
    pub(crate) fingerprints: &'a [Claim],
    /// The rotation that this one takes the place of, and whether its keys go with it.
    pub(crate) instead_of: Option<(&'a str, bool)>,
    pub(crate) entry: &'a Entry,
}

/// What is stored when the meter has proven its new keys.
pub(crate) struct Activation<'a> {
    pub(crate) rotation_id: &'a str,
    /// The meter's row with the new keys in it.
    pub(crate) row: &'a KeyRow,
    /// The old ones.
    pub(crate) retiring: &'a [GenerationRow],
    /// Behind which the context is that has proven them.
    pub(crate) fence: Option<i64>,
    /// The counter with which it has proven them, if its encryption key is new.
    pub(crate) received: Option<u32>,
    pub(crate) detail: &'a str,
    pub(crate) entry: &'a Entry,
}

impl Store {
    /// A rotation by its id.
    pub(crate) async fn rotation(&self, rotation_id: &str) -> Result<Option<RotationRow>, Error> {
        sqlx::query(
            "SELECT rotation_id, meter_id, key_bits, agreed, state, sealed_send, sealed_confirm, kek_generation, \
             attempts, openings, detail, create_us FROM rotations WHERE rotation_id = $1",
        )
        .bind(rotation_id)
        .fetch_optional(&self.pool)
        .await?
        .map(|row| rotation_row(&row))
        .transpose()
    }

    /// The rotation of a meter that is not over.
    pub(crate) async fn rotation_of(&self, meter_id: &str) -> Result<Option<RotationRow>, Error> {
        sqlx::query(
            "SELECT rotation_id, meter_id, key_bits, agreed, state, sealed_send, sealed_confirm, kek_generation, \
             attempts, openings, detail, create_us FROM rotations \
             WHERE meter_id = $1 AND state IN ('new', 'unsettled')",
        )
        .bind(meter_id)
        .fetch_optional(&self.pool)
        .await?
        .map(|row| rotation_row(&row))
        .transpose()
    }

    /// The new keys of a meter.
    pub(crate) async fn new_keys(&self, meter_id: &str) -> Result<Vec<GenerationRow>, Error> {
        sqlx::query(
            "SELECT meter_id, kind, generation, secret, check_value, seal, kek_generation, next_counter, last_received \
             FROM key_generations WHERE meter_id = $1 AND state = 'NEW' ORDER BY kind",
        )
        .bind(meter_id)
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(generation_row)
        .collect()
    }

    /// The highest generation of a meter's key there ever was among those not in use; 0 for none.
    pub(crate) async fn highest_generation(
        &self,
        meter_id: &str,
        key: KeyId,
    ) -> Result<u32, Error> {
        let highest: Option<i64> = sqlx::query_scalar(
            "SELECT MAX(generation) FROM key_generations WHERE meter_id = $1 AND kind = $2",
        )
        .bind(meter_id)
        .bind(name_of(key))
        .fetch_one(&self.pool)
        .await?;
        counter(highest.unwrap_or(0), "generation")
    }

    /// Stores a rotation and its new keys. `false`, and nothing stored, if the meter has another one by now.
    pub(crate) async fn begin_rotation(&self, begin: &Beginning<'_>) -> Result<bool, Error> {
        crash_point(crash::BEFORE_BEGIN_ROTATION);
        let now = clock::micros(clock::now());
        let mut tx = self.pool.begin().await?;
        let of = (
            begin.rotation.meter_id.as_str(),
            begin.rotation.kek_generation,
        );
        if !under(&mut tx, of).await? {
            tx.rollback().await?;
            let meter = of.0.to_owned();
            return Err(Error::KeysChanged { meter });
        }
        if let Some((before, destroyed)) = begin.instead_of {
            end(
                &mut tx,
                before,
                RotationState::Abandoned,
                "another took its place",
            )
            .await?;
            if destroyed {
                destroy_new(&mut tx, &begin.rotation.meter_id, now).await?;
            }
        }
        match insert_rotation(&mut tx, begin.rotation, now).await {
            Ok(()) => {}
            Err(Error::Database(error)) if sql::unique_violation(&error) => {
                tx.rollback().await?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        if begin.rotation.state == RotationState::Unsettled {
            name(
                &mut tx,
                &begin.rotation.meter_id,
                Some(&begin.rotation.rotation_id),
            )
            .await?;
        }
        for key in begin.keys {
            insert_generation(&mut tx, key, "NEW", now).await?;
        }
        for fingerprint in begin.fingerprints {
            let meter_id = &begin.rotation.meter_id;
            if !claim(&mut tx, meter_id, fingerprint).await? {
                tx.rollback().await?;
                let meter = meter_id.clone();
                return Err(Error::KeyInUse { meter });
            }
        }
        enqueue(&mut tx, begin.entry).await?;
        tx.commit().await?;
        crash_point(crash::AFTER_BEGIN_ROTATION);
        Ok(true)
    }

    /// Stores an agreed key, and what confirms it, before anybody is told that it was agreed.
    pub(crate) async fn agreed_key(
        &self,
        rotation_id: &str,
        key: &GenerationRow,
        sealed_confirm: &[u8],
    ) -> Result<(), Error> {
        crash_point(crash::BEFORE_AGREED_KEY);
        let now = clock::micros(clock::now());
        let mut tx = self.pool.begin().await?;
        let of = (key.meter_id.as_str(), key.kek_generation);
        if !under(&mut tx, of).await? {
            tx.rollback().await?;
            let meter = of.0.to_owned();
            return Err(Error::KeysChanged { meter });
        }
        destroy_new(&mut tx, &key.meter_id, now).await?;
        insert_generation(&mut tx, key, "NEW", now).await?;
        sqlx::query("UPDATE rotations SET sealed_confirm = $2 WHERE rotation_id = $1")
            .bind(rotation_id)
            .bind(sealed_confirm)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        crash_point(crash::AFTER_AGREED_KEY);
        Ok(())
    }

    /// Counts a context that is about to be opened. `false` if that were one too many since `since_us`.
    pub(crate) async fn count_opening(
        &self,
        rotation_id: &str,
        max: u32,
        since_us: i64,
    ) -> Result<bool, Error> {
        let now = clock::micros(clock::now());
        let counted = sqlx::query(
            "UPDATE rotations SET openings = CASE WHEN openings_us < $3 THEN 1 ELSE openings + 1 END, \
             openings_us = CASE WHEN openings_us < $3 OR openings = 0 THEN $4 ELSE openings_us END \
             WHERE rotation_id = $1 AND (openings < $2 OR openings_us < $3)",
        )
        .bind(rotation_id)
        .bind(i64::from(max))
        .bind(since_us)
        .bind(now)
        .execute(&self.pool)
        .await?
        .rows_affected();
        Ok(counted == 1)
    }

    /// The new keys are about to be ciphered: from here on nobody knows which ones the meter has.
    pub(crate) async fn rotation_sent(
        &self,
        (rotation_id, meter_id): (&str, &str),
        fence: Option<i64>,
    ) -> Result<(), Error> {
        crash_point(crash::BEFORE_UNSETTLE);
        let mut tx = self.pool.begin().await?;
        let marked = sqlx::query(
            "UPDATE rotations SET state = 'unsettled', attempts = attempts + 1, detail = $2, state_us = $3 \
             WHERE rotation_id = $1 AND state IN ('new', 'unsettled')",
        )
        .bind(rotation_id)
        .bind("sent; no answer yet")
        .bind(clock::micros(clock::now()))
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if marked != 1 {
            tx.rollback().await?;
            return Err(Error::RotationOver);
        }
        if !name_behind(&mut tx, (meter_id, fence), Some(rotation_id)).await? {
            tx.rollback().await?;
            return Err(Error::ContextFenced);
        }
        tx.commit().await?;
        crash_point(crash::AFTER_UNSETTLE);
        Ok(())
    }

    /// The meter has proven that its old keys are in force. `untaken`: by saying no to the new ones, so that this sending
    /// of them counts for nothing.
    pub(crate) async fn rotation_kept(
        &self,
        (rotation_id, meter_id): (&str, &str),
        fence: Option<i64>,
        (detail, untaken, entry): (&str, bool, &Entry),
    ) -> Result<(), Error> {
        crash_point(crash::BEFORE_SETTLE);
        let mut tx = self.pool.begin().await?;
        let changed = sqlx::query(
            "UPDATE rotations SET state = 'new', openings = 0, detail = $2, state_us = $3, attempts = attempts - $4 \
             WHERE rotation_id = $1 AND state = 'unsettled'",
        )
        .bind(rotation_id)
        .bind(detail)
        .bind(clock::micros(clock::now()))
        .bind(i64::from(untaken))
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if changed == 1 {
            // What an older context has proven may have been true before a newer one.
            if !name_behind(&mut tx, (meter_id, fence), None).await? {
                tx.rollback().await?;
                return Err(Error::ContextFenced);
            }
            enqueue(&mut tx, entry).await?;
        }
        tx.commit().await?;
        crash_point(crash::AFTER_SETTLE);
        Ok(())
    }

    /// Something was learnt that settles nothing. `proven`: the meter has proven that it knows us.
    pub(crate) async fn rotation_note(
        &self,
        rotation_id: &str,
        detail: Option<&str>,
        proven: bool,
    ) -> Result<(), Error> {
        sqlx::query(
            "UPDATE rotations SET detail = COALESCE($2, detail), openings = CASE WHEN $3 = 1 THEN 0 ELSE openings END \
             WHERE rotation_id = $1 AND state IN ('new', 'unsettled')",
        )
        .bind(rotation_id)
        .bind(detail)
        .bind(i64::from(proven))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// What was agreed is not what the meter has: it is forgotten, and nothing is settled.
    pub(crate) async fn disagreed(
        &self,
        (rotation_id, meter_id): (&str, &str),
        detail: &str,
    ) -> Result<(), Error> {
        let now = clock::micros(clock::now());
        let mut tx = self.pool.begin().await?;
        destroy_new(&mut tx, meter_id, now).await?;
        sqlx::query("UPDATE rotations SET sealed_confirm = $2, detail = $3 WHERE rotation_id = $1")
            .bind(rotation_id)
            .bind([].as_slice())
            .bind(detail)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The meter has proven its new keys: they become those of its row. `false`, and nothing stored, if the row was
    /// changed since it was read, or the rotation is over.
    pub(crate) async fn activate(&self, activation: &Activation<'_>) -> Result<bool, Error> {
        crash_point(crash::BEFORE_SETTLE);
        let now = clock::micros(clock::now());
        let row = activation.row;
        let mut tx = self.pool.begin().await?;
        if !change(&mut tx, row).await?
            || end(
                &mut tx,
                activation.rotation_id,
                RotationState::Active,
                activation.detail,
            )
            .await?
                != 1
        {
            tx.rollback().await?;
            return Ok(false);
        }
        let old =
            sqlx::query("SELECT next_counter, last_received FROM meter_keys WHERE meter_id = $1")
                .bind(row.meter_id.as_str())
                .fetch_one(&mut *tx)
                .await?;
        for key in activation.retiring {
            let mut key = key.clone();
            if key.key == KeyId::GlobalUnicastEncryption {
                key.next_counter = counter(old.try_get("next_counter")?, "next_counter")?;
                key.last_received = received(old.try_get("last_received")?)?;
                new_counters(&mut tx, row, activation.received).await?;
            }
            insert_generation(&mut tx, &key, "RETIRING", now).await?;
        }
        sqlx::query("DELETE FROM key_generations WHERE meter_id = $1 AND state = 'NEW'")
            .bind(row.meter_id.as_str())
            .execute(&mut *tx)
            .await?;
        if !name_behind(&mut tx, (&row.meter_id, activation.fence), None).await? {
            tx.rollback().await?;
            return Err(Error::ContextFenced);
        }
        // The row's counters are those of another key from here on: no context that is open takes any of them.
        sqlx::query("UPDATE meter_keys SET fence = fence + 1 WHERE meter_id = $1")
            .bind(row.meter_id.as_str())
            .execute(&mut *tx)
            .await?;
        enqueue(&mut tx, activation.entry).await?;
        tx.commit().await?;
        crash_point(crash::AFTER_SETTLE);
        Ok(true)
    }

    /// Raises the last invocation counter taken from the meter, if this generation of its encryption key is still in use.
    pub(crate) async fn raise_received_under(
        &self,
        meter_id: &str,
        generation: u32,
        last: u32,
    ) -> Result<(), Error> {
        crash_point(crash::BEFORE_STORE_RECEIVED);
        sqlx::query(
            "UPDATE meter_keys SET last_received = $2 WHERE meter_id = $1 AND last_received < $2 AND ek_generation = $3",
        )
        .bind(meter_id)
        .bind(i64::from(last))
        .bind(i64::from(generation))
        .execute(&self.pool)
        .await?;
        crash_point(crash::AFTER_STORE_RECEIVED);
        Ok(())
    }

    /// Blanks the secrets of keys that are out of use since before `until_us`, and gives up rotations whose old keys
    /// were proven before that. How many secrets.
    pub(crate) async fn destroy_retired(&self, until_us: i64) -> Result<u64, Error> {
        let now = clock::micros(clock::now());
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "UPDATE rotations SET state = 'abandoned', detail = $3, sealed_send = $4, sealed_confirm = $4, state_us = $2 \
             WHERE state = 'new' AND state_us < $1",
        )
        .bind(until_us)
        .bind(now)
        .bind("given up: the old keys are in force")
        .bind([].as_slice())
        .execute(&mut *tx)
        .await?;
        let blanked = sqlx::query(
            "UPDATE key_generations SET state = 'DESTROYED', secret = $3, seal = $3, state_us = $2 \
             WHERE (state = 'RETIRING' AND state_us < $1) OR (state = 'NEW' AND NOT EXISTS (SELECT 1 FROM rotations \
             WHERE rotations.meter_id = key_generations.meter_id AND rotations.state IN ('new', 'unsettled')))",
        )
        .bind(until_us)
        .bind(now)
        .bind([].as_slice())
        .execute(&mut *tx)
        .await?
        .rows_affected();
        tx.commit().await?;
        Ok(blanked)
    }
}

/// The row of a meter names the rotation that is not settled, or none.
async fn name(
    tx: &mut Transaction<'_, Any>,
    meter_id: &str,
    rotation_id: Option<&str>,
) -> Result<(), Error> {
    sqlx::query("UPDATE meter_keys SET rotation_id = $2 WHERE meter_id = $1")
        .bind(meter_id)
        .bind(rotation_id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The same, unless a newer context has ended the one behind this fence: `false` then.
async fn name_behind(
    tx: &mut Transaction<'_, Any>,
    (meter_id, fence): (&str, Option<i64>),
    rotation_id: Option<&str>,
) -> Result<bool, Error> {
    let named = sqlx::query(
        "UPDATE meter_keys SET rotation_id = $2 WHERE meter_id = $1 AND ($3 < 0 OR fence = $3)",
    )
    .bind(meter_id)
    .bind(rotation_id)
    .bind(fence.unwrap_or(-1))
    .execute(&mut **tx)
    .await?;
    Ok(named.rows_affected() == 1)
}

/// Whether the meter's row is under this generation of key-encryption keys still. It knows then that there is more under
/// it: whoever brings the row under another from what it was before must look again.
async fn under(
    tx: &mut Transaction<'_, Any>,
    (meter_id, kek_generation): (&str, u32),
) -> Result<bool, Error> {
    let counted = sqlx::query(
        "UPDATE meter_keys SET row_version = row_version + 1 WHERE meter_id = $1 AND kek_generation = $2",
    )
    .bind(meter_id)
    .bind(i64::from(kek_generation))
    .execute(&mut **tx)
    .await?;
    Ok(counted.rows_affected() == 1)
}

/// How many rotations ended: one, or none if it was over.
async fn end(
    tx: &mut Transaction<'_, Any>,
    rotation_id: &str,
    state: RotationState,
    detail: &str,
) -> Result<u64, Error> {
    let ended = sqlx::query(
        "UPDATE rotations SET state = $2, detail = $3, sealed_send = $4, sealed_confirm = $4, state_us = $5 \
         WHERE rotation_id = $1 AND state IN ('new', 'unsettled')",
    )
    .bind(rotation_id)
    .bind(state.name())
    .bind(detail)
    .bind([].as_slice())
    .bind(clock::micros(clock::now()))
    .execute(&mut **tx)
    .await?;
    Ok(ended.rows_affected())
}

async fn destroy_new(tx: &mut Transaction<'_, Any>, meter_id: &str, now: i64) -> Result<(), Error> {
    sqlx::query(
        "UPDATE key_generations SET state = 'DESTROYED', secret = $2, seal = $2, state_us = $3 \
         WHERE meter_id = $1 AND state = 'NEW'",
    )
    .bind(meter_id)
    .bind([].as_slice())
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A new encryption key has its own counters, which were counted beside it until now.
async fn new_counters(
    tx: &mut Transaction<'_, Any>,
    row: &KeyRow,
    received: Option<u32>,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE meter_keys SET last_received = $3, counter_block = 0, reserve_us = 0, next_counter = (SELECT next_counter FROM key_generations \
         WHERE key_generations.meter_id = $1 AND kind = $2 AND state = 'NEW') WHERE meter_id = $1",
    )
    .bind(row.meter_id.as_str())
    .bind(name_of(KeyId::GlobalUnicastEncryption))
    .bind(received.map_or(-1, i64::from))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn insert_rotation(
    tx: &mut Transaction<'_, Any>,
    row: &RotationRow,
    now: i64,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO rotations (rotation_id, meter_id, key_bits, agreed, state, sealed_send, sealed_confirm, \
         kek_generation, attempts, openings, openings_us, detail, create_us, state_us) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $11)",
    )
    .bind(row.rotation_id.as_str())
    .bind(row.meter_id.as_str())
    .bind(i64::from(row.keys.bits()))
    .bind(i64::from(row.agreed))
    .bind(row.state.name())
    .bind(row.sealed_send.as_slice())
    .bind(row.sealed_confirm.as_slice())
    .bind(i64::from(row.kek_generation))
    .bind(i64::from(row.attempts))
    .bind(i64::from(row.openings))
    .bind(now)
    .bind(row.detail.as_str())
    .bind(row.create_us)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn insert_generation(
    tx: &mut Transaction<'_, Any>,
    key: &GenerationRow,
    state: &str,
    now: i64,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO key_generations (meter_id, kind, generation, state, secret, check_value, seal, kek_generation, \
         next_counter, last_received, create_us, state_us) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)",
    )
    .bind(key.meter_id.as_str())
    .bind(name_of(key.key))
    .bind(i64::from(key.generation))
    .bind(state)
    .bind(key.secret.as_slice())
    .bind(key.check_value.as_slice())
    .bind(key.seal.as_slice())
    .bind(i64::from(key.kek_generation))
    .bind(i64::from(key.next_counter))
    .bind(key.last_received.map_or(-1, i64::from))
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
