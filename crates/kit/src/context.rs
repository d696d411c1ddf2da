//! What travels with a call: its request id, its deadline, and its trace (W3C Trace Context).

use std::future::Future;
use std::time::{Duration, Instant};

/// The context of the call that is being served, kept for the calls it makes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Context {
    pub(crate) request_id: String,
    pub(crate) deadline: Option<Instant>,
}

tokio::task_local! {
    static CURRENT: Context;
}

/// A new id for a request: a UUID of version 7.
#[must_use]
pub fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// The request id of the call that is being served; a new one outside of any.
#[must_use]
pub fn request_id() -> String {
    current().map_or_else(new_id, |context| context.request_id)
}

/// When the call that is being served must be over, if its caller said so.
#[must_use]
pub fn deadline() -> Option<Instant> {
    current().and_then(|context| context.deadline)
}

/// How much of the deadline is left, at most `cap`.
#[must_use]
pub fn time_left(cap: Duration) -> Duration {
    deadline().map_or(cap, |at| {
        at.saturating_duration_since(Instant::now()).min(cap)
    })
}

/// Runs background work under a request id, so that the calls it makes can be followed.
pub async fn scope<F: Future>(request_id: String, work: F) -> F::Output {
    enter(
        Context {
            request_id,
            deadline: None,
        },
        work,
    )
    .await
}

pub(crate) fn current() -> Option<Context> {
    CURRENT.try_with(Clone::clone).ok()
}

pub(crate) async fn enter<F: Future>(context: Context, work: F) -> F::Output {
    CURRENT.scope(context, work).await
}
