//! Which thresholds are met since when, and the MemoryPressure condition that follows.

use std::time::Duration;

use crate::clock::Mono;
use crate::eviction::threshold::{Signal, Threshold, ThresholdValue};
use crate::forecast::Level;
use crate::signal::{Domain, DomainReading};

/// Why the MemoryPressure condition is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PressureInfo {
    /// When the condition became true.
    pub since: Mono,
    /// When a threshold was last seen met.
    pub last_met: Mono,
    /// The signal of the threshold last seen met, with the numbers of that reading.
    pub signal: Signal,
    pub available_bytes: u64,
    pub threshold_bytes: u64,
}

/// A threshold against the newest reading.
#[derive(Clone, Debug)]
pub(super) struct ThresholdState {
    pub threshold: Threshold,
    /// First of the readings in a row that met it. `None`: the newest one does not.
    pub met_since: Option<Mono>,
    /// Threshold and available bytes, and when they were read. `None` before the first reading with a limit.
    pub newest: Option<(u64, u64, Mono)>,
}

impl ThresholdState {
    pub fn new(threshold: Threshold) -> Self {
        ThresholdState { threshold, met_since: None, newest: None }
    }

    /// `available`: limit and what is left of it, of the domain that the signal speaks of, and when that was read; see
    /// [`available`]. Without a reading or a limit there is no signal, and the threshold is not met.
    pub fn observe(&mut self, available: Option<(u64, u64, Mono)>) {
        let Some((limit, available, at)) = available else {
            (self.met_since, self.newest) = (None, None);
            return;
        };
        let value = self.threshold.value.of(limit);
        // Once it counted, it stays met until the minimum reclaim is there too.
        let reclaim =
            self.threshold.min_reclaim.filter(|_| self.counts(at)).unwrap_or(ThresholdValue::Bytes(0));
        let met = available < value.saturating_add(reclaim.of(limit));
        self.met_since = met.then(|| self.met_since.unwrap_or(at));
        self.newest = Some((value, available, at));
    }

    /// Met, and for a soft threshold for as long as its grace period.
    pub fn counts(&self, now: Mono) -> bool {
        self.met_since.is_some_and(|since| now.since(since) >= self.threshold.grace_period)
    }

    /// When a soft threshold that is met now comes to count.
    pub fn counts_from(&self) -> Option<Mono> {
        self.met_since.map(|since| since + self.threshold.grace_period)
    }
}

/// What kubelet calls available: limit − working set (cAdvisor's), or the forecast's headroom where that is more. kubelet
/// takes every active file page for used, so that one who reads files is evicted with memory left (kubernetes#43916); the
/// headroom has half of them, unless they come back as soon as they are reclaimed (`comes_back_bytes`) because pods take
/// their place.
///
/// For the node no more than the kernel's own estimate `MemAvailable`: kubelet takes every inactive file page for free, and
/// with the multi-gen LRU (Linux 6.1 and later, where it is on) nearly all are called inactive. A node of 1 GiB then reads
/// as having twice of what is left, and thrashes before its threshold is met.
///
/// Where the root cgroup's statistics are stale, `MemAvailable`, which is of counters of its own, counts alone, if it is bad news
/// (`is_bad_news`); else nothing new is known: `None`. `Some(None)`: the domain has no limit.
pub(super) fn available(
    domain: &DomainReading,
    comes_back_bytes: u64,
    mem_available_bytes: u64,
    is_bad_news: impl FnOnce(u64) -> bool,
) -> Option<Option<u64>> {
    let is_node = domain.domain == Domain::Node;
    if is_node && domain.is_stale() {
        return is_bad_news(mem_available_bytes).then_some(Some(mem_available_bytes));
    }
    let of = |level: Level| {
        let available = level.limit_bytes.saturating_sub(domain.working_set_bytes());
        let available = available.max(level.headroom_bytes);
        if is_node { available.min(mem_available_bytes) } else { available }
    };
    Some(Level::of_cgroup(domain, comes_back_bytes).map(of))
}

/// The condition after a reading at `at`, from what it was before.
pub(super) fn condition(
    before: Option<PressureInfo>,
    thresholds: &[ThresholdState],
    at: Mono,
    transition_period: Duration,
) -> Option<PressureInfo> {
    let before = before.filter(|p| at.since(p.last_met) < transition_period);
    // A hard threshold says more than a soft one.
    let met = thresholds.iter().filter(|t| t.met_since.is_some()).min_by_key(|t| !t.threshold.is_hard());
    let now = met.and_then(|t| {
        let (threshold_bytes, available_bytes, read_at) = t.newest?;
        let since = before.map_or(read_at, |p| p.since);
        Some(PressureInfo {
            since,
            last_met: read_at,
            signal: t.threshold.signal,
            available_bytes,
            threshold_bytes,
        })
    });
    now.or(before)
}
