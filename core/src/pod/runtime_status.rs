//! What the container runtime says of one pod, in our own types: the input of [`super::lifecycle`].

use super::ContainerInstance;
use super::stop_signal::StopSignal;

/// All sandboxes and containers of one pod, newest first in both lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRuntimeStatus {
    pub sandboxes: Vec<SandboxStatus>,
    pub containers: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxStatus {
    pub id: String,
    /// SANDBOX_READY.
    pub ready: bool,
    /// Unix time in nanoseconds.
    pub created_at_ns: i64,
    pub attempt: u32,
    /// Empty with hostNetwork.
    pub ips: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStatus {
    pub id: String,
    pub sandbox_id: String,
    pub name: String,
    /// How often the container had been started before this instance.
    pub restart_count: u32,
    pub state: ContainerState,
    /// Unix times in nanoseconds; 0 where it has not happened.
    pub created_at_ns: i64,
    pub started_at_ns: i64,
    pub finished_at_ns: i64,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub image: String,
    pub image_ref: String,
    /// Hash of the container's manifest (annotation `io.kubernetes.container.hash`).
    pub hash: Option<u64>,
    pub log_path: String,
    /// Host pid of the init process, while it runs and where the runtime tells it.
    pub pid: Option<u32>,
    /// What the agent noted when it made the container.
    pub stop_signal: Option<StopSignal>,
    /// Who its first process ran as, where the runtime tells it.
    pub user: Option<ContainerUser>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerUser {
    pub uid: i64,
    pub gid: i64,
    pub supplemental_groups: Vec<i64>,
}

impl PodRuntimeStatus {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }

    #[must_use]
    pub fn ready_sandbox(&self) -> Option<&SandboxStatus> {
        self.sandboxes.iter().find(|s| s.ready)
    }

    /// The newest instance of the named container.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|c| c.name == name)
    }

    #[must_use]
    pub fn any_running(&self) -> bool {
        self.containers.iter().any(|c| c.state == ContainerState::Running)
    }
}

impl ContainerInstance {
    #[must_use]
    pub fn of(container: &ContainerStatus) -> ContainerInstance {
        ContainerInstance { name: container.name.clone(), id: container.id.clone() }
    }
}

impl ContainerStatus {
    /// An instance of which nothing but this is known.
    #[must_use]
    pub fn bare(id: &str, name: &str, state: ContainerState) -> ContainerStatus {
        ContainerStatus {
            id: id.into(),
            sandbox_id: "s".into(),
            name: name.into(),
            restart_count: 0,
            state,
            created_at_ns: 0,
            started_at_ns: 0,
            finished_at_ns: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image: String::new(),
            image_ref: String::new(),
            hash: None,
            log_path: String::new(),
            pid: None,
            stop_signal: None,
            user: None,
        }
    }
}
