//! What to do next: a pure function of the state and the time. Planning over a state that has noted its own plan
//! plans nothing.

use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, ActionKind, MemoryAction, NodeAction, PodAction, ResourceAction};
use super::state::{Mode, PodState, State};
use crate::clock::Mono;
use crate::eviction::EvictionStep;
use crate::eviction::resources::{ResourceOrder, ResourceStep};
use crate::pod::order::{InitProcess, StopContainer, WorkOrder};
use crate::pod::qos::QosClass;
use crate::pod::{ContainerInstance, PodRef, PodUid};
use crate::reason::Reason;
use crate::signal::ReadScope;

/// Everything that is due at `now`.
#[must_use]
pub fn plan(state: &State, now: Mono) -> Vec<Action> {
    // Memory first: it is what the loop is woken for in a hurry.
    let mut actions = plan_memory(state, now);
    let reads = |a: &Action, all: bool| match &a.kind {
        ActionKind::Memory(MemoryAction::Read { scope: ReadScope::AllPods, .. }) => all,
        ActionKind::Memory(MemoryAction::ReadLimits { .. }) => !all,
        _ => false,
    };
    if state.counters_wanted() && !actions.iter().any(|a| reads(a, true)) {
        // It has these too.
        actions.retain(|a| !reads(a, false));
        let read = MemoryAction::Read { scope: ReadScope::AllPods, caused_by: None };
        actions.push(Action::memory(read, Reason::PodLifecycleEvent));
    }
    if let Some(until) = state.growth_to_be_quieted() {
        actions.push(Action::memory(MemoryAction::QuietGrowth { until }, Reason::SampleDue));
    }
    plan_resources(state, now, &mut actions);
    // What else there is to do for a victim is planned once the state knows that it is one: its status as it was
    // before must not go to disk after the decision.
    let victims: Vec<PodUid> = actions.iter().filter_map(Action::victim).cloned().collect();
    for pod in state.pods_due(now).filter(|pod| !victims.contains(&pod.id.uid)) {
        plan_pod(pod, now, &mut actions);
    }
    for published in state.unpublished().filter(|pod| !victims.contains(&PodRef::of(&pod.pod).uid)) {
        actions.push(Action::pod(PodAction::Publish(Arc::clone(published)), Reason::PodLifecycleEvent));
    }
    for uid in state.unlisted() {
        actions.push(Action::pod(PodAction::Unlist(uid.clone()), Reason::PodRemoved));
    }
    if let Some(node) = state.unpublished_node() {
        actions.push(Action::node(NodeAction::Publish(node), Reason::Resync));
    }
    if let Some(resources) = state.burstable_due() {
        let update = NodeAction::UpdateQos { class: QosClass::Burstable, resources };
        actions.push(Action::node(update, Reason::PodAdded));
    }
    if let Some(reason) = state.kick_wanted() {
        actions.push(Action::node(NodeAction::KickPleg, reason));
    }
    actions
}

fn plan_memory(state: &State, now: Mono) -> Vec<Action> {
    let steps = state.eviction().plan(state.candidates(), now);
    steps.into_iter().filter_map(|step| memory_action(state, step)).collect()
}

/// The eviction manager's step, with what the executor needs of the pod. `None`: the pod is gone.
fn memory_action(state: &State, step: EvictionStep) -> Option<Action> {
    Some(match step {
        EvictionStep::Read { why, caused_by, scope } => {
            Action::memory(MemoryAction::Read { scope, caused_by }, why)
        }
        EvictionStep::ReadLimits { why, caused_by, domains } => {
            Action::memory(MemoryAction::ReadLimits { domains, caused_by }, why)
        }
        EvictionStep::Evict(eviction) => {
            let victim = state.pod(&eviction.pod.uid)?;
            let (reason, qos, pod) = (eviction.reason, victim.candidate.qos, Arc::clone(&victim.pod));
            Action::memory(MemoryAction::Evict { eviction, qos, pod }, reason)
        }
        EvictionStep::StopContainer(stop) => {
            let reason = Reason::MemoryLimitForestalled;
            let order = order_to_stop(state, &stop.pod, &stop.container, stop.grace, reason)?;
            Action::memory(MemoryAction::StopContainer { stop, order }, reason)
        }
        EvictionStep::CutContainerGrace { pod, container, why, numbers } => {
            let order = order_to_stop(state, &pod, &container, Duration::ZERO, why)?;
            Action::memory(MemoryAction::CutContainerGrace { order, numbers: Box::new(numbers) }, why)
        }
        EvictionStep::Brake(step) => {
            let (reason, qos) = (step.reason, state.pod(&step.held.pod)?.candidate.qos);
            Action::memory(MemoryAction::Brake { qos, step }, reason)
        }
        EvictionStep::CutGrace { pod, why, numbers } => {
            let victim = state.pod(&pod.uid)?;
            let order = WorkOrder::Terminate {
                pod: Arc::clone(&victim.pod),
                grace: Duration::ZERO,
                reason: why,
                remove: false,
            };
            let cut = MemoryAction::CutGrace { pod: pod.uid, order, numbers: Box::new(numbers) };
            Action::memory(cut, why)
        }
    })
}

