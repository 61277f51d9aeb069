//! The pod's conditions (pkg/kubelet/status/generate.go).

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodCondition};

use super::container::RESTARTING_ALL;
use super::{StatusInput, time};
use crate::pod::qos::is_sidecar;
use crate::pod::restart;

/// In kubelet's order. A condition that did not change keeps its `lastTransitionTime`.
pub(super) fn conditions(
    input: &StatusInput<'_>,
    phase: &str,
    init: &[Container],
    init_statuses: &[ContainerStatus],
    statuses: &[ContainerStatus],
) -> Vec<PodCondition> {
    let mut conditions = vec![
        condition("PodReadyToStartContainers", sandbox_ready(input)),
        condition("Initialized", initialized(phase, init, init_statuses, statuses)),
    ];
    let containers = containers_ready(phase, init, init_statuses, statuses);
    conditions.push(condition("Ready", containers.clone().and_then(|()| gates_open(input.pod))));
    conditions.push(condition("ContainersReady", containers));
    conditions.push(condition("PodScheduled", Ok(())));
    if restart::may_restart_all(input.pod) {
        let restarting = ended(phase).is_none() && restart::is_restarting_all(input.pod, input.runtime);
        conditions.push(if restarting {
            PodCondition {
                reason: Some("RestartAllContainersStarted".to_owned()),
                message: Some("container exited with restart policy rule".to_owned()),
                ..condition("AllContainersRestarting", Ok(()))
            }
        } else {
            condition("AllContainersRestarting", Err((ended(phase), None)))
        });
    }
    // All that it was asked to do is done.
    if phase == "Succeeded" {
        conditions[1].reason = Some("PodCompleted".to_owned());
    }
    if let Some(failure) = input.failed.filter(|f| f.disruption) {
        conditions.push(PodCondition {
            reason: Some("TerminationByKubelet".to_owned()),
            message: Some(failure.message.clone()),
            ..condition("DisruptionTarget", Ok(()))
        });
    }
    let generation = input.pod.metadata.generation;
    let others: Vec<PodCondition> =
        of_others(input.pod).filter(|c| conditions.iter().all(|own| own.type_ != c.type_)).cloned().collect();
    for new in &mut conditions {
        let before = input
            .previous
            .and_then(|p| p.conditions.as_ref())
            .and_then(|all| all.iter().find(|old| old.type_ == new.type_ && old.status == new.status));
        new.last_transition_time =
            before.and_then(|b| b.last_transition_time.clone()).or_else(|| time(input.now_unix_ns));
        new.observed_generation = generation;
    }
    conditions.extend(others);
    conditions
}

/// `Err`: reason and message of a condition that is False.
type Verdict = Result<(), (Option<&'static str>, Option<String>)>;

fn condition(type_: &str, verdict: Verdict) -> PodCondition {
    let (status, (reason, message)) = match verdict {
        Ok(()) => ("True", (None, None)),
        Err(why) => ("False", why),
    };
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.map(str::to_owned),
        message,
        ..PodCondition::default()
    }
}

fn sandbox_ready(input: &StatusInput<'_>) -> Verdict {
    if input.runtime.ready_sandbox().is_some() {
        return Ok(());
    }
    let none = input.runtime.sandboxes.is_empty();
    let message = if none { "no pod sandbox exists" } else { "pod sandbox is not ready" };
    Err((Some("PodSandboxNotReady"), Some(message.to_owned())))
}

fn ended(phase: &str) -> Option<&'static str> {
    match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    }
}

fn is_reset(status: &ContainerStatus) -> bool {
    let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    last.is_some_and(|ended| ended.reason.as_deref() == Some(RESTARTING_ALL))
}

/// Every init container ended well and every sidecar started. What ran beyond that proves it, too.
fn initialized(
    phase: &str,
    init: &[Container],
    init_statuses: &[ContainerStatus],
    statuses: &[ContainerStatus],
) -> Verdict {
    let ran = |s: &ContainerStatus| s.container_id.is_some();
    // What has once been initialized stays so, also while all containers start again.
    let reset = statuses.iter().any(is_reset);
    if init.is_empty() || phase == "Succeeded" || reset || statuses.iter().any(ran) {
        return Ok(());
    }
    let incomplete: Vec<&str> = init
        .iter()
        .zip(init_statuses)
        .filter(
            |(container, status)| {
                if is_sidecar(container) { status.started != Some(true) } else { !status.ready }
            },
        )
        .map(|(container, _)| container.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return Ok(());
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    Err((Some("ContainersNotInitialized"), Some(message)))
}

/// Those that a node agent alone says of a pod (`PodConditionByKubelet`, pkg/kubelet/types/pod_status.go).
const OWNED: [&str; 8] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
    "AllContainersRestarting",
];

/// What others say of the pod: part of the status that it came with.
pub fn of_others(pod: &Pod) -> impl Iterator<Item = &PodCondition> {
    let all = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    all.filter(|c| !OWNED.contains(&c.type_.as_str()))
}

/// `spec.readinessGates`: conditions that others set (KEP-580).
fn gates_open(pod: &Pod) -> Verdict {
    let gates = pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten());
    let shut = gates.filter_map(|gate| {
        let name = &gate.condition_type;
        match of_others(pod).find(|c| c.type_ == *name).map(|c| c.status.as_str()) {
            Some("True") => None,
            Some(other) => {
                Some(format!("the status of pod readiness gate {name:?} is not \"True\", but {other}"))
            }
            None => Some(format!("corresponding condition of pod readiness gate {name:?} does not exist.")),
        }
    });
    let shut: Vec<String> = shut.collect();
    if shut.is_empty() {
        return Ok(());
    }
    Err((Some("ReadinessGatesNotReady"), Some(shut.join(", "))))
}

/// Every container and every sidecar is ready.
fn containers_ready(
    phase: &str,
    init: &[Container],
    init_statuses: &[ContainerStatus],
    statuses: &[ContainerStatus],
) -> Verdict {
    if let Some(reason) = ended(phase) {
        return Err((Some(reason), None));
    }
    let sidecars = init.iter().zip(init_statuses).filter(|(c, _)| is_sidecar(c)).map(|(_, s)| s);
    let unready: Vec<&str> = sidecars.chain(statuses).filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    if unready.is_empty() {
        return Ok(());
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Err((Some("ContainersNotReady"), Some(message)))
}
