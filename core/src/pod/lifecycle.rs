//! From manifest and runtime status to what is to be done next: kubelet's `computePodActions`
//! (pkg/kubelet/kuberuntime/kuberuntime_manager.go, kuberuntime_container.go). Core.
//!
//! Reads a pod, what the runtime says of it and its CrashLoopBackOff; emits [`PodActions`] for the worker.
//! Planning over an applied plan plans nothing.
//!
//! - `actions`: what comes out. - `init`: init containers and sidecars. - `reset`: all containers start again.
//! - [`garbage`]: which dead containers and sandboxes may go.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};

use super::backoff::CrashLoopBackOff;
use super::order::ContainerWaiting;
use super::probe::results::{kill_grace, kill_message, kill_reason};
use super::probe::{ProbeKind, ProbeResults};
use super::qos::is_sidecar;
use super::runtime_status::{ContainerState, ContainerStatus, PodRuntimeStatus};
use super::{PodRef, restart};
use crate::reason::Reason;

mod actions;
mod garbage;
mod hash;
mod init;
mod reset;
pub use actions::{ContainerKill, ContainerKind, ContainerReset, ContainerStart, PodActions};
pub use garbage::{Garbage, garbage};
pub use hash::container_hash;
use hash::is_other;
use init::Init;

/// What to do next for a pod that shall run. `now_unix_ns`: wall clock, nanoseconds since the epoch, for
/// it is compared with the runtime's timestamps.
#[must_use]
pub fn compute(
    pod: &Pod,
    status: &PodRuntimeStatus,
    backoff: &CrashLoopBackOff,
    probes: &ProbeResults,
    now_unix_ns: i64,
) -> PodActions {
    let planner = Planner { pod, status, backoff, probes, now_unix_ns, sandbox: current_sandbox(status) };
    let mut actions = PodActions::default();
    if restart::is_restarting_all(pod, status) {
        return planner.reset();
    }
    if planner.sandbox.is_none() {
        if let Some(succeeded) = planner.ended_with_its_sandbox() {
            return planner.complete(succeeded);
        }
        actions.kill_pod = !status.sandboxes.is_empty() || status.any_running();
        actions.create_sandbox = true;
        actions.sandbox_attempt = status.sandboxes.iter().map(|s| s.attempt + 1).max().unwrap_or(0);
    }
    if planner.sandbox.is_some() {
        planner.ephemeral_containers(&mut actions);
    }
    match planner.init_containers(&mut actions) {
        Init::Failed => return planner.complete(false),
        Init::InProgress => {}
        Init::Done => {
            let kept = planner.containers(&mut actions);
            let is_its_own = |s: &ContainerStart| s.kind == ContainerKind::Regular;
            let nothing_of_its_own = !actions.containers_to_start.iter().any(is_its_own);
            let backing_off =
                planner.regular().iter().any(|c| actions.waiting.iter().any(|w| w.container == c.name));
            if kept == 0 && nothing_of_its_own && !backing_off {
                return planner.complete(planner.all_succeeded());
            }
        }
    }
    if actions.kill_pod {
        // Everything ends anyway.
        actions.containers_to_kill.clear();
    } else {
        planner.strays(&mut actions);
    }
    actions
}

/// The newest sandbox, when it is ready and the only one that is (`PodSandboxChanged`).
fn current_sandbox(status: &PodRuntimeStatus) -> Option<&str> {
    let newest = status.sandboxes.first()?;
    let ready = status.sandboxes.iter().filter(|s| s.ready).count();
    (newest.ready && ready == 1).then_some(newest.id.as_str())
}

struct Planner<'a> {
    pod: &'a Pod,
    status: &'a PodRuntimeStatus,
    backoff: &'a CrashLoopBackOff,
    probes: &'a ProbeResults,
    now_unix_ns: i64,
    /// `None`: a new one is needed.
    sandbox: Option<&'a str>,
}

