//! Which container is stopped, and whose grace is cut. Everything here reads the state and changes nothing.

use std::time::Duration;

use super::super::EvictionManager;
use super::super::grace::{NO_HEADROOM_SHARE, SIGTERM_SETTLES};
use super::super::plan::{FRESH_FOR_DECISION, LEAST_GRACE};
use super::{LimitedContainer, Limits, Stopping, Watched};
use crate::brake::room_bytes;
use crate::brake::{BrakeStep, Gear, Held, KILL_TAKES};
use crate::clock::Mono;
use crate::eviction::container_stop::stop_message;
use crate::eviction::{ContainerStop, EvictionStep, Numbers};
use crate::forecast::{Level, time_to_use};
use crate::pod::{ContainerInstance, PodUid};
use crate::reason::Reason;
use crate::signal::Domain;
use crate::signal::window::AT_REST_BYTES_PER_S;

/// A container that can be held is not stopped while more than this share of its limit is left, however fast it grows: a
/// program that takes most of its limit as it starts, and is content with that, looks like a leak until then.
const NEAR_SHARE: u64 = 8;

/// Nor while it takes longer than this to the limit: from the reading to threads that stand still it is under a millisecond,
/// on an emulated CPU up to a tenth of a second.
const NEAR_TIME: Duration = Duration::from_millis(50);

/// The newest span of growth says how fast it is now, as long as it is no older than this.
const NEWEST: Duration = Duration::from_millis(50);

impl Limits {
    fn fresh(&self, domain: &Domain, now: Mono) -> Option<&Watched> {
        self.watched.get(domain).filter(|w| w.last.is_some() && now.since(w.read_at) <= FRESH_FOR_DECISION)
    }
}

impl Watched {
    /// The fast average, or the newest span: the average needs a tenth of a second to see a sudden start.
    pub(super) fn bytes_per_s(&self) -> f64 {
        let growth = self.forecast.growth();
        let newest = growth.recent().filter(|span| self.at.since(span.to) <= NEWEST);
        newest.map_or(0.0, |span| span.bytes_per_s).max(growth.fast())
    }

    fn time_to_limit(&self, level: Level) -> Duration {
        time_to_use(level.headroom_bytes, self.bytes_per_s())
    }

    /// It grows, and reaches the limit within `time`.
    fn outruns(&self, time: Duration) -> bool {
        let level = self.forecast.level();
        self.bytes_per_s() > AT_REST_BYTES_PER_S
            && level.is_some_and(|level| self.time_to_limit(level) < time)
    }

    fn has_room(&self) -> bool {
        self.forecast.level().is_some_and(|l| l.headroom_bytes >= l.limit_bytes / NO_HEADROOM_SHARE)
    }

    /// `can_be_held`: then there is time until the limit is near.
    fn runs_into_limit(&self, needed: Duration, can_be_held: bool) -> bool {
        let Some(level) = self.forecast.level() else { return false };
        let near = level.headroom_bytes <= level.limit_bytes / NEAR_SHARE || self.outruns(NEAR_TIME);
        let fast = self.forecast.out_of_memory_within(needed) && (near || !can_be_held);
        let (committed, headroom) = (level.committed_bytes, level.headroom_bytes);
        fast || self.slow_leak.reaches_the_limit(self.at, committed, headroom, level.limit_bytes)
    }

    /// Growth since a stop signal ordered at `ordered_at` had its effect reaches the limit within `time`.
    fn grows_on(&self, time: Duration, ordered_at: Mono) -> bool {
        let (Some(level), Some(span)) = (self.forecast.level(), self.forecast.growth().recent()) else {
            return false;
        };
        span.from >= ordered_at + SIGTERM_SETTLES
            && span.bytes_per_s > AT_REST_BYTES_PER_S
            && time_to_use(level.headroom_bytes, span.bytes_per_s) < time
    }
}

impl EvictionManager {
    /// `evicted`: this pod is just being evicted.
    pub(in super::super) fn container_steps(&self, evicted: Option<&PodUid>, now: Mono) -> Vec<EvictionStep> {
        let stops = self.container_stops(evicted, now).into_iter();
        let stops = stops.map(|stop| EvictionStep::StopContainer(Box::new(stop)));
        self.container_cuts(now).into_iter().chain(stops).collect()
    }

