//! The eviction manager: a state machine that the SyncLoop drives. Owns the forecasts of node, `kubepods` and pods,
//! which thresholds are met since when, the evictions under way, and when the next numbers are due. Reads
//! [`KernelEvent`]s (as hints) and [`MemoryReading`]s; emits [`EvictionStep`]s by `plan`, which changes nothing.
//!
//! The SyncLoop tells what it did of a plan: [`EvictionManager::read_ordered`], [`EvictionManager::eviction_ordered`],
//! [`EvictionManager::grace_cut`]. Planning again after that plans nothing until something happens.
//!
//! - `plan`: decisions. - `sampling`: when to read. - `pressure`: thresholds and the MemoryPressure condition.
//! - `grace`: whether an evicted pod's grace can last, and who is to be held for it. - `holds`: who is.
//! - `limits`: containers that are stopped before they reach their own limit.

mod freed;
mod grace;
mod holds;
mod limits;
mod plan;
mod pressure;
mod sampling;

use std::collections::BTreeMap;
use std::time::Duration;

pub use freed::Freed;
pub use limits::LimitedContainer;
pub use pressure::PressureInfo;

use super::psi::Stalls;
use super::threshold::Signal;
use super::{EvictionConfig, ReadScope};
use crate::brake::{Brakes, Held};
use crate::clock::Mono;
use crate::forecast::time_to_free::TimeToFree;
use crate::forecast::{DomainForecast, Forecast};
use crate::pod::{PodRef, PodUid};
use crate::signal::window::Growth;
use crate::signal::{Domain, DomainReading, KernelEvent, KernelEventKind, MemoryReading};
use freed::FreedMemory;
use limits::Limits;
use pressure::ThresholdState;

#[derive(Debug)]
pub struct EvictionManager {
    cfg: EvictionConfig,
    node: TopDomain,
    kubepods: TopDomain,
    pods: BTreeMap<PodUid, PodNumbers>,
    /// Containers' working sets as of the last reading of all pods.
    containers: BTreeMap<(PodUid, String), u64>,
    /// When the newest numbers were read: of node and `kubepods`, and of all pods.
    top_at: Option<Mono>,
    pods_at: Option<Mono>,
    /// The last reading of all pods was asked for in order to decide, and has not been decided on.
    pods_for_decision: bool,
    /// The kernel event behind the newest reading.
    caused_by: Option<Mono>,
    thresholds: Vec<ThresholdState>,
    pressure: Option<PressureInfo>,
    hint: Option<Hint>,
    asked: Option<Asked>,
    evicting: BTreeMap<PodUid, Evicting>,
    /// When the last evicted pod had stopped: numbers from before that say nothing about what is still to be done.
    last_stopped: Option<Mono>,
    time_to_free: TimeToFree,
    brakes: Brakes,
    stalls: Stalls,
    freed_memory: FreedMemory,
    limits: Limits,
}

/// The node or `kubepods`.
#[derive(Debug, Default)]
struct TopDomain {
    forecast: DomainForecast,
    /// Growth at the instants of the pods' readings only, to be compared with theirs.
    with_pods: Growth,
    /// The last reading that was taken in, and when.
    last: Option<DomainReading>,
    read_at: Option<Mono>,
    /// What thresholds are held against, and when it was read.
    available: Option<(u64, Mono)>,
}

impl TopDomain {
    /// Limit, what is available of it, and when that was read.
    fn available(&self) -> Option<(u64, u64, Mono)> {
        let (bytes, at) = self.available?;
        Some((self.last.as_ref()?.limit_bytes?, bytes, at))
    }
}

#[derive(Debug)]
struct PodNumbers {
    forecast: DomainForecast,
    working_set_bytes: u64,
}

/// Kernel events that no reading has answered yet.
#[derive(Clone, Copy, Debug)]
struct Hint {
    earliest: Mono,
    latest: Mono,
    urgent: bool,
}

/// A reading under way.
#[derive(Clone, Copy, Debug)]
struct Asked {
    scope: ReadScope,
    /// It has containers and pods that are near their limits, and not all of them.
    limits: bool,
    at: Mono,
    /// There was something to decide when it was asked for.
    to_decide: bool,
}

