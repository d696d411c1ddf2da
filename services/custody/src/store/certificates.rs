//! Certificates and revocation lists.

use std::time::SystemTime;

use dlms::Suite;
use kit::clock;
use latchkey_proto::audit::v1::Entry;
use sqlx::{Row as _, any::AnyRow};

use super::{Store, outbox::enqueue};
use crate::{
    certificate::{Authorities, Authority, Kind, List},
    error::Error,
};

/// A certificate that was imported.
#[derive(Debug, Clone)]
pub(crate) struct CertificateRow {
    /// SHA-256 of it, in hexadecimal.
    pub(crate) fingerprint: String,
    pub(crate) kind: Kind,
    /// Empty for an authority.
    pub(crate) meter_id: String,
    pub(crate) suite: Suite,
    pub(crate) not_after: SystemTime,
    pub(crate) der: Vec<u8>,
    pub(crate) create_us: i64,
}

/// Which certificates are listed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// Those of this kind; any.
    pub(crate) kind: Option<Kind>,
    /// Those of this meter; empty for any.
    pub(crate) meter_id: String,
    /// Those that end before this time.
    pub(crate) ends_before: Option<SystemTime>,
}

const COLUMNS: &str = "fingerprint, kind, meter_id, security_suite, not_after_us, der, create_us";

