//! Containers that are to be stopped before they reach their own memory limit (`oomlet.dev/memory-limit-policy`): owns a
//! forecast of each and of its pod, and which are being stopped. One container's stop is no eviction: its pod lives on.
//!
//! - `plan`: decisions. - `sampling`: when to read. - `slow_leak`: growth that is too slow for a forecast.

mod plan;
mod sampling;
mod slow_leak;

use std::collections::BTreeMap;
use std::time::Duration;

use slow_leak::SlowLeak;

use super::{EvictionManager, Hint};
use crate::brake::Held;
use crate::clock::Mono;
use crate::eviction::ContainerStop;
use crate::forecast::{DomainForecast, Level};
use crate::pod::{ContainerInstance, PodRef, PodUid};
use crate::signal::{Domain, DomainReading, KernelEvent, KernelEventKind, MemoryReading};

/// One that runs, of a pod with the graceful policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitedContainer {
    pub pod: PodRef,
    pub instance: ContainerInstance,
    /// Between stop signal and SIGKILL.
    pub grace: Duration,
    /// `false`: its pod is ending. What has begun goes on.
    pub stoppable: bool,
    /// Its stop was ordered, by this agent or by the one before.
    pub begun: bool,
}

impl LimitedContainer {
    fn held(&self) -> Held {
        Held::container(&self.pod.uid, &self.instance)
    }

    fn domain(&self) -> Domain {
        Domain::Container(self.pod.uid.clone(), self.instance.name.clone())
    }
}

#[derive(Debug, Default)]
pub(super) struct Limits {
    containers: BTreeMap<PodUid, Vec<LimitedContainer>>,
    /// The containers' domains and their pods'.
    watched: BTreeMap<Domain, Watched>,
    stopping: BTreeMap<Held, Stopping>,
    /// What the reading under way is of.
    asked: Vec<Domain>,
}

impl Limits {
    /// A reading of these is under way.
    pub(super) fn ask(&mut self, domains: &[Domain]) {
        self.asked = domains.to_vec();
    }

    pub(super) fn watches(&self) -> bool {
        !self.watched.is_empty()
    }

    pub(super) fn level(&self, domain: &Domain) -> Option<Level> {
        self.watched.get(domain)?.forecast.level()
    }

    pub(super) fn grace_ends(&self, held: &Held) -> Option<Mono> {
        self.stopping.get(held).map(Stopping::grace_ends)
    }
}

/// One domain's numbers.
#[derive(Debug, Default)]
struct Watched {
    forecast: DomainForecast,
    slow_leak: SlowLeak,
    /// `None`: its cgroup is not known yet, or gone.
    last: Option<DomainReading>,
    /// When that was.
    read_at: Mono,
    /// When it was looked for last.
    at: Mono,
    /// Kernel events that no reading has answered yet.
    hint: Option<Hint>,
}

impl Watched {
    /// `waits`: for the kernel to flush statistics that are stale. Whoever is held runs on what is left as it was read last: that cannot wait.
    fn observe(&mut self, at: Mono, reading: &DomainReading, waits: bool) {
        if !waits {
            self.forecast.observe_cgroup_as_it_is(at, reading);
        }
        if !waits || self.forecast.observe_cgroup(at, reading) {
            if let Some(level) = self.forecast.level() {
                self.slow_leak.observe(at, level.committed_bytes, level.limit_bytes);
            }
            self.last = Some(reading.clone());
            self.read_at = at;
        }
        self.looked_for(at);
    }

    /// It could not be read: what is read next is another one's.
    fn absent(&mut self, at: Mono) {
        *self = Watched { hint: self.hint, ..Watched::default() };
        self.looked_for(at);
    }

    fn looked_for(&mut self, at: Mono) {
        self.at = at;
        self.hint = self.hint.filter(|h| h.latest > at).map(|h| Hint { earliest: h.latest, ..h });
    }
}

/// A container that was told to stop.
#[derive(Clone, Debug)]
struct Stopping {
    pod: PodRef,
    ordered_at: Mono,
    grace: Duration,
    cut_at: Option<Mono>,
    ended_at: Option<Mono>,
    /// It cannot be held: its grace is cut instead.
    no_brake: bool,
}

impl Stopping {
    fn grace_ends(&self) -> Mono {
        self.ordered_at + self.grace
    }
}

impl EvictionManager {
    /// The containers of this pod that are to be stopped before they reach their limits, all of them: those that are being
    /// stopped and are not among them have ended.
    pub fn watch_limits(&mut self, pod: &PodUid, containers: Vec<LimitedContainer>, now: Mono) {
        let Limits { containers: known, watched, stopping, .. } = &mut self.limits;
        let before = known.get(pod).map(Vec::as_slice).unwrap_or_default();
        if containers == before {
            return;
        }
        stopping.retain(|held, _| {
            let runs = held.pod != *pod || containers.iter().any(|c| c.held() == *held);
            if !runs {
                self.brakes.let_go(held, now);
            }
            runs
        });
        // Numbers of an earlier run say nothing of the next.
        let same_run = |c: &LimitedContainer| before.iter().any(|b| b.instance == c.instance);
        watched.retain(|domain, _| match domain {
            Domain::Pod(uid) if uid == pod => !containers.is_empty(),
            domain if domain.is_of(pod) => containers.iter().any(|c| c.domain() == *domain && same_run(c)),
            _ => true,
        });
        for c in &containers {
            watched.entry(c.domain()).or_default();
            watched.entry(Domain::Pod(pod.clone())).or_default();
        }
        if containers.is_empty() {
            known.remove(pod);
        } else {
            known.insert(pod.clone(), containers);
        }
    }

