//! Which of the scheduler's classes a thread is in: sched(7).

use std::{fs, io};

/// Moves the calling thread into the lowest real-time class (SCHED_RR 1; what it forks starts normal again).
/// For the thread that reads the ring buffer, and the one that has statistics summed up: on a node short of memory there is
/// always something else to run, and their share of a CPU is small.
///
/// # Errors
/// CAP_SYS_NICE is missing, or the v1 cpu cgroup has no real-time budget. The thread stays as it was.
pub fn run_at_realtime_priority() -> io::Result<()> {
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the pointer is to a live struct; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What there is to tell apart of a thread that is not real-time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// SCHED_OTHER, which all begin with.
    Other,
    /// SCHED_IDLE: of the threads of its cgroup it runs after all others, but for 3 parts in a thousand.
    Idle,
}

impl Policy {
    const fn number(self) -> libc::c_int {
        match self {
            Policy::Other => libc::SCHED_OTHER,
            Policy::Idle => libc::SCHED_IDLE,
        }
    }

    /// `None`: the thread has another one, or has ended.
    #[must_use]
    pub fn of(tid: i32) -> Option<Policy> {
        // SAFETY: no preconditions.
        let number = unsafe { libc::sched_getscheduler(tid) };
        [Policy::Other, Policy::Idle].into_iter().find(|policy| policy.number() == number)
    }

    /// What the thread starts from then on begins with it, too.
    ///
    /// # Errors
    /// ESRCH: it has ended; EPERM: it is another user's, or to be taken out of SCHED_IDLE, and CAP_SYS_NICE is missing.
    pub fn give(self, tid: i32) -> io::Result<()> {
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: the pointer is to a live struct.
        match unsafe { libc::sched_setscheduler(tid, self.number(), &raw const parameters) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Those of a process; none when it has ended.
pub fn threads_of(pid: i32) -> impl Iterator<Item = i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// What is killed ends when its threads get to run.
pub fn run_to_its_end(pid: i32) {
    for tid in threads_of(pid).filter(|tid| Policy::of(*tid) == Some(Policy::Idle)) {
        if let Err(error) = Policy::Other.give(tid) {
            tracing::debug!(tid, %error, "a killed thread stays in SCHED_IDLE");
        }
    }
}
