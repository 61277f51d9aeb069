//! Growth that is too slow to be seen in the seconds of a forecast, and goes on until the limit is reached: a leak of a few
//! hundred KiB a minute. A plateau does not go on, and neither does a burst that has ended.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Mono;

/// Below this share of the limit, and within these bounds, what is left is little enough to act on slow growth.
const FLOOR_SHARE: u64 = 32;
const FLOOR_LEAST: u64 = 2 << 20;
const FLOOR_MOST: u64 = 64 << 20;

/// Looked at over 12 s and over 12 minutes, in four quarters each: growth that shows in every one of them goes on.
const BUCKETS: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(15)];
const QUARTERS: usize = 4;
const BUCKETS_A_QUARTER: u32 = 12;
const BUCKETS_KEPT: usize = 48;

/// Each quarter must have this share of the headroom, and more than what a CPU's batch of charges is off by.
const STEP_SHARE: u64 = 16;
const STEP_LEAST: u64 = 64 << 10;

/// One that gave back this share of its limit by itself is known to live with as much as it had before.
const GIVES_BACK_SHARE: u64 = 64;

#[derive(Clone, Debug)]
pub(super) struct SlowLeak {
    histories: [History; 2],
    peak_bytes: u64,
    survived_bytes: u64,
}

impl Default for SlowLeak {
    fn default() -> Self {
        let histories = BUCKETS.map(|bucket| History { bucket, lows: VecDeque::new() });
        SlowLeak { histories, peak_bytes: 0, survived_bytes: 0 }
    }
}

impl SlowLeak {
    /// Takes in that `committed_bytes` were held at `at`.
    pub fn observe(&mut self, at: Mono, committed_bytes: u64, limit_bytes: u64) {
        for history in &mut self.histories {
            history.observe(at, committed_bytes);
        }
        if committed_bytes + limit_bytes / GIVES_BACK_SHARE <= self.peak_bytes {
            self.survived_bytes = self.survived_bytes.max(self.peak_bytes);
            self.peak_bytes = committed_bytes;
        } else {
            self.peak_bytes = self.peak_bytes.max(committed_bytes);
        }
    }

    /// Little is left, more is held than it ever gave back, and growth at the rate of one of the windows takes what is
    /// left within such a window.
    #[must_use]
    pub fn reaches_the_limit(
        &self,
        now: Mono,
        committed_bytes: u64,
        headroom_bytes: u64,
        limit_bytes: u64,
    ) -> bool {
        let floor = (limit_bytes / FLOOR_SHARE).clamp(FLOOR_LEAST, FLOOR_MOST);
        headroom_bytes < floor
            && committed_bytes > self.survived_bytes
            && self.histories.iter().any(|h| h.goes_on(now, committed_bytes, headroom_bytes))
    }
}

#[derive(Clone, Debug)]
struct History {
    bucket: Duration,
    /// Start of each bucket and the least that was seen in it.
    lows: VecDeque<(Mono, u64)>,
}

impl History {
    fn observe(&mut self, at: Mono, bytes: u64) {
        match self.lows.back_mut() {
            Some((start, low)) if at.since(*start) < self.bucket => *low = bytes.min(*low),
            _ => {
                if self.lows.len() == BUCKETS_KEPT {
                    self.lows.pop_front();
                }
                self.lows.push_back((at, bytes));
            }
        }
    }

    fn goes_on(&self, now: Mono, bytes: u64, headroom_bytes: u64) -> bool {
        let quarter = self.bucket * BUCKETS_A_QUARTER;
        // The least of each quarter, the newest first.
        let mut lows = [None; QUARTERS];
        for (start, low) in &self.lows {
            let age = now.since(*start).as_nanos() / quarter.as_nanos();
            if let Some(least) = usize::try_from(age).ok().and_then(|age| lows.get_mut(age)) {
                *least = Some(least.map_or(*low, |least: u64| least.min(*low)));
            }
        }
        let [Some(newest), Some(second), Some(third), Some(oldest)] = lows else { return false };
        let step = (headroom_bytes / STEP_SHARE).max(STEP_LEAST);
        let rises = |from: u64, to: u64| to >= from.saturating_add(step);
        rises(oldest, third)
            && rises(third, second)
            && rises(second, newest)
            && bytes.saturating_sub(oldest) >= headroom_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const LIMIT: u64 = 256 * MIB;

    /// Committed KiB by the second → the headroom in KiB at the first alarm.
    fn first_alarm(seconds: u64, committed_kib: impl Fn(u64) -> u64) -> Option<u64> {
        let mut slow_leak = SlowLeak::default();
        (0..seconds).find_map(|s| {
            let (at, committed) = (Mono::from_millis(s * 1000 + 1), committed_kib(s) * 1024);
            slow_leak.observe(at, committed, LIMIT);
            let headroom = LIMIT - committed;
            slow_leak.reaches_the_limit(at, committed, headroom, LIMIT).then_some(headroom / 1024)
        })
    }

    #[test]
    fn growth_that_goes_on_is_told_from_growth_that_has_ended() {
        let full = LIMIT / 1024;
        let ramp = |from_kib: u64, per_s: u64| move |s: u64| (from_kib + s * per_s).min(full - 1);
        for (what, found, expected) in [
            ("1 MiB/s", first_alarm(200, ramp(150 << 10, 1024)), Some(7168..=8192)),
            ("200 KiB/s", first_alarm(2_000, ramp(50 << 10, 200)), Some(7_900..=8192)),
            ("10 KiB/s", first_alarm(4_000, ramp(240 << 10, 10)), Some(5_000..=7_500)),
            ("1 KiB/s", first_alarm(20_000, ramp(255 << 10, 1)), Some(300..=800)),
            ("a plateau with 1 MiB left", first_alarm(3_000, |_| full - 1024), None),
            ("a burst to 1 MiB", first_alarm(3_000, |s| if s < 1500 { full / 2 } else { full - 1024 }), None),
            (
                "bursts of a second, 10 minutes apart",
                first_alarm(3_000, |s| full - 6144 + s / 600 * 1024),
                None,
            ),
            (
                "the first of a collector's cycles of 20 s, which may be a leak for all that is known",
                first_alarm(3_000, |s| full - 30_000 + s % 20 * 1200),
                Some(0..=8192),
            ),
            ("cycles of 5 s", first_alarm(3_000, |s| full - 30_000 + s % 5 * 5_500), None),
        ] {
            let fits = match (&found, &expected) {
                (Some(found), Some(range)) => range.contains(found),
                (None, None) => true,
                _ => false,
            };
            assert!(fits, "{what}: {found:?}, expected {expected:?}");
        }
    }

    #[test]
    fn what_it_gave_back_once_it_may_have_again() {
        // Up to 4 MiB, back to 12, and up again as slowly.
        let full = LIMIT / 1024;
        let committed = |s: u64| match s {
            0..=3 => full - 12_288,
            4 => full - 4_096,
            5..=30 => full - 12_288,
            s => (full - 12_288 + (s - 30) * 300).min(full - 1),
        };
        let found = first_alarm(100, committed).unwrap();
        assert!((3_000..4_096).contains(&found), "{found} KiB left");
    }
}
