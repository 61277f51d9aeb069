//! What to do next: a pure function of the state and the time. Planning over a state that has noted its own plan
//! plans nothing.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::state::{Mode, PodState, State};
use crate::brake::BrakeStep;
use crate::clock::Mono;
use crate::eviction::{Eviction, EvictionStep, Numbers};
use crate::pod::order::WorkOrder;
use crate::pod::qos::{CgroupResources, QosClass};
use crate::pod::{Pod, PodRef, PodUid};
use crate::reason::Reason;
use crate::signal::ReadScope;

/// One thing for the executor to do, and why.
#[derive(Clone, Debug)]
pub struct Action {
    pub kind: ActionKind,
    pub reason: Reason,
}

#[derive(Clone, Debug)]
pub enum ActionKind {
    /// Give the pod's worker an order.
    Dispatch { pod: PodUid, order: WorkOrder },
    /// Order the termination of a pod because of memory pressure.
    Evict { eviction: Box<Eviction>, qos: QosClass, pod: Arc<Pod> },
    /// Change how an evicted pod is held.
    Brake { qos: QosClass, step: BrakeStep },
    /// An evicted pod's grace is over before its time.
    CutGrace { pod: PodUid, order: WorkOrder, numbers: Box<Numbers> },
    /// Nothing of the pod is left: end its worker, drop its files.
    Forget(PodUid),
    /// Read the memory of the domains now.
    ReadMemory { scope: ReadScope, caused_by: Option<Mono> },
    /// Look up the ids of the pod's cgroups and watch their memory. `containers`: id and name.
    MapCgroups { pod: PodUid, qos: QosClass, containers: Vec<(String, String)> },
    /// Have the eBPF program tell when these processes exit.
    WatchInit { pids: Vec<u32> },
    /// Give a QoS class's cgroup its share.
    UpdateQos { class: QosClass, resources: CgroupResources },
    /// Relist the runtime now.
    KickPleg,
    /// Write what `oomlet pods` shows and a restart needs.
    Save(Arc<SavedPod>),
}

impl ActionKind {
    fn victim(&self) -> Option<&PodUid> {
        match self {
            ActionKind::Evict { eviction, .. } => Some(&eviction.pod.uid),
            ActionKind::CutGrace { pod, .. } => Some(pod),
            _ => None,
        }
    }
}

/// A pod as it stands on disk, `<root-dir>/oomlet/pods/<uid>.json`: for `oomlet pods`, and for the next start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedPod {
    /// The manifest with its defaults, and the current status.
    pub pod: Pod,
    /// The static pod manifest it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_path: Option<PathBuf>,
    /// Why the pod may not run (again), when it may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

impl SavedPod {
    #[must_use]
    pub fn uid(&self) -> PodUid {
        PodRef::of(&self.pod).uid
    }
}

/// Why a pod is Failed: evicted, or never admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub reason: Reason,
    pub message: String,
    /// It had been running: condition DisruptionTarget.
    pub disruption: bool,
}

/// Everything that is due at `now`.
#[must_use]
pub fn plan(state: &State, now: Mono) -> Vec<Action> {
    // Memory first: it is what the loop is woken for in a hurry.
    let mut actions = plan_memory(state, now);
    let all_pods = |a: &Action| matches!(a.kind, ActionKind::ReadMemory { scope: ReadScope::AllPods, .. });
    if state.counters_wanted() && !actions.iter().any(all_pods) {
        let kind = ActionKind::ReadMemory { scope: ReadScope::AllPods, caused_by: None };
        actions.push(Action { kind, reason: Reason::PodLifecycleEvent });
    }
    // What else there is to do for a victim is planned once the state knows that it is one: its status as it was
    // before must not go to disk after the decision.
    let victims: Vec<PodUid> = actions.iter().filter_map(|a| a.kind.victim()).cloned().collect();
    for pod in state.pods().filter(|pod| !victims.contains(&pod.id.uid)) {
        plan_pod(state, pod, now, &mut actions);
    }
    if let Some(resources) = state.burstable_due() {
        let kind = ActionKind::UpdateQos { class: QosClass::Burstable, resources };
        actions.push(Action { kind, reason: Reason::PodAdded });
    }
    if let Some(reason) = state.kick_wanted() {
        actions.push(Action { kind: ActionKind::KickPleg, reason });
    }
    actions
}

