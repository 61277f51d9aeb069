//! What the agent knows of its node, and the only code that changes it.
//!
//! - [`pod`]: one pod's part.
//! - [`sources`]: pod lists arrive: new, gone, replaced; orphans. - [`update`]: a known pod's manifest has changed.
//! - [`admit`]: admission, and adoption of what already runs. - [`retry`]: static pods that were refused or evicted.
//! - [`preempt`]: a critical pod that there is no room for. - [`deadline`]: pods that may run for so long only.
//! - [`runtime`]: PLEG and worker reports.
//! - [`memory`]: kernel events and readings, in relation to pods.
//! - [`resources`]: disks, process ids and images.
//! - [`oom`]: OOM kills, in relation to pods.
//! - [`pod_table`]: the pods, and what follows from all of them together.
//! - [`note`]: the plan is on its way.
//! - [`probes`]: verdicts on containers.
//! - [`limits`]: containers that are stopped before they reach their own memory limit.
//! - [`publish`]: a pod as everybody outside sees it.

mod admit;
mod deadline;
mod limits;
mod memory;
mod note;
mod oom;
mod pod;
mod pod_table;
mod preempt;
mod probes;
mod publish;
mod resources;
mod retry;
mod runtime;
mod sources;
#[cfg(test)]
mod tests;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use pod::{Mode, PodState};

use super::event::{Event, PodSource};
use super::published::{PublishedNode, PublishedPod, SavedPod};
use crate::clock::Mono;
use crate::eviction::manager::EvictionManager;
use crate::eviction::resources::{Condition, ResourceConfig, ResourceManager};
use crate::eviction::{Candidate, EvictionConfig};
use crate::oom::OomLedger;
use crate::pod::admission::NodeFacts;
use crate::pod::containers::{ListedContainer, ListedSandbox};
use crate::pod::qos::{CgroupResources, burstable_class_resources};
use crate::pod::{PodRef, PodUid};
use crate::reason::Reason;
use crate::signal::MemoryReading;
use crate::signal::attribution::Attribution;
use crate::trace::record::{Kind, Record};
use pod_table::PodTable;
use resources::Doing;
use retry::Retries;

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct StateConfig {
    pub node: NodeFacts,
    pub eviction: EvictionConfig,
    pub resources: ResourceConfig,
    /// kubelet `syncFrequency`, 1 min: a pod is synced this often ±50 % with nothing else happening, until it stands still
    /// and PLEG says the same of it as its worker.
    pub sync_frequency: Duration,
    /// The sources that the configuration names. Without any nothing is started, and what runs is left alone.
    pub sources: BTreeSet<PodSource>,
    /// Static pods are never evicted for want of memory, disk or process ids, as with kubelet. Not where every pod is one.
    pub static_pods_critical: bool,
    /// A static pod's UID is stable over restarts, so that what is known of it holds on.
    pub saved: Vec<SavedPod>,
    /// The node's addresses, for `status.hostIPs`.
    pub host_ips: Vec<String>,
    /// The OOM killer takes a container as a whole (`memory.oom.group`).
    pub oom_kill_group: bool,
    /// As in `containerd://<id>`.
    pub runtime_name: String,
    /// See [`super::super::pod::status::StatusInput::recursive_read_only`].
    pub recursive_read_only: bool,
    /// What to add to a [`Mono`] to get Unix time, nanoseconds.
    pub unix_offset_ns: i64,
}

/// A pod in the runtime that nobody has named (yet).
#[derive(Clone, Debug)]
struct Found {
    pod: PodRef,
    containers: Vec<ListedContainer>,
    sandboxes: Vec<ListedSandbox>,
}

/// What holds for the node as a whole, as it was told last.
#[derive(Debug, Default)]
struct NodeConditions {
    memory_pressure: bool,
    /// DiskPressure, PIDPressure.
    resources: BTreeSet<Condition>,
    /// What could not be read or removed.
    trouble: BTreeMap<Doing, Vec<String>>,
}

/// What the kernel told of memory, and the numbers that were read because of it.
#[derive(Debug, Default)]
struct Signals {
    /// Times of kernel events whose fresh numbers have been read and not yet planned on.
    undecided: Vec<Mono>,
    /// The first kernel event told in the trace since the last reading.
    told_at: Option<Mono>,
    last_reading: Option<MemoryReading>,
    /// Until when the kernel's side tells of no growth.
    quiet_until: Mono,
}

