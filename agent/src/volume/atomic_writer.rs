//! Files of a volume that change all at once, in kubelet's layout (pkg/volume/util/atomic_writer.go): they stand in a
//! directory with the time in its name, `..data` is a link to it, and each name at the top a link through `..data`. One
//! rename of `..data` changes them all.
//!
//! The generation that was replaced stays for a moment (see [`sweep`]): who has just followed `..data` to it still finds the
//! file. kubelet deletes it at once, and a reader may meet ENOENT.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::fs::{chown, lchown, symlink};
use std::path::{Path, PathBuf};

use k8s_openapi::jiff::Timestamp;
use rustix::fs::{AtFlags, CWD};

use super::VolumeProblem;
use oomlet_core::volume::{File, Payload};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Of directories below the volume; kubelet's.
const DIR_MODE: u32 = 0o755;
/// What `fsGroup` adds to a file, and to a directory, of a volume that is read-only to its pod
/// (`changeFilePermission`, pkg/volume/volume_linux.go).
const GROUP_FILE: u32 = 0o440;
const GROUP_DIR: u32 = 0o2550;

/// Makes the volume's files those of `payload`. Whether generations are left for [`sweep`].
///
/// # Errors
/// When a file operation fails; the files are then as they were, or as they are to be.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> Result<bool, VolumeProblem> {
    let writer = Writer { dir, payload, group };
    let current = current(dir)?;
    let up_to_date = current.as_ref().is_some_and(|name| writer.is_at(&dir.join(name)));
    if !up_to_date {
        let name = writer.new_generation()?;
        writer.switch_to(&name)?;
    }
    // Also where an agent was killed between the switch and this.
    writer.link_names()?;
    writer.remove_other_names()?;
    Ok(!leftovers(dir)?.is_empty())
}

/// Deletes every generation but the one that is shown.
///
/// # Errors
/// When the directory cannot be read or a generation not be deleted.
pub fn sweep(dir: &Path) -> Result<(), VolumeProblem> {
    for name in leftovers(dir)? {
        super::removal::remove_tree(dir, &name)?;
    }
    Ok(())
}

/// The name of the generation that `..data` shows.
fn current(dir: &Path) -> Result<Option<PathBuf>, VolumeProblem> {
    let data = dir.join(DATA);
    match fs::read_link(&data) {
        Ok(name) => Ok(Some(name)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(VolumeProblem::io("read the link", data, e)),
    }
}

/// Generations that are not shown, of an earlier write or of one that was cut short.
fn leftovers(dir: &Path) -> Result<Vec<String>, VolumeProblem> {
    let current = current(dir)?;
    let mut found = Vec::new();
    for entry in entries(dir)? {
        let is_ours = entry.starts_with("..") && entry != DATA && entry != NEW_DATA;
        if is_ours && current.as_deref() != Some(Path::new(&entry)) {
            found.push(entry);
        }
    }
    Ok(found)
}

/// Names that are not UTF-8 cannot be the writer's.
fn entries(dir: &Path) -> Result<Vec<String>, VolumeProblem> {
    let failed = |e| VolumeProblem::io("list", dir, e);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    Ok(names)
}

struct Writer<'a> {
    dir: &'a Path,
    payload: &'a Payload,
    group: Option<u32>,
}

