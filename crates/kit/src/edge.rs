//! What every request passes before its handler: who is it, may it, how long, and what came of it.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    task,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, Request, Response};
use http_body_util::Limited;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram},
    propagation::Extractor,
};
use tokio::sync::Semaphore;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::{
    config::{self, Peers},
    context::{self, Context},
    peer::PeerConnection,
    status::{self, Fault},
};

/// Header that carries the request id between services.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// Refusals made before a handler runs.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("this connection has no peer name")]
    Nameless,
    #[error("{peer} may not call {path}")]
    Forbidden { peer: String, path: String },
    #[error("the service is busy")]
    Busy,
    #[error("a handler failed unexpectedly")]
    Panicked,
}

impl Fault for Refusal {
    fn code(&self) -> Code {
        match self {
            Self::Nameless => Code::Unauthenticated,
            Self::Forbidden { .. } => Code::PermissionDenied,
            Self::Busy => Code::ResourceExhausted,
            Self::Panicked => Code::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Nameless => "PEER_NAMELESS",
            Self::Forbidden { .. } => "PEER_FORBIDDEN",
            Self::Busy => "BUSY",
            Self::Panicked => "PANICKED",
        }
    }

    fn mend(&self) -> Option<String> {
        match self {
            Self::Forbidden { .. } => Some(
                "add the peer to [server.peers] of the service's configuration if it should"
                    .to_owned(),
            ),
            Self::Nameless | Self::Busy | Self::Panicked => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self, Self::Busy).then_some(Duration::from_millis(200))
    }
}

#[derive(Clone)]
pub(crate) struct EdgeLayer(Arc<Shared>);

struct Shared {
    peers: Peers,
    slots: Arc<Semaphore>,
    body_max: usize,
    /// Methods whose requests are streams without end: their messages are limited, not the sum of them.
    endless: Vec<&'static str>,
}

impl EdgeLayer {
    pub(crate) fn new(config: &config::Server, endless: Vec<&'static str>) -> Self {
        Self(Arc::new(Shared {
            endless,
            peers: config.peers.clone(),
            slots: Arc::new(Semaphore::new(config.max_concurrent_requests)),
            body_max: config.max_message_bytes,
        }))
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge {
            inner,
            shared: self.0.clone(),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Edge<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request<Body>> for Edge<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let started = Instant::now();
        let path = request.uri().path().to_owned();
        let peer = request.extensions().get::<PeerConnection>().cloned();
        let context = context_of(request.headers(), started);
        let span = tracing::info_span!(
            "rpc",
            path,
            request_id = context.request_id,
            peer = tracing::field::Empty
        );
        let _ = span.set_parent(parent_of(request.headers()));
        let admitted = self.shared.admit(peer.as_ref(), &path).map(|slot| {
            if let Some(peer) = peer {
                span.record("peer", peer.name.as_str());
                request.extensions_mut().insert(peer.name);
            }
            let request = match self.shared.endless.contains(&path.as_str()) {
                true => request,
                false => request.map(|body| Body::new(Limited::new(body, self.shared.body_max))),
            };
            (slot, self.inner.call(request))
        });
        let work = async move {
            let response = match admitted {
                Err(refusal) => status::status(&refusal).into_http(),
                Ok((slot, call)) => {
                    let response = AssertUnwindSafe(call).catch_unwind().await;
                    drop(slot);
                    match response {
                        Ok(response) => response?,
                        Err(panic) => panicked(&*panic).into_http(),
                    }
                }
            };
            let code = Status::from_header_map(response.headers());
            let code = code.map_or(Code::Ok, |status| status.code());
            report(&path, code, started.elapsed());
            Ok(response)
        };
        Box::pin(context::enter(context, work).instrument(span))
    }
}

impl Shared {
    fn admit(
        &self,
        peer: Option<&PeerConnection>,
        path: &str,
    ) -> Result<Option<tokio::sync::OwnedSemaphorePermit>, Refusal> {
        let peer = peer.ok_or(Refusal::Nameless)?;
        if is_public(path) {
            return Ok(None);
        }
        if !self.peers.allows(&peer.name, path) {
            tracing::warn!(peer = %peer.name, address = %peer.address, path, "refused a peer");
            return Err(Refusal::Forbidden {
                peer: peer.name.to_string(),
                path: path.to_owned(),
            });
        }
        self.slots
            .clone()
            .try_acquire_owned()
            .map(Some)
            .map_err(|_| Refusal::Busy)
    }
}

/// Health and reflection are for every peer with a good certificate.
fn is_public(path: &str) -> bool {
    path.starts_with("/grpc.health.v1.Health/")
        || path.starts_with("/grpc.reflection.v1.ServerReflection/")
}

fn context_of(headers: &HeaderMap, started: Instant) -> Context {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let request_id = text(REQUEST_ID)
        .filter(|id| crate::check::text(id, 1, 64).is_ok())
        .map_or_else(context::new_id, str::to_owned);
    let deadline = text("grpc-timeout")
        .and_then(timeout_of)
        .and_then(|timeout| started.checked_add(timeout));
    Context {
        request_id,
        deadline,
    }
}

/// Parses a `grpc-timeout` header: at most 8 digits and a unit.
fn timeout_of(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

fn parent_of(headers: &HeaderMap) -> opentelemetry::Context {
    opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.extract(&Headers(headers))
    })
}

pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Status {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("no text"), "a handler panicked");
    status::status(&Refusal::Panicked)
}

/// One line and one measurement per request. A stream that fails later has already been counted as begun.
pub(crate) fn report(path: &str, code: Code, took: Duration) {
    let instruments = instruments();
    let labels = [
        KeyValue::new("rpc.method", path.to_owned()),
        KeyValue::new("rpc.grpc.status_code", i64::from(i32::from(code))),
    ];
    instruments.requests.add(1, &labels);
    instruments.duration.record(took.as_secs_f64(), &labels);
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    if code == Code::Ok {
        tracing::debug!(?code, ms, "answered");
    } else {
        tracing::info!(?code, ms, "answered");
    }
}

struct Instruments {
    requests: Counter<u64>,
    duration: Histogram<f64>,
}

fn instruments() -> &'static Instruments {
    static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();
    INSTRUMENTS.get_or_init(|| {
        let meter = opentelemetry::global::meter("latchkey");
        Instruments {
            requests: meter
                .u64_counter("rpc.server.requests")
                .with_description("Requests answered")
                .build(),
            duration: meter
                .f64_histogram("rpc.server.duration")
                .with_unit("s")
                .with_description("Time to answer")
                .build(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        assert_eq!(timeout_of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout_of("2S"), Some(Duration::from_secs(2)));
        for bad in ["", "S", "1", "123456789S", "-1S", "1x", "é"] {
            assert_eq!(timeout_of(bad), None, "{bad}");
        }
    }
}
