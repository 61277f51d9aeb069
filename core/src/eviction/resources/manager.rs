//! The state machine for disks and process ids. Owns which thresholds are met since when, the evictions under way, and
//! what is due next. `plan` changes nothing; the SyncLoop tells what it did of a plan (`…_ordered`), and
//! what came of it. Planning again after that plans nothing until something happens.
//!
//! A pass, as kubelet's `synchronize`: read; pods beyond a limit of their own go; where a threshold counts, first the
//! node gives up what it can do without, then all pods are read, and if the threshold still counts one pod goes. When
//! nothing of it is left, the next pass begins at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::local_limits::exceeded;
use super::message::eviction_message;
use super::pressure::{self, PressureInfo, ThresholdState};
use super::ranking::{Ranked, rank};
use super::{
    Condition, PodScope, Resource, ResourceCandidate, ResourceConfig, ResourceEviction, ResourceReading,
    ResourceSignal, ResourceStep,
};
use crate::clock::Mono;
use crate::pod::PodUid;
use crate::reason::Reason;

/// kubelet's `immediateEvictionGracePeriodSeconds`: for hard thresholds and for limits of the pod's own.
const IMMEDIATE_GRACE: Duration = Duration::from_secs(1);

/// kubelet's `podCleanupTimeout`: so long after its grace a pod is not waited for any more.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(30);

/// kubelet's `ImageGCPeriod`.
const IMAGE_GC_PERIOD: Duration = Duration::from_secs(300);

/// Work that takes this long hangs in a file system or in the runtime, and someone should know.
const OVERDUE: Duration = Duration::from_secs(300);

/// One at a time: a disk that is slow gets no more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Read(PodScope),
    Reclaim(GivenUp),
    CollectImages,
}

/// Whether all pods are known that need images. Before that, for a source may be silent, none is removed that would be kept
/// by the next pass; a node that is short of room gives up those that no pod needs which was ever heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Images {
    Known,
    NotYetKnown,
}

/// What the node has given up in this pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum GivenUp {
    Nothing,
    DeadContainers,
    /// And dead containers.
    Images,
}

/// A pod that was told to stop and of which something is left.
#[derive(Clone, Copy, Debug)]
struct Evicting {
    grace_ends: Mono,
}

#[derive(Debug)]
pub struct ResourceManager {
    cfg: ResourceConfig,
    /// Hard ones first, then by signal.
    thresholds: Vec<ThresholdState>,
    conditions: BTreeMap<Condition, PressureInfo>,
    last: ResourceReading,
    /// A pass begins with a reading that was due, or with an eviction.
    given_up: GivenUp,
    /// All pods have been read since.
    all_read: bool,
    /// Something has come in that nothing was done about yet.
    undecided: bool,
    work: Option<(Work, Mono)>,
    /// That it takes too long has been told.
    overdue_told: bool,
    /// When a reading was last ordered.
    read_at: Option<Mono>,
    /// An evicted pod has gone: what that gave back is to be seen now.
    look_now: bool,
    images_at: Option<Mono>,
    evicting: BTreeMap<PodUid, Evicting>,
}

impl ResourceManager {
    #[must_use]
    pub fn new(cfg: ResourceConfig) -> Self {
        let mut thresholds: Vec<_> = cfg.thresholds.iter().cloned().map(ThresholdState::new).collect();
        thresholds.sort_by_key(|t| (!t.threshold.is_hard(), t.threshold.signal));
        ResourceManager {
            cfg,
            thresholds,
            conditions: BTreeMap::new(),
            last: ResourceReading::default(),
            given_up: GivenUp::Nothing,
            all_read: false,
            undecided: false,
            work: None,
            overdue_told: false,
            read_at: None,
            look_now: false,
            images_at: None,
            evicting: BTreeMap::new(),
        }
    }

    /// What there is of disks and process ids has been read.
    #[must_use]
    pub fn has_read(&self) -> bool {
        self.last.at > Mono::ZERO
    }

    /// Takes in fresh numbers.
    pub fn observe(&mut self, reading: ResourceReading) {
        let scope = match self.work.take() {
            Some((Work::Read(scope), _)) => scope,
            _ => PodScope::WithLimits,
        };
        for t in &mut self.thresholds {
            t.observe(reading.at, reading.observed(t.threshold.signal));
        }
        for condition in Condition::ALL {
            let thresholds = self.thresholds.iter().filter(|t| t.threshold.signal.condition() == condition);
            let before = self.conditions.remove(&condition);
            let period = self.cfg.transition_period;
            let now = pressure::condition(before, thresholds, reading.at, period);
            self.conditions.extend(now.map(|info| (condition, info)));
        }
        if scope == PodScope::WithLimits {
            self.begin_pass();
        }
        self.all_read = scope == PodScope::All;
        self.last = reading;
        self.undecided = true;
    }

