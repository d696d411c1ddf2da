//! Traces and metrics reach an OTLP collector, and nothing is sent without one. One test: telemetry is per process.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::{net::SocketAddr, time::Duration};

use kit::{Telemetry, config};
use opentelemetry_proto::tonic::collector::{
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use tracing::Instrument as _;

/// What a collector was told.
enum Told {
    Span { name: String, trace: Vec<u8> },
    Metric(String),
}

#[derive(Clone)]
struct Sink(mpsc::Sender<Told>);

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for spans in request.into_inner().resource_spans {
            for span in spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let told = Told::Span {
                    name: span.name,
                    trace: span.trace_id,
                };
                self.0.send(told).await.expect("a listener");
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Sink {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        for metrics in request.into_inner().resource_metrics {
            for metric in metrics
                .scope_metrics
                .into_iter()
                .flat_map(|scope| scope.metrics)
            {
                self.0
                    .send(Told::Metric(metric.name))
                    .await
                    .expect("a listener");
            }
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_and_metrics_arrive_and_one_trace_spans_both_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address: SocketAddr = listener.local_addr().expect("an address");
    let (sender, mut arrived) = mpsc::channel(64);
    let (trigger, shutdown) = kit::shutdown();
    let tasks = kit::Tasks::new(shutdown.clone());
    let sink = Sink(sender);
    tasks.spawn("sink", async move {
        Server::builder()
            .add_service(TraceServiceServer::new(sink.clone()))
            .add_service(MetricsServiceServer::new(sink))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move {
                shutdown.fired().await
            })
            .await
            .expect("served");
    });
    let config = config::Telemetry {
        otlp_endpoint: Some(format!("http://{address}")),
        ..config::Telemetry::default()
    };
    let telemetry = Telemetry::start("test", &config).expect("telemetry");
    let running = support::start().await;
    let mut client = running.client("spiffe://kit.test/caller");
    let call = client
        .authorise(support::because("x"))
        .instrument(tracing::info_span!("a span of ours"));
    call.await.expect("an answer");
    running.trigger.fire();
    running.tasks.join().await;
    tokio::task::spawn_blocking(|| telemetry.stop())
        .await
        .expect("stopped");

    // The caller's span and the server's are of one trace, and the request was counted and timed.
    let (mut ours, mut served, mut metrics) = (None, None, Vec::new());
    while ours.is_none() || served.is_none() || metrics.len() < 2 {
        let told = tokio::time::timeout(Duration::from_secs(10), arrived.recv())
            .await
            .expect("in time");
        match told.expect("something") {
            Told::Span { name, trace } if name == "a span of ours" => ours = Some(trace),
            Told::Span { name, trace } if name == "rpc" => served = Some(trace),
            Told::Metric(name) if name.starts_with("rpc.server.") => metrics.push(name),
            _ => {}
        }
    }
    assert_eq!(ours, served);
    metrics.sort();
    assert_eq!(metrics, ["rpc.server.duration", "rpc.server.requests"]);
    drop(arrived);
    trigger.fire();
    tasks.join().await;
}
