//! `/stats/summary` and the pages of metrics.

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::{any, get};

use super::{Routes, Shared, query};
use crate::node_api::answer;
use crate::stats::{CONTENT_TYPE, Pages};
use oomlet_core::stats::summary::Scope;

const PAGE: HeaderValue = HeaderValue::from_static(CONTENT_TYPE);
const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub(super) fn routes() -> Routes {
    Router::new()
        .route("/stats/summary", get(summary).post(summary))
        .route("/metrics", any(|state| page(state, Pages::metrics)))
        .route("/metrics/cadvisor", any(|state| page(state, Pages::cadvisor)))
        .route("/metrics/resource", any(|state| page(state, Pages::resource)))
        .route("/metrics/probes", any(|state| page(state, Pages::probes)))
        .route("/metrics/slis", any(|state| page(state, Pages::slis)))
}

async fn summary(State(api): State<Shared>, RawQuery(raw): RawQuery) -> Response {
    let asked = query(raw.as_deref());
    let only: Vec<&str> = asked
        .0
        .iter()
        .filter(|(key, _)| key == "only_cpu_and_memory")
        .map(|(_, value)| value.as_str())
        .collect();
    let scope = if only == ["true"] { Scope::CpuAndMemory } else { Scope::All };
    let pages = api.pages.clone();
    let made = tokio::task::spawn_blocking(move || pages.summary(scope)).await;
    match made {
        Ok(Some(body)) => answer::with_type(StatusCode::OK, JSON, body),
        Ok(None) => answer::text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Internal Error: failed to get root cgroup stats: nothing has been read yet",
        ),
        Err(error) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("Internal Error: {error}")),
    }
}

/// On a thread that may take its time: thousands of series are milliseconds of work.
async fn page(State(api): State<Shared>, of: fn(&Pages) -> String) -> Response {
    let pages = api.pages.clone();
    match tokio::task::spawn_blocking(move || of(&pages)).await {
        Ok(text) => answer::with_type(StatusCode::OK, PAGE, text),
        Err(error) => answer::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}
