//! Many rows at one time, and rows by what they are.

use std::collections::{HashMap, HashSet};

use kit::{clock, crash_point};
use latchkey_proto::audit::v1::Entry;
use sqlx::{Any, Row as _, Transaction};

use super::{
    Store,
    fingerprints::{Claim, KeyKind, fingerprint},
    keys::{BOUND, KeyRow, KeyState, Placed, bind_row, change, key_columns, key_row, place},
    outbox::enqueue,
};
use crate::{crash, error::Error};

/// Rows of one statement: 31 arguments each stay far below the 32,766 arguments that SQLite takes.
const ROWS: usize = 128;

/// Which rows are listed. Each part that is not set leaves all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// How they came in; empty for any.
    pub(crate) source: String,
    /// The name of a [`KeyState`]; empty for any.
    pub(crate) state: &'static str,
    /// N of the `kek-..-N` they are under; 0 for any.
    pub(crate) kek_generation: u32,
    /// Stored before this time; 0 for any.
    pub(crate) before_us: i64,
    /// The next invocation counter is at least this.
    pub(crate) counter_min: u32,
}

/// A row to be stored, and the fingerprints of its keys.
pub(crate) struct Arrival {
    pub(crate) row: KeyRow,
    pub(crate) claims: Vec<Claim>,
}

impl Store {
    /// Up to `limit` meters after `after`, by id.
    pub(crate) async fn list_keys(
        &self,
        after: &str,
        limit: u32,
        filter: &Filter,
    ) -> Result<Vec<KeyRow>, Error> {
        sqlx::query(concat!(
            "SELECT ",
            key_columns!(),
            " FROM meter_keys WHERE meter_id > $1 AND ($3 = '' OR source = $3) AND ($4 = '' OR state = $4) \
             AND ($5 = 0 OR kek_generation = $5) AND ($6 = 0 OR create_us < $6) AND next_counter >= $7 \
             ORDER BY meter_id LIMIT $2"
        ))
        .bind(after)
        .bind(i64::from(limit))
        .bind(filter.source.as_str())
        .bind(filter.state)
        .bind(i64::from(filter.kek_generation))
        .bind(filter.before_us)
        .bind(i64::from(filter.counter_min))
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(key_row)
        .collect()
    }

    /// What is held for these meters; those of which nothing is are left out.
    pub(crate) async fn keys_of(&self, meters: &[&str]) -> Result<HashMap<String, KeyRow>, Error> {
        let mut held = HashMap::with_capacity(meters.len());
        for some in meters.chunks(ROWS) {
            let sql = concat!(
                "SELECT ",
                key_columns!(),
                " FROM meter_keys WHERE meter_id IN "
            );
            let sql = format!("{sql}{}", places(0, 1, some.len()));
            // Audited: nothing but numbers of arguments is added to the text.
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for meter in some {
                query = query.bind(*meter);
            }
            for row in query.fetch_all(&self.pool).await? {
                let row = key_row(&row)?;
                held.insert(row.meter_id.clone(), row);
            }
        }
        Ok(held)
    }

    /// Stores the keys of many meters, each once, in one transaction with the entry that reports them, which is made
    /// when it is known what became of each; they are told in the order given. No entry, and nothing is stored.
    pub(crate) async fn insert_many(
        &self,
        arrivals: &[Arrival],
        report: impl FnOnce(&[Placed]) -> Option<Entry>,
    ) -> Result<Vec<Placed>, Error> {
        crash_point(crash::BEFORE_STORE_KEYS);
        let mut tx = self.pool.begin().await?;
        let mut placed = Vec::with_capacity(arrivals.len());
        for some in arrivals.chunks(ROWS) {
            placed.extend(place_some(&mut tx, some).await?);
        }
        let Some(entry) = report(&placed) else {
            tx.rollback().await?;
            return Ok(placed);
        };
        enqueue(&mut tx, &entry).await?;
        tx.commit().await?;
        crash_point(crash::AFTER_STORE_KEYS);
        Ok(placed)
    }

