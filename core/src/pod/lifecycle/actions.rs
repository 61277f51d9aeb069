//! What is to be done for a pod.

use std::time::Duration;

use crate::pod::ContainerInstance;
use crate::pod::order::ContainerWaiting;
use crate::reason::Reason;

/// In the order in which the worker carries it out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodActions {
    /// Stop every container and every sandbox of the pod first: its sandbox is gone, or the pod is done.
    pub kill_pod: bool,
    pub create_sandbox: bool,
    /// For `create_sandbox`: one more than any sandbox of the pod had.
    pub sandbox_attempt: u32,
    /// Without `kill_pod`: these alone.
    pub containers_to_kill: Vec<ContainerKill>,
    /// In order, and nothing else: all of the pod is to start again in its sandbox, as if it had never run.
    pub containers_to_reset: Vec<ContainerReset>,
    /// In order. When one with `init` set does not start, those after it must not be started.
    pub containers_to_start: Vec<ContainerStart>,
    /// Containers that would start but for their CrashLoopBackOff.
    pub waiting: Vec<ContainerWaiting>,
    /// When to plan again though nothing happened.
    pub next_sync_in: Option<(Duration, Reason)>,
    /// The pod ended by itself, well or not; nothing is started any more.
    pub completed: Option<bool>,
}

impl PodActions {
    /// Nothing to be done now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.kill_pod
            && !self.create_sandbox
            && self.containers_to_kill.is_empty()
            && self.containers_to_reset.is_empty()
            && self.containers_to_start.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerKill {
    pub id: String,
    pub name: String,
    pub message: String,
    pub reason: Reason,
    /// What it is given to end, where that is not the pod's.
    pub grace: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStart {
    pub name: String,
    pub kind: ContainerKind,
    /// One more than the instance before, of whatever sandbox, had; 0 for the first.
    pub restart_count: u32,
}

/// A container to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerReset {
    pub container: ContainerInstance,
    /// It may run.
    pub kill: bool,
}

/// By the list of the manifest that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerKind {
    Regular,
    /// Sidecars included.
    Init,
    Ephemeral,
}
