//! The pivot: the one state from which the command leaves, and what its answer means.

use alloc::{boxed::Box, format};

use crate::{
    Act, Input, Kind, Millis, Session, Snapshot, Verdict, Warrant,
    following::Task,
    pace::Pace,
    preparing::{Preparing, Stage},
    reset::{Desk, State, Turn},
};

impl Desk<'_> {
    pub(crate) fn acting(&mut self, warrant: Warrant, before: Box<Snapshot>, input: Input) -> Turn {
        let act = |counter, lost, now| Act {
            warrant: warrant.clone(),
            before: (*before).clone(),
            sent_at: now,
            counter,
            lost,
            refuted: false,
            silent: false,
            session: Session::Unknown,
        };
        let now = self.now();
        match input {
            Input::ActAnswered { result, counter } => {
                self.answered(result, act(counter, false, now))
            }
            Input::ActUnknown { cause, counter } => self.lost(&cause, act(counter, true, now)),
            // After a crash in this state nobody knows whether the command left (promise P5).
            Input::Recovered => self.lost(
                "the reset service stopped while the command may have been on its way",
                act(0, true, now),
            ),
            Input::ActNotSent { cause } | Input::PermitStale { cause } => {
                self.report(format!("not sent: {cause}"), 0);
                self.run.unsent = self.run.unsent.saturating_add(1);
                self.again(&format!("the command did not leave: {cause}"), None)
            }
            Input::Stranded { cause } => {
                self.report(format!("unknown: {cause}"), 0);
                self.stranded(&cause)
            }
            Input::Denied { cause } => {
                self.report(format!("refused, not sent: {cause}"), 0);
                self.denied(Verdict::Refused, cause)
            }
            Input::Surveyed(_)
            | Input::Permitted { .. }
            | Input::GuardsRead(_)
            | Input::CounterRead { .. }
            | Input::ProbeRead(_)
            | Input::Rejoined { .. }
            | Input::AfterRead(_)
            | Input::Unreachable { .. }
            | Input::Recorded { .. }
            | Input::Tick
            | Input::Cancel { .. } => Turn::Stay(State::Acting { warrant, before }),
        }
    }

    fn answered(&mut self, result: u8, act: Act) -> Turn {
        self.run.unsent = 0;
        let name = result_name(result);
        self.report(format!("answered {result} ({name})"), act.counter);
        self.tell(Kind::Answer, format!("answer: {result} ({name})"));
        match result {
            0 => self.wait_for_rejoin(act),
            // Wait 15 minutes, same tier.
            2 if !self.is_last_attempt() => {
                let until = self.now().plus(self.rules.limits.temporary_failure_ms);
                // A meter may say so and restart all the same: the next guards see that, as they do a late command.
                let denied = Act {
                    lost: true,
                    refuted: true,
                    ..act
                };
                self.run.earlier = Some(Box::new(denied));
                self.again("temporary failure", Some(until))
            }
            3 | 13 => self.denied(
                Verdict::NotAccepted,
                format!("the meter answered {result} ({name}): its access rights do not allow this client to reset it; permanent, not tried again"),
            ),
            4 | 9 | 11 | 12 | 14..=19 => self.finish(
                Verdict::NotAccepted,
                format!("the meter answered {result} ({name}): permanent, not tried again; check its reset profile"),
            ),
            // Nothing could be seen by looking, and what was said is no yes.
            _ if !self.rules.expect.leaves_traces() => self.finish(
                Verdict::NotAccepted,
                format!("the meter answered {result} ({name}), and this tier leaves no trace that tells whether it acted all the same; nothing was sent again"),
            ),
            // hardware-fault, other-reason, codes nobody defined, and "later" where no guards come later: look before
            // saying anything.
            _ => {
                let refuted = result == 2;
                self.lost(&format!("the meter answered {result} ({name}), which does not say whether it acted"), Act { refuted, ..act })
            }
        }
    }

    /// Prepares one more attempt, if one is left. The caller has proof that the last command was not accepted, or did
    /// not leave.
    pub(crate) fn again(&mut self, why: &str, not_before: Option<Millis>) -> Turn {
        // What never left was not refused by the meter: it was not reached.
        if self.is_last_attempt() && self.run.unsent > 0 {
            let sent = self.sent_so_far();
            let attempt = self.run.attempt;
            return self.finish(
                Verdict::Unreachable,
                format!("{why}; attempt {attempt} was the last one, {sent}"),
            );
        }
        if self.is_last_attempt() {
            return self.finish(
                Verdict::NotAccepted,
                format!("{why}; attempt {} was the last one", self.run.attempt),
            );
        }
        let until = not_before.unwrap_or(self.now());
        let seconds = until.since(self.now()) / 1000;
        self.tell(
            Kind::Note,
            format!("{why}; the same tier again in {seconds} s, under a new permit"),
        );
        Turn::Go(State::Preparing(Preparing {
            stage: Stage::Survey,
            pace: Pace::rest(until),
        }))
    }

    /// The end of a reset whose command may have been executed, and that nobody can check any more.
    pub(crate) fn stranded(&mut self, cause: &str) -> Turn {
        self.finish(
            Verdict::Unreachable,
            format!(
                "{cause}: the command of attempt {} may have been executed and could not be checked; read the meter before it is reset again",
                self.run.attempt
            ),
        )
    }

    /// Whether no other attempt may follow the present one.
    pub(crate) fn is_last_attempt(&self) -> bool {
        self.run.attempt >= self.rules.limits.attempts_max
            || self.now() >= self.rules.limits.deadline
    }

    fn lost(&mut self, cause: &str, act: Act) -> Turn {
        self.run.unsent = 0;
        let act = Act { lost: true, ..act };
        self.report(format!("unknown: {cause}"), act.counter);
        self.tell(
            Kind::Lost,
            format!("no answer: {cause}; finding out what happened"),
        );
        let until = self.next_poll();
        self.follow(act, Task::Counter, Pace::rest(until))
    }
}

/// Action-Result (IEC 62056-5-3).
fn result_name(result: u8) -> &'static str {
    match result {
        0 => "success",
        1 => "hardware-fault",
        2 => "temporary-failure",
        3 => "read-write-denied",
        4 => "object-undefined",
        9 => "object-class-inconsistent",
        11 => "object-unavailable",
        12 => "type-unmatched",
        13 => "scope-of-access-violated",
        14 => "data-block-unavailable",
        15 => "long-action-aborted",
        16 => "no-long-action-in-progress",
        250 => "other-reason",
        _ => "undefined",
    }
}
