//! Deleting a tree that a pod could write to. The pod may have left symbolic links, mount points or ten thousand
//! nested directories; none of them may lead the agent out of the tree, through a mount or out of memory.
//!
//! Every directory is opened relative to the one above with `openat2` and RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS
//! (Linux 5.6), which refuses links and mount points, bind mounts included, at the moment of use. A nested
//! directory is moved up to the top before it is emptied, so that any depth takes two file descriptors.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, renameat, unlinkat};
use rustix::io::Errno;

use super::VolumeProblem;

/// Deletes `parent/name` and all in it. One that is not there is fine.
///
/// # Errors
/// [`VolumeProblem::NotOurs`] when it is not a directory, [`VolumeProblem::MountPoint`] when something is mounted
/// in it, else [`VolumeProblem::Io`]. What has been deleted by then stays deleted; another call goes on.
pub fn remove_tree(parent: &Path, name: &str) -> Result<(), VolumeProblem> {
    let path = parent.join(name);
    let failed = |e: Errno| VolumeProblem::io("delete", &path, e);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent_fd = match rustix::fs::open(parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.map_err(failed)?,
    };
    let top = match open_dir(&parent_fd, name) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            return Err(VolumeProblem::NotOurs { path, found: "a file or a symbolic link" });
        }
        opened => opened.map_err(|e| problem(e, &path))?,
    };
    let mut tree = Tree { path: &path, top, moved: 0 };
    // Each round deletes something or fails, and ends with what it moved up as new work.
    while tree.empty_top()? {}
    match unlinkat(&parent_fd, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed.map_err(|e| problem(e, &path)),
    }
}

struct Tree<'a> {
    path: &'a Path,
    top: OwnedFd,
    /// How many directories were moved up: makes their names.
    moved: u64,
}

impl Tree<'_> {
    /// One pass over the top directory. Whether there was anything.
    fn empty_top(&mut self) -> Result<bool, VolumeProblem> {
        let mut any = false;
        // Its own descriptor, so that each pass reads from the start.
        for (name, kind) in entries(&self.top).map_err(|e| problem(e, self.path))? {
            any = true;
            if !self.delete(None, &name, kind)? {
                self.empty_dir(&name)?;
                // ENOTEMPTY: something was made in it meanwhile; the next pass sees it.
                self.delete(None, &name, FileType::Directory)?;
            }
        }
        Ok(any)
    }

    /// Deletes what is in a directory of the top; its own non-empty directories move to the top.
    fn empty_dir(&mut self, name: &CStr) -> Result<(), VolumeProblem> {
        let at = || self.path.join(name.to_string_lossy().as_ref());
        let dir = match open_dir(&self.top, name) {
            Err(Errno::NOENT) => return Ok(()),
            opened => opened.map_err(|e| problem(e, &at()))?,
        };
        for (child, kind) in entries(&dir).map_err(|e| problem(e, &at()))? {
            if !self.delete(Some(&dir), &child, kind)? {
                self.move_to_top(&dir, &child)?;
            }
        }
        Ok(())
    }

    /// `false`: a directory that is not empty. `dir` of `None` is the top.
    fn delete(&self, dir: Option<&OwnedFd>, name: &CStr, kind: FileType) -> Result<bool, VolumeProblem> {
        let dir = dir.unwrap_or(&self.top);
        let mut flags = if kind == FileType::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        loop {
            match unlinkat(dir, name, flags) {
                Ok(()) | Err(Errno::NOENT) => return Ok(true),
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(false),
                // File systems without d_type give an unknown kind.
                Err(Errno::ISDIR) if flags.is_empty() => flags = AtFlags::REMOVEDIR,
                Err(e) => return Err(problem(e, &self.path.join(name.to_string_lossy().as_ref()))),
            }
        }
    }

    fn move_to_top(&mut self, dir: &OwnedFd, name: &CStr) -> Result<(), VolumeProblem> {
        loop {
            let new = format!(".removed-{}", self.moved);
            self.moved += 1;
            match renameat(dir, name, &self.top, &new) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                // The name is taken by what an interrupted removal left.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(e) => return Err(problem(e, &self.path.join(name.to_string_lossy().as_ref()))),
            }
        }
    }
}

fn open_dir<P: rustix::path::Arg>(dir: &OwnedFd, name: P) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    openat2(dir, name, flags, Mode::empty(), resolve)
}

/// At most a few thousand at a time, so that a directory of millions does not fill the agent's memory; the caller
/// comes back for the rest.
fn entries(dir: &OwnedFd) -> rustix::io::Result<Vec<(std::ffi::CString, FileType)>> {
    const AT_A_TIME: usize = 4096;
    let fd: BorrowedFd<'_> = std::os::fd::AsFd::as_fd(dir);
    let mut found = Vec::new();
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            found.push((entry.file_name().to_owned(), entry.file_type()));
        }
        if found.len() == AT_A_TIME {
            break;
        }
    }
    Ok(found)
}

/// EXDEV is `openat2` refusing to cross a mount, EBUSY `unlinkat` and `renameat` refusing to touch one.
fn problem(error: Errno, path: &Path) -> VolumeProblem {
    match error {
        Errno::XDEV | Errno::BUSY => VolumeProblem::MountPoint { path: path.to_owned() },
        e => VolumeProblem::io("delete", path, e),
    }
}
