//! Sends spans to the collector, one batch at a time, and says once that it is away and once that it is back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tonic::transport::Endpoint as Channel;

use super::SpansError;
use oomlet_core::config::tracing::Endpoint;

/// OpenTelemetry's default (OTEL_EXPORTER_OTLP_TIMEOUT).
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Exporter {
    otlp: Otlp,
    endpoint: Endpoint,
    /// Since the collector was last there; 0 while it is.
    lost: AtomicU64,
}

impl Exporter {
    /// Must be called inside a tokio runtime, which the connection lives on.
    pub fn new(endpoint: &Endpoint) -> Result<Exporter, SpansError> {
        let wrong = |detail: String| SpansError::Endpoint { endpoint: endpoint.to_string(), detail };
        let channel = Channel::from_shared(endpoint.uri()).map_err(|e| wrong(e.to_string()))?;
        let channel = channel.connect_timeout(TIMEOUT).timeout(TIMEOUT).connect_lazy();
        let otlp = Otlp::builder().with_tonic().with_channel(channel).with_timeout(TIMEOUT);
        let otlp = otlp.build().map_err(|e| wrong(e.to_string()))?;
        Ok(Exporter { otlp, endpoint: endpoint.clone(), lost: AtomicU64::new(0) })
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let sent = self.otlp.export(batch).await;
        match &sent {
            Ok(()) => match self.lost.swap(0, Ordering::Relaxed) {
                0 => {}
                lost => {
                    tracing::info!(endpoint = %self.endpoint, lost, "spans are sent to the collector again");
                }
            },
            Err(error) => {
                if self.lost.fetch_add(spans, Ordering::Relaxed) == 0 {
                    tracing::warn!(endpoint = %self.endpoint, %error, "spans are lost: the collector does not take them; see tracing.endpoint");
                }
            }
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.otlp.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}
