//! What the machine asks for, done: every question to auditor and meter, the one command, the waits, the trail.

use std::time::{Duration, Instant};

use kit::crash_point;
use latchkey_proto::{
    association::v1::Meter,
    audit::v1::{Command, Entry, Purpose, Tier},
};
use machine::{Effect, Input, Millis, Party, Session, Snapshot, Survey};
use prost::Message as _;

use crate::{
    crash,
    driver::{Driver, now},
    error::Error,
    failure::Failure,
    meter::{Life, Opening},
    office::{self, Leave, Plea},
    plan,
};

/// How long an entry that is owed may hold up a wait.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(3);
/// How old guards may be when the command leaves. Between them lies a row to be stored, and the database may be slow:
/// a relay that was read a minute ago says nothing.
const GUARDS_LAST: Duration = Duration::from_secs(10);
/// Associations of a permit that only reads.
const READING_ASSOCIATIONS: u32 = 16;

impl Driver {
    /// Does it, and tells what came of it.
    pub(crate) async fn perform(&mut self, effect: Effect) -> Input {
        if self.slot.is_none() {
            self.slot = self.deps.slots.clone().acquire_owned().await.ok();
        }
        let done = match effect {
            Effect::Survey => self.survey().await,
            Effect::Authorise { number } => self.authorise(number).await,
            Effect::OpenAndReadGuards => self.guards().await,
            Effect::Act => Ok(self.act().await),
            Effect::Wait { until } => Ok(self.wait(until).await),
            Effect::ReadCounter => self.read_counter().await,
            Effect::Probe => self.probe().await,
            Effect::Poll => self.poll().await,
            Effect::ReadAfter => self.read_after().await,
            Effect::Deliver => self.deliver().await,
        };
        done.unwrap_or_else(|failure| self.failed(effect, failure))
    }

    /// A permit that was refused while the command may have been executed is replaced by one that only reads.
    fn failed(&mut self, effect: Effect, failure: Failure) -> Input {
        let following = matches!(
            effect,
            Effect::ReadCounter | Effect::Probe | Effect::Poll | Effect::ReadAfter
        );
        match failure {
            Failure::Stale(cause) if following => {
                self.spent = true;
                self.reading = None;
                Input::Unreachable {
                    party: Party::Service,
                    cause,
                }
            }
            // It may not cover what is read now: made by an older version, or from another survey. One that only reads
            // is asked for, once; where that does not help, it was not the permit.
            Failure::Denied(cause) if following && !self.spent => {
                self.spent = true;
                Input::Unreachable {
                    party: Party::Service,
                    cause,
                }
            }
            failure => failure.input(),
        }
    }

    /// Where the logs end, under a permit of its own: the reset's permit names exactly which entries are read.
    async fn survey(&mut self) -> Result<Input, Failure> {
        let commands = plan::survey(&self.tier()?.0);
        if commands.is_empty() {
            return Ok(Input::Surveyed(Survey::default()));
        }
        let leave = self.ask_to_read(commands).await?;
        let association_id = self.associate(&leave, false).await?;
        let objects = self.tier()?.0.objects.clone();
        let mut survey = Survey::default();
        for (log, entries) in [
            (objects.event_log, &mut survey.events),
            (objects.load_profile, &mut survey.load_profile),
        ] {
            if let Some(log) = log {
                let got = self
                    .deps
                    .meters
                    .get(&association_id, &plan::entries_in_use(log))
                    .await?;
                *entries = got.value().as_ref().and_then(crate::facts::entries_in_use);
            }
        }
        self.deps.meters.release(&association_id).await;
        crash_point(crash::AFTER_SURVEY);
        Ok(Input::Surveyed(survey))
    }

