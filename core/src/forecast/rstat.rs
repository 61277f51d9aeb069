//! How long to wait for a domain's `memory.stat` when it is stale: the usage has moved and the statistics have not, because
//! the kernel has not flushed its per-CPU counts (rstat) into this cgroup yet. Owns since when that is so; reads readings and
//! the level before; says whether to wait.

use std::time::Duration;

use super::{Level, NOISE_SHARE};
use crate::clock::Mono;
use crate::signal::DomainReading;

/// The kernel flushes all statistics every two seconds (`FLUSH_TIME` in mm/memcontrol.c), later only on a machine that is
/// busy with worse. What is not told by then is memory that the statistics do not speak of, such as the kernel's own on
/// cgroup v1.
const KERNEL_FLUSHES_WITHIN: Duration = Duration::from_millis(2500);

/// Share of the headroom that may go while statistics are waited for. They come once a few hundred pages more are charged.
const HEADROOM_SHARE: u64 = 4;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RstatWait {
    /// As of the last reading that was taken in.
    usage_bytes: u64,
    usage_is_as_before: bool,
    /// By how much usage has risen since, by the last reading that was ignored.
    ignored_bytes: u64,
    /// When the first of the stale readings in a row was taken, and the usage then.
    first: Option<(Mono, u64)>,
    waits: bool,
}

impl RstatWait {
    /// `r` may be ignored until its file numbers have caught up with its usage: they do so at once where memory goes on being
    /// charged, anonymous memory as well as page cache. `level`: of the last reading that was taken in.
    pub(super) fn is_worth_waiting(&mut self, at: Mono, r: &DomainReading, level: Option<Level>) -> bool {
        if r.is_stale() {
            let (since, usage_then) = *self.first.get_or_insert((at, r.usage_bytes));
            let may_go = level.map_or(0, |l| {
                let left = l.headroom_bytes.saturating_sub(usage_then.saturating_sub(self.usage_bytes));
                (l.limit_bytes / NOISE_SHARE).min(left / HEADROOM_SHARE)
            });
            self.waits = level.is_some()
                && at.since(since) < KERNEL_FLUSHES_WITHIN
                && r.usage_bytes.abs_diff(usage_then) <= may_go;
        } else {
            (self.first, self.waits) = (None, false);
        }
        if self.waits {
            self.ignored_bytes = r.usage_bytes.saturating_sub(self.usage_bytes);
        } else {
            self.takes(r.usage_bytes);
        }
        self.waits
    }

    fn takes(&mut self, usage_bytes: u64) {
        self.usage_is_as_before = self.usage_bytes == usage_bytes;
        self.usage_bytes = usage_bytes;
    }

    /// A reading is taken in, come what may.
    pub(super) fn waits_no_more(&mut self, r: &DomainReading) {
        (self.first, self.waits) = (None, false);
        self.takes(r.usage_bytes);
    }

    /// The last reading that was taken in had the usage of the one before.
    pub(super) const fn usage_is_as_before(&self) -> bool {
        self.usage_is_as_before
    }

    /// What a reading that was ignored had more in use than the last that was not.
    pub(super) const fn ignored_bytes(&self) -> u64 {
        self.ignored_bytes
    }

    /// The last reading was ignored.
    pub(super) const fn waits(&self) -> bool {
        self.waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::{DomainForecast, MAX_RATE_BYTES_PER_S};
    use crate::signal::{Domain, StatAge};

    const MIB: u64 = 1 << 20;

    fn reading(usage: u64, inactive: u64, lags: bool) -> DomainReading {
        DomainReading {
            domain: Domain::Kubepods,
            usage_bytes: usage * MIB,
            inactive_file_bytes: inactive * MIB,
            active_file_bytes: 0,
            dirty_bytes: 0,
            refaults: 0,
            statistics: if lags { StatAge::Stale } else { StatAge::New },
            limit_bytes: Some(1024 * MIB),
            oom_kills: 0,
        }
    }

    #[test]
    fn statistics_that_lag_are_waited_for_but_not_for_long() {
        // Time, usage, inactive file, stale: taken in?
        for (readings, taken) in [
            // Page cache that is told of 6 ms late.
            (
                &[(0, 700, 0, false), (2, 703, 0, true), (4, 705, 0, true), (6, 707, 7, false)][..],
                &[true, false, false, true][..],
            ),
            // It is stale again, and is waited for again.
            (
                &[(0, 700, 0, false), (2, 703, 0, true), (4, 705, 5, false), (6, 709, 5, true)],
                &[true, false, true, false],
            ),
            // Goes on growing, and nothing comes: 16 MiB are a 64th of the limit.
            (
                &[
                    (0, 700, 0, false),
                    (2, 720, 0, true),
                    (4, 736, 0, true),
                    (6, 737, 0, true),
                    (8, 738, 0, true),
                ],
                &[true, false, false, true, true],
            ),
            // A quarter of the headroom is less than that.
            (
                &[(0, 1000, 0, false), (2, 1002, 0, true), (4, 1007, 0, true), (6, 1008, 0, true)],
                &[true, false, false, true],
            ),
            // Stands still, and nothing comes.
            (
                &[(0, 700, 0, false), (2, 703, 0, true), (2501, 703, 0, true), (2502, 703, 0, true)],
                &[true, false, false, true],
            ),
            // There is nothing older to go by.
            (&[(0, 700, 0, true), (2, 700, 0, true)], &[true, false]),
        ] {
            let mut d = DomainForecast::default();
            let mut got = Vec::new();
            for (ms, usage, inactive, lags) in readings {
                let taken = d.observe_cgroup(Mono::from_millis(1 + ms), &reading(*usage, *inactive, *lags));
                assert_eq!(
                    d.next_sample_in(MAX_RATE_BYTES_PER_S) == Some(Duration::ZERO),
                    !taken,
                    "{readings:?} at {ms}"
                );
                got.push(taken);
            }
            assert_eq!(got, taken, "{readings:?}");
        }
    }

    #[test]
    fn one_that_was_taken_in_come_what_may_begins_no_wait_and_ends_one() {
        let mut d = DomainForecast::default();
        assert!(d.observe_cgroup(Mono::from_millis(1), &reading(700, 0, false)));
        assert!(!d.observe_cgroup(Mono::from_millis(3), &reading(703, 0, true)));
        d.observe_cgroup_as_it_is(Mono::from_millis(5), &reading(705, 0, true));
        assert!(!d.waits_for_statistics());
        // Long after, it is another wait.
        assert!(!d.observe_cgroup(Mono::from_millis(5_000), &reading(707, 0, true)));
    }
}
