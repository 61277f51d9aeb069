//! A critical pod that the node has no room for: others make it (`CriticalPodAdmissionHandler`, pkg/kubelet/preemption).

use super::pod::PodState;
use super::{Mode, State};
use crate::clock::Mono;
use crate::node::published::Failure;
use crate::pod::admission::Rejection;
use crate::pod::preemption::{self, Missing, Preemptable};
use crate::pod::qos::{self, Amounts, QosClass};
use crate::pod::{PodRef, PodUid};
use crate::reason::Reason;
use crate::trace::record::Kind;

/// kubelet's words, in the status and in the Event.
const MESSAGE: &str = "Preempted in order to admit critical pod";

impl State {
    /// Whether others are on their way out for it; what spoke against it then is over once they have ended.
    pub(super) fn make_room_for(&mut self, id: &PodRef, no: &Rejection, now: Mono) -> bool {
        let Some(wanted) = self.pods.get(&id.uid) else { return false };
        if !self.is_critical(wanted) || !preemption::is_for_lack_of_room(no) {
            return false;
        }
        let may_go = |p: &&PodState| {
            p.mode == Mode::Active
                && preemption::may_go_for(&p.pod, self.is_critical(p), &wanted.pod, self.is_critical(wanted))
        };
        let candidates: Vec<Preemptable> = self
            .pods
            .values()
            .filter(may_go)
            .map(|p| Preemptable { uid: p.id.uid.clone(), qos: QosClass::of(&p.pod), requests: p.requests })
            .collect();
        let Some(victims) = preemption::victims(self.missing_for(wanted), &candidates) else { return false };
        for uid in &victims {
            self.preempt(uid, now);
        }
        !victims.is_empty()
    }

    fn is_critical(&self, pod: &PodState) -> bool {
        qos::is_critical(&pod.pod) || pod.is_static() && self.config.static_pods_critical
    }

    /// Beyond what those that are ending give back.
    fn missing_for(&self, wanted: &PodState) -> Missing {
        let (taken, pods) = self.pods.staying(std::slice::from_ref(&wanted.id.uid));
        let (asked, has) = (wanted.requests, self.config.node.allocatable);
        let missing = |asked: u64, taken: u64, has: u64| match asked {
            0 => 0,
            asked => asked.saturating_add(taken).saturating_sub(has),
        };
        Missing {
            requests: Amounts {
                milli_cpu: missing(asked.milli_cpu, taken.milli_cpu, has.milli_cpu),
                memory_bytes: missing(asked.memory_bytes, taken.memory_bytes, has.memory_bytes),
            },
            pods: missing(1, pods as u64, self.config.node.max_pods as u64),
        }
    }

    fn preempt(&mut self, uid: &PodUid, now: Mono) {
        let Some(mut pod) = self.pods.get_mut(uid) else { return };
        let failure = Failure { reason: Reason::Preempting, message: MESSAGE.to_owned(), disruption: true };
        pod.mode = Mode::Evicted { failure, grace: pod.grace_period(), stopped: false };
        pod.next_sync = None;
        pod.unsaved = true;
        let id = pod.id.clone();
        drop(pod);
        self.record_pod(now, Kind::Warning, Reason::Preempting, &id, MESSAGE);
    }
}
