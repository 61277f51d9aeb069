//! Carries out the plan: the only part of the loop with effects. Decides nothing, and never waits for the runtime,
//! the API server or a disk: those have tasks of their own. cgroup files are read in place, for a decision must not
//! wait for a hand-over.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::outlet::Outlet;
use crate::actuator::guard::{self, Beat};
use crate::actuator::{BrakeFiles, Guard, SchedIdle};
use crate::cgroup::CgroupError;
use crate::cgroup::class_updates::ClassUpdates;
use crate::cgroup::driver::CgroupDriver;
use crate::cgroup::kubepods_limit::KubepodsLimitHandle;
use crate::cgroup::pressure::PressureFiles;
use crate::cgroup::stats::MemoryFiles;
use crate::clock;
use crate::kernel::Kernel;
use crate::node_resources::NodeResources;
use crate::pleg::PlegHandle;
use crate::pod_worker::PodWorkers;
use oomlet_core::brake::{Gear, Held};
use oomlet_core::clock::Mono;
use oomlet_core::node::action::{Action, ActionKind, MemoryAction, NodeAction, PodAction, ResourceAction};
use oomlet_core::node::event::Event;
use oomlet_core::node::prober::HeldPods;
use oomlet_core::pod::order::WorkOrder;
use oomlet_core::pod::qos::QosClass;
use oomlet_core::pod::{ContainerInstance, PodUid};
use oomlet_core::reason::Reason;
use oomlet_core::signal::attribution::Target;
use oomlet_core::signal::{CgroupId, Domain, MemoryReading};

#[derive(Debug)]
pub struct Executor {
    workers: PodWorkers,
    memory: MemoryFiles,
    /// Only where a threshold asks for it.
    pub pressure: Option<PressureFiles>,
    cgroups: Arc<CgroupDriver>,
    classes: ClassUpdates,
    pub kernel: Kernel,
    /// The cgroups of each pod whose charges the kernel side watches.
    charged: BTreeMap<PodUid, Vec<CgroupId>>,
    pleg: PlegHandle,
    resources: NodeResources,
    /// Where others see the pods.
    pub outlet: Outlet,
    brakes: BrakeFiles,
    /// Without it a held pod's SIGTERM handler waits for its turn like any thread.
    sched_idle: Option<SchedIdle>,
    /// Without it a pod that is held when the agent is killed is let go at the next start.
    pub guard: Option<Guard>,
    /// Where the limit of all pods is not yet what the configuration says.
    pub kubepods_limit: Option<KubepodsLimitHandle>,
    /// Who is held: what such a pod answers to a probe is not its own doing.
    pub held: watch::Sender<HeldPods>,
}

impl Executor {
    #[must_use]
    pub fn new(
        workers: PodWorkers,
        memory: MemoryFiles,
        cgroups: Arc<CgroupDriver>,
        classes: ClassUpdates,
        kernel: Kernel,
        pleg: PlegHandle,
        (outlet, resources): (Outlet, NodeResources),
    ) -> Executor {
        let brakes = BrakeFiles::of(&cgroups);
        let sched_idle = SchedIdle::start(brakes.clone()).unwrap_or_else(|error| {
            tracing::warn!(%error, "no thread looks at who is busy in a held pod");
            None
        });
        let mut executor = Executor {
            brakes,
            sched_idle,
            workers,
            memory,
            pressure: None,
            cgroups,
            classes,
            kernel,
            charged: BTreeMap::new(),
            pleg,
            resources,
            outlet,
            guard: None,
            kubepods_limit: None,
            held: watch::Sender::default(),
        };
        for (id, class) in executor.cgroups.top_cgroup_ids() {
            // The classes have no limits of their own.
            if class.is_none() {
                executor.watch_memcg(id);
            }
        }
        executor
    }

    /// Does it. Some actions answer at once, with an event for the state.
    pub fn execute(&mut self, action: Action) -> Option<Event> {
        match action.kind {
            ActionKind::Memory(memory) => self.execute_memory(memory, action.reason),
            ActionKind::Resources(ResourceAction::Order(order)) => self.resources.order(order),
            ActionKind::Resources(ResourceAction::Evict { eviction, pod }) => {
                let order =
                    WorkOrder::Terminate { pod, grace: eviction.grace, reason: action.reason, remove: false };
                self.workers.dispatch(eviction.pod.uid, order);
                None
            }
            ActionKind::Pod(pod) => self.execute_pod(pod),
            ActionKind::Node(NodeAction::UpdateQos { class, resources }) => {
                self.classes.order(class, resources);
                None
            }
            ActionKind::Node(NodeAction::KickPleg) => {
                self.pleg.kick();
                None
            }
            ActionKind::Node(NodeAction::Publish(node)) => {
                self.outlet.publish_node(node);
                None
            }
        }
    }

