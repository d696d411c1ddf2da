//! Fingerprints for rows that an earlier program stored without.

use crate::{
    custody::Custody,
    error::Error,
    keyring,
    store::{Claim, KeyKind, KeyRow},
};

/// Rows of one transaction.
const ROWS: u32 = 256;

impl Custody {
    /// Gives each such row its fingerprint, batch by batch, before anything is served: until then a key could come in
    /// twice. A crash costs one batch, and the next start goes on.
    pub(crate) async fn mark_stock(&self) -> Result<(), Error> {
        let mut marked = 0;
        loop {
            let rows = self.store.unmarked(ROWS).await?;
            if rows.is_empty() {
                break;
            }
            let keys = rows.iter().filter(|row| row.has_encryption_key());
            let keys = keys.map(|row| {
                let kek = keyring::keks(row.generations.kek).encryption;
                (kek, row.wrapped_encryption_key.clone())
            });
            let mut marks = self
                .keyring
                .token()
                .marks_of(keys.collect())
                .await?
                .into_iter();
            let claims: Vec<_> = rows
                .iter()
                .map(|row| {
                    let mark = row.has_encryption_key().then(|| marks.next()).flatten();
                    (row.meter_id.clone(), claim(row, mark))
                })
                .collect();
            for meter_id in self.store.mark(&claims).await? {
                tracing::error!(meter_id, "its encryption key is another meter's, too");
            }
            marked += rows.len();
            tracing::info!(marked, "stored keys get their fingerprints");
        }
        Ok(())
    }
}

impl KeyRow {
    fn has_encryption_key(&self) -> bool {
        !self.wrapped_encryption_key.is_empty()
    }
}

fn claim(row: &KeyRow, marks: Option<Result<hsm::Marks, hsm::Error>>) -> Option<Claim> {
    match marks? {
        Ok(marks) => Some(Claim {
            fingerprint: marks.fingerprint,
            kind: KeyKind::Unicast,
            generation: row.generations.encryption,
        }),
        Err(error) => {
            // It could not be used either.
            tracing::error!(meter_id = row.meter_id, %error, "a stored key has no fingerprint");
            None
        }
    }
}
