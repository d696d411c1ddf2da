//! The only SQL of the auditor.

use futures::TryStreamExt as _;
use kit::sql::{Migration, Pool};
use kit::{StartError, clock};
use latchkey_proto::audit::v1::AllowlistEntry;
use sqlx::{Any, Transaction};
use tlog::Hash;

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "trail",
    sql: include_str!("../migrations/0001_trail.sql"),
}];

/// A transaction of the writer.
pub(crate) type Tx = Transaction<'static, Any>;

/// The auditor's tables.
#[derive(Clone, Debug)]
pub(crate) struct Store(Pool);

/// A stored entry.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) index: u64,
    pub(crate) body: Vec<u8>,
    pub(crate) leaf_hash: Vec<u8>,
}

/// The answer to a request, kept for the same request again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// SHA-256 of caller and request.
    pub(crate) digest: Vec<u8>,
    /// Where the entry is.
    pub(crate) leaf_index: u64,
    /// Ids of the policies that allowed it.
    pub(crate) policy_ids: Vec<String>,
    /// Encoded permit; empty if the request was not for one.
    pub(crate) permit: Vec<u8>,
    /// Signature over the permit; empty until it is signed.
    pub(crate) signature: Vec<u8>,
    /// Id of the key that signed it.
    pub(crate) key_id: String,
}

impl Store {
    /// Opens the database and brings it up to date.
    ///
    /// # Errors
    /// If it cannot be opened, or is newer than this program.
    pub(crate) async fn open(config: &kit::config::Database) -> Result<Self, StartError> {
        kit::sql::open(config, MIGRATIONS).await.map(Self)
    }

    pub(crate) async fn begin(&self) -> Result<Tx, sqlx::Error> {
        self.0.begin().await
    }

