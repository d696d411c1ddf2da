//! What must hold whatever happens.

use std::collections::BTreeSet;

use crate::world::{Fault, Nature, World};
use machine::{
    Acceptance, Clock, Effect, Firmware, Input, Limits, LoadProfile, LoggedEvent, Mark, Millis,
    Party, Record, Relay, Reset, Rules, Session, Snapshot, Survey, Tier, Verdict,
};
use proptest::prelude::*;

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        6 => Just(Fault::None),
        1 => Just(Fault::ServiceDown),
        1 => Just(Fault::RequestLost),
        1 => Just(Fault::AnswerLost),
        1 => Just(Fault::RequestLate),
        1 => Just(Fault::CrashBefore),
        1 => Just(Fault::CrashAfter),
        1 => Just(Fault::Busy),
    ]
}

fn nature() -> impl Strategy<Value = Nature> {
    (
        any::<[bool; 10]>(),
        prop_oneof![5 => Just(0_u8), 1 => any::<u8>()],
    )
        .prop_map(|(b, result)| Nature {
            lazy_counter: b[0],
            next_expected: b[1],
            no_counter: b[2],
            module_only: b[3] && b[4],
            metrology_only: b[7] && !b[3] && !b[4],
            ignores: b[4] && b[5],
            relay_moves: b[5] && b[6],
            loses_data: b[6] && b[0],
            soft: false,
            // A liar whose metrology board goes on leaves nothing to be seen by.
            says_busy: b[8] && b[3] && !b[4],
            forgetful: b[9],
            counter_proven: false,
            result,
        })
}

fn rules(seed: u64) -> Rules {
    let rules = Rules::example();
    let limits = Limits {
        deadline: Millis(8_000_000),
        ..rules.limits
    };
    Rules {
        limits,
        seed,
        ..rules
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(250) })]

    /// A meter of any nature, a network and services that fail at random, crashes anywhere.
    #[test]
    fn at_most_one_execution_and_always_an_end(
        nature in nature(), faults in prop::collection::vec(fault(), 0..40), seed in any::<u64>()
    ) {
        let honest = !nature.ignores && !nature.module_only && !nature.metrology_only && nature.result == 0;
        // A late command that restarts nothing but the module leaves nothing to be seen by.
        let faults = faults.into_iter().map(|fault| match fault {
            Fault::RequestLate if nature.module_only => Fault::RequestLost,
            fault => fault,
        });
        let mut world = World::new(nature.clone());
        let relay = world.relay();
        let outcome = world.run(rules(seed), faults);
        prop_assert!(world.executed <= 1, "{:#?}", world.story);
        prop_assert!(world.acts <= 3);
        if world.executed == 0 {
            prop_assert!(!matches!(outcome.verdict, Some(Verdict::Succeeded | Verdict::ZombieResolved)), "{outcome:?}");
        }
        if world.executed == 1 && honest && !matches!(outcome.verdict, Some(Verdict::Unreachable)) {
            let right = if nature.relay_moves {
                matches!(outcome.verdict, Some(Verdict::SupplyChanged))
            } else if nature.loses_data {
                matches!(outcome.verdict, Some(Verdict::DataRisk))
            } else {
                matches!(outcome.verdict, Some(Verdict::Succeeded | Verdict::ZombieResolved))
            };
            prop_assert!(right, "{outcome:?} {:#?}", world.story);
        }
        if !nature.relay_moves {
            prop_assert_eq!(relay, world.relay());
        }
    }
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let optional = |range: std::ops::Range<u64>| prop::option::weighted(0.9, range);
    (
        (
            0..3_000_000_u64,
            0..50_u32,
            prop::option::weighted(0.9, prop_oneof![Just("A"), Just("B")]),
        ),
        (
            prop::option::weighted(0.9, 0..7_u8),
            optional(0..3_000),
            any::<bool>(),
        ),
        prop::option::weighted(0.9, (any::<bool>(), 0..4_u8, 0..9_u8)),
        (
            optional(0..5),
            optional(0..100),
            prop::option::weighted(0.9, 0..4_u32),
        ),
        prop::collection::vec(
            (0..3_u64, prop_oneof![Just(1_u16), Just(2), Just(255)]),
            0..4,
        ),
    )
        .prop_map(
            |(
                (at, counter, identity),
                (image, clock, invalid),
                relay,
                (power, uptime, entries),
                events,
            )| Snapshot {
                taken_at: Millis(at),
                counter,
                identity: identity.map(str::to_owned),
                image_transfer: image,
                clock: clock.map(|seconds| Clock {
                    seconds: Some(seconds),
                    invalid,
                }),
                relay: relay.map(|(output, state, mode)| Relay {
                    output,
                    state,
                    mode,
                }),
                firmware: Firmware {
                    metrology: Some("1".to_owned()),
                    module: Some("2".to_owned()),
                },
                power_failures: power,
                uptime,
                events: Some(
                    events
                        .into_iter()
                        .map(|(seconds, code)| LoggedEvent { seconds, code })
                        .collect(),
                ),
                event_log: None,
                load_profile: entries.map(|entries| LoadProfile {
                    entries,
                    newest: None,
                }),
            },
        )
}

