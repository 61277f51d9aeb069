//! `/checkpoint/NAMESPACE/POD/CONTAINER`: the runtime writes a container's state to `<root-dir>/checkpoints`.

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::{Routes, Shared, query};
use crate::cri::CriError;
use crate::node_api::{answer, find};
use oomlet_core::node_api::pods;

pub(super) fn routes() -> Routes {
    Router::new().route("/checkpoint/{namespace}/{pod}/{container}", post(checkpoint))
}

async fn checkpoint(
    State(api): State<Shared>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    RawQuery(raw): RawQuery,
) -> Response {
    let pod = match find::pod(&api, &namespace, &name) {
        Ok(pod) => pod,
        Err(response) => return *response,
    };
    if pods::container(&pod.pod, &container).is_none() {
        return answer::text(StatusCode::NOT_FOUND, format!("container {container} does not exist"));
    }
    let query = query(raw.as_deref());
    let Ok(timeout_s) = query.all("timeout").last().unwrap_or("0").parse::<i64>() else {
        return answer::text(StatusCode::NOT_FOUND, "cannot parse value of timeout parameter");
    };
    let failed = |why: String| {
        let text = format!("checkpointing of {namespace}/{name}/{container} failed ({why})");
        answer::text(StatusCode::INTERNAL_SERVER_ERROR, text)
    };
    let id = match find::running_container(&api, &pod, None, &container).await {
        Ok(Some(id)) => id,
        Ok(None) => return failed(format!("container {container} not found")),
        Err(error) => return failed(error.to_string()),
    };
    let dir = api.root_dir.join("checkpoints");
    // kubelet makes it at its start, with this mode.
    use std::os::unix::fs::DirBuilderExt as _;
    if let Err(error) = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir) {
        return failed(format!("cannot make {}: {error}", dir.display()));
    }
    let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let location = dir.join(format!("checkpoint-{name}_{namespace}-{container}-{time}.tar"));
    let location = location.display().to_string();
    match api.runtime.checkpoint_container(&id, &location, timeout_s).await {
        Ok(()) => answer::json(&json!({ "items": [location] })),
        Err(CriError::Call { status, .. }) => {
            failed(format!("rpc error: code = {:?} desc = {}", status.code(), status.message()))
        }
        Err(error) => failed(error.to_string()),
    }
}
