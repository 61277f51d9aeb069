//! What the node's API asks of the runtime: where a container can be talked to, where its log is, and a checkpoint.

use std::path::PathBuf;
use std::time::Duration;

use k8s_cri::v1 as cri;

use super::{RuntimeClient, names, non_empty};
use crate::cri::CriError;
use oomlet_core::node_api::pods::RunningPod;
use oomlet_core::pod::{PodRef, PodUid};

/// What of a process is connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamRequest {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// Where a container writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerLog {
    pub path: PathBuf,
}

impl RuntimeClient {
    /// The URL at which the runtime waits for the streams of this command.
    ///
    /// # Errors
    /// When the runtime refuses or does not answer.
    pub async fn exec(&self, id: &str, cmd: Vec<String>, streams: StreamRequest) -> Result<String, CriError> {
        let StreamRequest { stdin, stdout, stderr, tty } = streams;
        let request = cri::ExecRequest { container_id: id.to_owned(), cmd, tty, stdin, stdout, stderr };
        let r = call!(self, "Exec", id, exec, request)?;
        non_empty(r.url, "Exec", id, "url")
    }

    /// The same for the container's own process.
    ///
    /// # Errors
    /// When the runtime refuses or does not answer.
    pub async fn attach(&self, id: &str, streams: StreamRequest) -> Result<String, CriError> {
        let StreamRequest { stdin, stdout, stderr, tty } = streams;
        let request = cri::AttachRequest { container_id: id.to_owned(), stdin, tty, stdout, stderr };
        let r = call!(self, "Attach", id, attach, request)?;
        non_empty(r.url, "Attach", id, "url")
    }

    /// The same for ports of a pod; which ones is said on the streams where none are named.
    ///
    /// # Errors
    /// When the runtime refuses or does not answer.
    pub async fn port_forward(&self, sandbox_id: &str, port: Vec<i32>) -> Result<String, CriError> {
        let request = cri::PortForwardRequest { pod_sandbox_id: sandbox_id.to_owned(), port };
        let r = call!(self, "PortForward", sandbox_id, port_forward, request)?;
        non_empty(r.url, "PortForward", sandbox_id, "url")
    }

    /// # Errors
    /// When the runtime refuses or does not answer, or the container has no log.
    pub async fn container_log(&self, id: &str) -> Result<ContainerLog, CriError> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let r = call!(self, "ContainerStatus", id, container_status, request)?;
        let path = r.status.unwrap_or_default().log_path;
        Ok(ContainerLog { path: non_empty(path, "ContainerStatus", id, "log_path")?.into() })
    }

    /// Has the runtime write to a new file where the container's log was.
    ///
    /// # Errors
    /// When the runtime refuses (the container does not run) or does not answer.
    pub async fn reopen_container_log(&self, id: &str) -> Result<(), CriError> {
        let request = cri::ReopenContainerLogRequest { container_id: id.to_owned() };
        call!(self, "ReopenContainerLog", id, reopen_container_log, request).map(drop)
    }

    /// Writes the running container's state to `location`; zero is the runtime's own time limit.
    ///
    /// # Errors
    /// When the runtime refuses, cannot (without CRIU), or does not answer.
    pub async fn checkpoint_container(
        &self,
        id: &str,
        location: &str,
        timeout_s: i64,
    ) -> Result<(), CriError> {
        let request = cri::CheckpointContainerRequest {
            container_id: id.to_owned(),
            location: location.to_owned(),
            timeout: timeout_s,
        };
        // kubelet gives it what is asked for, and no less than its usual time (remote_runtime.go).
        let asked = Duration::from_secs(u64::try_from(timeout_s).unwrap_or(0));
        let limit = self.connection.request_timeout().max(asked);
        call!(self, "CheckpointContainer", id, checkpoint_container, request, limit).map(drop)
    }

    /// Pods of which something runs, by the runtime's account.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn running_pods(&self) -> Result<Vec<RunningPod>, CriError> {
        let sandboxes = self.list_sandboxes(None).await?.into_iter().filter(|sandbox| sandbox.ready);
        let mut pods: Vec<RunningPod> = Vec::new();
        for pod in sandboxes.map(|sandbox| sandbox.pod) {
            pods.push(RunningPod { pod: Some(pod), containers: Vec::new() });
        }
        for container in self.raw_containers(None).await? {
            if container.state() != cri::ContainerState::ContainerRunning {
                continue;
            }
            let label = |name: &str| container.labels.get(name).cloned();
            let (Some(uid), Some(name)) = (label(names::POD_UID), label(names::CONTAINER_NAME)) else {
                continue;
            };
            let image = container.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
            let uid = PodUid::from(uid.as_str());
            let of_pod = |running: &&mut RunningPod| running.pod.as_ref().is_some_and(|pod| pod.uid == uid);
            if let Some(running) = pods.iter_mut().find(of_pod) {
                running.containers.push((name, image));
            } else {
                let [namespace, pod_name] = [names::POD_NAMESPACE, names::POD_NAME].map(label);
                let (namespace, name_of_pod) = (namespace.unwrap_or_default(), pod_name.unwrap_or_default());
                let pod = PodRef { uid, namespace, name: name_of_pod };
                pods.push(RunningPod { pod: Some(pod), containers: vec![(name, image)] });
            }
        }
        Ok(pods)
    }
}
