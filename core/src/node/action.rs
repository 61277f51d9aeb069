//! What the SyncLoop may do, by what it is about: memory, disks and process ids, one pod, the node. Each has its own note
//! in the state and its own part of the executor.

use std::sync::Arc;

use super::published::{PublishedNode, PublishedPod};
use crate::brake::BrakeStep;
use crate::clock::Mono;
use crate::eviction::resources::{ResourceEviction, ResourceOrder};
use crate::eviction::{ContainerStop, Eviction, Numbers};
use crate::pod::order::{StopContainer, WorkOrder};
use crate::pod::qos::{CgroupResources, QosClass};
use crate::pod::{ContainerInstance, Pod, PodUid};
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
    Memory(MemoryAction),
    Resources(ResourceAction),
    Pod(PodAction),
    Node(NodeAction),
}

#[derive(Clone, Debug)]
pub enum MemoryAction {
    /// Read the memory of the domains now.
    Read { scope: ReadScope, caused_by: Option<Mono> },
    /// Read node, `kubepods`, and of the others these.
    ReadLimits { domains: Vec<Domain>, caused_by: Option<Mono> },
    /// Have the eBPF programs tell of no growth until then; [`Mono::ZERO`]: of all.
    QuietGrowth { until: Mono },
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
}

#[derive(Clone, Debug)]
pub enum ResourceAction {
    /// Have disks, process ids and images read or cleared up.
    Order(ResourceOrder),
    /// Order the termination of a pod because of disk or process ids, or of a limit of its own.
    Evict { eviction: Box<ResourceEviction>, pod: Arc<Pod> },
}

#[derive(Clone, Debug)]
pub enum PodAction {
    /// Give the pod's worker an order.
    Dispatch { pod: PodUid, order: WorkOrder },
    /// Nothing of the pod is left: end its worker, drop its files.
    Forget(PodUid),
    /// Look up the ids of the pod's cgroups and watch their memory.
    MapCgroups { pod: PodUid, qos: QosClass, containers: Vec<ContainerInstance> },
    /// Have the eBPF program tell when these processes of the pod exit.
    WatchInit { pod: PodUid, pids: Vec<u32> },
    /// Tell everybody outside of the loop of the pod as it is now.
    Publish(Arc<PublishedPod>),
    /// Of a pod that was deleted, and has been forgotten: its source does not name it any more.
    Unlist(PodUid),
}

#[derive(Clone, Debug)]
pub enum NodeAction {
    /// Give a QoS class's cgroup its share.
    UpdateQos { class: QosClass, resources: CgroupResources },
    /// Relist the runtime now.
    KickPleg,
    /// Tell everybody outside of the loop how the node is now.
    Publish(PublishedNode),
}

impl Action {
    #[must_use]
    pub const fn memory(action: MemoryAction, reason: Reason) -> Action {
        Action { kind: ActionKind::Memory(action), reason }
    }

    #[must_use]
    pub const fn resources(action: ResourceAction, reason: Reason) -> Action {
        Action { kind: ActionKind::Resources(action), reason }
    }

    #[must_use]
    pub const fn pod(action: PodAction, reason: Reason) -> Action {
        Action { kind: ActionKind::Pod(action), reason }
    }

    #[must_use]
    pub const fn node(action: NodeAction, reason: Reason) -> Action {
        Action { kind: ActionKind::Node(action), reason }
    }

    /// The pod that it ends, or a container of which it ends.
    #[must_use]
    pub fn victim(&self) -> Option<&PodUid> {
        match &self.kind {
            ActionKind::Memory(action) => match action {
                MemoryAction::Evict { eviction, .. } => Some(&eviction.pod.uid),
                MemoryAction::CutGrace { pod, .. } => Some(pod),
                MemoryAction::StopContainer { stop, .. } => Some(&stop.pod.uid),
                _ => None,
            },
            ActionKind::Resources(ResourceAction::Evict { eviction, .. }) => Some(&eviction.pod.uid),
            _ => None,
        }
    }
}
