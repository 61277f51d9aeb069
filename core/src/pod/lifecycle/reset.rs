//! All containers of a pod start again, for one has ended as its rule says (KEP-5532). Those that are there go, in the order of
//! kubelet's `getContainersToReset`: whoever brought it about goes last, so that it is known until all is done.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

use super::{ContainerReset, ContainerState, Planner, PodActions};
use crate::pod::{ContainerInstance, restart};
use crate::reason::Reason;

impl Planner<'_> {
    pub(super) fn reset(&self) -> PodActions {
        let [mut last, mut first] = [Vec::new(), Vec::new()];
        for container in self.regular().iter().chain(self.init()) {
            let (sources, others) = self.instances(container);
            first.extend(others);
            last.extend(sources);
        }
        first.extend(last);
        PodActions {
            containers_to_reset: first,
            next_sync_in: Some((Duration::ZERO, Reason::AllContainersRestarting)),
            ..PodActions::default()
        }
    }

    /// Those that brought it about, and all others.
    fn instances(&self, container: &Container) -> (Vec<ContainerReset>, Vec<ContainerReset>) {
        let all = self.status.containers.iter().filter(|s| s.name == container.name);
        let reset = all.map(|s| {
            let exited = s.state == ContainerState::Exited;
            let is_source = exited && restart::restarts_all(container, s.exit_code);
            (is_source, ContainerReset { container: ContainerInstance::of(s), kill: !exited })
        });
        let (sources, others): (Vec<_>, Vec<_>) = reset.partition(|(is_source, _)| *is_source);
        let without = |list: Vec<(bool, ContainerReset)>| list.into_iter().map(|(_, reset)| reset).collect();
        (without(sources), without(others))
    }
}
