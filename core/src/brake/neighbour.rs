//! The neighbour throttle: a pod that is not evicted itself, but grows within its request while another pod is evicted for
//! the memory, would use up what the victim's SIGTERM handler needs. It is frozen and run on a growth budget until the victim
//! has ended. It has done nothing wrong and lives on, so it stands still for a short time only.

use std::time::Duration;

use crate::clock::Mono;
use crate::pod::PodUid;

/// For how long a pod is held for the sake of another, and for how long it may stand still for others' sake within
/// [`BACK_OFF`]: less than a second, the shortest timeout that a probe can have (`timeoutSeconds`).
pub const LONGEST_NEIGHBOUR_THROTTLE: Duration = Duration::from_millis(900);

/// Once it has stood still for as long as one may, it runs for this, whatever it takes: enough for all its threads to have
/// had their turn.
pub(super) const SHORTEST_RUN: Duration = Duration::from_millis(3);

/// One that took nothing while it was held was a false alarm, and is not held for others again for this long: the default
/// period of a probe (`periodSeconds`).
pub(super) const BACK_OFF: Duration = Duration::from_secs(10);

/// What goes while a pod runs, and counts as growth.
const LEAST_GROWTH: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub(super) struct NeighbourThrottle {
    /// Who is evicted.
    pub victim: PodUid,
    /// The end of its grace, over which the budget is spread, as the victim's own is.
    pub grace_ends: Mono,
    /// The headroom at the beginning, the least since, and where it was let run last.
    start_bytes: u64,
    least_bytes: u64,
    run_from_bytes: u64,
    /// Since when it has been held so again and again, and for how long it had stood still before this time.
    series_since: Mono,
    frozen_before: Duration,
}

impl NeighbourThrottle {
    /// `before`: the last time, and how long it stood still in it.
    pub fn new(
        victim: &PodUid,
        grace_ends: Mono,
        headroom_bytes: u64,
        before: Option<(&NeighbourThrottle, Duration)>,
        now: Mono,
    ) -> NeighbourThrottle {
        let lately = before.filter(|(before, _)| now.since(before.series_since) < BACK_OFF);
        NeighbourThrottle {
            victim: victim.clone(),
            grace_ends,
            start_bytes: headroom_bytes,
            least_bytes: headroom_bytes,
            run_from_bytes: headroom_bytes,
            series_since: lately.map_or(now, |(before, _)| before.series_since),
            frozen_before: lately.map_or(Duration::ZERO, |(before, frozen)| before.frozen_before + frozen),
        }
    }

    /// How long it may be held yet.
    pub fn longest(&self) -> Duration {
        LONGEST_NEIGHBOUR_THROTTLE.saturating_sub(self.frozen_before)
    }

    /// It may be held again right after this time, in which it stood still for so long.
    pub fn may_follow(&self, frozen: Duration, least: Duration) -> bool {
        self.has_taken() && self.longest().saturating_sub(frozen) > least
    }

    pub fn observe(&mut self, headroom_bytes: u64) {
        self.least_bytes = self.least_bytes.min(headroom_bytes);
    }

    /// It is let run.
    pub fn runs(&mut self, headroom_bytes: u64) {
        self.run_from_bytes = headroom_bytes;
    }

    /// Since it was let run last.
    pub fn has_grown(&self, headroom_bytes: u64) -> bool {
        headroom_bytes + LEAST_GROWTH < self.run_from_bytes
    }

    /// There is less than at the beginning.
    pub fn is_short(&self, headroom_bytes: u64) -> bool {
        headroom_bytes + LEAST_GROWTH < self.start_bytes
    }

    /// It was no false alarm.
    pub fn has_taken(&self) -> bool {
        self.is_short(self.least_bytes)
    }
}
