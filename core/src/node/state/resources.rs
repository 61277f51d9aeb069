//! Disks, process ids and images, in relation to pods: what is to be read, what may go, and what was decided.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::pod::Outstanding;
use super::{Mode, PodState, State};
use crate::clock::Mono;
use crate::eviction::resources::pressure::PressureInfo;
use crate::eviction::resources::reading::{QueriedPod, Reclaim, Reclaimed};
use crate::eviction::resources::{
    Condition, Images, PodScope, Resource, ResourceAnswer, ResourceCandidate, ResourceEviction,
    ResourceManager, ResourceOrder, ResourceQuery, ResourceSignal,
};
use crate::node::action::ResourceAction;
use crate::node::published::Failure;
use crate::pod::spec::all_containers;
use crate::reason::Reason;
use crate::trace::record::{Kind, Record};

/// What there may be trouble with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doing {
    Reading,
    Removing,
}

impl State {
    #[must_use]
    pub const fn resources(&self) -> &ResourceManager {
        &self.resources
    }

    /// Pods that may be chosen for eviction.
    #[must_use]
    pub fn resource_candidates(&self) -> &[Arc<ResourceCandidate>] {
        self.pods.resource_candidates()
    }

    /// DiskPressure and PIDPressure, as admission sees them.
    #[must_use]
    pub const fn resource_conditions(&self) -> &BTreeSet<Condition> {
        &self.conditions.resources
    }

    /// All sources and the runtime have spoken. Before that nobody knows what is not wanted.
    #[must_use]
    pub fn knows_its_pods(&self) -> bool {
        self.sources_ready() && self.relisted
    }

    /// Disks are read, and pods evicted for them, whoever is silent; only the regular look at images waits.
    pub(in crate::node) fn images_in_use(&self) -> Images {
        if self.knows_its_pods() { Images::Known } else { Images::NotYetKnown }
    }

    /// What a reading is to take in.
    #[must_use]
    pub fn resource_query(&self, scope: PodScope) -> ResourceQuery {
        let limits = self.resources.holds_to_limits();
        let asked = |p: &&PodState| {
            p.mode == Mode::Active
                && match scope {
                    PodScope::All => true,
                    PodScope::WithLimits => limits && p.resource_candidate.has_limits(),
                }
        };
        let pods: Vec<&PodState> = self.pods.values().filter(asked).collect();
        ResourceQuery {
            scope,
            writable_layers: match scope {
                PodScope::All => true,
                PodScope::WithLimits => pods.iter().any(|p| p.resource_candidate.has_container_limits()),
            },
            pods: pods.into_iter().map(queried).collect(),
        }
    }

    /// What the node can do without.
    #[must_use]
    pub fn reclaim(&self, images: bool) -> Reclaim {
        let finished = self.pods.values().filter(|p| {
            matches!(
                p.mode,
                Mode::Evicted { stopped: true, .. }
                    | Mode::Completed { stopped: true, .. }
                    | Mode::Rejected(_)
            )
        });
        Reclaim { finished: finished.map(|p| p.id.clone()).collect(), images, named: self.images_named() }
    }

    /// Images of pods that run or will. kubelet keeps only those that containers have; one that is about to be used
    /// must not be pulled again, or be missed where it may not be pulled. What the last run of the agent knew and a silent
    /// source has not named yet will run, too.
    #[must_use]
    pub fn images_named(&self) -> BTreeSet<String> {
        let will_run = |p: &PodState| match &p.mode {
            Mode::Active | Mode::Pending => true,
            // They are tried again.
            Mode::Evicted { failure, .. } => p.is_static() && !failure.is_overdue(),
            Mode::Rejected(_) => p.is_static(),
            Mode::Completed { .. } | Mode::Removing { .. } | Mode::Removed => false,
        };
        let pods = self.pods.values().filter(|p| will_run(p)).map(|p| p.pod.as_ref());
        let unnamed = self.saved.values().map(|saved| &saved.pod).filter(|_| !self.sources_ready());
        let specs = pods.chain(unnamed).filter_map(|pod| pod.spec.as_ref());
        specs
            .flat_map(|spec| {
                let usual = all_containers(spec).filter_map(|c| c.image.clone());
                usual.chain(spec.ephemeral_containers.iter().flatten().filter_map(|c| c.image.clone()))
            })
            .collect()
    }

    pub(super) fn apply_resources(&mut self, answer: ResourceAnswer, now: Mono) {
        match answer {
            ResourceAnswer::Reading(reading) => {
                self.tell_resource_trouble(Doing::Reading, &reading.trouble, now);
                self.resources.observe(*reading);
            }
            ResourceAnswer::Reclaimed(done) => {
                self.tell_resource_trouble(Doing::Removing, &done.trouble, now);
                self.tell_reclaimed(&done, now);
                self.resources.reclaimed();
            }
            ResourceAnswer::NotDone(why) => {
                self.tell_resource_trouble(Doing::Reading, &[why], now);
                self.resources.not_done();
            }
        }
    }

