//! The machine: states, inputs, effects, and what all states share.

use alloc::{boxed::Box, format, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{
    Millis, Outcome, Rules, Snapshot, Verdict,
    following::Following,
    mark::{Event, Kind, Mark, Record},
    pace::Pace,
    preparing::{Preparing, Stage},
};

/// Longest wait between two tries while one of our own services is down.
const BACKOFF_MAX_MS: u64 = 60_000;

/// One reset, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reset {
    rules: Rules,
    run: Run,
    state: State,
}

/// What outlives a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// The latest time seen. Time never goes back in here, whatever the clock does.
    clock: Millis,
    /// Commands that may have been sent so far.
    pub(crate) attempt: u32,
    /// Those at the end of them that certainly did not leave.
    #[serde(default)]
    pub(crate) unsent: u32,
    /// Permits asked for so far.
    pub(crate) permits: u32,
    /// A command that the counter, or the meter's own "later", says was not executed: the next guards look once more.
    pub(crate) earlier: Option<Box<Act>>,
    /// Where the reset stood when it ended.
    pub(crate) phase: Phase,
    draws: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    /// Nothing irreversible is under way.
    Preparing(Preparing),
    /// The command may leave at any moment, or has left.
    Acting {
        warrant: Warrant,
        before: Box<Snapshot>,
    },
    /// The command may have been executed: only reading is left.
    Following(Following),
    /// The verdict stands; the trail must hold it.
    Recording { outcome: Outcome, pace: Pace },
    /// Over.
    Done(Outcome),
}

/// Where a reset stands, as in `latchkey.reset.v1.ResetState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Phase {
    /// Accepted, not begun, or waiting to begin again.
    Planned,
    /// Reading guards.
    Guarding,
    /// The command may have been sent.
    Acting,
    /// The answer was lost.
    Probing,
    /// Waiting for the meter to come back.
    Waiting,
    /// Comparing.
    Validating,
    /// The verdict is set.
    Done,
    /// Cancelled before it acted.
    Cancelled,
}

/// Where the meter's logs end: needed to ask for exactly their newest entries. `None`: the meter has no such log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// Entries in use of the event log.
    pub events: Option<u32>,
    /// Entries in use of the load profile.
    pub load_profile: Option<u32>,
}

/// The permit under which one attempt runs, and the survey it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warrant {
    /// Permit id.
    pub permit_id: String,
    /// Index of its intent in the trail.
    pub leaf: u64,
    /// Which permit of this reset it is, from 1.
    pub number: u32,
    /// The survey.
    pub survey: Survey,
}

/// A command that may have been executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// Its permit.
    pub warrant: Warrant,
    /// The meter just before.
    pub before: Snapshot,
    /// When its fate was first known or lost.
    pub sent_at: Millis,
    /// Its invocation counter; 0 if unknown or not ciphered.
    pub counter: u32,
    /// No answer told that it was executed.
    pub lost: bool,
    /// The meter says that it was not accepted: by its counter, or by the answer "later".
    #[serde(default)]
    pub refuted: bool,
    /// The meter was silent since.
    pub silent: bool,
    /// What became of the session of the command.
    #[serde(default)]
    pub session: Session,
}

/// What became of the session in which the command was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Session {
    /// The meter answered in it: its communication module did not restart.
    LivedOn,
    /// The meter ended it, as a communication module that restarts does.
    EndedByMeter,
    /// It ended on our side, or nobody saw how: that says nothing about the meter.
    #[default]
    Unknown,
}

impl Session {
    /// With what was seen later. That the meter ended it stands; that it lived says nothing about a time nobody saw.
    pub(crate) fn then(self, later: Self) -> Self {
        match self {
            Self::EndedByMeter => self,
            Self::LivedOn | Self::Unknown => later,
        }
    }
}

/// Whose failure kept us from the meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// The meter or its network: silent, or it refuses associations.
    Meter,
    /// One of our own services, or the database.
    Service,
}

