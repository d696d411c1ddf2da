//! Custody's rows: the only SQL of this crate.
//!
//! Three promises live here. A block of invocation counters is on the disk before one of it is used (P4); a limited
//! command is counted on the disk before it is ciphered (P1, P5); an entry of the trail is stored in the transaction
//! of what it reports, and leaves the outbox only when the auditor has it.

use std::ops::Range;

use dlms::Suite;
use kit::{
    clock, crash_point,
    sql::{Migration, Pool},
};
use latchkey_proto::audit::v1::Entry;
use prost::Message as _;
use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use crate::{crash, error::Error};

/// The schema.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "first",
        sql: include_str!("../migrations/0001_first.sql"),
    },
    // Counters are per row: one key in two rows would have every nonce twice, and a permit for one meter would cipher
    // for the other. RFC 3394 has no randomness, so equal keys are equal octets.
    Migration {
        version: 2,
        name: "one key, one meter",
        sql: include_str!("../migrations/0002_one_key_one_meter.sql"),
    },
    Migration {
        version: 3,
        name: "suites, HLS secrets, master keys, public keys",
        sql: include_str!("../migrations/0003_suites.sql"),
    },
    Migration {
        version: 4,
        name: "policies",
        sql: include_str!("../migrations/0004_policies.sql"),
    },
];

/// No counter at or above this is reserved. The rest is left for a key transfer, which needs counters too
/// (a GCM nonce must not repeat under one key: NIST SP 800-38D, 8).
pub(crate) const COUNTER_END: u32 = 0xFF00_0000;

/// The columns of [`KeyRow`], in the order of [`key_row`].
macro_rules! key_columns {
    () => {
        "meter_id, client_system_title, server_system_title, wrapped_encryption_key, sealed_authentication_key, \
         sealed_password, check_value, source, next_counter, last_received, create_us, security_suite, mechanisms, \
         wrapped_hls_secret, sealed_hls_secret, wrapped_master_key, server_signing_key, server_agreement_key, row_seal, \
         policies"
    };
}

/// What is held for one meter. No field is a key in clear.
#[derive(Clone, Default)]
pub(crate) struct KeyRow {
    pub(crate) meter_id: String,
    pub(crate) client_system_title: Vec<u8>,
    pub(crate) server_system_title: Vec<u8>,
    /// RFC 3394 under `kek-ek-1`; empty for a meter without ciphering.
    pub(crate) wrapped_encryption_key: Vec<u8>,
    /// AES-GCM under `kek-ak-1`; empty for a meter without ciphering.
    pub(crate) sealed_authentication_key: Vec<u8>,
    /// AES-GCM under `kek-ak-1`; empty for a meter without password.
    pub(crate) sealed_password: Vec<u8>,
    pub(crate) check_value: Vec<u8>,
    pub(crate) source: String,
    pub(crate) next_counter: u32,
    /// The last invocation counter taken from the meter, if there was one.
    pub(crate) last_received: Option<u32>,
    pub(crate) create_us: i64,
    /// The suite of its keys.
    pub(crate) suite: Suite,
    /// Bit n: the mechanism with id n was named when the keys came in. 0: none was.
    pub(crate) mechanisms: u8,
    /// Which policies were named besides authenticated and encrypted: bit 0 authenticated only, bit 1 encrypted only.
    pub(crate) policies: u8,
    /// RFC 3394 under `kek-hs-1`; empty for none, or one that it does not wrap.
    pub(crate) wrapped_hls_secret: Vec<u8>,
    /// AES-GCM under `kek-ak-1`: where the token cannot digest it; mostly empty.
    pub(crate) sealed_hls_secret: Vec<u8>,
    /// RFC 3394 under `kek-mk-1`; empty for none.
    pub(crate) wrapped_master_key: Vec<u8>,
    /// X || Y; empty if not known.
    pub(crate) server_signing_key: Vec<u8>,
    /// X || Y; empty if not known.
    pub(crate) server_agreement_key: Vec<u8>,
    /// AES-GCM of nothing under `kek-ak-1`: binds the fields above where no authentication key does.
    pub(crate) row_seal: Vec<u8>,
}

