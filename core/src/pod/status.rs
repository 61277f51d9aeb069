//! The Kubernetes PodStatus of a pod, from its manifest and what the runtime says of it: kubelet's
//! `generateAPIPodStatus` (pkg/kubelet/kubelet_pods.go, pkg/kubelet/status/generate.go). Core.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    self as api, Container, ContainerStateTerminated, ContainerStateWaiting, HostIP, Pod, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::order::ContainerWaiting;
use super::probe::ProbeResults;
use super::qos::{QosClass, is_sidecar};
use super::runtime_status::{ContainerState, ContainerStatus, ContainerUser, PodRuntimeStatus};
use crate::reason::Reason;

mod conditions;
mod given;
mod gone;
mod phase;

pub use conditions::of_others as conditions_of_others;
pub use gone::of_gone;

/// The message of `ContainerStatusUnknown`.
const NOT_LOCATED: &str = "The container could not be located when the pod was terminated";

/// What the status is made from.
#[derive(Clone, Copy, Debug)]
pub struct StatusInput<'a> {
    pub pod: &'a Pod,
    pub runtime: &'a PodRuntimeStatus,
    /// Why containers do not run, as the worker last said.
    pub waiting: &'a [ContainerWaiting],
    /// Set when the agent ended or refused the pod: it is Failed, whatever its containers say.
    pub failed: Option<&'a PodFailure>,
    /// All containers ended and none is started again.
    pub completed: bool,
    /// The status before: keeps `startTime` and the times of conditions that did not change.
    pub previous: Option<&'a PodStatus>,
    /// Ids of containers in which the kernel's OOM killer killed a process, by our own count: the runtime
    /// now and then reports such an end as `Error`.
    pub oom_killed: &'a BTreeSet<String>,
    /// Ids of containers that were stopped before they reached their memory limit, and the message to show.
    pub forestalled: &'a BTreeMap<String, String>,
    /// Verdicts on the containers.
    pub probes: &'a ProbeResults,
    pub host_ips: &'a [String],
    /// As in `containerd://<id>`.
    pub runtime_name: &'a str,
    /// The runtime makes mounts read-only with all that is mounted below them.
    pub recursive_read_only: bool,
    /// Wall clock, nanoseconds since the epoch.
    pub now_unix_ns: i64,
}

/// Why the agent ended or refused a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFailure {
    /// `Evicted`, `OutOfmemory`, `NodeAffinity` …
    pub reason: String,
    pub message: String,
    /// The pod had been running: condition DisruptionTarget, reason TerminationByKubelet.
    pub disruption: bool,
}

impl PodFailure {
    #[must_use]
    pub fn evicted(message: impl Into<String>) -> PodFailure {
        PodFailure { reason: "Evicted".to_owned(), message: message.into(), disruption: true }
    }

    #[must_use]
    pub fn rejected(rejection: &super::admission::Rejection) -> PodFailure {
        PodFailure {
            reason: rejection.reason.as_str().to_owned(),
            message: rejection.message.clone(),
            disruption: false,
        }
    }
}

