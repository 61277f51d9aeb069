//! A pod as it goes to disk: its manifest with the status of now.

use k8s_openapi::api::core::v1::PodStatus;

use super::{Mode, PodState, State};
use crate::clock::Mono;
use crate::node::plan::{Failure, SavedPod};
use crate::pod::Pod;
use crate::pod::runtime_status::PodRuntimeStatus;
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
            Mode::Active | Mode::Completed { .. } | Mode::Removing { .. } | Mode::Removed => None,
        };
        // After a restart the old status holds until its worker has read what the runtime has: a pod that runs does not
        // become Pending meanwhile, however long that takes.
        let unread = pod.containers.status().is_none();
        let failed = |status: &PodStatus| status.phase.as_deref() == Some("Failed");
        let earlier = pod.status.clone().filter(|status| unread && (failure.is_none() || failed(status)));
        let status = earlier.unwrap_or_else(|| self.status(pod, failure.as_ref(), now));
        SavedPod {
            pod: Pod { status: Some(status), ..pod.pod.as_ref().clone() },
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
        // Of a pod that was not there before, and of one that is decided to have failed.
        let nothing = PodRuntimeStatus::default();
        pod_status(&StatusInput {
            pod: &pod.pod,
            runtime: pod.containers.status().unwrap_or(&nothing),
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
