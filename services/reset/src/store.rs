//! The reset service's rows: the only SQL of this crate.
//!
//! A transition is one transaction: the machine's new state, the lines of its story, its readings, and what it owes to
//! the trail. Its effect begins after the commit. `version` keeps a second process from driving the same reset.

mod rotations;

use kit::{
    clock, crash_point,
    sql::{Migration, Pool, unique_violation},
};
use machine::{Event, Mark, Moment, Reset, Snapshot, Tier};
use sqlx::{Any, Row as _, Transaction, any::AnyRow};

pub(crate) use self::rotations::CreatedRotation;
use crate::{crash, error::Error};

/// The schema.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "first",
        sql: include_str!("../migrations/0001_first.sql"),
    },
    Migration {
        version: 2,
        name: "denials",
        sql: include_str!("../migrations/0002_denials.sql"),
    },
    Migration {
        version: 3,
        name: "rotations",
        sql: include_str!("../migrations/0003_rotations.sql"),
    },
];

/// The columns of [`Row`], in no particular order.
macro_rules! columns {
    () => {
        "reset_id, request_id, request_digest, meter_id, tier, reason, ticket, principal, profile, phase, verdict, \
         detail, exit_code, machine, permit, association_id, version, last_sequence, create_us, update_us"
    };
}

/// Denials that may wait for the auditor: callers must not fill the database with what is refused.
const DENIALS_MAX: i64 = 10_000;
/// Denials that are read at once.
const DENIALS_PAGE: i64 = 100;

/// Longest detail that goes out.
const DETAIL_MAX: usize = 1024;

/// What a reset was asked for, and by whom. It never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) reset_id: String,
    pub(crate) request_id: String,
    /// SHA-256 of the request and its caller.
    pub(crate) request_digest: Vec<u8>,
    pub(crate) meter_id: String,
    pub(crate) tier: Tier,
    pub(crate) reason: String,
    pub(crate) ticket: String,
    pub(crate) principal: String,
    pub(crate) profile: String,
}

/// One reset as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) order: Order,
    pub(crate) machine: Reset,
    /// The signed permit of the present attempt, encoded; empty if there is none.
    pub(crate) permit: Vec<u8>,
    /// The association of the present attempt; empty if none is known.
    pub(crate) association_id: String,
    pub(crate) version: i64,
    pub(crate) last_sequence: i64,
    pub(crate) create_us: i64,
    pub(crate) update_us: i64,
}

/// One line of a story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoryLine {
    pub(crate) sequence: i64,
    pub(crate) time_us: i64,
    pub(crate) kind: String,
    pub(crate) text: String,
}

/// An entry that the trail does not hold yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) request_id: String,
    pub(crate) entry: Vec<u8>,
}

/// What came of creating.
#[derive(Debug)]
pub(crate) enum Created {
    /// It is there now.
    New,
    /// The request id is known.
    Known(Box<Row>),
    /// The meter has another reset under way.
    UnderWay(String),
}

/// The database.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pool: Pool,
}

impl Store {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Creates a reset and the first lines of its story.
    pub(crate) async fn create(
        &self,
        order: &Order,
        machine: &Reset,
        marks: &[Mark],
    ) -> Result<Created, Error> {
        let now = clock::micros(clock::now());
        crash_point(crash::BEFORE_CREATE);
        let mut tx = self.pool.begin().await?;
        let inserted = insert(&mut tx, order, machine, now).await;
        match inserted {
            Ok(()) => {}
            Err(Error::Store(error)) if unique_violation(&error) => {
                tx.rollback().await?;
                return self.collision(order).await;
            }
            Err(error) => return Err(error),
        }
        let events = marks.iter().filter_map(event);
        tell(&mut tx, &order.reset_id, 0, now, events).await?;
        tx.commit().await?;
        crash_point(crash::AFTER_CREATE);
        Ok(Created::New)
    }

    async fn collision(&self, order: &Order) -> Result<Created, Error> {
        if let Some(row) = self.by_request(&order.request_id).await? {
            return Ok(Created::Known(Box::new(row)));
        }
        let other: Option<String> =
            sqlx::query_scalar("SELECT reset_id FROM resets WHERE meter_id = $1 AND active = 1")
                .bind(&order.meter_id)
                .fetch_optional(&self.pool)
                .await?;
        // It ended between the two statements: the caller may try again.
        Ok(Created::UnderWay(other.unwrap_or_default()))
    }

