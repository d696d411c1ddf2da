//! Drives one reset: performs what the machine asks for, and tells it what came of it.
//!
//! ```text
//!            ┌──────────── step ◀── input ◀─────────────┐
//!            ▼                                           │
//!   commit (state, story, readings, entries owed)        │
//!            │ after this line a crash is clean          │
//!            ▼                                           │
//!         effect ── survey, permit, guards, ACT, evidence, wait, trail ──▶ what came of it
//! ```
//! There is one path: a new reset and one found after a crash both begin with `Recovered`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kit::{Shutdown, clock};
use latchkey_proto::association::v1::Meter;
use machine::{Effect, Input, Mark, Millis, Phase};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::{
    config::Config,
    error::Error,
    failure::Failure,
    meter::Meters,
    office::{self, Leave, Office},
    profile::{Operation, Profile, Profiles},
    store::{Pending, Row, Store},
};

/// First and longest wait while the database is away.
const STORE_PAUSE: Duration = Duration::from_millis(100);
const STORE_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What every driver uses.
pub(crate) struct Deps {
    pub(crate) config: Config,
    pub(crate) profiles: Profiles,
    pub(crate) store: Store,
    pub(crate) meters: Meters,
    pub(crate) office: Office,
    /// One per reset that is driven.
    pub(crate) slots: Arc<Semaphore>,
}

/// Somebody wants the reset stopped; told whether it is.
pub(crate) struct CancelRequest {
    /// Who.
    pub(crate) by: String,
    pub(crate) told: oneshot::Sender<bool>,
}

/// One reset under way.
pub(crate) struct Driver {
    pub(crate) deps: Arc<Deps>,
    pub(crate) row: Row,
    /// `None` if what the reset was planned by is gone, or is not what it was: it never acts again.
    tier: Option<(Profile, Operation)>,
    changed: watch::Sender<()>,
    pub(crate) slot: Option<OwnedSemaphorePermit>,
    pub(crate) meter: Option<Meter>,
    /// The permit of the present attempt.
    pub(crate) leave: Option<Leave>,
    /// A permit that only reads, for when the other cannot be used any more.
    pub(crate) reading: Option<Leave>,
    /// The present permit was refused for reading.
    pub(crate) spent: bool,
    /// Facts are read in lists where the meter takes them, until one comes to nothing: some meters grant lists and choke
    /// on them.
    pub(crate) lists: bool,
    /// An association opened after the command.
    pub(crate) open: Option<String>,
    /// When this process read the guards of the present attempt.
    pub(crate) guarded: Option<Instant>,
    /// Time does not go back behind a wait that is over.
    pub(crate) floor: Millis,
}

/// The tier a reset was planned by, if it is there and still says the same.
fn tier(profiles: &Profiles, row: &Row) -> Option<(Profile, Operation)> {
    let profile = profiles.get(&row.order.profile)?;
    let operation = profile.operation(row.order.tier)?;
    let planned = &row.machine.rules().profile;
    let same = planned.is_empty() || *planned == profile.digest(operation);
    same.then(|| (profile.clone(), operation.clone()))
}

/// The time, as the machine takes it.
pub(crate) fn now() -> Millis {
    let micros = u64::try_from(clock::micros(clock::now())).unwrap_or(0);
    Millis(micros / 1000)
}

impl Driver {
    /// Takes a stored reset.
    pub(crate) fn new(deps: Arc<Deps>, row: Row, changed: watch::Sender<()>) -> Self {
        Self {
            leave: Leave::decode(&row.permit),
            tier: tier(&deps.profiles, &row),
            deps,
            row,
            changed,
            slot: None,
            meter: None,
            reading: None,
            spent: false,
            lists: true,
            open: None,
            guarded: None,
            floor: Millis(0),
        }
    }

    /// What the reset was planned by.
    ///
    /// # Errors
    /// If it is gone: then nothing is done at the meter any more.
    pub(crate) fn tier(&self) -> Result<&(Profile, Operation), Failure> {
        self.tier
            .as_ref()
            .ok_or_else(|| Failure::Denied(self.stranded()))
    }

    fn stranded(&self) -> String {
        let order = &self.row.order;
        format!(
            "the reset profile {:?} has changed or is gone since the reset was created",
            order.profile
        )
    }