    async fn authorise(&mut self, number: u32) -> Result<Input, Failure> {
        let survey = self.row.machine.survey().unwrap_or_default();
        let counter_name = self.meter().await?.invocation_counter_name;
        let (profile, operation) = self.tier()?;
        let order = &self.row.order;
        let plea = Plea {
            request_id: office::permit_request_id(&order.reset_id, number),
            purpose: Purpose::Reset,
            tier: office::tier(order.tier),
            commands: plan::reset(profile, operation, survey, &counter_name),
            max_associations: self.deps.config.associations_max(),
            ..self.plea()
        };
        crash_point(crash::BEFORE_AUTHORISE);
        let leave = self.deps.office.authorise(plea).await?;
        crash_point(crash::AFTER_AUTHORISE);
        let leave =
            leave.ok_or_else(|| Failure::Service("the auditor gave no permit".to_owned()))?;
        if !leave.is_fresh() {
            return Err(Failure::Stale("the permit has expired".to_owned()));
        }
        let permitted = Input::Permitted {
            permit_id: leave.permit.permit_id.clone(),
            leaf: leave.permit.leaf_index,
        };
        self.row.permit = leave.signed.encode_to_vec();
        self.leave = Some(leave);
        self.spent = false;
        Ok(permitted)
    }

    async fn guards(&mut self) -> Result<Input, Failure> {
        let leave = self.leave.clone().filter(Leave::is_fresh);
        let leave = leave.ok_or_else(|| Failure::Stale("the permit has expired".to_owned()))?;
        let association_id = self.associate(&leave, false).await?;
        let snapshot = self.read(&association_id).await?;
        // Stored with the pivot: whether this session outlives the command is evidence.
        self.row.association_id = association_id;
        self.guarded = Some(Instant::now());
        crash_point(crash::AFTER_GUARDS);
        Ok(Input::GuardsRead(Box::new(snapshot)))
    }

    /// The pivot. It happens in the association in which the guards were just read, and in no other.
    async fn act(&mut self) -> Input {
        if self.row.association_id.is_empty() {
            return Input::ActNotSent {
                cause: "the association of the guards is gone".to_owned(),
            };
        }
        if !hold(self.guarded.take(), Instant::now()) {
            return Input::ActNotSent {
                cause: "the guards had been read too long ago".to_owned(),
            };
        }
        let command = match self.tier() {
            Ok((_, operation)) => operation.command(),
            Err(failure) => return failure.input(),
        };
        crash_point(crash::BEFORE_ACT);
        let input = self
            .deps
            .meters
            .act(
                &self.row.association_id,
                &command,
                self.deps.config.act_timeout_ms,
            )
            .await;
        crash_point(crash::AFTER_ACT);
        input
    }

    async fn wait(&mut self, until: Millis) -> Input {
        let patience = self.pay().await;
        if let Err(error) = patience {
            tracing::debug!(%error, "an entry is still owed to the trail");
        }
        // If our clock was stepped back, `until` may be far away; no wait of the machine is longer than this.
        let config = &self.deps.config;
        let longest = config
            .temporary_failure_wait_seconds
            .max(config.rejoin_seconds)
            .max(120)
            * 1000;
        let left = until.since(now()).min(longest);
        tokio::time::sleep(Duration::from_millis(left)).await;
        self.floor = self.floor.max(until);
        Input::Tick
    }

    /// Delivers early what is owed, where there is time for it anyway.
    async fn pay(&self) -> Result<(), Error> {
        if self
            .deps
            .store
            .pending(&self.row.order.reset_id)
            .await?
            .is_empty()
        {
            return Ok(());
        }
        match tokio::time::timeout(DELIVERY_PATIENCE, self.settle()).await {
            Ok(settled) => settled,
            Err(_) => Ok(()),
        }
    }