impl<'a> Planner<'a> {
    fn regular(&self) -> &'a [Container] {
        self.pod.spec.as_ref().map_or(&[], |s| &s.containers)
    }

    fn init(&self) -> &'a [Container] {
        self.pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default()
    }

    fn ephemeral(&self) -> &'a [EphemeralContainer] {
        self.pod.spec.as_ref().and_then(|s| s.ephemeral_containers.as_deref()).unwrap_or_default()
    }

    fn restart_policy(&self) -> &'a str {
        self.pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always")
    }

    fn in_sandbox(&self, status: &ContainerStatus) -> bool {
        self.sandbox == Some(status.sandbox_id.as_str())
    }

    /// The newest instance in the current sandbox: what an init container did for an earlier one is lost with it.
    fn init_status(&self, name: &str) -> Option<&'a ContainerStatus> {
        self.status.containers.iter().find(|c| c.name == name && self.in_sandbox(c))
    }

    fn all_succeeded(&self) -> bool {
        self.regular().iter().all(|c| self.status.container(&c.name).is_some_and(succeeded))
    }

    /// The newest sandbox ended while its init containers were not done, so it ran none of the pod's own: what an
    /// earlier sandbox achieved does not make up for that.
    fn ended_in_init(&self) -> bool {
        let Some(newest) = self.status.sandboxes.first() else { return false };
        let in_newest =
            |name: &str| self.status.containers.iter().find(|c| c.name == name && c.sandbox_id == newest.id);
        if self.regular().iter().any(|c| in_newest(&c.name).is_some()) {
            return false;
        }
        let reached = self.init().iter().rfind(|c| in_newest(&c.name).is_some());
        reached.is_some_and(|c| !is_sidecar(c) && !in_newest(&c.name).is_some_and(succeeded))
    }

    /// A pod whose sandbox ended gets no new one when its restart policy has nothing left to start.
    fn ended_with_its_sandbox(&self) -> Option<bool> {
        if self.status.sandboxes.is_empty() || self.status.containers.is_empty() {
            return None;
        }
        // What has done its part is not run once more in another sandbox.
        let is_done = |c: &Container| restart::policy(self.pod, c) == "OnFailure";
        match self.restart_policy() {
            "Never" => Some(self.all_succeeded() && !self.ended_in_init()),
            _ if self.all_succeeded() && self.regular().iter().all(is_done) => Some(true),
            _ => None,
        }
    }

    /// Stops what is left (sidecars, the sandbox), once.
    fn complete(&self, succeeded: bool) -> PodActions {
        let alive =
            |c: &ContainerStatus| matches!(c.state, ContainerState::Running | ContainerState::Unknown);
        PodActions {
            kill_pod: self.status.sandboxes.iter().any(|s| s.ready)
                || self.status.containers.iter().any(alive),
            completed: Some(succeeded),
            ..PodActions::default()
        }
    }

    /// How many containers run and are left to.
    fn containers(&self, actions: &mut PodActions) -> usize {
        let mut kept = 0;
        for container in self.regular() {
            let Some(status) = self.status.container(&container.name) else {
                self.start(container, ContainerKind::Regular, actions);
                continue;
            };
            match status.state {
                ContainerState::Running if self.in_sandbox(status) => {
                    if changed(container, status) {
                        // Whatever the restart policy says: it is another container now.
                        actions.containers_to_kill.push(spec_changed(container, status));
                        self.start(container, ContainerKind::Regular, actions);
                    } else {
                        // One that has failed its probe too: what follows its end is planned when it has ended.
                        kept += 1;
                        if let Some(kind) = self.probes.failed(&status.id) {
                            self.end_failed(container, status, kind, actions);
                        }
                    }
                }
                ContainerState::Unknown => {
                    actions.containers_to_kill.push(unknown(status));
                    self.start(container, ContainerKind::Regular, actions);
                }
                ContainerState::Created => {
                    self.start(container, ContainerKind::Regular, actions);
                }
                ContainerState::Exited | ContainerState::Running => {
                    // One that runs is in a sandbox that is gone.
                    let exited = status.state == ContainerState::Exited;
                    let was_ended = !exited || self.probes.failed(&status.id).is_some();
                    if exited && restart::restarts(self.pod, container, status.exit_code)
                        || was_ended && restart::restarts_when_ended(self.pod, container)
                    {
                        self.start(container, ContainerKind::Regular, actions);
                    }
                }
            }
        }
        kept
    }

    /// It failed a probe. It starts again, if it does, as any that has ended.
    fn end_failed(
        &self,
        container: &Container,
        status: &ContainerStatus,
        kind: ProbeKind,
        actions: &mut PodActions,
    ) {
        let sidecar = is_sidecar(container);
        let restarts = restart::restarts_when_ended(self.pod, container);
        let reason = kill_reason(kind);
        actions.containers_to_kill.push(ContainerKill {
            id: status.id.clone(),
            name: status.name.clone(),
            message: kill_message(&status.name, kind, sidecar, restarts),
            reason,
            grace: kill_grace(container, kind),
        });
        actions.next_sync_in = Some((Duration::ZERO, reason));
    }

    /// False: its CrashLoopBackOff is not over.
    fn start(&self, container: &Container, kind: ContainerKind, actions: &mut PodActions) -> bool {
        let last = self.status.container(&container.name);
        if let Some(last) = last.filter(|s| s.state == ContainerState::Exited) {
            let hash = container_hash(container);
            if let Some(left) = self.backoff.remaining(last, hash, self.now_unix_ns) {
                let delay = self.backoff.delay(last, hash);
                actions.waiting.push(self.crash_loop(container, delay));
                let sooner = actions.next_sync_in.is_none_or(|(d, _)| left < d);
                if sooner {
                    actions.next_sync_in = Some((left, Reason::CrashLoopBackOffEnded));
                }
                return false;
            }
        }
        self.begin(&container.name, kind, actions);
        true
    }

    fn begin(&self, name: &str, kind: ContainerKind, actions: &mut PodActions) {
        // Over all instances: the runtime's container names end in it and must differ.
        let same_name = self.status.containers.iter().filter(|s| s.name == name);
        let restart_count = same_name.map(|s| s.restart_count.saturating_add(1)).max().unwrap_or(0);
        actions.containers_to_start.push(ContainerStart { name: name.to_owned(), kind, restart_count });
    }

    /// Started once, also while the pod's init containers are not done, and never again.
    fn ephemeral_containers(&self, actions: &mut PodActions) {
        for container in self.ephemeral().iter().filter(|c| self.status.container(&c.name).is_none()) {
            self.begin(&container.name, ContainerKind::Ephemeral, actions);
        }
    }

    fn crash_loop(&self, container: &Container, delay: Duration) -> ContainerWaiting {
        ContainerWaiting {
            container: container.name.clone(),
            reason: "CrashLoopBackOff".to_owned(),
            message: format!(
                "back-off {} restarting failed container={} pod={}",
                go_duration(delay),
                container.name,
                PodRef::of(self.pod).with_uid(),
            ),
        }
    }

    /// What runs though it should not: beside a newer instance, outside the sandbox, or in no manifest.
    fn strays(&self, actions: &mut PodActions) {
        for status in self.status.containers.iter().filter(|s| s.state == ContainerState::Running) {
            // The instance that the plan above looked at.
            let planned = if self.regular().iter().any(|c| c.name == status.name)
                || self.ephemeral().iter().any(|c| c.name == status.name)
            {
                self.status.container(&status.name)
            } else if self.init().iter().any(|c| c.name == status.name) {
                self.init_status(&status.name)
            } else {
                None
            };
            let listed = actions.containers_to_kill.iter().any(|k| k.id == status.id);
            if listed || self.in_sandbox(status) && planned.is_some_and(|p| p.id == status.id) {
                continue;
            }
            actions.containers_to_kill.push(ContainerKill {
                id: status.id.clone(),
                name: status.name.clone(),
                message: format!("Container {} is not the one that the pod runs", status.name),
                reason: Reason::StrayContainer,
                grace: None,
            });
        }
    }
}

fn succeeded(status: &ContainerStatus) -> bool {
    status.state == ContainerState::Exited && status.exit_code == 0
}

fn changed(container: &Container, status: &ContainerStatus) -> bool {
    // Without a hash the container was started by something else; it is taken as it is.
    status.hash.is_some_and(|hash| is_other(container, hash))
}

fn spec_changed(container: &Container, status: &ContainerStatus) -> ContainerKill {
    ContainerKill {
        id: status.id.clone(),
        name: status.name.clone(),
        message: format!("Container {} definition changed, will be restarted", container.name),
        reason: Reason::ContainerChanged,
        grace: None,
    }
}

fn unknown(status: &ContainerStatus) -> ContainerKill {
    ContainerKill {
        id: status.id.clone(),
        name: status.name.clone(),
        message: "Container is in \"unknown\" state, try killing it before restart".to_owned(),
        reason: Reason::ContainerStateUnknown,
        grace: None,
    }
}

/// Whole seconds as Go prints a duration: `10s`, `2m40s`, `5m0s`.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests;
