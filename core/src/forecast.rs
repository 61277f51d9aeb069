//! When will a domain be out of memory? Owns each domain's headroom and growth, reads the sampler's numbers,
//! emits a [`Forecast`] and the time by which the next sample is due.
//!
//! Page cache never counts as growth: the kernel reclaims it before it kills. Growth is that of the *committed*
//! bytes (usage without file pages; tmpfs is not file pages and counts), headroom is what committed bytes could
//! still take.

pub mod refault;
mod rstat;
pub mod time_to_free;

use std::time::Duration;

use refault::Refaults;
use rstat::RstatWait;

use crate::clock::Mono;
use crate::signal::window::Growth;
use crate::signal::{DomainReading, StatAge};

/// Fastest that memory is assumed to be consumed when nothing but samples tells of it: about what two memory
/// channels of a server take when every core zeroes fresh pages.
pub const MAX_RATE_BYTES_PER_S: u64 = 6 << 30;

/// Fastest that memory is assumed to be consumed without an event telling of it while the growth programs are loaded.
/// They count page faults, and not all growth is faults that they see: writes to tmpfs charge pages without a fault,
/// MAP_POPULATE and mlock fault without the perf event, and a huge page is one fault of 2 MiB. What one CPU writes to
/// tmpfs in a second is about 1 GiB.
#[must_use]
pub fn max_rate_with_growth_events_bytes_per_s(cpus: usize) -> u64 {
    MAX_RATE_BYTES_PER_S.min((cpus as u64) << 30)
}

/// Closest together that samples are taken unprompted. One sample costs about 0.1 ms, so 5 % of one core at worst.
pub const MIN_SAMPLE_INTERVAL: Duration = Duration::from_millis(2);

/// A sample is due when this share of the headroom could be gone, so that what is left pays for acting on it.
const SAMPLE_SHARE: f64 = 0.5;

/// Stale statistics are asked for again at once where, be everything memory in use, the headroom could be gone by then.
/// Where it could not, they come with the next sample.
const STATISTICS_URGENT_WITHIN: Duration = Duration::from_secs(2);

/// A forecast reaches no further than what has been seen: it counts once the domain gained this many times the
/// headroom that is left. A burst that ends while it leaves more than half of what it took is then never acted on.
const EVIDENCE: u64 = 2;

/// History that counts as evidence, in units of the time that acting needs. A steady leak gains three times what
/// it will gain until the end, which satisfies [`EVIDENCE`].
const EVIDENCE_WINDOW: u32 = 3;

/// Gains under this share of the limit are noise: charge batches and counters that are flushed late (`memory.stat` is up to
/// 64 pages a CPU behind `memory.current`).
const NOISE_SHARE: u64 = 64;

/// Room and use of one domain at one moment. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    pub limit_bytes: u64,
    pub headroom_bytes: u64,
    pub committed_bytes: u64,
}

impl Level {
    /// A cgroup's: headroom = limit − usage + reclaimable. Reclaimable is all inactive file pages and half of the
    /// active ones (the kernel would take them all, but a workload that refaults them thrashes long before), of those
    /// no more than what does not come back within a second (`comes_back_bytes`), and of what is dirty half: the kernel writes
    /// it before it kills, but that takes its time. Reclaim that meets a dirty page calls it active (`shrink_folio_list`), so
    /// the larger of the two is left out and not both. What comes back counts up to what is committed: so much may have
    /// crowded it out, whereas who touches more than ever fits refaults in an empty domain, too, and the kernel does not kill
    /// for it. For the same reason inactive pages count whatever is refaulted. `None` without a limit.
    #[must_use]
    pub fn of_cgroup(r: &DomainReading, comes_back_bytes: u64) -> Option<Level> {
        let limit_bytes = r.limit_bytes?;
        let crowded_out = comes_back_bytes.min(committed_bytes(r));
        let active = (r.active_file_bytes / 2).min(r.active_file_bytes.saturating_sub(crowded_out));
        let left_out = r.active_file_bytes.saturating_sub(active).max(r.dirty_bytes / 2);
        let reclaimable = (r.inactive_file_bytes + r.active_file_bytes).saturating_sub(left_out);
        Some(Level {
            limit_bytes,
            headroom_bytes: limit_bytes.saturating_sub(r.usage_bytes.saturating_sub(reclaimable)),
            committed_bytes: committed_bytes(r),
        })
    }

