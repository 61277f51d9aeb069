//! Which threads of a held pod get the CPU first when it runs again. Such a run is over within milliseconds, for which those who grow keep
//! every CPU busy: a SIGTERM handler that is done but for fifty microseconds was seen to wait for them through four runs. So a
//! thread that was busy while it was held comes after all others of its container: it is in SCHED_IDLE (sched(7)), which takes
//! nothing from other pods. A handler that itself needs more CPU than that is one of the busy, and is scheduled among them as it
//! would have been without. Owns the thread that looks.
//!
//! A pod or container in which that was done is marked, and all is undone where it is let go, and for the kill.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::{CapabilitySet, capabilities};

use super::brake_files::{BrakeFiles, Mark};
use crate::cgroup::{CgroupError, tree};
use crate::kernel::scheduling::{Policy, threads_of};
use oomlet_core::brake::FREEZE_SETTLES;
use oomlet_core::brake::{Gear, Held};
use oomlet_core::pod::qos::QosClass;

/// CPU time since it was held that makes a thread a busy one. What a handler does at its beginning and its end takes 50 to
/// 150 µs each; one that grows keeps a CPU for all of a run, which is some milliseconds, and one that starts ten processes,
/// which inherit its policy, has used more, too.
const BUSY: Duration = Duration::from_micros(400);

/// Orders that are not looked at yet: of each pod or container the latest counts, so that they never wait for long.
const WAITING: usize = 64;

/// While a pod forks, one pass over its threads does not find all.
const PASSES: usize = 5;

type Order = (Held, QosClass, Gear);

#[derive(Debug)]
pub struct SchedIdle {
    /// `None`: it ends.
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl SchedIdle {
    /// `None`: the node does not allow it, and why is told. Without CAP_SYS_NICE a thread cannot be taken out of SCHED_IDLE again,
    /// and a kernel without schedstat does not tell who is busy.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(files: BrakeFiles) -> io::Result<Option<SchedIdle>> {
        let why = if !capabilities(None)?.effective.contains(CapabilitySet::SYS_NICE) {
            Some("CAP_SYS_NICE is missing")
        } else if cpu_time(Path::new("/proc/thread-self/schedstat")).is_none_or(|used| used.is_zero()) {
            Some("this kernel has no schedstat")
        } else {
            None
        };
        if let Some(why) = why {
            tracing::info!(why, "the SIGTERM handler of a held pod has its turn among its busy threads");
            return Ok(None);
        }
        let (orders, ordered) = sync_channel(WAITING);
        let run = move || run(&files, &ordered);
        let thread = std::thread::Builder::new().name("oomlet-sched-idle".to_owned()).spawn(run)?;
        Ok(Some(SchedIdle { orders: Some(orders), thread: Some(thread) }))
    }

    /// One that is held until it has ended has been put into this gear. Does not wait.
    pub fn geared(&self, held: &Held, qos: QosClass, gear: Gear) {
        let order = (held.clone(), qos, gear);
        if self.orders.as_ref().is_some_and(|orders| orders.try_send(order).is_err()) {
            tracing::debug!(?held, ?gear, "too much else to look at: its threads keep their sched_idle");
        }
    }
}