#[derive(Debug)]
pub struct State {
    config: StateConfig,
    pods: PodTable,
    /// By UID; taken out as the pod is admitted.
    saved: BTreeMap<PodUid, SavedPod>,
    /// Manifests that do not count, with the error, so that each is told once.
    rejected: BTreeMap<PodSource, BTreeMap<PathBuf, String>>,
    /// Sources that have named their pods at least once: what such a source does not name it does not want.
    spoken: BTreeSet<PodSource>,
    /// Sources that do not answer, and whose pods go on as the last run knew them.
    resumed: BTreeSet<PodSource>,
    /// What earlier runs have left and nobody wants has been told apart, once all sources had spoken.
    swept: bool,
    /// Pods with cgroups or volumes at start, until then.
    leftovers: Vec<PodUid>,
    /// Pods that were deleted, while their source still names them.
    deleted: BTreeMap<PodUid, PodSource>,
    /// Those that it has ceased to name, until that is told.
    unlisted: BTreeSet<PodUid>,
    retries: Retries,
    /// Pods that the last relist found and that are not among [`State::pods`], but for those that were forgotten since.
    found: BTreeMap<PodUid, Found>,
    /// Pods of which nothing was left, and when: until a list that began later has come.
    forgotten: BTreeMap<PodUid, Mono>,
    /// The runtime has been listed at least once.
    relisted: bool,
    runtime_error: Option<String>,
    eviction: EvictionManager,
    resources: ResourceManager,
    conditions: NodeConditions,
    oom: OomLedger,
    signals: Signals,
    attribution: Attribution,
    /// What the Burstable class's cgroup was last given.
    burstable_applied: Option<CgroupResources>,
    /// Pods that differ from what was published of them last.
    unpublished: BTreeSet<PodUid>,
    /// How the node is, as it was told last.
    node_published: Option<PublishedNode>,
    /// Why PLEG is to look again now.
    kick: Option<Reason>,
    /// Trace records that wait for the loop to publish them.
    outbox: Vec<Record>,
}

/// What an event may have changed beyond what it is about.
#[derive(Clone, Copy, Debug, Default)]
struct Follows {
    /// Kills that only a counter tells of are due to be told.
    kills: bool,
    memory_pressure: bool,
    resource_conditions: bool,
    /// A pod that waits may be admitted now.
    admission: bool,
}

impl Follows {
    /// The whole list: what is not here follows from no event of that kind.
    const fn from(event: &Event) -> Follows {
        let nothing =
            Follows { kills: false, memory_pressure: false, resource_conditions: false, admission: false };
        match event {
            Event::Pods(_)
            | Event::PodsChanged(_)
            | Event::SourceSilent(_)
            | Event::Relisted(_)
            | Event::Leftovers(_)
            | Event::Worker(_) => Follows { admission: true, ..nothing },
            Event::Reading(_) => Follows { kills: true, memory_pressure: true, admission: true, ..nothing },
            Event::Resources(_) => Follows { resource_conditions: true, admission: true, ..nothing },
            Event::Kernel(_) => Follows { kills: true, ..nothing },
            // Whatever a time was waited for.
            Event::Tick => {
                Follows { kills: true, memory_pressure: true, resource_conditions: true, admission: true }
            }
            Event::Lifecycle(_)
            | Event::Probe(_)
            | Event::KernelSilent(_)
            | Event::Cgroups(_)
            | Event::BrakeFailed { .. }
            | Event::NodeObject { .. }
            | Event::ObjectsChanged(_)
            | Event::Runtime(_) => nothing,
        }
    }
}

impl State {
    #[must_use]
    pub fn new(mut config: StateConfig) -> State {
        let saved = std::mem::take(&mut config.saved).into_iter().map(|s| (s.uid(), s)).collect();
        State {
            eviction: EvictionManager::new(config.eviction.clone()),
            resources: ResourceManager::new(config.resources.clone()),
            oom: OomLedger::new(config.oom_kill_group),
            config,
            pods: PodTable::default(),
            saved,
            rejected: BTreeMap::new(),
            spoken: BTreeSet::new(),
            resumed: BTreeSet::new(),
            swept: false,
            leftovers: Vec::new(),
            deleted: BTreeMap::new(),
            unlisted: BTreeSet::new(),
            retries: Retries::default(),
            found: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            relisted: false,
            runtime_error: None,
            conditions: NodeConditions::default(),
            signals: Signals::default(),
            attribution: Attribution::default(),
            burstable_applied: None,
            unpublished: BTreeSet::new(),
            node_published: None,
            kick: None,
            outbox: Vec::new(),
        }
    }

