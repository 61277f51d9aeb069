//! What the SyncLoop and a pod's worker say to each other.

use std::sync::Arc;
use std::time::Duration;

use super::hook::PreStop;
use super::probe::ProbeResults;
use super::qos::QosClass;
use super::runtime_status::PodRuntimeStatus;
use super::stop_signal::StopSignal;
use super::{ContainerInstance, Pod, PodRef, PodUid};
use crate::clock::Mono;
use crate::reason::Reason;

/// The newest order replaces an unread older one, but a termination is never replaced by a sync,
/// and a grace period only ever gets shorter.
#[derive(Clone, Debug)]
pub enum WorkOrder {
    /// Bring the pod to what its manifest says. `probes`: all verdicts there are, so that the newest order has what an
    /// unread one had.
    Sync { pod: Arc<Pod>, probes: ProbeResults, reason: Reason },
    /// Stop all containers (SIGTERM, SIGKILL after `grace`) and the sandbox. What the pod leaves on the node
    /// (dead containers, logs) goes when `remove` is set: an evicted pod keeps its logs until its manifest is gone.
    /// Its cgroup and volumes go in any case, for they may hold memory.
    Terminate { pod: Arc<Pod>, grace: Duration, reason: Reason, remove: bool },
}

/// Stop one container of a pod that lives on: its hook and its stop signal now, SIGKILL after `grace`. Beside the standing order, and
/// whatever the pod's worker is at. Once more for the same container: its SIGKILL only ever comes earlier.
#[derive(Clone, Debug)]
pub struct StopContainer {
    pub pod: PodRef,
    pub qos: QosClass,
    pub container: ContainerInstance,
    /// For the agent to send the signal itself; `None`: the runtime has to.
    pub init: Option<InitProcess>,
    /// Before its stop signal.
    pub pre_stop: Option<Box<PreStop>>,
    pub grace: Duration,
    pub reason: Reason,
}

/// A container's first process, as the runtime names it, and what asks it to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitProcess {
    pub pid: u32,
    pub stop_signal: StopSignal,
}

#[derive(Clone, Debug)]
pub struct WorkerReport {
    pub pod: PodUid,
    pub at: Mono,
    pub outcome: WorkerOutcome,
    /// As the worker read it last; what the pod's status is made from. `None`: it has not read, and nothing follows for
    /// what was known before.
    pub runtime: Option<PodRuntimeStatus>,
}

#[derive(Clone, Debug)]
pub enum WorkerOutcome {
    /// The pod is as its manifest says, or will be at `next_sync_in` (CrashLoopBackOff, image back-off). `settled`: as it was
    /// read last, nothing was to be done for it.
    Synced { next_sync_in: Option<(Duration, Reason)>, waiting: Vec<ContainerWaiting>, settled: bool },
    /// All containers ended and the restart policy starts none again.
    Completed { succeeded: bool },
    /// The work failed; kubelet's back-off applies. `error` names the thing and the remedy.
    /// `reason`: what failed, where Kubernetes has a word for it.
    Failed { reason: Reason, error: String, retry_in: Duration, waiting: Vec<ContainerWaiting> },
    /// Under `Terminate`: the containers that are stopped first have been sent their stop signal by the agent itself, or are at
    /// the hook before it.
    Signalled,
    /// Of a [`StopContainer`]: the agent itself has sent the stop signal, or begun the hook before it. Says nothing of the rest of the pod.
    ContainerSignalled { container: ContainerInstance },
    /// Of a [`StopContainer`]: the container has ended, `took` after the order; `killed` when SIGKILL was needed. Says nothing
    /// of the rest of the pod.
    ContainerStopped { container: ContainerInstance, took: Duration, killed: bool },
    /// Under `Terminate`: all containers have ended, `took` after the order. `killed` when SIGKILL was needed.
    Stopped { took: Duration, killed: bool },
    /// Under `Terminate` without `remove`: the pod's cgroup and volumes are gone.
    CleanedUp,
    /// Under `Terminate { remove: true }`: nothing of the pod is left on the node.
    Removed,
}

/// Why a container does not run, in kubelet's words (`CrashLoopBackOff`, `ErrImageNeverPull`, `ImagePullBackOff`,
/// `CreateContainerConfigError`, `CreateContainerError`, `RunContainerError`, `ContainerCreating`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerWaiting {
    pub container: String,
    pub reason: String,
    pub message: String,
}
