//! A meter, a network and three services that fail on command, in virtual time.

use std::collections::BTreeSet;

use machine::{
    Clock, Effect, Event, EventLog, Firmware, Input, LoadProfile, LoggedEvent, Mark, Millis,
    Outcome, Party, Relay, Reset, Rules, Session, Snapshot, Survey,
};

/// What goes wrong at one effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The effect is not performed: one of our services is down.
    ServiceDown,
    /// The request is lost on its way to the meter.
    RequestLost,
    /// The answer is lost on its way back.
    AnswerLost,
    /// The request comes in late: with the next association, and the meter restarts a while after that.
    RequestLate,
    /// The process dies before the effect.
    CrashBefore,
    /// The process dies after it, before its result is stored.
    CrashAfter,
    /// The meter says temporary-failure.
    Busy,
    /// Somebody cancels.
    Cancel,
}

/// What kind of meter it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nature {
    /// It forgets its counter in a restart, down to the last multiple of 100.
    pub(crate) lazy_counter: bool,
    /// It shows the next expected counter instead of the last accepted one.
    pub(crate) next_expected: bool,
    /// It has no counter for the public client.
    pub(crate) no_counter: bool,
    /// Only the communication module restarts.
    pub(crate) module_only: bool,
    /// Only the metrology board restarts; the session survives.
    pub(crate) metrology_only: bool,
    /// It accepts the command and does nothing.
    pub(crate) ignores: bool,
    /// Its relay moves in a restart.
    pub(crate) relay_moves: bool,
    /// It loses its load profile in a restart.
    pub(crate) loses_data: bool,
    /// Nothing restarts: a soft reset.
    pub(crate) soft: bool,
    /// It answers temporary-failure, and executes the command.
    pub(crate) says_busy: bool,
    /// Its counter is read in the session of the command.
    pub(crate) counter_proven: bool,
    /// Our side ends every session, and does not know how.
    pub(crate) forgetful: bool,
    /// The permanent result it answers the command with.
    pub(crate) result: u8,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) executed: u32,
    pub(crate) acts: u32,
    pub(crate) permits: BTreeSet<String>,
    pub(crate) acted_under: BTreeSet<String>,
    pub(crate) story: Vec<Event>,
    pub(crate) records: usize,
    /// What a reading before, or after, the command lacks.
    pub(crate) blind_before: Option<fn(&mut Snapshot)>,
    pub(crate) blind: Option<fn(&mut Snapshot)>,
    nature: Nature,
    relay: Relay,
    power_failures: u64,
    started: u64,
    booting_until: u64,
    events: Vec<LoggedEvent>,
    entries: u32,
    /// Highest counter the meter accepted; ours is always above it.
    counter: u32,
    ours: u32,
    /// The counter of a command that is still on its way.
    late: Option<u32>,
    /// When an accepted command is carried out.
    due: Option<u64>,
    session: Session,
}

const BOOT_MS: u64 = 6_000;

impl World {
    pub(crate) fn new(nature: Nature) -> Self {
        Self {
            now: 1_000_000,
            executed: 0,
            acts: 0,
            permits: BTreeSet::new(),
            acted_under: BTreeSet::new(),
            story: Vec::new(),
            records: 0,
            blind_before: None,
            blind: None,
            nature,
            relay: Relay {
                output: true,
                state: 1,
                mode: 4,
            },
            power_failures: 3,
            started: 0,
            booting_until: 0,
            events: vec![LoggedEvent {
                seconds: 5,
                code: 2,
            }],
            entries: 96,
            counter: 1000,
            ours: 1000,
            late: None,
            due: None,
            session: Session::Unknown,
        }
    }

    pub(crate) fn disconnect(&mut self) {
        self.relay = Relay {
            output: false,
            state: 0,
            mode: 4,
        };
    }

    pub(crate) fn relay(&self) -> Relay {
        self.relay
    }