    /// The node's: headroom is MemAvailable, from which the kernel has already taken the watermarks
    /// (`si_mem_available`). `None` when MemTotal was not read.
    #[must_use]
    pub fn of_node(r: &DomainReading, mem_available_bytes: u64) -> Option<Level> {
        let limit_bytes = r.limit_bytes?;
        Some(Level {
            limit_bytes,
            headroom_bytes: mem_available_bytes.min(limit_bytes),
            committed_bytes: limit_bytes.saturating_sub(mem_available_bytes),
        })
    }
}

/// Usage without file pages: what only its owner can give back.
#[must_use]
pub fn committed_bytes(r: &DomainReading) -> u64 {
    r.usage_bytes.saturating_sub(r.inactive_file_bytes + r.active_file_bytes)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    pub headroom_bytes: u64,
    pub fast_rate_bytes_per_s: u64,
    pub slow_rate_bytes_per_s: u64,
    /// Headroom over the fast rate, when both averages grow.
    pub time_to_oom: Option<Duration>,
}

/// One domain's growth and newest level.
#[derive(Clone, Debug, Default)]
pub struct DomainForecast {
    growth: Growth,
    level: Option<Level>,
    refaults: Refaults,
    rstat: RstatWait,
}

impl DomainForecast {
    /// A cgroup's numbers as read at `at`. `false`: its statistics are stale, and are worth waiting for; nothing
    /// has been taken in, and the next reading is due at once.
    pub fn observe_cgroup(&mut self, at: Mono, r: &DomainReading) -> bool {
        if self.rstat.is_worth_waiting(at, r, self.level) {
            return false;
        }
        if r.statistics == StatAge::AsBefore && !self.rstat.usage_is_as_before() {
            // What the kernel holds back would be growth now, and page cache again when it tells. It is little: the level may have it.
            self.level = Level::of_cgroup(r, self.refaults.comes_back_bytes());
        } else {
            self.take_in(at, r);
        }
        true
    }

    /// Whether its statistics are stale or not: what is page cache is growth then until they have come.
    pub fn observe_cgroup_as_it_is(&mut self, at: Mono, r: &DomainReading) {
        self.rstat.waits_no_more(r);
        self.take_in(at, r);
    }

    fn take_in(&mut self, at: Mono, r: &DomainReading) {
        self.refaults.observe(at, r.refaults);
        let level = Level::of_cgroup(r, self.refaults.comes_back_bytes());
        self.observe(at, committed_bytes(r), level);
    }

    /// The last reading was not taken in.
    #[must_use]
    pub fn waits_for_statistics(&self) -> bool {
        self.rstat.waits()
    }

    /// The node's, with `MemAvailable`.
    pub fn observe_node(&mut self, at: Mono, r: &DomainReading, mem_available_bytes: u64) {
        self.refaults.observe(at, r.refaults);
        let level = Level::of_node(r, mem_available_bytes);
        self.observe(at, level.map_or(r.usage_bytes, |l| l.committed_bytes), level);
    }

    /// Of the file cache, what comes back within a second.
    #[must_use]
    pub fn comes_back_bytes(&self) -> u64 {
        self.refaults.comes_back_bytes()
    }

    /// `level` as read at `at`; `None` while the domain has no limit.
    pub fn observe(&mut self, at: Mono, committed_bytes: u64, level: Option<Level>) {
        self.growth.observe(at, committed_bytes);
        self.level = level;
    }

    #[must_use]
    pub fn growth(&self) -> &Growth {
        &self.growth
    }

    #[must_use]
    pub fn level(&self) -> Option<Level> {
        self.level
    }

    /// `None` for a domain without a limit.
    #[must_use]
    pub fn forecast(&self) -> Option<Forecast> {
        let headroom_bytes = self.level?.headroom_bytes;
        let fast = self.growth.fast();
        Some(Forecast {
            headroom_bytes,
            fast_rate_bytes_per_s: fast as u64,
            slow_rate_bytes_per_s: self.growth.slow() as u64,
            time_to_oom: self.growth.grows().then(|| time_to_use(headroom_bytes, fast)),
        })
    }