/// What happened. Facts, never bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The logs end there.
    Surveyed(Survey),
    /// The auditor signed: the intent is in the trail.
    Permitted {
        /// Permit id.
        permit_id: String,
        /// Leaf of the intent.
        leaf: u64,
    },
    /// The permit has expired, is spent, or belongs to another plan: a new one is needed. Nothing was sent.
    PermitStale {
        /// Why.
        cause: String,
    },
    /// Policy, key custody or the meter's security says no. Nothing was sent.
    Denied {
        /// Who and why.
        cause: String,
    },
    /// The guards were read in the association that is to act.
    GuardsRead(Box<Snapshot>),
    /// The meter answered the command.
    ActAnswered {
        /// Action-Result.
        result: u8,
        /// The counter it spent; 0 if it was not ciphered.
        counter: u32,
    },
    /// The command may or may not have reached the meter.
    ActUnknown {
        /// What was seen.
        cause: String,
        /// The counter it spent; 0 if unknown.
        counter: u32,
    },
    /// The command certainly did not leave.
    ActNotSent {
        /// Why.
        cause: String,
    },
    /// What the meter's security layer took last.
    CounterRead {
        /// The meter's invocation counter; `None` if it offers none.
        value: Option<u32>,
        /// The public client read it: nothing authenticates it.
        public: bool,
        /// What became of the session of the command.
        session: Session,
    },
    /// Everything was read again, after a lost answer.
    ProbeRead(Box<Snapshot>),
    /// The meter answers again.
    Rejoined {
        /// What became of the session of the command.
        session: Session,
    },
    /// Everything was read again, after a rejoin.
    AfterRead(Box<Snapshot>),
    /// What was tried failed for now.
    Unreachable {
        /// Whose failure it was.
        party: Party,
        /// What was seen.
        cause: String,
    },
    /// Everything owed to the trail is in it; this is the leaf of the verdict.
    Recorded {
        /// Leaf of the verdict.
        leaf: u64,
    },
    /// Time passed.
    Tick,
    /// The process was started again; whatever was under way is gone.
    Recovered,
    /// It can never go on, not even by reading: what it was planned by is gone.
    Stranded {
        /// Why.
        cause: String,
    },
    /// Somebody wants it stopped.
    Cancel {
        /// Who.
        by: String,
    },
}

/// What is to be done next: at most one thing at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Find out where the logs end, under a permit that only reads.
    Survey,
    /// Ask for a permit for the surveyed plan. The same number is the same request.
    Authorise {
        /// Which permit of this reset, from 1.
        number: u32,
    },
    /// Open the acting association and read the guards.
    OpenAndReadGuards,
    /// Send the tier's command, once.
    Act,
    /// Do nothing until then.
    Wait {
        /// When to go on.
        until: Millis,
    },
    /// Read the invocation counter by the public client.
    ReadCounter,
    /// Open a new association and read everything.
    Probe,
    /// Try to open an association.
    Poll,
    /// Read everything.
    ReadAfter,
    /// Deliver what is owed to the trail.
    Deliver,
}

/// What an input led to.
#[derive(Debug)]
pub struct Step {
    /// The machine after it.
    pub reset: Reset,
    /// To be stored with it.
    pub marks: Vec<Mark>,
    /// To be done once it is stored. `None`: go on with what is under way, or nothing if it is over.
    pub effect: Option<Effect>,
}

impl Step {
    /// Its parts.
    #[must_use]
    pub fn into_parts(self) -> (Reset, Vec<Mark>, Option<Effect>) {
        (self.reset, self.marks, self.effect)
    }
}

impl Reset {
    /// A new reset.
    #[must_use]
    pub fn begin(rules: Rules, now: Millis) -> Step {
        let planned = Event {
            kind: Kind::Planned,
            text: format!("{} reset: {}", rules.tier.name(), rules.action),
        };
        let run = Run {
            clock: now,
            attempt: 0,
            unsent: 0,
            permits: 0,
            earlier: None,
            phase: Phase::Planned,
            draws: 0,
        };
        let state = State::Preparing(Preparing::at(Stage::Survey));
        let effect = state.effect(&run);
        Step {
            reset: Self { rules, run, state },
            marks: alloc::vec![Mark::Event(planned)],
            effect,
        }
    }

