//! Init containers and sidecars: who of them is to start, and whether the pod's own containers may.

use k8s_openapi::api::core::v1::Container;

use super::{
    ContainerKind, ContainerState, ContainerStatus, Planner, PodActions, changed, spec_changed, unknown,
};
use crate::pod::qos::is_sidecar;
use crate::pod::restart;

pub(super) enum Init {
    Done,
    InProgress,
    /// An init container failed and the restart policy is Never.
    Failed,
}

enum Sidecar {
    Up,
    /// It has not started, or its CrashLoopBackOff is not over.
    NotYet,
}

impl Planner<'_> {
    /// `computeInitContainerActions`: one init container after the other, sidecars kept running beside them.
    pub(super) fn init_containers(&self, actions: &mut PodActions) -> Init {
        let initialized = self
            .regular()
            .iter()
            .any(|c| self.status.containers.iter().any(|s| s.name == c.name && self.in_sandbox(s)));
        // The last one that was started: all before it have done their part, even if their remains are gone.
        let reached = self.init().iter().rposition(|c| self.init_status(&c.name).is_some()).unwrap_or(0);
        for (index, container) in self.init().iter().enumerate() {
            if is_sidecar(container) {
                match self.sidecar(container, actions) {
                    Sidecar::NotYet if !initialized && index >= reached => return Init::InProgress,
                    Sidecar::Up | Sidecar::NotYet => continue,
                }
            }
            if initialized || index < reached {
                continue;
            }
            match self.init_status(&container.name) {
                Some(s) if s.state == ContainerState::Exited && s.exit_code == 0 => continue,
                Some(s) if s.state == ContainerState::Running => return Init::InProgress,
                Some(s) if s.state != ContainerState::Created && !self.is_tried_again(container, s) => {
                    return Init::Failed;
                }
                Some(s) if s.state == ContainerState::Unknown => actions.containers_to_kill.push(unknown(s)),
                _ => {}
            }
            self.start(container, ContainerKind::Init, actions);
            return Init::InProgress;
        }
        Init::Done
    }

    /// Of an init container that has failed, or may have.
    fn is_tried_again(&self, container: &Container, status: &ContainerStatus) -> bool {
        match status.state {
            ContainerState::Exited => restart::restarts(self.pod, container, status.exit_code),
            _ => restart::restarts_when_ended(self.pod, container),
        }
    }

    /// A sidecar counts as up as soon as it is started; the next one need not wait for another plan. With a startup probe it is
    /// up when that has succeeded.
    fn sidecar(&self, container: &Container, actions: &mut PodActions) -> Sidecar {
        match self.init_status(&container.name) {
            Some(s) if s.state == ContainerState::Running => {
                if !changed(container, s) {
                    if let Some(kind) = self.probes.failed(&s.id) {
                        self.end_failed(container, s, kind, actions);
                    }
                    let started = self.probes.is_started(container, &s.id);
                    return if started { Sidecar::Up } else { Sidecar::NotYet };
                }
                actions.containers_to_kill.push(spec_changed(container, s));
            }
            Some(s) if s.state == ContainerState::Unknown => actions.containers_to_kill.push(unknown(s)),
            _ => {}
        }
        let begun = self.start(container, ContainerKind::Init, actions);
        if begun && container.startup_probe.is_none() { Sidecar::Up } else { Sidecar::NotYet }
    }
}
