//! One scenario per fault: what the verdict is, and how often the meter was commanded.

use crate::world::{Fault, Nature, World};
use machine::{EventLog, Expect, Limits, Millis, Outcome, Rules, Snapshot, Tier, Verdict};

fn rules() -> Rules {
    let rules = Rules::example();
    let limits = Limits {
        deadline: Millis(8_000_000),
        ..rules.limits
    };
    Rules { limits, ..rules }
}

/// Effects before the act: survey, authorise, guards.
fn at_act(fault: Fault) -> Vec<Fault> {
    vec![Fault::None, Fault::None, Fault::None, fault]
}

fn play(nature: Nature, faults: Vec<Fault>) -> (World, Outcome) {
    let mut world = World::new(nature);
    let outcome = world.run(rules(), faults);
    (world, outcome)
}

fn expect(nature: Nature, faults: Vec<Fault>, verdict: Verdict, acts: u32, executed: u32) -> World {
    let (world, outcome) = play(nature, faults);
    assert_eq!(
        outcome.verdict,
        Some(verdict),
        "{outcome:?}\n{:#?}",
        world.story
    );
    assert_eq!(
        (world.acts, world.executed),
        (acts, executed),
        "{:#?}",
        world.story
    );
    world
}

#[test]
fn a_good_meter_is_reset_once() {
    let world = expect(Nature::default(), vec![], Verdict::Succeeded, 1, 1);
    let kinds: Vec<&str> = world.story.iter().map(|e| e.kind.name()).collect();
    for kind in [
        "PLANNED",
        "PERMIT",
        "GUARD",
        "ACT",
        "ANSWER",
        "SILENCE",
        "REJOIN",
        "VALIDATION",
        "VERDICT",
        "RECORDED",
    ] {
        assert!(
            kinds.contains(&kind),
            "{kind} is missing in {:#?}",
            world.story
        );
    }
    assert_eq!(
        world.records, 2,
        "one outcome and one verdict are owed to the trail"
    );
}

#[test]
fn a_disconnected_meter_stays_disconnected() {
    let mut world = World::new(Nature::default());
    world.disconnect();
    let outcome = world.run(rules(), []);
    assert_eq!(outcome.verdict, Some(Verdict::Succeeded));
    assert!(!world.relay().output);
}

#[test]
fn a_lost_answer_and_a_lost_request_end_differently() {
    for next_expected in [false, true] {
        let nature = Nature {
            next_expected,
            ..Nature::default()
        };
        expect(
            nature,
            at_act(Fault::AnswerLost),
            Verdict::ZombieResolved,
            1,
            1,
        );
    }
    expect(
        Nature::default(),
        at_act(Fault::RequestLost),
        Verdict::Succeeded,
        2,
        1,
    );
}

#[test]
fn a_lost_request_without_proof_is_not_sent_again() {
    let blind = Nature {
        no_counter: true,
        ..Nature::default()
    };
    expect(
        blind,
        at_act(Fault::RequestLost),
        Verdict::NotAccepted,
        1,
        0,
    );
    // Under this reading of the counter the proof does not hold: better no second command.
    let ahead = Nature {
        next_expected: true,
        ..Nature::default()
    };
    expect(
        ahead,
        at_act(Fault::RequestLost),
        Verdict::NotAccepted,
        1,
        0,
    );
}

#[test]
fn a_counter_that_rolls_back_is_no_proof() {
    let lazy = Nature {
        lazy_counter: true,
        ..Nature::default()
    };
    expect(
        lazy,
        at_act(Fault::AnswerLost),
        Verdict::ZombieResolved,
        1,
        1,
    );
}

fn soft() -> Rules {
    Rules {
        tier: Tier::Soft,
        expect: Expect {
            power_failure: false,
            start_events: vec![],
            uptime: false,
            session_ends: false,
        },
        ..rules()
    }
}

#[test]
fn what_leaves_no_trace_is_no_success_without_a_word_for_it() {
    let limits = Limits {
        attempts_max: 1,
        ..rules().limits
    };
    let crash = vec![Fault::None, Fault::None, Fault::None, Fault::CrashBefore];
    for (result, faults) in [(1, vec![]), (2, vec![]), (250, vec![]), (0, crash)] {
        let mut world = World::new(Nature {
            soft: true,
            result,
            // as if a release had spent one more
            next_expected: true,
            ..Nature::default()
        });
        let outcome = world.run(Rules { limits, ..soft() }, faults);
        assert_eq!(
            (outcome.verdict, world.executed),
            (Some(Verdict::NotAccepted), 0),
            "{result} {outcome:?}"
        );
    }
}