    /// A reset by its id.
    pub(crate) async fn load(&self, reset_id: &str) -> Result<Option<Row>, Error> {
        let row = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM resets WHERE reset_id = $1"
        ))
        .bind(reset_id)
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(read).transpose()
    }

    /// A reset by the request that created it.
    pub(crate) async fn by_request(&self, request_id: &str) -> Result<Option<Row>, Error> {
        let row = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM resets WHERE request_id = $1"
        ))
        .bind(request_id)
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(read).transpose()
    }

    /// Every reset that has not ended, oldest first.
    pub(crate) async fn unfinished(&self) -> Result<Vec<Row>, Error> {
        let rows = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM resets WHERE active = 1 ORDER BY reset_id"
        ))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Resets before one, newest first: ids are UUIDs of version 7, so their order is that of time.
    pub(crate) async fn list(
        &self,
        meter_id: &str,
        before: &str,
        limit: i64,
    ) -> Result<Vec<Row>, Error> {
        let rows = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM resets WHERE ($1 = '' OR meter_id = $1) AND ($2 = '' OR reset_id < $2) \
             ORDER BY reset_id DESC LIMIT $3"
        ))
        .bind(meter_id)
        .bind(before)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Lines of a story after a sequence number.
    pub(crate) async fn story(
        &self,
        reset_id: &str,
        after: i64,
        limit: i64,
    ) -> Result<Vec<StoryLine>, Error> {
        let rows = sqlx::query(
            "SELECT sequence, time_us, kind, body FROM events WHERE reset_id = $1 AND sequence > $2 \
             ORDER BY sequence LIMIT $3",
        )
        .bind(reset_id)
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        let line = |row: &AnyRow| {
            Ok(StoryLine {
                sequence: row.try_get("sequence")?,
                time_us: row.try_get("time_us")?,
                kind: row.try_get("kind")?,
                text: row.try_get("body")?,
            })
        };
        rows.iter().map(line).collect()
    }

    /// The logical device name the meter showed first, since it was enrolled.
    pub(crate) async fn identity(
        &self,
        meter_id: &str,
        since_us: i64,
    ) -> Result<Option<String>, Error> {
        Ok(sqlx::query_scalar(
            "SELECT identity FROM snapshots WHERE meter_id = $1 AND taken_us >= $2 AND moment = 'before' \
             ORDER BY taken_us LIMIT 1",
        )
        .bind(meter_id)
        .bind(since_us)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// Stores a transition. `row` becomes what is stored.
    pub(crate) async fn commit(
        &self,
        row: &mut Row,
        marks: &[Mark],
        records: &[Pending],
    ) -> Result<(), Error> {
        let now = clock::micros(clock::now());
        crash_point(crash::BEFORE_COMMIT);
        let mut tx = self.pool.begin().await?;
        let events: Vec<&Event> = marks.iter().filter_map(event).collect();
        let last_sequence = row.last_sequence + i64::try_from(events.len()).unwrap_or(0);
        if update(&mut tx, row, last_sequence, now).await? == 0 {
            return Err(Error::Stolen(row.order.reset_id.clone()));
        }
        tell(&mut tx, &row.order.reset_id, row.last_sequence, now, events).await?;
        for mark in marks {
            if let Mark::Snapshot(moment, snapshot) = mark {
                keep(&mut tx, row, *moment, snapshot).await?;
            }
        }
        for (position, record) in records.iter().enumerate() {
            owe(&mut tx, row, position, record).await?;
        }
        tx.commit().await?;
        crash_point(crash::AFTER_COMMIT);
        row.version += 1;
        row.last_sequence = last_sequence;
        row.update_us = now;
        Ok(())
    }

    /// What a reset owes to the trail, in order.
    pub(crate) async fn pending(&self, reset_id: &str) -> Result<Vec<Pending>, Error> {
        let rows = sqlx::query(
            "SELECT request_id, entry FROM records WHERE reset_id = $1 AND leaf_index IS NULL ORDER BY number",
        )
        .bind(reset_id)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(pending).collect()
    }

    /// The trail holds an entry.
    pub(crate) async fn receipt(&self, request_id: &str, leaf_index: u64) -> Result<(), Error> {
        sqlx::query("UPDATE records SET leaf_index = $2 WHERE request_id = $1")
            .bind(request_id)
            .bind(i64::try_from(leaf_index).unwrap_or(i64::MAX))
            .execute(&self.pool)
            .await?;
        crash_point(crash::AFTER_RECEIPT);
        Ok(())
    }

    /// Keeps a denial until the trail has it; whether there was room for it.
    pub(crate) async fn owe_denial(&self, denial: &Pending) -> Result<bool, Error> {
        let waiting: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM denials")
            .fetch_one(&self.pool)
            .await?;
        if waiting >= DENIALS_MAX {
            return Ok(false);
        }
        sqlx::query("INSERT INTO denials (request_id, create_us, entry) VALUES ($1, $2, $3)")
            .bind(&denial.request_id)
            .bind(clock::micros(clock::now()))
            .bind(denial.entry.as_slice())
            .execute(&self.pool)
            .await?;
        Ok(true)
    }

    /// The oldest denials that the trail does not hold.
    pub(crate) async fn denials(&self) -> Result<Vec<Pending>, Error> {
        let rows = sqlx::query(
            "SELECT request_id, entry FROM denials ORDER BY create_us, request_id LIMIT $1",
        )
        .bind(DENIALS_PAGE)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(pending).collect()
    }

    /// The trail holds a denial.
    pub(crate) async fn denial_told(&self, request_id: &str) -> Result<(), Error> {
        sqlx::query("DELETE FROM denials WHERE request_id = $1")
            .bind(request_id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The leaf of the newest entry a reset has in the trail.
    pub(crate) async fn last_leaf(&self, reset_id: &str) -> Result<Option<u64>, Error> {
        let leaf: Option<i64> = sqlx::query_scalar(
            "SELECT leaf_index FROM records WHERE reset_id = $1 AND leaf_index IS NOT NULL ORDER BY number DESC LIMIT 1",
        )
        .bind(reset_id)
        .fetch_optional(&self.pool)
        .await?;
        Ok(leaf.and_then(|leaf| u64::try_from(leaf).ok()))
    }
}

fn pending(row: &AnyRow) -> Result<Pending, Error> {
    Ok(Pending {
        request_id: row.try_get("request_id")?,
        entry: row.try_get("entry")?,
    })
}

fn event(mark: &Mark) -> Option<&Event> {
    match mark {
        Mark::Event(event) => Some(event),
        Mark::Snapshot(..) | Mark::Record(_) => None,
    }
}

async fn insert(
    tx: &mut Transaction<'_, Any>,
    order: &Order,
    machine: &Reset,
    now: i64,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO resets (reset_id, request_id, request_digest, meter_id, tier, reason, ticket, principal, profile, \
         active, phase, verdict, detail, exit_code, machine, permit, association_id, version, last_sequence, \
         create_us, update_us) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, $10, '', '', 0, $11, $12, '', 0, 1, $13, $13)",
    )
    .bind(&order.reset_id)
    .bind(&order.request_id)
    .bind(order.request_digest.as_slice())
    .bind(&order.meter_id)
    .bind(tier_number(order.tier))
    .bind(&order.reason)
    .bind(&order.ticket)
    .bind(&order.principal)
    .bind(&order.profile)
    .bind(name(machine.phase())?)
    .bind(encode(machine)?)
    .bind([].as_slice())
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn update(
    tx: &mut Transaction<'_, Any>,
    row: &Row,
    last_sequence: i64,
    now: i64,
) -> Result<u64, Error> {
    let outcome = row.machine.outcome();
    let verdict = outcome
        .and_then(|outcome| outcome.verdict)
        .map_or("", machine::Verdict::name);
    let detail: String = outcome
        .map_or("", |outcome| &outcome.detail)
        .chars()
        .take(DETAIL_MAX)
        .collect();
    let done = sqlx::query(
        "UPDATE resets SET active = $3, phase = $4, verdict = $5, detail = $6, exit_code = $7, machine = $8, \
         permit = $9, association_id = $10, last_sequence = $11, update_us = $12, version = version + 1 \
         WHERE reset_id = $1 AND version = $2",
    )
    .bind(&row.order.reset_id)
    .bind(row.version)
    .bind(i64::from(outcome.is_none()))
    .bind(name(row.machine.phase())?)
    .bind(verdict)
    .bind(detail)
    .bind(outcome.map_or(0, |outcome| i64::from(outcome.exit_code())))
    .bind(encode(&row.machine)?)
    .bind(row.permit.as_slice())
    .bind(&row.association_id)
    .bind(last_sequence)
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected())
}

async fn tell(
    tx: &mut Transaction<'_, Any>,
    reset_id: &str,
    after: i64,
    now: i64,
    events: impl IntoIterator<Item = &Event>,
) -> Result<(), Error> {
    let mut sequence = after;
    for event in events {
        sequence += 1;
        let text: String = event.text.chars().take(DETAIL_MAX).collect();
        sqlx::query("INSERT INTO events (reset_id, sequence, time_us, kind, body) VALUES ($1, $2, $3, $4, $5)")
            .bind(reset_id)
            .bind(sequence)
            .bind(now)
            .bind(event.kind.name())
            .bind(text)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

async fn keep(
    tx: &mut Transaction<'_, Any>,
    row: &Row,
    moment: Moment,
    snapshot: &Snapshot,
) -> Result<(), Error> {
    let body = serde_json::to_string(snapshot).map_err(|error| Error::Row(error.to_string()))?;
    sqlx::query(
        "INSERT INTO snapshots (reset_id, version, moment, meter_id, identity, taken_us, body) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(&row.order.reset_id)
    .bind(row.version)
    .bind(moment.name())
    .bind(&row.order.meter_id)
    .bind(snapshot.identity.clone().unwrap_or_default())
    .bind(i64::try_from(snapshot.taken_at.0.saturating_mul(1000)).unwrap_or(i64::MAX))
    .bind(body)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn owe(
    tx: &mut Transaction<'_, Any>,
    row: &Row,
    position: usize,
    record: &Pending,
) -> Result<(), Error> {
    // Versions rise by one per transition; a transition owes a handful of entries at most.
    let number = row.version * 1000 + i64::try_from(position).unwrap_or(999);
    sqlx::query(
        "INSERT INTO records (reset_id, request_id, number, entry) VALUES ($1, $2, $3, $4)",
    )
    .bind(&row.order.reset_id)
    .bind(&record.request_id)
    .bind(number)
    .bind(record.entry.as_slice())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn read(row: &AnyRow) -> Result<Row, Error> {
    let machine: String = row.try_get("machine")?;
    let tier: i64 = row.try_get("tier")?;
    Ok(Row {
        order: Order {
            reset_id: row.try_get("reset_id")?,
            request_id: row.try_get("request_id")?,
            request_digest: row.try_get("request_digest")?,
            meter_id: row.try_get("meter_id")?,
            tier: tier_of(tier).ok_or_else(|| Error::Row(format!("tier {tier}")))?,
            reason: row.try_get("reason")?,
            ticket: row.try_get("ticket")?,
            principal: row.try_get("principal")?,
            profile: row.try_get("profile")?,
        },
        machine: serde_json::from_str(&machine).map_err(|error| Error::Row(error.to_string()))?,
        permit: row.try_get("permit")?,
        association_id: row.try_get("association_id")?,
        version: row.try_get("version")?,
        last_sequence: row.try_get("last_sequence")?,
        create_us: row.try_get("create_us")?,
        update_us: row.try_get("update_us")?,
    })
}

fn encode(machine: &Reset) -> Result<String, Error> {
    serde_json::to_string(machine).map_err(|error| Error::Row(error.to_string()))
}

/// A phase by its name, for people who look into the table.
fn name(phase: machine::Phase) -> Result<String, Error> {
    match serde_json::to_value(phase) {
        Ok(serde_json::Value::String(name)) => Ok(name),
        _ => Err(Error::Row("a phase without a name".to_owned())),
    }
}

fn tier_number(tier: Tier) -> i64 {
    match tier {
        Tier::Soft => 1,
        Tier::Warm => 2,
        Tier::Cold => 3,
    }
}

fn tier_of(number: i64) -> Option<Tier> {
    match number {
        1 => Some(Tier::Soft),
        2 => Some(Tier::Warm),
        3 => Some(Tier::Cold),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
