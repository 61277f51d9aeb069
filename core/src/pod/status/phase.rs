//! The pod's phase from its containers' states (`getPhase`, pkg/kubelet/kubelet_pods.go).

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use crate::pod::qos::is_sidecar;

/// What one container says of the phase.
enum Says {
    Waiting,
    Running,
    Stopped { succeeded: bool },
}

fn says(status: &ContainerStatus) -> Says {
    let state = status.state.as_ref();
    if let Some(ended) = state.and_then(|s| s.terminated.as_ref()) {
        return Says::Stopped { succeeded: ended.exit_code == 0 };
    }
    if state.is_some_and(|s| s.running.is_some()) {
        return Says::Running;
    }
    match status.last_state.as_ref().and_then(|s| s.terminated.as_ref()) {
        Some(ended) => Says::Stopped { succeeded: ended.exit_code == 0 },
        None => Says::Waiting,
    }
}

/// Whether an init container still has to end, or a sidecar to start for the first time.
pub(super) fn initializing(init: &[Container], statuses: &[ContainerStatus]) -> bool {
    init.iter().zip(statuses).any(|(container, status)| match says(status) {
        Says::Waiting => true,
        Says::Running => !is_sidecar(container) || status.started != Some(true),
        Says::Stopped { succeeded } => !is_sidecar(container) && !succeeded,
    })
}

/// `Pending`, `Running`, `Succeeded` or `Failed`. `completed`: nothing is started any more.
pub(super) fn phase(
    pod: &Pod,
    init_statuses: &[ContainerStatus],
    statuses: &[ContainerStatus],
    completed: bool,
) -> &'static str {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always");
    let init = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let init_failed = init.iter().zip(init_statuses).any(|(container, status)| {
        !is_sidecar(container) && matches!(says(status), Says::Stopped { succeeded: false })
    });
    if init_failed && policy == "Never" {
        return "Failed";
    }
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in statuses {
        match says(status) {
            Says::Waiting => waiting += 1,
            Says::Running => running += 1,
            Says::Stopped { succeeded: well } => {
                stopped += 1;
                succeeded += usize::from(well);
            }
        }
    }
    if completed {
        // A container that never ran (its sandbox ended first) did not succeed.
        return if waiting == 0 && running == 0 && stopped == succeeded { "Succeeded" } else { "Failed" };
    }
    // Containers that ran already say more than init containers whose remains are gone.
    if waiting > 0 || (running + stopped == 0) || (running == 0 && initializing(init, init_statuses)) {
        return "Pending";
    }
    if running > 0 {
        return "Running";
    }
    match policy {
        "Always" => "Running",
        _ if stopped == succeeded => "Succeeded",
        "Never" => "Failed",
        _ => "Running",
    }
}
