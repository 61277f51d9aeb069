//! File system images made from folders, by `mke2fs -d`: no mount, no loop device.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

const MIB: u64 = 1 << 20;

/// An ext4 image of `folder` with `free_mib` of room. Without a journal: it is never used after a crash.
pub fn from_folder(folder: &Path, image: &Path, free_mib: u64) -> Result<()> {
    let used = Used::of(folder).with_context(|| format!("measuring {}", folder.display()))?;
    // Inodes take 256 bytes each, and block groups their tables.
    let size = used.bytes + used.files * 512 + used.bytes / 16 + (free_mib + 16) * MIB;
    let inodes = used.files + 1024 + free_mib * MIB / 16384;
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-E", "root_owner=0:0", "-N"]);
    command.arg(inodes.to_string()).arg("-d").arg(folder).arg(image).arg(format!("{}k", size / 1024));
    // It is in /sbin, which a plain user's PATH lacks.
    if let Some(path) = crate::paths::program("mke2fs") {
        let mut found = Command::new(path);
        found.args(command.get_args());
        command = found;
    }
    process::output(&mut command).map(drop)
}

#[derive(Default)]
struct Used {
    bytes: u64,
    files: u64,
}

impl Used {
    fn of(folder: &Path) -> Result<Used> {
        let mut used = Used::default();
        let mut folders = vec![folder.to_owned()];
        while let Some(dir) = folders.pop() {
            for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
                let entry = entry?;
                let meta = entry.metadata()?;
                used.files += 1;
                used.bytes += meta.size().next_multiple_of(4096);
                if meta.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        Ok(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_holds_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, image) = (dir.path().join("folder"), dir.path().join("image"));
        fs::create_dir_all(folder.join("below")).unwrap();
        fs::write(folder.join("below/file"), vec![7; 3 << 20]).unwrap();
        from_folder(&folder, &image, 8).unwrap();
        let debugfs = crate::paths::program("debugfs").unwrap();
        let listed = process::output(Command::new(debugfs).args(["-R", "ls -p /below"]).arg(&image)).unwrap();
        assert!(listed.contains("/file/3145728/"), "{listed}");
    }
}
