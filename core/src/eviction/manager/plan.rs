//! The decisions. Everything here reads the state and changes nothing.

use std::time::Duration;

use super::{Evicting, EvictionManager, TopDomain};
use crate::brake::{Gear, KILL_TAKES};
use crate::clock::Mono;
use crate::eviction::message::eviction_message;
use crate::eviction::psi::Stalled;
use crate::eviction::ranking::{Ranked, rank, runaway, why_first};
use crate::eviction::threshold::Signal;
use crate::eviction::{Candidate, Eviction, EvictionStep, Numbers, ReadScope, StalledFor};
use crate::forecast::DomainForecast;
use crate::pod::PodUid;
use crate::reason::Reason;
use crate::signal::{Domain, DomainReading};

/// Numbers that happen to be there may be this old: at 1 GiB/s a pod's use is then 5 MiB off, which seldom changes the
/// order of pods.
const FRESH: Duration = Duration::from_millis(5);

/// Numbers that were read in order to decide may be this old: if the loop is so slow that they are old when they
/// arrive, asking again would give no better ones, and nothing would ever be decided.
pub(super) const FRESH_FOR_DECISION: Duration = Duration::from_millis(500);

/// kubelet's grace for hard thresholds (`immediateEvictionGracePeriodSeconds`), here the least that a pod gets. A pod
/// does normally stop growing on SIGTERM; for one that does not, the grace is cut on its actual numbers.
pub(super) const LEAST_GRACE: Duration = Duration::from_secs(1);

/// One that is held, and stands still for much of the time, gets more.
const LEAST_HELD_GRACE: Duration = Duration::from_secs(2);

/// A pod that has not stopped this long after the end of its grace is not going to; the next one may be evicted.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// A threshold is met and one pod alone takes what is left within this time: evicting an idle neighbour of lower
/// priority would buy less, so the runaway goes first, as with a forecast.
const RUNAWAY_HORIZON: Duration = Duration::from_secs(10);

pub(super) const fn domain_of(signal: Signal) -> Domain {
    match signal {
        Signal::MemoryAvailable => Domain::Node,
        Signal::AllocatableMemoryAvailable => Domain::Kubepods,
    }
}

/// A domain that something has to be done about.
struct Danger<'a> {
    reason: Reason,
    signal: Signal,
    domain: &'a TopDomain,
    threshold_bytes: Option<u64>,
    /// When it was seen.
    read_at: Option<Mono>,
    soft: bool,
    /// The tasks of the node, or of this one pod, stand still for memory.
    stalled: Option<(Stalled, Option<&'a PodUid>)>,
}

impl Danger<'_> {
    /// The one pod that is to blame, and no other.
    fn only(&self) -> Option<&PodUid> {
        self.stalled.and_then(|(_, pod)| pod)
    }
}

impl Evicting {
    pub(super) fn grace_ends(&self) -> Mono {
        self.ordered_at + self.grace
    }

    /// Nobody waits for this one any longer.
    pub(super) fn written_off(&self, now: Mono) -> bool {
        let end = self.cut_at.unwrap_or(self.grace_ends()).min(self.grace_ends());
        now.since(end) >= STUCK_AFTER
    }
}

impl EvictionManager {
    /// What to do now. `candidates` are the pods that run and that an eviction would stop.
    #[must_use]
    pub fn plan(&self, candidates: &[Candidate], now: Mono) -> Vec<EvictionStep> {
        let mut steps: Vec<EvictionStep> =
            self.brakes.plan(now).into_iter().map(EvictionStep::Brake).collect();
        if self.reading_under_way(now).is_some() {
            return steps;
        }
        if self.cfg.enabled {
            let cuts = self.grace_steps(candidates, now);
            let decision = if cuts.is_empty() { self.decide(candidates, now) } else { None };
            let reads = matches!(decision, Some(EvictionStep::Read { .. }));
            let neighbour = match &decision {
                Some(EvictionStep::Evict(eviction)) => {
                    self.neighbour_throttles_of_new(eviction, candidates, now)
                }
                _ => Vec::new(),
            };
            steps.extend(cuts.into_iter().chain(decision).chain(neighbour));
            if reads {
                return steps;
            }
            let evicted = steps.iter().find_map(|step| match step {
                EvictionStep::Evict(eviction) => Some(eviction.pod.uid.clone()),
                _ => None,
            });
            steps.extend(self.container_steps(evicted.as_ref(), now));
        }
        let limits = self.limits_reading(&steps, now);
        let (mut due, why, caused_by) = self.read_due();
        if !steps.is_empty() {
            let runs = |step: &EvictionStep| match step {
                EvictionStep::Brake(step) => matches!(step.gear, Gear::Throttled { .. }),
                _ => false,
            };
            due = due.min(self.evicting_due(steps.iter().any(runs)));
        }
        let (due, scope) = (now >= due, self.scope_at(now));
        match limits {
            // It takes in the node and `kubepods` too; one of all pods takes in the containers.
            Some(reading) if !due || scope == ReadScope::Top => steps.push(reading),
            _ if due => steps.push(EvictionStep::Read { why, caused_by, scope }),
            _ => {}
        }
        steps
    }