    /// Takes one event in. Nothing else changes the state but [`State::note`].
    pub fn apply(&mut self, event: Event, now: Mono) {
        let follows = Follows::from(&event);
        match event {
            Event::Pods(update) => self.apply_pod_update(update, now),
            Event::PodsChanged(changes) => self.apply_pod_changes(changes, now),
            Event::Relisted(pods) => self.apply_relist(pods, now),
            Event::Lifecycle(event) => self.apply_lifecycle(&event, now),
            Event::Leftovers(uids) => self.apply_leftovers(uids, now),
            Event::Worker(report) => self.apply_worker_report(report, now),
            Event::Probe(report) => self.apply_probe(report, now),
            Event::Runtime(result) => self.apply_runtime(result, now),
            Event::Kernel(event) => self.apply_kernel_event(&event, now),
            Event::KernelSilent(why) => self.apply_kernel_silent(&why, now),
            Event::BrakeFailed { held, error } => self.apply_brake_failed(&held, error, now),
            Event::Cgroups(cgroups) => self.apply_cgroups(cgroups),
            Event::Reading(reading) => self.apply_reading(&reading, now),
            Event::Resources(answer) => self.apply_resources(answer, now),
            Event::SourceSilent(source) => self.resume_saved(source, now),
            Event::NodeObject { labels, taints } => {
                (self.config.node.labels, self.config.node.taints) = (labels, taints);
            }
            Event::ObjectsChanged(pods) => self.apply_objects_changed(&pods),
            Event::Tick => {}
        }
        self.hand_over_found();
        if follows.kills {
            self.tell_unexplained_kills(now);
        }
        if follows.memory_pressure {
            self.update_pressure(now);
        }
        if follows.resource_conditions {
            self.update_resource_conditions(now);
        }
        if self.retry_failed(now) || follows.admission {
            self.admit(now);
        }
        self.end_overdue(now);
        self.refresh_changed(now);
    }

    /// What follows from a pod alone, of those that have changed: which of its containers are stopped before they reach
    /// their limit, and what everybody outside sees of it.
    fn refresh_changed(&mut self, now: Mono) {
        for uid in self.pods.take_changed() {
            self.refresh_limits(&uid, now);
            self.refresh_published(&uid, now);
            self.refresh_deadline(&uid);
        }
    }

    /// When the loop must wake if nothing happens before.
    #[must_use]
    pub fn next_wakeup(&self) -> Mono {
        let resources = self.resources.next_wakeup(self.images_in_use());
        let others = self.pods.next_due().into_iter().chain(self.oom.kills.next_due());
        others.chain([resources]).chain(self.retries.next_due()).fold(self.eviction.next_wakeup(), Mono::min)
    }

    pub fn pods(&self) -> impl Iterator<Item = &PodState> {
        self.pods.values()
    }

    #[must_use]
    pub fn pod(&self, uid: &PodUid) -> Option<&PodState> {
        self.pods.get(uid)
    }

    /// Those that there may be something to do for.
    pub fn pods_due(&self, now: Mono) -> impl Iterator<Item = &PodState> {
        self.pods.due(now)
    }

    /// A plan was made of all that had changed.
    pub fn planned(&mut self) {
        self.pods.planned();
    }

    /// What is to be published.
    pub fn unpublished(&self) -> impl Iterator<Item = &Arc<PublishedPod>> {
        let pods = self.unpublished.iter().filter_map(|uid| self.pods.get(uid));
        // One that is gone is forgotten, and nobody is to hear of it after that.
        pods.filter(|pod| pod.mode != Mode::Removed).filter_map(|pod| pod.published.as_ref())
    }

    /// Pods that were deleted, and that their source has ceased to name.
    pub fn unlisted(&self) -> impl Iterator<Item = &PodUid> {
        self.unlisted.iter()
    }

    /// Pods that may be chosen for eviction: what the manager ranks.
    #[must_use]
    pub fn candidates(&self) -> &[Candidate] {
        self.pods.candidates()
    }

    /// What the Burstable class's cgroup should be given, when it has not been.
    #[must_use]
    pub fn burstable_due(&self) -> Option<CgroupResources> {
        if !self.may_admit() {
            return None;
        }
        let wanted = burstable_class_resources(self.pods.burstable_milli_cpu());
        (self.burstable_applied != Some(wanted)).then_some(wanted)
    }

    #[must_use]
    pub fn eviction(&self) -> &EvictionManager {
        &self.eviction
    }

    /// Whether the `oom_kill` counters of all pods are to be read now.
    #[must_use]
    pub const fn counters_wanted(&self) -> bool {
        self.oom.counters_wanted
    }

    /// Why PLEG is to look again now, if it is.
    #[must_use]
    pub const fn kick_wanted(&self) -> Option<Reason> {
        self.kick
    }

    /// Trace records since the last call.
    pub fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.outbox)
    }

    fn record(&mut self, record: Record) {
        self.outbox.push(record);
    }

    fn record_pod(
        &mut self,
        now: Mono,
        kind: Kind,
        reason: Reason,
        pod: &PodRef,
        message: impl Into<String>,
    ) {
        self.record(Record::new(now, kind, reason, message).pod(pod));
    }
}