    /// Stores a change of a row that ends every context of the meter, in whichever replica; with the entry that reports
    /// it. With the secrets of the row go those of other generations, if it is destroyed. `false`, and nothing stored,
    /// if somebody changed the row since it was read.
    pub(crate) async fn retire_keys(&self, row: &KeyRow, entry: &Entry) -> Result<bool, Error> {
        crash_point(crash::BEFORE_CHANGE_KEYS);
        let mut tx = self.pool.begin().await?;
        if !change(&mut tx, row).await? {
            tx.rollback().await?;
            return Ok(false);
        }
        sqlx::query("UPDATE meter_keys SET fence = fence + 1 WHERE meter_id = $1")
            .bind(row.meter_id.as_str())
            .execute(&mut *tx)
            .await?;
        if row.state == KeyState::Destroyed {
            sqlx::query("UPDATE meter_keys SET rotation_id = NULL WHERE meter_id = $1")
                .bind(row.meter_id.as_str())
                .execute(&mut *tx)
                .await?;
            sqlx::query(
                "UPDATE rotations SET state = 'abandoned', detail = $2, sealed_send = $3, sealed_confirm = $3, \
                 state_us = $4 WHERE meter_id = $1 AND state IN ('new', 'unsettled')",
            )
            .bind(row.meter_id.as_str())
            .bind("the keys were destroyed")
            .bind([].as_slice())
            .bind(clock::micros(clock::now()))
            .execute(&mut *tx)
            .await?;
            sqlx::query(
                "UPDATE key_generations SET state = 'DESTROYED', secret = $2, seal = $2, state_us = $3 \
                 WHERE meter_id = $1 AND state <> 'DESTROYED'",
            )
            .bind(row.meter_id.as_str())
            .bind([].as_slice())
            .bind(clock::micros(clock::now()))
            .execute(&mut *tx)
            .await?;
            sqlx::query(
                "UPDATE rotations SET state = 'abandoned', detail = $3, sealed_send = $2, sealed_confirm = $2 \
                 WHERE meter_id = $1 AND state IN ('new', 'unsettled')",
            )
            .bind(row.meter_id.as_str())
            .bind([].as_slice())
            .bind("the meter's keys were destroyed")
            .execute(&mut *tx)
            .await?;
        }
        enqueue(&mut tx, entry).await?;
        tx.commit().await?;
        crash_point(crash::AFTER_CHANGE_KEYS);
        Ok(true)
    }
}

/// Those of new meters by one statement each for rows and fingerprints; those that replace destroyed ones one by one.
async fn place_some(
    tx: &mut Transaction<'_, Any>,
    arrivals: &[Arrival],
) -> Result<Vec<Placed>, Error> {
    let new: Vec<&Arrival> = arrivals.iter().filter(|a| a.row.row_version == 0).collect();
    let inserted = insert_new(tx, &new).await?;
    let (there, not): (Vec<&Arrival>, Vec<&Arrival>) = new
        .into_iter()
        .partition(|arrival| inserted.contains(&arrival.row.meter_id));
    let have_keys = meters_with_keys(tx, &not).await?;
    let doubles = claim_all(tx, &there).await?;
    for arrival in there {
        if doubles.contains(&arrival.row.meter_id) {
            take_back(tx, arrival).await?;
        }
    }
    let mut placed = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        let meter_id = &arrival.row.meter_id;
        placed.push(if arrival.row.row_version != 0 {
            replace(tx, arrival).await?
        } else if have_keys.contains(meter_id) {
            Placed::MeterHasKeys
        } else if inserted.contains(meter_id) && !doubles.contains(meter_id) {
            Placed::Stored
        } else {
            Placed::KeyInUse
        });
    }
    Ok(placed)
}

async fn replace(tx: &mut Transaction<'_, Any>, arrival: &Arrival) -> Result<Placed, Error> {
    use sqlx::Connection as _;
    let mut part = tx.begin().await?;
    let placed = place(&mut part, &arrival.row, &arrival.claims).await?;
    if placed == Placed::Stored {
        part.commit().await?;
    } else {
        part.rollback().await?;
    }
    Ok(placed)
}

/// Inserts rows of meters that have none; says of which meters.
async fn insert_new(
    tx: &mut Transaction<'_, Any>,
    arrivals: &[&Arrival],
) -> Result<HashSet<String>, Error> {
    if arrivals.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = concat!("INSERT INTO meter_keys (", key_columns!(), ") VALUES ");
    let tuples: Vec<_> = (0..arrivals.len()).map(row_tuple).collect();
    let sql = format!(
        "{sql}{} ON CONFLICT DO NOTHING RETURNING meter_id",
        tuples.join(", ")
    );
    // Audited: nothing but numbers of arguments is added to the text.
    let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
    for arrival in arrivals {
        query = bind_row(query, &arrival.row);
    }
    query
        .fetch_all(&mut **tx)
        .await?
        .iter()
        .map(|row| Ok(row.try_get("meter_id")?))
        .collect()
}

