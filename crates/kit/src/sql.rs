//! SQL on SQLite (embedded) and PostgreSQL (production), one dialect for both.
//!
//! Placeholders are `$1`, `$2`, ...; types are `BIGINT`, `TEXT` and `BLOB` (`BYTEA` on PostgreSQL); there are no
//! booleans; times are [`crate::clock::micros`].

use std::time::Duration;

use sqlx::{Executor as _, any::AnyPoolOptions};

use crate::{StartError, config};

/// A pool of connections to either database.
pub type Pool = sqlx::AnyPool;

/// One step of a schema. A step that has run is never edited; a new one is added.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Rises by one, from 1.
    pub version: i64,
    /// What it does, in a few words.
    pub name: &'static str,
    /// Statements in the common dialect, each ended by `;` at the end of a line.
    pub sql: &'static str,
}

/// Opens the database and brings its schema up to date. SQLite gets one connection (one writer), the write-ahead log,
/// and a commit that is on the disk when it returns.
///
/// # Errors
/// If it cannot be reached, a migration fails, or the schema is newer than this program.
pub async fn open(
    config: &config::Database,
    migrations: &'static [Migration],
) -> Result<Pool, StartError> {
    sqlx::any::install_default_drivers();
    let sqlite = config.url.starts_with("sqlite:");
    if !sqlite && !config.url.starts_with("postgres:") && !config.url.starts_with("postgresql:") {
        return Err(StartError::msg(
            "[database] url must begin with sqlite: or postgres:",
        ));
    }
    let url = if sqlite && !config.url.contains('?') {
        format!("{}?mode=rwc", config.url)
    } else {
        config.url.clone()
    };
    let pool = AnyPoolOptions::new()
        .max_connections(if sqlite { 1 } else { config.max_connections })
        .acquire_timeout(Duration::from_secs(10))
        .after_connect(move |connection, _| {
            Box::pin(async move {
                if sqlite {
                    connection.execute("PRAGMA journal_mode = WAL").await?;
                    connection.execute("PRAGMA synchronous = FULL").await?;
                    connection.execute("PRAGMA busy_timeout = 5000").await?;
                    connection.execute("PRAGMA foreign_keys = ON").await?;
                }
                Ok(())
            })
        })
        .connect(&url)
        .await
        .map_err(|e| StartError::context("cannot open the database", e))?;
    migrate(&pool, sqlite, migrations).await?;
    Ok(pool)
}

async fn migrate(pool: &Pool, sqlite: bool, migrations: &[Migration]) -> Result<(), StartError> {
    let mut tx = pool.begin().await?;
    if !sqlite {
        // Two replicas may start at once; the lock ends with the transaction.
        tx.execute("SELECT pg_advisory_xact_lock(4059)").await?;
    }
    tx.execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL)")
        .await?;
    let found: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM schema_version")
        .fetch_one(&mut *tx)
        .await?;
    let newest = migrations.last().map_or(0, |migration| migration.version);
    if found > newest {
        return Err(StartError::msg(format!(
            "the database has schema {found}, this program knows {newest}: start the newer program"
        )));
    }
    for migration in migrations
        .iter()
        .filter(|migration| migration.version > found)
    {
        for statement in migration
            .sql
            .split(";\n")
            .map(str::trim)
            .filter(|s| !s.is_empty())
        {
            let statement = statement.trim_end_matches(';');
            let statement = if sqlite {
                statement.to_owned()
            } else {
                statement.replace(" BLOB", " BYTEA")
            };
            // Audited: the text is a migration of ours, compiled in.
            sqlx::query(sqlx::AssertSqlSafe(statement))
                .execute(&mut *tx)
                .await
                .map_err(|e| {
                    StartError::context(
                        format!("migration {} ({})", migration.version, migration.name),
                        e,
                    )
                })?;
        }
        sqlx::query("INSERT INTO schema_version (version, name) VALUES ($1, $2)")
            .bind(migration.version)
            .bind(migration.name)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Whether an error says that a unique key was there already.
#[must_use]
pub fn unique_violation(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Migration = Migration {
        version: 1,
        name: "first",
        sql: "CREATE TABLE t (id BIGINT NOT NULL PRIMARY KEY, body BLOB NOT NULL, name TEXT);\n",
    };
    const TWO: Migration = Migration {
        version: 2,
        name: "second",
        sql: "CREATE INDEX t_name ON t (name);\n",
    };

    fn database(dir: &std::path::Path) -> config::Database {
        config::Database {
            url: format!("sqlite://{}", dir.join("t.db").display()),
            max_connections: 8,
        }
    }

    #[tokio::test]
    async fn migrates_once_and_refuses_the_future() -> Result<(), StartError> {
        let dir = tempfile::tempdir()?;
        let pool = open(&database(dir.path()), &[ONE]).await?;
        sqlx::query("INSERT INTO t (id, body, name) VALUES ($2, $1, $3)")
            .bind(b"abc".as_slice())
            .bind(7_i64)
            .bind(None::<String>)
            .execute(&pool)
            .await?;
        pool.close().await;
        let pool = open(&database(dir.path()), &[ONE, TWO]).await?;
        let (id, body): (i64, Vec<u8>) = sqlx::query_as("SELECT id, body FROM t")
            .fetch_one(&pool)
            .await?;
        assert_eq!((id, body.as_slice()), (7, b"abc".as_slice()));
        let again = sqlx::query("INSERT INTO t (id, body) VALUES (7, $1)")
            .bind(b"".as_slice())
            .execute(&pool)
            .await;
        assert!(again.is_err_and(|e| unique_violation(&e)));
        pool.close().await;
        assert!(
            open(&database(dir.path()), &[ONE])
                .await
                .is_err_and(|e| e.to_string().contains("newer program"))
        );
        Ok(())
    }
}