    /// Each once, until it is over.
    fn tell_resource_trouble(&mut self, doing: Doing, trouble: &[String], now: Mono) {
        let told = self.conditions.trouble.insert(doing, trouble.to_vec()).unwrap_or_default();
        for line in trouble.iter().filter(|line| !told.contains(line)) {
            self.record(Record::new(now, Kind::Warning, Reason::ResourcesUnreadable, line.clone()));
        }
    }

    fn tell_reclaimed(&mut self, done: &Reclaimed, now: Mono) {
        if done.containers + done.images == 0 {
            return;
        }
        let message = format!(
            "{} dead containers and {} images that nobody uses are removed",
            done.containers, done.images
        );
        let record = Record::new(now, Kind::Node, Reason::GarbageCollection, message)
            .domain("node")
            .number("containers", done.containers)
            .number("images", done.images)
            .number("image_bytes", done.image_bytes);
        self.record(record);
    }

    pub(super) fn note_resources(&mut self, action: &ResourceAction, now: Mono) {
        match action {
            ResourceAction::Order(ResourceOrder::Read(query)) => {
                self.resources.read_ordered(query.scope, now);
            }
            ResourceAction::Order(ResourceOrder::Reclaim(reclaim)) => {
                self.resources.reclaim_ordered(reclaim.images, now);
            }
            ResourceAction::Order(ResourceOrder::CollectImages { .. }) => self.resources.images_ordered(now),
            ResourceAction::Evict { eviction, .. } => self.note_resource_eviction(eviction, now),
        }
    }

    fn note_resource_eviction(&mut self, eviction: &ResourceEviction, now: Mono) {
        let Some(mut pod) = self.pods.get_mut(&eviction.pod.uid) else { return };
        let reason = match eviction.signal {
            Some(_) => Reason::Evicted,
            None => Reason::LocalStorageLimitExceeded,
        };
        pod.mode = Mode::Evicted {
            failure: Failure { reason, message: eviction.message.clone(), disruption: true },
            grace: eviction.grace,
            stopped: false,
        };
        pod.outstanding = Outstanding::Terminate;
        pod.next_sync = None;
        pod.unsaved = true;
        drop(pod);
        let within = self.kill_within(&eviction.pod.uid, eviction.grace);
        self.resources.eviction_ordered(&eviction.pod.uid, within, now);
        let record = Record::new(now, Kind::Decision, eviction.reason, eviction.message.clone())
            .pod(&eviction.pod)
            .domain(if eviction.signal.is_some() { "node" } else { "pod" })
            .signal(eviction.signal.map_or("ephemeralpodfs.limit", ResourceSignal::as_str))
            .number("grace_ms", eviction.grace.as_millis())
            .number("read_to_decision_us", now.since(eviction.read_at).as_micros());
        let record = eviction.numbers.iter().fold(record, |r, (name, value)| r.number(name, *value));
        self.record(record);
    }

    pub(super) fn update_resource_conditions(&mut self, now: Mono) {
        for condition in Condition::ALL {
            let info = self.resources.condition(condition, now);
            let (begins, ends) = condition.reasons();
            let (reason, message) = match info {
                Some(info) if self.conditions.resources.insert(condition) => (begins, met(&info)),
                None if self.conditions.resources.remove(&condition) => {
                    self.retries.look_again();
                    let period = self.config.resources.transition_period;
                    (ends, format!("no such pressure for {} s", period.as_secs()))
                }
                _ => continue,
            };
            self.record(Record::new(now, Kind::Node, reason, message).domain("node"));
        }
        if self.resources.newly_overdue(now) {
            let message = "reading or clearing up the node's disks hangs: nothing is done about disks and process ids; a \
                           file system or the container runtime does not answer";
            self.record(Record::new(now, Kind::Warning, Reason::ResourcesUnreadable, message));
        }
    }
}

fn queried(pod: &PodState) -> QueriedPod {
    QueriedPod {
        pod: pod.id.clone(),
        qos: pod.candidate.qos,
        empty_dirs: pod.resource_candidate.empty_dirs.iter().map(|dir| dir.name.clone()).collect(),
    }
}

fn met(info: &PressureInfo) -> String {
    let PressureInfo { signal, available, threshold, .. } = *info;
    match signal.resource() {
        Resource::EphemeralStorage => {
            format!("{signal} is {} MiB, below {} MiB", available >> 20, threshold >> 20)
        }
        Resource::Inodes | Resource::Pids => format!("{signal} is {available}, below {threshold}"),
    }
}
