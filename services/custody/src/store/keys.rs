//! The keys of meters.

use dlms::Suite;
use kit::crash_point;
use latchkey_proto::audit::v1::Entry;
use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use super::{
    Store, counter,
    counters::received,
    fingerprints::{self, Claim},
    outbox::enqueue,
};
use crate::{crash, error::Error};

/// The columns of [`KeyRow`], in the order of [`key_row`].
macro_rules! key_columns {
    () => {
        "meter_id, client_system_title, server_system_title, wrapped_encryption_key, sealed_authentication_key, \
         sealed_password, check_value, source, next_counter, last_received, create_us, security_suite, mechanisms, \
         wrapped_hls_secret, sealed_hls_secret, wrapped_master_key, server_signing_key, server_agreement_key, row_seal, \
         policies, kek_generation, ek_generation, ak_generation, mk_generation, bk_generation, wrapped_broadcast_key, \
         row_version, rotation_id, fence, counter_block, reserve_us, state, state_reason, change_us, import_id, \
         broadcast_check_value"
    };
}
pub(super) use key_columns;

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
    #[allow(
        dead_code,
        reason = "statements compare it in the database; here it is for whoever debugs"
    )]
    pub(crate) fence: i64,
    /// How many counters were reserved last; 0 for never.
    pub(crate) counter_block: u32,
    /// When; 0 for never.
    pub(crate) reserve_us: i64,
    /// Whether its keys may be used. Bound like a secret: who writes into the database cannot clear it.
    pub(crate) state: KeyState,
    /// Why it is not [`KeyState::Active`], in the words of who said so; else empty.
    pub(crate) state_reason: String,
    /// When facts, secrets or state changed last; 0 if they never did.
    pub(crate) change_us: i64,
    /// Names the batch it came in with, which the trail knows; empty for one that came alone.
    pub(crate) import_id: String,
    /// Of the broadcast key; empty for none.
    pub(crate) broadcast_check_value: Vec<u8>,
}

/// Whether a meter's keys may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum KeyState {
    /// They may.
    #[default]
    Active,
    /// Somebody else may have them: they serve for nothing but to be replaced.
    Compromised,
    /// The secrets are gone. What is left keeps their fingerprints and the numbers of their generations.
    Destroyed,
}

impl KeyState {
    /// As the column has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Compromised => "COMPROMISED",
            Self::Destroyed => "DESTROYED",
        }
    }

    pub(super) fn of(name: &str) -> Result<Self, Error> {
        [Self::Active, Self::Compromised, Self::Destroyed]
            .into_iter()
            .find(|state| state.name() == name)
            .ok_or(Error::RowInvalid { column: "state" })
    }
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
    /// Stores a meter's keys, claims their fingerprints, with the entry that reports them. Nothing is stored unless the
    /// meter has none, or those it had are destroyed and `row` names that version.
    pub(crate) async fn insert_keys(
        &self,
        row: &KeyRow,
        claims: &[Claim],
        entry: &Entry,
    ) -> Result<Placed, Error> {
        crash_point(crash::BEFORE_STORE_KEYS);
        let mut tx = self.pool.begin().await?;
        let placed = place(&mut tx, row, claims).await?;
        if placed != Placed::Stored {
            tx.rollback().await?;
            return Ok(placed);
        }
        enqueue(&mut tx, entry).await?;
        tx.commit().await?;
        crash_point(crash::AFTER_STORE_KEYS);
        Ok(placed)
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
}

/// Whether keys were stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    /// They were.
    Stored,
    /// The meter has some already.
    MeterHasKeys,
    /// One of them is, or was, another meter's, or this one's before.
    KeyInUse,
}

