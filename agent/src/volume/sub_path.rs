//! `subPath` of a volumeMount: a place below a volume that the pod's own containers can write to, so that each of
//! its directories may be a symbolic link by the time it is used.
//!
//! It is resolved by `openat2` with RESOLVE_BENEATH, which cannot leave the volume, and the directory found is
//! bind-mounted by its file descriptor below the pod's directory. The runtime mounts from there: it would follow a
//! link that appears between the check and the mount (CVE-2017-1002101, CVE-2021-25741).

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, openat2, statat};
use rustix::io::Errno;

use super::{VolumeProblem, invalid, make_private_dir, mounts};

/// Makes `sub_path` below `volume` if nothing is there, and binds it to `<place>/<index>`, which is returned. A
/// bind that shows the right thing already is kept.
///
/// # Errors
/// [`VolumeProblem::Invalid`] for a path with `..` or an absolute one, [`VolumeProblem::SubPathEscapes`], or
/// [`VolumeProblem::Io`].
pub fn bind(volume: &Path, sub_path: &str, place: &Path, index: usize) -> Result<PathBuf, VolumeProblem> {
    let found = resolve(volume, sub_path)?;
    let stat = fstat(&found).map_err(|e| VolumeProblem::io("look at", volume.join(sub_path), e))?;
    let target = place.join(index.to_string());
    if mounts::is_mount_point(&target)? {
        let bound = fs::metadata(&target).map_err(|e| VolumeProblem::io("look at", &target, e))?;
        if (bound.dev(), bound.ino()) == (stat.st_dev, stat.st_ino) {
            return Ok(target);
        }
        mounts::unmount_one(&target)?;
    }
    make_private_dir(place)?;
    make_target(&target, FileType::from_raw_mode(stat.st_mode))?;
    let source = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
    rustix::mount::mount_bind(source, &target)
        .map_err(|e| VolumeProblem::io("bind the subPath to", &target, e))?;
    Ok(target)
}

/// A bind mount needs a directory for a directory and a file for anything else.
fn make_target(target: &Path, kind: FileType) -> Result<(), VolumeProblem> {
    let failed = |e| VolumeProblem::io("make the mount point", target, e);
    match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_dir() == (kind == FileType::Directory) => return Ok(()),
        Ok(meta) if meta.is_dir() => fs::remove_dir(target).map_err(failed)?,
        Ok(_) => fs::remove_file(target).map_err(failed)?,
        Err(_) => {}
    }
    if kind == FileType::Directory {
        fs::create_dir(target).map_err(failed)
    } else {
        fs::File::create_new(target).map(drop).map_err(failed)
    }
}

/// Opens the place, making the directories that are missing with the volume's own mode, as kubelet does.
fn resolve(volume: &Path, sub_path: &str) -> Result<OwnedFd, VolumeProblem> {
    let mut names = Vec::new();
    for component in Path::new(sub_path).components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            _ => return Err(invalid("subPath", sub_path, "it must be relative and must not contain `..`")),
        }
    }
    if names.is_empty() {
        return Err(invalid("subPath", sub_path, "it names no place below the volume"));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let base = rustix::fs::open(volume, flags, Mode::empty())
        .map_err(|e| VolumeProblem::io("open the volume", volume, e))?;
    let problem = |e: Errno| match e {
        // EXDEV: a link leads above the volume or is absolute; ELOOP: links without end, or a magic link.
        Errno::XDEV | Errno::LOOP => {
            VolumeProblem::SubPathEscapes { sub_path: sub_path.to_owned(), volume: volume.to_owned() }
        }
        e => VolumeProblem::io("open the subPath", volume.join(sub_path), e),
    };
    // Each step starts at the volume again: a relative link in the middle may point beside it, within the volume.
    let mut reached = PathBuf::new();
    let mut found: Option<OwnedFd> = None;
    for name in names {
        reached.push(name);
        let next = match open_beneath(&base, &reached, OFlags::PATH) {
            Err(Errno::NOENT) => {
                make_dir(found.as_ref().unwrap_or(&base), &base, name).map_err(problem)?;
                open_beneath(&base, &reached, OFlags::PATH)
            }
            opened => opened,
        };
        found = Some(next.map_err(problem)?);
    }
    found.ok_or_else(|| problem(Errno::NOENT))
}

/// A link that points nowhere makes this fail with EEXIST.
fn make_dir(parent: &OwnedFd, base: &OwnedFd, name: &std::ffi::OsStr) -> rustix::io::Result<()> {
    // Mode of the volume, setgid with it; the umask would cut a mode given to mkdir.
    let mode = Mode::from_raw_mode(statat(base, c"", AtFlags::EMPTY_PATH)?.st_mode & 0o3777);
    mkdirat(parent, name, mode)?;
    fchmod(open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?, mode)
}

fn open_beneath(dir: &OwnedFd, path: impl AsRef<Path>, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    // EAGAIN: a rename elsewhere raced with the walk, which the kernel then cannot vouch for.
    for _ in 0..64 {
        match openat2(dir, path.as_ref(), flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}
