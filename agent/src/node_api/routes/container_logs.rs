//! `/containerLogs/NAMESPACE/POD/CONTAINER`: what `kubectl logs` reads.

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::any;
use k8s_openapi::jiff::Timestamp;

use super::{Routes, Shared, only, query};
use crate::container_log::reader::{self, LogOf};
use crate::node_api::answer;
use oomlet_core::node_api::{log_options, log_source, pods};
use oomlet_core::pod::PodRef;

pub(super) fn routes() -> Routes {
    let path = "/containerLogs/{namespace}/{pod}/{container}";
    only("GET", Router::new().route(path, any(read)).route(&format!("{path}/"), any(read)))
}

async fn read(
    State(api): State<Shared>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    RawQuery(raw): RawQuery,
) -> Response {
    let options = match log_options::parse(&query(raw.as_deref()), Timestamp::now()) {
        Ok(options) => options,
        Err(refused) => {
            let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::BAD_REQUEST);
            return answer::text(status, refused.body);
        }
    };
    let snapshot = api.snapshot();
    let Some(published) = pods::by_name(&snapshot, &namespace, &name) else {
        return answer::text(StatusCode::NOT_FOUND, format!("pod {name:?} does not exist"));
    };
    if pods::container(&published.pod, &container).is_none() {
        let text = format!("container {container:?} not found in pod {name:?}");
        return answer::text(StatusCode::NOT_FOUND, text);
    }
    let id = match log_source::container_id(&name, &published.status, &container, options.previous) {
        Ok(id) => id,
        Err(why) => return answer::untyped(StatusCode::BAD_REQUEST, why),
    };
    let path = match api.runtime.container_log(&id).await {
        Ok(log) => log.path,
        Err(error) => {
            tracing::debug!(%error, "a container's log");
            // With 200, as from kubelet, which has begun its answer by then.
            let text = format!("unable to retrieve container logs for containerd://{id}");
            return answer::untyped(StatusCode::OK, text);
        }
    };
    let of = LogOf {
        path,
        pod: PodRef::of(&published.pod).uid,
        container_id: id,
        snapshots: api.snapshots.clone(),
    };
    let (to, body) = answer::channel();
    // It ends when the caller goes, and with the server.
    tokio::spawn(async move { reader::send(of, options, &api.dir_watches, to).await });
    answer::untyped(StatusCode::OK, body)
}
