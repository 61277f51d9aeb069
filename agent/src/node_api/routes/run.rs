//! `/run`: a command in a container, run to its end; what it has written is the answer.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::any;

use super::{Routes, Shared, only, query};
use crate::node_api::{answer, find};

/// kubelet sets none. A caller that goes ends the command too.
const LONGEST_RUN: Duration = Duration::from_secs(4 * 3600);

pub(super) fn routes() -> Routes {
    let routes = Router::new()
        .route("/run/{namespace}/{pod}/{container}", any(run))
        .route("/run/{namespace}/{pod}/{uid}/{container}", any(run_uid));
    only("POST", routes)
}

async fn run(
    State(api): State<Shared>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    RawQuery(raw): RawQuery,
) -> Response {
    run_in(&api, (&namespace, &name, None, &container), raw.as_deref()).await
}

async fn run_uid(
    State(api): State<Shared>,
    Path((namespace, name, uid, container)): Path<(String, String, String, String)>,
    RawQuery(raw): RawQuery,
) -> Response {
    run_in(&api, (&namespace, &name, Some(&uid), &container), raw.as_deref()).await
}

async fn run_in(
    api: &Shared,
    (namespace, name, uid, container): (&str, &str, Option<&str>, &str),
    raw: Option<&str>,
) -> Response {
    let failed = |why: String| answer::text(StatusCode::INTERNAL_SERVER_ERROR, why);
    let pod = match find::pod(api, namespace, name) {
        Ok(pod) => pod,
        Err(response) => return *response,
    };
    let id = match find::running_container(api, &pod, uid, container).await {
        Ok(Some(id)) => id,
        Ok(None) => return failed(format!("container not found ({container:?})")),
        Err(error) => return failed(error.to_string()),
    };
    let command = query(raw).first("cmd").unwrap_or_default().to_owned();
    let words = command.split(' ').map(str::to_owned).collect();
    match api.runtime.exec_sync(&id, words, LONGEST_RUN, Duration::from_secs(60)).await {
        Ok(ran) if ran.exit_code == 0 && ran.output().is_empty() => answer::untyped(StatusCode::OK, ""),
        Ok(ran) if ran.exit_code == 0 => {
            answer::with_type(StatusCode::OK, HeaderValue::from_static("application/json"), ran.output())
        }
        Ok(ran) => {
            let said = String::from_utf8_lossy(&ran.output()).into_owned();
            failed(format!("command '{command}' exited with {}: {said}", ran.exit_code))
        }
        Err(error) => failed(error.as_grpc()),
    }
}
