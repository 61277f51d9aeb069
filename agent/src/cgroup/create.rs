//! Making one cgroup in every hierarchy.
//!
//! Directories are made with plain `mkdir`: cgroups-rs' `Cgroup` leaves out the `unified` mount of a hybrid
//! system, expects v2 at `/sys/fs/cgroup` whatever mountinfo says, and drops errors of `cgroup.subtree_control`.
//! Its `CpuSetController` does fill the cpuset directories (a v1 cpuset without CPUs takes no process).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cgroups_rs::fs::Controller;
use cgroups_rs::fs::cpuset::CpuSetController;

use super::CgroupError;
use super::hierarchy::Hierarchies;
use oomlet_core::signal::Hierarchy;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parents {
    Make,
    /// A pod below a `kubepods` that somebody removed would run without the node's limit.
    MustExist,
}

/// In all hierarchies, and with the controllers of v2 delegated down to its parent.
///
/// # Errors
/// [`CgroupError::Io`] naming the directory or file, [`CgroupError::Delegate`].
pub fn make(hierarchies: &Hierarchies, path: &str, parents: Parents) -> Result<(), CgroupError> {
    for hierarchy in &hierarchies.v1 {
        let dir = below(&hierarchy.mount_point, path);
        make_dir(&dir, parents)?;
        if hierarchy.controllers.iter().any(|c| c == "cpuset") {
            fill_cpuset(&dir, &hierarchy.mount_point)?;
        }
    }
    let Some(unified) = &hierarchies.unified else { return Ok(()) };
    let dir = below(&unified.mount_point, path);
    make_dir(&dir, parents)?;
    if hierarchies.memory_mount().is_some_and(|(_, h)| h == Hierarchy::Unified) {
        // From the root down: a cgroup has the controllers that its parent delegates. The pod's own children
        // are the runtime's, which delegates for itself.
        let mut ancestors: Vec<&Path> = dir.ancestors().skip(1).collect();
        ancestors.retain(|a| a.starts_with(&unified.mount_point));
        ancestors.into_iter().rev().try_for_each(delegate)?;
    }
    Ok(())
}

/// `path` is absolute within the hierarchy.
#[must_use]
pub fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

fn make_dir(dir: &Path, parents: Parents) -> Result<(), CgroupError> {
    let made = if parents == Parents::Make { fs::create_dir_all(dir) } else { fs::create_dir(dir) };
    match made {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(CgroupError::io("make the cgroup", dir, e)),
        _ => Ok(()),
    }
}

/// cgroups-rs copies `cpuset.cpus` and `cpuset.mems` down from the nearest ancestor that has them; whether that
/// worked shows only in the file.
fn fill_cpuset(dir: &Path, mount: &Path) -> Result<(), CgroupError> {
    let cpus = dir.join("cpuset.cpus");
    let has_cpus = || fs::read_to_string(&cpus).map(|t| !t.trim().is_empty());
    let failed = |e| CgroupError::io("copy the parent's CPUs to", &cpus, e);
    if has_cpus().map_err(failed)? {
        return Ok(());
    }
    CpuSetController::new(dir.to_owned(), mount.to_owned(), false)
        .create()
        .map_err(|e| failed(io::Error::other(e.to_string())))?;
    if has_cpus().map_err(failed)? { Ok(()) } else { Err(failed(io::Error::other("they stay empty"))) }
}

/// Turns on every controller that `dir` has for its children. Memory must work; the others are worth a warning.
fn delegate(dir: &Path) -> Result<(), CgroupError> {
    let read = |name: &str| {
        let file = dir.join(name);
        fs::read_to_string(&file).map_err(|e| CgroupError::io("read", file, e))
    };
    let control = dir.join("cgroup.subtree_control");
    let delegated = read("cgroup.subtree_control")?;
    for controller in read("cgroup.controllers")?.split_ascii_whitespace() {
        if delegated.split_ascii_whitespace().any(|d| d == controller) {
            continue;
        }
        // One at a time: a write with several is all or nothing.
        match fs::write(&control, format!("+{controller}")) {
            Ok(()) => {}
            Err(source) if controller == "memory" => {
                return Err(CgroupError::Delegate {
                    controller: controller.to_owned(),
                    path: dir.to_owned(),
                    source,
                });
            }
            Err(e) => {
                tracing::warn!(controller, path = %dir.display(), error = %e, "cannot delegate the cgroup controller");
            }
        }
    }
    Ok(())
}