    fn execute_memory(&mut self, action: MemoryAction, reason: Reason) -> Option<Event> {
        match action {
            MemoryAction::Read { scope, caused_by } => {
                let mut reading = self.memory.read(scope, reason, caused_by);
                if let (Ok(reading), Some(pressure)) = (&mut reading, &mut self.pressure) {
                    reading.stalled = pressure.read(scope);
                }
                told_of_failure(reading)
            }
            MemoryAction::ReadLimits { domains, caused_by } => {
                told_of_failure(self.memory.read_these(&domains, reason, caused_by))
            }
            MemoryAction::QuietGrowth { until } => {
                if let Err(error) = self.kernel.quiet_growth(until) {
                    tracing::debug!(%error, "growth is told of all the time");
                }
                None
            }
            MemoryAction::Evict { eviction, qos, pod } => {
                let uid = eviction.pod.uid.clone();
                // Before anything else: what it grows by meanwhile is lost.
                let failed = if eviction.brake {
                    self.brake_to_its_end(&Held::pod(&uid), qos, Gear::Frozen)
                } else {
                    None
                };
                let order = WorkOrder::Terminate { pod, grace: eviction.grace, reason, remove: false };
                self.workers.dispatch(uid, order);
                failed
            }
            // Who lives on afterwards keeps its scheduling class.
            MemoryAction::Brake { qos, step } if step.neighbour_of.is_some() => {
                self.brake(&step.held, qos, step.gear)
            }
            MemoryAction::Brake { qos, step } => self.brake_to_its_end(&step.held, qos, step.gear),
            MemoryAction::CutGrace { pod, order, .. } => {
                self.workers.dispatch(pod, order);
                None
            }
            MemoryAction::StopContainer { stop, order } => {
                let held = Held::container(&order.pod.uid, &order.container);
                let failed =
                    if stop.brake { self.brake_to_its_end(&held, order.qos, Gear::Frozen) } else { None };
                self.workers.stop_container(order);
                failed
            }
            MemoryAction::CutContainerGrace { order, .. } => {
                self.workers.stop_container(order);
                None
            }
        }
    }

    fn execute_pod(&mut self, action: PodAction) -> Option<Event> {
        match action {
            PodAction::Dispatch { pod, order } => self.workers.dispatch(pod, order),
            PodAction::Forget(uid) => {
                self.workers.forget(&uid);
                self.memory.unwatch_pod(&uid);
                if let Some(pressure) = &mut self.pressure {
                    pressure.unwatch(&uid);
                }
                self.watch_charges(&uid, &[]);
                self.charged.remove(&uid);
                let now = k8s_openapi::jiff::Timestamp::now().as_nanosecond();
                self.outlet.forget(&uid, i64::try_from(now).unwrap_or(i64::MAX));
                self.held.send_if_modified(|held| held.forget(&uid));
                if let Some(limit) = &self.kubepods_limit {
                    limit.a_pod_has_gone();
                }
            }
            PodAction::MapCgroups { pod, qos, containers } => {
                return Some(self.map_cgroups(&pod, qos, &containers));
            }
            PodAction::WatchInit { pids, .. } => {
                for pid in pids {
                    if let Err(error) = self.kernel.watch_init(pid) {
                        tracing::debug!(pid, %error, "PLEG will see this process exit at its next relist");
                    }
                }
            }
            PodAction::Publish(published) => self.outlet.publish(published),
            PodAction::Unlist(uid) => self.outlet.unlist(&uid),
        }
        None
    }

    fn brake(&mut self, held: &Held, qos: QosClass, gear: Gear) -> Option<Event> {
        // The guard first: should this thread not come back, it is the one that lets go.
        if gear != Gear::Free {
            let _ = self.beat(true, clock::now());
        }
        let result = self.brakes.set(held, qos, gear);
        let gear = if result.is_ok() { gear } else { Gear::Free };
        self.held.send_if_modified(|pods| pods.geared(held, gear, clock::now()));
        result.err().map(|error| Event::BrakeFailed { held: held.clone(), error: error.to_string() })
    }

