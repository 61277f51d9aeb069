//! Carries out the plan: the only part of the loop with effects. Decides nothing, and never waits for the runtime,
//! the API server or a disk: those have tasks of their own. cgroup files are read in place, for a decision must not
//! wait for a hand-over.

use std::sync::Arc;

use super::event::Event;
use super::plan::{Action, ActionKind};
use crate::cgroup::driver::CgroupDriver;
use crate::cgroup::stats::MemoryFiles;
use crate::kernel::Kernel;
use crate::pleg::PlegHandle;
use crate::pod::PodUid;
use crate::pod::order::WorkOrder;
use crate::pod::qos::QosClass;
use crate::pod::worker::PodWorkers;
use crate::pod_store::PodStoreHandle;
use crate::signal::Domain;

#[derive(Debug)]
pub struct Executor {
    pub workers: PodWorkers,
    pub memory: MemoryFiles,
    pub cgroups: Arc<CgroupDriver>,
    pub kernel: Kernel,
    pub pleg: PlegHandle,
    pub store: PodStoreHandle,
}

impl Executor {
    /// Does it. Some actions answer at once, with an event for the state.
    pub fn execute(&mut self, action: Action) -> Option<Event> {
        let Action { kind, reason } = action;
        match kind {
            ActionKind::Dispatch { pod, order } | ActionKind::CutGrace { pod, order } => {
                self.workers.dispatch(pod, order);
                None
            }
            ActionKind::Evict { eviction, pod } => {
                let uid = eviction.pod.uid.clone();
                let order = WorkOrder::Terminate { pod, grace: eviction.grace, reason, remove: false };
                self.workers.dispatch(uid, order);
                None
            }
            ActionKind::Forget(uid) => {
                self.workers.forget(&uid);
                self.memory.unwatch_pod(&uid);
                self.store.remove(uid);
                None
            }
            ActionKind::ReadMemory { scope, caused_by } => {
                Some(Event::Reading(self.memory.read(scope, reason, caused_by)))
            }
            ActionKind::MapCgroups { pod, qos, containers } => Some(self.map_cgroups(pod, qos, &containers)),
            ActionKind::WatchInit { pids } => {
                for pid in pids {
                    if let Err(error) = self.kernel.watch_init(pid) {
                        tracing::debug!(pid, %error, "PLEG will see this process exit at its next relist");
                    }
                }
                None
            }
            ActionKind::KickPleg => {
                self.pleg.kick();
                None
            }
            ActionKind::Save(saved) => {
                self.store.save(saved);
                None
            }
        }
    }

    fn map_cgroups(&mut self, pod: PodUid, qos: QosClass, containers: &[(String, String)]) -> Event {
        let name_of = |dir: &str| containers.iter().find(|(id, _)| dir.contains(id)).map(|(_, name)| name);
        let dirs = self.cgroups.pod_dirs(&pod, qos);
        self.watch(Domain::Pod(pod.clone()), &dirs.memory);
        let mut ids = Vec::new();
        for (id, dir) in self.cgroups.cgroup_ids(&pod, qos) {
            match dir {
                None => ids.push((id, None)),
                // The sandbox's own cgroup has no container name: it counts as the pod's.
                Some(dir) => {
                    let name = name_of(&dir);
                    if let Some(name) = name {
                        self.watch(Domain::Container(pod.clone(), name.clone()), &dirs.memory.join(&dir));
                    }
                    ids.push((id, name.cloned()));
                }
            }
        }
        Event::Cgroups { pod, ids }
    }

    /// A cgroup that is gone by now needs no watching.
    fn watch(&mut self, domain: Domain, dir: &std::path::Path) {
        if let Err(error) = self.memory.watch(domain.clone(), dir) {
            tracing::debug!(?domain, %error, "not watched");
        }
    }
}
