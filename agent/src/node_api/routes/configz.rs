//! `/configz`: the KubeletConfiguration in effect.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::any;
use serde_json::json;

use super::{Routes, Shared};
use crate::node_api::answer;

pub(super) fn routes() -> Routes {
    Router::new().route("/configz", any(all))
}

async fn all(State(api): State<Shared>) -> Response {
    let mut response = answer::json(&json!({ "kubeletconfig": api.effective_config }));
    answer::no_sniff(response.headers_mut());
    response
}
