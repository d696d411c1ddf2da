//! One job of many in a stream: the edge saw the stream once, so each job brings what a call brings in its headers, and
//! is guarded, counted and traced like one.

use std::{any::Any, collections::HashMap, future::Future, panic::AssertUnwindSafe, time::Instant};

use futures::FutureExt as _;
use tonic::Status;
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::{
    context::{self, Context},
    edge,
};

/// Where a job came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The request id of the call it is part of.
    pub request_id: String,
    /// W3C `traceparent` of the span that asked for it; empty for none.
    pub trace_parent: String,
}

/// The key of [`Origin::trace_parent`] in a W3C carrier.
const TRACE_PARENT: &str = "traceparent";

impl Origin {
    /// This call, and this span.
    #[must_use]
    pub fn here() -> Self {
        let trace = tracing::Span::current().context();
        let mut carrier = HashMap::new();
        opentelemetry::global::get_text_map_propagator(|propagator| {
            propagator.inject_context(&trace, &mut carrier);
        });
        Self {
            request_id: context::request_id(),
            trace_parent: carrier.remove(TRACE_PARENT).unwrap_or_default(),
        }
    }

    fn trace(&self) -> Option<opentelemetry::Context> {
        if self.trace_parent.is_empty() {
            return None;
        }
        let carrier = HashMap::from([(TRACE_PARENT.to_owned(), self.trace_parent.clone())]);
        Some(opentelemetry::global::get_text_map_propagator(
            |propagator| propagator.extract(&carrier),
        ))
    }
}

/// Runs one job as the edge runs a call: under its request id, in a span of its own, and if it panics, it alone fails.
/// `method` names it in logs and metrics.
///
/// # Errors
/// The job's own, or `INTERNAL` if it panicked.
pub async fn run_job<T>(
    method: &'static str,
    origin: Origin,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let started = Instant::now();
    let trace = origin.trace();
    let request_id = match crate::check::text(&origin.request_id, 1, 64) {
        Ok(()) => origin.request_id,
        Err(_) => context::new_id(),
    };
    let span = tracing::info_span!("job", method, request_id);
    if let Some(trace) = trace {
        let _ = span.set_parent(trace);
    }
    let context = Context {
        request_id,
        deadline: None,
    };
    let guarded = async {
        let done = AssertUnwindSafe(work).catch_unwind().await;
        let done = done.unwrap_or_else(|panic: Box<dyn Any + Send>| Err(edge::panicked(&*panic)));
        let code = done.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
        edge::report(method, code, started.elapsed());
        done
    };
    context::enter(context, guarded).instrument(span).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_has_the_request_id_it_came_with() {
        let origin = |id: &str| Origin {
            request_id: id.to_owned(),
            ..Origin::default()
        };
        let seen = run_job("t/Seen", origin("r-7"), async { Ok(context::request_id()) });
        assert_eq!(seen.await.ok().as_deref(), Some("r-7"));
        let bad = "x".repeat(65);
        let seen = run_job("t/Seen", origin(&bad), async { Ok(context::request_id()) });
        let seen = seen.await.unwrap_or_default();
        assert!(seen != bad && !seen.is_empty(), "{seen}");
        let there = context::scope("r-8".to_owned(), async { Origin::here() });
        assert_eq!(there.await, origin("r-8"));
    }

    #[tokio::test]
    async fn a_panic_ends_its_job_alone() {
        let work = async { panic!("on purpose") };
        let ended: Result<(), Status> = run_job("t/Panics", Origin::default(), work).await;
        let status = ended.err();
        assert_eq!(
            status.as_ref().and_then(crate::status::reason).as_deref(),
            Some("PANICKED")
        );
    }
}