    /// Runs a reset to its end, one fault per effect from `faults`, then none.
    ///
    /// Panics if it does not end.
    pub(crate) fn run(&mut self, rules: Rules, faults: impl IntoIterator<Item = Fault>) -> Outcome {
        let mut faults = faults.into_iter();
        let (mut reset, marks, mut effect) = Reset::begin(rules, Millis(self.now)).into_parts();
        self.store(marks);
        for _ in 0..5_000 {
            if let Some(outcome) = reset.outcome() {
                assert_eq!(effect, None);
                return outcome.clone();
            }
            let doing = effect.expect("a reset that is not over waits for something");
            let fault = if matches!(doing, Effect::Wait { .. }) {
                Fault::None
            } else {
                faults.next().unwrap_or(Fault::None)
            };
            let input = self.perform(&reset, doing, fault);
            if input == Input::Recovered {
                // What is stored is all that survives.
                let stored = serde_json::to_string(&reset).expect("it can be stored");
                reset = serde_json::from_str(&stored).expect("it can be read back");
            }
            let (next, marks, then) = reset.step(Millis(self.now), input).into_parts();
            reset = next;
            self.store(marks);
            effect = then;
        }
        panic!("no end in 5,000 steps: {reset:?}");
    }

    fn store(&mut self, marks: Vec<Mark>) {
        for mark in marks {
            match mark {
                Mark::Event(event) => self.story.push(event),
                Mark::Record(_) => self.records += 1,
                Mark::Snapshot(..) => {}
            }
        }
    }

    fn perform(&mut self, reset: &Reset, effect: Effect, fault: Fault) -> Input {
        if let Effect::Wait { until } = effect {
            self.now = self.now.max(until.0);
            return Input::Tick;
        }
        self.now += 50;
        match fault {
            Fault::CrashBefore => {
                self.now += 2_000;
                return Input::Recovered;
            }
            Fault::Cancel if reset.is_cancellable() => {
                return Input::Cancel {
                    by: "bob".to_owned(),
                };
            }
            Fault::ServiceDown => {
                return match effect {
                    Effect::Act => Input::ActNotSent {
                        cause: "key custody is not reachable".to_owned(),
                    },
                    _ => Input::Unreachable {
                        party: Party::Service,
                        cause: "a service is not reachable".to_owned(),
                    },
                };
            }
            _ => {}
        }
        let input = self.carry_out(reset, effect, fault);
        if fault == Fault::CrashAfter {
            self.now += 2_000;
            return Input::Recovered;
        }
        input
    }

    fn carry_out(&mut self, reset: &Reset, effect: Effect, fault: Fault) -> Input {
        match effect {
            Effect::Authorise { number } => {
                let permit_id = format!("permit-{number}");
                self.permits.insert(permit_id.clone());
                Input::Permitted {
                    permit_id,
                    leaf: u64::from(number),
                }
            }
            Effect::Deliver => Input::Recorded { leaf: 99 },
            Effect::Wait { .. } => Input::Tick,
            Effect::Act => self.act(reset, fault),
            Effect::Survey
            | Effect::OpenAndReadGuards
            | Effect::ReadCounter
            | Effect::Probe
            | Effect::Poll
            | Effect::ReadAfter => self.read(effect, fault),
        }
    }

    fn read(&mut self, effect: Effect, fault: Fault) -> Input {
        if self.due.is_some_and(|due| due <= self.now) {
            self.due = None;
            self.restart();
        }
        if self.now < self.booting_until || matches!(fault, Fault::RequestLost | Fault::AnswerLost)
        {
            self.now += 1_000;
            return Input::Unreachable {
                party: Party::Meter,
                cause: "the meter does not answer".to_owned(),
            };
        }
        if effect == Effect::ReadCounter {
            let shown = self.counter + u32::from(self.nature.next_expected);
            return Input::CounterRead {
                value: (!self.nature.no_counter).then_some(shown),
                public: !self.nature.counter_proven,
                session: self.session(),
            };
        }
        // A late command is older than the association that comes now, if it is not taken before that.
        if let Some(counter) = self.late.take()
            && counter > self.counter
        {
            self.executed += 1;
            self.due = Some(self.now + 3_000);
        }
        // Opening and reading spend counters; the meter has seen them all.
        self.ours += 12;
        self.counter = self.ours;
        match effect {
            Effect::Survey => Input::Surveyed(Survey {
                events: Some(1),
                load_profile: Some(self.entries),
            }),
            Effect::OpenAndReadGuards => Input::GuardsRead(Box::new(self.snapshot())),
            Effect::Probe => Input::ProbeRead(Box::new(self.snapshot())),
            Effect::Poll => Input::Rejoined {
                session: self.session(),
            },
            _ => Input::AfterRead(Box::new(self.snapshot())),
        }
    }