    /// What the meter's security layer took last. The session of the command is asked first: while it lives, its own
    /// counter tells whether anything was ciphered after the guards, and opening another association would end it with
    /// a release that spends a counter too.
    async fn read_counter(&mut self) -> Result<Input, Failure> {
        let (session, counter) = self.session().await?;
        if session == Session::LivedOn {
            return Ok(Input::CounterRead {
                value: counter.checked_sub(1),
                public: false,
                session,
            });
        }
        let public = |value| Input::CounterRead {
            value,
            public: true,
            session,
        };
        let name = self.meter().await?.invocation_counter_name;
        let Some(command) = plan::counter(&name) else {
            return Ok(public(None));
        };
        let leave = self.leave_to_read().await?;
        let association_id = match self.associate(&leave, true).await {
            Ok(association_id) => association_id,
            // No public client: the counter cannot be read, which is no reason to give up.
            Err(Failure::Denied(cause)) => {
                tracing::info!(cause, "the invocation counter cannot be read");
                return Ok(public(None));
            }
            Err(failure) => return Err(failure),
        };
        let got = self.deps.meters.get(&association_id, &command).await?;
        self.deps.meters.release(&association_id).await;
        crash_point(crash::AFTER_COUNTER);
        let value = got.value().and_then(|data| data.as_u64());
        Ok(public(value.and_then(|value| u32::try_from(value).ok())))
    }

    /// What became of the session of the command, and the counter that the question spent if it lives. Its id is kept:
    /// what was learned here may have to be asked again before the machine has it.
    async fn session(&mut self) -> Result<(Session, u32), Failure> {
        if self.row.association_id.is_empty() {
            return Ok((Session::Unknown, 0));
        }
        let question = self.tier()?.0.objects.relay.get(2);
        let life = self
            .deps
            .meters
            .sign_of_life(&self.row.association_id, &question)
            .await?;
        Ok(match life {
            Life::Lives { counter } => (Session::LivedOn, counter),
            Life::EndedByMeter => (Session::EndedByMeter, 0),
            Life::Gone => (Session::Unknown, 0),
        })
    }

    /// Opens a new association, which shuts out a command that is still on its way (its counter is older now), and
    /// reads everything.
    async fn probe(&mut self) -> Result<Input, Failure> {
        self.row.association_id.clear();
        let leave = self.leave_to_read().await?;
        let association_id = self.associate(&leave, false).await?;
        let snapshot = self.read(&association_id).await?;
        self.deps.meters.release(&association_id).await;
        crash_point(crash::AFTER_PROBE);
        Ok(Input::ProbeRead(Box::new(snapshot)))
    }

    async fn poll(&mut self) -> Result<Input, Failure> {
        let (session, _) = self.session().await?;
        if session == Session::LivedOn {
            return Ok(Input::Rejoined { session });
        }
        let leave = self.leave_to_read().await?;
        self.open = Some(self.associate(&leave, false).await?);
        self.row.association_id.clear();
        crash_point(crash::AFTER_POLL);
        Ok(Input::Rejoined { session })
    }

    async fn read_after(&mut self) -> Result<Input, Failure> {
        let snapshot = if self.row.association_id.is_empty() {
            let association_id = match self.open.take() {
                Some(association_id) => association_id,
                None => {
                    let leave = self.leave_to_read().await?;
                    self.associate(&leave, false).await?
                }
            };
            let snapshot = self.read(&association_id).await?;
            self.deps.meters.release(&association_id).await;
            snapshot
        } else {
            let association_id = self.row.association_id.clone();
            self.read(&association_id).await?
        };
        crash_point(crash::AFTER_READ);
        Ok(Input::AfterRead(Box::new(snapshot)))
    }

    /// Everything that guards, evidence and validation look at.
    async fn read(&mut self, association_id: &str) -> Result<Snapshot, Failure> {
        let readings = self.readings()?;
        let meters = &self.deps.meters;
        let read = meters.read(association_id, &readings, self.lists).await;
        self.lists &= read.is_ok();
        read
    }

    async fn deliver(&mut self) -> Result<Input, Failure> {
        let failed = |error: Error| {
            tracing::warn!(%error, "an entry is still owed to the trail");
            Failure::Service(error.to_string())
        };
        self.settle().await.map_err(failed)?;
        let leaf = self
            .deps
            .store
            .last_leaf(&self.row.order.reset_id)
            .await
            .map_err(failed)?;
        Ok(Input::Recorded {
            leaf: leaf.unwrap_or(0),
        })
    }

