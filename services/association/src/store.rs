//! The meter directory in SQL. The only SQL of this service.

use kit::{StartError, clock, config::Database, sql};
use latchkey_proto::{
    association::v1::HdlcOptions,
    custody::v1::{self as custody, Mechanism, Protection},
};
use sqlx::{Row as _, any::AnyRow};

use crate::{
    directory::{Address, Meter, Security, Transport},
    error::Error,
};

static MIGRATIONS: [sql::Migration; 2] = [
    sql::Migration {
        version: 1,
        name: "meter directory",
        sql: include_str!("../migrations/0001_meter.sql"),
    },
    sql::Migration {
        version: 2,
        name: "transport and security of meters",
        sql: include_str!("../migrations/0002_transport.sql"),
    },
];

/// The columns of a meter, in the order in which [`Store::insert`] binds them.
macro_rules! columns {
    () => {
        "meter_id, address, client_sap, server_sap, mechanism, protection, profile, invocation_counter_name, \
         create_time, transport, hdlc_address_octets, hdlc_physical_address, hdlc_max_information, hdlc_window, \
         suite, policy, signed, key_info, algorithm_id, link_mtu, no_release, send_certificate, \
         general_block_transfer"
    };
}

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
        let options = meter.transport.options().unwrap_or_default();
        let security = meter.security;
        let inserted = sqlx::query(concat!(
            "INSERT INTO meter (",
            columns!(),
            ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, \
             $21, $22, $23)"
        ))
        .bind(&meter.id)
        .bind(meter.address.to_string())
        .bind(i64::from(meter.client_sap))
        .bind(i64::from(meter.server_sap))
        .bind(i64::from(i32::from(meter.mechanism)))
        .bind(i64::from(i32::from(meter.protection)))
        .bind(&meter.profile)
        .bind(&meter.invocation_counter_name)
        .bind(clock::micros(meter.create_time))
        .bind(i64::from(i32::from(meter.transport.kind())))
        .bind(i64::from(options.address_octets))
        .bind(i64::from(options.physical_address))
        .bind(i64::from(options.max_information))
        .bind(i64::from(options.window))
        .bind(i64::from(security.suite))
        .bind(i64::from(i32::from(security.policy)))
        .bind(i64::from(security.signed))
        .bind(i64::from(i32::from(security.key_info)))
        .bind(i64::from(i32::from(security.algorithm_id)))
        .bind(i64::from(meter.link_mtu))
        .bind(i64::from(meter.no_release))
        .bind(i64::from(meter.send_certificate))
        .bind(i64::from(meter.general_block_transfer))
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
        let row = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM meter WHERE meter_id = $1"
        ))
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
        let rows = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM meter WHERE address = $1 ORDER BY meter_id LIMIT 2"
        ))
        .bind(address)
        .fetch_all(&self.0)
        .await?;
        rows.iter().map(meter_of).collect()
    }

    /// Who has the address of a meter: a logical device at an address, behind one HDLC device of it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn holder_of(&self, meter: &Meter) -> Result<Option<String>, Error> {
        let row = sqlx::query(
            "SELECT meter_id FROM meter WHERE address = $1 AND server_sap = $2 AND hdlc_physical_address = $3",
        )
        .bind(meter.address.to_string())
        .bind(i64::from(meter.server_sap))
        .bind(i64::from(meter.physical_address()))
        .fetch_optional(&self.0)
        .await?;
        Ok(row.map(|row| row.try_get("meter_id")).transpose()?)
    }

    /// At most `limit` meters in order of their ids, those after `after`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn list(&self, after: &str, limit: u32) -> Result<Vec<Meter>, Error> {
        let rows = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM meter WHERE meter_id > $1 ORDER BY meter_id LIMIT $2"
        ))
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