#[test]
fn a_soft_reset_is_judged_by_the_counter_alone() {
    let rules = soft();
    let (lazy, proven) = (true, true);
    for (lazy_counter, counter_proven, fault, verdict, acts, executed) in [
        (!lazy, !proven, Fault::None, Verdict::Succeeded, 1, 1),
        (
            !lazy,
            !proven,
            Fault::AnswerLost,
            Verdict::ZombieResolved,
            1,
            1,
        ),
        (!lazy, proven, Fault::RequestLost, Verdict::Succeeded, 2, 1),
        // Nothing authenticates what the public client reads: not sent again.
        (
            !lazy,
            !proven,
            Fault::RequestLost,
            Verdict::NotAccepted,
            1,
            0,
        ),
        // It was executed, and the counter that would tell went back: unproven, and not sent again.
        (lazy, !proven, Fault::AnswerLost, Verdict::NotAccepted, 1, 1),
    ] {
        let mut world = World::new(Nature {
            soft: true,
            lazy_counter,
            counter_proven,
            ..Nature::default()
        });
        let outcome = world.run(rules.clone(), at_act(fault));
        assert_eq!(outcome.verdict, Some(verdict), "{fault:?} {outcome:?}");
        assert_eq!((world.acts, world.executed), (acts, executed), "{fault:?}");
    }
}

#[test]
fn a_command_that_comes_in_late_is_not_sent_again() {
    let (world, outcome) = play(Nature::default(), at_act(Fault::RequestLate));
    assert_eq!(
        (outcome.verdict, world.acts, world.executed),
        (Some(Verdict::ZombieResolved), 1, 1),
        "{outcome:?}"
    );
    // The counter said no, the traces say that it restarted: nobody knows why.
    let said = &outcome.detail;
    assert!(
        said.contains("restarted, cause unproven") && !said.contains("exactly one"),
        "{said}"
    );
}

#[test]
fn a_crash_before_the_command_left_sends_it_once() {
    expect(
        Nature::default(),
        at_act(Fault::CrashBefore),
        Verdict::Succeeded,
        1,
        1,
    );
}

#[test]
fn a_crash_after_the_command_left_does_not_send_it_again() {
    expect(
        Nature::default(),
        at_act(Fault::CrashAfter),
        Verdict::ZombieResolved,
        1,
        1,
    );
}

#[test]
fn a_service_that_is_down_only_costs_time() {
    for position in 0..8 {
        let mut faults = vec![Fault::None; position];
        faults.extend([Fault::ServiceDown; 3]);
        let (world, outcome) = play(Nature::default(), faults);
        assert_eq!(
            world.executed,
            if position == 3 { 1 } else { world.executed }
        );
        assert!(
            matches!(outcome.verdict, Some(Verdict::Succeeded)),
            "{position}: {outcome:?} {:#?}",
            world.story
        );
    }
}

#[test]
fn temporary_failure_waits_a_quarter_of_an_hour() {
    let (world, outcome) = play(Nature::default(), at_act(Fault::Busy));
    assert_eq!(outcome.verdict, Some(Verdict::Succeeded));
    assert_eq!((world.acts, world.executed), (2, 1));
    assert!(world.now >= 1_900_000);
    let busy = Nature {
        result: 2,
        ..Nature::default()
    };
    expect(busy, vec![], Verdict::NotAccepted, 3, 0);
}

#[test]
fn permanent_results_are_not_tried_again() {
    for (result, exit_code) in [(3, 1), (13, 1), (4, 4), (9, 4), (11, 4)] {
        let nature = Nature {
            result,
            ..Nature::default()
        };
        let (world, outcome) = play(nature, vec![]);
        assert_eq!(outcome.verdict, Some(Verdict::NotAccepted));
        assert_eq!((outcome.exit_code(), world.acts), (exit_code, 1));
    }
}

#[test]
fn an_answer_that_says_nothing_is_looked_into() {
    let odd = Nature {
        result: 250,
        ..Nature::default()
    };
    expect(odd, vec![], Verdict::NotAccepted, 1, 0);
}