    /// How many entries there are, by the highest index.
    pub(crate) async fn size(&self) -> Result<u64, sqlx::Error> {
        let highest: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(idx), -1) FROM entries")
            .fetch_one(&self.0)
            .await?;
        Ok(unsigned(highest.saturating_add(1)))
    }

    /// Entries `from..to`, at most `limit` of them, in order.
    pub(crate) async fn rows(
        &self,
        from: u64,
        to: u64,
        limit: u32,
    ) -> Result<Vec<Row>, sqlx::Error> {
        let rows: Vec<(i64, Vec<u8>, Vec<u8>)> = sqlx::query_as(
            "SELECT idx, body, leaf_hash FROM entries WHERE idx >= $1 AND idx < $2 ORDER BY idx LIMIT $3",
        )
        .bind(signed(from))
        .bind(signed(to))
        .bind(i64::from(limit))
        .fetch_all(&self.0)
        .await?;
        Ok(rows.into_iter().map(Row::from).collect())
    }

    /// Entries from `from` on, about a meter and of a reset (empty: any), at most `limit`, in order.
    pub(crate) async fn rows_about(
        &self,
        from: u64,
        meter_id: &str,
        reset_id: &str,
        limit: u32,
    ) -> Result<Vec<Row>, sqlx::Error> {
        // one statement per filter, so that each runs on its index; every one takes the same parameters
        let sql = match (meter_id.is_empty(), reset_id.is_empty()) {
            (true, true) => {
                "SELECT idx, body, leaf_hash FROM entries
                 WHERE idx >= $1 AND $2 = '' AND $3 = '' ORDER BY idx LIMIT $4"
            }
            (false, true) => {
                "SELECT idx, body, leaf_hash FROM entries
                 WHERE idx >= $1 AND meter_id = $2 AND $3 = '' ORDER BY idx LIMIT $4"
            }
            (true, false) => {
                "SELECT idx, body, leaf_hash FROM entries
                 WHERE idx >= $1 AND $2 = '' AND reset_id = $3 ORDER BY idx LIMIT $4"
            }
            (false, false) => {
                "SELECT idx, body, leaf_hash FROM entries
                 WHERE idx >= $1 AND meter_id = $2 AND reset_id = $3 ORDER BY idx LIMIT $4"
            }
        };
        let rows: Vec<(i64, Vec<u8>, Vec<u8>)> = sqlx::query_as(sql)
            .bind(signed(from))
            .bind(meter_id)
            .bind(reset_id)
            .bind(i64::from(limit))
            .fetch_all(&self.0)
            .await?;
        Ok(rows.into_iter().map(Row::from).collect())
    }

    /// The leaf hashes of entries `0..to`, in order.
    pub(crate) async fn leaf_hashes(&self, to: u64) -> Result<Vec<Hash>, sqlx::Error> {
        let rows = sqlx::query_scalar("SELECT leaf_hash FROM entries WHERE idx < $1 ORDER BY idx")
            .bind(signed(to))
            .fetch(&self.0);
        rows.and_then(|octets: Vec<u8>| {
            let hash = Hash::try_from(octets.as_slice());
            std::future::ready(hash.map_err(|e| sqlx::Error::Decode(Box::new(e))))
        })
        .try_collect()
        .await
    }

    /// The newest signed checkpoint.
    pub(crate) async fn checkpoint(&self) -> Result<Option<String>, sqlx::Error> {
        sqlx::query_scalar("SELECT note FROM checkpoint WHERE id = 1")
            .fetch_optional(&self.0)
            .await
    }

    /// Stores the newest checkpoint; a smaller one never replaces a larger one.
    pub(crate) async fn put_checkpoint(&self, size: u64, note: &str) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO checkpoint (id, size, note) VALUES (1, $1, $2)
             ON CONFLICT (id) DO UPDATE SET size = excluded.size, note = excluded.note
             WHERE checkpoint.size < excluded.size",
        )
        .bind(signed(size))
        .bind(note)
        .execute(&self.0)
        .await
        .map(drop)
    }

    /// The receipt of a request.
    pub(crate) async fn receipt(
        &self,
        scope: &str,
        request_id: &str,
    ) -> Result<Option<Receipt>, sqlx::Error> {
        let row: Option<ReceiptRow> = sqlx::query_as(SELECT_RECEIPT)
            .bind(scope)
            .bind(request_id)
            .fetch_optional(&self.0)
            .await?;
        Ok(row.map(Receipt::from))
    }

    /// Stores the signature of a permit, the first time.
    pub(crate) async fn put_signature(
        &self,
        scope: &str,
        request_id: &str,
        signature: &[u8],
        key_id: &str,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "UPDATE receipts SET signature = $3, key_id = $4
             WHERE scope = $1 AND request_id = $2 AND key_id = ''",
        )
        .bind(scope)
        .bind(request_id)
        .bind(signature)
        .bind(key_id)
        .execute(&self.0)
        .await
        .map(drop)
    }

    /// The version of the allowlist.
    pub(crate) async fn allowlist_version(&self) -> Result<u64, sqlx::Error> {
        let version: i64 = sqlx::query_scalar("SELECT version FROM allowlist_version WHERE id = 1")
            .fetch_one(&self.0)
            .await?;
        Ok(unsigned(version))
    }

    /// The version of the allowlist, and the list, which is never older than it: whoever holds that version holds
    /// every removal up to it.
    pub(crate) async fn allowlist(&self) -> Result<(u64, Vec<AllowlistEntry>), sqlx::Error> {
        let version = self.allowlist_version().await?;
        let rows: Vec<(i64, String, String, String, i64)> = sqlx::query_as(
            "SELECT side, network, reason, added_by, added_us FROM allowlist ORDER BY side, network",
        )
        .fetch_all(&self.0)
        .await?;
        let entries = rows
            .into_iter()
            .map(
                |(side, network, reason, added_by, added_us)| AllowlistEntry {
                    side: i32::try_from(side).unwrap_or_default(),
                    network,
                    reason,
                    added_by,
                    add_time: Some(clock::timestamp(clock::from_micros(added_us))),
                },
            )
            .collect();
        Ok((version, entries))
    }
}

/// Appends an entry. A second writer on the same trail fails here, on the key.
pub(crate) async fn insert_entry(
    tx: &mut Tx,
    row: &Row,
    meter_id: &str,
    reset_id: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO entries (idx, body, leaf_hash, meter_id, reset_id) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(signed(row.index))
    .bind(row.body.as_slice())
    .bind(row.leaf_hash.as_slice())
    .bind(meter_id)
    .bind(reset_id)
    .execute(&mut **tx)
    .await
    .map(drop)
}

