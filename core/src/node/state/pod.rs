//! One pod's part of the state.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;

use crate::clock::Mono;
use crate::eviction::resources::ResourceCandidate;
use crate::eviction::{Candidate, ContainerUse};
use crate::node::event::{PodSource, SourcePod};
use crate::node::published::{Failure, PublishedPod};
use crate::pod::containers::{Containers, ListedContainer, ListedSandbox};
use crate::pod::order::ContainerWaiting;
use crate::pod::probe::ProbeResults;
use crate::pod::runtime_status::{ContainerState, PodRuntimeStatus};
use crate::pod::spec::grace_period;
use crate::pod::{Pod, PodRef, qos};
use crate::reason::Reason;
use crate::trace::record::{Kind, Record};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not admitted yet: the runtime has not been listed, a pod of the same name has not ended, or one that is still
    /// ending has what this one needs.
    Pending,
    /// Admitted, to be kept as its manifest says.
    Active,
    /// Refused; Failed without having run. A static pod is tried again, see [`super::retry`].
    Rejected(Failure),
    /// Ended, or being ended, by eviction, or because its time was over; Failed. A static pod that was evicted comes back,
    /// see [`super::retry`].
    Evicted { failure: Failure, grace: Duration, stopped: bool },
    /// Ended by itself.
    Completed { succeeded: bool, stopped: bool },
    /// No longer wanted.
    Removing { reason: Reason },
    /// Nothing is left of it on the node.
    Removed,
}

impl Mode {
    /// Its containers may be running: it counts for admission and can be a victim or a culprit.
    #[must_use]
    pub const fn may_hold_memory(&self) -> bool {
        match self {
            Mode::Active | Mode::Removing { .. } => true,
            Mode::Evicted { stopped, .. } => !*stopped,
            Mode::Pending | Mode::Rejected(_) | Mode::Completed { .. } | Mode::Removed => false,
        }
    }

    /// It is being ended, and what it has will be free.
    pub(super) const fn is_ending(&self) -> bool {
        matches!(self, Mode::Removing { .. } | Mode::Removed | Mode::Evicted { stopped: false, .. })
    }

    pub(in crate::node) const fn termination_reason(&self) -> Reason {
        match self {
            Mode::Evicted { failure, .. } => failure.reason,
            Mode::Removing { reason } => *reason,
            _ => Reason::PodCompleted,
        }
    }
}

#[derive(Clone, Debug)]
pub struct PodState {
    pub id: PodRef,
    pub pod: Arc<Pod>,
    pub mode: Mode,
    /// What eviction must know of it, from the manifest.
    pub candidate: Candidate,
    /// The same for disks and process ids.
    pub resource_candidate: Arc<ResourceCandidate>,
    /// What its manifest requests, worked out once.
    pub(super) requests: qos::Amounts,
    /// Who names it; `None`: nobody, it was found on the node.
    pub source: Option<PodSource>,
    /// The manifest it came from, see [`SourcePod::path`].
    pub path: Option<PathBuf>,
    /// As in [`SourcePod::own_uid`].
    pub(super) own_uid: bool,
    /// Its source has ceased to name it while it was ending.
    pub(super) unnamed: bool,
    /// Its source names another pod of its name instead, which has not been admitted yet: this one runs until then.
    pub(super) superseded: bool,
    /// Why it was refused, or evicted, before it is tried again, or removed.
    pub(super) refused: Option<Failure>,
    /// What it is waiting for, as it was last told.
    pub(super) waits_for: Option<String>,
    /// Since when its present run goes on.
    pub(super) admitted_at: Option<Mono>,
    /// Found in the runtime or on disk, wanted by nobody: has no manifest of its own.
    pub orphan: bool,
    pub containers: Containers,
    pub waiting: Vec<ContainerWaiting>,
    /// Its containers' cgroups are to be looked up again.
    pub cgroups_stale: bool,
    /// What everybody outside sees of it may have changed.
    pub unsaved: bool,
    /// What was published of it last, or is to be.
    pub(super) published: Option<Arc<PublishedPod>>,
    /// It is wanted (again) while it is being removed: it starts anew once it is gone.
    pub(super) comes_back: Option<(PodSource, SourcePod)>,
    pub(super) sync_wanted: Option<Reason>,
    /// PLEG has seen something of it that its worker has not.
    pub(super) listed_news: bool,
    /// As its worker read the pod last, there was nothing to be done for it.
    pub(super) settled: bool,
    pub(super) next_sync: Option<(Mono, Reason)>,
    /// It may be active until then, see [`super::deadline`].
    pub(super) deadline_at: Option<Mono>,
    pub(super) outstanding: Outstanding,
    pub(super) watched_pids: BTreeSet<u32>,
    /// Containers whose OOM kill has been told, until the runtime reports their exit.
    pub(super) oom_told: BTreeSet<String>,
    /// Ids of containers in which the kernel killed a process: the runtime does not always say so.
    pub(super) oom_killed: BTreeSet<String>,
    /// Ids of containers that were stopped before they reached their memory limit, and what their status says of it.
    pub(super) forestalled: BTreeMap<String, String>,
    /// Verdicts on its containers.
    pub probes: ProbeResults,
    /// The status as it was last published or, at first, saved: keeps start time and times of conditions.
    pub(super) status: Option<Arc<PodStatus>>,
    /// Last error told, so that a repeating one is told once.
    pub(super) last_error: Option<String>,
}

