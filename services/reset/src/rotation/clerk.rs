//! Carries rotations on: one task each, found again after a crash, woken by time or by a person.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kit::{Shutdown, Tasks, clock, crash_point};
use latchkey_proto::{
    association::v1::{Delivery, RotateKeysResponse},
    audit::v1::{Entry, EntryKind, Purpose, Tier},
    custody::v1::RotationState,
};
use prost::Message as _;
use tokio::sync::{Notify, watch};
use tonic::{Code, Status};

use super::{Asked, Rotation, State, Verdict};
use crate::{
    crash,
    driver::Deps,
    error::Error,
    failure::{Failure, proves_not_sent},
    office::{self, Leave, Plea},
    store::Pending,
};

/// Associations of one attempt: confirm or probe twice, send, probe twice; and one for a challenge refused by chance.
const ASSOCIATIONS: u32 = 6;
/// Life of an attempt's permit.
const LIFETIME_SECONDS: u32 = 600;
/// Longest back-off.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// While one of our own services is away.
const SERVICE_PAUSE: Duration = Duration::from_secs(2);
/// Action-Results of a meter that could not do it now: hardware-fault, temporary-failure.
const NOT_NOW: [u32; 2] = [1, 2];

/// Starts rotations and reaches them.
#[derive(Clone)]
pub(crate) struct Clerk {
    deps: Arc<Deps>,
    tasks: Tasks,
    active: Arc<Mutex<HashMap<String, Active>>>,
}

struct Active {
    changed: watch::Receiver<()>,
    poke: Arc<Notify>,
}

/// One rotation under way.
struct Job {
    deps: Arc<Deps>,
    rotation: Rotation,
    changed: watch::Sender<()>,
    poke: Arc<Notify>,
    shutdown: Shutdown,
}

/// What an attempt came to.
enum Came {
    /// Custody has said where the rotation stands.
    Told(Box<RotateKeysResponse>),
    /// Nothing was sent in it.
    NotBegun(Failure),
    /// Nobody knows.
    Unknown(String),
}

impl Clerk {
    pub(crate) fn new(deps: Arc<Deps>, tasks: Tasks) -> Self {
        Self {
            deps,
            tasks,
            active: Arc::default(),
        }
    }

