//! Rows that an older version wrote are read by this one.

use machine::{Effect, Input, Millis, Reset, Rules, Snapshot, Survey};
use serde_json::Value;

/// A stored reset whose command was lost and whose counter is known, as it was written before sessions had three
/// values, and before anybody counted what had not left.
fn older(reset: &Reset) -> Value {
    let mut row = serde_json::to_value(reset).expect("it is stored so");
    strip(&mut row);
    row
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for name in ["unsent", "refuted", "event_log", "profile", "public"] {
                fields.remove(name);
            }
            if fields.remove("session").is_some() {
                fields.insert("same_session".to_owned(), Value::Bool(false));
            }
            fields.values_mut().for_each(strip);
        }
        Value::Array(values) => values.iter_mut().for_each(strip),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn an_older_row_goes_on_and_sends_nothing_again() {
    let inputs = [
        Input::Surveyed(Survey::default()),
        Input::Permitted {
            permit_id: "p-1".to_owned(),
            leaf: 1,
        },
        Input::GuardsRead(Box::new(guards())),
        Input::ActUnknown {
            cause: "time-out".to_owned(),
            counter: 1034,
        },
        Input::Tick,
        Input::CounterRead {
            value: Some(1034),
            public: false,
            session: machine::Session::EndedByMeter,
        },
    ];
    let mut reset = Reset::begin(Rules::example(), Millis(1_000)).reset;
    let mut now = 1_000;
    for input in inputs {
        now += 20_000;
        let step = reset.step(Millis(now), input.clone());
        let read: Reset = serde_json::from_value(older(&step.reset)).expect("readable");
        assert_eq!(read.phase(), step.reset.phase(), "{input:?}");
        let effect = read.step(Millis(now), Input::Recovered).effect;
        assert!(
            effect.is_some_and(|effect| effect != Effect::Act),
            "{input:?}"
        );
        reset = step.reset;
    }
    assert_eq!(reset.attempt(), 1);
}

fn guards() -> Snapshot {
    Snapshot {
        counter: 1033,
        identity: Some("LKM1".to_owned()),
        image_transfer: Some(0),
        clock: Some(machine::Clock {
            seconds: Some(7),
            invalid: false,
        }),
        relay: Some(machine::Relay {
            output: true,
            state: 1,
            mode: 4,
        }),
        firmware: machine::Firmware {
            metrology: Some("1".to_owned()),
            module: Some("1".to_owned()),
        },
        power_failures: Some(3),
        ..Snapshot::default()
    }
}
