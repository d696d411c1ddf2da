//! What custody counts. Names are stable; no label holds a meter.

use std::sync::OnceLock;

use opentelemetry::{KeyValue, metrics::Counter};

struct Instruments {
    raised: Counter<u64>,
    warned: Counter<u64>,
}

fn instruments() -> &'static Instruments {
    static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();
    INSTRUMENTS.get_or_init(|| {
        let meter = opentelemetry::global::meter("latchkey");
        Instruments {
            raised: meter
                .u64_counter("custody.counters.raised")
                .with_description("Invocation counters raised beside their use")
                .build(),
            warned: meter
                .u64_counter("custody.counters.warned")
                .with_description("Meters whose invocation counters came to counter_warning")
                .build(),
        }
    })
}

/// Counters were raised: by a `hint`, the `meter`, a `person`, or a `restore`.
pub(crate) fn counters_raised(source: &'static str) {
    instruments()
        .raised
        .add(1, &[KeyValue::new("source", source)]);
}

/// The counters of a meter came to the warning.
pub(crate) fn counters_warned() {
    instruments().warned.add(1, &[]);
}
