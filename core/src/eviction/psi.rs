//! Pressure stall information as a signal of its own. Owns the thresholds and what share of their windows the tasks of a
//! domain stood still; reads the totals of `memory.pressure`, emits the domain that is over its threshold.
//!
//! kubelet has none of this, so it is off unless configured. The share is `full`: all tasks that had something to do
//! waited for memory, as systemd-oomd measures it. It is taken from the totals over the configured window, since the
//! kernel's own averages (`avg10`) begin at zero and reach the true share only after several times their window.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::clock::Mono;
use crate::pod::PodUid;
use crate::signal::Domain;

/// Samples in a window: its share is then right to a tenth.
pub const SAMPLES_A_WINDOW: u32 = 10;

/// All tasks stood still for this share of the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PsiThreshold {
    /// 0 to 1.
    pub share: f64,
    pub window: Duration,
}

/// What is configured. `None`: off.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PsiThresholds {
    /// Against the node's `/proc/pressure/memory`: one pod is evicted, as with a soft threshold.
    pub node: Option<PsiThreshold>,
    /// Against each pod's `memory.pressure`: that pod is evicted.
    pub pod: Option<PsiThreshold>,
}

impl PsiThresholds {
    #[must_use]
    pub const fn any(&self) -> bool {
        self.node.is_some() || self.pod.is_some()
    }

    const fn of(&self, domain: &Domain) -> Option<PsiThreshold> {
        match domain {
            Domain::Node => self.node,
            Domain::Pod(_) => self.pod,
            Domain::Kubepods | Domain::Container(..) => None,
        }
    }

    /// How far apart readings may be.
    #[must_use]
    pub fn interval(&self) -> Option<Duration> {
        let windows = [self.node, self.pod].into_iter().flatten().map(|t| t.window / SAMPLES_A_WINDOW);
        windows.min()
    }
}

/// A domain that stood still for too long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stalled {
    pub share: f64,
    pub threshold: PsiThreshold,
}

/// The totals of one domain over the last window.
#[derive(Clone, Debug, Default)]
struct Totals(VecDeque<(Mono, Duration)>);

impl Totals {
    fn observe(&mut self, at: Mono, total: Duration, window: Duration) {
        match self.0.back() {
            Some((last, _)) if at <= *last => return,
            // A total that went down is another cgroup's of the same name.
            Some((_, before)) if total < *before => self.0.clear(),
            _ => {}
        }
        // The newest is always kept, of the others no more than are needed.
        if let Some([(earlier, _), (last, _)]) = self.0.make_contiguous().last_chunk::<2>()
            && last.since(*earlier) < window / SAMPLES_A_WINDOW / 2
        {
            self.0.pop_back();
        }
        self.0.push_back((at, total));
        // The oldest that is kept spans the window.
        while self.0.get(1).is_some_and(|(second, _)| at.since(*second) >= window) {
            self.0.pop_front();
        }
    }

    /// Of the time since the oldest sample, once that spans the window.
    fn share(&self, window: Duration) -> Option<f64> {
        let (from, before) = self.0.front()?;
        let (to, total) = self.0.back()?;
        let span = to.since(*from);
        (span >= window).then(|| total.saturating_sub(*before).as_secs_f64() / span.as_secs_f64())
    }
}

/// What the readings say.
#[derive(Clone, Debug, Default)]
pub struct Stalls {
    thresholds: PsiThresholds,
    totals: BTreeMap<Domain, Totals>,
}

impl Stalls {
    #[must_use]
    pub fn new(thresholds: PsiThresholds) -> Stalls {
        Stalls { thresholds, totals: BTreeMap::new() }
    }

    pub fn observe(&mut self, at: Mono, stalled: &[(Domain, Duration)]) {
        for (domain, total) in stalled {
            if let Some(threshold) = self.thresholds.of(domain) {
                self.totals.entry(domain.clone()).or_default().observe(at, *total, threshold.window);
            }
        }
    }

    /// A pod was evicted: what was before says nothing about the node without it, so a whole window is awaited.
    pub fn start_anew(&mut self) {
        self.totals.clear();
    }

    pub fn forget(&mut self, pod: &PodUid) {
        self.totals.remove(&Domain::Pod(pod.clone()));
    }

    #[must_use]
    pub fn node(&self) -> Option<Stalled> {
        self.over(&Domain::Node)
    }

