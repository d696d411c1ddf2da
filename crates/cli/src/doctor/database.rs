//! Databases: there, and answering.

use std::path::Path;
use std::time::Duration;

use kit::config::Database;
use sqlx::{AnyConnection, Connection as _};

use super::{Finding, files};
use crate::failure::chain;

const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the database a question that changes nothing. A SQLite file that is not there yet is made by the service.
pub(crate) async fn check(service: &str, database: &Database) -> Finding {
    let check = format!("database {service}");
    let (url, shown) = match sqlite_file(&database.url) {
        Some(path) if !path.exists() => return unmade(&check, path),
        Some(path) => {
            let private = files::private(&check, path);
            if private.is_bad() {
                return private;
            }
            // Read only, and the file must be there: looking must not make one.
            (
                format!("sqlite://{}?mode=ro", path.display()),
                path.display().to_string(),
            )
        }
        // The URL may hold a password.
        None => (database.url.clone(), "PostgreSQL".to_owned()),
    };
    match tokio::time::timeout(PATIENCE, answer(&url)).await {
        Ok(Ok(())) => Finding::good(check, format!("{shown} answers")),
        Ok(Err(error)) => Finding::bad(check, format!("{shown}: {}", chain(&error)), mend()),
        Err(_) => Finding::bad(
            check,
            format!("{shown} did not answer within {} s", PATIENCE.as_secs()),
            mend(),
        ),
    }
}

fn mend() -> &'static str {
    "start the database, or correct database.url in the service's configuration"
}

async fn answer(url: &str) -> Result<(), sqlx::Error> {
    sqlx::any::install_default_drivers();
    let mut connection = AnyConnection::connect(url).await?;
    sqlx::query("SELECT 1").execute(&mut connection).await?;
    connection.close().await
}

fn sqlite_file(url: &str) -> Option<&Path> {
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    Some(Path::new(path.split('?').next().unwrap_or(path)))
}

fn unmade(check: &str, path: &Path) -> Finding {
    let folder = path.parent().unwrap_or(path);
    match rustix::fs::access(folder, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Finding::good(
            check,
            format!("{} will be made at the first start", path.display()),
        ),
        Err(error) => Finding::bad(
            check,
            format!(
                "{} is not there and cannot be made: {error}",
                path.display()
            ),
            format!(
                "make the folder {} and give it to the service's user",
                folder.display()
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_urls_name_a_file() {
        assert_eq!(
            sqlite_file("sqlite:///var/lib/x.db?mode=rwc"),
            Some(Path::new("/var/lib/x.db"))
        );
        assert_eq!(sqlite_file("sqlite:x.db"), Some(Path::new("x.db")));
        assert_eq!(sqlite_file("postgres://u@h/d"), None);
    }

    #[test]
    fn a_database_that_can_be_made_is_no_finding() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!unmade("d", &dir.path().join("x.db")).is_bad());
        assert!(unmade("d", Path::new("/nonexistent/x.db")).is_bad());
    }
}