#[test]
fn harm_is_seen() {
    let relay = Nature {
        relay_moves: true,
        ..Nature::default()
    };
    expect(relay, vec![], Verdict::SupplyChanged, 1, 1);
    let data = Nature {
        loses_data: true,
        ..Nature::default()
    };
    expect(data, vec![], Verdict::DataRisk, 1, 1);
    let partial = Nature {
        module_only: true,
        ..Nature::default()
    };
    let (_, outcome) = play(partial, vec![]);
    assert_eq!(outcome.verdict, Some(Verdict::Partial));
    assert!(outcome.detail.contains("metrology board"), "{outcome:?}");
    let partial = Nature {
        metrology_only: true,
        ..Nature::default()
    };
    let (_, outcome) = play(partial, vec![]);
    assert_eq!(outcome.verdict, Some(Verdict::Partial));
    assert!(
        outcome.detail.contains("communication module"),
        "{outcome:?}"
    );
    let ignores = Nature {
        ignores: true,
        ..Nature::default()
    };
    expect(ignores, vec![], Verdict::NotAccepted, 1, 0);
}

#[test]
fn a_silent_meter_is_given_up() {
    let (world, outcome) = play(Nature::default(), vec![Fault::RequestLost; 5]);
    assert_eq!(
        (outcome.verdict, outcome.exit_code()),
        (Some(Verdict::Unreachable), 2)
    );
    assert_eq!(world.acts, 0);
    let mut gone = vec![Fault::None; 4];
    gone.extend([Fault::RequestLost; 400]);
    let (world, outcome) = play(Nature::default(), gone);
    assert_eq!(
        (outcome.verdict, world.acts),
        (Some(Verdict::Unreachable), 1)
    );
    assert!(outcome.detail.contains("last-gasp"), "{outcome:?}");
}

#[test]
fn cancel_works_until_the_pivot_and_not_after() {
    for position in 0..3 {
        let mut faults = vec![Fault::None; position];
        faults.push(Fault::Cancel);
        let (world, outcome) = play(Nature::default(), faults);
        assert_eq!(
            (outcome.verdict, outcome.exit_code(), world.acts),
            (None, 7, 0)
        );
    }
    expect(
        Nature::default(),
        at_act(Fault::Cancel),
        Verdict::Succeeded,
        1,
        1,
    );
}

/// What one reading after the command lacks.
fn without(change: fn(&mut Snapshot)) -> Outcome {
    let rules = rules();
    let mut world = World::new(Nature::default());
    world.blind = Some(change);
    world.run(rules, [])
}

#[test]
fn evidence_that_is_gone_is_no_success() {
    let nothing = without(|seen| {
        seen.power_failures = None;
        seen.uptime = None;
        seen.events = None;
    });
    assert_eq!(nothing.verdict, Some(Verdict::Unreachable), "{nothing:?}");
    // An event log that was cleared cannot be read from where it ended before.
    let log = without(|seen| seen.events = None);
    assert_eq!(log.verdict, Some(Verdict::Unreachable), "{log:?}");
    assert!(log.detail.contains("the event log"), "{log:?}");
}

#[test]
fn an_event_log_that_lost_half_is_a_risk() {
    let play = |capacity: Option<u32>| {
        let full: fn(&mut Snapshot) = match capacity {
            None => |seen| seen.event_log = log(20, None),
            Some(_) => |seen| seen.event_log = log(20, Some(20)),
        };
        let mut world = World::new(Nature::default());
        world.blind_before = Some(full);
        world.blind = Some(|seen| seen.event_log = log(12, None));
        world.run(rules(), [])
    };
    let outcome = play(None);
    assert_eq!(outcome.verdict, Some(Verdict::DataRisk), "{outcome:?}");
    assert!(outcome.detail.contains("20 -> 12"), "{outcome:?}");
    // A full one may drop a block for what comes.
    let outcome = play(Some(20));
    assert_eq!(outcome.verdict, Some(Verdict::Succeeded), "{outcome:?}");
    let gone = without(|seen| seen.event_log = None);
    assert_eq!(gone.verdict, Some(Verdict::Unreachable), "{gone:?}");
}

fn log(entries: u32, capacity: Option<u32>) -> Option<EventLog> {
    Some(EventLog { entries, capacity })
}