    /// The node has given up what it could; or the images have been looked through.
    pub fn reclaimed(&mut self) {
        if let Some((Work::Reclaim(given_up), _)) = self.work.take() {
            self.given_up = given_up;
            self.all_read = false;
            self.undecided = true;
        }
    }

    fn begin_pass(&mut self) {
        self.given_up = GivenUp::Nothing;
        self.all_read = false;
    }

    /// What was ordered was not done.
    pub fn not_done(&mut self) {
        self.work = None;
        self.begin_pass();
        self.undecided = false;
    }

    /// The SyncLoop has ordered a reading.
    pub fn read_ordered(&mut self, scope: PodScope, now: Mono) {
        self.read_at = Some(now);
        self.look_now = false;
        self.ordered(Work::Read(scope), now);
    }

    pub fn reclaim_ordered(&mut self, images: bool, now: Mono) {
        let given_up = if images { GivenUp::Images } else { GivenUp::DeadContainers };
        self.ordered(Work::Reclaim(given_up), now);
    }

    pub fn images_ordered(&mut self, now: Mono) {
        self.images_at = Some(now);
        self.ordered(Work::CollectImages, now);
    }

    fn ordered(&mut self, work: Work, now: Mono) {
        self.work = Some((work, now));
        self.overdue_told = false;
    }

    /// The pod is told to stop within `grace`. Also for a pod whose eviction an earlier run of the agent had begun.
    pub fn eviction_ordered(&mut self, pod: &PodUid, grace: Duration, now: Mono) {
        self.evicting.insert(pod.clone(), Evicting { grace_ends: now + grace });
        self.begin_pass();
        self.undecided = false;
    }

    /// The pod has ended and its volumes are gone. Of pods that were not evicted this says nothing.
    pub fn cleaned_up(&mut self, pod: &PodUid) {
        self.look_now |= self.evicting.remove(pod).is_some();
    }

    #[must_use]
    pub fn is_evicting(&self, pod: &PodUid) -> bool {
        self.evicting.contains_key(pod)
    }

    /// `Some` while the node's condition is true: a threshold is met, hard or soft, or was within the transition period.
    #[must_use]
    pub fn condition(&self, condition: Condition, now: Mono) -> Option<PressureInfo> {
        let info = self.conditions.get(&condition).copied();
        info.filter(|p| now.since(p.last_met) < self.cfg.transition_period)
    }

    /// What was ordered hangs; told once.
    pub fn newly_overdue(&mut self, now: Mono) -> bool {
        let overdue = self.work.is_some_and(|(_, since)| now.since(since) >= OVERDUE);
        overdue && !std::mem::replace(&mut self.overdue_told, true)
    }

    /// Pods are held to limits of their own.
    #[must_use]
    pub const fn holds_to_limits(&self) -> bool {
        self.cfg.local_limits && self.cfg.enabled
    }

    /// When `plan` has to be called again if nothing happens before.
    #[must_use]
    pub fn next_wakeup(&self, images: Images) -> Mono {
        if let Some((_, since)) = self.work {
            // The answer comes as an event.
            return if self.overdue_told { Mono(u64::MAX) } else { since + OVERDUE };
        }
        let due = match images {
            Images::Known => self.read_due().min(self.images_due()),
            Images::NotYetKnown => self.read_due(),
        };
        // Only where it would be acted on: any other time would keep the loop awake.
        let begins = !self.all_read && self.given_up == GivenUp::Nothing;
        let decides = self.undecided && begins && self.evicting.is_empty();
        let soft = self.thresholds.iter().filter(|_| decides).filter_map(|t| t.counts_from());
        soft.fold(due, Mono::min)
    }

    fn read_due(&self) -> Mono {
        let due = self.read_at.map_or(Mono::ZERO, |at| at + self.cfg.interval);
        if self.look_now { Mono::ZERO } else { due }
    }

    fn images_due(&self) -> Mono {
        self.images_at.map_or(Mono::ZERO, |at| at + IMAGE_GC_PERIOD)
    }

    /// What to do now. `candidates` are the pods that run and that an eviction would stop.
    #[must_use]
    pub fn plan(
        &self,
        candidates: &[Arc<ResourceCandidate>],
        images: Images,
        now: Mono,
    ) -> Vec<ResourceStep> {
        if self.work.is_some() {
            return Vec::new();
        }
        if self.undecided {
            let steps = self.decide(candidates, now);
            if !steps.is_empty() {
                return steps;
            }
        }
        if now >= self.read_due() {
            vec![ResourceStep::Read { why: Reason::SampleDue, scope: PodScope::WithLimits }]
        } else if images == Images::Known && now >= self.images_due() {
            vec![ResourceStep::CollectImages]
        } else {
            Vec::new()
        }
    }

