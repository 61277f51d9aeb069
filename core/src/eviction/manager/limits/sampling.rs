//! When the numbers of a container or pod that is near its own limit are due. Each has its own time: an idle one costs little.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::EvictionManager;
use super::super::sampling::{EVICTING_INTERVAL, MIN_HINT_INTERVAL, THROTTLED_INTERVAL};
use super::{Stopping, Watched};
use crate::clock::Mono;
use crate::eviction::EvictionStep;
use crate::forecast::{MAX_RATE_BYTES_PER_S, MIN_SAMPLE_INTERVAL, time_to_use};
use crate::pod::PodUid;
use crate::reason::Reason;
use crate::signal::Domain;

/// Closest together that one is read which does not grow and of which no kernel event tells: at 1 GiB/s a container takes
/// 20 MiB in between.
const QUIET_INTERVAL: Duration = Duration::from_millis(20);

/// One that grows is read so many times until it would reach its limit.
const READINGS_TO_LIMIT: u32 = 4;

/// One without a limit is read to see whether it still has none.
const UNLIMITED_INTERVAL: Duration = Duration::from_secs(10);

/// One that has just started has its cgroup looked up within a few of these.
const ABSENT_INTERVAL: Duration = Duration::from_millis(100);

/// What is due this soon is read along.
const TOGETHER: Duration = Duration::from_millis(1);

/// Past its end a container that was told to stop is not looked at as closely any more.
const LOOKED_AT_AFTER_END: Duration = Duration::from_secs(1);

impl Watched {
    fn interval(&self, assumed_bytes_per_s: u64, most: Duration) -> Duration {
        let (Some(level), Some(assumed)) =
            (self.forecast.level(), self.forecast.next_sample_in(assumed_bytes_per_s))
        else {
            return if self.last.is_some() { UNLIMITED_INTERVAL } else { ABSENT_INTERVAL };
        };
        if self.forecast.waits_for_statistics() {
            return MIN_SAMPLE_INTERVAL;
        }
        let seen = time_to_use(level.headroom_bytes, self.bytes_per_s()) / READINGS_TO_LIMIT;
        assumed.max(QUIET_INTERVAL).min(seen).clamp(MIN_SAMPLE_INTERVAL, most)
    }
}

impl Stopping {
    fn is_over(&self, now: Mono) -> bool {
        let end = self.cut_at.unwrap_or(self.grace_ends()).min(self.grace_ends());
        self.ended_at.is_some() || now.since(end) >= LOOKED_AT_AFTER_END
    }
}

fn pod_of(domain: &Domain) -> Option<&PodUid> {
    match domain {
        Domain::Pod(uid) | Domain::Container(uid, _) => Some(uid),
        Domain::Node | Domain::Kubepods => None,
    }
}

impl EvictionManager {
    /// When the first is due, and since when a kernel event has wanted it.
    pub(in super::super) fn limits_due(&self) -> Option<(Mono, Option<Mono>)> {
        self.limits.watched.iter().map(|(domain, watched)| self.limit_due(domain, watched)).min()
    }

    fn limit_due(&self, domain: &Domain, watched: &Watched) -> (Mono, Option<Mono>) {
        let most = self.cfg.max_sample_interval.max(MIN_SAMPLE_INTERVAL);
        let mut due = watched.at + watched.interval(self.cfg.assumed_max_rate_bytes_per_s, most);
        if self.stops_in(domain, watched.at) {
            let on_budget = self.brakes.any_running(|held_for| pod_of(held_for) == pod_of(domain));
            due = due.min(watched.at + if on_budget { THROTTLED_INTERVAL } else { EVICTING_INTERVAL });
        }
        let Some(hint) = watched.hint else { return (due, None) };
        // Without events the assumed rate holds. An event says that it does not.
        let interval = if hint.urgent {
            MIN_HINT_INTERVAL
        } else {
            let fastest = watched.forecast.next_sample_in(MAX_RATE_BYTES_PER_S);
            fastest.unwrap_or(most).clamp(MIN_SAMPLE_INTERVAL, most)
        };
        let hinted = watched.at + interval;
        if hinted <= due { (hinted, Some(hint.earliest.max(hinted))) } else { (due, None) }
    }

    /// A container is being stopped in this domain.
    fn stops_in(&self, domain: &Domain, at: Mono) -> bool {
        self.limits.stopping.iter().any(|(held, stopping)| {
            let name = held.container.as_ref().map(|c| c.name.as_str());
            let concerns = match domain {
                Domain::Container(_, container) => Some(container.as_str()) == name,
                _ => true,
            };
            Some(&held.pod) == pod_of(domain) && concerns && !stopping.is_over(at)
        })
    }

    /// The reading that is due, or that follows from these steps, which change how soon the next one is.
    pub(in super::super) fn limits_reading(&self, steps: &[EvictionStep], now: Mono) -> Option<EvictionStep> {
        let (due, hinted) = self.limits_due()?;
        let touched = steps.iter().filter_map(|step| match step {
            EvictionStep::Brake(step) => step.held.container.as_ref().map(|_| &step.held.pod),
            EvictionStep::StopContainer(stop) => Some(&stop.pod.uid),
            EvictionStep::CutContainerGrace { pod, .. } => Some(&pod.uid),
            _ => None,
        });
        let mut pods: BTreeSet<&PodUid> = touched.collect();
        if now >= due {
            // A pod with all its containers: its counters are told from theirs.
            let watched = self.limits.watched.iter();
            let due = watched.filter(|(domain, w)| self.limit_due(domain, w).0 <= now + TOGETHER);
            pods.extend(due.filter_map(|(domain, _)| pod_of(domain)));
        }
        let of_these = |domain: &&Domain| pod_of(domain).is_some_and(|pod| pods.contains(pod));
        let domains: Vec<Domain> = self.limits.watched.keys().filter(of_these).cloned().collect();
        let caused_by = hinted.filter(|_| now >= due);
        let why = if caused_by.is_some() { Reason::KernelSignal } else { Reason::SampleDue };
        (!domains.is_empty()).then_some(EvictionStep::ReadLimits { why, caused_by, domains })
    }
}
