//! A database that went back: restored from a backup, or failed over to a copy that lags.
//!
//! Its counters were used already. How far each meter came is not known here, so every counter of every key is raised
//! by a gap (`counter_restore_gap`), in one statement, before any is given out; those that are known to have come
//! further, to where they came. It is in the trail, in the log, and custody is not healthy until it is done. Two things
//! show it: the file beside the database ([`crate::memory`]), and a block that begins below one that this process took.

use std::time::Duration;

use kit::Shutdown;
use latchkey_proto::audit::v1::{Entry, EntryKind};

use crate::{
    custody::Custody,
    error::Error,
    memory::{Recall, Witness},
    metrics,
    store::{Floor, Source, Standing, Store},
    trail,
};

/// How often the database is asked whether it still knows what was reserved.
const CHECK: Duration = Duration::from_secs(2);
/// How many of the newest blocks are asked for while custody runs. At the start, all that are remembered.
const NEWEST: usize = 8;
/// More than are ever remembered.
const ALL: usize = 1024;

/// Before a replica serves: raises every counter if the database went back, or may have. Whether it did.
pub(crate) async fn at_start(store: &Store, recall: &Recall, gap: u32) -> Result<bool, Error> {
    let why = match recall {
        Recall::Off => {
            tracing::warn!(
                "counter_state_file is not set: a restored database will not be noticed, and its counters repeat"
            );
            None
        }
        Recall::Nothing if store.is_used().await? => Some(
            "this replica remembers nothing of the counters of this database, and they were used"
                .to_owned(),
        ),
        Recall::Nothing => None,
        Recall::Witnesses(witnesses) => behind(store, witnesses).await?,
    };
    let Some(why) = why else { return Ok(false) };
    let known = match recall {
        Recall::Witnesses(witnesses) => witnesses.as_slice(),
        Recall::Off | Recall::Nothing => &[],
    };
    raise(store, known, &why, gap).await?;
    Ok(true)
}

/// What shows that the database went back; none if nothing does.
async fn behind(store: &Store, witnesses: &[Witness]) -> Result<Option<String>, Error> {
    for it in witnesses {
        let why = match store.standing(&it.meter_id, it.generation).await? {
            Standing::Next(next) if next < it.end => format!(
                "the database went back: invocation counters of meter {} were reserved up to {}, and it says {next}",
                it.meter_id, it.end
            ),
            Standing::Unknown => format!(
                "the database went back: it does not know the key of meter {} that counters were reserved of",
                it.meter_id
            ),
            Standing::Next(_) | Standing::Over => continue,
        };
        return Ok(Some(why));
    }
    Ok(None)
}

/// Raises every counter, and those that are known to have come further to where they came.
async fn raise(store: &Store, known: &[Witness], why: &str, gap: u32) -> Result<(), Error> {
    let entry = |detail: String, meter_id: &str| -> Entry {
        trail::entry(EntryKind::Key, "", meter_id, detail)
    };
    let detail = format!("{why}; every invocation counter is raised by {gap}");
    let meters = store.raise_all(gap, &entry(detail, "")).await?;
    metrics::counters_raised("restore");
    tracing::error!(why, gap, meters, "every invocation counter was raised");
    for it in known {
        let floor = Floor {
            meter_id: &it.meter_id,
            generation: it.generation,
            at_least: it.end,
            source: Source::Certain,
            hint_max: 0,
        };
        let raised = store.raise_floor(floor, |from| {
            let detail = format!(
                "{} invocation counters more than the gap were used: raised from {from} to {}",
                it.end.saturating_sub(from),
                it.end
            );
            entry(detail, &it.meter_id)
        });
        match raised.await {
            // Of a key that is not in use, or that this database does not know, none can be had.
            Ok(_) | Err(Error::KeysUnknown { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Custody {
    /// Looks again and again whether the database still knows what was reserved, until shutdown.
    pub(crate) async fn watch_counters(self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.fired() => return,
                () = tokio::time::sleep(CHECK) => {}
            }
            if let Err(error) = self.check_counters().await {
                tracing::warn!(error = %kit::status::chain(&error), "the counters were not checked");
            }
        }
    }

    /// Raises every counter if the database went back while this process ran.
    async fn check_counters(&self) -> Result<(), Error> {
        let newest = self.memory.newest(NEWEST);
        let why = match behind(&self.store, &newest).await? {
            Some(why) => why,
            None if self.memory.is_sure() => return Ok(()),
            None => {
                "the database went back: it gave out invocation counters that were used".to_owned()
            }
        };
        self.memory.doubt();
        self.contexts.clear();
        let known = self.memory.newest(ALL);
        raise(&self.store, &known, &why, self.counters.restore_gap).await?;
        self.memory.begin_anew();
        self.reporter.stored();
        Ok(())
    }
}
