//! `/pods`: what is to run here, with its status; `/runningpods/`: what the runtime says that runs.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::any;

use super::{Routes, Shared, only};
use crate::node_api::answer;
use oomlet_core::node_api::pods;

pub(super) fn routes() -> Routes {
    only("GET", Router::new().route("/pods", any(all)).route("/pods/", any(all)))
}

pub(super) fn running_routes() -> Routes {
    only("GET", Router::new().route("/runningpods/", any(running)))
}

async fn all(State(api): State<Shared>) -> Response {
    answer::json(&pods::list(&api.snapshot()))
}

async fn running(State(api): State<Shared>) -> Response {
    match api.runtime.running_pods().await {
        Ok(running) => answer::json(&pods::running(&running)),
        Err(error) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
