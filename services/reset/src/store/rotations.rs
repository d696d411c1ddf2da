//! Rotations of keys: the same promises as for resets. A transition and what it owes to the trail are one transaction,
//! and its effect begins after the commit.

use kit::{clock, crash_point, sql::unique_violation};
use sqlx::{Row as _, any::AnyRow};

use super::{Pending, Store, pending};
use crate::{
    crash,
    error::Error,
    rotation::{Asked, Rotation, State, Verdict},
};

/// The columns of [`Rotation`], in no particular order.
macro_rules! columns {
    () => {
        "rotation_id, request_id, request_digest, meter_id, key_bits, agree, reason, ticket, principal, state, settled, \
         verdict, detail, attempts, next_us, version, create_us, update_us"
    };
}

/// What came of creating.
#[derive(Debug)]
pub(crate) enum CreatedRotation {
    /// It is there now.
    New,
    /// The request id is known.
    Known(Box<Rotation>),
    /// The meter has another rotation under way.
    UnderWay(String),
}

impl Store {
    /// Creates a rotation.
    pub(crate) async fn create_rotation(
        &self,
        rotation: &Rotation,
    ) -> Result<CreatedRotation, Error> {
        crash_point(crash::BEFORE_CREATE_ROTATION);
        let asked = &rotation.asked;
        let inserted = sqlx::query(
            "INSERT INTO rotations (rotation_id, request_id, request_digest, meter_id, key_bits, agree, reason, ticket, \
             principal, active, state, settled, verdict, detail, exit_code, attempts, next_us, version, create_us, \
             update_us) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, $10, 1, '', $11, 0, 0, $12, 0, $12, $12)",
        )
        .bind(&asked.rotation_id)
        .bind(&asked.request_id)
        .bind(asked.request_digest.as_slice())
        .bind(&asked.meter_id)
        .bind(i64::from(asked.key_bits))
        .bind(i64::from(asked.agree))
        .bind(&asked.reason)
        .bind(&asked.ticket)
        .bind(&asked.principal)
        .bind(rotation.state.name())
        .bind(&rotation.detail)
        .bind(rotation.create_us)
        .execute(&self.pool)
        .await;
        match inserted {
            Ok(_) => {
                crash_point(crash::AFTER_CREATE_ROTATION);
                Ok(CreatedRotation::New)
            }
            Err(error) if unique_violation(&error) => self.rotation_collision(asked).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn rotation_collision(&self, asked: &Asked) -> Result<CreatedRotation, Error> {
        let row = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM rotations WHERE request_id = $1"
        ))
        .bind(&asked.request_id)
        .fetch_optional(&self.pool)
        .await?;
        if let Some(row) = row {
            return Ok(CreatedRotation::Known(Box::new(read(&row)?)));
        }
        let other: Option<String> = sqlx::query_scalar(
            "SELECT rotation_id FROM rotations WHERE meter_id = $1 AND active = 1",
        )
        .bind(&asked.meter_id)
        .fetch_optional(&self.pool)
        .await?;
        // It ended between the two statements: the caller may try again.
        Ok(CreatedRotation::UnderWay(other.unwrap_or_default()))
    }