/// Puts the keys of one meter into its place. What is not [`Placed::Stored`] must be rolled back.
pub(super) async fn place(
    tx: &mut Transaction<'_, Any>,
    row: &KeyRow,
    claims: &[Claim],
) -> Result<Placed, Error> {
    let placed = bind_row(sqlx::query(INSERT), row)
        .bind(row.row_version)
        .execute(&mut **tx)
        .await;
    match placed {
        Ok(placed) if placed.rows_affected() == 0 => return Ok(Placed::MeterHasKeys),
        Ok(_) => {}
        // An earlier program claimed no fingerprints.
        Err(error) if kit::sql::unique_violation(&error) => return Ok(Placed::KeyInUse),
        Err(error) => return Err(error.into()),
    }
    for claim in claims {
        if !fingerprints::claim(tx, &row.meter_id, claim).await? {
            return Ok(Placed::KeyInUse);
        }
    }
    Ok(Placed::Stored)
}

/// A destroyed row of that version makes room; its counters, and contexts in whichever replica, are of other keys.
const INSERT: &str = concat!(
    "INSERT INTO meter_keys (",
    key_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, \
     $23, $24, $25, $26, 1, NULL, 0, 0, 0, $27, $28, $29, $30, $31) ON CONFLICT (meter_id) DO UPDATE SET \
     client_system_title = excluded.client_system_title, server_system_title = excluded.server_system_title, \
     wrapped_encryption_key = excluded.wrapped_encryption_key, \
     sealed_authentication_key = excluded.sealed_authentication_key, sealed_password = excluded.sealed_password, \
     check_value = excluded.check_value, source = excluded.source, next_counter = excluded.next_counter, \
     last_received = excluded.last_received, create_us = excluded.create_us, \
     security_suite = excluded.security_suite, mechanisms = excluded.mechanisms, \
     wrapped_hls_secret = excluded.wrapped_hls_secret, sealed_hls_secret = excluded.sealed_hls_secret, \
     wrapped_master_key = excluded.wrapped_master_key, server_signing_key = excluded.server_signing_key, \
     server_agreement_key = excluded.server_agreement_key, row_seal = excluded.row_seal, \
     policies = excluded.policies, kek_generation = excluded.kek_generation, \
     ek_generation = excluded.ek_generation, ak_generation = excluded.ak_generation, \
     mk_generation = excluded.mk_generation, bk_generation = excluded.bk_generation, \
     wrapped_broadcast_key = excluded.wrapped_broadcast_key, row_version = meter_keys.row_version + 1, \
     fence = meter_keys.fence + 1, counter_block = 0, reserve_us = 0, state = excluded.state, state_reason = excluded.state_reason, \
     change_us = excluded.change_us, import_id = excluded.import_id, \
     broadcast_check_value = excluded.broadcast_check_value \
     WHERE meter_keys.state = 'DESTROYED' AND meter_keys.row_version = $32"
);

/// Statements with arguments still to come.
pub(super) type Statement<'q> = sqlx::query::Query<'q, Any, <Any as sqlx::Database>::Arguments>;

/// Binds [`BOUND`] columns of a row that is to be inserted, in the order of [`key_columns`].
pub(super) fn bind_row<'q>(statement: Statement<'q>, row: &'q KeyRow) -> Statement<'q> {
    statement
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
        .bind(row.state.name())
        .bind(row.state_reason.as_str())
        .bind(row.change_us)
        .bind(row.import_id.as_str())
        .bind(row.broadcast_check_value.as_slice())
}

/// How many columns [`bind_row`] binds.
pub(super) const BOUND: usize = 31;

pub(super) fn key_row(row: &AnyRow) -> Result<KeyRow, Error> {
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
        state: KeyState::of(row.try_get("state")?)?,
        state_reason: row.try_get("state_reason")?,
        change_us: row.try_get("change_us")?,
        import_id: row.try_get("import_id")?,
        broadcast_check_value: later(row, "broadcast_check_value")?,
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
         state = $23, state_reason = $24, change_us = $25, broadcast_check_value = $26, \
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
    .bind(row.state.name())
    .bind(row.state_reason.as_str())
    .bind(row.change_us)
    .bind(row.broadcast_check_value.as_slice())
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