/// One counted use of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) command_index: u32,
    /// Of the global unicast key; 0 for another.
    pub(crate) invocation_counter: u32,
    pub(crate) use_us: i64,
}

/// An entry that the auditor does not have yet.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) request_id: String,
    pub(crate) entry: Entry,
}

/// Custody's database.
#[derive(Clone)]
pub(crate) struct Store {
    pool: Pool,
}

impl Store {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Stores a meter's keys with the entry that reports them. `false`, and nothing stored, if the meter has some, or
    /// another meter has this encryption key.
    pub(crate) async fn insert_keys(&self, row: &KeyRow, entry: &Entry) -> Result<bool, Error> {
        crash_point(crash::BEFORE_STORE_KEYS);
        let mut tx = self.pool.begin().await?;
        let inserted = sqlx::query(concat!(
            "INSERT INTO meter_keys (",
            key_columns!(),
            ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20) \
             ON CONFLICT DO NOTHING"
        ))
        .bind(row.meter_id.as_str())
        .bind(row.client_system_title.as_slice())
        .bind(row.server_system_title.as_slice())
        .bind(row.wrapped_encryption_key.as_slice())
        .bind(row.sealed_authentication_key.as_slice())
        .bind(row.sealed_password.as_slice())
        .bind(row.check_value.as_slice())
        .bind(row.source.as_str())
        .bind(i64::from(row.next_counter))
        .bind(row.last_received.map_or(-1, i64::from))
        .bind(row.create_us)
        .bind(i64::from(row.suite.id()))
        .bind(i64::from(row.mechanisms))
        .bind(row.wrapped_hls_secret.as_slice())
        .bind(row.sealed_hls_secret.as_slice())
        .bind(row.wrapped_master_key.as_slice())
        .bind(row.server_signing_key.as_slice())
        .bind(row.server_agreement_key.as_slice())
        .bind(row.row_seal.as_slice())
        .bind(i64::from(row.policies))
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if inserted == 0 {
            tx.rollback().await?;
            return Ok(false);
        }
        enqueue(&mut tx, entry).await?;
        tx.commit().await?;
        crash_point(crash::AFTER_STORE_KEYS);
        Ok(true)
    }

    /// What is held for a meter.
    pub(crate) async fn keys(&self, meter_id: &str) -> Result<Option<KeyRow>, Error> {
        sqlx::query(concat!(
            "SELECT ",
            key_columns!(),
            " FROM meter_keys WHERE meter_id = $1"
        ))
        .bind(meter_id)
        .fetch_optional(&self.pool)
        .await?
        .map(|row| key_row(&row))
        .transpose()
    }

    /// Up to `limit` meters after `after`, by id.
    pub(crate) async fn list_keys(&self, after: &str, limit: u32) -> Result<Vec<KeyRow>, Error> {
        sqlx::query(concat!(
            "SELECT ",
            key_columns!(),
            " FROM meter_keys WHERE meter_id > $1 ORDER BY meter_id LIMIT $2"
        ))
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(key_row)
        .collect()
    }

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
    /// command may be used; refused when that many are counted.
    pub(crate) async fn count_uses(
        &self,
        permit_id: &str,
        uses: &[(Use, u32)],
        entry: &Entry,
    ) -> Result<(), Error> {
        crash_point(crash::BEFORE_COUNT_USE);
        let mut tx = self.pool.begin().await?;
        for (used, max) in uses {
            if !count_use(&mut tx, permit_id, used, *max).await? {
                tx.rollback().await?;
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

    /// Stores an entry that reports nothing of the other tables.
    pub(crate) async fn enqueue_start(&self, entry: &Entry) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        enqueue(&mut tx, entry).await?;
        Ok(tx.commit().await?)
    }

    /// The oldest entries after this request id that the auditor does not have yet.
    pub(crate) async fn pending(&self, after: &str, limit: u32) -> Result<Vec<Pending>, Error> {
        // Request ids are UUIDs of version 7: their order is that of their making.
        sqlx::query("SELECT request_id, entry FROM outbox WHERE request_id > $1 ORDER BY request_id LIMIT $2")
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(|row| {
                let entry: Vec<u8> = row.try_get("entry")?;
                let entry = Entry::decode(entry.as_slice())
                    .map_err(|_| Error::RowInvalid { column: "entry" })?;
                Ok(Pending {
                    request_id: row.try_get("request_id")?,
                    entry,
                })
            })
            .collect()
    }

    /// Forgets an entry that is in the trail.
    pub(crate) async fn forget(&self, request_id: &str) -> Result<(), Error> {
        crash_point(crash::BEFORE_FORGET_ENTRY);
        sqlx::query("DELETE FROM outbox WHERE request_id = $1")
            .bind(request_id)
            .execute(&self.pool)
            .await?;
        crash_point(crash::AFTER_FORGET_ENTRY);
        Ok(())
    }
}

/// Whether it could be counted.
async fn count_use(
    tx: &mut Transaction<'_, Any>,
    permit_id: &str,
    used: &Use,
    max: u32,
) -> Result<bool, Error> {
    // The primary key makes two replicas that count at once fail, not agree.
    let counted = sqlx::query(
        "INSERT INTO permit_uses (permit_id, command_index, use_number, invocation_counter, use_us) \
         SELECT $1, $2, COUNT(*) + 1, $3, $4 FROM permit_uses \
         WHERE permit_id = $1 AND command_index = $2 HAVING COUNT(*) < $5",
    )
    .bind(permit_id)
    .bind(i64::from(used.command_index))
    .bind(i64::from(used.invocation_counter))
    .bind(used.use_us)
    .bind(i64::from(max))
    .execute(&mut **tx)
    .await;
    match counted {
        Ok(counted) => Ok(counted.rows_affected() == 1),
        Err(error) if kit::sql::unique_violation(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn enqueue(tx: &mut Transaction<'_, Any>, entry: &Entry) -> Result<(), Error> {
    sqlx::query("INSERT INTO outbox (request_id, entry) VALUES ($1, $2)")
        .bind(kit::context::new_id())
        .bind(entry.encode_to_vec())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn key_row(row: &AnyRow) -> Result<KeyRow, Error> {
    let last: i64 = row.try_get("last_received")?;
    Ok(KeyRow {
        meter_id: row.try_get("meter_id")?,
        client_system_title: row.try_get("client_system_title")?,
        server_system_title: row.try_get("server_system_title")?,
        wrapped_encryption_key: row.try_get("wrapped_encryption_key")?,
        sealed_authentication_key: row.try_get("sealed_authentication_key")?,
        sealed_password: row.try_get("sealed_password")?,
        check_value: row.try_get("check_value")?,
        source: row.try_get("source")?,
        next_counter: counter(row.try_get("next_counter")?, "next_counter")?,
        last_received: if last < 0 {
            None
        } else {
            Some(counter(last, "last_received")?)
        },
        create_us: row.try_get("create_us")?,
        suite: u8::try_from(row.try_get::<i64, _>("security_suite")?)
            .ok()
            .and_then(Suite::from_id)
            .ok_or(Error::RowInvalid {
                column: "security_suite",
            })?,
        mechanisms: u8::try_from(row.try_get::<i64, _>("mechanisms")?).map_err(|_| {
            Error::RowInvalid {
                column: "mechanisms",
            }
        })?,
        wrapped_hls_secret: later(row, "wrapped_hls_secret")?,
        sealed_hls_secret: later(row, "sealed_hls_secret")?,
        wrapped_master_key: later(row, "wrapped_master_key")?,
        server_signing_key: later(row, "server_signing_key")?,
        server_agreement_key: later(row, "server_agreement_key")?,
        row_seal: later(row, "row_seal")?,
        policies: u8::try_from(row.try_get::<i64, _>("policies")?)
            .map_err(|_| Error::RowInvalid { column: "policies" })?,
    })
}

/// A column that rows of the first schemas do not have.
fn later(row: &AnyRow, column: &'static str) -> Result<Vec<u8>, Error> {
    Ok(row
        .try_get::<Option<Vec<u8>>, _>(column)?
        .unwrap_or_default())
}

fn counter(value: i64, column: &'static str) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| Error::RowInvalid { column })
}

#[cfg(test)]
mod tests;
