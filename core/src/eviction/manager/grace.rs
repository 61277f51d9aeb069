//! Whether the grace of an evicted pod can last: who is held so that it can, and when it is cut.
//!
//! The memory may go to the evicted pod itself, or to another one: within its request that is not the one to go, and the
//! kernel would not ask. Either is held for as long, [`crate::brake`].

use std::time::Duration;

use super::plan::{FRESH_FOR_DECISION, LEAST_GRACE, domain_of};
use super::{Evicting, EvictionManager, TopDomain};
use crate::brake::{BrakeStep, Gear, Held, Help, KILL_TAKES, LONGEST_NEIGHBOUR_THROTTLE, room_bytes};
use crate::clock::Mono;
use crate::eviction::threshold::Signal;
use crate::eviction::{Candidate, Eviction, EvictionStep, Numbers};
use crate::forecast::time_to_use;
use crate::pod::PodUid;
use crate::reason::Reason;
use crate::signal::window::AT_REST_BYTES_PER_S;

/// From the order to a stop until the pod has its SIGTERM and has had a moment to act on it: the runtime takes 20
/// to 50 ms. Growth before that is not held against the pod.
pub(super) const SIGTERM_SETTLES: Duration = Duration::from_millis(50);

/// Headroom below this share of the limit is none: allocations stall in reclaim and growth no longer shows.
pub(super) const NO_HEADROOM_SHARE: u64 = 256;

/// A pod with less of the domain's growth than this is not held: what others take meanwhile would be held against it.
const LEAST_SHARE: f64 = 0.1;

/// There is a headroom worth speaking of.
fn has_room(domain: &TopDomain) -> bool {
    domain.forecast.level().is_none_or(|l| l.headroom_bytes >= l.limit_bytes / NO_HEADROOM_SHARE)
}

/// `bytes_per_s` uses up what is left within `time`.
fn uses_up(domain: &TopDomain, bytes_per_s: f64, time: Duration) -> bool {
    let Some(level) = domain.forecast.level() else { return false };
    bytes_per_s > AT_REST_BYTES_PER_S && time_to_use(level.headroom_bytes, bytes_per_s) < time
}

impl Evicting {
    /// Growth from then on is not for want of a signal.
    pub(super) fn settled_at(&self) -> Mono {
        self.ordered_at + SIGTERM_SETTLES
    }
}

impl EvictionManager {
    /// Evicted pods that cannot have the rest of their grace as things are, because a domain runs out before it ends. Who
    /// takes it is held first; where that does not help, the grace is lost. The first second is the pod's as long as a kill
    /// would still be in time; after that the kill comes as early as an eviction would.
    pub(super) fn grace_steps(&self, candidates: &[Candidate], now: Mono) -> Vec<EvictionStep> {
        self.evicting.values().flat_map(|e| self.grace_steps_of(e, candidates, now)).collect()
    }

    fn grace_steps_of(&self, e: &Evicting, candidates: &[Candidate], now: Mono) -> Vec<EvictionStep> {
        if e.cut_at.is_some() || now >= e.grace_ends() {
            return Vec::new();
        }
        let early = now.since(e.ordered_at) < LEAST_GRACE;
        let needed =
            if early { KILL_TAKES.mul_f64(self.cfg.safety.clamp(1.0, 100.0)) } else { self.needed() };
        // Past the end of the grace SIGKILL comes anyway.
        let left = e.grace_ends().since(now).min(needed);
        let is_fresh = |d: &TopDomain| d.read_at.is_some_and(|read| now.since(read) <= FRESH_FOR_DECISION);
        let runs_out = |(signal, domain): &(Signal, &TopDomain)| {
            is_fresh(domain) && self.runs_out(e, *signal, domain, left, now)
        };
        let Some((signal, domain)) = self.top().into_iter().find(runs_out) else { return Vec::new() };

        let uid = &e.pod.uid;
        if self.brakes.help(uid, &domain_of(signal), now) != Help::InVain {
            let mut holds = self.neighbour_throttles(uid, signal, left, candidates, now);
            let is_held = self.brakes.holds_to_its_end(&Held::pod(uid));
            if !is_held && !e.no_brake && self.outruns(domain, uid, left) {
                holds.push(self.begin_to_hold(uid, None, signal));
            }
            if !holds.is_empty() {
                return holds;
            }
        }
        let threshold =
            self.thresholds.iter().find(|t| t.threshold.signal == signal && t.met_since.is_some());
        let threshold_bytes = threshold.and_then(|t| t.newest).map(|(value, ..)| value);
        let numbers = Numbers {
            pod_usage_bytes: self.pods.get(uid).map(|p| p.working_set_bytes),
            ..self.numbers(domain, threshold_bytes)
        };
        let cut = EvictionStep::CutGrace { pod: e.pod.clone(), why: Reason::GraceCutShort, numbers };
        let stands = self.brakes.after_cut(&Held::pod(uid), now).map(EvictionStep::Brake);
        std::iter::once(cut).chain(stands).collect()
    }

    /// The domain is used up within `left`, with the brakes as they are.
    fn runs_out(&self, e: &Evicting, signal: Signal, domain: &TopDomain, left: Duration, now: Mono) -> bool {
        match self.brakes.help(&e.pod.uid, &domain_of(signal), now) {
            Help::NobodyHeld => {}
            // They take no more than they are given, so only others can use this domain up.
            Help::Helps => return !has_room(domain),
            Help::OthersTakeIt | Help::InVain => return true,
        }
        // Growth from before somebody was held for it says nothing.
        let held_at = self.brakes.neighbours_since().unwrap_or(Mono::ZERO);
        self.gone_within(domain, left, e.settled_at().max(held_at))
            || self.others_take(domain, e, left, held_at)
    }