    /// The domain will be out of memory within `needed`, and it has grown enough for that to be more than a guess.
    #[must_use]
    pub fn out_of_memory_within(&self, needed: Duration) -> bool {
        let (Some(level), Some(forecast)) = (self.level, self.forecast()) else { return false };
        let evidence = (EVIDENCE * level.headroom_bytes).max(level.limit_bytes / NOISE_SHARE);
        forecast.time_to_oom.is_some_and(|t| t < needed)
            && self.growth.gained_within(needed * EVIDENCE_WINDOW) >= evidence
    }

    /// How soon the next sample is due, were memory consumed at `max_rate_bytes_per_s` or at twice the rate seen,
    /// whichever is more. `None` for a domain without a limit.
    #[must_use]
    pub fn next_sample_in(&self, max_rate_bytes_per_s: u64) -> Option<Duration> {
        let rate = (max_rate_bytes_per_s as f64).max(2.0 * self.growth.fast());
        if self.rstat.waits() {
            // All that usage has risen by may be memory in use.
            let left = self.level?.headroom_bytes.saturating_sub(self.rstat.ignored_bytes());
            let lasts = time_to_use(left, rate);
            let at_once = lasts < STATISTICS_URGENT_WITHIN;
            return Some(if at_once { Duration::ZERO } else { lasts.mul_f64(SAMPLE_SHARE) });
        }
        Some(time_to_use(self.level?.headroom_bytes, rate).mul_f64(SAMPLE_SHARE))
    }
}

