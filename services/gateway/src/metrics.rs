//! Rate, errors and duration of the relay. Names are stable; no label holds an address.

use std::{sync::OnceLock, time::Instant};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, UpDownCounter},
};

use crate::drops::Cause;

struct Instruments {
    drops: Counter<u64>,
    pdus: Counter<u64>,
    open: UpDownCounter<i64>,
    duration: Histogram<f64>,
}

fn instruments() -> &'static Instruments {
    static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();
    INSTRUMENTS.get_or_init(|| {
        let meter = opentelemetry::global::meter("latchkey");
        Instruments {
            drops: meter
                .u64_counter("gateway.drops")
                .with_description("Connections dropped")
                .build(),
            pdus: meter
                .u64_counter("gateway.pdus")
                .with_description("Whole PDUs passed on")
                .build(),
            open: meter
                .i64_up_down_counter("gateway.connections")
                .with_description("Open connections")
                .build(),
            duration: meter
                .f64_histogram("gateway.connection.duration")
                .with_unit("s")
                .with_description("Life of a connection from a listed source")
                .build(),
        }
    })
}

/// A connection was dropped.
pub(crate) fn dropped(cause: Cause) {
    instruments()
        .drops
        .add(1, &[KeyValue::new("cause", cause.name())]);
}

/// Whole PDUs passed one way.
pub(crate) fn pdus(direction: &'static str, count: u64) {
    instruments()
        .pdus
        .add(count, &[KeyValue::new("direction", direction)]);
}

/// One open connection.
pub(crate) struct Open(Instant);

impl Open {
    pub(crate) fn begin() -> Self {
        instruments().open.add(1, &[]);
        Self(Instant::now())
    }

    pub(crate) fn end(self, passed: bool) {
        instruments().open.add(-1, &[]);
        let outcome = if passed { "passed" } else { "dropped" };
        instruments().duration.record(
            self.0.elapsed().as_secs_f64(),
            &[KeyValue::new("outcome", outcome)],
        );
    }
}
