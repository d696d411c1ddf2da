//! Calls to another service: the same mTLS, and the context of the call that is being served.

use std::{
    task,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use opentelemetry::propagation::Injector;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tonic::{
    body::Body,
    transport::{self, Endpoint, channel::ResponseFuture},
};
use tower::Service;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::{
    StartError,
    config::{Client, Tls},
    context,
    edge::REQUEST_ID,
    tls::Connector,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(20);

/// A connection to another service that opens when it is first used and again when it broke. Clones share it. Give it
/// to a generated client: `CipherServiceClient::new(channel)`.
#[derive(Debug, Clone)]
pub struct Channel {
    inner: transport::Channel,
    timeout: Duration,
}

/// Makes a channel. Nothing is connected yet.
///
/// # Errors
/// If the endpoint is no `https://` address or a TLS file cannot be used.
pub fn channel(client: &Client, tls: &Tls) -> Result<Channel, StartError> {
    let Some(address) = client.endpoint.strip_prefix("https://") else {
        return Err(StartError::msg(format!(
            "endpoint {:?} must begin with https://",
            client.endpoint
        )));
    };
    // tonic refuses `https` unless it does the TLS itself; ours checks the peer's name instead of its host.
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_while_idle(true);
    let connector = Connector::new(tls, &client.peer)?;
    let connect = tower::service_fn(move |uri: Uri| connect(connector.clone(), uri));
    let inner = endpoint.connect_with_connector_lazy(connect);
    Ok(Channel {
        inner,
        timeout: Duration::from_millis(client.timeout_ms),
    })
}

async fn connect(
    connector: Connector,
    uri: Uri,
) -> std::io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let host = uri
        .host()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_owned();
    let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(connector.connect(name, stream).await?))
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = transport::Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> task::Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> ResponseFuture {
        let headers = request.headers_mut();
        if let Ok(id) = HeaderValue::try_from(context::request_id()) {
            headers.insert(REQUEST_ID, id);
        }
        // The caller's deadline goes along; a time-out set on the request itself wins.
        if !headers.contains_key("grpc-timeout") {
            let left = context::deadline().map_or(self.timeout, |at| {
                at.saturating_duration_since(Instant::now())
                    .min(self.timeout)
            });
            if let Ok(value) =
                HeaderValue::try_from(format!("{}m", left.as_millis().min(99_999_999)))
            {
                headers.insert("grpc-timeout", value);
            }
        }
        let trace = tracing::Span::current().context();
        opentelemetry::global::get_text_map_propagator(|propagator| {
            propagator.inject_context(&trace, &mut Headers(headers));
        });
        self.inner.call(request)
    }
}

struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}
