//! A typed client of the CRI's RuntimeService. Each call is bounded; a refusal keeps its gRPC code.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_cri::v1 as cri;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::Streaming;
use tonic::transport::Channel;

use super::connection::{Connection, MAX_MESSAGE_BYTES, RuntimeVersion};
use super::convert::{self, ListedContainer, ListedSandbox, WritableLayer};
use super::status::RuntimeStatus;
use super::{CriError, names};
use crate::cgroup::DriverKind;
use oomlet_core::pod::PodUid;
use oomlet_core::pod::runtime_status::{ContainerState, PodRuntimeStatus, SandboxStatus};

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct RuntimeClient {
    connection: Connection,
    client: RuntimeServiceClient<Channel>,
}

/// A container's status and where its termination message lies on the host.
#[derive(Clone, Debug)]
pub struct ContainerDetail {
    pub status: oomlet_core::pod::runtime_status::ContainerStatus,
    pub termination_message_file: Option<String>,
    /// `FallbackToLogsOnError`: without a message, the end of the log is one when the container failed.
    pub log_is_message_on_error: bool,
}

/// Calls with no time limit of their own take the connection's.
macro_rules! call {
    ($self:ident, $call:literal, $target:expr, $method:ident, $request:expr) => {
        call!($self, $call, $target, $method, $request, $self.connection.request_timeout())
    };
    ($self:ident, $call:literal, $target:expr, $method:ident, $request:expr, $limit:expr) => {{
        let mut client = $self.client.clone();
        $self.connection.limited($call, $target, $limit, client.$method($request)).await
    }};
}

mod exec;
mod static_pods;
mod streams;

pub use exec::ExecAnswer;
pub use static_pods::StaticPodOfKubelet;
pub use streams::{ContainerLog, StreamRequest};

impl RuntimeClient {
    #[must_use]
    pub fn new(connection: &Connection) -> RuntimeClient {
        let client =
            RuntimeServiceClient::new(connection.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        RuntimeClient { connection: connection.clone(), client }
    }

    /// See [`Connection::check`].
    ///
    /// # Errors
    /// What makes the socket unusable, with the remedy.
    pub async fn version(&self) -> Result<RuntimeVersion, CriError> {
        self.connection.check().await
    }

    /// The cgroup driver that the runtime is set up for; `None` from one that does not tell (containerd 1.x).
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn cgroup_driver(&self) -> Result<Option<DriverKind>, CriError> {
        match call!(self, "RuntimeConfig", "the runtime", runtime_config, cri::RuntimeConfigRequest {}) {
            Err(e) if e.is_unimplemented() => Ok(None),
            Err(e) => Err(e),
            Ok(answer) => Ok(answer.linux.map(|linux| match linux.cgroup_driver() {
                cri::CgroupDriver::Systemd => DriverKind::Systemd,
                cri::CgroupDriver::Cgroupfs => DriverKind::Cgroupfs,
            })),
        }
    }

    /// # Errors
    /// When the runtime does not answer.
    pub async fn status(&self) -> Result<RuntimeStatus, CriError> {
        let r = call!(self, "Status", "the runtime", status, cri::StatusRequest { verbose: false })?;
        Ok(RuntimeStatus::from(r))
    }

    /// The image that sandboxes are made from, where the runtime tells (containerd 1.x). Others pin it.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn sandbox_image(&self) -> Result<Option<String>, CriError> {
        let r = call!(self, "Status", "the runtime", status, cri::StatusRequest { verbose: true })?;
        Ok(r.info.get("config").and_then(|config| convert::sandbox_image(config)))
    }