    /// One pod a pass, on numbers of all pods that are fresh.
    fn decide(&self, candidates: &[Candidate], now: Mono) -> Option<EvictionStep> {
        let danger = self.danger(now).filter(|danger| self.may_evict(danger, now))?;
        let may_go = |c: &&Candidate| {
            !c.critical
                && !self.evicting.contains_key(&c.pod.uid)
                && danger.only().is_none_or(|uid| *uid == c.pod.uid)
        };
        let eligible = || candidates.iter().filter(may_go);
        eligible().next()?;
        let read_at = match self.pods_at {
            Some(at) if self.pods_are_fresh(at, now) => at,
            _ => {
                let (why, caused_by) = (danger.reason, self.caused_by);
                return Some(EvictionStep::Read { why, caused_by, scope: ReadScope::AllPods });
            }
        };
        let working_set = |uid: &PodUid| self.pods.get(uid).map(|p| p.working_set_bytes);
        let runaway = self.runaway(&danger);
        let ranked = rank(eligible(), working_set, runaway);
        let why_first = why_first(&ranked, runaway);
        Some(EvictionStep::Evict(Box::new(self.eviction(&danger, ranked.first()?, &why_first, read_at))))
    }

    /// Read since the last evicted pod stopped, and just now.
    fn pods_are_fresh(&self, at: Mono, now: Mono) -> bool {
        let bound = if self.pods_for_decision { FRESH_FOR_DECISION } else { FRESH };
        now.since(at) <= bound && self.last_stopped.is_none_or(|stopped| at > stopped)
    }

    /// There is a danger, whether or not anything can be done about it just now.
    pub(super) fn in_danger(&self, now: Mono) -> bool {
        self.danger(now).is_some()
    }

