//! The pod's conditions (pkg/kubelet/status/generate.go).

use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodCondition};

use super::{StatusInput, time};
use crate::pod::qos::is_sidecar;

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
    let ready = ready(phase, init, init_statuses, statuses);
    conditions.push(condition("Ready", ready.clone()));
    conditions.push(condition("ContainersReady", ready));
    conditions.push(condition("PodScheduled", Ok(())));
    if let Some(failure) = input.failed.filter(|f| f.disruption) {
        conditions.push(PodCondition {
            reason: Some("TerminationByKubelet".to_owned()),
            message: Some(failure.message.clone()),
            ..condition("DisruptionTarget", Ok(()))
        });
    }
    let generation = input.pod.metadata.generation;
    for new in &mut conditions {
        let before = input
            .previous
            .and_then(|p| p.conditions.as_ref())
            .and_then(|all| all.iter().find(|old| old.type_ == new.type_ && old.status == new.status));
        new.last_transition_time =
            before.and_then(|b| b.last_transition_time.clone()).or_else(|| time(input.now_unix_ns));
        new.observed_generation = generation;
    }
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
    input.runtime.ready_sandbox().map(|_| ()).ok_or((None, None))
}

fn ended(phase: &str) -> Option<&'static str> {
    match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    }
}

/// Every init container ended well and every sidecar started. What ran beyond that proves it, too.
fn initialized(
    phase: &str,
    init: &[Container],
    init_statuses: &[ContainerStatus],
    statuses: &[ContainerStatus],
) -> Verdict {
    let ran = |s: &ContainerStatus| s.container_id.is_some();
    if init.is_empty() || phase == "Succeeded" || statuses.iter().any(ran) {
        return Ok(());
    }
    if phase == "Failed" {
        return Err((Some("PodFailed"), None));
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

/// Every container and every sidecar runs. Probes are not asked: there are none yet.
fn ready(
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