impl Store {
    /// Stores a certificate with the entry that reports it. `false`, and nothing stored, if it is there.
    pub(crate) async fn insert_certificate(
        &self,
        row: &CertificateRow,
        entry: &Entry,
    ) -> Result<bool, Error> {
        let mut tx = self.pool.begin().await?;
        let stored = sqlx::query(
            "INSERT INTO certificates (fingerprint, kind, meter_id, security_suite, not_after_us, der, create_us) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        )
        .bind(row.fingerprint.as_str())
        .bind(row.kind.name())
        .bind(row.meter_id.as_str())
        .bind(i64::from(row.suite.id()))
        .bind(clock::micros(row.not_after))
        .bind(row.der.as_slice())
        .bind(row.create_us)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if stored == 0 {
            tx.rollback().await?;
            return Ok(false);
        }
        enqueue(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Forgets a certificate, with the entry that reports it. `false` if it was not there.
    pub(crate) async fn delete_certificate(
        &self,
        fingerprint: &str,
        entry: &Entry,
    ) -> Result<bool, Error> {
        let mut tx = self.pool.begin().await?;
        let deleted = sqlx::query("DELETE FROM certificates WHERE fingerprint = $1")
            .bind(fingerprint)
            .execute(&mut *tx)
            .await?
            .rows_affected();
        if deleted == 0 {
            tx.rollback().await?;
            return Ok(false);
        }
        enqueue(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// One certificate.
    pub(crate) async fn certificate(
        &self,
        fingerprint: &str,
    ) -> Result<Option<CertificateRow>, Error> {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM certificates WHERE fingerprint = $1"
        )))
        .bind(fingerprint)
        .fetch_optional(&self.pool)
        .await?
        .map(|row| certificate_row(&row))
        .transpose()
    }

    /// The certificates of a meter for one use, the youngest first.
    pub(crate) async fn meter_certificates(
        &self,
        meter_id: &str,
        kind: Kind,
    ) -> Result<Vec<CertificateRow>, Error> {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM certificates WHERE meter_id = $1 AND kind = $2 \
             ORDER BY create_us DESC, fingerprint LIMIT 16"
        )))
        .bind(meter_id)
        .bind(kind.name())
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(certificate_row)
        .collect()
    }

    /// Up to `limit` certificates after the one with this fingerprint, by fingerprint.
    pub(crate) async fn list_certificates(
        &self,
        wanted: &Wanted,
        after: &str,
        limit: u32,
    ) -> Result<Vec<CertificateRow>, Error> {
        let ends_before = wanted.ends_before.map_or(i64::MAX, clock::micros);
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM certificates WHERE fingerprint > $1 AND ($2 = '' OR kind = $2) \
             AND ($3 = '' OR meter_id = $3) AND not_after_us < $4 ORDER BY fingerprint LIMIT $5"
        )))
        .bind(after)
        .bind(wanted.kind.map_or("", Kind::name))
        .bind(wanted.meter_id.as_str())
        .bind(ends_before)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(certificate_row)
        .collect()
    }

    /// How many certificates end before this time.
    pub(crate) async fn certificates_ending(&self, before: SystemTime) -> Result<i64, Error> {
        let row = sqlx::query("SELECT COUNT(*) AS found FROM certificates WHERE not_after_us < $1")
            .bind(clock::micros(before))
            .fetch_one(&self.pool)
            .await?;
        Ok(row.try_get("found")?)
    }

    /// All that chains are built of.
    pub(crate) async fn authorities(&self) -> Result<Authorities, Error> {
        let all = sqlx::query(
            "SELECT fingerprint, kind, der FROM certificates WHERE kind = 'ANCHOR' OR kind = 'AUTHORITY' \
             ORDER BY fingerprint",
        )
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(|row| {
            Ok(Authority {
                fingerprint: row.try_get("fingerprint")?,
                anchor: row.try_get::<String, _>("kind")? == Kind::Anchor.name(),
                der: row.try_get("der")?,
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
        Ok(Authorities {
            all,
            ..Authorities::default()
        })
    }

    /// Adds which of these serial numbers are revoked, whoever issued them.
    pub(crate) async fn add_revoked(
        &self,
        authorities: &mut Authorities,
        serials: &[String],
    ) -> Result<(), Error> {
        for serial in serials {
            let rows = sqlx::query(
                "SELECT issuer, revoke_us FROM revoked_certificates WHERE serial = $1 LIMIT 100",
            )
            .bind(serial.as_str())
            .fetch_all(&self.pool)
            .await?;
            for row in rows {
                let key = (row.try_get("issuer")?, serial.clone());
                authorities.revoked.insert(key, row.try_get("revoke_us")?);
            }
        }
        Ok(())
    }

    /// Takes a revocation list in the place of the one of the same authority, with the entry that reports it. `false`,
    /// and nothing changed, if a later one is there.
    pub(crate) async fn store_revocations(
        &self,
        list: &List,
        entry: &Entry,
    ) -> Result<bool, Error> {
        let mut tx = self.pool.begin().await?;
        let stored = sqlx::query(
            "INSERT INTO revocation_lists (issuer, this_update_us, next_update_us, create_us) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (issuer) DO UPDATE SET this_update_us = excluded.this_update_us, \
             next_update_us = excluded.next_update_us, create_us = excluded.create_us \
             WHERE revocation_lists.this_update_us <= excluded.this_update_us",
        )
        .bind(list.issuer.as_str())
        .bind(clock::micros(list.this_update))
        .bind(clock::micros(list.next_update))
        .bind(clock::micros(clock::now()))
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if stored == 0 {
            tx.rollback().await?;
            return Ok(false);
        }
        sqlx::query("DELETE FROM revoked_certificates WHERE issuer = $1")
            .bind(list.issuer.as_str())
            .execute(&mut *tx)
            .await?;
        for (serial, since) in &list.revoked {
            sqlx::query(
                "INSERT INTO revoked_certificates (issuer, serial, revoke_us) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            )
            .bind(list.issuer.as_str())
            .bind(serial.as_str())
            .bind(clock::micros(*since))
            .execute(&mut *tx)
            .await?;
        }
        enqueue(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(true)
    }
}

fn certificate_row(row: &AnyRow) -> Result<CertificateRow, Error> {
    let kind: String = row.try_get("kind")?;
    let suite = row.try_get::<i64, _>("security_suite")?;
    Ok(CertificateRow {
        fingerprint: row.try_get("fingerprint")?,
        kind: Kind::ALL
            .into_iter()
            .find(|known| known.name() == kind)
            .ok_or(Error::RowInvalid { column: "kind" })?,
        meter_id: row.try_get("meter_id")?,
        suite: u8::try_from(suite)
            .ok()
            .and_then(Suite::from_id)
            .ok_or(Error::RowInvalid {
                column: "security_suite",
            })?,
        not_after: clock::from_micros(row.try_get("not_after_us")?),
        der: row.try_get("der")?,
        create_us: row.try_get("create_us")?,
    })
}
