//! Answers in the forms that kubelet's have.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::cri::CriError;

/// Chunks of some 64 KiB between who writes a body and its caller.
const CHUNKS: usize = 4;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

#[must_use]
pub fn with_type(status: StatusCode, content_type: HeaderValue, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A body of no type, as kubelet's streams have it.
#[must_use]
pub fn untyped(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
}

/// As Go's `http.Redirect`, to a path with its query.
#[must_use]
pub fn redirect(method: &Method, to: &str) -> Response {
    let status = StatusCode::TEMPORARY_REDIRECT;
    let escaped = to.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
    let mut response = if matches!(*method, Method::GET | Method::HEAD) {
        let body = format!("<a href=\"{escaped}\">Temporary Redirect</a>.\n\n");
        with_type(status, HeaderValue::from_static("text/html; charset=utf-8"), body)
    } else {
        untyped(status, "")
    };
    if let Ok(location) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// As go-restful's `WriteErrorString`: the text as it is.
#[must_use]
pub fn text(status: StatusCode, body: impl Into<Body>) -> Response {
    with_type(status, TEXT, body)
}

/// As Go's `http.Error`.
#[must_use]
pub fn error(status: StatusCode, message: &str) -> Response {
    let mut response = text(status, format!("{message}\n"));
    no_sniff(response.headers_mut());
    response
}

pub fn no_sniff(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// A body that is written bit by bit, no faster than it is taken.
pub fn channel() -> (mpsc::Sender<Bytes>, Body) {
    let (to, chunks) = mpsc::channel(CHUNKS);
    (to, Body::from_stream(ReceiverStream::new(chunks).map(Ok::<_, Infallible>)))
}

#[must_use]
pub fn json(value: &Value) -> Response {
    with_type(StatusCode::OK, JSON, value.to_string())
}

/// What the runtime has refused, with the status that its code stands for (k8s.io/cri-streaming, `WriteError`).
#[must_use]
pub fn of_runtime(cause: &CriError) -> Response {
    let message = match cause {
        CriError::Call { status, .. } => status.message().to_owned(),
        other => other.to_string(),
    };
    match cause.code() {
        Some(tonic::Code::NotFound) => text(StatusCode::NOT_FOUND, message),
        Some(tonic::Code::ResourceExhausted) => {
            let mut response = text(StatusCode::TOO_MANY_REQUESTS, message);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            response
        }
        _ => text(StatusCode::INTERNAL_SERVER_ERROR, message),
    }
}
