//! Each request is counted and timed, from its head to the end of its answer; a stream to its own end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use crate::instruments::http::{HttpRequests, InFlight, RequestTo};
use oomlet_core::node_api::bucket;

/// An extension of the request: who goes on with its stream keeps it.
pub type UnderWay = Arc<InFlight>;

#[derive(Clone, Debug)]
pub struct Counts {
    pub requests: HttpRequests,
    /// `readwrite`: the port for those who may; `readonly`.
    pub server: &'static str,
}

pub async fn count(State(counts): State<Counts>, mut request: Request, next: Next) -> Response {
    let path = bucket::path(request.uri().path());
    let to = RequestTo {
        method: bucket::method(request.method().as_str()),
        path,
        server: counts.server,
        long_running: bucket::is_long_running(path),
    };
    let under_way: UnderWay = Arc::new(counts.requests.begun(to));
    request.extensions_mut().insert(Arc::clone(&under_way));
    let response = next.run(request).await;
    response.map(|inner| Body::new(Counted { inner, _under_way: under_way }))
}

/// The body as it is, with what ends when it does.
struct Counted {
    inner: Body,
    _under_way: UnderWay,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