    /// Whether policy would allow it.
    #[allow(
        clippy::unused_self,
        reason = "who carries rotations on knows what their permits are"
    )]
    pub(crate) fn rehearsal<'a>(&self, asked: &'a Asked) -> Plea<'a> {
        plea(asked)
    }

    /// Goes on with every rotation that is not over.
    pub(crate) async fn recover(&self) -> Result<(), Error> {
        for mut rotation in self.deps.store.unfinished_rotations().await? {
            tracing::info!(
                rotation_id = rotation.asked.rotation_id,
                meter_id = rotation.asked.meter_id,
                state = rotation.state.name(),
                "goes on with a rotation of keys"
            );
            // An attempt that was cut off may have sent the keys. It is looked at now, not at its time.
            rotation.next_us = 0;
            self.start(rotation);
        }
        Ok(())
    }

    /// Carries a stored rotation on. One that is under way is left alone.
    pub(crate) fn start(&self, rotation: Rotation) {
        let rotation_id = rotation.asked.rotation_id.clone();
        let request_id = rotation.asked.request_id.clone();
        let (changed, changes) = watch::channel(());
        let poke = Arc::new(Notify::new());
        {
            let mut active = self.active();
            if active.contains_key(&rotation_id) {
                return;
            }
            let one = Active {
                changed: changes,
                poke: Arc::clone(&poke),
            };
            active.insert(rotation_id.clone(), one);
        }
        let job = Job {
            deps: Arc::clone(&self.deps),
            rotation,
            changed,
            poke,
            shutdown: self.tasks.shutdown().clone(),
        };
        let clerk = self.clone();
        let work = async move {
            let done = Box::pin(job.run()).await;
            clerk.active().remove(&rotation_id);
            if let Err(error) = done {
                tracing::error!(error = %kit::status::chain(&error), rotation_id, "a rotation is not carried on any more; it goes on at the next start");
            }
        };
        self.tasks
            .spawn("rotation", kit::context::scope(request_id, work));
    }

    /// Wakes a rotation that waits; whether it is under way.
    pub(crate) fn poke(&self, rotation_id: &str) -> bool {
        let poke = self
            .active()
            .get(rotation_id)
            .map(|active| Arc::clone(&active.poke));
        poke.inspect(|poke| poke.notify_one()).is_some()
    }

    /// Something to wait on until a rotation changes; `None` if nobody carries it on.
    pub(crate) fn subscribe(&self, rotation_id: &str) -> Option<watch::Receiver<()>> {
        self.active()
            .get(rotation_id)
            .map(|active| active.changed.clone())
    }

    fn active(&self) -> MutexGuard<'_, HashMap<String, Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    async fn run(mut self) -> Result<(), Error> {
        loop {
            let owed = self.settle_trail().await;
            match self.rotation.state {
                State::Done if !owed => return Ok(()),
                State::Done => {
                    if self.wait(SERVICE_PAUSE).await {
                        return Ok(());
                    }
                }
                State::Pending | State::Unsettled => {
                    if self.wait(self.left()).await {
                        return Ok(());
                    }
                    self.rotation.attempts = self.rotation.attempts.saturating_add(1);
                    self.rotation.state = State::Rotating;
                    self.rotation.tell("an attempt is under way");
                    self.commit(None).await?;
                }
                // Found after a crash as well: the same attempt, with the same permit, if that still holds.
                State::Rotating => self.attempt().await?,
            }
        }
    }

    /// How long until it goes on.
    fn left(&self) -> Duration {
        let now = clock::micros(clock::now());
        let left = self.rotation.next_us.saturating_sub(now);
        Duration::from_micros(u64::try_from(left).unwrap_or(0))
    }

    /// Waits, or is woken; whether the service stops.
    async fn wait(&self, pause: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.shutdown.fired() => true,
            () = self.poke.notified() => false,
            () = tokio::time::sleep(pause) => false,
        }
    }

    async fn attempt(&mut self) -> Result<(), Error> {
        let leave = match self.authorise().await {
            Ok(leave) => leave,
            Err(failure) => return self.not_begun(failure).await,
        };
        crash_point(crash::BEFORE_ROTATE);
        let came = self.rotate(&leave).await;
        crash_point(crash::AFTER_ROTATE);
        match came {
            Came::Told(told) => self.told(*told, &leave).await,
            Came::NotBegun(failure) => self.not_begun(failure).await,
            Came::Unknown(cause) => {
                let detail = format!("nobody knows what became of the attempt: {cause}");
                self.unsettled(&detail, Some(&leave), 0).await
            }
        }
    }

    /// A fresh permit for each attempt; the same for one that was cut off.
    async fn authorise(&self) -> Result<Leave, Failure> {
        let asked = &self.rotation.asked;
        let plea = Plea {
            request_id: office::rotation_request_id(&asked.rotation_id, self.rotation.attempts),
            validate_only: false,
            ..plea(asked)
        };
        let leave = self
            .deps
            .office
            .authorise(plea)
            .await
            .map_err(Failure::from)?;
        let leave =
            leave.ok_or_else(|| Failure::Service("the auditor gave no permit".to_owned()))?;
        match leave.is_fresh() {
            true => Ok(leave),
            false => Err(Failure::Stale("the permit has expired".to_owned())),
        }
    }

    async fn rotate(&self, leave: &Leave) -> Came {
        let asked = &self.rotation.asked;
        let timeout_ms = self.deps.config.act_timeout_ms;
        let rotated = self
            .deps
            .meters
            .rotate(
                &asked.meter_id,
                &asked.rotation_id,
                &leave.signed,
                timeout_ms,
            )
            .await;
        match rotated {
            Ok(told) => Came::Told(Box::new(told)),
            Err(error) if proves_not_sent(&error) => Came::NotBegun(failure(error)),
            Err(error) => Came::Unknown(format!(
                "the association service did not answer ({})",
                error.message()
            )),
        }
    }

    /// Custody has said where the rotation stands.
    async fn told(&mut self, told: RotateKeysResponse, leave: &Leave) -> Result<(), Error> {
        let rotation = told.rotation.clone().unwrap_or_default();
        let evidence = told.evidence.join("; ");
        let detail = format!("{}: {evidence}", rotation.detail);
        let counter = told.invocation_counter;
        let refused = told.delivery() == Delivery::Answered
            && told.result != 0
            && !NOT_NOW.contains(&told.result);
        match rotation.state() {
            RotationState::Active => self.done(Verdict::Rotated, &detail, counter).await,
            RotationState::Abandoned => self.done(Verdict::KeptOld, &detail, counter).await,
            RotationState::New if refused => self.done(Verdict::Refused, &detail, counter).await,
            RotationState::New if self.is_last() => {
                let verdict = match rotation.attempts {
                    0 => Verdict::Unreachable,
                    _ => Verdict::KeptOld,
                };
                self.done(verdict, &detail, counter).await
            }
            RotationState::New => {
                self.rotation.state = State::Pending;
                self.rotation.settled = true;
                self.later(&detail, Some(leave), counter).await
            }
            RotationState::Unsettled | RotationState::Unspecified => {
                self.unsettled(&detail, Some(leave), counter).await
            }
        }
    }

    /// Nothing was sent in this attempt.
    async fn not_begun(&mut self, failure: Failure) -> Result<(), Error> {
        let (cause, verdict) = match failure {
            Failure::Denied(cause) => (cause, Some(Verdict::Refused)),
            Failure::Silent(cause) => (cause, self.is_last().then_some(Verdict::Unreachable)),
            // Of ours: it is no attempt.
            Failure::Service(cause) | Failure::Stale(cause) => (cause, None),
        };
        match verdict {
            Some(verdict) if self.rotation.settled => self.done(verdict, &cause, 0).await,
            _ if self.rotation.settled => {
                self.rotation.state = State::Pending;
                self.later(&cause, None, 0).await
            }
            _ => self.unsettled(&cause, None, 0).await,
        }
    }

    async fn unsettled(
        &mut self,
        detail: &str,
        leave: Option<&Leave>,
        counter: u32,
    ) -> Result<(), Error> {
        if self.is_last() {
            tracing::error!(
                rotation_id = self.rotation.asked.rotation_id,
                meter_id = self.rotation.asked.meter_id,
                attempts = self.rotation.attempts,
                "the meter proves neither its old nor its new keys: a person has to look (runbook key-compromise)"
            );
        }
        self.rotation.state = State::Unsettled;
        self.rotation.settled = false;
        let detail =
            format!("{detail}; which keys are in force is not known, and it is looked at again");
        self.later(&detail, leave, counter).await
    }

    fn is_last(&self) -> bool {
        self.rotation.attempts >= self.deps.config.rotation_attempts_max
    }

    /// It goes on later, the longer the more often it was tried.
    async fn later(
        &mut self,
        detail: &str,
        leave: Option<&Leave>,
        counter: u32,
    ) -> Result<(), Error> {
        let doublings = self.rotation.attempts.saturating_sub(1).min(16);
        let pause = Duration::from_secs(self.deps.config.rotation_retry_seconds)
            .saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX))
            .min(PAUSE_MAX);
        self.rotation.next_us = clock::micros(clock::now() + pause);
        self.rotation.tell(detail);
        // Attempts that did not begin are the log's, not the trail's.
        let entry = leave.map(|leave| Entry {
            permit_id: leave.permit.permit_id.clone(),
            commands: office::digests(&self.rotation.asked.commands()),
            invocation_counter: counter,
            ..self.entry(EntryKind::Outcome)
        });
        if leave.is_none() {
            tracing::warn!(
                rotation_id = self.rotation.asked.rotation_id,
                meter_id = self.rotation.asked.meter_id,
                detail,
                "an attempt to change keys did not begin"
            );
        }
        self.commit(entry).await
    }

    async fn done(&mut self, verdict: Verdict, detail: &str, counter: u32) -> Result<(), Error> {
        self.rotation.state = State::Done;
        self.rotation.settled = true;
        self.rotation.verdict = Some(verdict);
        self.rotation.tell(detail);
        let entry = Entry {
            verdict: verdict.name().to_owned(),
            invocation_counter: counter,
            ..self.entry(EntryKind::Verdict)
        };
        self.commit(Some(entry)).await
    }

    fn entry(&self, kind: EntryKind) -> Entry {
        let asked = &self.rotation.asked;
        let detail = format!(
            "attempt {}: {}",
            self.rotation.attempts, self.rotation.detail
        );
        Entry {
            kind: kind.into(),
            principal: asked.principal.clone(),
            meter_id: asked.meter_id.clone(),
            reset_id: asked.rotation_id.clone(),
            purpose: Purpose::Rekey.into(),
            reason: asked.reason.clone(),
            ticket: asked.ticket.clone(),
            request_id: asked.request_id.clone(),
            detail: office::limited(&detail, 1024),
            ..Entry::default()
        }
    }

    /// Stores a transition, however long the database takes to come back. Nothing happens before it is stored.
    async fn commit(&mut self, entry: Option<Entry>) -> Result<(), Error> {
        let record = entry.map(|entry| Pending {
            request_id: kit::context::new_id(),
            entry: entry.encode_to_vec(),
        });
        loop {
            let wanted = self.rotation.clone();
            match self
                .deps
                .store
                .commit_rotation(&mut self.rotation, record.as_ref())
                .await
            {
                Ok(()) => break,
                Err(Error::Store(error)) => {
                    tracing::warn!(%error, rotation_id = wanted.asked.rotation_id, "a transition is not stored yet");
                }
                Err(Error::Stolen(_)) if self.is_stored(&wanted).await => break,
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = tokio::time::sleep(SERVICE_PAUSE) => {}
                () = self.shutdown.fired() => return Err(Error::Stopping),
            }
        }
        tracing::info!(
            rotation_id = self.rotation.asked.rotation_id,
            meter_id = self.rotation.asked.meter_id,
            state = self.rotation.state.name(),
            "{}",
            self.rotation.detail
        );
        self.changed.send_replace(());
        Ok(())
    }

    /// Whether a commit whose answer was lost was stored.
    async fn is_stored(&mut self, wanted: &Rotation) -> bool {
        match self.deps.store.rotation(&wanted.asked.rotation_id).await {
            Ok(Some(stored))
                if stored.version == wanted.version + 1
                    && (stored.state, &stored.detail) == (wanted.state, &wanted.detail) =>
            {
                self.rotation = stored;
                true
            }
            _ => false,
        }
    }

    /// Delivers what is owed to the trail; whether something still is.
    async fn settle_trail(&self) -> bool {
        let delivered = async {
            let store = &self.deps.store;
            for pending in store
                .rotation_pending(&self.rotation.asked.rotation_id)
                .await?
            {
                let entry = Entry::decode(pending.entry.as_slice())
                    .map_err(|error| Error::Row(error.to_string()))?;
                let leaf = self.deps.office.deliver(&pending.request_id, entry).await;
                let leaf = leaf.map_err(Error::Upstream)?;
                store.rotation_receipt(&pending.request_id, leaf).await?;
            }
            Ok::<(), Error>(())
        };
        match delivered.await {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!(%error, "entries of a rotation are still owed to the trail");
                true
            }
        }
    }
}

/// What every permit of a rotation is asked for.
fn plea(asked: &Asked) -> Plea<'_> {
    Plea {
        request_id: kit::context::new_id(),
        meter_id: &asked.meter_id,
        purpose: Purpose::Rekey,
        tier: Tier::Unspecified,
        commands: asked.commands(),
        principal: &asked.principal,
        reason: &asked.reason,
        ticket: &asked.ticket,
        reset_id: &asked.rotation_id,
        max_associations: ASSOCIATIONS,
        lifetime_seconds: LIFETIME_SECONDS,
        validate_only: true,
    }
}

/// What an error of an attempt means that did not begin: what custody says of the rotation itself it will say again.
fn failure(error: Status) -> Failure {
    let reason = kit::status::reason(&error).unwrap_or_default();
    let said_by_custody =
        reason.starts_with("ROTATION_") && error.code() == Code::FailedPrecondition;
    match said_by_custody && reason != "ROTATION_OPENINGS_SPENT" {
        true => Failure::Denied(error.message().to_owned()),
        false => Failure::from(error),
    }
}
