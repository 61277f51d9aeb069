//! A pod as everybody outside sees it: made anew where something of it has changed, and kept only if it differs.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PodStatus;

use super::{Mode, PodState, State};
use crate::clock::Mono;
use crate::eviction::resources::Condition;
use crate::node::published::{self, Failure, Lifecycle, Probing, PublishedNode, PublishedPod};
use crate::pod::PodUid;
use crate::pod::runtime_status::PodRuntimeStatus;
use crate::pod::status::{PodFailure, StatusInput, pod_status};
use crate::reason::Reason;

impl State {
    /// How the node is, where it differs from what was told last.
    #[must_use]
    pub fn unpublished_node(&self) -> Option<PublishedNode> {
        let node = PublishedNode {
            memory_pressure: self.conditions.memory_pressure,
            disk_pressure: self.conditions.resources.contains(&Condition::DiskPressure),
            pid_pressure: self.conditions.resources.contains(&Condition::PidPressure),
            runtime_error: self.runtime_error.clone(),
            sources_ready: self.sources_ready(),
        };
        (self.node_published.as_ref() != Some(&node)).then_some(node)
    }

    /// Of a pod that has changed. An orphan is nobody's: what it was is on disk until it is gone.
    pub(super) fn refresh_published(&mut self, uid: &PodUid, now: Mono) {
        let shown = |pod: &&PodState| pod.unsaved && !pod.orphan && pod.mode != Mode::Removed;
        let Some(pod) = self.pods.get(uid).filter(shown) else { return };
        let current = self.current(pod, now);
        let differs = pod.published.as_deref() != Some(&current);
        self.pods.published(uid, differs.then(|| Arc::new(current)));
        if differs {
            self.unpublished.insert(uid.clone());
        }
    }

    fn current(&self, pod: &PodState, now: Mono) -> PublishedPod {
        let failure = match &pod.mode {
            Mode::Rejected(failure) | Mode::Evicted { failure, .. } => Some(failure.clone()),
            // Not to be forgotten should the agent end before it is admitted.
            Mode::Pending => self.saved.get(&pod.id.uid).and_then(|s| s.failure.clone()),
            // Also of an evicted pod of which what is left goes before it runs again.
            Mode::Removing { .. } => pod.refused.clone(),
            Mode::Active | Mode::Completed { .. } | Mode::Removed => None,
        };
        // After a restart the old status holds until its worker has read what the runtime has: a pod that runs does not
        // become Pending meanwhile, however long that takes.
        let unread = pod.containers.status().is_none();
        let failed = |status: &PodStatus| status.phase.as_deref() == Some("Failed");
        // A controller replaces a pod that has failed: one whose time is over is to have made room by then.
        let told = failure.as_ref().filter(|f| !f.is_overdue() || all_ended(pod));
        let holds = |status: &PodStatus| match told {
            // Of a pod that was refused and is looked at again.
            None => !(pod.mode == Mode::Pending && pod.refused.is_some() && failed(status)),
            Some(failure) => failed(status) && status.message.as_ref() == Some(&failure.message),
        };
        let earlier = pod.status.clone().filter(|status| unread && holds(status));
        let as_saved = earlier.as_ref().is_some_and(|status| !published::has_ended(status));
        let status = earlier.unwrap_or_else(|| Arc::new(self.status(pod, told, now)));
        PublishedPod {
            pod: Arc::clone(&pod.pod),
            status,
            source: pod.source,
            manifest_path: pod.path.clone(),
            failure,
            forestalled: pod.forestalled.clone(),
            probing: match &pod.mode {
                Mode::Active => Probing::All,
                Mode::Removing { .. } => Probing::Readiness,
                Mode::Pending
                | Mode::Rejected(_)
                | Mode::Evicted { .. }
                | Mode::Completed { .. }
                | Mode::Removed => Probing::Nothing,
            },
            lifecycle: lifecycle(pod),
            as_saved,
        }
    }

    fn status(&self, pod: &PodState, failure: Option<&Failure>, now: Mono) -> PodStatus {
        let failed = failure.map(|f| {
            // To Kubernetes it is an eviction, and no disruption: the pod has itself to blame (KEP-3329).
            let own_limit = f.reason == Reason::LocalStorageLimitExceeded;
            let reason = if own_limit { Reason::Evicted } else { f.reason };
            PodFailure {
                reason: reason.as_str().to_owned(),
                message: f.message.clone(),
                disruption: f.disruption && !own_limit,
            }
        });
        // Of a pod that was not there before, and of one that is decided to have failed.
        let nothing = PodRuntimeStatus::default();
        pod_status(&StatusInput {
            pod: &pod.pod,
            runtime: pod.containers.status().unwrap_or(&nothing),
            waiting: &pod.waiting,
            failed: failed.as_ref(),
            completed: has_ended(pod),
            previous: pod.status.as_deref(),
            oom_killed: &pod.oom_killed,
            forestalled: &pod.forestalled,
            probes: &pod.probes,
            host_ips: &self.config.host_ips,
            runtime_name: &self.config.runtime_name,
            recursive_read_only: self.config.recursive_read_only,
            now_unix_ns: i64::try_from(now.0).unwrap_or(i64::MAX).saturating_add(self.config.unix_offset_ns),
        })
    }
}

fn lifecycle(pod: &PodState) -> Lifecycle {
    match pod.mode {
        Mode::Pending | Mode::Active => Lifecycle::Sync,
        Mode::Rejected(_) | Mode::Evicted { stopped: true, .. } | Mode::Removed => Lifecycle::Terminated,
        Mode::Completed { .. } | Mode::Evicted { .. } | Mode::Removing { .. } => {
            if all_ended(pod) {
                Lifecycle::Terminated
            } else {
                Lifecycle::Terminating
            }
        }
    }
}

/// It ended by itself, or was deleted and all of it has ended.
fn has_ended(pod: &PodState) -> bool {
    match pod.mode {
        Mode::Completed { .. } => true,
        Mode::Removing { .. } | Mode::Removed => all_ended(pod),
        _ => false,
    }
}

/// By what its worker has read. PLEG's list may be older: it counts for containers that the worker has not told of.
fn all_ended(pod: &PodState) -> bool {
    pod.containers.status().is_some() && pod.containers.running().is_empty()
}