/// What the worker has been ordered and has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outstanding {
    Nothing,
    Sync,
    Terminate,
}

impl PodState {
    /// `critical`: never evicted, whatever its priority.
    pub(super) fn new(
        pod: Arc<Pod>,
        source: Option<PodSource>,
        path: Option<PathBuf>,
        critical: bool,
    ) -> PodState {
        PodState {
            id: PodRef::of(&pod),
            candidate: candidate(&pod, critical),
            resource_candidate: Arc::new(resource_candidate(&pod, critical)),
            requests: qos::pod_requests(&pod),
            pod,
            mode: Mode::Pending,
            source,
            path,
            own_uid: false,
            unnamed: false,
            superseded: false,
            refused: None,
            waits_for: None,
            admitted_at: None,
            orphan: false,
            containers: Containers::default(),
            waiting: Vec::new(),
            cgroups_stale: false,
            unsaved: true,
            published: None,
            comes_back: None,
            sync_wanted: None,
            listed_news: false,
            settled: false,
            next_sync: None,
            deadline_at: None,
            outstanding: Outstanding::Nothing,
            watched_pids: BTreeSet::new(),
            oom_told: BTreeSet::new(),
            oom_killed: BTreeSet::new(),
            forestalled: BTreeMap::new(),
            probes: ProbeResults::default(),
            status: None,
            last_error: None,
        }
    }

    /// Its manifest is now this one; its UID, name and QoS class are as before.
    pub(super) fn set_pod(&mut self, pod: Arc<Pod>, critical: bool) {
        self.candidate = candidate(&pod, critical);
        self.resource_candidate = Arc::new(resource_candidate(&pod, critical));
        self.requests = qos::pod_requests(&pod);
        self.pod = pod;
        self.unsaved = true;
    }

    #[must_use]
    pub fn is_static(&self) -> bool {
        self.source.is_some_and(PodSource::is_static)
    }

    pub(super) fn has_name_of(&self, other: &PodRef) -> bool {
        self.id.name == other.name && self.id.namespace == other.namespace && self.id.uid != other.uid
    }

    /// The reason to sync an active pod now, if there is one and the worker is free.
    #[must_use]
    pub fn sync_due(&self, now: Mono) -> Option<Reason> {
        if self.outstanding != Outstanding::Nothing {
            return None;
        }
        let listed = self.listed_news.then_some(Reason::PodLifecycleEvent);
        let timer = self.next_sync.filter(|(at, _)| *at <= now).map(|(_, why)| why);
        self.sync_wanted.or(listed).or(timer)
    }

    /// Whether an ending pod's worker must be told (again).
    #[must_use]
    pub fn termination_due(&self, now: Mono) -> bool {
        let stopped =
            matches!(self.mode, Mode::Evicted { stopped: true, .. } | Mode::Completed { stopped: true, .. });
        // Also a stopped one, when what came after the stop failed.
        let due = self.next_sync.map_or(!stopped, |(at, _)| at <= now);
        due && self.outstanding != Outstanding::Terminate
    }

    /// What it is given to end: of a pod that is to be deleted, what the deletion says.
    #[must_use]
    pub fn grace_period(&self) -> Duration {
        let meta = &self.pod.metadata;
        let of_deletion = meta.deletion_timestamp.as_ref().and(meta.deletion_grace_period_seconds);
        of_deletion.map_or(self.candidate.grace_period, |seconds| {
            Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        })
    }

    /// What everybody outside sees of it.
    #[must_use]
    pub const fn published(&self) -> Option<&Arc<PublishedPod>> {
        self.published.as_ref()
    }

    /// The kernel killed a process of the container that runs under this name.
    pub(super) fn note_oom_kill(&mut self, container: &str) {
        self.oom_told.insert(container.to_owned());
        if let Some(c) = self.containers.newest(container) {
            self.oom_killed.insert(c.id.clone());
        }
        self.unsaved = true;
    }

    /// PLEG's last list of its containers.
    pub(super) fn note_listed(&mut self, listed: Vec<ListedContainer>, sandboxes: Vec<ListedSandbox>) {
        self.containers.set_listed_sandboxes(sandboxes);
        if self.containers.set_listed(listed) {
            self.cgroups_stale |= self.mode.may_hold_memory();
        }
    }

    /// PLEG has told of a change. Where the worker is idle, has read the same and had nothing to do for it, it is no news.
    pub(super) fn note_change(&mut self) {
        let known = self.outstanding == Outstanding::Nothing && self.settled;
        self.listed_news |= !(known && self.containers.is_read_as_listed());
    }