    /// Drives it to its end, or until the service stops: it goes on where it was when the service starts again.
    pub(crate) async fn run(
        mut self,
        mut mailbox: mpsc::Receiver<CancelRequest>,
        shutdown: Shutdown,
    ) -> Result<(), Error> {
        let mut input = match &self.tier {
            Some(_) => Input::Recovered,
            None => Input::Stranded {
                cause: self.stranded(),
            },
        };
        let mut asked: Option<oneshot::Sender<bool>> = None;
        loop {
            let effect = self.advance(input, &shutdown).await?;
            if let Some(asked) = asked.take() {
                // Whoever asked may have gone; the answer is in the row.
                let _ = asked.send(true);
            }
            if self.row.machine.outcome().is_some() {
                self.leave_meter().await;
                return Ok(());
            }
            // The machine always waits for something; if it did not, finding out is always safe.
            let Some(effect) = effect else {
                input = Input::Recovered;
                continue;
            };
            let cancellable = self.row.machine.is_cancellable();
            let performing = self.perform(effect);
            tokio::pin!(performing);
            input = loop {
                tokio::select! {
                    biased;
                    Some(request) = mailbox.recv() => {
                        if cancellable {
                            asked = Some(request.told);
                            break Input::Cancel { by: request.by };
                        }
                        let _ = request.told.send(false);
                    }
                    // A command under way is waited for: its answer is worth more than a quick end.
                    () = shutdown.fired(), if effect != Effect::Act => return Ok(()),
                    input = &mut performing => break input,
                }
            };
        }
    }

    /// One step of the machine, stored before anything else happens.
    async fn advance(
        &mut self,
        input: Input,
        shutdown: &Shutdown,
    ) -> Result<Option<Effect>, Error> {
        let now = now().max(self.floor);
        let guards = matches!(input, Input::GuardsRead(_));
        let (machine, marks, effect) = self.row.machine.clone().step(now, input).into_parts();
        self.row.machine = machine;
        // No command leaves in it: what becomes of it tells nothing about the session of an earlier one.
        if guards && self.row.machine.phase() != Phase::Acting {
            self.open = Some(std::mem::take(&mut self.row.association_id));
        }
        let records = self.records(&marks);
        self.commit(&marks, &records, shutdown).await?;
        for mark in &marks {
            if let Mark::Event(event) = mark {
                tracing::info!(
                    reset_id = self.row.order.reset_id,
                    meter_id = self.row.order.meter_id,
                    kind = event.kind.name(),
                    "{}",
                    event.text
                );
            }
        }
        self.changed.send_replace(());
        Ok(effect)
    }

    fn records(&self, marks: &[Mark]) -> Vec<Pending> {
        let permit_id = self
            .leave
            .as_ref()
            .map_or("", |leave| &leave.permit.permit_id);
        let tier = self.tier.iter();
        let commands: Vec<_> = tier.map(|(_, operation)| operation.command()).collect();
        let records = marks.iter().filter_map(|mark| match mark {
            Mark::Record(record) => Some(record),
            Mark::Event(_) | Mark::Snapshot(..) => None,
        });
        records
            .map(|record| Pending {
                request_id: kit::context::new_id(),
                entry: office::entry(&self.row.order, permit_id, &commands, record).encode_to_vec(),
            })
            .collect()
    }

    /// Stores the transition, however long the database takes to come back. Nothing happens before it is stored.
    async fn commit(
        &mut self,
        marks: &[Mark],
        records: &[Pending],
        shutdown: &Shutdown,
    ) -> Result<(), Error> {
        let mut pause = STORE_PAUSE;
        let mut doubtful = false;
        loop {
            match self.deps.store.commit(&mut self.row, marks, records).await {
                Ok(()) => return Ok(()),
                // The commit before was stored although its answer was lost.
                Err(Error::Stolen(_)) if doubtful && self.is_stored().await => return Ok(()),
                Err(Error::Store(error)) => {
                    doubtful = true;
                    tracing::warn!(%error, reset_id = self.row.order.reset_id, "a transition is not stored yet");
                }
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(STORE_PAUSE_MAX),
                () = shutdown.fired() => return Err(Error::Stopping),
            }
        }
    }

    async fn is_stored(&mut self) -> bool {
        match self.deps.store.load(&self.row.order.reset_id).await {
            Ok(Some(stored))
                if stored.version == self.row.version + 1 && stored.machine == self.row.machine =>
            {
                self.row = stored;
                true
            }
            Ok(_) | Err(_) => false,
        }
    }
}
