//! Uses of permits, counted for ever.

use kit::{clock, crash_point};
use latchkey_proto::audit::v1::Entry;
use sqlx::{Any, Row as _, Transaction};

use super::{Store, counter, outbox::enqueue};
use crate::{crash, error::Error};

/// One counted use of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) command_index: u32,
    /// Of the global unicast key; 0 for another.
    pub(crate) invocation_counter: u32,
    pub(crate) use_us: i64,
}

impl Store {
    /// Counts an association under a permit, with the entry that reports it. The body's digest pins the permit: a
    /// second body under the same id is refused.
    pub(crate) async fn count_association(
        &self,
        permit_id: &str,
        body_digest: &[u8],
        max: u32,
        entry: &Entry,
    ) -> Result<u32, Error> {
        crash_point(crash::BEFORE_COUNT_ASSOCIATION);
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "INSERT INTO permits (permit_id, body_digest, associations, first_open_us) VALUES ($1, $2, 0, $3) \
             ON CONFLICT DO NOTHING",
        )
        .bind(permit_id)
        .bind(body_digest)
        .bind(clock::micros(clock::now()))
        .execute(&mut *tx)
        .await?;
        let row = sqlx::query(
            "UPDATE permits SET associations = associations + 1 \
             WHERE permit_id = $1 AND body_digest = $2 AND associations < $3 RETURNING associations",
        )
        .bind(permit_id)
        .bind(body_digest)
        .bind(i64::from(max))
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else {
            let kept: Vec<u8> = sqlx::query("SELECT body_digest FROM permits WHERE permit_id = $1")
                .bind(permit_id)
                .fetch_one(&mut *tx)
                .await?
                .try_get("body_digest")?;
            tx.rollback().await?;
            return Err(if kept == body_digest {
                Error::PermitAssociationsSpent { max }
            } else {
                Error::PermitRefused {
                    why: "another permit came under the same id".to_owned(),
                }
            });
        };
        let associations = counter(row.try_get("associations")?, "associations")?;
        enqueue(&mut tx, entry).await?;
        tx.commit().await?;
        crash_point(crash::AFTER_COUNT_ASSOCIATION);
        Ok(associations)
    }

    /// Counts uses of commands, for ever, all or none, with the entry that reports them. Each comes with how often its
    /// command may be used; refused when that many are counted, and when a later context has ended the one behind
    /// this fence.
    pub(crate) async fn count_uses(
        &self,
        permit_id: &str,
        (meter_id, fence): (&str, Option<i64>),
        uses: &[(Use, u32)],
        entry: &Entry,
    ) -> Result<(), Error> {
        crash_point(crash::BEFORE_COUNT_USE);
        let mut tx = self.pool.begin().await?;
        for (used, max) in uses {
            if !count_use(&mut tx, permit_id, (meter_id, fence), used, *max).await? {
                tx.rollback().await?;
                self.check_fence(meter_id, fence).await?;
                return Err(Error::CommandSpent { max: *max });
            }
        }
        enqueue(&mut tx, entry).await?;
        tx.commit().await?;
        crash_point(crash::AFTER_COUNT_USE);
        Ok(())
    }

    /// The counted uses of a permit in the order of ciphering, and its associations.
    pub(crate) async fn permit_use(&self, permit_id: &str) -> Result<(Vec<Use>, u32), Error> {
        let associations = sqlx::query("SELECT associations FROM permits WHERE permit_id = $1")
            .bind(permit_id)
            .fetch_optional(&self.pool)
            .await?
            .map_or(Ok(0), |row| row.try_get("associations"))?;
        let uses = sqlx::query(
            "SELECT command_index, invocation_counter, use_us FROM permit_uses WHERE permit_id = $1 \
             ORDER BY use_us, invocation_counter, command_index, use_number",
        )
        .bind(permit_id)
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(|row| {
            Ok(Use {
                command_index: counter(row.try_get("command_index")?, "command_index")?,
                invocation_counter: counter(row.try_get("invocation_counter")?, "invocation_counter")?,
                use_us: row.try_get("use_us")?,
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
        Ok((uses, counter(associations, "associations")?))
    }
}

/// Whether it could be counted.
async fn count_use(
    tx: &mut Transaction<'_, Any>,
    permit_id: &str,
    (meter_id, fence): (&str, Option<i64>),
    used: &Use,
    max: u32,
) -> Result<bool, Error> {
    // The primary key makes two replicas that count at once fail, not agree.
    let counted = sqlx::query(
        "INSERT INTO permit_uses (permit_id, command_index, use_number, invocation_counter, use_us) \
         SELECT $1, $2, COUNT(*) + 1, $3, $4 FROM permit_uses \
         WHERE permit_id = $1 AND command_index = $2 HAVING COUNT(*) < $5 AND ($6 < 0 OR EXISTS (SELECT 1 FROM meter_keys WHERE meter_id = $7 AND fence = $6))",
    )
    .bind(permit_id)
    .bind(i64::from(used.command_index))
    .bind(i64::from(used.invocation_counter))
    .bind(used.use_us)
    .bind(i64::from(max))
    .bind(fence.unwrap_or(-1))
    .bind(meter_id)
    .execute(&mut **tx)
    .await;
    match counted {
        Ok(counted) => Ok(counted.rows_affected() == 1),
        Err(error) if kit::sql::unique_violation(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
