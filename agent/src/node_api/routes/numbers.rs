//! `/stats/summary` and the pages of metrics.

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::any;

use super::{Routes, Shared, only, query};
use crate::node_api::answer;
use crate::stats::{CONTENT_TYPE, Pages};
use oomlet_core::stats::summary::Scope;

const PAGE: HeaderValue = HeaderValue::from_static(CONTENT_TYPE);
/// Seconds since the epoch; whoever scrapes can tell a counter that began anew.
const PROCESS_START: HeaderName = HeaderName::from_static("process-start-time-unix");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub(super) fn routes() -> Routes {
    let stats = Router::new().route("/stats/summary", any(summary)).route("/stats/summary/", any(summary));
    only("GET, POST", stats)
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
        Ok(text) => {
            let mut response = answer::with_type(StatusCode::OK, PAGE, text);
            if let Some(started) = Pages::started_s() {
                response.headers_mut().insert(PROCESS_START, started.into());
            }
            response
        }
        Err(error) => answer::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}
