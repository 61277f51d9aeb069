//! From the names in a path to a pod of the node, and to what of it runs.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;

use super::answer;
use super::state::NodeApi;
use crate::cri::CriError;
use oomlet_core::node_api::pods;
use oomlet_core::pod::runtime_status::ContainerState;
use oomlet_core::pod::{Pod, PodRef};

#[derive(Clone, Debug)]
pub struct FoundPod {
    pub pod: Arc<Pod>,
    pub id: PodRef,
}

impl FoundPod {
    /// Whether the container's process has a terminal.
    #[must_use]
    pub fn tty(&self, container: &str) -> bool {
        pods::container(&self.pod, container).is_some_and(|found| found.tty)
    }

    #[must_use]
    pub fn has_uid(&self, uid: &str) -> bool {
        self.id.uid.as_str() == uid
    }
}

/// # Errors
/// kubelet's answer for a pod that is not here.
pub fn pod(api: &NodeApi, namespace: &str, name: &str) -> Result<FoundPod, Box<Response>> {
    let snapshot = api.snapshot();
    match pods::by_name(&snapshot, namespace, name) {
        Some(found) => Ok(FoundPod { pod: Arc::clone(&found.pod), id: PodRef::of(&found.pod) }),
        None => Err(Box::new(answer::text(StatusCode::NOT_FOUND, "pod does not exist"))),
    }
}

/// Its id. `None`: none of this name runs, or the pod has another UID.
///
/// # Errors
/// When the runtime does not answer.
pub async fn running_container(
    api: &NodeApi,
    pod: &FoundPod,
    uid: Option<&str>,
    container: &str,
) -> Result<Option<String>, CriError> {
    if uid.is_some_and(|uid| !pod.has_uid(uid)) {
        return Ok(None);
    }
    let all = api.runtime.list_containers(Some(&pod.id.uid)).await?;
    let running = all.into_iter().filter(|c| c.name == container && c.state == ContainerState::Running);
    Ok(running.max_by_key(|c| c.created_at_ns).map(|c| c.id))
}

/// The id of the pod's newest sandbox that is ready.
///
/// # Errors
/// When the runtime does not answer.
pub async fn ready_sandbox(api: &NodeApi, pod: &FoundPod) -> Result<Option<String>, CriError> {
    let all = api.runtime.list_sandboxes(Some(&pod.id.uid)).await?;
    Ok(all.into_iter().filter(|s| s.ready).max_by_key(|s| s.created_at_ns).map(|s| s.id))
}
