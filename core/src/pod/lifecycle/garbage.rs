//! What a pod's past leaves in the runtime and may go. Core.

use std::collections::HashMap;

use crate::pod::runtime_status::{ContainerState, PodRuntimeStatus};

/// Ids, oldest last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Garbage {
    pub containers: Vec<String>,
    /// To be removed after the containers.
    pub sandboxes: Vec<String>,
}

/// Dead instances beyond `keep_per_container` of each container (kubelet's `MaxPerPodContainer`, 1), but never a
/// container's newest instance: its restart count and its end are the pod's memory. Of the sandboxes, those
/// that are not ready, not the newest and hold no container that stays, for the runtime would take it along.
#[must_use]
pub fn garbage(status: &PodRuntimeStatus, keep_per_container: usize) -> Garbage {
    let mut garbage = Garbage::default();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut dead: HashMap<&str, usize> = HashMap::new();
    for container in &status.containers {
        let newer = seen.entry(&container.name).or_default();
        *newer += 1;
        if !matches!(container.state, ContainerState::Exited | ContainerState::Created) {
            continue;
        }
        let dead = dead.entry(&container.name).or_default();
        *dead += 1;
        if *newer > 1 && *dead > keep_per_container {
            garbage.containers.push(container.id.clone());
        }
    }
    for sandbox in status.sandboxes.iter().skip(1).filter(|s| !s.ready) {
        let in_use = status
            .containers
            .iter()
            .any(|c| c.sandbox_id == sandbox.id && !garbage.containers.contains(&c.id));
        if !in_use {
            garbage.sandboxes.push(sandbox.id.clone());
        }
    }
    garbage
}
