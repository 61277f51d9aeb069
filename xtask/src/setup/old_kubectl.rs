//! A kubectl of 2021 (1.20) for tests: it speaks SPDY to the API server, as all did before 1.31, and the node has to serve
//! both. Debian 12's package, unpacked into the cache; it is not on PATH.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::apt;
use crate::paths;

const SUITE: &str = "bookworm";
const PACKAGE: &str = "kubernetes-client";

fn root() -> Result<PathBuf> {
    Ok(paths::cache()?.join("kubectl-1.20"))
}

/// When it is in the cache.
pub fn binary() -> Result<Option<PathBuf>> {
    let path = root()?.join("usr/bin/kubectl");
    Ok(path.is_file().then_some(path))
}

/// Downloads and unpacks; nothing is left in the cache when that fails half-way.
pub fn fetch() -> Result<()> {
    let mirror = apt::Mirror::of_this_machine()?;
    let root = root()?;
    let parent = root.parent().context("the cache has no parent")?;
    std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let work = tempfile::tempdir_in(parent)?;
    let unpacked = work.path().join("root");
    apt::Suite::open(&mirror, SUITE, &work.path().join("apt"))?.unpack(&[PACKAGE], &unpacked)?;
    std::fs::rename(&unpacked, &root).with_context(|| format!("moving it to {}", root.display()))
}