    /// `all_pods`: what is not in the reading is not there. `asked`: the reading is the one of [`Limits::ask`].
    pub(super) fn observe_limits(&mut self, r: &MemoryReading, all_pods: bool, asked: bool) {
        let asked_of = if asked { std::mem::take(&mut self.limits.asked) } else { Vec::new() };
        for reading in &r.domains {
            let Some(watched) = self.limits.watched.get_mut(&reading.domain) else { continue };
            let stops = self.limits.stopping.keys().any(|held| reading.domain.is_of(&held.pod));
            watched.observe(r.at, reading, !stops);
            if let Some(level) = watched.forecast.level().filter(|_| watched.read_at == r.at) {
                self.brakes.observe(&reading.domain, level.headroom_bytes, r.at);
            }
        }
        let missing = |domain: &Domain| all_pods || asked_of.contains(domain);
        for (domain, watched) in &mut self.limits.watched {
            if watched.at != r.at && missing(domain) {
                watched.absent(r.at);
            }
        }
    }

    /// A kernel event of this container or pod: a hint that its fresh numbers are needed.
    pub fn observe_limit_event(&mut self, domain: &Domain, ev: &KernelEvent) {
        let urgent = matches!(ev.kind, KernelEventKind::ChargeForecast { .. } | KernelEventKind::OomBegin(_));
        let pod = match domain {
            Domain::Container(uid, _) => Some(Domain::Pod(uid.clone())),
            _ => None,
        };
        for domain in pod.iter().chain([domain]) {
            let Some(watched) = self.limits.watched.get_mut(domain).filter(|w| ev.at > w.at) else {
                continue;
            };
            let hint = watched.hint.get_or_insert(Hint { earliest: ev.at, latest: ev.at, urgent });
            hint.earliest = hint.earliest.min(ev.at);
            hint.latest = hint.latest.max(ev.at);
            hint.urgent |= urgent;
        }
    }

    /// The SyncLoop has ordered the container to stop.
    pub fn container_stop_ordered(&mut self, stop: &ContainerStop, now: Mono) {
        let held = Held::container(&stop.pod.uid, &stop.container);
        let stopping = Stopping {
            pod: stop.pod.clone(),
            ordered_at: now,
            grace: stop.grace,
            cut_at: None,
            ended_at: None,
            no_brake: !self.cfg.brake,
        };
        self.limits.stopping.insert(held.clone(), stopping);
        if stop.brake {
            self.hold(&held, &stop.domain, false, now);
        }
    }

    /// The container has its stop signal.
    pub fn container_signalled(&mut self, pod: &PodUid, container: &ContainerInstance, now: Mono) {
        self.brakes.signalled(&Held::container(pod, container), now);
    }

    /// The SyncLoop has ordered the container killed.
    pub fn container_grace_cut(&mut self, pod: &PodUid, container: &ContainerInstance, now: Mono) {
        let held = Held::container(pod, container);
        if let Some(stopping) = self.limits.stopping.get_mut(&held) {
            stopping.cut_at.get_or_insert(now);
        }
        self.brakes.cut(&held, now);
    }

    /// The container has ended, as far as its stop is concerned.
    pub fn container_stopped(&mut self, pod: &PodUid, container: &ContainerInstance, now: Mono) {
        let held = Held::container(pod, container);
        if let Some(stopping) = self.limits.stopping.get_mut(&held) {
            stopping.ended_at.get_or_insert(now);
        }
        self.brakes.let_go(&held, now);
    }

    /// All of the pod's containers have ended.
    pub(super) fn containers_of_pod_stopped(&mut self, pod: &PodUid, now: Mono) {
        for (held, stopping) in self.limits.stopping.iter_mut().filter(|(held, _)| held.pod == *pod) {
            stopping.ended_at.get_or_insert(now);
            self.brakes.let_go(held, now);
        }
    }

    /// Nothing is left of the pod.
    pub(super) fn forget_limits_of(&mut self, pod: &PodUid) {
        self.limits.containers.remove(pod);
        self.limits.watched.retain(|domain, _| !domain.is_of(pod));
        self.limits.stopping.retain(|held, _| held.pod != *pod);
    }

    /// Its gear could not be set. `true`: for the first time.
    pub(super) fn container_brake_failed(&mut self, held: &Held) -> bool {
        let stopping = self.limits.stopping.get_mut(held);
        stopping.is_some_and(|stopping| !std::mem::replace(&mut stopping.no_brake, true))
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
