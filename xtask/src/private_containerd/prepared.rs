//! containerd's root folder with the sample images unpacked, made once for each series and copied from then on: on an
//! emulated CPU an import takes as long as the rest of a pod's start.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Version;
use crate::{paths, process};

/// Made or not yet.
#[derive(Debug)]
pub(super) struct Prepared {
    root: PathBuf,
    /// Of everything that was prepared of this series before.
    series: String,
}

impl Prepared {
    pub(super) fn of(version: Version, samples: &Path) -> Result<Prepared> {
        let meta = fs::metadata(samples).with_context(|| format!("reading {}", samples.display()))?;
        let name = samples.file_stem().unwrap_or_default().to_string_lossy();
        let series = format!("{}-", version.series());
        let of_these = format!("{series}{name}-{}-{}", meta.len(), meta.mtime());
        Ok(Prepared { root: paths::cache()?.join("containerd-root").join(of_these), series })
    }

    /// Only one process makes it; the others wait here. Released when the file is dropped.
    pub(super) fn lock(&self) -> Result<File> {
        let parent = self.parent()?;
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        let path = parent.join(format!("{}lock", self.series));
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        file.lock().with_context(|| format!("locking {}", path.display()))?;
        Ok(file)
    }

    /// Whether it was there to be copied to `root`.
    pub(super) fn copy_to(&self, root: &Path) -> Result<bool> {
        if !self.root.is_dir() {
            return Ok(false);
        }
        copy(&self.root, root)?;
        Ok(true)
    }

    /// Keeps the root folder of a containerd that does not run, under the lock. What was made of other images goes.
    pub(super) fn keep(&self, root: &Path) -> Result<()> {
        let parent = self.parent()?;
        for entry in fs::read_dir(parent).with_context(|| format!("reading {}", parent.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && entry.file_name().to_string_lossy().starts_with(&self.series) {
                fs::remove_dir_all(entry.path())
                    .with_context(|| format!("removing {}", entry.path().display()))?;
            }
        }
        // Cut short it must not look finished.
        let unfinished = parent.join(format!("{}unfinished", self.series));
        copy(root, &unfinished)?;
        fs::rename(&unfinished, &self.root).with_context(|| format!("making {}", self.root.display()))
    }

    fn parent(&self) -> Result<&Path> {
        self.root.parent().context("a prepared root is below the cache")
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    // Owners, modes, hard links and xattrs, as snapshots need them.
    process::output(Command::new("cp").arg("--archive").arg("--reflink=auto").args([from, to])).map(drop)
}