    /// Growth since `from` uses the domain up within `time`.
    pub(super) fn gone_within(&self, domain: &TopDomain, time: Duration, from: Mono) -> bool {
        let Some(span) = domain.forecast.growth().recent() else { return false };
        span.from >= from && (!has_room(domain) || uses_up(domain, span.bytes_per_s, time))
    }

    /// Others than this pod use the domain up within `time`: no signal to it makes a difference to that. Both who they are and
    /// that it goes on was read after the order, and began at `from` or later.
    fn others_take(&self, domain: &TopDomain, e: &Evicting, time: Duration, from: Mono) -> bool {
        let Some(span) = domain.forecast.growth().recent() else { return false };
        let known = self.pods_at.is_some_and(|read| read > e.ordered_at);
        let others = self.share(domain, &e.pod.uid).map_or(0.0, |its_own| 1.0 - its_own);
        let goes_on = span.to > e.ordered_at && span.from >= from;
        known && goes_on && uses_up(domain, others * span.bytes_per_s, time)
    }

    /// While it ends: it outruns its grace, or is held already, for the sake of one that was evicted before.
    pub(super) fn is_to_be_held(&self, domain: &TopDomain, pod: &PodUid, grace: Duration) -> bool {
        let is_held = || has_room(domain) && self.brakes.holds(&Held::pod(pod));
        self.cfg.brake && (self.outruns(domain, pod, grace) || is_held())
    }

    /// By itself the pod takes what is left of the domain within `grace`, and others do not take nearly all of it before.
    fn outruns(&self, domain: &TopDomain, pod: &PodUid, grace: Duration) -> bool {
        let counts = self.share(domain, pod).is_none_or(|share| share >= LEAST_SHARE);
        counts && has_room(domain) && uses_up(domain, self.rate(domain, pod), grace)
    }

    /// As all pods were read last, which may have been long after the time before: then its share of what is known to go
    /// now says more.
    fn rate(&self, domain: &TopDomain, pod: &PodUid) -> f64 {
        let read = self.pods.get(pod).map_or(0.0, |p| p.forecast.growth().fast());
        let share = self.share(domain, pod).unwrap_or(0.0);
        read.max(share * domain.forecast.growth().fast())
    }

    /// Of the domain's growth, what was the pod's when all pods were read last; `None`: nothing grew.
    fn share(&self, domain: &TopDomain, pod: &PodUid) -> Option<f64> {
        let whole = Some(domain.with_pods.fast()).filter(|rate| *rate > AT_REST_BYTES_PER_S)?;
        let own = self.pods.get(pod).map_or(0.0, |p| p.forecast.growth().fast());
        Some((own / whole).clamp(0.0, 1.0))
    }

    /// Those who would take what the pod needs that is evicted just now; and the pod itself is let go, where it was held for
    /// the sake of one before and is not to be held any more.
    pub(super) fn neighbour_throttles_of_new(
        &self,
        eviction: &Eviction,
        candidates: &[Candidate],
        now: Mono,
    ) -> Vec<EvictionStep> {
        let within = eviction.grace.min(LONGEST_NEIGHBOUR_THROTTLE);
        let mut steps = self.neighbour_throttles(&eviction.pod.uid, eviction.signal, within, candidates, now);
        let itself = Held::pod(&eviction.pod.uid);
        let spared = if eviction.brake { None } else { self.brakes.after_let_go(&itself, now) };
        steps.extend(spared.map(EvictionStep::Brake));
        steps
    }

    /// Who takes what is left within `time`, is not evicted, and may be held. Never a critical pod.
    fn neighbour_throttles(
        &self,
        victim: &PodUid,
        signal: Signal,
        time: Duration,
        candidates: &[Candidate],
        now: Mono,
    ) -> Vec<EvictionStep> {
        if !self.cfg.brake {
            return Vec::new();
        }
        let domain = self.domain(signal);
        let grows = |uid: &&PodUid| {
            *uid != victim
                && !self.evicting.contains_key(*uid)
                && self.outruns(domain, uid, time)
                && self.brakes.may_throttle_neighbour(uid, now)
        };
        let pods = candidates.iter().filter(|c| !c.critical).map(|c| &c.pod.uid).filter(grows);
        pods.map(|uid| self.begin_to_hold(uid, Some(victim), signal)).collect()
    }

    fn begin_to_hold(&self, pod: &PodUid, neighbour: Option<&PodUid>, signal: Signal) -> EvictionStep {
        let domain = domain_of(signal);
        let headroom_bytes = self.domain(signal).forecast.level().map_or(0, |l| l.headroom_bytes);
        let room_bytes = if neighbour.is_some() { 0 } else { room_bytes(&domain, headroom_bytes) };
        EvictionStep::Brake(BrakeStep {
            held: Held::pod(pod),
            gear: Gear::Throttled { room_bytes },
            reason: neighbour.map_or(Reason::GrowthOutrunsGrace, |_| Reason::GrowthOutrunsOthersGrace),
            domain,
            headroom_bytes,
            freezes: 0,
            frozen: Duration::ZERO,
            neighbour_of: neighbour.cloned(),
        })
    }
}
