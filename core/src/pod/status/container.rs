//! The status of one container.

use k8s_openapi::api::core::v1::{self as api, Container, ContainerStateTerminated, ContainerStateWaiting};

use super::{NOT_LOCATED, StatusInput, given, time};
use crate::pod::order::ContainerWaiting;
use crate::pod::qos::is_sidecar;
use crate::pod::restart::{restarts, restarts_when_ended};
use crate::pod::runtime_status::{ContainerState, ContainerStatus, ContainerUser};
use crate::reason::Reason;

/// kubelet's words for a container of a pod all of whose containers start again (kubelet_pods.go).
pub(super) const RESTARTING_ALL: &str = "RestartingAllContainers";
const REMOVED: &str = "The container is removed because RestartAllContainers in place";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Regular,
    Init,
    Sidecar,
    Ephemeral,
}

impl Role {
    pub fn of_init(container: &Container) -> Role {
        if is_sidecar(container) { Role::Sidecar } else { Role::Init }
    }
}

pub(super) fn container_status(
    input: &StatusInput<'_>,
    container: &Container,
    role: Role,
    has_init_containers: bool,
) -> api::ContainerStatus {
    let mut instances = input.runtime.containers.iter().filter(|s| s.name == container.name);
    let newest = instances.next();
    let before = instances.find(|s| s.state == ContainerState::Exited).map(|s| terminated(input, s));
    let told = previous(input, &container.name);
    let before =
        before.or_else(|| told.and_then(|told| ended_before(told, newest.map(|s| container_id(input, s)))));
    let waiting = input.waiting.iter().find(|w| w.container == container.name);

    let mut state = api::ContainerState::default();
    let mut last = before;
    let by_runtime = newest.map_or(0, |s| i32::try_from(s.restart_count).unwrap_or(i32::MAX));
    let mut restart_count = by_runtime.max(told.map_or(0, |told| told.restart_count));
    match newest {
        Some(s) if s.state == ContainerState::Running => {
            state.running = Some(api::ContainerStateRunning { started_at: time(s.started_at_ns) });
        }
        Some(s) if s.state == ContainerState::Exited => {
            let ended = terminated(input, s);
            match waiting {
                // It shall run again, and something is in the way: what it ended of is history now.
                Some(why)
                    if !input.completed
                        && input.failed.is_none()
                        && (restarts_when_ended(input.pod, container)
                            || restarts(input.pod, container, s.exit_code)) =>
                {
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
        None if told.is_some_and(|told| is_removed(input, told)) => {
            state.waiting = Some(ContainerStateWaiting {
                reason: Some(RESTARTING_ALL.to_owned()),
                message: Some(REMOVED.to_owned()),
            });
            last = Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some(RESTARTING_ALL.to_owned()),
                message: Some(REMOVED.to_owned()),
                ..ContainerStateTerminated::default()
            });
            restart_count = told.map_or(0, |told| told.restart_count.saturating_add(1));
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
        Role::Ephemeral => false,
        Role::Regular | Role::Sidecar => id.is_some_and(|id| input.probes.is_ready(container, id)),
    };
    let resources = newest.and_then(|_| given::of_container(container));
    api::ContainerStatus {
        allocated_resources: resources.as_ref().and_then(|r| r.requests.clone()),
        resources,
        stop_signal: newest.and_then(|_| container.lifecycle.as_ref()?.stop_signal.clone()),
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
        restart_count,
        ready,
        // An ephemeral container serves nobody.
        started: (role != Role::Ephemeral).then_some(started),
        state: Some(state),
        last_state: last.map(|ended| api::ContainerState { terminated: Some(ended), ..Default::default() }),
        ..api::ContainerStatus::default()
    }
}

/// As it was told before.
fn previous<'a>(input: &StatusInput<'a>, name: &str) -> Option<&'a api::ContainerStatus> {
    let told = input.previous?;
    let all = told.init_container_statuses.iter().chain(&told.container_statuses);
    all.chain(&told.ephemeral_container_statuses).flatten().find(|c| c.name == name)
}

/// What the container ended of before the instance `id`, which the runtime need not have any more.
fn ended_before(told: &api::ContainerStatus, id: Option<String>) -> Option<ContainerStateTerminated> {
    let ended = |state: &Option<api::ContainerState>| state.as_ref()?.terminated.clone();
    let by_another = id.is_some() && told.container_id != id;
    ended(&told.state).filter(|_| by_another).or_else(|| ended(&told.last_state))
}

/// Its pod's containers all start again, and it was taken out of the runtime for it.
fn is_removed(input: &StatusInput<'_>, told: &api::ContainerStatus) -> bool {
    let conditions = input.previous.and_then(|p| p.conditions.as_ref()).into_iter().flatten();
    let mut restarting = conditions.filter(|c| c.type_ == "AllContainersRestarting" && c.status == "True");
    restarting.next().is_some() && told.state.as_ref().is_some_and(|state| state.waiting.is_none())
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
