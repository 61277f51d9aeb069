//! Everything a test makes on the machine hangs on one [`Scratch`]: a folder and a cgroup path with the same unique
//! name. Dropping it ends the processes, lifts the mounts, removes the cgroups and deletes the folder, also after a
//! panic. What a killed owner has left is found by its marker file: [`sweep_leftovers`].
//!
//! Processes that belong to a scratch: members of its cgroups, programs of ours with its folder on their command
//! line, and the descendants of both.

mod sweep;

use std::ffi::CString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount, mount_bind};
use serde::{Deserialize, Serialize};

use crate::cgroup_driver::CgroupDriver;

/// Short, since the path of a unix socket holds 107 bytes at most; and on disk, where /tmp may be memory.
const PARENT: &str = "/var/tmp";
const PREFIX: &str = "oomlet-";
const MARKER: &str = "scratch-owner.json";

#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
    owner: Owner,
    driver: CgroupDriver,
}

/// The marker file: who may still be using the folder, and what else belongs to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Owner {
    pid: u32,
    /// Field 22 of /proc/PID/stat: tells the owner from a later process with its pid.
    start_ticks: u64,
    cgroup_root: String,
}

impl Scratch {
    /// `label` says whose it is, for people who find it.
    pub fn new(label: &str) -> Result<Scratch> {
        let driver = CgroupDriver::of_environment()?;
        let dir = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{label}-"))
            .tempdir_in(PARENT)
            .with_context(|| format!("making a folder in {PARENT}"))?
            .keep();
        let name = dir.file_name().context("a temporary folder without a name")?.to_string_lossy();
        let pid = std::process::id();
        let start_ticks = sweep::start_ticks(pid).context("reading the start time of this process")?;
        let owner = Owner { pid, start_ticks, cgroup_root: format!("/{name}") };
        let scratch = Scratch { dir, owner, driver };
        std::fs::write(scratch.dir.join(MARKER), serde_json::to_vec(&scratch.owner)?)
            .with_context(|| format!("marking {}", scratch.dir.display()))?;
        Ok(scratch)
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Of containerd and agent here.
    #[must_use]
    pub fn cgroup_driver(&self) -> CgroupDriver {
        self.driver
    }

    /// As kubelet's `cgroupRoot`, such as `/oomlet-demo-x1y2z3`; not made here.
    #[must_use]
    pub fn cgroup_root(&self) -> &str {
        &self.owner.cgroup_root
    }

    /// The folder of a cgroup below the cgroup root (`/kubepods/burstable`, as cgroupfs has it) in the hierarchy with
    /// this v1 controller, or in the v2 one when it has none.
    pub fn cgroup_dir_below(&self, controller: &str, below: &str) -> Result<PathBuf> {
        let root = self.cgroup_dir(controller)?;
        let mount = root.parent().context("a cgroup root is below its mount")?;
        Ok(mount.join(self.driver.path(&format!("{}/{below}", self.cgroup_root()))))
    }

    /// The folder of the cgroup root in the hierarchy with this v1 controller, or in the v2 one when it has none.
    pub fn cgroup_dir(&self, controller: &str) -> Result<PathBuf> {
        let mounts = sweep::cgroup_mounts()?;
        let mount = mounts
            .iter()
            .find(|m| m.options.split(',').any(|o| o == controller))
            .or_else(|| mounts.iter().find(|m| m.v2))
            .with_context(|| format!("no cgroup hierarchy has the controller {controller}"))?;
        Ok(mount.path.join(self.driver.path(self.cgroup_root())))
    }

    /// The folder of the cgroup root in every hierarchy.
    pub fn cgroup_dirs(&self) -> Result<Vec<PathBuf>> {
        let below = self.driver.path(self.cgroup_root());
        Ok(sweep::cgroup_mounts()?.into_iter().map(|mount| mount.path.join(&below)).collect())
    }

    /// Mounts a file system of this size, in memory, on a folder of its own. It goes with the scratch.
    pub fn mount_tmpfs(&self, name: &str, mib: u64) -> Result<PathBuf> {
        let dir = self.create_dir(name)?;
        let options = CString::new(format!("size={mib}m,mode=755"))?;
        mount("tmpfs", &dir, "tmpfs", MountFlags::empty(), options.as_c_str())
            .with_context(|| format!("mounting a tmpfs on {}", dir.display()))?;
        Ok(dir)
    }

    /// Makes `source` appear at `name` too.
    pub fn bind_mount(&self, source: &Path, name: &str) -> Result<PathBuf> {
        let dir = self.create_dir(name)?;
        mount_bind(source, &dir)
            .with_context(|| format!("binding {} to {}", source.display(), dir.display()))?;
        Ok(dir)
    }

    pub fn create_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("OOMLET_KEEP_LOGS").is_some() {
            let kept =
                std::env::temp_dir().join(self.dir.file_name().unwrap_or_default()).with_extension("logs");
            let _ = sweep::keep_logs(&self.dir, &kept);
            eprintln!("logs kept in {}", kept.display());
        }
        if let Err(error) = sweep::sweep(&self.dir, &self.owner.cgroup_root) {
            eprintln!("{}: not all removed: {error:#}", self.dir.display());
        }
    }
}

/// Name and pid of each program of ours that runs with `dir` on its command line.
pub(crate) fn programs_below(dir: &Path) -> Result<Vec<(String, u32)>> {
    sweep::programs_below(dir)
}

/// Ends them with their descendants; returns how many of them there were.
pub(crate) fn end_programs_below(dir: &Path) -> Result<usize> {
    let programs = sweep::programs_below(dir)?;
    sweep::end_processes(dir, &[])?;
    Ok(programs.len())
}

/// Removes the scratches whose owner is gone; returns how many there were.
pub fn sweep_leftovers() -> Result<usize> {
    let mut swept = 0;
    for entry in std::fs::read_dir(PARENT).with_context(|| format!("reading {PARENT}"))? {
        let dir = entry?.path();
        if !dir.file_name().is_some_and(|n| n.to_string_lossy().starts_with(PREFIX)) {
            continue;
        }
        // Without our marker it is somebody else's, whatever its name.
        let Ok(text) = std::fs::read(dir.join(MARKER)) else { continue };
        let Ok(owner) = serde_json::from_slice::<Owner>(&text) else { continue };
        let expected = format!("/{}", dir.file_name().unwrap_or_default().to_string_lossy());
        if owner.cgroup_root != expected || sweep::start_ticks(owner.pid) == Some(owner.start_ticks) {
            continue;
        }
        sweep::sweep(&dir, &owner.cgroup_root)?;
        swept += 1;
    }
    Ok(swept)
}

#[cfg(test)]
mod tests;
