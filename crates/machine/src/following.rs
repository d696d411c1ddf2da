//! After the pivot: nothing is commanded any more, only read, until there is a verdict.

use alloc::{
    boxed::Box,
    format,
    string::{String, ToString},
};

use serde::{Deserialize, Serialize};

use crate::{
    Acceptance, Act, Changes, Effect, Expect, Input, Kind, Mark, Millis, Moment, Party, Phase,
    Rules, Session, Snapshot, Verdict,
    compare::{dangers, firmware_changed, relay_changed, unread},
    pace::Pace,
    reset::{Desk, State, Turn},
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Following {
    pub(crate) act: Box<Act>,
    pub(crate) task: Task,
    pub(crate) pace: Pace,
    /// Until then the meter may come back.
    pub(crate) deadline: Millis,
    /// The story has told that it is back.
    pub(crate) back: bool,
    /// When the first association after the command read the meter: a command older than it is shut out since then.
    pub(crate) fenced: Option<Millis>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Reading the invocation counter, before any new association moves it.
    Counter,
    /// Reading everything, knowing what the counter said.
    Probe {
        meter: Option<u32>,
        /// Nothing authenticated that.
        #[serde(default = "yes")]
        public: bool,
    },
    /// Waiting for the meter to come back.
    Poll,
    /// Reading everything, after a rejoin.
    Read,
}

/// A reading nobody said anything about is not trusted.
fn yes() -> bool {
    true
}

impl Task {
    /// What to do when it did not work: reading begins with an association again.
    fn retried(self) -> Self {
        match self {
            Self::Read => Self::Poll,
            Self::Counter | Self::Probe { .. } | Self::Poll => self,
        }
    }
}

/// What a comparison leads to.
enum Finding {
    /// Look again: not everything is there yet.
    NotYet(String),
    /// That is it.
    Verdict(Verdict, String),
}

impl Following {
    pub(crate) fn effect(&self) -> Effect {
        match (self.pace.until, self.task) {
            (Some(until), _) => Effect::Wait { until },
            (None, Task::Counter) => Effect::ReadCounter,
            (None, Task::Probe { .. }) => Effect::Probe,
            (None, Task::Poll) => Effect::Poll,
            (None, Task::Read) => Effect::ReadAfter,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.task {
            Task::Counter | Task::Probe { .. } => Phase::Probing,
            Task::Poll => Phase::Waiting,
            Task::Read => Phase::Validating,
        }
    }
}

impl Desk<'_> {
    pub(crate) fn follow(&mut self, act: Act, task: Task, pace: Pace) -> Turn {
        let deadline = act.sent_at.plus(self.rules.limits.rejoin_ms);
        Turn::Go(State::Following(Following {
            act: Box::new(act),
            task,
            pace,
            deadline,
            back: false,
            fenced: None,
        }))
    }

    /// The meter said yes: it may go silent now. The first look comes after a quarter to a half of its outage.
    pub(crate) fn wait_for_rejoin(&mut self, act: Act) -> Turn {
        let outage = self.rules.limits.outage_ms;
        let wait = self.between(outage / 4, outage / 2);
        let until = self.now().plus(wait);
        let tenths = wait / 100;
        let (kind, what) = if self.rules.expect.leaves_traces() {
            (Kind::Silence, "silence: the meter restarts now")
        } else {
            (Kind::Note, "no restart is expected")
        };
        self.tell(
            kind,
            format!("{what}; first look in {}.{} s", tenths / 10, tenths % 10),
        );
        self.follow(act, Task::Poll, Pace::rest(until))
    }

    pub(crate) fn following(&mut self, mut now: Following, input: Input) -> Turn {
        match (input, now.task) {
            (
                Input::CounterRead {
                    value,
                    public,
                    session,
                },
                Task::Counter,
            ) => {
                // The association that comes now ends a session that lives: what becomes of it after that is our
                // doing.
                if session == Session::EndedByMeter {
                    now.act.session = session;
                }
                self.counter_read(now, value, public)
            }
            (Input::ProbeRead(seen), Task::Probe { meter, public }) => {
                self.probe_read(now, (meter, public), seen)
            }
            (Input::Rejoined { session }, Task::Poll) => self.rejoined(now, session),
            (Input::AfterRead(seen), Task::Read) => {
                self.tell(
                    Kind::Validation,
                    "everything read again in a new association",
                );
                self.conclude_following(now, seen)
            }
            (Input::Unreachable { party, cause }, _) => {
                self.tell_failure(&mut now, party, &cause);
                self.no_answer(now, party, &cause)
            }
            // Reading needs a permit and a meter that lets us in: without them there is nothing to see either.
            (Input::Denied { cause }, _) => {
                self.tell(Kind::Note, format!("{cause}; looking again"));
                self.no_answer(now, Party::Meter, &cause)
            }
            (Input::Stranded { cause }, _) => self.stranded(&cause),
            (Input::PermitStale { cause }, _) => self.no_answer(now, Party::Service, &cause),
            (Input::Tick, _) => match now.pace.woken(self.now()) {
                Some(pace) => Turn::Go(State::Following(Following { pace, ..now })),
                None if now.pace.until.is_some() => Turn::Go(State::Following(now)),
                None => Turn::Stay(State::Following(now)),
            },
            (Input::Recovered, _) => {
                // We were away; the meter gets the time it needs for one restart.
                let grace = self.now().plus(self.rules.limits.outage_ms);
                Turn::Go(State::Following(Following {
                    deadline: now.deadline.max(grace),
                    ..now
                }))
            }
            (
                Input::Surveyed(_)
                | Input::Permitted { .. }
                | Input::GuardsRead(_)
                | Input::ActAnswered { .. }
                | Input::ActUnknown { .. }
                | Input::ActNotSent { .. }
                | Input::CounterRead { .. }
                | Input::ProbeRead(_)
                | Input::Rejoined { .. }
                | Input::AfterRead(_)
                | Input::Recorded { .. }
                | Input::Cancel { .. },
                _,
            ) => Turn::Stay(State::Following(now)),
        }
    }

    fn counter_read(&mut self, now: Following, meter: Option<u32>, public: bool) -> Turn {
        let said = match meter {
            Some(value) => format!("the meter's invocation counter is {value}"),
            None => "the meter shows no invocation counter".to_string(),
        };
        self.tell(
            Kind::Probe,
            format!(
                "{said}; guards ended with {}, the command had {}",
                now.act.before.counter,
                counter_text(now.act.counter)
            ),
        );
        // Stored before any newer association can move the meter's counter.
        Turn::Go(State::Following(Following {
            task: Task::Probe { meter, public },
            pace: Pace::default(),
            ..now
        }))
    }

    fn probe_read(
        &mut self,
        mut now: Following,
        (meter, public): (Option<u32>, bool),
        seen: Box<Snapshot>,
    ) -> Turn {
        let fenced = *now.fenced.get_or_insert(self.now());
        let expect = &self.rules.expect;
        let act = &mut now.act;
        let acceptance = Acceptance::judge(act.before.counter, act.counter, meter);
        act.refuted |= acceptance == Acceptance::NotAccepted;
        let changes = Changes::between(&act.before, &seen);
        self.tell(
            Kind::Probe,
            format!("evidence: {}", changes.describe(&act.before, &seen)),
        );
        if changes.shows(expect) {
            return self.conclude_following(now, seen);
        }
        match acceptance {
            // Anybody on the way can forge that number, and no trace would speak against it.
            Acceptance::NotAccepted if public && !expect.leaves_traces() => self.finish(
                Verdict::NotAccepted,
                "the meter's counter says that the command was not accepted, but nothing authenticates that reading and this tier leaves no trace to check it by; nothing was sent again",
            ),
            // After the last attempt no guards see a restart on a command that came in late.
            Acceptance::NotAccepted if self.is_last_attempt() && self.in_outage(fenced) => {
                self.look_again(now, "no sign of a restart yet")
            }
            Acceptance::NotAccepted => {
                let why = format!(
                    "not accepted: the meter's counter {} is below the command's, and nothing restarted",
                    meter.unwrap_or(0)
                );
                self.report(why.clone(), act.counter);
                self.tell(Kind::Probe, why.clone());
                self.run.earlier = Some(now.act);
                // The command may have come in late, between the counter and the newer association: if the meter
                // restarts on it after all, the next guards see that.
                let settled = self.now().plus(self.rules.limits.outage_ms);
                self.again(&why, Some(settled))
            }
            Acceptance::Accepted if !expect.leaves_traces() => self.conclude_following(now, seen),
            // It may have come in just before the fence: its restart gets the whole outage from there.
            Acceptance::Accepted | Acceptance::Unproven if self.in_outage(fenced) => {
                self.look_again(now, "no sign of a restart yet")
            }
            Acceptance::Accepted => self.finish(
                Verdict::NotAccepted,
                "the command passed the meter's security, yet nothing restarted; nothing was sent again",
            ),
            Acceptance::Unproven => self.finish(
                Verdict::NotAccepted,
                "no sign that the meter executed the command, and no counter that proves it did not; nothing was sent again",
            ),
        }
    }

    fn rejoined(&mut self, mut now: Following, session: Session) -> Turn {
        now.act.session = now.act.session.then(session);
        if !now.back {
            now.back = true;
            let tenths = self.now().since(now.act.sent_at) / 100;
            self.tell(
                Kind::Rejoin,
                format!("rejoined after {}.{} s", tenths / 10, tenths % 10),
            );
        }
        Turn::Go(State::Following(Following {
            task: Task::Read,
            pace: Pace::default(),
            ..now
        }))
    }

    fn conclude_following(&mut self, now: Following, seen: Box<Snapshot>) -> Turn {
        match self.compare(&now.act, &seen) {
            Finding::NotYet(why) if self.now() < now.deadline => self.look_again(now, &why),
            Finding::NotYet(why) => self.finish(
                Verdict::Unreachable,
                format!("it came back, but could not be checked: {why}"),
            ),
            Finding::Verdict(verdict, detail) => {
                self.mark(Mark::Snapshot(Moment::After, seen));
                self.finish(verdict, detail)
            }
        }
    }

    /// For an earlier command that turned out to have been executed.
    pub(crate) fn conclude(&mut self, act: Act, seen: Box<Snapshot>) -> Turn {
        let deadline = self.now().plus(self.rules.limits.outage_ms);
        let now = Following {
            act: Box::new(act),
            task: Task::Read,
            pace: Pace::default(),
            deadline,
            back: true,
            fenced: None,
        };
        self.conclude_following(now, seen)
    }

    fn look_again(&mut self, now: Following, why: &str) -> Turn {
        self.tell(Kind::Note, format!("{why}; looking again"));
        let until = self.next_poll();
        Turn::Go(State::Following(Following {
            task: now.task.retried(),
            pace: Pace::rest(until),
            ..now
        }))
    }

    fn no_answer(&mut self, now: Following, party: Party, cause: &str) -> Turn {
        let over = match party {
            Party::Meter => self.now() >= now.deadline,
            Party::Service => self.now() >= self.rules.limits.deadline,
        };
        if over {
            return self.finish(
                Verdict::Unreachable,
                format!(
                    "not back {} s after the command ({cause}): check for a last-gasp event, then send somebody to check fuse and antenna",
                    self.now().since(now.act.sent_at) / 1000
                ),
            );
        }
        let pace = now.pace.failed(party);
        let until = match party {
            Party::Meter => self.next_poll(),
            Party::Service => self.backoff(pace.failures),
        };
        Turn::Go(State::Following(Following {
            task: now.task.retried(),
            pace: pace.until(until),
            ..now
        }))
    }

    fn tell_failure(&mut self, now: &mut Following, party: Party, cause: &str) {
        match party {
            Party::Meter => {
                if !now.act.silent {
                    self.tell(
                        Kind::Silence,
                        format!("silence: meter is booting ({cause})"),
                    );
                }
                now.act.silent = true;
                now.back = false;
            }
            Party::Service => self.tell(Kind::Note, format!("{cause}; again soon")),
        }
    }

    fn in_outage(&self, since: Millis) -> bool {
        self.now() < since.plus(self.rules.limits.outage_ms)
    }

    /// Compares the meter with what it was, the worst first.
    fn compare(&mut self, act: &Act, seen: &Snapshot) -> Finding {
        let before = &act.before;
        if let Some(what) = unread(before, seen) {
            return Finding::NotYet(format!("{what} cannot be read"));
        }
        if before.identity != seen.identity {
            return Finding::Verdict(
                Verdict::Unreachable,
                "another device answers at the meter's address: check the wiring of the address"
                    .to_string(),
            );
        }
        if let Some(changed) = relay_changed(before, seen) {
            return Finding::Verdict(Verdict::SupplyChanged, changed);
        }
        let changes = Changes::between(before, seen);
        let expect = &self.rules.expect;
        let missing = changes.missing(expect, act.session);
        if expect.leaves_traces() && !missing.is_empty() && self.in_outage(act.sent_at) {
            return Finding::NotYet("not everything shows the restart yet".to_string());
        }
        let module_restarted = expect.session_ends && act.session == Session::EndedByMeter;
        if expect.leaves_traces() && !changes.shows(expect) && !module_restarted {
            let unproven = module_unproven(expect, act);
            return Finding::Verdict(
                Verdict::NotAccepted,
                format!(
                    "the meter said yes, yet nothing restarted; nothing was sent again{unproven}"
                ),
            );
        }
        let dangers = dangers(before, seen, &changes, &self.rules.tripwires);
        if !dangers.is_empty() {
            return Finding::Verdict(Verdict::DataRisk, dangers.join("; "));
        }
        if let Some(changed) = firmware_changed(before, seen) {
            return Finding::Verdict(Verdict::Partial, changed);
        }
        if !missing.is_empty() {
            return Finding::Verdict(Verdict::Partial, missing.join("; "));
        }
        if expect.leaves_traces() && !changes.shows(expect) {
            return Finding::Verdict(
                Verdict::Partial,
                "metrology board: nothing proves that it restarted".to_string(),
            );
        }
        self.tell_all(act, seen, &changes);
        let verdict = if act.lost {
            Verdict::ZombieResolved
        } else {
            Verdict::Succeeded
        };
        let summary = summary(act, seen, self.rules);
        let unproven = module_unproven(&self.rules.expect, act);
        Finding::Verdict(verdict, format!("{summary}{unproven}"))
    }

    fn tell_all(&mut self, act: &Act, seen: &Snapshot, changes: &Changes) {
        if let Some(relay) = seen.relay {
            self.tell(Kind::Validation, format!("relay unchanged: {relay}"));
        }
        self.tell(
            Kind::Validation,
            format!("restart: {}", changes.describe(&act.before, seen)),
        );
        if let Some((before, after)) = act.before.load_profile.zip(seen.load_profile) {
            self.tell(
                Kind::Validation,
                format!(
                    "load profile intact: {} -> {} entries",
                    before.entries, after.entries
                ),
            );
        }
        let clock = match seen.clock {
            Some(clock) if !clock.invalid && clock.seconds.is_some() => "clock valid",
            // it was so before, or a danger would have been told
            Some(_) => "clock not valid, as before",
            None => "clock not read",
        };
        self.tell(
            Kind::Validation,
            format!("firmware of both boards unchanged, {clock}"),
        );
    }
}

fn summary(act: &Act, seen: &Snapshot, rules: &Rules) -> String {
    let (tier, traces) = (rules.tier.name(), rules.expect.leaves_traces());
    let how = if act.refuted {
        // A late command, or a power cut at this moment: the traces do not tell which.
        format!(
            "restarted, cause unproven: by its counter or its answer the meter did not accept the command of the {tier} reset; nothing was sent again"
        )
    } else if act.lost && !traces {
        format!(
            "no answer told, the meter's counter says that the command of the {tier} reset was accepted; nothing authenticates that, and this tier leaves no trace to check it by"
        )
    } else if act.lost {
        format!("no answer told, the evidence shows exactly one executed {tier} reset")
    } else {
        format!("one executed {tier} reset")
    };
    let relay = seen
        .relay
        .map_or_else(String::new, |relay| format!("; relay unchanged, {relay}"));
    format!("{how}{relay}; data intact")
}

/// What to add where nothing but the end of the session would tell about the communication module, and nobody saw it.
fn module_unproven(expect: &Expect, act: &Act) -> &'static str {
    if expect.session_ends && act.session == Session::Unknown {
        "; whether the communication module restarted is unproven: nobody saw the meter end the session of the command"
    } else {
        ""
    }
}

fn counter_text(counter: u32) -> String {
    match counter {
        0 => "one that is not known".to_string(),
        value => format!("{value}"),
    }
}
