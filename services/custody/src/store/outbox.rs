//! Entries on their way into the trail.

use kit::crash_point;
use latchkey_proto::audit::v1::Entry;
use prost::Message as _;
use sqlx::{Any, Row as _, Transaction};

use super::Store;
use crate::{crash, error::Error};

/// An entry that the auditor does not have yet.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) request_id: String,
    pub(crate) entry: Entry,
}

impl Store {
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

/// Stores an entry in the transaction of what it reports.
pub(super) async fn enqueue(tx: &mut Transaction<'_, Any>, entry: &Entry) -> Result<(), Error> {
    sqlx::query("INSERT INTO outbox (request_id, entry) VALUES ($1, $2)")
        .bind(kit::context::new_id())
        .bind(entry.encode_to_vec())
        .execute(&mut **tx)
        .await?;
    Ok(())
}