    /// Creates and starts the sandbox, by the runtime's handler of this name (empty: its default); returns its id. `target`
    /// names the pod in errors.
    ///
    /// # Errors
    /// When the runtime refuses or does not answer; a half-made sandbox may exist and is found by label.
    pub async fn run_pod_sandbox(
        &self,
        config: cri::PodSandboxConfig,
        runtime_handler: String,
        target: &str,
    ) -> Result<String, CriError> {
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler };
        // kubelet doubles the limit here: the sandbox image may have to be pulled (remote_runtime.go).
        let limit = self.connection.request_timeout() * 2;
        let r = call!(self, "RunPodSandbox", target, run_pod_sandbox, request, limit)?;
        non_empty(r.pod_sandbox_id, "RunPodSandbox", target, "pod_sandbox_id")
    }

    /// Idempotent: a sandbox that is stopped or gone is no error.
    ///
    /// # Errors
    /// When the runtime refuses or does not answer.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(call!(self, "StopPodSandbox", id, stop_pod_sandbox, request))
    }

    /// Removes the sandbox with all its containers. Idempotent.
    ///
    /// # Errors
    /// When the runtime refuses or does not answer.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(call!(self, "RemovePodSandbox", id, remove_pod_sandbox, request))
    }

    /// # Errors
    /// When the runtime refuses or does not answer.
    pub async fn pod_sandbox_status(&self, id: &str) -> Result<SandboxStatus, CriError> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let r = call!(self, "PodSandboxStatus", id, pod_sandbox_status, request)?;
        let status = r.status.ok_or(CriError::BadAnswer {
            call: "PodSandboxStatus",
            target: id.to_owned(),
            what: "status",
        })?;
        Ok(convert::sandbox_status(status))
    }

    /// Returns the new container's id. `target` names pod and container in errors.
    ///
    /// # Errors
    /// When the runtime refuses or does not answer.
    pub async fn create_container(
        &self,
        sandbox_id: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
        target: &str,
    ) -> Result<String, CriError> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let r = call!(self, "CreateContainer", target, create_container, request)?;
        non_empty(r.container_id, "CreateContainer", target, "container_id")
    }

    /// # Errors
    /// When the runtime refuses or does not answer.
    pub async fn start_container(&self, id: &str, target: &str) -> Result<(), CriError> {
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        call!(self, "StartContainer", target, start_container, request).map(drop)
    }

    /// SIGTERM (or the image's stop signal), SIGKILL by the runtime after `grace`, rounded up to seconds (all that
    /// CRI knows); zero kills at once. Returns when the container has ended. Idempotent. Dropping the future
    /// withdraws the SIGKILL, not the SIGTERM.
    ///
    /// # Errors
    /// When the runtime refuses or does not answer within `grace` and the connection's limit.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        let timeout_s = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let timeout = i64::try_from(timeout_s).unwrap_or(i64::MAX);
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout };
        let limit = grace.saturating_add(self.connection.request_timeout());
        gone_is_fine(call!(self, "StopContainer", id, stop_container, request, limit))
    }

    /// Idempotent.
    ///
    /// # Errors
    /// When the runtime refuses or does not answer.
    pub async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        let request = cri::RemoveContainerRequest { container_id: id.to_owned() };
        gone_is_fine(call!(self, "RemoveContainer", id, remove_container, request))
    }

    /// The sandboxes with kubelet's labels: all, or one pod's.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn list_sandboxes(&self, pod: Option<&PodUid>) -> Result<Vec<ListedSandbox>, CriError> {
        let filter =
            pod.map(|uid| cri::PodSandboxFilter { label_selector: uid_label(uid), ..Default::default() });
        let target = pod.map_or("all pods", PodUid::as_str);
        let r =
            call!(self, "ListPodSandbox", target, list_pod_sandbox, cri::ListPodSandboxRequest { filter })?;
        Ok(r.items.into_iter().filter_map(convert::listed_sandbox).collect())
    }

    /// The containers with kubelet's labels: all, or one pod's.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn list_containers(&self, pod: Option<&PodUid>) -> Result<Vec<ListedContainer>, CriError> {
        let containers = self.raw_containers(pod).await?;
        Ok(containers.into_iter().filter_map(convert::listed_container).collect())
    }

    /// Ids and names of the images that all containers were made from, whoever made them, dead or alive.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn images_of_containers(&self) -> Result<BTreeSet<String>, CriError> {
        let images = self.raw_containers(None).await?.into_iter().flat_map(|c| {
            let named = c.image.map(|i| [i.image, i.user_specified_image]).into_iter().flatten();
            named.chain([c.image_ref, c.image_id])
        });
        Ok(images.filter(|name| !name.is_empty()).collect())
    }

    /// What the writable layers of containers with kubelet's labels take up, dead or alive, by the runtime's account, which
    /// is some seconds old.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn writable_layers(&self) -> Result<Vec<WritableLayer>, CriError> {
        let request = cri::ListContainerStatsRequest { filter: None };
        let r = call!(self, "ListContainerStats", "all containers", list_container_stats, request)?;
        Ok(r.stats.into_iter().filter_map(convert::writable_layer).collect())
    }

    async fn raw_containers(&self, pod: Option<&PodUid>) -> Result<Vec<cri::Container>, CriError> {
        let filter =
            pod.map(|uid| cri::ContainerFilter { label_selector: uid_label(uid), ..Default::default() });
        let target = pod.map_or("all pods", PodUid::as_str);
        let r =
            call!(self, "ListContainers", target, list_containers, cri::ListContainersRequest { filter })?;
        Ok(r.containers)
    }

    /// Reads one container, `verbose` (slower: with its whole OCI spec) for the pid of its init process.
    ///
    /// # Errors
    /// When the runtime refuses or does not answer.
    pub async fn container_status(
        &self,
        id: &str,
        sandbox_id: &str,
        verbose: bool,
    ) -> Result<ContainerDetail, CriError> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose };
        let r = call!(self, "ContainerStatus", id, container_status, request)?;
        let status = r.status.ok_or(CriError::BadAnswer {
            call: "ContainerStatus",
            target: id.to_owned(),
            what: "status",
        })?;
        let policy = status.annotations.get(names::TERMINATION_MESSAGE_POLICY);
        Ok(ContainerDetail {
            termination_message_file: convert::termination_message_file(&status).map(str::to_owned),
            log_is_message_on_error: policy.is_some_and(|p| p == "FallbackToLogsOnError"),
            status: convert::container_status(status, &r.info, sandbox_id),
        })
    }

    /// Everything the runtime has of one pod, newest first. What vanishes between list and status is left out. `known`: as it
    /// was read before; the pid of a container's first process is not asked for twice, for it takes the whole OCI spec.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn pod_status(
        &self,
        uid: &PodUid,
        known: &PodRuntimeStatus,
    ) -> Result<(PodRuntimeStatus, Vec<ContainerDetail>), CriError> {
        let mut status = PodRuntimeStatus::default();
        for s in self.list_sandboxes(Some(uid)).await? {
            match self.pod_sandbox_status(&s.id).await {
                Ok(s) => status.sandboxes.push(s),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        let mut details = Vec::new();
        for c in self.raw_containers(Some(uid)).await? {
            let running = convert::state(c.state) == ContainerState::Running;
            let pid = known.containers.iter().find(|k| k.id == c.id).and_then(|k| k.pid);
            match self.container_status(&c.id, &c.pod_sandbox_id, running && pid.is_none()).await {
                Ok(mut detail) => {
                    if detail.status.state == ContainerState::Running {
                        detail.status.pid = detail.status.pid.or(pid);
                    }
                    details.push(detail);
                }
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        status.sandboxes.sort_by_key(|s| std::cmp::Reverse(s.created_at_ns));
        details.sort_by_key(|d| std::cmp::Reverse(d.status.created_at_ns));
        status.containers = details.iter().map(|d| d.status.clone()).collect();
        Ok((status, details))
    }

    /// # Errors
    /// When the runtime refuses or does not answer.
    pub async fn update_container_resources(
        &self,
        id: &str,
        resources: cri::LinuxContainerResources,
    ) -> Result<(), CriError> {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources),
            ..Default::default()
        };
        call!(self, "UpdateContainerResources", id, update_container_resources, request).map(drop)
    }

    /// The event stream of containerd 1.7+ and CRI-O. Without a time limit: containerd answers with the first event,
    /// however late that comes. A connection that breaks ends the wait.
    ///
    /// # Errors
    /// [`CriError::is_unimplemented`] where the runtime has none (containerd 1.6).
    pub async fn container_events(&self) -> Result<Streaming<cri::ContainerEventResponse>, CriError> {
        let mut client = self.client.clone();
        match client.get_container_events(cri::GetEventsRequest {}).await {
            Ok(stream) => Ok(stream.into_inner()),
            Err(status) => Err(self.connection.refusal("GetContainerEvents", "the runtime", status)),
        }
    }
}

fn uid_label(uid: &PodUid) -> std::collections::HashMap<String, String> {
    [(names::POD_UID.to_owned(), uid.to_string())].into()
}

fn gone_is_fine<T>(answer: Result<T, CriError>) -> Result<(), CriError> {
    match answer {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}

fn non_empty(id: String, call: &'static str, target: &str, what: &'static str) -> Result<String, CriError> {
    if id.is_empty() { Err(CriError::BadAnswer { call, target: target.to_owned(), what }) } else { Ok(id) }
}