/// Of rows that were not inserted, those whose meter has keys. Of the others, another row has the same wrapped key.
async fn meters_with_keys(
    tx: &mut Transaction<'_, Any>,
    arrivals: &[&Arrival],
) -> Result<HashSet<String>, Error> {
    if arrivals.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = "SELECT meter_id FROM meter_keys WHERE meter_id IN ";
    let sql = format!("{sql}{}", places(0, 1, arrivals.len()));
    // Audited: nothing but numbers of arguments is added to the text.
    let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
    for arrival in arrivals {
        query = query.bind(arrival.row.meter_id.as_str());
    }
    query
        .fetch_all(&mut **tx)
        .await?
        .iter()
        .map(|row| Ok(row.try_get("meter_id")?))
        .collect()
}

/// Claims the fingerprints of rows that were inserted; says which meters must go again.
async fn claim_all(
    tx: &mut Transaction<'_, Any>,
    arrivals: &[&Arrival],
) -> Result<HashSet<String>, Error> {
    let claims: Vec<(&str, &Claim)> = arrivals
        .iter()
        .flat_map(|arrival| {
            let meter_id = arrival.row.meter_id.as_str();
            arrival.claims.iter().map(move |claim| (meter_id, claim))
        })
        .collect();
    if claims.is_empty() {
        return Ok(HashSet::new());
    }
    let sql =
        "INSERT INTO key_fingerprints (fingerprint, meter_id, kind, generation, create_us) VALUES ";
    let sql = format!("{sql}{} ON CONFLICT DO NOTHING", places(0, claims.len(), 5));
    // Audited: nothing but numbers of arguments is added to the text.
    let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
    let now = clock::micros(clock::now());
    for (meter_id, claim) in &claims {
        query = query
            .bind(claim.fingerprint.as_slice())
            .bind(*meter_id)
            .bind(claim.kind.name())
            .bind(i64::from(claim.generation))
            .bind(now);
    }
    let claimed = query.execute(&mut **tx).await?.rows_affected();
    if usize::try_from(claimed).ok() == Some(claims.len()) {
        return Ok(HashSet::new());
    }
    let sql = "SELECT fingerprint, meter_id, kind, generation, create_us FROM key_fingerprints WHERE fingerprint IN ";
    let sql = format!("{sql}{}", places(0, 1, claims.len()));
    // Audited: nothing but numbers of arguments is added to the text.
    let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
    for (_, claim) in &claims {
        query = query.bind(claim.fingerprint.as_slice());
    }
    let mut there = HashMap::with_capacity(claims.len());
    for row in query.fetch_all(&mut **tx).await? {
        let found = fingerprint(&row)?;
        there.insert(found.fingerprint.clone(), found);
    }
    let refused = claims.into_iter().filter(|(meter_id, claim)| {
        there
            .get(claim.fingerprint.as_slice())
            .is_none_or(|found| !found.allows(meter_id, claim))
    });
    Ok(refused.map(|(meter_id, _)| meter_id.to_owned()).collect())
}

/// Takes a refused row out again, and its claims. The mark of a broadcast key may be another row's, too: it stays.
async fn take_back(tx: &mut Transaction<'_, Any>, arrival: &Arrival) -> Result<(), Error> {
    sqlx::query("DELETE FROM meter_keys WHERE meter_id = $1")
        .bind(arrival.row.meter_id.as_str())
        .execute(&mut **tx)
        .await?;
    let own = |claim: &&Claim| claim.kind == KeyKind::Unicast;
    for claim in arrival.claims.iter().filter(own) {
        sqlx::query(
            "DELETE FROM key_fingerprints WHERE fingerprint = $1 AND meter_id = $2 AND generation = $3",
        )
        .bind(claim.fingerprint.as_slice())
        .bind(arrival.row.meter_id.as_str())
        .bind(i64::from(claim.generation))
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// `($1, .. , $26, 1, NULL, 0, 0, 0, $27, .. $31)`, from the row's number: a new row has version 1, no rotation, no fence
/// and no block of counters.
fn row_tuple(row: usize) -> String {
    let first = row * BOUND;
    let list = |range: std::ops::RangeInclusive<usize>| {
        let numbers: Vec<_> = range.map(|n| format!("${}", first + n)).collect();
        numbers.join(", ")
    };
    format!("({}, 1, NULL, 0, 0, 0, {})", list(1..=26), list(27..=BOUND))
}

/// `rows` tuples of `columns` arguments each, after `before` others.
fn places(before: usize, rows: usize, columns: usize) -> String {
    let tuples: Vec<_> = (0..rows)
        .map(|row| {
            let first = before + row * columns;
            let numbers: Vec<_> = (1..=columns).map(|n| format!("${}", first + n)).collect();
            format!("({})", numbers.join(", "))
        })
        .collect();
    tuples.join(", ")
}

#[cfg(test)]
mod tests;
