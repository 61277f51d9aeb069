//! Growth of one memory domain over time. Owns the statistics, reads (time, bytes) samples, emits rates in
//! bytes per second and the bytes gained lately. Samples may be irregular: every formula uses the real interval.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Mono;

/// Time constant of the fast average: long enough to see through one allocator batch or one late sample, short
/// enough that a hog which starts now reads as 63 % of its true rate after a tenth of a second, a third of the
/// 300 ms that ending a pod is assumed to take.
pub const FAST_TAU: Duration = Duration::from_millis(100);

/// Time constant of the slow average: longer than a start-up burst or a garbage collector's cycle, and of the
/// order of the time that an eviction with a SIGTERM handler takes.
pub const SLOW_TAU: Duration = Duration::from_secs(2);

/// Below this a rate counts as rest. An exponential average never reaches zero, and every node drifts a little.
pub const AT_REST_BYTES_PER_S: f64 = 64.0 * 1024.0;

/// The span over which [`Growth::recent`] is taken.
const SPAN: Duration = Duration::from_millis(20);

/// History for [`Growth::gained_within`]: 48 buckets of 250 ms, so 12 s.
const BUCKET: Duration = Duration::from_millis(250);
const BUCKETS: usize = 48;

/// An average whose weights decay with time, not with the number of samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ewma {
    tau_s: f64,
    value: f64,
}

impl Ewma {
    pub(crate) const fn new(tau: Duration) -> Ewma {
        Ewma { tau_s: tau.as_nanos() as f64 / 1e9, value: 0.0 }
    }

    /// `x` held for the last `dt_s` seconds. `-expm1` keeps its precision where `dt` is far below τ.
    pub(crate) fn fold(&mut self, x: f64, dt_s: f64) {
        self.value += -(-dt_s / self.tau_s).exp_m1() * (x - self.value);
    }

    pub(crate) const fn value(&self) -> f64 {
        self.value
    }
}

/// Mean growth between two samples about 20 ms apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub from: Mono,
    pub to: Mono,
    /// Negative where the domain shrank.
    pub bytes_per_s: f64,
}

/// Growth of one domain. A sample that is not later than the last one is ignored: two numbers of the same instant
/// have no rate, and the next sample accounts for the difference.
///
/// Rates are never negative. A domain that shrinks counts as standing still: were a shrink averaged in as it
/// is, the memory that an evicted pod gives back would hide, for several τ, a neighbour that goes on growing.
#[derive(Clone, Debug)]
pub struct Growth {
    fast: Ewma,
    slow: Ewma,
    last: Option<(Mono, u64)>,
    span_start: Option<(Mono, u64)>,
    recent: Option<Span>,
    /// Start of each bucket and the least that was seen in it.
    lows: VecDeque<(Mono, u64)>,
}

impl Default for Growth {
    fn default() -> Self {
        Growth {
            fast: Ewma::new(FAST_TAU),
            slow: Ewma::new(SLOW_TAU),
            last: None,
            span_start: None,
            recent: None,
            lows: VecDeque::new(),
        }
    }
}

impl Growth {
    /// Takes in that the domain held `bytes` at `at`.
    pub fn observe(&mut self, at: Mono, bytes: u64) {
        if let Some((then, before)) = self.last {
            if at <= then {
                return;
            }
            let dt_s = at.since(then).as_secs_f64();
            let rate = bytes.saturating_sub(before) as f64 / dt_s;
            self.fast.fold(rate, dt_s);
            self.slow.fold(rate, dt_s);
        }
        self.last = Some((at, bytes));
        self.observe_span(at, bytes);
        self.observe_low(at, bytes);
    }

    fn observe_span(&mut self, at: Mono, bytes: u64) {
        let Some((from, before)) = self.span_start else {
            self.span_start = Some((at, bytes));
            return;
        };
        let dt = at.since(from);
        if dt >= SPAN {
            let bytes_per_s = (bytes as f64 - before as f64) / dt.as_secs_f64();
            self.recent = Some(Span { from, to: at, bytes_per_s });
            self.span_start = Some((at, bytes));
        }
    }

    fn observe_low(&mut self, at: Mono, bytes: u64) {
        match self.lows.back_mut() {
            Some((start, low)) if at.since(*start) < BUCKET => *low = bytes.min(*low),
            _ => {
                if self.lows.len() == BUCKETS {
                    self.lows.pop_front();
                }
                self.lows.push_back((at, bytes));
            }
        }
    }

    /// Bytes per second, averaged over about [`FAST_TAU`].
    #[must_use]
    pub fn fast(&self) -> f64 {
        self.fast.value
    }

    /// Bytes per second, averaged over about [`SLOW_TAU`].
    #[must_use]
    pub fn slow(&self) -> f64 {
        self.slow.value
    }

    /// Both averages say that the domain grows.
    #[must_use]
    pub fn grows(&self) -> bool {
        self.fast() > AT_REST_BYTES_PER_S && self.slow() > AT_REST_BYTES_PER_S
    }