fn order_to_stop(
    state: &State,
    pod: &PodRef,
    container: &ContainerInstance,
    grace: Duration,
    reason: Reason,
) -> Option<StopContainer> {
    let known = state.pod(&pod.uid)?;
    let status = known.containers.read().iter().find(|c| c.id == container.id);
    let init = status.and_then(|c| Some(InitProcess { pid: c.pid?, stop_signal: c.stop_signal? }));
    let pre_stop = state.pre_stop(known, &container.name).map(Box::new);
    let (pod, qos, container) = (pod.clone(), known.candidate.qos, container.clone());
    Some(StopContainer { pod, qos, container, init, pre_stop, grace, reason })
}

/// After memory, which does not wait. A pod that goes for its memory does not go twice.
fn plan_resources(state: &State, now: Mono, actions: &mut Vec<Action>) {
    for step in state.resources().plan(state.resource_candidates(), state.images_in_use(), now) {
        let (action, reason) = match step {
            ResourceStep::Read { why, scope } => {
                (ResourceAction::Order(ResourceOrder::Read(state.resource_query(scope))), why)
            }
            ResourceStep::ReclaimNode { images } => (
                ResourceAction::Order(ResourceOrder::Reclaim(state.reclaim(images))),
                Reason::GarbageCollection,
            ),
            ResourceStep::CollectImages => {
                let named = state.images_named();
                (ResourceAction::Order(ResourceOrder::CollectImages { named }), Reason::GarbageCollection)
            }
            ResourceStep::Evict(eviction) => {
                let uid = &eviction.pod.uid;
                let goes = actions.iter().any(|a| a.victim() == Some(uid));
                let Some(victim) = state.pod(uid).filter(|_| !goes) else { continue };
                let (pod, reason) = (Arc::clone(&victim.pod), eviction.reason);
                (ResourceAction::Evict { eviction, pod }, reason)
            }
        };
        actions.push(Action::resources(action, reason));
    }
}

fn plan_pod(pod: &PodState, now: Mono, actions: &mut Vec<Action>) {
    let uid = || pod.id.uid.clone();
    let dispatch = |order, reason| Action::pod(PodAction::Dispatch { pod: uid(), order }, reason);
    match &pod.mode {
        Mode::Pending | Mode::Rejected(_) => {}
        Mode::Active => {
            if let Some(reason) = pod.sync_due(now) {
                let (manifest, probes) = (Arc::clone(&pod.pod), pod.probes.clone());
                actions.push(dispatch(WorkOrder::Sync { pod: manifest, probes, reason }, reason));
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
            actions.push(Action::pod(PodAction::Forget(uid()), Reason::PodRemoved));
            return;
        }
    }
    if pod.cgroups_stale && pod.mode.may_hold_memory() {
        let containers = pod.containers.known();
        let map = PodAction::MapCgroups { pod: uid(), qos: pod.candidate.qos, containers };
        actions.push(Action::pod(map, Reason::PodLifecycleEvent));
    }
    let pids: Vec<u32> = pod.unwatched_pids().collect();
    if !pids.is_empty() {
        actions.push(Action::pod(PodAction::WatchInit { pod: uid(), pids }, Reason::PodLifecycleEvent));
    }
}
