//! When to try again: CrashLoopBackOff by container, and the plain exponential back-off of image pulls and
//! of errors. Core: the time is an argument.
//!
//! Own code: back-off crates hand out delays to a loop that sleeps. Here a decision asks how much of a
//! delay is left, at a time it is given, and CrashLoopBackOff must survive a restart of the agent.

use std::collections::HashMap;
use std::time::Duration;

use super::runtime_status::ContainerStatus;
use crate::clock::Mono;

/// kubelet's numbers (pkg/kubelet/kubelet.go, images/image_manager.go, pod_workers.go).
pub const CRASH_LOOP_INITIAL: Duration = Duration::from_secs(10);
pub const CRASH_LOOP_MAX: Duration = Duration::from_secs(300);
/// A container that ran this long starts its back-off anew.
pub const CRASH_LOOP_RESET_AFTER: Duration = Duration::from_secs(600);
pub const IMAGE_PULL: Exponential = Exponential::new(Duration::from_secs(10), Duration::from_secs(300));
pub const WORKER_ERROR: Exponential = Exponential::new(Duration::from_secs(10), Duration::from_secs(10));
pub const RUNTIME_ERROR: Exponential = Exponential::new(Duration::from_millis(100), Duration::from_secs(5));
/// Of volumes (pkg/util/goroutinemap/exponentialbackoff).
pub const MOUNT_ERROR: Exponential = Exponential::new(Duration::from_millis(500), Duration::from_secs(122));

/// Doubles from `initial` to `max` with each failure; a success starts it anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exponential {
    initial: Duration,
    max: Duration,
    /// The delay after the last failure and when that was.
    last: Option<(Duration, Mono)>,
}

impl Exponential {
    #[must_use]
    pub const fn new(initial: Duration, max: Duration) -> Exponential {
        Exponential { initial, max, last: None }
    }

    /// Counts a failure at `now`; the delay until the next attempt.
    pub fn failed(&mut self, now: Mono) -> Duration {
        let delay = match self.last {
            None => self.initial.min(self.max),
            Some((delay, _)) => delay.saturating_mul(2).min(self.max),
        };
        self.last = Some((delay, now));
        delay
    }

    pub fn succeeded(&mut self) {
        self.last = None;
    }

    /// How long the next attempt still has to wait; `None`: it may be made.
    #[must_use]
    pub fn remaining(&self, now: Mono) -> Option<Duration> {
        let (delay, failed_at) = self.last?;
        delay.checked_sub(now.since(failed_at)).filter(|left| !left.is_zero())
    }
}

/// One of these a pod. The first restart is at once, the next after 10 s, 20 s … up to `max` after the end of
/// the last run.
///
/// What an agent that has just started does not remember is told by the restart count: a container that was
/// restarted n times and ended within ten minutes again is taken to be n restarts deep. So killing the agent
/// does not let a crash loop spin.
#[derive(Clone, Debug)]
pub struct CrashLoopBackOff {
    max: Duration,
    /// By container name and manifest hash (a changed container starts anew): the delay after its next end.
    delays: HashMap<(String, u64), Duration>,
}

impl Default for CrashLoopBackOff {
    fn default() -> Self {
        CrashLoopBackOff::new(CRASH_LOOP_MAX)
    }
}

impl CrashLoopBackOff {
    /// `max`: `crashLoopBackOff.maxContainerRestartPeriod`.
    #[must_use]
    pub fn new(max: Duration) -> CrashLoopBackOff {
        CrashLoopBackOff { max, delays: HashMap::new() }
    }

    /// The whole delay between the end of `last` (the newest, exited instance) and its restart.
    #[must_use]
    pub fn delay(&self, last: &ContainerStatus, hash: u64) -> Duration {
        if ran_for(last) >= CRASH_LOOP_RESET_AFTER {
            return Duration::ZERO;
        }
        match self.delays.get(&(last.name.clone(), hash)) {
            Some(delay) => *delay,
            None => match last.restart_count.checked_sub(1) {
                None => Duration::ZERO,
                Some(doublings) => {
                    CRASH_LOOP_INITIAL.saturating_mul(2u32.saturating_pow(doublings)).min(self.max)
                }
            },
        }
    }

    /// How long the restart of `last` still has to wait; `None`: it may start. Never more than the whole
    /// delay, even when the wall clock was set back.
    #[must_use]
    pub fn remaining(&self, last: &ContainerStatus, hash: u64, now_unix_ns: i64) -> Option<Duration> {
        let delay = self.delay(last, hash);
        let since =
            Duration::from_nanos(u64::try_from(now_unix_ns.saturating_sub(ended_at_ns(last))).unwrap_or(0));
        delay.checked_sub(since).filter(|left| !left.is_zero())
    }