    /// Delivers everything that is owed, in order.
    async fn settle(&self) -> Result<(), Error> {
        for pending in self.deps.store.pending(&self.row.order.reset_id).await? {
            let entry = Entry::decode(pending.entry.as_slice())
                .map_err(|error| Error::Row(error.to_string()))?;
            crash_point(crash::BEFORE_RECORD);
            let leaf = self
                .deps
                .office
                .deliver(&pending.request_id, entry)
                .await
                .map_err(Error::Upstream)?;
            crash_point(crash::AFTER_RECORD);
            self.deps.store.receipt(&pending.request_id, leaf).await?;
        }
        Ok(())
    }

    /// The session of the command, where it outlived everything.
    pub(crate) async fn leave_meter(&mut self) {
        let open = std::mem::take(&mut self.row.association_id);
        for association_id in self
            .open
            .take()
            .into_iter()
            .chain(Some(open).filter(|id| !id.is_empty()))
        {
            self.deps.meters.release(&association_id).await;
        }
    }

    async fn associate(&self, leave: &Leave, public_client: bool) -> Result<String, Failure> {
        let opening = Opening {
            meter_id: &self.row.order.meter_id,
            holder: &self.row.order.reset_id,
            permit: &leave.signed,
            public_client,
        };
        Ok(self.deps.meters.open(opening).await?.association_id)
    }

    /// The reset's own permit while it lasts, or one that only reads.
    async fn leave_to_read(&mut self) -> Result<Leave, Failure> {
        let own = self
            .leave
            .clone()
            .filter(|leave| !self.spent && leave.is_fresh());
        let fresh = own.or_else(|| self.reading.clone().filter(Leave::is_fresh));
        if let Some(leave) = fresh {
            return Ok(leave);
        }
        let survey = self.row.machine.survey().unwrap_or_default();
        let counter_name = self.meter().await?.invocation_counter_name;
        let leave = self
            .ask_to_read(plan::evidence(&self.tier()?.0, survey, &counter_name))
            .await?;
        self.reading = Some(leave.clone());
        Ok(leave)
    }

    async fn ask_to_read(&self, commands: Vec<Command>) -> Result<Leave, Failure> {
        let plea = Plea {
            commands,
            ..self.plea()
        };
        let leave = self.deps.office.authorise(plea).await?;
        leave.ok_or_else(|| Failure::Service("the auditor gave no permit".to_owned()))
    }

    /// A plea for reading, to be changed where it is for more.
    fn plea(&self) -> Plea<'_> {
        let order = &self.row.order;
        Plea {
            request_id: kit::context::new_id(),
            meter_id: &order.meter_id,
            purpose: Purpose::Read,
            tier: Tier::Unspecified,
            commands: Vec::new(),
            principal: &order.principal,
            reason: &order.reason,
            ticket: &order.ticket,
            reset_id: &order.reset_id,
            max_associations: READING_ASSOCIATIONS,
            lifetime_seconds: self.deps.config.permit_lifetime_seconds,
            validate_only: false,
        }
    }

    fn readings(&self) -> Result<Vec<(plan::Fact, Command)>, Failure> {
        let survey = self.row.machine.survey().unwrap_or_default();
        Ok(plan::readings(&self.tier()?.0, survey))
    }

    async fn meter(&mut self) -> Result<Meter, Failure> {
        if let Some(meter) = &self.meter {
            return Ok(meter.clone());
        }
        let meter = match self.deps.meters.meter(&self.row.order.meter_id).await {
            Ok(meter) => meter,
            Err(Error::Upstream(status)) => return Err(Failure::from(status)),
            Err(error) => return Err(Failure::Denied(error.to_string())),
        };
        self.meter = Some(meter.clone());
        Ok(meter)
    }
}

/// Whether guards still hold.
fn hold(guarded: Option<Instant>, now: Instant) -> bool {
    guarded.is_some_and(|at| now.saturating_duration_since(at) <= GUARDS_LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_do_not_last() {
        let at = Instant::now();
        assert!(hold(Some(at), at) && hold(Some(at), at + GUARDS_LAST));
        assert!(!hold(Some(at), at + GUARDS_LAST + Duration::from_millis(1)));
        assert!(!hold(None, at), "nobody has looked");
    }
}