/// A pod that was told to stop and has not yet.
#[derive(Clone, Debug)]
struct Evicting {
    pod: PodRef,
    ordered_at: Mono,
    grace: Duration,
    cut_at: Option<Mono>,
    /// It cannot be held: its grace is cut instead.
    no_brake: bool,
}

impl EvictionManager {
    #[must_use]
    pub fn new(cfg: EvictionConfig) -> Self {
        EvictionManager {
            thresholds: cfg.thresholds.iter().cloned().map(ThresholdState::new).collect(),
            stalls: Stalls::new(cfg.psi),
            freed_memory: FreedMemory::default(),
            cfg,
            node: TopDomain::default(),
            kubepods: TopDomain::default(),
            pods: BTreeMap::new(),
            containers: BTreeMap::new(),
            top_at: None,
            pods_at: None,
            pods_for_decision: false,
            caused_by: None,
            pressure: None,
            hint: None,
            asked: None,
            evicting: BTreeMap::new(),
            last_stopped: None,
            time_to_free: TimeToFree::default(),
            brakes: Brakes::default(),
            limits: Limits::default(),
        }
    }

    /// The growth programs were loaded or lost: how fast memory may be used up without an event telling of it.
    pub fn set_assumed_max_rate(&mut self, bytes_per_s: u64) {
        self.cfg.assumed_max_rate_bytes_per_s = bytes_per_s;
    }

    /// A hint that fresh numbers are needed; never by itself a reason to evict. Events that the newest reading
    /// already covers, and those that say nothing about memory running out, change nothing.
    pub fn observe_kernel_event(&mut self, ev: &KernelEvent) {
        let urgent = match ev.kind {
            // The kernel is at its last resort, or past it: whatever is known is out of date.
            KernelEventKind::OomKill(_)
            | KernelEventKind::OomBegin(_)
            | KernelEventKind::ReclaimRetry { .. } => true,
            KernelEventKind::MemcgReclaim { .. }
            | KernelEventKind::DirectReclaim { .. }
            | KernelEventKind::KswapdWake { .. }
            | KernelEventKind::Growth { .. }
            | KernelEventKind::LimitReclaim { .. }
            | KernelEventKind::OverHigh { .. }
            | KernelEventKind::Throttled { .. }
            | KernelEventKind::ChargeForecast { .. }
            | KernelEventKind::Lost { .. } => false,
            KernelEventKind::CgroupMade { .. }
            | KernelEventKind::CgroupRemoved { .. }
            | KernelEventKind::InitExit { .. } => return,
        };
        if self.top_at.is_some_and(|read| ev.at <= read) {
            return;
        }
        let hint = self.hint.get_or_insert(Hint { earliest: ev.at, latest: ev.at, urgent });
        hint.earliest = hint.earliest.min(ev.at);
        hint.latest = hint.latest.max(ev.at);
        hint.urgent |= urgent;
    }

    /// Takes in fresh numbers. Readings may overtake each other: one that is older than what is known is dropped.
    pub fn observe_reading(&mut self, r: &MemoryReading) {
        let answers = self.asked.filter(|asked| r.at >= asked.at);
        if answers.is_some() {
            self.asked = None;
        }
        if self.top_at.is_some_and(|read| r.at < read) {
            return;
        }
        self.caused_by = r.caused_by;
        self.hint = self.hint.filter(|h| h.latest > r.at).map(|h| Hint { earliest: h.latest, ..h });

        let asked_all = answers.is_some_and(|asked| asked.scope == ReadScope::AllPods);
        let limits = answers.is_some_and(|asked| asked.limits);
        let all_pods = !limits && (asked_all || r.domains.iter().any(|d| matches!(d.domain, Domain::Pod(_))));
        self.observe_top(r, all_pods);
        self.observe_limits(r, all_pods, limits);
        if all_pods {
            self.observe_pods(r);
            self.pods_for_decision = answers.is_some_and(|asked| asked.to_decide);
        }
        for t in &mut self.thresholds {
            let domain =
                if t.threshold.signal == Signal::MemoryAvailable { &self.node } else { &self.kubepods };
            t.observe(domain.available());
        }
        self.pressure =
            pressure::condition(self.pressure, &self.thresholds, r.at, self.cfg.transition_period);
        self.stalls.observe(r.at, &r.stalled);
        if self.kubepods.read_at == Some(r.at) {
            self.freed_memory.observe(r.at, committed(&self.kubepods.forecast));
        }
        self.top_at = Some(r.at);
    }