    /// A rotation by its id.
    pub(crate) async fn rotation(&self, rotation_id: &str) -> Result<Option<Rotation>, Error> {
        let row = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM rotations WHERE rotation_id = $1"
        ))
        .bind(rotation_id)
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(read).transpose()
    }

    /// Every rotation that is not over, or still owes something to the trail, oldest first.
    pub(crate) async fn unfinished_rotations(&self) -> Result<Vec<Rotation>, Error> {
        let rows = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM rotations WHERE active = 1 OR rotation_id IN \
             (SELECT rotation_id FROM rotation_records WHERE leaf_index IS NULL) ORDER BY rotation_id"
        ))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Rotations before one, newest first.
    pub(crate) async fn list_rotations(
        &self,
        (meter_id, active_only): (&str, bool),
        before: &str,
        limit: i64,
    ) -> Result<Vec<Rotation>, Error> {
        let rows = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM rotations WHERE ($1 = '' OR meter_id = $1) AND ($2 = '' OR rotation_id < $2) \
             AND (active = 1 OR $4 = 0) ORDER BY rotation_id DESC LIMIT $3"
        ))
        .bind(meter_id)
        .bind(before)
        .bind(limit)
        .bind(i64::from(active_only))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Stores a transition. `rotation` becomes what is stored.
    pub(crate) async fn commit_rotation(
        &self,
        rotation: &mut Rotation,
        record: Option<&Pending>,
    ) -> Result<(), Error> {
        let now = clock::micros(clock::now());
        crash_point(crash::BEFORE_COMMIT_ROTATION);
        let mut tx = self.pool.begin().await?;
        let verdict = rotation.verdict.map_or("", Verdict::name);
        let changed = sqlx::query(
            "UPDATE rotations SET active = $3, state = $4, settled = $5, verdict = $6, detail = $7, exit_code = $8, \
             attempts = $9, next_us = $10, update_us = $11, version = version + 1 \
             WHERE rotation_id = $1 AND version = $2",
        )
        .bind(&rotation.asked.rotation_id)
        .bind(rotation.version)
        .bind(i64::from(rotation.state != State::Done))
        .bind(rotation.state.name())
        .bind(i64::from(rotation.settled))
        .bind(verdict)
        .bind(&rotation.detail)
        .bind(rotation.verdict.map_or(0, |verdict| i64::from(verdict.exit_code())))
        .bind(i64::from(rotation.attempts))
        .bind(rotation.next_us)
        .bind(now)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if changed == 0 {
            return Err(Error::Stolen(rotation.asked.rotation_id.clone()));
        }
        if let Some(record) = record {
            sqlx::query(
                "INSERT INTO rotation_records (request_id, rotation_id, number, entry) VALUES ($1, $2, $3, $4)",
            )
            .bind(&record.request_id)
            .bind(&rotation.asked.rotation_id)
            .bind(rotation.version)
            .bind(record.entry.as_slice())
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        crash_point(crash::AFTER_COMMIT_ROTATION);
        rotation.version += 1;
        rotation.update_us = now;
        Ok(())
    }

    /// What a rotation owes to the trail, in order.
    pub(crate) async fn rotation_pending(&self, rotation_id: &str) -> Result<Vec<Pending>, Error> {
        let rows = sqlx::query(
            "SELECT request_id, entry FROM rotation_records WHERE rotation_id = $1 AND leaf_index IS NULL \
             ORDER BY number",
        )
        .bind(rotation_id)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(pending).collect()
    }

    /// The trail holds an entry.
    pub(crate) async fn rotation_receipt(
        &self,
        request_id: &str,
        leaf_index: u64,
    ) -> Result<(), Error> {
        sqlx::query("UPDATE rotation_records SET leaf_index = $2 WHERE request_id = $1")
            .bind(request_id)
            .bind(i64::try_from(leaf_index).unwrap_or(i64::MAX))
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

fn read(row: &AnyRow) -> Result<Rotation, Error> {
    let (state, verdict): (String, String) = (row.try_get("state")?, row.try_get("verdict")?);
    let number = |column: &str| -> Result<u32, Error> {
        let value: i64 = row.try_get(column)?;
        u32::try_from(value).map_err(|_| Error::Row(format!("{column} {value}")))
    };
    Ok(Rotation {
        asked: Asked {
            rotation_id: row.try_get("rotation_id")?,
            request_id: row.try_get("request_id")?,
            request_digest: row.try_get("request_digest")?,
            meter_id: row.try_get("meter_id")?,
            key_bits: u8::try_from(number("key_bits")?)
                .map_err(|error| Error::Row(error.to_string()))?,
            agree: number("agree")? != 0,
            reason: row.try_get("reason")?,
            ticket: row.try_get("ticket")?,
            principal: row.try_get("principal")?,
        },
        state: State::named(&state).ok_or_else(|| Error::Row(format!("state {state:?}")))?,
        settled: number("settled")? != 0,
        verdict: match verdict.as_str() {
            "" => None,
            name => {
                Some(Verdict::named(name).ok_or_else(|| Error::Row(format!("verdict {name:?}")))?)
            }
        },
        detail: row.try_get("detail")?,
        attempts: number("attempts")?,
        next_us: row.try_get("next_us")?,
        version: row.try_get("version")?,
        create_us: row.try_get("create_us")?,
        update_us: row.try_get("update_us")?,
    })
}
