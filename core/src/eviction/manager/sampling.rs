//! When the next numbers are due, and how many.

use std::time::Duration;

use super::{Asked, EvictionManager};
use crate::clock::Mono;
use crate::eviction::ReadScope;
use crate::forecast::{MAX_RATE_BYTES_PER_S, MIN_SAMPLE_INTERVAL, time_to_use};
use crate::reason::Reason;
use crate::signal::Domain;

/// Closest that a kernel event brings two readings together: a reading takes about 0.1 ms, and a storm of events must
/// not keep a core busy with them.
pub(super) const MIN_HINT_INTERVAL: Duration = Duration::from_micros(500);

/// While a pod is being evicted: often enough to see within a few ms whether it stopped growing, for 3 % of a core.
pub(super) const EVICTING_INTERVAL: Duration = Duration::from_millis(3);

/// While one runs on a budget: at 6 GiB/s it takes 6 MiB between two looks.
pub(super) const THROTTLED_INTERVAL: Duration = Duration::from_millis(1);

/// A reading that has not come back by then is asked for again.
const READ_TIMEOUT: Duration = Duration::from_millis(100);

/// How often all pods are read: ten seconds while nothing grows, as cAdvisor's housekeeping has it; under growth eight
/// times until the memory would be gone, so that a decision knows which pod grew.
const PODS_INTERVAL_AT_REST: Duration = Duration::from_secs(10);
const PODS_INTERVAL_LEAST: Duration = Duration::from_millis(20);
const PODS_READINGS_TO_OOM: u32 = 8;

/// A shorter time without word of growth is not worth asking the kernel's side for.
const LEAST_QUIET: Duration = Duration::from_millis(50);

/// What every reading has.
const fn is_top(domain: &Domain) -> bool {
    matches!(domain, Domain::Node | Domain::Kubepods)
}

impl EvictionManager {
    /// When `plan` has to be called again if nothing happens before.
    #[must_use]
    pub fn next_wakeup(&self) -> Mono {
        let gears = self.brakes.next_wakeup().unwrap_or(Mono(u64::MAX));
        let (top_due, ..) = self.read_due();
        let due = self.limits_due().map_or(top_due, |(at, _)| at.min(top_due));
        let readings = match self.asked {
            // One that failed is asked for again, but not before numbers are due.
            Some(asked) => (asked.at + READ_TIMEOUT).max(due),
            None => due,
        };
        readings.min(gears)
    }

    /// The reading under way, unless it is overdue.
    pub(super) fn reading_under_way(&self, now: Mono) -> Option<Asked> {
        self.asked.filter(|asked| now < asked.at + READ_TIMEOUT)
    }

    /// When numbers are due, why, and since when a kernel event has wanted them. An event within the interval in which
    /// the last reading proves that nothing can have happened is answered by that reading; it wants new numbers from
    /// the end of the interval on.
    pub(super) fn read_due(&self) -> (Mono, Reason, Option<Mono>) {
        let Some(last) = self.top_at else { return (Mono::ZERO, Reason::SampleDue, None) };
        let mut due = last + self.sample_interval(self.cfg.assumed_max_rate_bytes_per_s);
        if self.evicting.values().any(|e| !e.written_off(last)) {
            due = due.min(self.evicting_due(self.brakes.any_running(is_top)));
        }
        let soft = self.thresholds.iter().filter_map(|t| t.counts_from()).filter(|at| *at > last).min();
        due = soft.map_or(due, |at| due.min(at));
        // What an evicted pod gave back, and whether that is enough.
        due = self.last_stopped.filter(|stopped| *stopped >= last).map_or(due, |stopped| due.min(stopped));

        if let Some(hint) = self.hint {
            // Without events the assumed rate holds. An event says that it does not: from the last sample on,
            // memory may have been going at the fastest rate possible.
            let interval = if hint.urgent {
                MIN_HINT_INTERVAL
            } else {
                self.sample_interval(MAX_RATE_BYTES_PER_S).max(MIN_HINT_INTERVAL)
            };
            let hinted = last + interval;
            if hinted <= due {
                return (hinted, Reason::KernelSignal, Some(hint.earliest.max(hinted)));
            }
        }
        (due, Reason::SampleDue, self.hint.map(|h| h.earliest).filter(|at| *at >= due))
    }

    /// Until when growth need not be told of as it happens: by the newest reading memory cannot have run short by then,
    /// however fast it goes, so that an event would change nothing. [`Mono::ZERO`]: it has to be told of. Of containers
    /// that are to stop before their own limit, and while somebody is being stopped, everything is.
    #[must_use]
    pub fn growth_unwanted_until(&self) -> Mono {
        let Some(last) = self.top_at else { return Mono::ZERO };
        let interval = self.sample_interval(MAX_RATE_BYTES_PER_S);
        let wanted = interval < LEAST_QUIET || self.limits.watches() || !self.evicting.is_empty();
        if wanted { Mono::ZERO } else { last + interval }
    }

    /// When numbers are due while a pod is being evicted. `on_budget`: it runs, on a budget.
    pub(super) fn evicting_due(&self, on_budget: bool) -> Mono {
        let interval = if on_budget { THROTTLED_INTERVAL } else { EVICTING_INTERVAL };
        self.top_at.map_or(Mono::ZERO, |last| last + interval)
    }

    /// Before the headroom could be gone, and when at the rate seen the next threshold or the forecast is reached.
    fn sample_interval(&self, max_rate_bytes_per_s: u64) -> Duration {
        let needed = self.needed();
        let thresholds = self.thresholds.iter().filter(|t| t.met_since.is_none()).filter_map(|t| {
            let (value, available, _) = t.newest?;
            let rate = self.domain(t.threshold.signal).forecast.growth().fast();
            Some(time_to_use(available.saturating_sub(value), rate))
        });
        let forecasts = self.top().into_iter().filter_map(|(_, d)| d.forecast.forecast()?.time_to_oom);
        let reached = thresholds.chain(forecasts.filter_map(|t| t.checked_sub(needed))).min();
        let due =
            self.top().into_iter().filter_map(|(_, d)| d.forecast.next_sample_in(max_rate_bytes_per_s)).min();
        let most = self.cfg.max_sample_interval.min(self.stalls.interval().unwrap_or(Duration::MAX));
        let most = most.max(MIN_SAMPLE_INTERVAL);
        due.into_iter().chain(reached).min().unwrap_or(most).clamp(MIN_SAMPLE_INTERVAL, most)
    }

    /// What a reading at `now` should take in.
    pub(super) fn scope_at(&self, now: Mono) -> ReadScope {
        let to_oom = self
            .top()
            .into_iter()
            .filter_map(|(_, d)| d.forecast.forecast()?.time_to_oom)
            .min()
            .unwrap_or(Duration::MAX);
        let mut interval = (to_oom / PODS_READINGS_TO_OOM).clamp(PODS_INTERVAL_LEAST, PODS_INTERVAL_AT_REST);
        if self.stalls.pods_watched() {
            // One less than the distance of two samples: which comes a little late, not one later.
            interval = interval.min(self.stalls.interval().unwrap_or(interval) * 9 / 10);
        }
        match self.pods_at {
            Some(at) if now.since(at) < interval => ReadScope::Top,
            _ => ReadScope::AllPods,
        }
    }
}