    /// Containers that come to their own limit; and where it is a pod's as a whole, the one that grows fastest in it.
    fn container_stops(&self, evicted: Option<&PodUid>, now: Mono) -> Vec<ContainerStop> {
        let (needed, limits) = (self.needed(), &self.limits);
        let stoppable = |c: &&LimitedContainer| {
            let ends = evicted == Some(&c.pod.uid) || self.evicting.contains_key(&c.pod.uid);
            c.stoppable && !ends && !limits.stopping.contains_key(&c.held())
        };
        let mut stops: Vec<ContainerStop> = Vec::new();
        for c in limits.containers.values().flatten().filter(stoppable) {
            let domain = c.domain();
            let Some(watched) = limits.fresh(&domain, now) else { continue };
            if c.begun || watched.runs_into_limit(needed, self.cfg.brake) {
                stops.push(self.container_stop(c, domain, watched));
            }
        }
        for domain in limits.watched.keys() {
            let Domain::Pod(uid) = domain else { continue };
            let busy = limits.stopping.keys().any(|held| held.pod == *uid)
                || stops.iter().any(|stop| stop.pod.uid == *uid);
            let fresh = || limits.fresh(domain, now).filter(|w| w.runs_into_limit(needed, self.cfg.brake));
            let Some(watched) = (!busy).then(fresh).flatten() else { continue };
            let rate =
                |c: &LimitedContainer| limits.watched.get(&c.domain()).map_or(0.0, Watched::bytes_per_s);
            let in_it = limits.containers.get(uid).into_iter().flatten().filter(stoppable);
            if let Some(fastest) = in_it.max_by(|a, b| rate(a).total_cmp(&rate(b))) {
                stops.push(self.container_stop(fastest, domain.clone(), watched));
            }
        }
        stops
    }

    fn container_stop(&self, c: &LimitedContainer, domain: Domain, watched: &Watched) -> ContainerStop {
        let numbers = self.limit_numbers(watched);
        ContainerStop {
            pod: c.pod.clone(),
            container: c.instance.clone(),
            grace: c.grace,
            brake: self.cfg.brake && watched.has_room() && watched.outruns(c.grace),
            message: stop_message(&domain, &numbers, c.grace),
            domain,
            numbers,
            caused_by: self.caused_by,
            read_at: watched.read_at,
        }
    }

    fn limit_numbers(&self, watched: &Watched) -> Numbers {
        let last = watched.last.as_ref();
        let available_bytes =
            last.map_or(0, |d| d.limit_bytes.unwrap_or(0).saturating_sub(d.working_set_bytes()));
        self.numbers_of(&watched.forecast, last, available_bytes)
    }

    /// As for evicted pods: one that would reach the limit before its grace ends is held first, and loses its grace where
    /// that does not help.
    fn container_cuts(&self, now: Mono) -> Vec<EvictionStep> {
        let cut = |(held, stopping): (&Held, &Stopping)| {
            let container = held.container.as_ref()?;
            if stopping.ended_at.is_some() || stopping.cut_at.is_some() || now >= stopping.grace_ends() {
                return None;
            }
            let early = now.since(stopping.ordered_at) < LEAST_GRACE;
            let needed =
                if early { KILL_TAKES.mul_f64(self.cfg.safety.clamp(1.0, 100.0)) } else { self.needed() };
            let left = stopping.grace_ends().since(now).min(needed);
            let state = self.brakes.state(held);
            let own = Domain::Container(held.pod.clone(), container.name.clone());
            let runs_out = |domain: &Domain| {
                let watched = self.limits.fresh(domain, now)?;
                let gone = match state {
                    Some((held_for, fails)) if held_for == domain => fails,
                    // It is hardly growing: the other one is used up by others.
                    Some(_) => !watched.has_room(),
                    None => watched.grows_on(left, stopping.ordered_at),
                };
                // A domain without a limit never runs out.
                (gone && watched.forecast.level().is_some()).then_some(watched)
            };
            let (domain, watched) = [own, Domain::Pod(held.pod.clone())]
                .into_iter()
                .find_map(|domain| runs_out(&domain).map(|watched| (domain, watched)))?;
            if state.is_none() && !stopping.no_brake {
                return self.hold_step(held, domain, watched);
            }
            Some(self.cut_step(stopping, container, watched))
        };
        self.limits.stopping.iter().filter_map(cut).collect()
    }

    fn hold_step(&self, held: &Held, domain: Domain, watched: &Watched) -> Option<EvictionStep> {
        let headroom_bytes = watched.forecast.level()?.headroom_bytes;
        Some(EvictionStep::Brake(BrakeStep {
            held: held.clone(),
            gear: Gear::Throttled { room_bytes: room_bytes(&domain, headroom_bytes) },
            reason: Reason::GrowthOutrunsGrace,
            domain,
            headroom_bytes,
            freezes: 0,
            frozen: Duration::ZERO,
            neighbour_of: None,
        }))
    }

    fn cut_step(
        &self,
        stopping: &Stopping,
        container: &ContainerInstance,
        watched: &Watched,
    ) -> EvictionStep {
        EvictionStep::CutContainerGrace {
            pod: stopping.pod.clone(),
            container: container.clone(),
            why: Reason::GraceCutShort,
            numbers: self.limit_numbers(watched),
        }
    }
}
