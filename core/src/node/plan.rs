//! What to do next: a pure function of the state and the time. Planning over a state that has noted its own plan
//! plans nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::PodSource;
use super::state::{Mode, PodState, State};
use crate::brake::BrakeStep;
use crate::clock::Mono;
use crate::eviction::resources::{ResourceEviction, ResourceOrder, ResourceStep};
use crate::eviction::{ContainerStop, Eviction, EvictionStep, Numbers};
use crate::pod::order::{InitProcess, StopContainer, WorkOrder};
use crate::pod::qos::{CgroupResources, QosClass};
use crate::pod::{ContainerInstance, Pod, PodRef, PodUid};
use crate::reason::Reason;
use crate::signal::{Domain, ReadScope};

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
    /// Change how an evicted pod, or a container that is being stopped, is held.
    Brake { qos: QosClass, step: BrakeStep },
    /// An evicted pod's grace is over before its time.
    CutGrace { pod: PodUid, order: WorkOrder, numbers: Box<Numbers> },
    /// Stop one container before it reaches its memory limit.
    StopContainer { stop: Box<ContainerStop>, order: StopContainer },
    /// Its grace is over before its time: the same order, without a grace.
    CutContainerGrace { order: StopContainer, numbers: Box<Numbers> },
    /// Order the termination of a pod because of disk or process ids, or of a limit of its own.
    EvictForResource { eviction: Box<ResourceEviction>, pod: Arc<Pod> },
    /// Have disks, process ids and images read or cleared up.
    Resources(ResourceOrder),
    /// Nothing of the pod is left: end its worker, drop its files.
    Forget(PodUid),
    /// Read the memory of the domains now.
    ReadMemory { scope: ReadScope, caused_by: Option<Mono> },
    /// Read node, `kubepods`, and of the others these.
    ReadLimits { domains: Vec<Domain>, caused_by: Option<Mono> },
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
            ActionKind::EvictForResource { eviction, .. } => Some(&eviction.pod.uid),
            ActionKind::CutGrace { pod, .. } => Some(pod),
            ActionKind::StopContainer { stop, .. } => Some(&stop.pod.uid),
            _ => None,
        }
    }
}

/// A pod as it stands on disk, `<root-dir>/oomlet/pods/<uid>.json`: for `oomlet pods`, and for the next start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedPod {
    /// The manifest with its defaults, and the current status.
    pub pod: Pod,
    /// Who named it. An agent before there were several sources did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PodSource>,
    /// The static pod manifest it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_path: Option<PathBuf>,
    /// Why the pod may not run (again), when it may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Containers that were stopped before they reached their memory limit: id, and the message of their status.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub forestalled: BTreeMap<String, String>,
}

impl SavedPod {
    #[must_use]
    pub fn uid(&self) -> PodUid {
        PodRef::of(&self.pod).uid
    }

    /// Who named it; where nobody wrote it down it was a file.
    #[must_use]
    pub fn source(&self) -> PodSource {
        self.source.unwrap_or(PodSource::File)
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
        // It has these too.
        actions.retain(|a| !matches!(a.kind, ActionKind::ReadLimits { .. }));
        let kind = ActionKind::ReadMemory { scope: ReadScope::AllPods, caused_by: None };
        actions.push(Action { kind, reason: Reason::PodLifecycleEvent });
    }
    plan_resources(state, now, &mut actions);
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
            EvictionStep::ReadLimits { why, caused_by, domains } => {
                actions.push(Action { kind: ActionKind::ReadLimits { domains, caused_by }, reason: why });
            }
            EvictionStep::StopContainer(stop) => {
                let reason = Reason::MemoryLimitForestalled;
                if let Some(order) = order_to_stop(state, &stop.pod, &stop.container, stop.grace, reason) {
                    actions.push(Action { kind: ActionKind::StopContainer { stop, order }, reason });
                }
            }
            EvictionStep::CutContainerGrace { pod, container, why, numbers } => {
                if let Some(order) = order_to_stop(state, &pod, &container, Duration::ZERO, why) {
                    let kind = ActionKind::CutContainerGrace { order, numbers: Box::new(numbers) };
                    actions.push(Action { kind, reason: why });
                }
            }
            EvictionStep::Brake(step) => {
                if let Some(victim) = state.pod(&step.held.pod) {
                    let reason = step.reason;
                    let qos = victim.candidate.qos;
                    actions.push(Action { kind: ActionKind::Brake { qos, step }, reason });
                }
            }
            EvictionStep::CutGrace { pod, why, numbers } => {
                if let Some(victim) = state.pod(&pod.uid) {
                    let order = WorkOrder::Terminate {
                        pod: Arc::clone(&victim.pod),
                        grace: Duration::ZERO,
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

fn order_to_stop(
    state: &State,
    pod: &PodRef,
    container: &ContainerInstance,
    grace: Duration,
    reason: Reason,
) -> Option<StopContainer> {
    let known = state.pod(&pod.uid)?;
    let status = known.runtime.containers.iter().find(|c| c.id == container.id);
    let init = status.and_then(|c| Some(InitProcess { pid: c.pid?, stop_signal: c.stop_signal? }));
    let (pod, qos, container) = (pod.clone(), known.candidate.qos, container.clone());
    Some(StopContainer { pod, qos, container, init, grace, reason })
}

/// After memory, which does not wait. A pod that goes for its memory does not go twice.
fn plan_resources(state: &State, now: Mono, actions: &mut Vec<Action>) {
    if !state.knows_its_pods() {
        return;
    }
    for step in state.resources().plan(state.resource_candidates(), now) {
        let (kind, reason) = match step {
            ResourceStep::Read { why, scope } => {
                (ActionKind::Resources(ResourceOrder::Read(state.resource_query(scope))), why)
            }
            ResourceStep::ReclaimNode { images } => (
                ActionKind::Resources(ResourceOrder::Reclaim(state.reclaim(images))),
                Reason::GarbageCollection,
            ),
            ResourceStep::CollectImages => {
                let named = state.images_named();
                (ActionKind::Resources(ResourceOrder::CollectImages { named }), Reason::GarbageCollection)
            }
            ResourceStep::Evict(eviction) => {
                let uid = &eviction.pod.uid;
                let goes = actions.iter().any(|a| a.kind.victim() == Some(uid));
                let Some(victim) = state.pod(uid).filter(|_| !goes) else { continue };
                let (pod, reason) = (Arc::clone(&victim.pod), eviction.reason);
                (ActionKind::EvictForResource { eviction, pod }, reason)
            }
        };
        actions.push(Action { kind, reason });
    }
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