    /// Takes one input. An input that means nothing in the present state changes nothing.
    #[must_use]
    pub fn step(self, now: Millis, input: Input) -> Step {
        let Self {
            rules,
            mut run,
            state,
        } = self;
        run.clock = run.clock.max(now);
        let mut desk = Desk {
            rules: &rules,
            run: &mut run,
            marks: Vec::new(),
        };
        let turn = match state {
            State::Preparing(preparing) => desk.preparing(preparing, input),
            State::Acting { warrant, before } => desk.acting(warrant, before, input),
            State::Following(following) => desk.following(following, input),
            State::Recording { outcome, pace } => desk.recording(outcome, pace, input),
            State::Done(outcome) => Turn::Stay(State::Done(outcome)),
        };
        let marks = desk.marks;
        let (state, effect) = match turn {
            Turn::Stay(state) => (state, None),
            Turn::Go(state) => {
                let effect = state.effect(&run);
                (state, effect)
            }
        };
        run.phase = state.phase().unwrap_or(run.phase);
        Step {
            reset: Self { rules, run, state },
            marks,
            effect,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.run.phase
    }

    /// Whether a cancellation would still be granted: its command cannot have left, or was refused.
    #[must_use]
    pub fn is_cancellable(&self) -> bool {
        matches!(self.state, State::Preparing(_))
    }

    /// How it ended, once it is done.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            State::Done(outcome) => Some(outcome),
            State::Preparing(_)
            | State::Acting { .. }
            | State::Following(_)
            | State::Recording { .. } => None,
        }
    }

    /// That it was cancelled, as soon as that stands; the trail may not hold it yet.
    #[must_use]
    pub fn cancellation(&self) -> Option<&Outcome> {
        match &self.state {
            State::Recording { outcome, .. } | State::Done(outcome) => {
                Some(outcome).filter(|outcome| outcome.verdict.is_none())
            }
            State::Preparing(_) | State::Acting { .. } | State::Following(_) => None,
        }
    }

    /// Its rules.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The attempt under way, from 1; 0 before the first command.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.run.attempt
    }

    /// The survey that the present permit is, or is to be, made from.
    #[must_use]
    pub fn survey(&self) -> Option<Survey> {
        match &self.state {
            State::Preparing(preparing) => preparing.survey(),
            State::Acting { warrant, .. } => Some(warrant.survey),
            State::Following(following) => Some(following.act.warrant.survey),
            State::Recording { .. } | State::Done(_) => None,
        }
    }

    /// The present permit.
    #[must_use]
    pub fn warrant(&self) -> Option<&Warrant> {
        match &self.state {
            State::Preparing(preparing) => preparing.warrant(),
            State::Acting { warrant, .. } => Some(warrant),
            State::Following(following) => Some(&following.act.warrant),
            State::Recording { .. } | State::Done(_) => None,
        }
    }
}

impl State {
    /// What this state waits for. A pure function of the state: what is done after a crash is what was done before.
    fn effect(&self, run: &Run) -> Option<Effect> {
        match self {
            Self::Preparing(preparing) => Some(preparing.effect(run)),
            Self::Acting { .. } => Some(Effect::Act),
            Self::Following(following) => Some(following.effect()),
            Self::Recording { pace, .. } => Some(
                pace.until
                    .map_or(Effect::Deliver, |until| Effect::Wait { until }),
            ),
            Self::Done(_) => None,
        }
    }

    /// `None` while a verdict is recorded: people see the phase it came from until the trail holds it.
    fn phase(&self) -> Option<Phase> {
        match self {
            Self::Preparing(preparing) => Some(preparing.phase()),
            Self::Acting { .. } => Some(Phase::Acting),
            Self::Following(following) => Some(following.phase()),
            Self::Recording { outcome, .. } if outcome.verdict.is_none() => Some(Phase::Cancelled),
            Self::Recording { .. } => None,
            Self::Done(Outcome { verdict: None, .. }) => Some(Phase::Cancelled),
            Self::Done(_) => Some(Phase::Done),
        }
    }
}

/// Whether a state was entered (its effect begins) or kept (whatever is under way goes on).
pub(crate) enum Turn {
    Stay(State),
    Go(State),
}

/// Everything a state may use while it takes an input.
pub(crate) struct Desk<'a> {
    pub(crate) rules: &'a Rules,
    pub(crate) run: &'a mut Run,
    marks: Vec<Mark>,
}