    fn observe_top(&mut self, r: &MemoryReading, all_pods: bool) {
        for (name, top) in [(Domain::Node, &mut self.node), (Domain::Kubepods, &mut self.kubepods)] {
            // Node and kubepods do not go away while the agent runs: no number now is no news.
            let Some(d) = r.of(&name) else { continue };
            // Whoever is held runs on what is left as it was read last: that cannot wait.
            let waits = self.evicting.values().all(|e| e.written_off(r.at));
            if name == Domain::Node {
                top.forecast.observe_node(r.at, d, r.mem_available_bytes);
            } else if !waits {
                top.forecast.observe_cgroup_as_it_is(r.at, d);
            } else if !top.forecast.observe_cgroup(r.at, d) {
                continue;
            }
            let committed = top.forecast.growth().last().map(|(_, bytes)| bytes);
            if let Some(committed) = committed.filter(|_| all_pods) {
                top.with_pods.observe(r.at, committed);
            }
            if let Some(level) = top.forecast.level() {
                self.brakes.observe(&name, level.headroom_bytes, r.at);
            }
            let (before, limit) = (top.available, d.limit_bytes.unwrap_or(u64::MAX));
            let is_bad_news = |bytes: u64| {
                let node = self.thresholds.iter().map(|t| &t.threshold);
                let mut node = node.filter(|t| t.signal == Signal::MemoryAvailable);
                before.is_none_or(|(before, _)| bytes < before) || node.any(|t| bytes < t.value.of(limit))
            };
            let comes_back = top.forecast.comes_back_bytes();
            if let Some(news) = pressure::available(d, comes_back, r.mem_available_bytes, is_bad_news) {
                top.available = news.map(|bytes| (bytes, r.at));
            }
            top.last = Some(d.clone());
            top.read_at = Some(r.at);
        }
    }

    fn observe_pods(&mut self, r: &MemoryReading) {
        let before = self.pods_at.replace(r.at);
        let mut old = std::mem::take(&mut self.pods);
        self.containers.clear();
        for d in &r.domains {
            match &d.domain {
                Domain::Pod(uid) => {
                    let mut forecast = old.remove(uid).map_or_else(|| new_pod(before), |p| p.forecast);
                    forecast.observe_cgroup_as_it_is(r.at, d);
                    let numbers = PodNumbers { forecast, working_set_bytes: d.working_set_bytes() };
                    self.pods.insert(uid.clone(), numbers);
                }
                Domain::Container(uid, name) => {
                    self.containers.insert((uid.clone(), name.clone()), d.working_set_bytes());
                }
                Domain::Node | Domain::Kubepods => {}
            }
        }
    }

    /// The SyncLoop has had a reading started.
    pub fn read_ordered(&mut self, scope: ReadScope, now: Mono) {
        let to_decide = self.in_danger(now);
        self.asked = Some(Asked { scope, limits: false, at: now, to_decide });
    }

    /// The SyncLoop has had a reading of these started, besides the node and `kubepods`.
    pub fn limits_read_ordered(&mut self, domains: &[Domain], now: Mono) {
        self.limits.ask(domains);
        self.asked = Some(Asked { scope: ReadScope::Top, limits: true, at: now, to_decide: false });
    }