/// The status as `kubectl get pod -o yaml` would show it.
#[must_use]
pub fn pod_status(input: &StatusInput<'_>) -> PodStatus {
    if let Some(failure) = input.failed.filter(|f| !f.disruption && input.runtime.is_empty()) {
        return refused(input, failure);
    }
    let spec = input.pod.spec.as_ref();
    let containers = spec.map_or(&[][..], |s| &s.containers);
    let init = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let init_statuses: Vec<api::ContainerStatus> =
        init.iter().map(|c| container_status(input, c, Role::of_init(c), true)).collect();
    let mut statuses: Vec<api::ContainerStatus> =
        containers.iter().map(|c| container_status(input, c, Role::Regular, !init.is_empty())).collect();

    let phase = match input.failed {
        Some(_) => "Failed",
        None => phase::phase(input.pod, &init_statuses, &statuses, input.completed),
    };
    let host_network = spec.and_then(|s| s.host_network) == Some(true);
    let pod_ips: Vec<String> = match input.runtime.ready_sandbox() {
        // One that has ended is still told by the address that it had.
        None => {
            input.previous.and_then(|p| p.pod_ips.clone()).into_iter().flatten().map(|ip| ip.ip).collect()
        }
        Some(_) if host_network => input.host_ips.to_vec(),
        Some(sandbox) => sandbox.ips.clone(),
    };
    let resources = given::of_pod(input.pod);
    let conditions = conditions::conditions(input, phase, init, &init_statuses, &statuses);
    // As kubelet has them; init containers are told in their order.
    statuses.sort_by(|a, b| a.name.cmp(&b.name));
    PodStatus {
        allocated_resources: resources.as_ref().and_then(|r| r.requests.clone()),
        resources,
        phase: Some(phase.to_owned()),
        reason: input.failed.map(|f| f.reason.clone()),
        message: input.failed.map(|f| f.message.clone()),
        conditions: Some(conditions),
        init_container_statuses: (!init_statuses.is_empty()).then_some(init_statuses),
        container_statuses: (!statuses.is_empty()).then_some(statuses),
        host_ip: input.host_ips.first().cloned(),
        host_ips: some_unless_empty(input.host_ips.iter().map(|ip| HostIP { ip: ip.clone() })),
        pod_ip: pod_ips.first().cloned(),
        pod_ips: some_unless_empty(pod_ips.iter().map(|ip| PodIP { ip: ip.clone() })),
        qos_class: Some(QosClass::of(input.pod).as_str().to_owned()),
        start_time: start_time(input),
        observed_generation: input.pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// Of a pod that the node did not take: there is nothing more to say.
fn refused(input: &StatusInput<'_>, failure: &PodFailure) -> PodStatus {
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(failure.reason.clone()),
        message: Some(failure.message.clone()),
        qos_class: Some(QosClass::of(input.pod).as_str().to_owned()),
        start_time: start_time(input),
        observed_generation: input.pod.metadata.generation,
        ..PodStatus::default()
    }
}

fn some_unless_empty<T>(items: impl Iterator<Item = T>) -> Option<Vec<T>> {
    Some(items.collect::<Vec<T>>()).filter(|items| !items.is_empty())
}

/// When the agent first saw the pod. An agent that was restarted reads it off the oldest sandbox.
fn start_time(input: &StatusInput<'_>) -> Option<Time> {
    let oldest = input.runtime.sandboxes.iter().map(|s| s.created_at_ns).filter(|ns| *ns > 0).min();
    input.previous.and_then(|p| p.start_time.clone()).or_else(|| time(oldest.unwrap_or(input.now_unix_ns)))
}

/// Whole seconds, as Kubernetes keeps times; `None` for what has not happened.
fn time(unix_ns: i64) -> Option<Time> {
    if unix_ns <= 0 {
        return None;
    }
    Timestamp::from_second(unix_ns / 1_000_000_000).ok().map(Time)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Regular,
    Init,
    Sidecar,
}

impl Role {
    fn of_init(container: &Container) -> Role {
        if is_sidecar(container) { Role::Sidecar } else { Role::Init }
    }
}

fn container_status(
    input: &StatusInput<'_>,
    container: &Container,
    role: Role,
    has_init_containers: bool,
) -> api::ContainerStatus {
    let mut instances = input.runtime.containers.iter().filter(|s| s.name == container.name);
    let newest = instances.next();
    let before = instances.find(|s| s.state == ContainerState::Exited).map(|s| terminated(input, s));
    let before = before.or_else(|| newest.and_then(|s| told_before(input, s)));
    let waiting = input.waiting.iter().find(|w| w.container == container.name);

    let mut state = api::ContainerState::default();
    let mut last = before;
    match newest {
        Some(s) if s.state == ContainerState::Running => {
            state.running = Some(api::ContainerStateRunning { started_at: time(s.started_at_ns) });
        }
        Some(s) if s.state == ContainerState::Exited => {
            let ended = terminated(input, s);
            match waiting {
                // It shall run again, and something is in the way: what it ended of is history now.
                Some(why) if !input.completed && input.failed.is_none() => {
                    state.waiting = Some(waiting_state(why));
                    last = Some(ended);
                }
                _ => state.terminated = Some(ended),
            }
        }
        Some(s) if s.state == ContainerState::Unknown => {
            state.terminated = Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".to_owned()),
                message: Some(NOT_LOCATED.to_owned()),
                container_id: Some(container_id(input, s)),
                ..ContainerStateTerminated::default()
            });
        }
        Some(_) | None => {
            let default = if has_init_containers { "PodInitializing" } else { "ContainerCreating" };
            state.waiting = Some(waiting.map_or_else(
                || ContainerStateWaiting { reason: Some(default.to_owned()), message: None },
                waiting_state,
            ));
        }
    }
    let running = state.running.is_some();
    let id = newest.filter(|_| running).map(|s| s.id.as_str());
    let started = id.is_some_and(|id| input.probes.is_started(container, id));
    let ready = match role {
        Role::Init => state.terminated.as_ref().is_some_and(|t| t.exit_code == 0),
        Role::Regular | Role::Sidecar => id.is_some_and(|id| input.probes.is_ready(container, id)),
    };
    let resources = newest.and_then(|_| given::of_container(container));
    api::ContainerStatus {
        allocated_resources: resources.as_ref().and_then(|r| r.requests.clone()),
        resources,
        user: newest.and_then(|s| s.user.as_ref()).map(user),
        volume_mounts: given::volume_mounts(container, input.recursive_read_only),
        name: container.name.clone(),
        image: newest
            .map(|s| s.image.clone())
            .filter(|image| !image.is_empty())
            .or_else(|| container.image.clone())
            .unwrap_or_default(),
        image_id: newest.map(|s| s.image_ref.clone()).unwrap_or_default(),
        container_id: newest.map(|s| container_id(input, s)),
        restart_count: newest.map_or(0, |s| i32::try_from(s.restart_count).unwrap_or(i32::MAX)),
        ready,
        started: Some(started),
        state: Some(state),
        last_state: last.map(|ended| api::ContainerState { terminated: Some(ended), ..Default::default() }),
        ..api::ContainerStatus::default()
    }
}

