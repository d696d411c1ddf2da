//! The keys of meters.

use dlms::Suite;
use kit::crash_point;
use latchkey_proto::audit::v1::Entry;
use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use super::{Store, counter, counters::received, outbox::enqueue};
use crate::{crash, error::Error};

/// The columns of [`KeyRow`], in the order of [`key_row`].
macro_rules! key_columns {
    () => {
        "meter_id, client_system_title, server_system_title, wrapped_encryption_key, sealed_authentication_key, \
         sealed_password, check_value, source, next_counter, last_received, create_us, security_suite, mechanisms, \
         wrapped_hls_secret, sealed_hls_secret, wrapped_master_key, server_signing_key, server_agreement_key, row_seal, \
         policies, kek_generation, ek_generation, ak_generation, mk_generation, bk_generation, wrapped_broadcast_key, \
         row_version, rotation_id, fence, counter_block, reserve_us"
    };
}

/// What is held for one meter. No field is a key in clear.
#[derive(Clone, Default)]
pub(crate) struct KeyRow {
    pub(crate) meter_id: String,
    pub(crate) client_system_title: Vec<u8>,
    pub(crate) server_system_title: Vec<u8>,
    /// RFC 3394 under `kek-ek-N`; empty for a meter without ciphering.
    pub(crate) wrapped_encryption_key: Vec<u8>,
    /// AES-GCM under `kek-ak-N`; empty for a meter without ciphering.
    pub(crate) sealed_authentication_key: Vec<u8>,
    /// AES-GCM under `kek-ak-N`; empty for a meter without password.
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
    /// RFC 3394 under `kek-hs-N`; empty for none, or one that it does not wrap.
    pub(crate) wrapped_hls_secret: Vec<u8>,
    /// AES-GCM under `kek-ak-N`: where the token cannot digest it; mostly empty.
    pub(crate) sealed_hls_secret: Vec<u8>,
    /// RFC 3394 under `kek-mk-N`; empty for none.
    pub(crate) wrapped_master_key: Vec<u8>,
    /// X || Y; empty if not known.
    pub(crate) server_signing_key: Vec<u8>,
    /// X || Y; empty if not known.
    pub(crate) server_agreement_key: Vec<u8>,
    /// AES-GCM of nothing under `kek-ak-N`: binds the fields above where no authentication key does.
    pub(crate) row_seal: Vec<u8>,
    /// Of the keys in this row, and of those they are under.
    pub(crate) generations: Generations,
    /// RFC 3394 under `kek-ek-N`, the global broadcast encryption key; empty for none.
    pub(crate) wrapped_broadcast_key: Vec<u8>,
    /// Rises with every change of facts or secrets: a change names the version it was made from.
    pub(crate) row_version: i64,
    /// A rotation that is not settled: until it is, nobody knows which keys the meter has.
    pub(crate) rotation_id: Option<String>,
    /// Rises with every context that ends the others of the meter, in whichever replica.
    pub(crate) fence: i64,
    /// How many counters were reserved last; 0 for never.
    pub(crate) counter_block: u32,
    /// When; 0 for never.
    pub(crate) reserve_us: i64,
}

/// Generations count from 1, per meter and kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generations {
    /// N of the `kek-..-N` that all secrets of the row are under.
    pub(crate) kek: u32,
    /// Of the encryption key (GUEK).
    pub(crate) encryption: u32,
    /// Of the authentication key (GAK).
    pub(crate) authentication: u32,
    /// Of the master key (KEK).
    pub(crate) master: u32,
    /// Of the broadcast encryption key (GBEK).
    pub(crate) broadcast: u32,
}

impl Default for Generations {
    fn default() -> Self {
        Self {
            kek: 1,
            encryption: 1,
            authentication: 1,
            master: 1,
            broadcast: 1,
        }
    }
}

