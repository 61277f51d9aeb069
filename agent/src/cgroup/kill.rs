//! Killing every process of a cgroup, past the container runtime. The signal goes to each process of `cgroup.procs` and,
//! from Linux 5.14 on, by `cgroup.kill`; on v1 the cgroup is thawed for it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::CgroupError;
use super::frozen::{self, Frozen};
use super::tree::{PAUSE_MIN, processes, subtree, wait};
use crate::clock;
use crate::kernel::pidfd::HeldProcess;
use crate::kernel::scheduling::run_to_its_end;

/// How long killed processes may take to end. Giving back memory takes the kernel about 0.1 s a GiB.
const KILL_WITHIN: Duration = Duration::from_secs(10);

/// Of how many killed processes the memory is taken back by hand: those of a fork bomb hold little each.
const MAX_RELEASED: usize = 64;

/// How long somebody else's freezer must have stood in the way without a break before it is named as the cause. The agent
/// itself freezes for a tenth of a second at most.
const FROZEN_FOR: Duration = Duration::from_secs(2);

/// One cgroup in all hierarchies that may hold processes of it.
#[derive(Debug)]
pub struct KillTarget<'a> {
    /// Of the hierarchy whose processes matter most and are killed first: memory's.
    pub memory: &'a Path,
    /// With `cgroup.kill` from Linux 5.14 on.
    pub unified: Option<&'a Path>,
    /// Of the v1 freezer: thawed, with all below it.
    pub freezer_v1: Option<&'a Path>,
    /// A cgroup above it in the v1 freezer that is thawed as well, but not what else is below that.
    pub freezer_above_v1: Option<&'a Path>,
    /// Where it may be frozen: its directory in each hierarchy that freezes, and the mount point of that.
    pub freezers: &'a [(PathBuf, PathBuf)],
    /// Every hierarchy's directory, the ones above included.
    pub all: &'a [PathBuf],
}

/// Kills every process of the cgroup and waits until none is left. Returns how many were signalled; never
/// the agent itself.
///
/// # Errors
/// [`CgroupError::Frozen`] when somebody has frozen a cgroup above and processes are left for it;
/// [`CgroupError::StillRunning`] when processes are left after ten seconds.
pub fn kill(target: &KillTarget<'_>) -> Result<usize, CgroupError> {
    let mut signalled = BTreeSet::new();
    let start = clock::now();
    let mut pause = PAUSE_MIN;
    let pids = processes(target.memory)?;
    let held: Vec<HeldProcess> = pids.iter().take(MAX_RELEASED).filter_map(hold).collect();
    signal_all(pids, &mut signalled);
    if let Some(unified) = target.unified {
        kill_file(unified, &mut signalled)?;
    }
    release_memory(held);
    let mut frozen_since = None;
    loop {
        // Thaw after the signal: a task in v1's freezer takes no signal, not even SIGKILL, until it is thawed,
        // and with the SIGKILL pending it never gets back to user space.
        if let Some(freezer) = target.freezer_v1 {
            subtree(freezer).unwrap_or_default().iter().for_each(|dir| thaw_v1(dir));
        }
        target.freezer_above_v1.into_iter().for_each(thaw_v1);
        let mut left = BTreeSet::new();
        for dir in target.all {
            left.append(&mut processes(dir)?);
        }
        left.remove(&own_pid());
        if left.is_empty() {
            return Ok(signalled.len());
        }
        let frozen: Vec<Frozen> =
            target.freezers.iter().flat_map(|(dir, mount)| frozen::above(dir, mount)).collect();
        let now = clock::now();
        frozen_since = if frozen.is_empty() { None } else { frozen_since.or(Some(now)) };
        if frozen_since.is_some_and(|since| now.since(since) >= FROZEN_FOR) {
            return Err(CgroupError::frozen(target.memory, &frozen));
        }
        let waited = now.since(start);
        if waited >= KILL_WITHIN {
            return Err(CgroupError::StillRunning {
                path: target.memory.to_owned(),
                processes: left.len(),
                waited_ms: waited.as_millis().try_into().unwrap_or(u64::MAX),
            });
        }
        // Again for those known already: a pid may be a new process by now that was forked meanwhile.
        signal_all(left.clone(), &mut signalled);
        left.into_iter().for_each(run_to_its_end);
        wait(&mut pause);
    }
}

/// `cgroup.kill` takes forks with it that a loop over `cgroup.procs` would have to chase. It is written only
/// if the agent is not itself in there.
fn kill_file(unified: &Path, signalled: &mut BTreeSet<i32>) -> Result<(), CgroupError> {
    let file = unified.join("cgroup.kill");
    let pids = processes(unified)?;
    if pids.is_empty() || pids.contains(&own_pid()) {
        return Ok(());
    }
    match fs::write(&file, "1") {
        Ok(()) => signalled.extend(pids),
        // Not there before Linux 5.14 (the cgroup file system refuses to create a file: EACCES or EPERM),
        // EOPNOTSUPP in a threaded cgroup: the loop over `cgroup.procs` does it.
        Err(e) => tracing::debug!(path = %file.display(), error = %e, "no cgroup.kill"),
    }
    Ok(())
}

/// The agent itself is not among those that die.
fn hold(pid: &i32) -> Option<HeldProcess> {
    HeldProcess::open(u32::try_from(*pid).ok().filter(|_| *pid != own_pid())?).ok()
}

/// What they hold is wanted now, and a process dies only when it gets to run. In a thread of its own: the kernel waits
/// for a lock of the process for as long as that takes.
fn release_memory(killed: Vec<HeldProcess>) {
    let release = move || {
        for process in &killed {
            if let Err(error) = process.release_memory() {
                tracing::debug!(%error, "the memory of a killed process comes back when it dies");
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("release".to_owned()).spawn(release) {
        tracing::debug!(%error, "the memory of killed processes comes back when they die");
    }
}

fn signal_all(pids: BTreeSet<i32>, signalled: &mut BTreeSet<i32>) {
    for raw in pids {
        let Some(pid) = Pid::from_raw(raw).filter(|_| raw != own_pid()) else { continue };
        match kill_process(pid, Signal::KILL) {
            Ok(()) => {
                signalled.insert(raw);
            }
            Err(Errno::SRCH) => {}
            Err(e) => tracing::warn!(pid = raw, error = %e, "cannot send SIGKILL"),
        }
    }
}

/// Of this cgroup alone. One that is gone needs it no more.
fn thaw_v1(dir: &Path) {
    let file = dir.join("freezer.state");
    if fs::read_to_string(&file).is_ok_and(|s| s.trim() != "THAWED")
        && let Err(e) = fs::write(&file, "THAWED")
    {
        tracing::warn!(path = %file.display(), error = %e, "cannot thaw processes that are to be killed");
    }
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}
