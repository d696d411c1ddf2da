//! Traces and metrics reach an OTLP collector, and nothing is sent without one. One test: telemetry is per process.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

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

#[derive(Clone)]
struct Sink(mpsc::Sender<String>);

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for spans in request.into_inner().resource_spans {
            let names = spans
                .scope_spans
                .iter()
                .flat_map(|scope| &scope.spans)
                .map(|span| span.name.clone());
            for name in names.collect::<Vec<_>>() {
                self.0
                    .send(format!("span {name}"))
                    .await
                    .expect("a listener");
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
            let names = metrics
                .scope_metrics
                .iter()
                .flat_map(|scope| &scope.metrics)
                .map(|m| m.name.clone());
            for name in names.collect::<Vec<_>>() {
                self.0
                    .send(format!("metric {name}"))
                    .await
                    .expect("a listener");
            }
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_and_metrics_arrive() {
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
    tracing::info_span!("a span of ours").in_scope(|| tracing::info!("inside"));
    opentelemetry::global::meter("test")
        .u64_counter("a.counter.of.ours")
        .build()
        .add(1, &[]);
    tokio::task::spawn_blocking(|| telemetry.stop())
        .await
        .expect("stopped");
    let mut wanted = vec!["span a span of ours", "metric a.counter.of.ours"];
    while !wanted.is_empty() {
        let got = tokio::time::timeout(Duration::from_secs(10), arrived.recv())
            .await
            .expect("in time");
        let got = got.expect("something");
        wanted.retain(|name| *name != got);
    }
    drop(arrived);
    trigger.fire();
    tasks.join().await;
}
