//! Logs on standard error; traces and metrics by OTLP where the configuration names a collector.

use std::io::IsTerminal as _;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    Resource, metrics::SdkMeterProvider, propagation::TraceContextPropagator,
    trace::SdkTracerProvider,
};
use tracing_subscriber::{
    EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{
    StartError,
    config::{self, LogFormat},
};

/// What must be flushed before the process ends.
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

impl Telemetry {
    /// Sets up logs, traces and metrics of this process. Call it once, inside the runtime.
    ///
    /// # Errors
    /// If the log filter or the collector's address is wrong, or it was called before.
    pub fn start(name: &'static str, config: &config::Telemetry) -> Result<Self, StartError> {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        let (traces, metrics) = match &config.otlp_endpoint {
            Some(endpoint) => {
                let (traces, metrics) = exporters(name, endpoint)?;
                (Some(traces), Some(metrics))
            }
            None => (None, None),
        };
        let filter = if config.log.is_empty() {
            "info"
        } else {
            &config.log
        };
        // cryptoki reports each mechanism it has no name for as an error, at every start.
        let filter = format!("{filter},cryptoki::mechanism=off");
        let filter =
            EnvFilter::try_new(filter).map_err(|e| StartError::context("[telemetry] log", e))?;
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let lines = match config.log_format {
            LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        let spans = traces
            .as_ref()
            .map(|traces| tracing_opentelemetry::layer().with_tracer(traces.tracer("latchkey")));
        // One filter for lines and spans: the libraries below us would otherwise fill the traces.
        tracing_subscriber::registry()
            .with(filter)
            .with(spans)
            .with(lines)
            .try_init()?;
        Ok(Self { traces, metrics })
    }

    /// Sends what is left.
    pub fn stop(self) {
        if let Some(Err(error)) = self.traces.map(|traces| traces.shutdown()) {
            tracing::warn!(%error, "the last traces were not sent");
        }
        if let Some(Err(error)) = self.metrics.map(|metrics| metrics.shutdown()) {
            tracing::warn!(%error, "the last metrics were not sent");
        }
    }
}

fn exporters(
    name: &'static str,
    endpoint: &str,
) -> Result<(SdkTracerProvider, SdkMeterProvider), StartError> {
    let resource = Resource::builder()
        .with_service_name(format!("latchkey-{name}"))
        .build();
    let spans = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()?;
    let traces = SdkTracerProvider::builder()
        .with_batch_exporter(spans)
        .with_resource(resource.clone())
        .build();
    let points = opentelemetry_otlp::MetricExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()?;
    let metrics = SdkMeterProvider::builder()
        .with_periodic_exporter(points)
        .with_resource(resource)
        .build();
    opentelemetry::global::set_tracer_provider(traces.clone());
    opentelemetry::global::set_meter_provider(metrics.clone());
    Ok((traces, metrics))
}
