//! The meter directory in SQL. The only SQL of this service.

use kit::{StartError, clock, config::Database, sql};
use latchkey_proto::custody::v1::{Mechanism, Protection};
use sqlx::Row as _;

use crate::{directory::Meter, error::Error};

static MIGRATIONS: [sql::Migration; 1] = [sql::Migration {
    version: 1,
    name: "meter directory",
    sql: include_str!("../migrations/0001_meter.sql"),
}];

/// The directory.
#[derive(Debug, Clone)]
pub struct Store(sql::Pool);

impl Store {
    /// Opens the database.
    ///
    /// # Errors
    /// If it cannot be opened or migrated.
    pub async fn open(config: &Database) -> Result<Self, StartError> {
        sql::open(config, &MIGRATIONS).await.map(Self)
    }

    /// Inserts a meter. `false` if the id, or the address with this logical device, is there already.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn insert(&self, meter: &Meter) -> Result<bool, Error> {
        let inserted = sqlx::query(
            "INSERT INTO meter (meter_id, address, client_sap, server_sap, mechanism, protection, profile, \
             invocation_counter_name, create_time) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(&meter.id)
        .bind(meter.address.to_string())
        .bind(i64::from(meter.client_sap))
        .bind(i64::from(meter.server_sap))
        .bind(i64::from(i32::from(meter.mechanism)))
        .bind(i64::from(i32::from(meter.protection)))
        .bind(&meter.profile)
        .bind(&meter.invocation_counter_name)
        .bind(clock::micros(meter.create_time))
        .execute(&self.0)
        .await;
        match inserted {
            Ok(_) => Ok(true),
            Err(error) if sql::unique_violation(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// One meter.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn by_id(&self, meter_id: &str) -> Result<Option<Meter>, Error> {
        let row = sqlx::query(
            "SELECT meter_id, address, client_sap, server_sap, mechanism, protection, profile, \
             invocation_counter_name, create_time FROM meter WHERE meter_id = $1",
        )
        .bind(meter_id)
        .fetch_optional(&self.0)
        .await?;
        row.as_ref().map(meter_of).transpose()
    }

    /// The meters at an address, at most two: one is an answer, two are one too many.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn by_address(&self, address: &str) -> Result<Vec<Meter>, Error> {
        let rows = sqlx::query(
            "SELECT meter_id, address, client_sap, server_sap, mechanism, protection, profile, \
             invocation_counter_name, create_time FROM meter WHERE address = $1 ORDER BY meter_id LIMIT 2",
        )
        .bind(address)
        .fetch_all(&self.0)
        .await?;
        rows.iter().map(meter_of).collect()
    }

    /// Who has an address and logical device.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn holder_of(&self, address: &str, server_sap: u16) -> Result<Option<String>, Error> {
        let row = sqlx::query("SELECT meter_id FROM meter WHERE address = $1 AND server_sap = $2")
            .bind(address)
            .bind(i64::from(server_sap))
            .fetch_optional(&self.0)
            .await?;
        Ok(row.map(|row| row.try_get("meter_id")).transpose()?)
    }

    /// At most `limit` meters in order of their ids, those after `after`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn list(&self, after: &str, limit: u32) -> Result<Vec<Meter>, Error> {
        let rows = sqlx::query(
            "SELECT meter_id, address, client_sap, server_sap, mechanism, protection, profile, \
             invocation_counter_name, create_time FROM meter WHERE meter_id > $1 ORDER BY meter_id LIMIT $2",
        )
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.0)
        .await?;
        rows.iter().map(meter_of).collect()
    }

    /// Removes a meter; `false` if it was not there.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete(&self, meter_id: &str) -> Result<bool, Error> {
        let done = sqlx::query("DELETE FROM meter WHERE meter_id = $1")
            .bind(meter_id)
            .execute(&self.0)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Waits for running statements and closes.
    pub async fn close(&self) {
        self.0.close().await;
    }
}

fn meter_of(row: &sqlx::any::AnyRow) -> Result<Meter, Error> {
    let id: String = row.try_get("meter_id")?;
    let unreadable = |what: &str| Error::Row(format!("{what} of meter {id}"));
    let number = |column: &'static str| row.try_get::<i64, _>(column);
    let address: String = row.try_get("address")?;
    let kind = |value: i64| i32::try_from(value).ok();
    Ok(Meter {
        address: address.parse().map_err(|_| unreadable("address"))?,
        client_sap: number("client_sap")?
            .try_into()
            .map_err(|_| unreadable("client_sap"))?,
        server_sap: number("server_sap")?
            .try_into()
            .map_err(|_| unreadable("server_sap"))?,
        mechanism: kind(number("mechanism")?)
            .and_then(|value| Mechanism::try_from(value).ok())
            .ok_or_else(|| unreadable("mechanism"))?,
        protection: kind(number("protection")?)
            .and_then(|value| Protection::try_from(value).ok())
            .ok_or_else(|| unreadable("protection"))?,
        profile: row.try_get("profile")?,
        invocation_counter_name: row.try_get("invocation_counter_name")?,
        create_time: clock::from_micros(number("create_time")?),
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::tests::sample;

    async fn store(dir: &tempfile::TempDir) -> Store {
        let url = format!("sqlite://{}", dir.path().join("association.db").display());
        Store::open(&Database {
            url,
            max_connections: 8,
        })
        .await
        .unwrap()
    }

    fn meter(id: &str, address: &str) -> Meter {
        Meter::parse(
            &sample(id, address),
            clock::from_micros(1_700_000_000_000_007),
        )
        .unwrap()
    }

    #[tokio::test]
    async fn what_goes_in_comes_out() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let one = meter("m-1", "127.10.0.1:4059");
        assert!(store.insert(&one).await.unwrap());
        assert!(!store.insert(&one).await.unwrap(), "the id is taken");
        assert!(
            !store
                .insert(&meter("m-2", "127.10.0.1:4059"))
                .await
                .unwrap(),
            "the address is taken"
        );
        assert_eq!(store.by_id("m-1").await.unwrap(), Some(one.clone()));
        assert_eq!(store.by_id("m-2").await.unwrap(), None);
        assert_eq!(store.by_address("127.10.0.1:4059").await.unwrap(), [one]);
        assert_eq!(
            store
                .holder_of("127.10.0.1:4059", 1)
                .await
                .unwrap()
                .as_deref(),
            Some("m-1")
        );
        assert_eq!(store.holder_of("127.10.0.1:4059", 2).await.unwrap(), None);
        assert!(store.delete("m-1").await.unwrap());
        assert!(!store.delete("m-1").await.unwrap());
    }

    #[tokio::test]
    async fn lists_by_page() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        for n in 0..5 {
            assert!(
                store
                    .insert(&meter(
                        &format!("m-{n}"),
                        &format!("127.10.0.{}:4059", n + 1)
                    ))
                    .await
                    .unwrap()
            );
        }
        let ids = |page: Vec<Meter>| page.into_iter().map(|meter| meter.id).collect::<Vec<_>>();
        assert_eq!(ids(store.list("", 2).await.unwrap()), ["m-0", "m-1"]);
        assert_eq!(
            ids(store.list("m-1", 10).await.unwrap()),
            ["m-2", "m-3", "m-4"]
        );
        assert!(store.list("m-4", 10).await.unwrap().is_empty());
    }
}