#[test]
fn a_tier_whose_traces_cannot_be_read_is_refused() {
    // A warm restart raises no power-failure counter: reading that one alone would tell nothing.
    let mut world = World::new(Nature::default());
    world.blind_before = Some(|seen| {
        seen.uptime = None;
        seen.events = None;
    });
    let rules = Rules {
        tier: Tier::Warm,
        expect: Expect {
            power_failure: false,
            start_events: vec![15],
            uptime: true,
            session_ends: true,
        },
        ..rules()
    };
    let outcome = world.run(rules, []);
    assert_eq!(
        (outcome.verdict, world.acts),
        (Some(Verdict::Refused), 0),
        "{outcome:?}"
    );
}

#[test]
fn a_meter_that_says_later_and_restarts_is_not_reset_twice() {
    let liar = Nature {
        says_busy: true,
        ..Nature::default()
    };
    expect(liar, vec![], Verdict::ZombieResolved, 1, 1);
}

#[test]
fn after_the_last_attempt_somebody_still_looks() {
    let once = || {
        let rules = rules();
        let limits = Limits {
            attempts_max: 1,
            ..rules.limits
        };
        Rules { limits, ..rules }
    };
    let liar = Nature {
        says_busy: true,
        ..Nature::default()
    };
    for (nature, faults) in [
        (liar, vec![]),
        (Nature::default(), at_act(Fault::RequestLate)),
    ] {
        let mut world = World::new(nature);
        let outcome = world.run(once(), faults);
        assert_eq!(
            (outcome.verdict, world.acts, world.executed),
            (Some(Verdict::ZombieResolved), 1, 1),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_session_that_ended_on_our_side_proves_nothing() {
    let forgetful = || Nature {
        forgetful: true,
        ..Nature::default()
    };
    // Neither for a restart: nothing happened, and only our own service did.
    let ignores = Nature {
        ignores: true,
        ..forgetful()
    };
    let (_, outcome) = play(ignores, vec![]);
    assert_eq!(outcome.verdict, Some(Verdict::NotAccepted), "{outcome:?}");
    // Nor against one: everything else proves it, and the verdict names what it does not know.
    for faults in [vec![], at_act(Fault::AnswerLost)] {
        let (_, known) = play(Nature::default(), faults.clone());
        let (_, outcome) = play(forgetful(), faults);
        assert_eq!(outcome.verdict, known.verdict, "{outcome:?}");
        assert!(!known.detail.contains("unproven"), "{known:?}");
        assert!(
            outcome
                .detail
                .contains("communication module restarted is unproven"),
            "{outcome:?}"
        );
    }
}

#[test]
fn what_never_left_was_not_refused_by_the_meter() {
    let attempt = || at_act(Fault::ServiceDown);
    let thrice = [attempt(), attempt(), attempt()].concat();
    let (world, outcome) = play(Nature::default(), thrice);
    assert_eq!(
        (outcome.verdict, world.acts),
        (Some(Verdict::Unreachable), 0),
        "{outcome:?}"
    );
    assert!(outcome.detail.contains("nothing was sent"), "{outcome:?}");
    // One that left before is told apart.
    let mixed = [at_act(Fault::Busy), attempt(), attempt()].concat();
    let (world, outcome) = play(Nature::default(), mixed);
    assert_eq!(
        (outcome.verdict, world.acts),
        (Some(Verdict::Unreachable), 1),
        "{outcome:?}"
    );
    assert!(outcome.detail.contains("after attempt 1"), "{outcome:?}");
}

#[test]
fn what_was_sent_is_not_denied_afterwards() {
    // Cancelled while it waits to try again.
    let mut faults = at_act(Fault::Busy);
    faults.push(Fault::Cancel);
    let (world, outcome) = play(Nature::default(), faults);
    assert_eq!((outcome.verdict, world.acts), (None, 1));
    let said = &outcome.detail;
    assert!(
        said.contains("bob") && said.contains("after attempt 1"),
        "{said}"
    );
    // The meter goes silent after it.
    let mut faults = at_act(Fault::Busy);
    faults.extend([Fault::RequestLost; 5]);
    let (_, outcome) = play(Nature::default(), faults);
    assert_eq!(outcome.verdict, Some(Verdict::Unreachable));
    assert!(outcome.detail.contains("after attempt 1"), "{outcome:?}");
}
