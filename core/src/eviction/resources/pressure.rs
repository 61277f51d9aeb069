//! Which thresholds are met since when, and the conditions that follow.

use std::time::Duration;

use super::ResourceSignal;
use crate::clock::Mono;
use crate::eviction::threshold::{Threshold, ThresholdValue};

/// Why a condition is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PressureInfo {
    /// When it became true.
    pub since: Mono,
    /// When a threshold was last seen met.
    pub last_met: Mono,
    /// The signal of that threshold, with the numbers of that reading.
    pub signal: ResourceSignal,
    pub available: u64,
    pub threshold: u64,
}

/// A threshold against the newest reading.
#[derive(Clone, Debug)]
pub(super) struct ThresholdState {
    pub threshold: Threshold<ResourceSignal>,
    /// First of the readings in a row that met it. `None`: the newest one does not.
    pub met_since: Option<Mono>,
    pub newest: Option<Observed>,
}

/// In the signal's unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observed {
    pub threshold: u64,
    pub available: u64,
    pub capacity: u64,
}

impl ThresholdState {
    pub const fn new(threshold: Threshold<ResourceSignal>) -> Self {
        ThresholdState { threshold, met_since: None, newest: None }
    }

    /// `observed`: capacity and what is available. Where it could not be read, nothing is met.
    pub fn observe(&mut self, at: Mono, observed: Option<(u64, u64)>) {
        let Some((capacity, available)) = observed else {
            (self.met_since, self.newest) = (None, None);
            return;
        };
        let threshold = self.threshold.value.of(capacity);
        // Once it counted, it stays met until the minimum reclaim is there too.
        let reclaim =
            self.threshold.min_reclaim.filter(|_| self.counts(at)).unwrap_or(ThresholdValue::Bytes(0));
        let met = available < threshold.saturating_add(reclaim.of(capacity));
        self.met_since = met.then(|| self.met_since.unwrap_or(at));
        self.newest = Some(Observed { threshold, available, capacity });
    }

    /// Met, and for a soft threshold for as long as its grace period.
    pub fn counts(&self, now: Mono) -> bool {
        self.counts_from().is_some_and(|from| now >= from)
    }

    /// When it comes to count, or came to.
    pub fn counts_from(&self) -> Option<Mono> {
        self.met_since.map(|since| since + self.threshold.grace_period)
    }
}

/// A condition after a reading at `at`, from what it was before and the `thresholds` that make it true.
pub(super) fn condition<'a>(
    before: Option<PressureInfo>,
    thresholds: impl Iterator<Item = &'a ThresholdState>,
    at: Mono,
    transition_period: Duration,
) -> Option<PressureInfo> {
    let before = before.filter(|p| at.since(p.last_met) < transition_period);
    // A hard threshold says more than a soft one.
    let met = thresholds.filter(|t| t.met_since.is_some()).min_by_key(|t| !t.threshold.is_hard());
    let now = met.and_then(|t| {
        let Observed { threshold, available, .. } = t.newest?;
        let since = before.map_or(at, |p| p.since);
        Some(PressureInfo { since, last_met: at, signal: t.threshold.signal, available, threshold })
    });
    now.or(before)
}