    fn decide(&self, candidates: &[Arc<ResourceCandidate>], now: Mono) -> Vec<ResourceStep> {
        let beyond = self.beyond_their_limits(candidates);
        if !beyond.is_empty() {
            return beyond;
        }
        let Some(threshold) = self.thresholds.iter().find(|t| t.counts(now)) else { return Vec::new() };
        // One eviction at a time: first it is to be seen what the last one gives back.
        if self.evicting.values().any(|e| now < e.grace_ends + CLEAN_UP_TIMEOUT) {
            return Vec::new();
        }
        let needed = self.needed(threshold.threshold.signal);
        let step = if self.given_up < needed {
            Some(ResourceStep::ReclaimNode { images: needed == GivenUp::Images })
        } else if !self.all_read {
            Some(ResourceStep::Read { why: Reason::ThresholdMet, scope: PodScope::All })
        } else {
            self.victim(candidates, threshold).map(ResourceStep::Evict)
        };
        step.into_iter().collect()
    }

    /// What has to be given up before a pod goes. With an imagefs of its own, nodefs gets nothing back from an image.
    fn needed(&self, signal: ResourceSignal) -> GivenUp {
        match signal {
            ResourceSignal::PidAvailable => GivenUp::Nothing,
            ResourceSignal::ImagefsAvailable | ResourceSignal::ImagefsInodesFree => GivenUp::Images,
            ResourceSignal::NodefsAvailable | ResourceSignal::NodefsInodesFree if self.last.shared => {
                GivenUp::Images
            }
            ResourceSignal::NodefsAvailable | ResourceSignal::NodefsInodesFree => GivenUp::DeadContainers,
        }
    }

    fn eligible<'a>(
        &'a self,
        candidates: &'a [Arc<ResourceCandidate>],
    ) -> impl Iterator<Item = &'a Arc<ResourceCandidate>> {
        candidates.iter().filter(|c| !c.critical && !self.is_evicting(&c.pod.uid))
    }

    fn beyond_their_limits(&self, candidates: &[Arc<ResourceCandidate>]) -> Vec<ResourceStep> {
        if !self.holds_to_limits() {
            return Vec::new();
        }
        let beyond = self.eligible(candidates).filter_map(|candidate| {
            let used = self.last.pods.get(&candidate.pod.uid)?;
            let exceeded = exceeded(candidate, used, self.last.shared)?;
            Some(ResourceStep::Evict(Box::new(ResourceEviction {
                pod: candidate.pod.clone(),
                grace: IMMEDIATE_GRACE.min(candidate.grace_period),
                reason: Reason::LocalStorageLimitExceeded,
                signal: None,
                message: exceeded.message,
                read_at: self.last.at,
                numbers: vec![
                    ("pod_usage_bytes", exceeded.usage_bytes),
                    ("pod_limit_bytes", exceeded.limit_bytes),
                ],
            })))
        });
        beyond.collect()
    }

    fn victim(
        &self,
        candidates: &[Arc<ResourceCandidate>],
        threshold: &ThresholdState,
    ) -> Option<Box<ResourceEviction>> {
        if !self.cfg.enabled {
            return None;
        }
        let ThresholdState { threshold, newest: Some(observed), .. } = threshold else { return None };
        let ranked = rank(self.eligible(candidates), threshold.signal, &self.last);
        let Ranked { candidate, usage, request } = *ranked.first()?;
        let used = self.last.pods.get(&candidate.pod.uid);
        let names = match threshold.signal.resource() {
            Resource::EphemeralStorage => [
                "threshold_bytes",
                "available_bytes",
                "capacity_bytes",
                "pod_usage_bytes",
                "pod_request_bytes",
            ],
            Resource::Inodes => {
                ["threshold_inodes", "free_inodes", "capacity_inodes", "pod_inodes", "pod_request_inodes"]
            }
            Resource::Pids => {
                ["threshold_pids", "available_pids", "limit_pids", "pod_pids", "pod_request_pids"]
            }
        };
        let values = [observed.threshold, observed.available, observed.capacity, usage, request];
        let bytes = threshold.signal.resource() == Resource::EphemeralStorage;
        Some(Box::new(ResourceEviction {
            pod: candidate.pod.clone(),
            grace: self.grace(candidate, threshold.is_hard()),
            reason: Reason::ThresholdMet,
            signal: Some(threshold.signal),
            message: eviction_message(candidate, threshold, *observed, used),
            read_at: self.last.at,
            // There are requests of bytes alone.
            numbers: names.into_iter().zip(values).take(if bytes { 5 } else { 4 }).collect(),
        }))
    }

    /// Never more than the pod's own.
    fn grace(&self, candidate: &ResourceCandidate, hard: bool) -> Duration {
        let most = self.cfg.max_pod_grace;
        match hard {
            true => candidate.grace_period.min(IMMEDIATE_GRACE),
            false if most.is_zero() => candidate.grace_period,
            false => candidate.grace_period.min(most),
        }
    }
}

#[cfg(test)]
mod tests;