impl Store {
    /// Stores a meter's keys with the entry that reports them. `false`, and nothing stored, if the meter has some, or
    /// another meter has this encryption key.
    pub(crate) async fn insert_keys(&self, row: &KeyRow, entry: &Entry) -> Result<bool, Error> {
        crash_point(crash::BEFORE_STORE_KEYS);
        let mut tx = self.pool.begin().await?;
        let inserted = sqlx::query(concat!(
            "INSERT INTO meter_keys (",
            key_columns!(),
            ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, \
             $22, $23, $24, $25, $26, 1, NULL, 0, 0, 0) ON CONFLICT DO NOTHING"
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
        .bind(i64::from(row.generations.kek))
        .bind(i64::from(row.generations.encryption))
        .bind(i64::from(row.generations.authentication))
        .bind(i64::from(row.generations.master))
        .bind(i64::from(row.generations.broadcast))
        .bind(row.wrapped_broadcast_key.as_slice())
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

    /// Stores a change of a row that was read before, with the entry that reports it. `false`, and nothing stored, if
    /// somebody changed the row since.
    pub(crate) async fn change_keys(&self, row: &KeyRow, entry: &Entry) -> Result<bool, Error> {
        crash_point(crash::BEFORE_CHANGE_KEYS);
        let mut tx = self.pool.begin().await?;
        if !change(&mut tx, row).await? {
            tx.rollback().await?;
            return Ok(false);
        }
        enqueue(&mut tx, entry).await?;
        tx.commit().await?;
        crash_point(crash::AFTER_CHANGE_KEYS);
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
}

fn key_row(row: &AnyRow) -> Result<KeyRow, Error> {
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
        last_received: received(row.try_get("last_received")?)?,
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
        generations: Generations {
            kek: counter(row.try_get("kek_generation")?, "kek_generation")?,
            encryption: counter(row.try_get("ek_generation")?, "ek_generation")?,
            authentication: counter(row.try_get("ak_generation")?, "ak_generation")?,
            master: counter(row.try_get("mk_generation")?, "mk_generation")?,
            broadcast: counter(row.try_get("bk_generation")?, "bk_generation")?,
        },
        wrapped_broadcast_key: later(row, "wrapped_broadcast_key")?,
        row_version: row.try_get("row_version")?,
        rotation_id: row.try_get("rotation_id")?,
        fence: row.try_get("fence")?,
        counter_block: counter(row.try_get("counter_block")?, "counter_block")?,
        reserve_us: row.try_get("reserve_us")?,
    })
}

/// Writes facts and secrets of a row that was read before, unless somebody changed it since: `false` then. Counters,
/// fence and rotation are left as they are.
pub(super) async fn change(tx: &mut Transaction<'_, Any>, row: &KeyRow) -> Result<bool, Error> {
    let changed = sqlx::query(
        "UPDATE meter_keys SET client_system_title = $3, server_system_title = $4, wrapped_encryption_key = $5, \
         sealed_authentication_key = $6, sealed_password = $7, check_value = $8, mechanisms = $9, \
         wrapped_hls_secret = $10, sealed_hls_secret = $11, wrapped_master_key = $12, server_signing_key = $13, \
         server_agreement_key = $14, row_seal = $15, policies = $16, kek_generation = $17, ek_generation = $18, \
         ak_generation = $19, mk_generation = $20, bk_generation = $21, wrapped_broadcast_key = $22, \
         row_version = row_version + 1 WHERE meter_id = $1 AND row_version = $2",
    )
    .bind(row.meter_id.as_str())
    .bind(row.row_version)
    .bind(row.client_system_title.as_slice())
    .bind(row.server_system_title.as_slice())
    .bind(row.wrapped_encryption_key.as_slice())
    .bind(row.sealed_authentication_key.as_slice())
    .bind(row.sealed_password.as_slice())
    .bind(row.check_value.as_slice())
    .bind(i64::from(row.mechanisms))
    .bind(row.wrapped_hls_secret.as_slice())
    .bind(row.sealed_hls_secret.as_slice())
    .bind(row.wrapped_master_key.as_slice())
    .bind(row.server_signing_key.as_slice())
    .bind(row.server_agreement_key.as_slice())
    .bind(row.row_seal.as_slice())
    .bind(i64::from(row.policies))
    .bind(i64::from(row.generations.kek))
    .bind(i64::from(row.generations.encryption))
    .bind(i64::from(row.generations.authentication))
    .bind(i64::from(row.generations.master))
    .bind(i64::from(row.generations.broadcast))
    .bind(row.wrapped_broadcast_key.as_slice())
    .execute(&mut **tx)
    .await?
    .rows_affected();
    Ok(changed == 1)
}

/// A column that rows of the first schemas do not have.
fn later(row: &AnyRow, column: &'static str) -> Result<Vec<u8>, Error> {
    Ok(row
        .try_get::<Option<Vec<u8>>, _>(column)?
        .unwrap_or_default())
}