/// The receipt of a request, as the writer's own transaction sees it.
pub(crate) async fn find_receipt(
    tx: &mut Tx,
    scope: &str,
    request_id: &str,
) -> Result<Option<Receipt>, sqlx::Error> {
    let row: Option<ReceiptRow> = sqlx::query_as(SELECT_RECEIPT)
        .bind(scope)
        .bind(request_id)
        .fetch_optional(&mut **tx)
        .await?;
    Ok(row.map(Receipt::from))
}

/// Keeps the receipt of a request.
pub(crate) async fn insert_receipt(
    tx: &mut Tx,
    scope: &str,
    request_id: &str,
    receipt: &Receipt,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO receipts (scope, request_id, digest, idx, policy_ids, permit, signature, key_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(scope)
    .bind(request_id)
    .bind(receipt.digest.as_slice())
    .bind(signed(receipt.leaf_index))
    .bind(receipt.policy_ids.join(","))
    .bind(receipt.permit.as_slice())
    .bind(receipt.signature.as_slice())
    .bind(receipt.key_id.as_str())
    .execute(&mut **tx)
    .await
    .map(drop)
}

/// Puts a network on the allowlist; false if it is there already.
pub(crate) async fn allow(tx: &mut Tx, entry: &AllowlistEntry) -> Result<bool, sqlx::Error> {
    let time = entry.add_time.as_ref().and_then(clock::from_timestamp);
    let done = sqlx::query(
        "INSERT INTO allowlist (side, network, reason, added_by, added_us) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (side, network) DO NOTHING",
    )
    .bind(i64::from(entry.side))
    .bind(entry.network.as_str())
    .bind(entry.reason.as_str())
    .bind(entry.added_by.as_str())
    .bind(time.map_or(0, clock::micros))
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Takes a network off the allowlist; false if it is not there.
pub(crate) async fn disallow(tx: &mut Tx, side: i32, network: &str) -> Result<bool, sqlx::Error> {
    let done = sqlx::query("DELETE FROM allowlist WHERE side = $1 AND network = $2")
        .bind(i64::from(side))
        .bind(network)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// The allowlist has changed; returns its new version.
pub(crate) async fn raise_version(tx: &mut Tx) -> Result<u64, sqlx::Error> {
    sqlx::query("UPDATE allowlist_version SET version = version + 1 WHERE id = 1")
        .execute(&mut **tx)
        .await?;
    find_version(tx).await
}

/// The version of the allowlist, as the writer's own transaction sees it.
pub(crate) async fn find_version(tx: &mut Tx) -> Result<u64, sqlx::Error> {
    let version: i64 = sqlx::query_scalar("SELECT version FROM allowlist_version WHERE id = 1")
        .fetch_one(&mut **tx)
        .await?;
    Ok(unsigned(version))
}

const SELECT_RECEIPT: &str = "SELECT digest, idx, policy_ids, permit, signature, key_id
     FROM receipts WHERE scope = $1 AND request_id = $2";

type ReceiptRow = (Vec<u8>, i64, String, Vec<u8>, Vec<u8>, String);

impl From<ReceiptRow> for Receipt {
    fn from((digest, index, policy_ids, permit, signature, key_id): ReceiptRow) -> Self {
        let ids = policy_ids.split(',').filter(|id| !id.is_empty());
        Self {
            digest,
            leaf_index: unsigned(index),
            policy_ids: ids.map(str::to_owned).collect(),
            permit,
            signature,
            key_id,
        }
    }
}

impl From<(i64, Vec<u8>, Vec<u8>)> for Row {
    fn from((index, body, leaf_hash): (i64, Vec<u8>, Vec<u8>)) -> Self {
        Self {
            index: unsigned(index),
            body,
            leaf_hash,
        }
    }
}

/// SQL has no unsigned numbers. An index beyond `i64::MAX` cannot exist, so nothing is ever there.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