    /// The pod that stood still most, of those over the threshold.
    #[must_use]
    pub fn pod(&self) -> Option<(&PodUid, Stalled)> {
        let pods = self.totals.keys().filter_map(|domain| match domain {
            Domain::Pod(uid) => Some((uid, self.over(domain)?)),
            _ => None,
        });
        pods.max_by(|a, b| a.1.share.total_cmp(&b.1.share))
    }

    fn over(&self, domain: &Domain) -> Option<Stalled> {
        let threshold = self.thresholds.of(domain)?;
        let share = self.totals.get(domain)?.share(threshold.window)?;
        (share >= threshold.share).then_some(Stalled { share, threshold })
    }

    #[must_use]
    pub fn interval(&self) -> Option<Duration> {
        self.thresholds.interval()
    }

    #[must_use]
    pub const fn pods_watched(&self) -> bool {
        self.thresholds.pod.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn stalls() -> Stalls {
        let threshold = PsiThreshold { share: 0.4, window: WINDOW };
        Stalls::new(PsiThresholds { node: Some(threshold), pod: Some(threshold) })
    }

    fn pod(name: &str) -> Domain {
        Domain::Pod(PodUid::from(name))
    }

    /// Seconds at which `domain` is first over its threshold, stalled for `per_s` ms of each second from 5 s on.
    fn first_over(domain: &Domain, per_s: u64, every_ms: u64) -> Option<u64> {
        let mut s = stalls();
        (0..60_000).step_by(every_ms as usize).find_map(|ms: u64| {
            let total = Duration::from_millis(1_000_000 + per_s * ms.saturating_sub(5_000) / 1000);
            s.observe(Mono::from_millis(ms), &[(domain.clone(), total)]);
            s.over(domain).map(|_| ms / 1000)
        })
    }

    #[test]
    fn a_share_counts_once_it_lasted() {
        for (per_s, expected) in [(0, None), (390, None), (410, Some(14..=15)), (1000, Some(9..=10))] {
            for (domain, every_ms) in [(Domain::Node, 1000), (Domain::Node, 10), (pod("p"), 1000)] {
                let got = first_over(&domain, per_s, every_ms);
                let fits = match &expected {
                    None => got.is_none(),
                    Some(range) => got.is_some_and(|at| range.contains(&at)),
                };
                assert!(fits, "{domain:?} {per_s} ms a second, every {every_ms} ms: {got:?}");
            }
        }
    }

    #[test]
    fn the_pod_that_stands_still_most() {
        let mut s = stalls();
        for second in 0..=12 {
            let at = Mono::from_millis(1000 * second);
            let total = |per_s| Duration::from_millis(per_s * second);
            s.observe(at, &[(pod("a"), total(450)), (pod("b"), total(900)), (pod("c"), total(100))]);
        }
        assert_eq!(s.pod().map(|(uid, _)| uid.clone()), Some(PodUid::from("b")));
        assert_eq!(s.node(), None, "nothing was read of the node");
        s.forget(&PodUid::from("b"));
        assert_eq!(s.pod().map(|(uid, _)| uid.clone()), Some(PodUid::from("a")));
        s.start_anew();
        assert_eq!(s.pod(), None);
    }

    #[test]
    fn off_unless_configured() {
        let mut s = Stalls::default();
        for second in 0..100 {
            s.observe(Mono::from_millis(1000 * second), &[(Domain::Node, Duration::from_secs(second))]);
        }
        assert_eq!((s.node(), s.pod(), s.interval()), (None, None, None));
    }

    proptest! {
        #[test]
        fn shares_are_shares(steps in prop::collection::vec((0u64..5_000, 0u64..5_000), 1..200)) {
            let mut s = stalls();
            let (mut at, mut total) = (0, 0);
            for (dt, stalled) in steps {
                at += dt;
                total += stalled.min(dt);
                s.observe(Mono::from_millis(at), &[(Domain::Node, Duration::from_millis(total))]);
                if let Some(over) = s.node() {
                    prop_assert!((0.4..=1.0 + 1e-9).contains(&over.share));
                }
                prop_assert!(s.totals.values().all(|t| t.0.len() <= 3 + 2 * SAMPLES_A_WINDOW as usize));
            }
        }
    }
}