/// How the run before this one ended, as it was told: the runtime does not keep what is dead for as long.
fn told_before(input: &StatusInput<'_>, newest: &ContainerStatus) -> Option<ContainerStateTerminated> {
    let previous = input.previous?;
    let lists = [&previous.container_statuses, &previous.init_container_statuses];
    let told = lists.into_iter().flatten().flatten().find(|told| told.name == newest.name)?;
    let is_other = told.container_id.as_ref().is_some_and(|id| *id != container_id(input, newest));
    let ended = |state: &Option<api::ContainerState>| state.as_ref().and_then(|s| s.terminated.clone());
    let own = is_other.then(|| ended(&told.state)).flatten();
    own.or_else(|| ended(&told.last_state))
        .filter(|ended| ended.container_id != Some(container_id(input, newest)))
}

fn user(of: &ContainerUser) -> api::ContainerUser {
    api::ContainerUser {
        linux: Some(api::LinuxContainerUser {
            uid: of.uid,
            gid: of.gid,
            supplemental_groups: Some(of.supplemental_groups.clone()).filter(|all| !all.is_empty()),
        }),
    }
}

fn waiting_state(why: &ContainerWaiting) -> ContainerStateWaiting {
    ContainerStateWaiting {
        reason: Some(why.reason.clone()),
        message: Some(why.message.clone()).filter(|m| !m.is_empty()),
    }
}

fn container_id(input: &StatusInput<'_>, status: &ContainerStatus) -> String {
    format!("{}://{}", input.runtime_name, status.id)
}

fn terminated(input: &StatusInput<'_>, status: &ContainerStatus) -> ContainerStateTerminated {
    // 137 = 128 + SIGKILL. An OOM kill of a child alone is not what ended the container.
    let by_runtime = status.reason == "OOMKilled";
    let oom_killed = status.exit_code == 137 && (by_runtime || input.oom_killed.contains(&status.id));
    let forestalled = input.forestalled.get(&status.id).filter(|_| !oom_killed);
    let reason = match status.reason.as_str() {
        _ if oom_killed => "OOMKilled",
        _ if forestalled.is_some() => Reason::MemoryLimitForestalled.as_str(),
        "" if status.exit_code == 0 => "Completed",
        "" => "Error",
        told => told,
    };
    // What it wrote itself comes after.
    let own = Some(&status.message).filter(|m| !m.is_empty());
    let message: Vec<&str> = forestalled.into_iter().chain(own).map(String::as_str).collect();
    ContainerStateTerminated {
        exit_code: status.exit_code,
        reason: Some(reason.to_owned()),
        message: Some(message.join("\n")).filter(|m| !m.is_empty()),
        started_at: time(status.started_at_ns),
        finished_at: time(status.finished_at_ns),
        container_id: Some(container_id(input, status)),
        signal: None,
    }
}

#[cfg(test)]
mod tests;