impl Writer<'_> {
    /// Exactly the payload's files are in the generation, each as it is to be.
    fn is_at(&self, generation: &Path) -> bool {
        let same = |(path, file): (&String, &File)| {
            let at = generation.join(path);
            let meta = fs::symlink_metadata(&at);
            let as_wanted = meta.is_ok_and(|meta| {
                meta.is_file()
                    && meta.mode() & 0o777 == self.mode(file)
                    && meta.uid() == file.owner.unwrap_or(0)
                    && meta.gid() == self.group.unwrap_or(0)
                    && meta.len() == file.data.len() as u64
            });
            as_wanted && fs::read(&at).is_ok_and(|data| data == file.data)
        };
        self.payload.files().iter().all(same) && count_files(generation) == Some(self.payload.files().len())
    }

    fn mode(&self, file: &File) -> u32 {
        if self.group.is_some() { file.mode | GROUP_FILE } else { file.mode }
    }

    /// A directory with all files, that nobody sees yet. Its name.
    fn new_generation(&self) -> Result<String, VolumeProblem> {
        let (name, generation) = self.make_generation()?;
        for (path, file) in self.payload.files() {
            let at = generation.join(path);
            if let Some(parent) = Path::new(path).parent().filter(|p| !p.as_os_str().is_empty()) {
                self.make_dirs(&generation, parent)?;
            }
            let failed = |e| VolumeProblem::io("write", &at, e);
            // Nobody else's until it has its owner and its mode.
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at);
            let mut made = made.map_err(failed)?;
            made.write_all(&file.data).map_err(failed)?;
            chown(&at, file.owner, self.group).map_err(failed)?;
            made.set_permissions(Permissions::from_mode(self.mode(file))).map_err(failed)?;
        }
        Ok(name)
    }

    fn make_generation(&self) -> Result<(String, PathBuf), VolumeProblem> {
        let now = Timestamp::now();
        for attempt in 0..1000u32 {
            let number = now.subsec_nanosecond().unsigned_abs().wrapping_add(attempt);
            let name = format!("{}{number}", now.strftime("..%Y_%m_%d_%H_%M_%S."));
            let at = self.dir.join(&name);
            match DirBuilder::new().mode(0o700).create(&at) {
                Ok(()) => {
                    self.open_dir(&at)?;
                    return Ok((name, at));
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(VolumeProblem::io("make the directory", at, e)),
            }
        }
        Err(VolumeProblem::io(
            "make a directory below",
            self.dir,
            io::Error::from(io::ErrorKind::AlreadyExists),
        ))
    }

    fn make_dirs(&self, generation: &Path, below: &Path) -> Result<(), VolumeProblem> {
        let mut at = generation.to_owned();
        for part in below {
            at.push(part);
            match DirBuilder::new().mode(0o700).create(&at) {
                Ok(()) => self.open_dir(&at)?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(VolumeProblem::io("make the directory", at, e)),
            }
        }
        Ok(())
    }

    /// Its owner and mode; the umask would cut a mode given to mkdir.
    fn open_dir(&self, at: &Path) -> Result<(), VolumeProblem> {
        let mode = if self.group.is_some() { DIR_MODE | GROUP_DIR } else { DIR_MODE };
        let done =
            chown(at, None, self.group).and_then(|()| fs::set_permissions(at, Permissions::from_mode(mode)));
        done.map_err(|e| VolumeProblem::io("set owner and mode of", at, e))
    }

    fn switch_to(&self, generation: &str) -> Result<(), VolumeProblem> {
        let new = self.dir.join(NEW_DATA);
        // Left by an agent that was killed here.
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(VolumeProblem::io("remove", new, e)),
            _ => {}
        }
        self.link(&new, Path::new(generation))?;
        let data = self.dir.join(DATA);
        fs::rename(&new, &data).map_err(|e| VolumeProblem::io("rename to", data, e))
    }

    fn link(&self, at: &Path, target: &Path) -> Result<(), VolumeProblem> {
        let made = symlink(target, at).and_then(|()| lchown(at, None, self.group));
        made.map_err(|e| VolumeProblem::io("make the link", at, e))
    }

    /// What the payload has at the top: files, and directories with all that is in them.
    fn names(&self) -> BTreeSet<&str> {
        self.payload.files().keys().map(|path| path.split('/').next().unwrap_or(path)).collect()
    }

    fn link_names(&self) -> Result<(), VolumeProblem> {
        for name in self.names() {
            let (at, target) = (self.dir.join(name), Path::new(DATA).join(name));
            match fs::read_link(&at) {
                Ok(there) if there == target => {}
                // Something else stands there: nothing that was written by this.
                Ok(_) => return Err(VolumeProblem::NotOurs { path: at, found: "a link to elsewhere" }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => self.link(&at, &target)?,
                Err(e) => return Err(VolumeProblem::io("read the link", at, e)),
            }
        }
        Ok(())
    }

    fn remove_other_names(&self) -> Result<(), VolumeProblem> {
        let wanted = self.names();
        for name in entries(self.dir)? {
            if name.starts_with("..") || wanted.contains(name.as_str()) {
                continue;
            }
            let at = self.dir.join(&name);
            // A link through `..data` is the writer's; anything else is none of its business.
            if fs::read_link(&at).is_ok_and(|target| target == Path::new(DATA).join(&name)) {
                rustix::fs::unlinkat(CWD, &at, AtFlags::empty())
                    .map_err(|e| VolumeProblem::io("remove", at, e))?;
            }
        }
        Ok(())
    }
}

/// `None`: it cannot be read, or something in it is neither a file nor a directory.
fn count_files(dir: &Path) -> Option<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir).ok()? {
        let entry = entry.ok()?;
        let kind = entry.file_type().ok()?;
        if kind.is_dir() {
            count += count_files(&dir.join::<&OsStr>(entry.file_name().as_ref()))?;
        } else if kind.is_file() {
            count += 1;
        } else {
            return None;
        }
    }
    Some(count)
}

#[cfg(test)]
mod tests;