fn session() -> impl Strategy<Value = Session> {
    prop_oneof![
        Just(Session::LivedOn),
        Just(Session::EndedByMeter),
        Just(Session::Unknown)
    ]
}

fn input() -> impl Strategy<Value = Input> {
    let cause = || "x".to_owned();
    let party = prop_oneof![Just(Party::Meter), Just(Party::Service)];
    prop_oneof![
        Just(Input::Surveyed(Survey::default())),
        any::<u64>().prop_map(|leaf| Input::Permitted {
            permit_id: format!("p{leaf}"),
            leaf
        }),
        Just(Input::PermitStale { cause: cause() }),
        Just(Input::Denied { cause: cause() }),
        snapshot().prop_map(|s| Input::GuardsRead(Box::new(s))),
        (any::<u8>(), any::<u32>())
            .prop_map(|(result, counter)| Input::ActAnswered { result, counter }),
        any::<u32>().prop_map(move |counter| Input::ActUnknown {
            cause: cause(),
            counter
        }),
        Just(Input::ActNotSent { cause: cause() }),
        (prop::option::of(0..60_u32), any::<bool>(), session()).prop_map(
            |(value, public, session)| Input::CounterRead {
                value,
                public,
                session
            }
        ),
        snapshot().prop_map(|s| Input::ProbeRead(Box::new(s))),
        session().prop_map(|session| Input::Rejoined { session }),
        snapshot().prop_map(|s| Input::AfterRead(Box::new(s))),
        party.prop_map(move |party| Input::Unreachable {
            party,
            cause: cause()
        }),
        any::<u64>().prop_map(|leaf| Input::Recorded { leaf }),
        Just(Input::Stranded { cause: cause() }),
        Just(Input::Tick),
        Just(Input::Recovered),
        Just(Input::Cancel { by: cause() }),
    ]
}

