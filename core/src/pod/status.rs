//! The Kubernetes PodStatus of a pod, from its manifest and what the runtime says of it: kubelet's
//! `generateAPIPodStatus` (pkg/kubelet/kubelet_pods.go, pkg/kubelet/status/generate.go). Core.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{self as api, Container, HostIP, Pod, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::order::ContainerWaiting;
use super::probe::ProbeResults;
use super::qos::QosClass;
use super::runtime_status::PodRuntimeStatus;
use super::spec::ephemeral_containers;

mod conditions;
mod container;
mod given;
mod gone;
mod phase;

pub use conditions::of_others as conditions_of_others;
use container::{Role, container_status};
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
    let of = |c: &Container, role| container_status(input, c, role, !init.is_empty());
    let init_statuses: Vec<api::ContainerStatus> = init.iter().map(|c| of(c, Role::of_init(c))).collect();
    let mut statuses: Vec<api::ContainerStatus> = containers.iter().map(|c| of(c, Role::Regular)).collect();
    let ephemeral = spec.into_iter().flat_map(ephemeral_containers);
    let mut ephemeral: Vec<api::ContainerStatus> = ephemeral.map(|c| of(&c, Role::Ephemeral)).collect();

    let phase = match input.failed {
        Some(_) => "Failed",
        None => phase::phase(input.pod, &init_statuses, &statuses, input.probes, input.completed),
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
    ephemeral.sort_by(|a, b| a.name.cmp(&b.name));
    PodStatus {
        allocated_resources: resources.as_ref().and_then(|r| r.requests.clone()),
        resources,
        phase: Some(phase.to_owned()),
        reason: input.failed.map(|f| f.reason.clone()),
        message: input.failed.map(|f| f.message.clone()),
        conditions: Some(conditions),
        init_container_statuses: (!init_statuses.is_empty()).then_some(init_statuses),
        container_statuses: (!statuses.is_empty()).then_some(statuses),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
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

#[cfg(test)]
mod tests;
