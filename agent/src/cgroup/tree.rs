//! Walking, emptying and removing a subtree of one hierarchy. Plain file operations: cgroups-rs deletes one
//! directory at a time and cannot walk, and its kill is `cgroup.kill` alone.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::CgroupError;
use crate::clock;
use crate::kernel::pidfd::HeldProcess;
use crate::kernel::scheduling::run_to_its_end;

/// How long the kernel may take to let go of a cgroup whose last process has just ended: `rmdir` gives EBUSY
/// until the last task has left it in its exit path.
const REMOVE_WITHIN: Duration = Duration::from_secs(1);

/// How long killed processes may take to end. Giving back memory takes the kernel about 0.1 s a GiB.
const KILL_WITHIN: Duration = Duration::from_secs(10);

/// Of how many killed processes the memory is taken back by hand: those of a fork bomb hold little each.
const MAX_RELEASED: usize = 64;

/// The pause between two looks; it doubles up to the maximum.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// The directory and every cgroup below it, parents first. Empty when it does not exist.
///
/// # Errors
/// When a directory cannot be read for another reason than being gone.
pub fn subtree(root: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let mut dirs = Vec::new();
    match fs::symlink_metadata(root) {
        Ok(_) => dirs.push(root.to_owned()),
        Err(e) if is_gone(&e) => return Ok(dirs),
        Err(e) => return Err(CgroupError::io("look at", root, e)),
    }
    let mut next = 0;
    while next < dirs.len() {
        let found = child_dirs(&dirs[next])?;
        dirs.extend(found);
        next += 1;
    }
    Ok(dirs)
}

/// Directories directly below `dir`; none when it is gone.
///
/// # Errors
/// When it cannot be read for another reason than being gone.
pub fn child_dirs(dir: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let failed = |e| CgroupError::io("list", dir, e);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if is_gone(&e) => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut dirs = Vec::new();
    for entry in entries {
        match entry.and_then(|e| Ok((e.file_type()?, e.path()))) {
            Ok((kind, path)) if kind.is_dir() => dirs.push(path),
            Ok(_) => {}
            Err(e) if is_gone(&e) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(dirs)
}

/// Process ids in the cgroup and all below it. Processes outside of the agent's pid namespace, which the
/// kernel lists as 0, are left out.
///
/// # Errors
/// When `cgroup.procs` cannot be read although the cgroup is there.
pub fn processes(root: &Path) -> Result<BTreeSet<i32>, CgroupError> {
    let mut pids = BTreeSet::new();
    for dir in subtree(root)? {
        let file = dir.join("cgroup.procs");
        match fs::read_to_string(&file) {
            Ok(text) => pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|p| *p > 0)),
            // EOPNOTSUPP: a threaded v2 cgroup; its processes are listed by the domain above.
            Err(e) if is_gone(&e) || is(&e, Errno::OPNOTSUPP) => {}
            Err(e) => return Err(CgroupError::io("read", file, e)),
        }
    }
    Ok(pids)
}

/// Removes the cgroup and all below it, leaf first. A cgroup that is gone already is fine.
///
/// # Errors
/// [`CgroupError::Io`] with EBUSY when processes keep it in use for longer than a second.
pub fn remove(root: &Path) -> Result<(), CgroupError> {
    let start = clock::now();
    let mut pause = PAUSE_MIN;
    loop {
        let mut busy = None;
        for dir in subtree(root)?.into_iter().rev() {
            match fs::remove_dir(&dir) {
                Ok(()) => {}
                Err(e) if is_gone(&e) => {}
                // ENOTEMPTY: a child was made since the walk.
                Err(e) if is(&e, Errno::BUSY) || is(&e, Errno::NOTEMPTY) => busy = Some((dir, e)),
                Err(e) => return Err(CgroupError::io("remove the cgroup", dir, e)),
            }
        }
        match busy {
            None => return Ok(()),
            Some((dir, e)) if clock::now().since(start) >= REMOVE_WITHIN => {
                return Err(CgroupError::io("remove the cgroup (processes are still in it)", dir, e));
            }
            Some(_) => wait(&mut pause),
        }
    }
}

/// Waits until no process is in the cgroup or below it.
///
/// # Errors
/// [`CgroupError::InUse`] after `bound`.
pub fn wait_empty(root: &Path, bound: Duration) -> Result<(), CgroupError> {
    let start = clock::now();
    let mut pause = PAUSE_MIN;
    loop {
        let left = processes(root)?.len();
        if left == 0 {
            return Ok(());
        }
        if clock::now().since(start) >= bound {
            return Err(CgroupError::InUse { path: root.to_owned(), processes: left });
        }
        wait(&mut pause);
    }
}

/// One cgroup in all hierarchies that may hold processes of it.
#[derive(Debug)]
pub struct KillTarget<'a> {
    /// Of the hierarchy whose processes matter most and are killed first: memory's.
    pub memory: &'a Path,
    /// With `cgroup.kill` from Linux 5.14 on.
    pub unified: Option<&'a Path>,
    /// Of the v1 freezer.
    pub freezer_v1: Option<&'a Path>,
    /// Every hierarchy's directory, the ones above included.
    pub all: &'a [PathBuf],
}

/// Kills every process of the cgroup and waits until none is left. Returns how many were signalled; never
/// the agent itself.
///
/// # Errors
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
    loop {
        // Thaw after the signal: a task in v1's freezer takes no signal, not even SIGKILL, until it is thawed,
        // and with the SIGKILL pending it never gets back to user space.
        if let Some(freezer) = target.freezer_v1 {
            thaw_v1(freezer);
        }
        let mut left = BTreeSet::new();
        for dir in target.all {
            left.append(&mut processes(dir)?);
        }
        left.remove(&own_pid());
        if left.is_empty() {
            return Ok(signalled.len());
        }
        let waited = clock::now().since(start);
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

fn thaw_v1(freezer: &Path) {
    let Ok(dirs) = subtree(freezer) else { return };
    for dir in dirs {
        let file = dir.join("freezer.state");
        if fs::read_to_string(&file).is_ok_and(|s| s.trim() != "THAWED")
            && let Err(e) = fs::write(&file, "THAWED")
        {
            tracing::warn!(path = %file.display(), error = %e, "cannot thaw processes that are to be killed");
        }
    }
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn wait(pause: &mut Duration) {
    std::thread::sleep(*pause);
    *pause = (*pause * 2).min(PAUSE_MAX);
}

/// ENODEV is what files of a removed cgroup give to those who still hold them open.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || is(error, Errno::NODEV)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