    /// Of one that is to end, and has a signal handler that should get its turn.
    fn brake_to_its_end(&mut self, held: &Held, qos: QosClass, gear: Gear) -> Option<Event> {
        let failed = self.brake(held, qos, gear);
        if let Some(sched_idle) = &self.sched_idle {
            sched_idle.geared(held, qos, gear);
        }
        failed
    }

    /// Tells the guard whether anybody is held. One that has gone is replaced.
    pub fn beat(&mut self, holds: bool, now: Mono) -> Beat {
        let Some(guard) = &mut self.guard else { return Beat::Heard };
        let heard = guard.beat(holds, now).unwrap_or_else(|error| {
            tracing::warn!(%error, "the guard of the brakes has gone; starting another");
            let again = Guard::start(self.cgroups.cgroup_root());
            self.guard = again
                .inspect_err(|error| tracing::warn!(%error, "there is no guard of the brakes any more"))
                .ok();
            Beat::Heard
        });
        if heard == Beat::LetGo {
            self.held.send_if_modified(|held| held.all_were_let_go(now));
        }
        heard
    }

    /// Lets go of all: the loop ends.
    pub fn release_brakes(&mut self) {
        guard::release(std::slice::from_ref(&self.brakes));
        // What it has looked at meanwhile it undoes itself.
        self.sched_idle = None;
    }

    fn map_cgroups(&mut self, pod: &PodUid, qos: QosClass, containers: &[ContainerInstance]) -> Event {
        let name_of = |id: &str| containers.iter().find(|c| c.id == id).map(|c| &c.name);
        let dirs = self.cgroups.pod_dir(pod, qos);
        self.watch(Domain::Pod(pod.clone()), &dirs.memory);
        if let (Some(pressure), Some(dir)) = (&mut self.pressure, &dirs.unified)
            && let Err(error) = pressure.watch(pod, dir)
        {
            tracing::debug!(%error, "the pod's pressure stall information is not watched");
        }
        for (dir, id) in self.cgroups.container_dirs(pod, qos) {
            if let Some(name) = name_of(&id) {
                self.watch(Domain::Container(pod.clone(), name.clone()), &dir);
            }
        }
        // The sandbox's own cgroup has no container name: it counts as the pod's.
        let target = |id: Option<String>| match id.as_deref().and_then(name_of) {
            Some(name) => Target::Container(pod.clone(), name.clone()),
            None => Target::Pod(pod.clone()),
        };
        let ids = self.cgroups.cgroup_ids(pod, qos);
        self.watch_charges(pod, &ids);
        Event::Cgroups(ids.into_iter().map(|(cgroup, id)| (cgroup, target(id))).collect())
    }

    /// These and no others of the pod.
    fn watch_charges(&mut self, pod: &PodUid, ids: &[(CgroupId, Option<String>)]) {
        let now: Vec<CgroupId> = ids.iter().map(|(id, _)| *id).collect();
        let before = self.charged.get(pod).map(Vec::as_slice).unwrap_or_default();
        for gone in before.iter().filter(|id| !now.contains(id)) {
            self.kernel.unwatch_memcg(*gone);
        }
        for id in &now {
            self.watch_memcg(*id);
        }
        self.charged.insert(pod.clone(), now);
    }

    fn watch_memcg(&mut self, id: CgroupId) {
        if let Err(error) = self.kernel.watch_memcg(id) {
            tracing::debug!(%error, "not told of its charges");
        }
    }

    /// A cgroup that is gone by now needs no watching.
    fn watch(&mut self, domain: Domain, dir: &std::path::Path) {
        if let Err(error) = self.memory.watch(domain.clone(), dir) {
            tracing::debug!(?domain, %error, "not watched");
        }
    }
}

fn told_of_failure(reading: Result<MemoryReading, CgroupError>) -> Option<Event> {
    match reading {
        Ok(reading) => Some(Event::Reading(reading)),
        Err(error) => {
            tracing::warn!(%error, "no memory numbers: eviction waits for the next reading");
            None
        }
    }
}