fn plan_memory(state: &State, now: Mono) -> Vec<Action> {
    let mut actions = Vec::new();
    for step in state.eviction().plan(state.candidates(), now) {
        match step {
            EvictionStep::Read { why, caused_by, scope } => {
                actions.push(Action { kind: ActionKind::ReadMemory { scope, caused_by }, reason: why });
            }
            EvictionStep::Evict(eviction) => {
                if let Some(victim) = state.pod(&eviction.pod.uid) {
                    let reason = eviction.reason;
                    let (qos, pod) = (victim.candidate.qos, Arc::clone(&victim.pod));
                    actions.push(Action { kind: ActionKind::Evict { eviction, qos, pod }, reason });
                }
            }
            EvictionStep::Brake(step) => {
                if let Some(victim) = state.pod(&step.pod) {
                    let reason = step.reason;
                    let qos = victim.candidate.qos;
                    actions.push(Action { kind: ActionKind::Brake { qos, step }, reason });
                }
            }
            EvictionStep::CutGrace { pod, why, numbers } => {
                if let Some(victim) = state.pod(&pod.uid) {
                    let order = WorkOrder::Terminate {
                        pod: Arc::clone(&victim.pod),
                        grace: std::time::Duration::ZERO,
                        reason: why,
                        remove: false,
                    };
                    let kind = ActionKind::CutGrace { pod: pod.uid, order, numbers: Box::new(numbers) };
                    actions.push(Action { kind, reason: why });
                }
            }
        }
    }
    actions
}

fn plan_pod(state: &State, pod: &PodState, now: Mono, actions: &mut Vec<Action>) {
    let uid = || pod.id.uid.clone();
    let dispatch = |order, reason| Action { kind: ActionKind::Dispatch { pod: uid(), order }, reason };
    match &pod.mode {
        Mode::Pending | Mode::Rejected(_) => {}
        Mode::Active => {
            if let Some(reason) = pod.sync_due(now) {
                actions.push(dispatch(WorkOrder::Sync { pod: Arc::clone(&pod.pod), reason }, reason));
            }
        }
        Mode::Completed { .. } | Mode::Evicted { .. } => {
            // An eviction's order went out with the decision; this repeats it after a failure or a restart.
            if pod.termination_due(now) {
                let reason = pod.mode.termination_reason();
                let grace = match &pod.mode {
                    Mode::Evicted { grace, .. } => *grace,
                    _ => pod.grace_period(),
                };
                let order = WorkOrder::Terminate { pod: Arc::clone(&pod.pod), grace, reason, remove: false };
                actions.push(dispatch(order, reason));
            }
        }
        Mode::Removing { reason } => {
            if pod.termination_due(now) {
                let order = WorkOrder::Terminate {
                    pod: Arc::clone(&pod.pod),
                    grace: pod.grace_period(),
                    reason: *reason,
                    remove: true,
                };
                actions.push(dispatch(order, *reason));
            }
        }
        Mode::Removed => {
            actions.push(Action { kind: ActionKind::Forget(uid()), reason: Reason::PodRemoved });
            return;
        }
    }
    if pod.cgroups_stale && pod.mode.may_hold_memory() {
        let containers = pod.known_containers();
        let kind = ActionKind::MapCgroups { pod: uid(), qos: pod.candidate.qos, containers };
        actions.push(Action { kind, reason: Reason::PodLifecycleEvent });
    }
    let pids: Vec<u32> = pod.unwatched_pids().collect();
    if !pids.is_empty() {
        actions.push(Action { kind: ActionKind::WatchInit { pids }, reason: Reason::PodLifecycleEvent });
    }
    if pod.unsaved && !pod.orphan {
        let saved = Arc::new(state.saved(pod, now));
        actions.push(Action { kind: ActionKind::Save(saved), reason: Reason::PodLifecycleEvent });
    }
}