/// Every thread has its own scheduling policy again then.
impl Drop for SchedIdle {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Ends when nobody can order any more.
fn run(files: &BrakeFiles, ordered: &Receiver<Order>) {
    let mut seen: BTreeMap<PathBuf, Seen> = BTreeMap::new();
    while let Ok(first) = ordered.recv() {
        let latest: BTreeMap<Held, (QosClass, Gear)> = std::iter::once(first)
            .chain(ordered.try_iter())
            .map(|(held, qos, gear)| (held, (qos, gear)))
            .collect();
        seen.retain(|dir, _| dir.exists());
        if latest.values().any(|(_, gear)| *gear == Gear::Frozen) {
            std::thread::sleep(FREEZE_SETTLES);
        }
        for (held, (qos, gear)) in latest {
            let done = files.freezer_dir(&held, qos).and_then(|dir| match dir {
                Some(dir) if dir.exists() => turn(&dir, gear, &mut seen),
                // Nothing is left of it, or there is no freezer.
                _ => Ok(()),
            });
            if let Err(error) = done {
                tracing::debug!(?held, %error, "its threads keep their sched_idle");
            }
        }
    }
    for dir in seen.keys() {
        if let Err(error) = restore(dir) {
            tracing::debug!(%error, "the next start gives its threads their own sched_idle again");
        }
    }
}

fn turn(dir: &Path, gear: Gear, seen: &mut BTreeMap<PathBuf, Seen>) -> Result<(), CgroupError> {
    match gear {
        Gear::Free => {
            seen.remove(dir);
            restore(dir).map(drop)
        }
        // It has been looked at when it was frozen, and a look takes some of the CPU that it is to run on.
        Gear::Throttled { .. } if seen.contains_key(dir) => Ok(()),
        Gear::Throttled { .. } | Gear::Frozen => look(dir, seen.entry(dir.to_owned()).or_default()),
    }
}

/// What is known of the threads of one that is held.
#[derive(Debug, Default)]
struct Seen {
    /// CPU time of each when it was looked at first; `None`: it was not yet.
    before: Option<HashMap<i32, Duration>>,
    /// Some are in SCHED_IDLE by their own choice: nobody could tell them from the busy ones.
    has_idle: bool,
}

impl Seen {
    /// Which threads have been busy since the first look.
    fn busy(&mut self, used: HashMap<i32, Duration>) -> Vec<i32> {
        let Some(before) = &self.before else {
            self.before = Some(used);
            return Vec::new();
        };
        let since = |tid: &i32, used: Duration| match before.get(tid) {
            // The number is another thread's by now.
            Some(before) if *before > used => used,
            Some(before) => used - *before,
            None => used,
        };
        used.into_iter().filter(|(tid, used)| since(tid, *used) > BUSY).map(|(tid, _)| tid).collect()
    }
}

fn look(dir: &Path, seen: &mut Seen) -> Result<(), CgroupError> {
    let used = cpu_times(dir)?;
    if seen.before.is_none() && !is_marked(dir) {
        seen.has_idle = used.keys().any(|tid| Policy::of(*tid) == Some(Policy::Idle));
    }
    let threads = used.len();
    let busy = seen.busy(used);
    if seen.has_idle || busy.is_empty() {
        return Ok(());
    }
    // Before the first: who undoes this goes by the mark.
    Mark::SchedIdle.set(dir)?;
    let changed = busy.iter().filter(|tid| change(**tid, Policy::Other, Policy::Idle)).count();
    tracing::debug!(cgroup = %dir.display(), threads, busy = busy.len(), changed, "busy threads come last");
    Ok(())
}

/// It, the pod that it is a container of, or one of its containers.
fn is_marked(dir: &Path) -> bool {
    let below = tree::child_dirs(dir).unwrap_or_default();
    let around = dir.parent().into_iter().chain(below.iter().map(PathBuf::as_path));
    std::iter::once(dir).chain(around).any(|dir| Mark::SchedIdle.is_on(dir))
}

/// Undoes it in the cgroup and all below, where it was done; returns whether it was. Where threads go on changing, as they do in
/// a fork bomb that runs, the mark stays for who comes next.
///
/// # Errors
/// When the cgroup is there and its processes, or its mark, cannot be read or changed.
pub(super) fn restore(dir: &Path) -> Result<bool, CgroupError> {
    if !Mark::SchedIdle.is_on(dir) {
        return Ok(false);
    }
    for _ in 0..PASSES {
        let idle = |tid: &i32| Policy::of(*tid) == Some(Policy::Idle);
        let left: Vec<i32> = threads(dir)?.into_iter().filter(idle).collect();
        if left.is_empty() {
            Mark::SchedIdle.take_off(dir)?;
            break;
        }
        for tid in left {
            change(tid, Policy::Idle, Policy::Other);
        }
    }
    Ok(true)
}

/// Of the processes in the cgroup and all below it.
fn threads(dir: &Path) -> Result<Vec<i32>, CgroupError> {
    Ok(tree::processes(dir)?.into_iter().flat_map(threads_of).collect())
}

fn cpu_times(dir: &Path) -> Result<HashMap<i32, Duration>, CgroupError> {
    let used = |tid: i32| Some((tid, cpu_time(Path::new(&format!("/proc/{tid}/schedstat")))?));
    Ok(threads(dir)?.into_iter().filter_map(used).collect())
}

/// The first number of schedstat, in nanoseconds: sum_exec_runtime (fs/proc/base.c, proc_pid_schedstat).
fn cpu_time(schedstat: &Path) -> Option<Duration> {
    let text = fs::read_to_string(schedstat).ok()?;
    Some(Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?))
}

/// Unless it has another policy by now, or has ended.
fn change(tid: i32, from: Policy, to: Policy) -> bool {
    Policy::of(tid) == Some(from) && to.give(tid).is_ok()
}

#[cfg(test)]
mod tests;
