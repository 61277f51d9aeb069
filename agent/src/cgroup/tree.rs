//! Walking and removing a subtree of one hierarchy. Plain file operations: cgroups-rs deletes one directory at a time
//! and cannot walk.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use super::CgroupError;
use crate::clock;

/// How long the kernel may take to let go of a cgroup whose last process has just ended: `rmdir` gives EBUSY
/// until the last task has left it in its exit path.
const REMOVE_WITHIN: Duration = Duration::from_secs(1);

/// The pause between two looks; it doubles up to the maximum.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(1);
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

pub(super) fn wait(pause: &mut Duration) {
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
