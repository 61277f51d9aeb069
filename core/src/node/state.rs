//! What the agent knows of its node, and the only code that changes it.
//!
//! - [`pod`]: one pod's part.
//! - [`sources`]: pod lists arrive: new, gone, replaced; orphans. - [`update`]: a known pod's manifest has changed.
//! - [`admit`]: admission, and adoption of what already runs. - [`retry`]: static pods that were refused or evicted.
//! - [`runtime`]: PLEG and worker reports.
//! - [`memory`]: kernel events and readings, in relation to pods.
//! - [`resources`]: disks, process ids and images.
//! - [`oom`]: OOM kills, explained; [`kill_account`]: each once.
//! - [`note`]: the plan is on its way.
//! - [`limits`]: containers that are stopped before they reach their own memory limit.
//! - [`saved`]: a pod as it goes to disk.

mod admit;
mod kill_account;
mod limits;
mod memory;
mod note;
mod oom;
mod pod;
mod resources;
mod retry;
mod runtime;
mod saved;
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
use super::plan::SavedPod;
use crate::clock::Mono;
use crate::eviction::manager::EvictionManager;
use crate::eviction::resources::{Condition, ResourceCandidate, ResourceConfig, ResourceManager};
use crate::eviction::{Candidate, EvictionConfig};
use crate::pod::admission::NodeFacts;
use crate::pod::qos::{CgroupResources, QosClass, class_cgroup_resources};
use crate::pod::{PodRef, PodUid};
use crate::reason::Reason;
use crate::signal::attribution::Attribution;
use crate::signal::{Domain, MemoryReading, OomBegin};
use crate::trace::record::{Kind, Record};
use kill_account::KillAccount;
use resources::Doing;
use retry::Retries;

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct StateConfig {
    pub node: NodeFacts,
    pub eviction: EvictionConfig,
    pub resources: ResourceConfig,
    /// kubelet `syncFrequency`, 1 min: a pod is synced this often ±50 % with nothing else happening.
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
    /// What to add to a [`Mono`] to get Unix time, nanoseconds.
    pub unix_offset_ns: i64,
}

/// A pod in the runtime.
#[derive(Clone, Debug)]
struct Found {
    pod: PodRef,
    /// One of its containers runs.
    running: bool,
}

#[derive(Debug)]
pub struct State {
    config: StateConfig,
    pods: BTreeMap<PodUid, PodState>,
    /// By UID; taken out as the pod is admitted.
    saved: BTreeMap<PodUid, SavedPod>,
    /// Manifests that do not count, with the error, so that each is told once.
    rejected: BTreeMap<PodSource, BTreeMap<PathBuf, String>>,
    /// Sources that have named their pods at least once: what such a source does not name it does not want.
    spoken: BTreeSet<PodSource>,
    /// What earlier runs have left and nobody wants has been told apart, once all sources had spoken.
    swept: bool,
    /// Pods with cgroups or volumes at start, until then.
    leftovers: Vec<PodUid>,
    /// Pods that were deleted, while their source still names them.
    deleted: BTreeMap<PodUid, PodSource>,
    retries: Retries,
    /// What the last relist found, but for pods that were forgotten since.
    found: BTreeMap<PodUid, Found>,
    /// Pods of which nothing was left, and when: until a list that began later has come.
    forgotten: BTreeMap<PodUid, Mono>,
    /// The runtime has been listed at least once.
    relisted: bool,
    runtime_error: Option<String>,
    eviction: EvictionManager,
    /// Pods that may be chosen, kept at hand: the plan looks at them with each reading.
    candidates: Vec<Candidate>,
    resources: ResourceManager,
    /// The same pods, as far as disks and process ids are concerned.
    resource_candidates: Vec<Arc<ResourceCandidate>>,
    /// Conditions that are true, as they were told.
    resource_conditions: BTreeSet<Condition>,
    /// What could not be read or removed, as it was last told.
    resource_trouble: BTreeMap<Doing, Vec<String>>,
    /// What the Burstable class's cgroup should have, and what it was last given.
    burstable: CgroupResources,
    burstable_applied: Option<CgroupResources>,
    attribution: Attribution,
    under_pressure: bool,
    kills: KillAccount,
    /// Of kills that only a counter has told of so far: what was known when it rose.
    counted_kills: BTreeMap<Domain, Record>,
    /// A container was killed and the counters may tell by whom.
    counters_wanted: bool,
    /// What the kernel said last of a kill that it was about to do, and when.
    oom_begun: Option<(Mono, OomBegin)>,
    /// Times of kernel events whose fresh numbers have been read and not yet planned on.
    undecided: Vec<Mono>,
    /// The first kernel event told in the trace since the last reading.
    told_signal_at: Option<Mono>,
    last_reading: Option<MemoryReading>,
    /// Why PLEG is to look again now.
    kick: Option<Reason>,
    /// Trace records that wait for the loop to publish them.
    outbox: Vec<Record>,
}

