//! What a directory holds, as `du` counts: allocated blocks, hard links once, never through a mount or a symbolic link.
//! A pod may change the tree meanwhile and may have made it to be walked for ever: each directory is opened from the top
//! with `openat2` (RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS), depth and time are bounded.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat2, statat};
use rustix::io::Errno;

use crate::clock;
use oomlet_core::clock::Mono;
use oomlet_core::eviction::resources::reading::DiskUse;

/// Deeper directories count themselves and nothing below them: no program of good will makes them.
const MAX_DEPTH: u32 = 1000;
/// The rest of a directory that takes longer to walk is not counted.
const MAX_TIME: Duration = Duration::from_secs(60);
/// Names opened in one go: PATH_MAX is 4096.
const MAX_PATH_BYTES: usize = 4000;
/// Hard links remembered; beyond that each name of a file counts. 16 bytes each.
const MAX_LINKS: usize = 1 << 18;
/// Entries between two looks at the clock.
const ENTRIES_PER_LOOK: u64 = 1024;

/// A directory that is yet to be read; its path are the names from the top.
struct Pending {
    parent: Option<Rc<Pending>>,
    name: CString,
    depth: u32,
}

struct Walk {
    top: OwnedFd,
    /// Of the file system; nothing of another counts.
    device: u64,
    used: DiskUse,
    links: HashSet<u64>,
    entries: u64,
    ends: Mono,
}

/// One that is not there holds nothing.
///
/// # Errors
/// When a directory cannot be read for another reason than having vanished or having been replaced.
pub fn disk_use(dir: &Path) -> io::Result<DiskUse> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match rustix::fs::open(dir, flags, Mode::empty()) {
        Err(e) if is_gone(e) => return Ok(DiskUse::default()),
        opened => opened?,
    };
    let stat = rustix::fs::fstat(&top)?;
    let mut walk = Walk {
        top,
        device: device(&stat),
        used: DiskUse { bytes: allocated(&stat), inodes: 1 },
        links: HashSet::new(),
        entries: 0,
        ends: clock::now() + MAX_TIME,
    };
    let mut pending = Vec::new();
    let top = walk.top.try_clone()?;
    let mut complete = walk.read(&top, None, &mut pending)?;
    while complete && let Some(next) = pending.pop() {
        complete = match walk.open(&next) {
            Ok(dir) => walk.read(&dir, Some(&Rc::new(next)), &mut pending)?,
            Err(e) if is_gone(e) => true,
            Err(e) => return Err(e.into()),
        };
    }
    Ok(walk.used)
}

impl Walk {
    /// `false`: time is over.
    fn read(
        &mut self,
        dir: &OwnedFd,
        at: Option<&Rc<Pending>>,
        pending: &mut Vec<Pending>,
    ) -> io::Result<bool> {
        let depth = at.map_or(1, |at| at.depth + 1);
        for entry in Dir::read_from(dir.as_fd())? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.entries += 1;
            if self.entries.is_multiple_of(ENTRIES_PER_LOOK) && clock::now() >= self.ends {
                return Ok(false);
            }
            let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            if device(&stat) != self.device || !self.counts(&stat) {
                continue;
            }
            self.used = self.used.plus(DiskUse { bytes: allocated(&stat), inodes: 1 });
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_dir && depth < MAX_DEPTH {
                pending.push(Pending { parent: at.cloned(), name: name.to_owned(), depth });
            }
        }
        Ok(true)
    }

    /// Not a name more of a file that has been counted.
    #[allow(clippy::useless_conversion, reason = "st_ino is not a u64 everywhere")]
    fn counts(&mut self, stat: &Stat) -> bool {
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_dir || stat.st_nlink < 2 || self.links.len() >= MAX_LINKS {
            return true;
        }
        self.links.insert(u64::from(stat.st_ino))
    }

    fn open(&self, dir: &Pending) -> rustix::io::Result<OwnedFd> {
        let mut names = vec![&dir.name];
        let mut parent = dir.parent.as_ref();
        while let Some(above) = parent {
            names.push(&above.name);
            parent = above.parent.as_ref();
        }
        let mut opened: Option<OwnedFd> = None;
        let mut path: Vec<u8> = Vec::new();
        for name in names.into_iter().rev() {
            let name = name.as_bytes();
            if !path.is_empty() && path.len() + name.len() + 1 > MAX_PATH_BYTES {
                opened = Some(open_below(opened.as_ref().unwrap_or(&self.top), &path)?);
                path.clear();
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        open_below(opened.as_ref().unwrap_or(&self.top), &path)
    }
}

fn open_below(dir: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    openat2(dir, path, flags, Mode::empty(), resolve)
}

/// Vanished, replaced by something else, or a mount point (EXDEV).
fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV)
}

/// `st_blocks` counts 512 bytes whatever the file system's block is (inode(7)).
fn allocated(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512)
}

#[allow(clippy::useless_conversion, reason = "st_dev is not a u64 everywhere")]
fn device(stat: &Stat) -> u64 {
    u64::from(stat.st_dev)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_links_and_holes() {
        let dir = tempfile::tempdir().unwrap();
        let empty = disk_use(dir.path()).unwrap();
        assert_eq!(empty.inodes, 1);
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), vec![1; 256 << 10]).unwrap();
        let one = disk_use(dir.path()).unwrap();
        assert_eq!(one.inodes, 4);
        assert!(one.bytes >= empty.bytes + (256 << 10) && one.bytes < empty.bytes + (300 << 10), "{one:?}");

        // A second name of the file, a hole, and ways out of the tree.
        fs::hard_link(dir.path().join("a/b/file"), dir.path().join("again")).unwrap();
        fs::File::create(dir.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        symlink("/", dir.path().join("root")).unwrap();
        symlink("..", dir.path().join("up")).unwrap();
        let more = disk_use(dir.path()).unwrap();
        assert_eq!(more.inodes, 7);
        assert!(more.bytes < one.bytes + (64 << 10), "{more:?}");
    }

    #[test]
    fn what_is_not_there_or_no_directory_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        symlink("/", dir.path().join("link")).unwrap();
        for name in ["none", "file", "link"] {
            assert_eq!(disk_use(&dir.path().join(name)).unwrap(), DiskUse::default(), "{name}");
        }
    }

    #[test]
    fn a_tree_deeper_than_a_path_can_name_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let name = "d".repeat(200);
        // Made from the inside out, for the whole path has no name: each round puts the tree below a new directory.
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("file"), vec![1; 64 << 10]).unwrap();
        for _ in 0..40 {
            let above = dir.path().join("above");
            fs::create_dir(&above).unwrap();
            fs::rename(&tree, above.join(&name)).unwrap();
            fs::rename(&above, &tree).unwrap();
        }
        let used = disk_use(dir.path()).unwrap();
        assert_eq!(used.inodes, 43);
        assert!(used.bytes >= 64 << 10, "{used:?}");
        // tempfile cannot name it either.
        crate::volume::removal::remove_tree(dir.path(), "tree").unwrap();
    }
}
