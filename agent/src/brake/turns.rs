//! Whose turn comes first when a held pod runs again. Such a run is over within milliseconds, for which those who grow keep
//! every CPU busy: a SIGTERM handler that is done but for fifty microseconds was seen to wait for them through four runs. So a
//! thread that was busy in one run comes after all others of its pod in the next: it is in SCHED_IDLE (sched(7)), which takes
//! nothing from other pods, nor from it where nobody else of its pod wants to run. Owns the thread that looks.
//!
//! A pod or container in which that was done is marked, and all is undone where it is let go.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use rustix::thread::{CapabilitySet, capabilities};

use super::files::{BrakeFiles, Mark};
use super::{Gear, Held};
use crate::cgroup::{CgroupError, tree};
use crate::kernel::scheduling::Policy;
use crate::pod::qos::QosClass;

/// CPU time in one run that makes a thread a busy one. What a handler does at its end takes 50 to 70 µs; a process that is
/// started, and touches its memory, a millisecond.
const BUSY: Duration = Duration::from_micros(300);

/// A frozen thread stands still only once it returns to user space.
const FREEZE_SETTLES: Duration = Duration::from_millis(2);

/// Orders that wait to be looked at. One that finds no place is lost: the next freeze brings another.
const WAITING: usize = 64;

/// While a pod forks, one pass over its threads does not find all.
const PASSES: usize = 3;

#[derive(Debug)]
pub struct Turns {
    orders: SyncSender<(Held, QosClass, Gear)>,
}

impl Turns {
    /// `None`: without CAP_SYS_NICE a thread cannot be taken out of SCHED_IDLE again, so none is put into it.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(files: BrakeFiles) -> io::Result<Option<Turns>> {
        if !capabilities(None)?.effective.contains(CapabilitySet::SYS_NICE) {
            return Ok(None);
        }
        let (orders, ordered) = sync_channel(WAITING);
        std::thread::Builder::new().name("oomlet-turns".to_owned()).spawn(move || run(&files, &ordered))?;
        Ok(Some(Turns { orders }))
    }

    /// One that is held until it has ended has been put into this gear. Does not wait.
    pub fn geared(&self, held: &Held, qos: QosClass, gear: Gear) {
        if self.orders.try_send((held.clone(), qos, gear)).is_err() {
            tracing::debug!(?held, "too much else to look at: its busy threads keep their turn");
        }
    }
}

/// Ends when nobody can order any more.
fn run(files: &BrakeFiles, ordered: &Receiver<(Held, QosClass, Gear)>) {
    let mut seen: BTreeMap<PathBuf, Seen> = BTreeMap::new();
    while let Ok((held, qos, gear)) = ordered.recv() {
        seen.retain(|dir, _| dir.exists());
        let done = files.freezer_dir(&held, qos).and_then(|dir| match dir {
            Some(dir) if dir.exists() => turn(&dir, gear, &mut seen),
            // Nothing is left of it, or there is no freezer.
            _ => Ok(()),
        });
        if let Err(error) = done {
            tracing::debug!(?held, %error, "its busy threads keep their turn");
        }
    }
}

fn turn(dir: &Path, gear: Gear, seen: &mut BTreeMap<PathBuf, Seen>) -> Result<(), CgroupError> {
    match gear {
        Gear::Free => {
            seen.remove(dir);
            restore(dir).map(drop)
        }
        // Let run before it was looked at: what its threads have used so far they have used before this run.
        Gear::Throttled { .. } if seen.contains_key(dir) => Ok(()),
        Gear::Throttled { .. } => look(dir, seen.entry(dir.to_owned()).or_default()),
        Gear::Frozen => {
            std::thread::sleep(FREEZE_SETTLES);
            look(dir, seen.entry(dir.to_owned()).or_default())
        }
    }
}

/// What is known of the threads of one that is held.
#[derive(Debug, Default)]
struct Seen {
    /// CPU time of each when it was looked at last; `None`: it was not yet.
    used: Option<HashMap<i32, Duration>>,
    /// Some are in SCHED_IDLE by their own choice: nobody could tell them from the busy ones.
    has_idle: bool,
}

impl Seen {
    /// Which threads were busy since the last time. At the first there is nothing to compare with.
    fn busy(&mut self, used: HashMap<i32, Duration>) -> BTreeMap<i32, bool> {
        let Some(before) = self.used.replace(used.clone()) else { return BTreeMap::new() };
        let ran = |(tid, used): (i32, Duration)| {
            let before = before.get(&tid).copied().unwrap_or_default();
            (tid, used.saturating_sub(before) > BUSY)
        };
        used.into_iter().map(ran).collect()
    }
}

fn look(dir: &Path, seen: &mut Seen) -> Result<(), CgroupError> {
    let used = cpu_times(dir)?;
    if seen.used.is_none() {
        seen.has_idle = used.keys().any(|tid| Policy::of(*tid) == Some(Policy::Idle));
    }
    let busy = seen.busy(used);
    if seen.has_idle || busy.is_empty() {
        return Ok(());
    }
    // Before the first: who undoes this goes by the mark.
    Mark::Turns.set(dir)?;
    let changed = busy.iter().filter(|(tid, busy)| {
        let (from, to) = if **busy { (Policy::Other, Policy::Idle) } else { (Policy::Idle, Policy::Other) };
        change(**tid, from, to)
    });
    let changed = changed.count();
    let last = busy.values().filter(|busy| **busy).count();
    tracing::debug!(cgroup = %dir.display(), threads = busy.len(), last, changed, "busy threads come last");
    Ok(())
}

/// Undoes it in the cgroup and all below, where it was done; returns whether it was.
///
/// # Errors
/// When the cgroup is there and its processes, or its mark, cannot be read or changed.
pub(super) fn restore(dir: &Path) -> Result<bool, CgroupError> {
    if !Mark::Turns.is_on(dir) {
        return Ok(false);
    }
    for _ in 0..PASSES {
        let mut changed = false;
        for tid in threads(dir)? {
            changed |= change(tid, Policy::Idle, Policy::Other);
        }
        if !changed {
            break;
        }
    }
    Mark::Turns.take_off(dir)?;
    Ok(true)
}

/// Of the processes in the cgroup and all below it. One that ends meanwhile has none.
fn threads(dir: &Path) -> Result<Vec<i32>, CgroupError> {
    let of = |pid: i32| {
        let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
    };
    Ok(tree::processes(dir)?.into_iter().flat_map(of).collect())
}

/// The first number of schedstat, in nanoseconds: sum_exec_runtime (fs/proc/base.c, proc_pid_schedstat).
fn cpu_times(dir: &Path) -> Result<HashMap<i32, Duration>, CgroupError> {
    let used = |tid: i32| {
        let text = fs::read_to_string(format!("/proc/{tid}/schedstat")).ok()?;
        Some((tid, Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?)))
    };
    Ok(threads(dir)?.into_iter().filter_map(used).collect())
}

/// Unless it has another policy by now, or has ended.
fn change(tid: i32, from: Policy, to: Policy) -> bool {
    Policy::of(tid) == Some(from) && to.give(tid).is_ok()
}

#[cfg(test)]
mod tests;