/// Time in which `bytes` are used up. An hour is as good as never, and keeps sums of times in range.
pub(crate) fn time_to_use(bytes: u64, bytes_per_s: f64) -> Duration {
    const NEVER: Duration = Duration::from_secs(3600);
    if bytes_per_s <= 0.0 {
        return NEVER;
    }
    Duration::try_from_secs_f64(bytes as f64 / bytes_per_s).map_or(NEVER, |t| t.min(NEVER))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::signal::Domain;

    const MIB: u64 = 1 << 20;
    const NEEDED: Duration = Duration::from_millis(600);

    fn reading(usage: u64, inactive: u64, active: u64, dirty: u64) -> DomainReading {
        DomainReading {
            domain: Domain::Kubepods,
            usage_bytes: usage * MIB,
            inactive_file_bytes: inactive * MIB,
            active_file_bytes: active * MIB,
            dirty_bytes: dirty * MIB,
            refaults: 0,
            statistics: StatAge::New,
            limit_bytes: Some(300 * MIB),
            oom_kills: 0,
        }
    }

    #[test]
    fn headroom_counts_what_the_kernel_would_reclaim() {
        for (r, headroom, committed) in [
            (reading(100, 0, 0, 0), 200, 100),
            (reading(300, 200, 0, 0), 200, 100),
            (reading(300, 0, 200, 0), 100, 100),
            (reading(300, 200, 0, 150), 125, 100),
            // Somebody writes a file larger than the limit.
            (reading(300, 250, 0, 250), 125, 50),
            // Reclaim has met it all, and its pages count as active.
            (reading(300, 0, 250, 250), 125, 50),
            (reading(300, 100, 100, 60), 150, 100),
            (reading(300, 10, 0, 20), 0, 290),
            (reading(310, 0, 0, 0), 0, 310),
        ] {
            let level = Level::of_cgroup(&r, 0).unwrap();
            assert_eq!(
                (level.headroom_bytes / MIB, level.committed_bytes / MIB),
                (headroom, committed),
                "{r:?}"
            );
        }
        let unlimited = DomainReading { limit_bytes: None, ..reading(100, 0, 0, 0) };
        assert_eq!(Level::of_cgroup(&unlimited, 0), None);
        let node = DomainReading { domain: Domain::Node, ..reading(280, 200, 0, 0) };
        let level = Level::of_node(&node, 190 * MIB).unwrap();
        assert_eq!((level.headroom_bytes / MIB, level.committed_bytes / MIB), (190, 110));
    }

    #[test]
    fn cache_that_comes_back_is_no_headroom() {
        // Of 300 MiB that are used up.
        for (inactive, active, comes_back, headroom) in [
            (0, 200, 0, 100),
            (0, 200, 100, 100),
            (0, 120, 80, 40),
            (0, 120, 1000, 0),
            // A reader of more than fits: its pages are inactive, and taking them costs it nothing more.
            (200, 0, 1000, 200),
            (100, 100, 80, 120),
            // More is touched than would fit without the 20 MiB that are committed.
            (0, 280, 1000, 140),
            (80, 200, 1000, 180),
            (0, 200, 1000, 100),
            (0, 160, 1000, 20),
        ] {
            let level = Level::of_cgroup(&reading(300, inactive, active, 0), comes_back * MIB).unwrap();
            assert_eq!(level.headroom_bytes / MIB, headroom, "{inactive} {active} {comes_back}");
        }
        let mut d = DomainForecast::default();
        let mut headroom = Vec::new();
        for ms in (0..3000u64).step_by(10) {
            // Read again at 1 GiB/s from the second second on.
            let refaults = 3 + 2570 * (ms / 10).saturating_sub(100);
            d.observe_cgroup(Mono::from_millis(ms), &DomainReading { refaults, ..reading(300, 0, 100, 0) });
            headroom.push(d.level().unwrap().headroom_bytes / MIB);
        }
        assert_eq!((headroom[100], headroom[299]), (50, 0));
    }

    /// Grows from `base` by `rate` MiB/s for `grow_ms`, sampled every 5 ms; the usage (MiB) at the first alarm.
    fn first_alarm(base: u64, rate: u64, grow_ms: u64) -> Option<u64> {
        let mut d = DomainForecast::default();
        for ms in (0..grow_ms + 1000).step_by(5) {
            let usage = base * MIB + rate * ms.min(grow_ms) * MIB / 1000;
            let r = DomainReading { usage_bytes: usage, ..reading(0, 0, 0, 0) };
            d.observe_cgroup(Mono::from_millis(ms + 1), &r);
            if d.out_of_memory_within(NEEDED) {
                return Some(usage / MIB);
            }
        }
        None
    }

    #[test]
    fn leaks_raise_the_alarm_and_bursts_that_end_do_not() {
        for (base, rate, grow_ms, want) in [
            (40, 10, 26_000, 293..=296),
            (40, 100, 2_600, 238..=246),
            (40, 500, 520, 212..=222),
            (40, 1000, 260, 212..=222),
            (250, 1000, 30, 0..=0),
            (40, 1000, 150, 0..=0),
            (100, 500, 200, 0..=0),
            (40, 50, 2_000, 0..=0),
        ] {
            let got = first_alarm(base, rate, grow_ms).unwrap_or(0);
            assert!(want.contains(&got), "from {base} MiB at {rate} MiB/s for {grow_ms} ms: {got} MiB");
        }
    }

    #[test]
    fn cache_that_grows_is_no_growth() {
        let mut d = DomainForecast::default();
        for ms in 0..300 {
            let r = reading(ms, ms / 2, ms - ms / 2, ms / 10);
            d.observe_cgroup(Mono::from_millis(ms), &r);
            assert_eq!(d.forecast().unwrap().time_to_oom, None);
            assert!(!d.out_of_memory_within(NEEDED));
        }
    }

    proptest! {
        /// Sampled when due, no ramp up to the possible rate takes a domain from above a threshold to its limit
        /// between two samples.
        #[test]
        fn no_ramp_passes_unseen(
            limit_mib in 64u64..65_536, threshold_pct in 5u64..50, used_pct in 0u64..100, rate_share in 0.01f64..=1.0
        ) {
            let limit = limit_mib * MIB;
            let floor = (MAX_RATE_BYTES_PER_S as f64 * MIN_SAMPLE_INTERVAL.as_secs_f64()) as u64;
            let threshold = (limit * threshold_pct / 100).max(floor + 1);
            let rate = MAX_RATE_BYTES_PER_S as f64 * rate_share;
            let mut d = DomainForecast::default();
            let (mut at, mut usage) = (Mono::from_millis(1), limit * used_pct / 100);
            while limit.saturating_sub(usage) >= threshold {
                let r = DomainReading { usage_bytes: usage, limit_bytes: Some(limit), ..reading(0, 0, 0, 0) };
                d.observe_cgroup(at, &r);
                let wait = d.next_sample_in(MAX_RATE_BYTES_PER_S).unwrap();
                let wait = wait.clamp(MIN_SAMPLE_INTERVAL, Duration::from_secs(1));
                at = at + wait;
                usage += (rate * wait.as_secs_f64()) as u64;
                prop_assert!(usage < limit, "{} of {} MiB", usage / MIB, limit_mib);
            }
        }
    }
}