fn meter_of(row: &AnyRow) -> Result<Meter, Error> {
    let row = Columns {
        meter_id: row.try_get("meter_id")?,
        row,
    };
    let address: String = row.row.try_get("address")?;
    let address = Address::parse(&address).map_err(|_| row.unreadable("address"))?;
    let protection: i32 = row.number("protection")?;
    let options = HdlcOptions {
        address_octets: row.number("hdlc_address_octets")?,
        physical_address: row.number("hdlc_physical_address")?,
        max_information: row.number("hdlc_max_information")?,
        window: row.number("hdlc_window")?,
    };
    let security = custody::Security {
        suite: row.number("suite")?,
        policy: row.number("policy")?,
        signed: row.flag("signed")?,
        key_info: row.number("key_info")?,
        algorithm_id: row.number("algorithm_id")?,
    };
    let protection = Protection::try_from(protection).map_err(|_| row.unreadable("protection"))?;
    let mechanism: i32 = row.number("mechanism")?;
    Ok(Meter {
        address,
        transport: Transport::parse(row.number("transport")?, &options)
            .ok_or_else(|| row.unreadable("transport"))?,
        client_sap: row.number("client_sap")?,
        server_sap: row.number("server_sap")?,
        mechanism: Mechanism::try_from(mechanism).map_err(|_| row.unreadable("mechanism"))?,
        protection,
        security: Security::parse(&security, protection)
            .ok_or_else(|| row.unreadable("security"))?,
        profile: row.row.try_get("profile")?,
        invocation_counter_name: row.row.try_get("invocation_counter_name")?,
        link_mtu: row.number("link_mtu")?,
        no_release: row.flag("no_release")?,
        send_certificate: row.flag("send_certificate")?,
        general_block_transfer: row.flag("general_block_transfer")?,
        create_time: clock::from_micros(row.number("create_time")?),
        id: row.meter_id,
    })
}

/// One row, and the meter that is in it.
struct Columns<'a> {
    meter_id: String,
    row: &'a AnyRow,
}

impl Columns<'_> {
    fn unreadable(&self, what: &str) -> Error {
        Error::Row(format!("{what} of meter {}", self.meter_id))
    }

    fn number<T: TryFrom<i64>>(&self, column: &'static str) -> Result<T, Error> {
        let value: i64 = self.row.try_get(column)?;
        T::try_from(value).map_err(|_| self.unreadable(column))
    }

    fn flag(&self, column: &'static str) -> Result<bool, Error> {
        Ok(self.number::<i64>(column)? != 0)
    }
}

#[cfg(test)]
mod tests {
    use latchkey_proto::association::v1 as pb;

    use super::*;
    use crate::directory::tests::{full, sample};

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
        let other = |server_sap| Meter {
            server_sap,
            ..meter("m-2", "127.10.0.1:4059")
        };
        assert_eq!(
            store.holder_of(&other(1)).await.unwrap().as_deref(),
            Some("m-1")
        );
        assert_eq!(store.holder_of(&other(2)).await.unwrap(), None);
        assert!(store.delete("m-1").await.unwrap());
        assert!(!store.delete("m-1").await.unwrap());
    }

    #[tokio::test]
    async fn every_fact_comes_out() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let parse = |message| Meter::parse(&message, clock::from_micros(7)).unwrap();
        let one = parse(full("m-1"));
        assert!(store.insert(&one).await.unwrap());
        assert_eq!(store.by_id("m-1").await.unwrap(), Some(one));
        // Another device behind the same converter.
        let mut next = full("m-2");
        next.hdlc.as_mut().unwrap().physical_address = 17;
        let next = parse(next);
        assert_eq!(store.holder_of(&next).await.unwrap(), None);
        assert!(store.insert(&next).await.unwrap());
        assert_eq!(store.by_address("127.0.0.1:4059").await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn meters_of_the_first_schema_are_read_as_they_were_meant() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", dir.path().join("association.db").display());
        let config = Database {
            url,
            max_connections: 8,
        };
        let old = sql::open(&config, &MIGRATIONS[..1]).await.unwrap();
        for (id, host, protection) in [("m-1", 1, Protection::Glo), ("m-2", 2, Protection::Plain)] {
            sqlx::query(
                "INSERT INTO meter (meter_id, address, client_sap, server_sap, mechanism, protection, profile, \
                 invocation_counter_name, create_time) VALUES ($1, $2, 1, 1, 3, $3, 'standard', '', 7)",
            )
            .bind(id)
            .bind(format!("127.10.0.{host}:4059"))
            .bind(i64::from(i32::from(protection)))
            .execute(&old)
            .await
            .unwrap();
        }
        old.close().await;
        let store = store(&dir).await;
        let meters = store.list("", 9).await.unwrap();
        let expected = [("m-1", 1, Protection::Glo), ("m-2", 2, Protection::Plain)].map(
            |(id, host, protection)| {
                let message = pb::Meter {
                    protection: protection.into(),
                    invocation_counter_name: String::new(),
                    ..sample(id, &format!("127.10.0.{host}:4059"))
                };
                Meter::parse(&message, clock::from_micros(7)).unwrap()
            },
        );
        assert_eq!(meters, expected);
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
