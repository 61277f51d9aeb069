//! A pod as it goes to disk: its manifest with the status of now.

use k8s_openapi::api::core::v1::PodStatus;

use super::{Mode, PodState, State};
use crate::clock::Mono;
use crate::node::plan::{Failure, SavedPod};
use crate::pod::Pod;
use crate::pod::status::{PodFailure, StatusInput, pod_status};
use crate::reason::Reason;

impl State {
    /// What `oomlet pods` shows of it, and the next start needs.
    #[must_use]
    pub fn saved(&self, pod: &PodState, now: Mono) -> SavedPod {
        let failure = match &pod.mode {
            Mode::Rejected(failure) | Mode::Evicted { failure, .. } => Some(failure.clone()),
            // Not to be forgotten should the agent end before it is admitted.
            Mode::Pending => self.saved.get(&pod.id.uid).and_then(|s| s.failure.clone()),
            // What is left of an evicted pod goes before it runs again.
            Mode::Removing { reason: Reason::RetryAfterEviction } => pod.refused.clone(),
            Mode::Active | Mode::Completed { .. } | Mode::Removing { .. } | Mode::Removed => None,
        };
        // After a restart the old status holds until the runtime has been asked: a pod that runs does not become
        // Pending for a moment.
        let earlier = pod.status.clone().filter(|_| failure.is_none() && !pod.reported);
        let status = earlier.unwrap_or_else(|| self.status(pod, failure.as_ref(), now));
        SavedPod {
            pod: Pod { status: Some(status), ..pod.pod.as_ref().clone() },
            source: pod.source,
            manifest_path: pod.path.clone(),
            failure,
            forestalled: pod.forestalled.clone(),
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
        pod_status(&StatusInput {
            pod: &pod.pod,
            runtime: &pod.runtime,
            waiting: &pod.waiting,
            failed: failed.as_ref(),
            completed: matches!(pod.mode, Mode::Completed { .. }),
            previous: pod.status.as_ref(),
            oom_killed: &pod.oom_killed,
            forestalled: &pod.forestalled,
            host_ips: &self.config.host_ips,
            runtime_name: &self.config.runtime_name,
            now_unix_ns: i64::try_from(now.0).unwrap_or(i64::MAX).saturating_add(self.config.unix_offset_ns),
        })
    }
}