    /// The newest complete span of about 20 ms. Unlike the averages it forgets at once what went before, so it
    /// tells whether a pod stopped growing when it got its SIGTERM.
    #[must_use]
    pub fn recent(&self) -> Option<Span> {
        self.recent
    }

    /// Bytes now above the least within the last `window` (12 s at most, in steps of 250 ms).
    #[must_use]
    pub fn gained_within(&self, window: Duration) -> u64 {
        let Some((now, bytes)) = self.last else { return 0 };
        let oldest = now - window;
        let low =
            self.lows.iter().rev().take_while(|(start, _)| *start + BUCKET >= oldest).map(|(_, low)| *low);
        bytes.saturating_sub(low.min().unwrap_or(bytes))
    }

    /// Time and bytes of the newest sample.
    #[must_use]
    pub fn last(&self) -> Option<(Mono, u64)> {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn ramp(rate_mib_s: u64, every_us: u64, for_ms: u64) -> Growth {
        let mut g = Growth::default();
        let mut us = 0;
        while us <= for_ms * 1000 {
            g.observe(Mono(us * 1000), us * rate_mib_s * MIB / 1_000_000);
            us += every_us;
        }
        g
    }

    #[test]
    fn a_steady_ramp_reads_as_its_rate_whatever_the_sampling() {
        for rate in [1, 10, 100, 1000] {
            for every_us in [500, 2_000, 40_000, 250_000] {
                let g = ramp(rate, every_us, 20_000);
                let want = (rate * MIB) as f64;
                assert!((g.fast() / want - 1.0).abs() < 0.01, "fast {} of {want}", g.fast());
                assert!((g.slow() / want - 1.0).abs() < 0.01, "slow {} of {want}", g.slow());
                assert!((g.recent().unwrap().bytes_per_s / want - 1.0).abs() < 0.01);
                assert!(g.grows());
            }
        }
    }

    #[test]
    fn the_fast_average_sees_a_burst_long_before_the_slow_one() {
        let g = ramp(1000, 2_000, 100);
        assert!((0.6..0.65).contains(&(g.fast() / (1000 * MIB) as f64)), "{}", g.fast());
        assert!((0.04..0.06).contains(&(g.slow() / (1000 * MIB) as f64)), "{}", g.slow());
    }

    #[test]
    fn a_shrink_is_rest_and_hides_no_later_growth() {
        let mut g = ramp(100, 2_000, 1_000);
        g.observe(Mono::from_millis(1_002), 0);
        assert!(g.fast() > 0.0 && g.fast() < (100 * MIB) as f64);
        assert_eq!(g.gained_within(Duration::from_secs(1)), 0);
        for ms in 1..=300 {
            g.observe(Mono::from_millis(1_002 + ms), ms * MIB / 2);
        }
        assert!((g.fast() / (500 * MIB) as f64 - 1.0).abs() < 0.06, "{}", g.fast());
    }

    #[test]
    fn the_recent_span_forgets_at_once() {
        let mut g = ramp(1000, 3_000, 900);
        let level = g.last().unwrap().1;
        for ms in (903..960).step_by(3) {
            g.observe(Mono::from_millis(ms), level);
        }
        assert_eq!(g.recent().unwrap().bytes_per_s, 0.0);
        assert!(g.fast() > (500 * MIB) as f64);
    }

    #[test]
    fn gains_count_within_the_window_only() {
        let g = ramp(10, 10_000, 10_000);
        let gained = g.gained_within(Duration::from_secs(2)) / MIB;
        assert!((20..=23).contains(&gained), "{gained}");
        assert_eq!(g.gained_within(Duration::from_secs(60)) / MIB, 100);
    }

    #[test]
    fn equal_and_backward_times_change_nothing() {
        let mut g = ramp(10, 10_000, 1_000);
        let (fast, slow, last) = (g.fast(), g.slow(), g.last());
        g.observe(last.unwrap().0, u64::MAX);
        g.observe(Mono::ZERO, 0);
        assert_eq!((g.fast(), g.slow(), g.last()), (fast, slow, last));
    }

    proptest! {
        #[test]
        fn rates_stay_finite_and_within_the_steepest_step(
            steps in prop::collection::vec((0u64..2_000_000_000, any::<u64>()), 1..100)
        ) {
            let mut g = Growth::default();
            let mut at = Mono::ZERO;
            let mut steepest = 0f64;
            let mut last: Option<(Mono, u64)> = None;
            for (dt, bytes) in steps {
                at = Mono(at.0 + dt);
                if let Some((t, b)) = last
                    && at > t
                {
                    steepest = steepest.max(bytes.saturating_sub(b) as f64 / at.since(t).as_secs_f64());
                }
                g.observe(at, bytes);
                last = g.last();
                prop_assert!(g.fast() >= 0.0 && g.fast() <= steepest * (1.0 + 1e-9));
                prop_assert!(g.slow() >= 0.0 && g.slow() <= steepest * (1.0 + 1e-9));
                prop_assert!(g.lows.len() <= BUCKETS);
            }
        }
    }
}
