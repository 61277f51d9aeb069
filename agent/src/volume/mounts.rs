//! What is mounted below a directory, mounting a tmpfs, and unmounting. Only mount points below the directory itself count:
//! where a bind mount came from is none of its business.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, unmount};

use super::VolumeProblem;
use oomlet_core::mountinfo;

/// EBUSY passes when a process that looked around in the mount ends; six waits, 315 ms in all.
const BUSY_WAITS: u32 = 6;

/// Mounts may be stacked or be made meanwhile; each round takes off one layer.
const ROUNDS: usize = 16;

/// `dir` has no symbolic links in it.
///
/// # Errors
/// When mountinfo cannot be read.
pub fn is_mount_point(dir: &Path) -> Result<bool, VolumeProblem> {
    Ok(read()?.iter().any(|m| m.mount_point == dir))
}

/// Unmounts `dir` itself and everything below it, deepest first. `dir` has no symbolic links in it.
///
/// # Errors
/// [`VolumeProblem::Unmount`] for the first mount that stays.
pub fn unmount_below(dir: &Path) -> Result<(), VolumeProblem> {
    for _ in 0..ROUNDS {
        let mut points: Vec<PathBuf> =
            read()?.into_iter().map(|m| m.mount_point).filter(|p| p.starts_with(dir)).collect();
        if points.is_empty() {
            return Ok(());
        }
        points.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
        points.dedup();
        points.iter().try_for_each(|p| unmount_one(p))?;
    }
    match read()?.into_iter().find(|m| m.mount_point.starts_with(dir)) {
        Some(m) => Err(VolumeProblem::Unmount { path: m.mount_point, source: Errno::BUSY.into() }),
        None => Ok(()),
    }
}

/// The topmost mount at exactly this path.
///
/// # Errors
/// [`VolumeProblem::Unmount`].
pub fn unmount_one(path: &Path) -> Result<(), VolumeProblem> {
    let mut wait = Duration::from_millis(5);
    for attempt in 0.. {
        match unmount(path, UnmountFlags::NOFOLLOW) {
            Ok(()) => break,
            Err(Errno::BUSY) if attempt < BUSY_WAITS => {
                std::thread::sleep(wait);
                wait *= 2;
            }
            Err(e) => return Err(VolumeProblem::Unmount { path: path.to_owned(), source: e.into() }),
        }
    }
    Ok(())
}

/// A tmpfs that stays out of swap, for a Secret may be in it. Linux 6.4 has that option, and an older kernel refuses it.
///
/// # Errors
/// When it cannot be mounted.
pub fn mount_tmpfs(dir: &Path, options: &str) -> Result<(), VolumeProblem> {
    let mount = |options: &str| {
        let options = CString::new(options).map_err(io::Error::other)?;
        rustix::mount::mount("tmpfs", dir, "tmpfs", MountFlags::empty(), options.as_c_str())
            .map_err(io::Error::from)
    };
    mount(&format!("{options},noswap"))
        .or_else(|_| mount(options))
        .map_err(|e| VolumeProblem::io("mount tmpfs on", dir, e))
}

fn read() -> Result<Vec<mountinfo::Mount>, VolumeProblem> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read(path).map_err(|e| VolumeProblem::io("read", path, e))?;
    Ok(mountinfo::parse(&text))
}
