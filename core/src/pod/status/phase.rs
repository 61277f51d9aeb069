//! The pod's phase from its containers' states (`getPhase`, pkg/kubelet/kubelet_pods.go).

use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated, ContainerStatus, Pod};

use super::container::RESTARTING_ALL;
use crate::pod::probe::ProbeResults;
use crate::pod::qos::is_sidecar;
use crate::pod::restart::{restarts, restarts_when_ended};

/// It was ended for a failed probe, and so starts again whatever it exited with.
fn failed_probe(status: &ContainerStatus, probes: &ProbeResults) -> bool {
    let states = [status.state.as_ref(), status.last_state.as_ref()];
    let ended = states.into_iter().flatten().find_map(|state| state.terminated.as_ref());
    let id = ended.and_then(|ended| ended.container_id.as_deref()?.split_once("://"));
    id.is_some_and(|(_, id)| probes.failed(id).is_some())
}

/// What one container says of the phase.
enum Says {
    Waiting,
    Running,
    /// `reset`: it was taken out of the runtime to start again.
    Stopped {
        exit_code: i32,
        reset: bool,
    },
}

fn says(status: &ContainerStatus) -> Says {
    let stopped = |ended: &ContainerStateTerminated| Says::Stopped {
        exit_code: ended.exit_code,
        reset: ended.reason.as_deref() == Some(RESTARTING_ALL),
    };
    let state = status.state.as_ref();
    if let Some(ended) = state.and_then(|s| s.terminated.as_ref()) {
        return stopped(ended);
    }
    if state.is_some_and(|s| s.running.is_some()) {
        return Says::Running;
    }
    status.last_state.as_ref().and_then(|s| s.terminated.as_ref()).map_or(Says::Waiting, stopped)
}

/// Whether an init container still has to end, or a sidecar to start for the first time.
pub(super) fn initializing(init: &[Container], statuses: &[ContainerStatus]) -> bool {
    init.iter().zip(statuses).any(|(container, status)| match says(status) {
        Says::Waiting => true,
        Says::Running => !is_sidecar(container) || status.started != Some(true),
        Says::Stopped { exit_code, reset } => !is_sidecar(container) && exit_code != 0 && !reset,
    })
}

/// `Pending`, `Running`, `Succeeded` or `Failed`. `completed`: nothing is started any more. Statuses are in the manifest's order.
pub(super) fn phase(
    pod: &Pod,
    init_statuses: &[ContainerStatus],
    statuses: &[ContainerStatus],
    probes: &ProbeResults,
    completed: bool,
) -> &'static str {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let starts_again = |c: &Container, exit_code: i32, reset: bool| reset || restarts(pod, c, exit_code);
    let init_failed = init.iter().zip(init_statuses).filter(|(c, _)| !is_sidecar(c)).any(|(c, status)| {
        matches!(says(status), Says::Stopped { exit_code, reset } if exit_code != 0 && !starts_again(c, exit_code, reset))
    });
    if init_failed {
        return "Failed";
    }
    let (mut waiting, mut running, mut stopped, mut succeeded, mut again) = (0, 0, 0, 0, 0);
    let containers = spec.map_or(&[][..], |s| &s.containers);
    for (container, status) in containers.iter().zip(statuses) {
        match says(status) {
            Says::Waiting => waiting += 1,
            Says::Running => running += 1,
            Says::Stopped { exit_code, reset } => {
                stopped += 1;
                succeeded += usize::from(exit_code == 0);
                let by_probe = restarts_when_ended(pod, container) && failed_probe(status, probes);
                again += usize::from(by_probe || starts_again(container, exit_code, reset));
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
    if again > 0 {
        return "Running";
    }
    if stopped == succeeded { "Succeeded" } else { "Failed" }
}