    /// Its worker has read, and done what was to be done. `settled`: as it read the pod last, nothing was. Where PLEG lists
    /// the same it need not be read again before PLEG, which lists all pods with two calls, tells of a change.
    pub(super) fn note_synced(&mut self, settled: bool) {
        self.outstanding = Outstanding::Nothing;
        self.settled = settled;
        if settled && self.containers.is_read_as_listed() {
            self.listed_news = false;
            self.next_sync = None;
        }
    }

    /// It is not wanted any more.
    pub(super) fn remove(&mut self, reason: Reason) {
        if let Mode::Evicted { failure, .. } = &self.mode {
            self.refused = Some(failure.clone());
        }
        self.mode = Mode::Removing { reason };
        self.outstanding = Outstanding::Nothing;
        self.next_sync = None;
        self.last_error = None;
        self.unsaved = true;
    }

    /// What failed may succeed now: it is not waited for longer.
    pub(super) fn retry_now(&mut self) {
        if matches!(self.next_sync, Some((_, Reason::RetryAfterError))) {
            self.next_sync = Some((Mono::ZERO, Reason::RetryAfterError));
        }
    }

    /// Containers that the runtime newly reports as OOMKilled and of whose kill nothing was told yet.
    pub(super) fn untold_oom_kills(&mut self, new: &PodRuntimeStatus) -> Vec<String> {
        let was = |id: &str| self.containers.read().iter().find(|c| c.id == id).map(|c| c.state);
        let exited = new.containers.iter().filter(|c| {
            c.state == ContainerState::Exited && was(&c.id).is_some_and(|s| s != ContainerState::Exited)
        });
        let killed: Vec<String> =
            exited.filter(|c| c.reason == "OOMKilled").map(|c| c.name.clone()).collect();
        killed.into_iter().filter(|name| !self.oom_told.remove(name)).collect()
    }

    /// All containers have ended; the record to make of it.
    pub(super) fn stopped(&mut self, at: Mono, took: Duration, killed: bool) -> Option<Record> {
        let kind = match &mut self.mode {
            Mode::Evicted { stopped, .. } => {
                *stopped = true;
                Kind::Eviction
            }
            Mode::Completed { stopped, .. } => {
                *stopped = true;
                return None;
            }
            // Clean-up follows, and `Removed` with it.
            Mode::Removing { .. } => Kind::Pod,
            Mode::Pending | Mode::Active | Mode::Rejected(_) | Mode::Removed => return None,
        };
        if self.orphan && self.containers.read().is_empty() {
            return None;
        }
        let how = if killed { "SIGKILL was needed" } else { "they ended by themselves" };
        let message = format!("all containers have stopped; {how}");
        let record = Record::new(at, kind, self.mode.termination_reason(), message);
        Some(record.number("took_ms", took.as_millis()).number("sigkill", i64::from(killed)))
    }

    /// Only a time at which the plan has something to do: any other would keep the loop awake.
    pub(super) fn next_wakeup(&self) -> Option<Mono> {
        let free = match self.mode {
            Mode::Active => self.outstanding == Outstanding::Nothing,
            Mode::Evicted { .. } | Mode::Completed { .. } | Mode::Removing { .. } => {
                self.outstanding != Outstanding::Terminate
            }
            Mode::Pending | Mode::Rejected(_) | Mode::Removed => false,
        };
        let sync = self.next_sync.filter(|_| free).map(|(at, _)| at);
        let over = self.deadline_at.filter(|_| self.mode == Mode::Active);
        sync.into_iter().chain(over).min()
    }

    /// Init processes that the eBPF program does not watch yet.
    pub fn unwatched_pids(&self) -> impl Iterator<Item = u32> {
        self.running_pids().filter(|pid| !self.watched_pids.contains(pid))
    }

    pub(super) fn running_pids(&self) -> impl Iterator<Item = u32> {
        self.containers.read().iter().filter(|c| c.state == ContainerState::Running).filter_map(|c| c.pid)
    }
}

fn resource_candidate(pod: &Pod, critical: bool) -> ResourceCandidate {
    let of_manifest = ResourceCandidate::of(pod);
    ResourceCandidate { critical: critical || of_manifest.critical, ..of_manifest }
}

fn candidate(pod: &Pod, critical: bool) -> Candidate {
    let spec = pod.spec.as_ref();
    let containers = spec.iter().flat_map(|s| &s.containers).map(|c| ContainerUse {
        name: c.name.clone(),
        memory_request_bytes: qos::container_requests(c).memory_bytes,
        // The manager knows each container's use from its own readings.
        usage_bytes: None,
    });
    Candidate {
        pod: PodRef::of(pod),
        priority: qos::priority(pod),
        critical: critical || qos::is_critical(pod),
        memory_request_bytes: qos::pod_requests(pod).memory_bytes,
        grace_period: grace_period(pod),
        qos: qos::QosClass::of(pod),
        containers: containers.collect(),
    }
}
