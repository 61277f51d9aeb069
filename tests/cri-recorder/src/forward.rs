//! One call: to the runtime and back.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt;

use crate::decode;
use crate::record::Record;

/// Before each message: whether it is compressed, and its length (gRPC over HTTP/2).
const FRAME_HEADER: usize = 5;

#[derive(Debug)]
pub struct Forward {
    runtime: Channel,
    record: Record,
}

impl Forward {
    /// Connects with the first call, and again when the runtime is back.
    pub fn to(runtime: &Path, record: Record) -> Result<Forward> {
        let uri = format!("unix://{}", runtime.display());
        let endpoint = Endpoint::from_shared(uri).with_context(|| format!("{}", runtime.display()))?;
        Ok(Forward { runtime: endpoint.connect_lazy(), record })
    }

    /// An error of this side is one of gRPC's, as if the runtime were not there.
    pub async fn call(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let answered = if decode::is_recorded(&name) {
            self.recorded(&name, request).await
        } else {
            self.send(request.map(Body::new)).await
        };
        Ok(answered.unwrap_or_else(|error| Status::unavailable(format!("{error:#}")).into_http()))
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Body>> {
        self.runtime.clone().oneshot(request).await.context("calling the runtime")
    }

    async fn recorded(&self, name: &str, request: Request<Incoming>) -> Result<Response<Body>> {
        let at = self.record.next();
        let (head, body) = request.into_parts();
        let body = body.collect().await.context("reading the request")?.to_bytes();
        let said = decode::request(name, message(&body)?)?;
        let answer = self.send(Request::from_parts(head, Body::new(Full::new(body)))).await?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.context("reading the answer")?;
        let trailers = body.trailers().cloned();
        let error = error(&head.headers).or_else(|| trailers.as_ref().and_then(error));
        let bytes = body.to_bytes();
        let answer = if error.is_none() { Some(decode::answer(name, message(&bytes)?)?) } else { None };
        self.record.write(at, name, &said, answer.as_ref(), error.as_deref())?;
        let body = match trailers {
            Some(trailers) => Body::new(Full::new(bytes).with_trailers(async move { Some(Ok(trailers)) })),
            // A refusal is all in the headers, and the stream ends with them.
            None => Body::new(Full::new(bytes)),
        };
        Ok(Response::from_parts(head, body))
    }
}

/// The one message of a call that is no stream.
fn message(body: &Bytes) -> Result<Bytes> {
    ensure!(body.len() >= FRAME_HEADER, "{} bytes are no message of gRPC", body.len());
    ensure!(body[0] == 0, "a compressed message: this cannot read it");
    Ok(body.slice(FRAME_HEADER..))
}

fn error(headers: &HeaderMap) -> Option<String> {
    let status = Status::from_header_map(headers)?;
    (status.code() != tonic::Code::Ok).then(|| format!("{:?}: {}", status.code(), status.message()))
}