impl State {
    #[must_use]
    pub fn new(mut config: StateConfig) -> State {
        let saved = std::mem::take(&mut config.saved).into_iter().map(|s| (s.uid(), s)).collect();
        State {
            eviction: EvictionManager::new(config.eviction.clone()),
            kills: KillAccount::new(config.oom_kill_group),
            counted_kills: BTreeMap::new(),
            counters_wanted: false,
            candidates: Vec::new(),
            resources: ResourceManager::new(config.resources.clone()),
            resource_candidates: Vec::new(),
            resource_conditions: BTreeSet::new(),
            resource_trouble: BTreeMap::new(),
            burstable: CgroupResources::default(),
            burstable_applied: None,
            config,
            pods: BTreeMap::new(),
            saved,
            rejected: BTreeMap::new(),
            spoken: BTreeSet::new(),
            swept: false,
            leftovers: Vec::new(),
            deleted: BTreeMap::new(),
            retries: Retries::default(),
            found: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            relisted: false,
            runtime_error: None,
            attribution: Attribution::default(),
            under_pressure: false,
            oom_begun: None,
            undecided: Vec::new(),
            told_signal_at: None,
            last_reading: None,
            kick: None,
            outbox: Vec::new(),
        }
    }

    /// Takes one event in. Nothing else changes the state but [`State::note`].
    pub fn apply(&mut self, event: Event, now: Mono) {
        let mut about_pods = !matches!(
            event,
            Event::Kernel(_)
                | Event::KernelSilent(_)
                | Event::Reading(_)
                | Event::Resources(_)
                | Event::Cgroups(_)
                | Event::Lifecycle(_)
                | Event::Tick
        );
        match event {
            Event::Pods(update) => self.apply_pod_update(update, now),
            Event::Relisted(pods) => self.apply_relist(&pods, now),
            Event::Lifecycle(event) => self.apply_lifecycle(&event, now),
            Event::Leftovers(uids) => self.apply_leftovers(uids, now),
            Event::Worker(report) => self.apply_worker_report(report, now),
            Event::Runtime(result) => self.apply_runtime(result, now),
            Event::Kernel(event) => self.apply_kernel_event(&event, now),
            Event::KernelSilent(why) => self.apply_kernel_silent(&why, now),
            Event::BrakeFailed { held, error } => self.apply_brake_failed(&held, error, now),
            Event::Cgroups(cgroups) => self.apply_cgroups(cgroups),
            Event::Reading(reading) => self.apply_reading(&reading, now),
            Event::Resources(answer) => self.apply_resources(answer, now),
            Event::Tick => {}
        }
        self.tell_unexplained_kills(now);
        self.update_pressure(now);
        self.update_resource_conditions(now);
        about_pods |= self.retry_failed(now);
        if about_pods {
            self.admit(now);
            self.refresh_active(now);
        }
    }

    /// What is derived from the set of active pods, and of what runs in them.
    fn refresh_active(&mut self, now: Mono) {
        let active = || self.pods.values().filter(|p| p.mode == Mode::Active);
        self.candidates = active().map(|p| p.candidate.clone()).collect();
        self.resource_candidates = active().map(|p| Arc::clone(&p.resource_candidate)).collect();
        self.burstable = class_cgroup_resources(QosClass::Burstable, active().map(|p| p.pod.as_ref()));
        self.refresh_limits(now);
    }

    /// When the loop must wake if nothing happens before.
    #[must_use]
    pub fn next_wakeup(&self) -> Mono {
        let pods = self.pods.values().filter_map(PodState::next_wakeup);
        let resources = self.knows_its_pods().then(|| self.resources.next_wakeup());
        pods.chain(self.kills.next_due())
            .chain(resources)
            .chain(self.retries.next_due())
            .fold(self.eviction.next_wakeup(), Mono::min)
    }

    pub fn pods(&self) -> impl Iterator<Item = &PodState> {
        self.pods.values()
    }

    #[must_use]
    pub fn pod(&self, uid: &PodUid) -> Option<&PodState> {
        self.pods.get(uid)
    }

    /// Pods that may be chosen for eviction: what the manager ranks.
    #[must_use]
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// What the Burstable class's cgroup should be given, when it has not been.
    #[must_use]
    pub fn burstable_due(&self) -> Option<CgroupResources> {
        (self.burstable_applied != Some(self.burstable)).then_some(self.burstable)
    }

    #[must_use]
    pub fn eviction(&self) -> &EvictionManager {
        &self.eviction
    }

    /// Whether the `oom_kill` counters of all pods are to be read now.
    #[must_use]
    pub const fn counters_wanted(&self) -> bool {
        self.counters_wanted
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