    fn session(&self) -> Session {
        if self.nature.forgetful {
            Session::Unknown
        } else {
            self.session
        }
    }

    fn act(&mut self, reset: &Reset, fault: Fault) -> Input {
        let permit = reset
            .warrant()
            .expect("an act has a permit")
            .permit_id
            .clone();
        assert!(
            self.permits.contains(&permit),
            "an act under a permit nobody signed"
        );
        assert!(self.acted_under.insert(permit), "two acts under one permit");
        self.acts += 1;
        self.ours += 1;
        let counter = self.ours;
        let unknown = || Input::ActUnknown {
            cause: "time-out".to_owned(),
            counter,
        };
        if fault == Fault::RequestLate {
            self.late = Some(counter);
            return unknown();
        }
        if fault == Fault::RequestLost || self.now < self.booting_until {
            return unknown();
        }
        self.counter = counter;
        self.session = match fault {
            Fault::AnswerLost => Session::Unknown,
            _ => Session::LivedOn,
        };
        let result = if fault == Fault::Busy || self.nature.says_busy {
            2
        } else {
            self.nature.result
        };
        if (result == 0 && !self.nature.ignores) || self.nature.says_busy {
            self.execute();
        }
        if fault == Fault::AnswerLost {
            return unknown();
        }
        Input::ActAnswered { result, counter }
    }

    fn execute(&mut self) {
        self.executed += 1;
        self.restart();
    }

    fn restart(&mut self) {
        if self.nature.lazy_counter {
            self.counter -= self.counter % 100;
        }
        if self.nature.soft {
            return;
        }
        if !self.nature.metrology_only {
            self.session = Session::EndedByMeter;
            self.booting_until = self.now + BOOT_MS;
        }
        if self.nature.module_only {
            return;
        }
        self.power_failures += 1;
        self.started = self.now + BOOT_MS;
        let seconds = self.now / 1000;
        self.events.push(LoggedEvent { seconds, code: 1 });
        self.events.push(LoggedEvent {
            seconds: seconds + 6,
            code: 2,
        });
        if self.nature.relay_moves {
            self.relay = Relay {
                output: !self.relay.output,
                state: u8::from(!self.relay.output),
                mode: 4,
            };
        }
        if self.nature.loses_data {
            self.entries = 0;
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.facts();
        let blind = if self.acts == 0 {
            self.blind_before
        } else {
            self.blind
        };
        if let Some(blind) = blind {
            blind(&mut snapshot);
        }
        snapshot
    }

    fn facts(&self) -> Snapshot {
        Snapshot {
            taken_at: Millis(self.now),
            counter: self.counter,
            identity: Some("LKS0000000000001".to_owned()),
            image_transfer: Some(0),
            clock: Some(Clock {
                seconds: Some(self.now / 1000),
                invalid: false,
            }),
            relay: Some(self.relay),
            firmware: Firmware {
                metrology: Some("1.2.0".to_owned()),
                module: Some("4.5.1".to_owned()),
            },
            power_failures: Some(self.power_failures),
            uptime: Some(self.now.saturating_sub(self.started) / 1000),
            events: Some(self.events.clone()),
            event_log: u32::try_from(self.events.len())
                .ok()
                .map(|entries| EventLog {
                    entries,
                    capacity: None,
                }),
            load_profile: Some(LoadProfile {
                entries: self.entries,
                newest: (self.entries > 0).then_some(900),
            }),
        }
    }
}