impl Desk<'_> {
    pub(crate) fn now(&self) -> Millis {
        self.run.clock
    }

    pub(crate) fn tell(&mut self, kind: Kind, text: impl Into<String>) {
        self.marks.push(Mark::Event(Event {
            kind,
            text: text.into(),
        }));
    }

    pub(crate) fn mark(&mut self, mark: Mark) {
        self.marks.push(mark);
    }

    /// A number in `low..=high`, reproducible from the seed (SplitMix64).
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.run.draws = self.run.draws.wrapping_add(1);
        let mut z = self
            .rules
            .seed
            .wrapping_add(self.run.draws.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        let width = high.saturating_sub(low).saturating_add(1);
        low.saturating_add(z.checked_rem(width).unwrap_or(0))
    }

    /// One poll from now, give or take a half.
    pub(crate) fn next_poll(&mut self) -> Millis {
        let poll = self.rules.limits.poll_ms.max(100);
        let wait = self.between(poll / 2, poll.saturating_add(poll / 2));
        self.now().plus(wait)
    }

    /// Exponential back-off with jitter after so many failures.
    pub(crate) fn backoff(&mut self, failures: u32) -> Millis {
        let factor = 1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(64);
        let poll = self.rules.limits.poll_ms.max(100);
        let wait = poll.saturating_mul(factor.clamp(1, 64)).min(BACKOFF_MAX_MS);
        let wait = self.between(wait / 2, wait);
        self.now().plus(wait)
    }

    /// The end, but for the trail.
    pub(crate) fn finish(&mut self, verdict: Verdict, detail: impl Into<String>) -> Turn {
        self.end(Some(verdict), false, detail.into())
    }

    pub(crate) fn denied(&mut self, verdict: Verdict, detail: impl Into<String>) -> Turn {
        self.end(Some(verdict), true, detail.into())
    }

    pub(crate) fn end(
        &mut self,
        verdict: Option<Verdict>,
        access_denied: bool,
        detail: String,
    ) -> Turn {
        let name = verdict.map_or("CANCELLED", Verdict::name);
        self.tell(Kind::Verdict, format!("{name}: {detail}"));
        let outcome = Outcome {
            verdict,
            access_denied,
            detail,
        };
        self.mark(Mark::Record(Record::Verdict(outcome.clone())));
        Turn::Go(State::Recording {
            outcome,
            pace: Pace::default(),
        })
    }

    /// Owes the trail what came of the present command.
    pub(crate) fn report(&mut self, detail: impl Into<String>, counter: u32) {
        let attempt = self.run.attempt;
        self.mark(Mark::Record(Record::Outcome {
            attempt,
            detail: detail.into(),
            counter,
        }));
    }

    /// Nothing ends this but the trail: a verdict nobody can look up is none.
    fn recording(&mut self, outcome: Outcome, pace: Pace, input: Input) -> Turn {
        match input {
            Input::Recorded { leaf } => {
                self.tell(Kind::Recorded, format!("verdict in the trail, leaf {leaf}"));
                Turn::Go(State::Done(outcome))
            }
            Input::Unreachable { party, .. } => {
                let pace = pace.failed(party);
                let pace = pace.until(self.backoff(pace.failures));
                Turn::Go(State::Recording { outcome, pace })
            }
            Input::Tick => match pace.woken(self.now()) {
                Some(pace) => Turn::Go(State::Recording { outcome, pace }),
                None if pace.until.is_some() => Turn::Go(State::Recording { outcome, pace }),
                None => Turn::Stay(State::Recording { outcome, pace }),
            },
            Input::Recovered | Input::Stranded { .. } => {
                Turn::Go(State::Recording { outcome, pace })
            }
            Input::Surveyed(_)
            | Input::Permitted { .. }
            | Input::PermitStale { .. }
            | Input::Denied { .. }
            | Input::GuardsRead(_)
            | Input::ActAnswered { .. }
            | Input::ActUnknown { .. }
            | Input::ActNotSent { .. }
            | Input::CounterRead { .. }
            | Input::ProbeRead(_)
            | Input::Rejoined { .. }
            | Input::AfterRead(_)
            | Input::Cancel { .. } => Turn::Stay(State::Recording { outcome, pace }),
        }
    }
}