    /// The most pressing danger: a hard threshold, then a forecast, then tasks that stand still, then a soft threshold.
    fn danger(&self, now: Mono) -> Option<Danger<'_>> {
        let threshold = |hard: bool| {
            let mut counting =
                self.thresholds.iter().filter(|t| t.threshold.is_hard() == hard && t.counts(now));
            counting.next().map(|t| Danger {
                reason: Reason::ThresholdMet,
                signal: t.threshold.signal,
                domain: self.domain(t.threshold.signal),
                threshold_bytes: t.newest.map(|(value, ..)| value),
                read_at: t.newest.map(|(.., at)| at),
                soft: !hard,
                stalled: None,
            })
        };
        let forecast = || {
            let needed = self.needed();
            let mut running_out =
                self.top().into_iter().filter(|(_, d)| d.forecast.out_of_memory_within(needed));
            running_out.next().map(|(signal, domain)| Danger {
                reason: Reason::ForecastOutOfMemory,
                signal,
                domain,
                threshold_bytes: None,
                read_at: domain.read_at,
                soft: false,
                stalled: None,
            })
        };
        let stalled = || {
            let node = self.stalls.node().map(|stalled| (stalled, None));
            let stalled = node.or_else(|| self.stalls.pod().map(|(uid, stalled)| (stalled, Some(uid))))?;
            Some(Danger {
                reason: if stalled.1.is_some() { Reason::PodStalled } else { Reason::NodeStalled },
                signal: Signal::MemoryAvailable,
                domain: &self.node,
                threshold_bytes: None,
                read_at: self.top_at,
                soft: true,
                stalled: Some(stalled),
            })
        };
        threshold(true)
            .or_else(|| forecast().filter(|_| self.cfg.forecast))
            .or_else(stalled)
            .or_else(|| threshold(false))
    }

    pub(super) fn domain(&self, signal: Signal) -> &TopDomain {
        match signal {
            Signal::MemoryAvailable => &self.node,
            Signal::AllocatableMemoryAvailable => &self.kubepods,
        }
    }

    /// One eviction at a time: the next waits until the last has stopped and numbers from after that still show the
    /// danger; or it is stuck; or it was killed already, the kill has had its time, and there is no more to wait.
    fn may_evict(&self, danger: &Danger<'_>, now: Mono) -> bool {
        let fresh = |read: &Mono| {
            now.since(*read) <= FRESH_FOR_DECISION && self.last_stopped.is_none_or(|stopped| *read > stopped)
        };
        if !danger.read_at.as_ref().is_some_and(fresh) {
            return false;
        }
        let killed = |e: &Evicting| {
            let killed_at = e.cut_at.unwrap_or(e.grace_ends()).min(e.grace_ends());
            now >= killed_at && now.since(killed_at) >= KILL_TAKES
        };
        self.evicting.values().all(|e| {
            e.written_off(now)
                || (killed(e) && self.gone_within(danger.domain, self.needed(), e.settled_at()))
        })
    }

    /// The one pod to blame, where the danger is that of running out and not only of having little.
    fn runaway(&self, danger: &Danger<'_>) -> Option<&PodUid> {
        let to_oom = danger.domain.forecast.forecast()?.time_to_oom?;
        if danger.reason != Reason::ForecastOutOfMemory && to_oom >= RUNAWAY_HORIZON {
            return None;
        }
        let growth = self.pods.iter().map(|(uid, p)| (uid, p.forecast.growth().fast()));
        runaway(growth, danger.domain.with_pods.fast())
    }

    fn eviction(&self, danger: &Danger<'_>, victim: &Ranked<'_>, why_first: &str, read_at: Mono) -> Eviction {
        let candidate = victim.candidate;
        let uid = &candidate.pod.uid;
        let numbers = Numbers {
            pod_usage_bytes: Some(victim.working_set_bytes),
            pod_request_bytes: Some(candidate.memory_request_bytes),
            pod_rate_bytes_per_s: self.pods.get(uid).map(|p| p.forecast.growth().fast() as u64),
            stalled: danger.stalled.map(|(stalled, pod)| StalledFor {
                per_mille: (stalled.share * 1000.0) as u64,
                window: stalled.threshold.window,
                pod: pod.is_some(),
            }),
            ..self.numbers(danger.domain, danger.threshold_bytes)
        };
        let only_one = candidate.containers.len() == 1;
        let container_usage = |name: &str| {
            let given = candidate.containers.iter().find(|c| c.name == name)?.usage_bytes;
            let read = || self.containers.get(&(uid.clone(), name.to_owned())).copied();
            given.or_else(read).or_else(|| only_one.then_some(victim.working_set_bytes))
        };
        let brake = self.is_to_be_held(danger.domain, uid, self.own_grace(candidate));
        let least = if brake { LEAST_HELD_GRACE } else { LEAST_GRACE };
        Eviction {
            pod: candidate.pod.clone(),
            grace: self.grace(candidate, danger.soft, numbers.time_to_oom, least),
            reason: danger.reason,
            signal: danger.signal,
            domain: domain_of(danger.signal),
            brake,
            message: eviction_message(candidate, &numbers, why_first, container_usage),
            lead: numbers.time_to_oom,
            caused_by: self.caused_by,
            read_at,
            numbers,
        }
    }

    /// The pod's own grace period, at most `evictionMaxPodGracePeriod`; when memory runs out before that, what is
    /// left of it, but at least `least`.
    fn grace(
        &self,
        candidate: &Candidate,
        soft: bool,
        time_to_oom: Option<Duration>,
        least: Duration,
    ) -> Duration {
        let own = self.own_grace(candidate);
        match time_to_oom {
            Some(left) if !soft => own.min(left.max(least)),
            _ => own,
        }
    }

    fn own_grace(&self, candidate: &Candidate) -> Duration {
        let most = self.cfg.max_pod_grace;
        if most.is_zero() { candidate.grace_period } else { candidate.grace_period.min(most) }
    }

    pub(super) fn numbers(&self, domain: &TopDomain, threshold_bytes: Option<u64>) -> Numbers {
        let available_bytes = domain.available.map_or(0, |(bytes, _)| bytes);
        Numbers {
            threshold_bytes,
            ..self.numbers_of(&domain.forecast, domain.last.as_ref(), available_bytes)
        }
    }

    /// Of any domain.
    pub(super) fn numbers_of(
        &self,
        forecast: &DomainForecast,
        last: Option<&DomainReading>,
        available_bytes: u64,
    ) -> Numbers {
        let forecast = forecast.forecast();
        Numbers {
            available_bytes,
            usage_bytes: last.map_or(0, |d| d.usage_bytes),
            limit_bytes: last.and_then(|d| d.limit_bytes).unwrap_or(0),
            headroom_bytes: forecast.map_or(0, |f| f.headroom_bytes),
            fast_rate_bytes_per_s: forecast.map_or(0, |f| f.fast_rate_bytes_per_s),
            slow_rate_bytes_per_s: forecast.map_or(0, |f| f.slow_rate_bytes_per_s),
            time_to_oom: forecast.and_then(|f| f.time_to_oom),
            time_to_free: self.time_to_free.get(),
            ..Numbers::default()
        }
    }
}
