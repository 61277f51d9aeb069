//! A run as seen from outside: usage a thousand times a second, and when which process ended, by pidfd. Takes about 2 % of a
//! CPU.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::gauge::Gauge;

/// How long memory is watched after the end of the process.
const AFTERWARDS_NS: i64 = 150_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// CLOCK_MONOTONIC, the trace's clock.
    pub at_ns: i64,
    pub used_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    pub samples: Vec<Sample>,
    /// When the process that is followed had ended.
    pub ended_ns: Option<i64>,
    /// The same of each of the others, in their order; `None`: they live.
    pub others_ended_ns: Vec<Option<i64>>,
}

#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    /// `None` once it was waited for.
    thread: Option<JoinHandle<Watched>>,
}

#[derive(Debug, Default)]
struct Shared {
    followed: OnceLock<OwnedFd>,
    over: AtomicBool,
    stop: AtomicBool,
}

impl Watch {
    /// Samples from now on, every `period`.
    pub fn start(gauge: Arc<Gauge>, others: Vec<Arc<OwnedFd>>, period: Duration) -> Watch {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || watch(&shared, &gauge, &others, period)
        });
        Watch { shared, thread: Some(thread) }
    }

    /// The process whose end is the run's.
    pub fn follow(&self, pid: u32) -> Result<()> {
        // Set once: a second process is not followed.
        let _ = self.shared.followed.set(open(pid)?);
        Ok(())
    }

    /// It has ended, and what memory did afterwards has been seen.
    pub fn is_over(&self) -> bool {
        self.shared.over.load(Ordering::Acquire)
    }

    pub fn finish(mut self) -> Result<Watched> {
        self.shared.stop.store(true, Ordering::Release);
        let watched = self.thread.take().and_then(|thread| thread.join().ok());
        watched.context("the watching thread has panicked")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
    }
}

pub fn open(pid: u32) -> Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("no pid: {pid}"))?;
    pidfd_open(pid, PidfdFlags::empty()).with_context(|| format!("opening process {pid:?}"))
}

/// Whether the process has ended.
pub fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

pub fn now_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

fn watch(shared: &Shared, gauge: &Gauge, others: &[Arc<OwnedFd>], period: Duration) -> Watched {
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(period.subsec_nanos()) };
    let mut watched = Watched { others_ended_ns: vec![None; others.len()], ..Watched::default() };
    while !shared.stop.load(Ordering::Acquire) {
        let followed = shared.followed.get().filter(|_| watched.ended_ns.is_none());
        let living: Vec<usize> =
            (0..others.len()).filter(|&other| watched.others_ended_ns[other].is_none()).collect();
        let fds = followed.into_iter().chain(living.iter().map(|&other| &*others[other]));
        let mut fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        // A signal ends the wait early, and does no harm.
        let _ = poll(&mut fds, Some(&timeout));
        let now = now_ns();
        let ended: Vec<bool> = fds.iter().map(|fd| fd.revents().contains(PollFlags::IN)).collect();
        let skipped = usize::from(followed.is_some());
        if followed.is_some() && ended[0] {
            watched.ended_ns = Some(now);
        }
        for (&other, _) in living.iter().zip(&ended[skipped..]).filter(|(_, ended)| **ended) {
            watched.others_ended_ns[other] = Some(now);
        }
        if let Some(used_bytes) = gauge.used() {
            watched.samples.push(Sample { at_ns: now, used_bytes });
        }
        if watched.ended_ns.is_some_and(|ended| now - ended > AFTERWARDS_NS) {
            shared.over.store(true, Ordering::Release);
            return watched;
        }
    }
    watched
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_process_is_seen() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pidfd = open(child.id()).unwrap();
        assert!(!has_ended(&pidfd));
        drop(child.stdin.take());
        assert!(crate::process::holds_within(Duration::from_secs(10), || has_ended(&pidfd)));
        child.wait().unwrap();
        assert!(open(child.id()).is_err());
    }
}
