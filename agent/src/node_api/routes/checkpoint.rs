//! `/checkpoint/NAMESPACE/POD/CONTAINER`: the runtime writes a container's state to `<root-dir>/checkpoints`.

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::any;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::{Routes, Shared, only, query};
use crate::node_api::{answer, find};
use oomlet_core::node_api::pods;

pub(super) fn routes() -> Routes {
    only("POST", Router::new().route("/checkpoint/{namespace}/{pod}/{container}", any(checkpoint)))
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
        Err(error) => failed(error.as_grpc()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::{Body, to_bytes};
    use axum::extract::Request;
    use k8s_cri::v1 as cri;
    use tower::ServiceExt as _;

    use super::*;
    use crate::cri::fake::FakeRuntime;
    use crate::cri::names;
    use crate::node_api::NodeApi;
    use oomlet_core::node::published::{NodeSnapshot, PublishedPod};

    #[tokio::test]
    async fn the_runtime_is_asked_and_the_file_named() {
        let fake = FakeRuntime::start();
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let container = cri::ContainerStatus {
            id: "c1".into(),
            metadata: Some(cri::ContainerMetadata { name: "main".into(), attempt: 0 }),
            labels: [
                label(names::POD_UID, "u"),
                label(names::POD_NAME, "web"),
                label(names::POD_NAMESPACE, "ns"),
                label(names::CONTAINER_NAME, "main"),
            ]
            .into(),
            state: cri::ContainerState::ContainerRunning.into(),
            ..Default::default()
        };
        fake.state().containers.push(("s".into(), container));
        let pod = json!({ "metadata": { "name": "web", "namespace": "ns", "uid": "u" },
            "spec": { "containers": [{ "name": "main" }] } });
        let mut snapshot = NodeSnapshot::default();
        let pod = Arc::new(serde_json::from_value(pod).unwrap());
        snapshot.pods.insert("u".into(), Arc::new(PublishedPod { pod, ..PublishedPod::default() }));
        let dir = tempfile::tempdir().unwrap();
        let state = NodeApi::of(&fake.endpoint(), snapshot, dir.path().to_owned());
        let router = routes().with_state(Arc::new(state));
        let ask = async |path: &str| {
            let request = Request::post(path).body(Body::empty()).unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            let status = answer.status().as_u16();
            (
                status,
                String::from_utf8(to_bytes(answer.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap(),
            )
        };

        let (status, body) = ask("/checkpoint/ns/web/main?timeout=7").await;
        let made: serde_json::Value = serde_json::from_str(&body).unwrap();
        let location = made["items"][0].as_str().unwrap();
        let begins = dir.path().join("checkpoints/checkpoint-web_ns-main-").display().to_string();
        assert!(status == 200 && location.starts_with(&begins) && location.ends_with("Z.tar"), "{body}");
        assert_eq!(fake.calls("CheckpointContainer"), [format!("CheckpointContainer c1 {location} 7")]);
        fake.fail("CheckpointContainer", tonic::Code::Unknown, "no CRIU");
        let failed = "checkpointing of ns/web/main failed (rpc error: code = Unknown desc = no CRIU)";
        assert_eq!(ask("/checkpoint/ns/web/main").await, (500, failed.to_owned()));
        assert_eq!(ask("/checkpoint/ns/web/none").await, (404, "container none does not exist".to_owned()));
        assert_eq!(ask("/checkpoint/ns/none/main").await, (404, "pod does not exist".to_owned()));
    }
}
