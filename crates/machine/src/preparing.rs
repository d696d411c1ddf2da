//! Before the pivot: survey, permit, guards. Everything here may be dropped and done again.

use alloc::{
    boxed::Box,
    format,
    string::{String, ToString as _},
};

use serde::{Deserialize, Serialize};

use crate::{
    Changes, Effect, Input, Kind, Mark, Moment, Party, Phase, Snapshot, Survey, Verdict, Warrant,
    guard,
    pace::Pace,
    reset::{Desk, Run, State, Turn},
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Preparing {
    pub(crate) stage: Stage,
    pub(crate) pace: Pace,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// Finding out where the logs end.
    Survey,
    /// Asking for the permit.
    Authorise { survey: Survey },
    /// Reading guards in the acting association.
    Guard { warrant: Warrant },
}

impl Preparing {
    pub(crate) fn at(stage: Stage) -> Self {
        Self {
            stage,
            pace: Pace::default(),
        }
    }

    pub(crate) fn effect(&self, run: &Run) -> Effect {
        match (self.pace.until, &self.stage) {
            (Some(until), _) => Effect::Wait { until },
            (None, Stage::Survey) => Effect::Survey,
            (None, Stage::Authorise { .. }) => Effect::Authorise {
                number: run.permits,
            },
            (None, Stage::Guard { .. }) => Effect::OpenAndReadGuards,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.stage {
            Stage::Survey | Stage::Authorise { .. } => Phase::Planned,
            Stage::Guard { .. } => Phase::Guarding,
        }
    }

    pub(crate) fn survey(&self) -> Option<Survey> {
        match &self.stage {
            Stage::Survey => None,
            Stage::Authorise { survey } => Some(*survey),
            Stage::Guard { warrant } => Some(warrant.survey),
        }
    }

    pub(crate) fn warrant(&self) -> Option<&Warrant> {
        match &self.stage {
            Stage::Survey | Stage::Authorise { .. } => None,
            Stage::Guard { warrant } => Some(warrant),
        }
    }
}

impl Desk<'_> {
    pub(crate) fn preparing(&mut self, now: Preparing, input: Input) -> Turn {
        match input {
            Input::Surveyed(survey) if now.stage == Stage::Survey => self.ask_for_permit(survey),
            Input::Permitted { permit_id, leaf } => self.permitted(now, permit_id, leaf),
            Input::GuardsRead(seen) => self.guards_read(now, seen),
            Input::PermitStale { cause } => self.permit_stale(now, &cause),
            Input::Denied { cause } => self.denied(Verdict::Refused, cause),
            Input::Unreachable { party, cause } => self.not_reached(now, party, &cause),
            Input::Stranded { cause } => {
                let sent = self.sent_so_far();
                self.finish(Verdict::Refused, format!("{cause}: {sent}"))
            }
            Input::Cancel { by } => self.cancelled(&by),
            Input::Tick => match now.pace.woken(self.now()) {
                Some(pace) => Turn::Go(State::Preparing(Preparing { pace, ..now })),
                None => stay_awake(now),
            },
            Input::Recovered => Turn::Go(State::Preparing(now)),
            Input::Surveyed(_)
            | Input::ActAnswered { .. }
            | Input::ActUnknown { .. }
            | Input::ActNotSent { .. }
            | Input::CounterRead { .. }
            | Input::ProbeRead(_)
            | Input::Rejoined { .. }
            | Input::AfterRead(_)
            | Input::Recorded { .. } => Turn::Stay(State::Preparing(now)),
        }
    }

    fn ask_for_permit(&mut self, survey: Survey) -> Turn {
        if self.run.permits >= self.rules.limits.permits_max {
            return self.finish(
                Verdict::Unreachable,
                format!(
                    "{} permits were used up without reaching the meter",
                    self.run.permits
                ),
            );
        }
        self.run.permits = self.run.permits.saturating_add(1);
        Turn::Go(State::Preparing(Preparing::at(Stage::Authorise { survey })))
    }

    fn permitted(&mut self, now: Preparing, permit_id: String, leaf: u64) -> Turn {
        let Stage::Authorise { survey } = now.stage else {
            return Turn::Stay(State::Preparing(now));
        };
        self.tell(
            Kind::Permit,
            format!("permit {permit_id} signed, leaf {leaf}"),
        );
        let warrant = Warrant {
            permit_id,
            leaf,
            number: self.run.permits,
            survey,
        };
        Turn::Go(State::Preparing(Preparing::at(Stage::Guard { warrant })))
    }

    fn permit_stale(&mut self, now: Preparing, cause: &str) -> Turn {
        match now.survey() {
            // The driver renews reading permits itself; one that did not hold is a failure of ours.
            None => self.not_reached(now, Party::Service, cause),
            Some(survey) => {
                self.tell(Kind::Note, format!("a new permit is needed: {cause}"));
                self.ask_for_permit(survey)
            }
        }
    }

    fn guards_read(&mut self, now: Preparing, seen: Box<Snapshot>) -> Turn {
        let Stage::Guard { warrant } = now.stage else {
            return Turn::Stay(State::Preparing(now));
        };
        if let Some(earlier) = self.run.earlier.take() {
            // Closes the gap between reading the counter and the fence of a newer association: an earlier command
            // that was executed after all shows here.
            if Changes::between(&earlier.before, &seen).shows(&self.rules.expect) {
                self.tell(
                    Kind::Probe,
                    "the meter restarted after all: nothing is sent again",
                );
                return self.conclude(*earlier, seen);
            }
        }
        match guard::check(self.rules, &seen) {
            Err(no) => {
                self.tell(Kind::Guard, format!("guard says no: {no}"));
                self.denied(Verdict::Refused, format!("guard: {no}"))
            }
            Ok(lines) => {
                for line in lines {
                    self.tell(Kind::Guard, format!("guard: {line}"));
                }
                self.run.attempt = self.run.attempt.saturating_add(1);
                self.mark(Mark::Snapshot(Moment::Before, seen.clone()));
                self.tell(
                    Kind::Act,
                    format!("act: {} (attempt {})", self.rules.action, self.run.attempt),
                );
                // After this row is durable the command may have left.
                Turn::Go(State::Acting {
                    warrant,
                    before: seen,
                })
            }
        }
    }

    fn cancelled(&mut self, by: &str) -> Turn {
        let sent = self.sent_so_far();
        self.end(None, false, format!("cancelled by {by}: {sent}"))
    }

    /// What has left before the command that is prepared now.
    pub(crate) fn sent_so_far(&self) -> String {
        match self.run.attempt.saturating_sub(self.run.unsent) {
            0 => "nothing was sent".to_string(),
            attempt => format!("nothing was sent after attempt {attempt}, which was not accepted"),
        }
    }

    fn not_reached(&mut self, now: Preparing, party: Party, cause: &str) -> Turn {
        let pace = now.pace.failed(party);
        let limits = self.rules.limits;
        if self.now() >= limits.deadline {
            return self.finish(
                Verdict::Unreachable,
                format!("gave up at the deadline, {}: {cause}", self.sent_so_far()),
            );
        }
        // Only the meter's own silence counts against it.
        if pace.silences >= limits.failures_max {
            return self.finish(
                Verdict::Unreachable,
                format!(
                    "the meter did not answer {} times, {}: {cause}",
                    pace.silences,
                    self.sent_so_far()
                ),
            );
        }
        let until = self.backoff(pace.failures);
        let seconds = until.since(self.now()).div_ceil(1000);
        self.tell(Kind::Note, format!("{cause}; again in {seconds} s"));
        Turn::Go(State::Preparing(Preparing {
            pace: pace.until(until),
            ..now
        }))
    }
}

fn stay_awake(now: Preparing) -> Turn {
    // A tick that came early waits on; one that comes while something is under way means nothing.
    match now.pace.until {
        Some(_) => Turn::Go(State::Preparing(now)),
        None => Turn::Stay(State::Preparing(now)),
    }
}
