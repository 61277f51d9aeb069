//! Pods that may be active for so long only (`activeDeadlineSeconds`, pkg/kubelet/active_deadline.go), counted from the start
//! time in their status, over restarts of the agent. One whose time is over is ended within its grace, and has Failed once it
//! has: also a static one, which does not come back.

use k8s_openapi::api::core::v1::PodStatus;

use super::pod::{Outstanding, PodState};
use super::{Mode, State};
use crate::clock::Mono;
use crate::node::published::Failure;
use crate::pod::{Pod, PodUid};
use crate::reason::Reason;
use crate::trace::record::Kind;

const MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// When the pod's time is over. `unix_offset_ns`: what to add to a [`Mono`] to get Unix time.
fn deadline(pod: &Pod, status: &PodStatus, unix_offset_ns: i64) -> Option<Mono> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let started_ns = i64::try_from(status.start_time.as_ref()?.0.as_nanosecond()).ok()?;
    let over_ns = started_ns.saturating_add(seconds.saturating_mul(1_000_000_000));
    // Before this machine's start, by its clock: over.
    Some(Mono(u64::try_from(over_ns.saturating_sub(unix_offset_ns)).unwrap_or(0)))
}

impl State {
    /// The pod's manifest or start time may be another.
    pub(super) fn refresh_deadline(&mut self, uid: &PodUid) {
        let Some(pod) = self.pods.get(uid) else { return };
        let status = pod.status.as_deref();
        let at = status.and_then(|status| deadline(&pod.pod, status, self.config.unix_offset_ns));
        if pod.deadline_at != at
            && let Some(mut pod) = self.pods.get_mut(uid)
        {
            pod.deadline_at = at;
        }
    }

    /// Those whose time is over are ended.
    pub(super) fn end_overdue(&mut self, now: Mono) {
        let is_over =
            |pod: &&PodState| pod.mode == Mode::Active && pod.deadline_at.is_some_and(|at| at <= now);
        let over: Vec<PodUid> = self.pods.timed(now).filter(is_over).map(|pod| pod.id.uid.clone()).collect();
        for uid in over {
            let Some(mut pod) = self.pods.get_mut(&uid) else { continue };
            let failure =
                Failure { reason: Reason::DeadlineExceeded, message: MESSAGE.to_owned(), disruption: false };
            pod.mode = Mode::Evicted { failure, grace: pod.grace_period(), stopped: false };
            pod.outstanding = Outstanding::Nothing;
            pod.next_sync = None;
            pod.unsaved = true;
            let id = pod.id.clone();
            drop(pod);
            self.record_pod(now, Kind::Pod, Reason::DeadlineExceeded, &id, MESSAGE);
        }
    }
}