/// An input that the effect could lead to, or with some luck any.
fn fitting(effect: Option<Effect>, drawn: Input, snapshot: Snapshot, odd: bool) -> Input {
    if odd {
        return drawn;
    }
    let snapshot = Box::new(snapshot);
    match (effect, drawn) {
        (_, failed @ (Input::Unreachable { .. } | Input::Recovered | Input::ActNotSent { .. })) => {
            failed
        }
        (Some(Effect::Survey), _) => Input::Surveyed(Survey::default()),
        (Some(Effect::Authorise { number }), _) => Input::Permitted {
            permit_id: format!("permit-{number}"),
            leaf: u64::from(number),
        },
        (Some(Effect::OpenAndReadGuards), _) => Input::GuardsRead(snapshot),
        (Some(Effect::Act), Input::ActAnswered { result, counter }) => Input::ActAnswered {
            result: result % 4,
            counter,
        },
        (Some(Effect::Act), drawn) => drawn,
        (Some(Effect::Wait { .. }), _) => Input::Tick,
        (Some(Effect::ReadCounter), read @ Input::CounterRead { .. }) => read,
        (Some(Effect::ReadCounter), _) => Input::CounterRead {
            value: Some(snapshot.counter),
            public: true,
            session: Session::Unknown,
        },
        (Some(Effect::Probe), _) => Input::ProbeRead(snapshot),
        (Some(Effect::Poll), _) => Input::Rejoined {
            session: Session::EndedByMeter,
        },
        (Some(Effect::ReadAfter), _) => Input::AfterRead(snapshot),
        (Some(Effect::Deliver), _) => Input::Recorded { leaf: 1 },
        (None, drawn) => drawn,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(250) })]

    /// Inputs that make no sense, meters that lie, clocks that jump: never a panic, never a second command without
    /// proof, never two under one permit.
    #[test]
    fn nothing_makes_it_act_twice_without_proof(
        drawn in prop::collection::vec((input(), snapshot(), any::<bool>(), any::<bool>(), 0..400_000_u64), 0..120),
        tier in prop_oneof![Just(Tier::Soft), Just(Tier::Warm), Just(Tier::Cold)],
    ) {
        let rules = Rules { tier, ..rules(7) };
        let (mut reset, _, mut effect) = Reset::begin(rules, Millis(0)).into_parts();
        let mut now = 0;
        let mut acted_under = BTreeSet::new();
        let mut acts = 0_u32;
        let mut proofs = 0_u32;
        let mut counters = (0, 0, None);
        for (drawn, seen, odd, backwards, jump) in drawn {
            now = if backwards { jump } else { now + jump };
            let input = fitting(effect, drawn, seen, odd);
            let was_acting = effect == Some(Effect::Act);
            match &input {
                Input::GuardsRead(seen) => counters.0 = seen.counter,
                Input::ActAnswered { counter, .. } | Input::ActUnknown { counter, .. } => counters.1 = *counter,
                Input::Recovered if was_acting => counters.1 = 0,
                Input::CounterRead { value, .. } => counters.2 = *value,
                _ => {}
            }
            let proven = match &input {
                Input::ActNotSent { .. } | Input::PermitStale { .. } | Input::ActAnswered { result: 2, .. } => was_acting,
                Input::ProbeRead(_) => Acceptance::judge(counters.0, counters.1, counters.2) == Acceptance::NotAccepted,
                _ => false,
            };
            let (next, marks, then) = reset.step(Millis(now), input).into_parts();
            proofs += u32::from(proven);
            prop_assert!(marks.iter().all(|m| !matches!(m, Mark::Record(Record::Verdict(_))) || then == Some(Effect::Deliver)));
            if then == Some(Effect::Act) {
                acts += 1;
                let permit = next.warrant().map(|w| w.permit_id.clone()).unwrap_or_default();
                let number = next.warrant().map(|w| w.number).unwrap_or_default();
                prop_assert!(acted_under.insert((permit, number)), "two acts under one permit");
                prop_assert!(acts <= 1 + proofs, "a second command without proof");
                prop_assert!(acts <= 3);
                prop_assert!(!next.is_cancellable());
            }
            if then.is_some() || next.outcome().is_some() {
                effect = then;
            }
            reset = next;
            let stored = serde_json::to_string(&reset).expect("it can be stored");
            prop_assert_eq!(&serde_json::from_str::<Reset>(&stored).expect("it can be read back"), &reset);
        }
    }

    /// Whatever state it is in, a world in which everything fails brings it to an end.
    #[test]
    fn every_state_has_a_way_to_end(
        drawn in prop::collection::vec((input(), snapshot()), 0..20), party in prop_oneof![Just(Party::Meter), Just(Party::Service)]
    ) {
        let (mut reset, _, mut effect) = Reset::begin(rules(3), Millis(0)).into_parts();
        for (drawn, seen) in drawn {
            let (next, _, then) = reset.step(Millis(1), fitting(effect, drawn, seen, false)).into_parts();
            reset = next;
            effect = then.or(effect);
        }
        let (next, _, then) = reset.step(Millis(1), Input::Recovered).into_parts();
        reset = next;
        effect = then;
        let mut now = Millis(1);
        for _ in 0..2_000 {
            let input = match effect {
                None => break,
                Some(Effect::Wait { until }) => { now = now.max(until); Input::Tick }
                Some(Effect::Deliver) => Input::Recorded { leaf: 1 },
                Some(Effect::Act) => Input::ActUnknown { cause: "x".to_owned(), counter: 0 },
                Some(_) => Input::Unreachable { party, cause: "x".to_owned() },
            };
            let (next, _, then) = reset.step(now, input).into_parts();
            reset = next;
            effect = then;
        }
        prop_assert!(reset.outcome().is_some(), "{reset:?}");
    }
}