    /// To be called when the worker has started the successor of `last`.
    pub fn restarted(&mut self, last: &ContainerStatus, hash: u64) {
        let next = self.delay(last, hash).saturating_mul(2).max(CRASH_LOOP_INITIAL).min(self.max);
        self.delays.insert((last.name.clone(), hash), next);
    }
}

fn ended_at_ns(status: &ContainerStatus) -> i64 {
    if status.finished_at_ns > 0 { status.finished_at_ns } else { status.created_at_ns }
}

fn ran_for(status: &ContainerStatus) -> Duration {
    if status.started_at_ns <= 0 {
        return Duration::ZERO;
    }
    let ns = ended_at_ns(status).saturating_sub(status.started_at_ns);
    Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::runtime_status::ContainerState;

    const S: i64 = 1_000_000_000;

    fn exited(restart_count: u32, started_s: i64, finished_s: i64) -> ContainerStatus {
        ContainerStatus {
            restart_count,
            created_at_ns: started_s * S,
            started_at_ns: started_s * S,
            finished_at_ns: finished_s * S,
            exit_code: 1,
            ..ContainerStatus::bare("c", "app", ContainerState::Exited)
        }
    }

    #[test]
    fn exponential() {
        let mut b = IMAGE_PULL;
        assert_eq!(b.remaining(Mono::ZERO), None);
        let delays: Vec<u64> = (0..7).map(|_| b.failed(Mono::ZERO).as_secs()).collect();
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(b.remaining(Mono::from_millis(299_000)), Some(Duration::from_secs(1)));
        assert_eq!(b.remaining(Mono::from_millis(300_000)), None);
        b.succeeded();
        assert_eq!(b.failed(Mono::ZERO).as_secs(), 10);
        let mut runtime = RUNTIME_ERROR;
        let delays: Vec<u128> = (0..8).map(|_| runtime.failed(Mono::ZERO).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn crash_loop_doubles_to_the_maximum() {
        let mut b = CrashLoopBackOff::default();
        let mut at = 1000;
        let mut delays = Vec::new();
        for restart in 0..8 {
            let last = exited(restart, at, at + 1);
            let delay = b.delay(&last, 1);
            delays.push(delay.as_secs());
            at += 1 + i64::try_from(delay.as_secs()).unwrap();
            assert_eq!(b.remaining(&last, 1, at * S), None);
            b.restarted(&last, 1);
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn remaining_counts_from_the_end_of_the_last_run() {
        let mut b = CrashLoopBackOff::default();
        b.restarted(&exited(0, 100, 101), 1);
        let last = exited(1, 101, 110);
        assert_eq!(b.remaining(&last, 1, 113 * S), Some(Duration::from_secs(7)));
        assert_eq!(b.remaining(&last, 1, 120 * S), None);
        // The clock was set back: the whole delay, not more.
        assert_eq!(b.remaining(&last, 1, 10 * S), Some(Duration::from_secs(10)));
    }

    #[test]
    fn ten_minutes_of_running_start_it_anew() {
        let mut b = CrashLoopBackOff::default();
        for _ in 0..5 {
            b.restarted(&exited(3, 100, 101), 1);
        }
        let long = exited(9, 1000, 1600);
        assert_eq!(b.delay(&long, 1), Duration::ZERO);
        b.restarted(&long, 1);
        assert_eq!(b.delay(&exited(10, 1700, 1701), 1), CRASH_LOOP_INITIAL);
    }

    #[test]
    fn a_new_agent_reads_the_restart_count() {
        let b = CrashLoopBackOff::default();
        for (restarts, want_s) in [(0, 0), (1, 10), (2, 20), (5, 160), (6, 300), (4000, 300)] {
            assert_eq!(b.delay(&exited(restarts, 100, 101), 7).as_secs(), want_s, "{restarts}");
        }
        assert_eq!(b.delay(&exited(4000, 100, 800), 7), Duration::ZERO);
    }

    #[test]
    fn the_maximum_is_configurable_and_hashes_are_apart() {
        let mut b = CrashLoopBackOff::new(Duration::from_secs(5));
        b.restarted(&exited(0, 100, 101), 1);
        assert_eq!(b.delay(&exited(1, 101, 102), 1).as_secs(), 5);
        assert_eq!(b.delay(&exited(0, 101, 102), 2).as_secs(), 0);
    }
}
