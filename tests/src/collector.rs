//! A collector of OpenTelemetry traces on loopback: it keeps the spans that it is sent.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

pub use opentelemetry_proto::tonic::trace::v1::Span;

/// A span, and what its sender is.
#[derive(Clone, Debug)]
pub struct Received {
    pub service: String,
    pub host: String,
    pub span: Span,
}

impl Received {
    #[must_use]
    pub fn attribute(&self, key: &str) -> String {
        text(&self.span.attributes, key)
    }

    #[must_use]
    pub fn is_error(&self) -> bool {
        self.span.status.as_ref().is_some_and(|status| status.code == 2)
    }
}

/// Ends when dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Received>>>,
    _runtime: Runtime,
}

#[derive(Debug)]
struct Service(Arc<Mutex<Vec<Received>>>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_one in request.into_inner().resource_spans {
            let resource = of_one.resource.map(|resource| resource.attributes).unwrap_or_default();
            let (service, host) = (text(&resource, "service.name"), text(&resource, "host.name"));
            let spans = of_one.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let received = spans.map(|span| Received { service: service.clone(), host: host.clone(), span });
            self.0.lock().unwrap().extend(received);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    #[track_caller]
    #[must_use]
    pub fn start() -> Collector {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let (address, spans) = (listener.local_addr().unwrap(), Arc::default());
        let service = TraceServiceServer::new(Service(Arc::clone(&spans)));
        let server = tonic::transport::Server::builder().add_service(service);
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Collector { address, spans, _runtime: runtime }
    }

    /// As the configuration takes it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    #[must_use]
    pub fn spans(&self) -> Vec<Received> {
        self.spans.lock().unwrap().clone()
    }
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes.iter().find(|a| a.key == key).and_then(|a| a.value.clone()?.value);
    match value {
        Some(any_value::Value::StringValue(text)) => text,
        _ => String::new(),
    }
}