    /// The SyncLoop has ordered the pod to stop within `grace`. Also for a pod whose eviction an earlier run of the
    /// agent had begun.
    pub fn eviction_ordered(&mut self, pod: &PodRef, grace: Duration, now: Mono) {
        self.pods_for_decision = false;
        let evicting =
            Evicting { pod: pod.clone(), ordered_at: now, grace, cut_at: None, no_brake: !self.cfg.brake };
        self.evicting.insert(pod.uid.clone(), evicting);
        self.brakes.hold_for(&pod.uid);
        let held = self.pods.get(&pod.uid).map_or(0, |p| committed(&p.forecast));
        self.freed_memory.ordered(&pod.uid, held, committed(&self.kubepods.forecast), now);
    }

    /// The SyncLoop has ordered the evicted pod killed.
    pub fn grace_cut(&mut self, pod: &PodUid, now: Mono) {
        if let Some(evicting) = self.evicting.get_mut(pod) {
            evicting.cut_at.get_or_insert(now);
        }
        self.brakes.cut(&Held::pod(pod), now);
    }

    /// All containers of an evicted pod have ended; what it gave back. Of other pods this says nothing.
    pub fn pod_stopped(&mut self, pod: &PodUid, now: Mono) -> Option<Freed> {
        let freed = self.freed_memory.take(pod);
        let held = Held::pod(pod);
        if let Some(evicting) = self.evicting.remove(pod) {
            // The runtime's word comes some time after the memory. Standing still was no part of the pod's end.
            let took = freed.and_then(|r| r.after).unwrap_or(now.since(evicting.ordered_at));
            self.time_to_free.observe(took.saturating_sub(self.brakes.frozen(&held, now)));
            self.last_stopped = Some(now);
            self.stalls.start_anew();
        }
        self.brakes.let_go(&held, now);
        self.containers_of_pod_stopped(pod, now);
        freed
    }

    /// Nothing is left of the pod.
    pub fn pod_gone(&mut self, pod: &PodUid) {
        self.evicting.remove(pod);
        self.freed_memory.take(pod);
        self.brakes.forget(pod);
        self.stalls.forget(pod);
        self.forget_limits_of(pod);
        self.pods.remove(pod);
        self.containers.retain(|(uid, _), _| uid != pod);
    }

    /// `Some` while the node's MemoryPressure condition is true: a memory threshold is met, hard or soft, or was
    /// within the transition period. An eviction on a forecast alone does not set it: the condition keeps pods away
    /// for minutes, and the danger that was averted leaves no lack of memory behind.
    #[must_use]
    pub fn memory_pressure(&self, now: Mono) -> Option<PressureInfo> {
        self.pressure.filter(|p| now.since(p.last_met) < self.cfg.transition_period)
    }

    /// Domains with a limit: node, `kubepods`, then pods.
    pub fn forecasts(&self) -> impl Iterator<Item = (Domain, Forecast)> {
        let top = [(Domain::Node, &self.node.forecast), (Domain::Kubepods, &self.kubepods.forecast)];
        let pods = self.pods.iter().map(|(uid, p)| (Domain::Pod(uid.clone()), &p.forecast));
        top.into_iter().chain(pods).filter_map(|(domain, f)| Some((domain, f.forecast()?)))
    }

    /// What ending a pod has taken on this node lately.
    #[must_use]
    pub fn time_to_free(&self) -> Duration {
        self.time_to_free.get()
    }

    /// Pods that were told to stop and have not yet.
    pub fn evicting(&self) -> impl Iterator<Item = &PodUid> {
        self.evicting.keys()
    }

    fn top(&self) -> [(Signal, &TopDomain); 2] {
        [(Signal::AllocatableMemoryAvailable, &self.kubepods), (Signal::MemoryAvailable, &self.node)]
    }

    /// How long ahead of the end acting has to begin.
    fn needed(&self) -> Duration {
        self.time_to_free.get().mul_f64(self.cfg.safety.clamp(0.0, 100.0))
    }
}

/// Bytes as of the newest reading.
fn committed(forecast: &DomainForecast) -> u64 {
    forecast.growth().last().map_or(0, |(_, bytes)| bytes)
}

/// A pod that was not there when all pods were read at `before` has grown from nothing since then.
fn new_pod(before: Option<Mono>) -> DomainForecast {
    let mut forecast = DomainForecast::default();
    if let Some(before) = before {
        forecast.observe(before, 0, None);
    }
    forecast
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
