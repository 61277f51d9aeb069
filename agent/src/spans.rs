//! OpenTelemetry spans of what is done for pods, behind kubelet's `tracing:` key, to a collector over OTLP (gRPC).
//!
//! - [`Spans`]: makes a span for each sync of a pod, of those that are sampled.
//! - [`PodSpan`]: one of them; its steps are its children.
//! - `exporter`: sends them, and says when the collector is away.
//!
//! Ended spans wait in a bounded queue for a thread of their own: a collector that is slow or away costs spans, never a pod
//! its time. A span has names, times and what went wrong; what a pod was given (environment, ConfigMaps, Secrets) is in none.

mod exporter;

use std::pin::Pin;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanBuilder, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanExporter,
};

use exporter::Exporter;
use oomlet_core::config::Tracing;
use oomlet_core::pod::PodRef;

/// kubelet's, so that what people have set up for it finds these spans too.
const SERVICE: &str = "kubelet";
const SCOPE: &str = "oomlet.dev/oomlet";
/// OpenTelemetry's defaults (OTEL_BSP_*), for all languages.
const QUEUE: usize = 2048;
const BATCH: usize = 512;
const DELAY: Duration = Duration::from_secs(5);
/// How long an ending agent tries to send what is left.
const FLUSH: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum SpansError {
    #[error(
        "tracing.endpoint: {endpoint} cannot be used: {detail}; name the collector as host:port or unix:///path"
    )]
    Endpoint { endpoint: String, detail: String },
}

/// Cheap to clone. The default makes no spans.
#[derive(Clone, Debug, Default)]
pub struct Spans(Option<Made>);

#[derive(Clone, Debug)]
struct Made {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Spans {
    /// None where nothing is configured. Connects when the first spans are sent, and again whenever the collector comes
    /// back. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When no client can be made for the endpoint.
    pub fn to_collector(tracing: Option<&Tracing>, node: &str) -> Result<Spans, SpansError> {
        let Some(tracing) = tracing else { return Ok(Spans::default()) };
        let exporter = Exporter::new(&tracing.endpoint)?;
        let share = f64::from(tracing.sampling_rate_per_million) / 1e6;
        Ok(Spans::through(exporter, share, node))
    }

    fn through(exporter: impl SpanExporter + 'static, share: f64, node: &str) -> Spans {
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY);
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build()).build();
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new("service.name", SERVICE),
            KeyValue::new("host.name", node.to_owned()),
        ]);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share))))
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer(SCOPE);
        Spans(Some(Made { provider, tracer }))
    }

    /// What begins now for this pod, by kubelet's name for it: `syncPod`, `syncTerminatingPod`.
    #[must_use]
    pub fn of_pod(&self, name: &'static str, pod: &PodRef) -> PodSpan {
        let Some(made) = &self.0 else { return PodSpan(None) };
        let attributes = [
            KeyValue::new("k8s.pod.uid", pod.uid.to_string()),
            KeyValue::new("k8s.pod", format!("{}/{}", pod.namespace, pod.name)),
            KeyValue::new("k8s.pod.name", pod.name.clone()),
            KeyValue::new("k8s.namespace.name", pod.namespace.clone()),
        ];
        // No span is in effect here: each of a pod's begins a trace.
        let root = Context::new();
        let span = SpanBuilder::from_name(name).with_attributes(attributes);
        let span = made.tracer.build_with_context(span, &root);
        if !span.is_recording() {
            return PodSpan(None);
        }
        PodSpan(Some(Recorded { tracer: made.tracer.clone(), context: root.with_span(span) }))
    }

    /// Sends what is left, for a second at most. Blocks.
    pub fn end(&self) {
        if let Some(made) = &self.0
            && let Err(error) = made.provider.shutdown_with_timeout(FLUSH)
        {
            tracing::debug!(%error, "the last spans were not sent");
        }
    }
}

/// Ends when its last clone is dropped, whatever came of it.
#[derive(Clone, Debug, Default)]
pub struct PodSpan(Option<Recorded>);

#[derive(Clone, Debug)]
struct Recorded {
    tracer: SdkTracer,
    context: Context,
}

impl PodSpan {
    /// Runs `work`, which is a span below this one; of a container where one is named. It is boxed: steps are within steps,
    /// and the worker's stack would have to hold all of them at once.
    pub fn step<'a, T, E>(
        &'a self,
        name: &'static str,
        container: Option<&str>,
        work: impl Future<Output = Result<T, E>> + Send + 'a,
    ) -> Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>
    where
        T: Send + 'a,
        E: std::fmt::Display + Send + 'a,
    {
        let Some(Recorded { tracer, context }) = &self.0 else { return Box::pin(work) };
        let container = container.map(|name| KeyValue::new("k8s.container.name", name.to_owned()));
        let span = SpanBuilder::from_name(name).with_attributes(container);
        let work = Box::pin(work);
        Box::pin(async move {
            // Dropped half-way it ends there.
            let mut span = tracer.build_with_context(span, context);
            let done = work.await;
            if let Err(error) = &done {
                span.set_status(Status::error(error.to_string()));
            }
            done
        })
    }

    /// A step that is over now and took so long; of a container, with its image.
    pub fn past(&self, name: &'static str, took: Duration, container: &str, image: &str) {
        let Some(Recorded { tracer, context }) = &self.0 else { return };
        let end = SystemTime::now();
        let attributes = [("k8s.container.name", container), ("container.image.name", image)];
        let attributes = attributes.map(|(key, value)| KeyValue::new(key, value.to_owned()));
        let span = SpanBuilder::from_name(name).with_start_time(end - took).with_attributes(attributes);
        tracer.build_with_context(span, context).end_with_timestamp(end);
    }

    pub fn failed(&self, error: &str) {
        if let Some(Recorded { context, .. }) = &self.0 {
            context.span().set_status(Status::error(error.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests;
