//! Temporary folders that a killed call cannot remove, and they hold gigabytes: the next call does.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A folder of this process in `parent`. Those of processes that have ended go.
pub fn folder(parent: &Path, kind: &str) -> Result<TempDir> {
    sweep(parent, kind)?;
    let prefix = format!("{kind}-{}-", std::process::id());
    let made = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent);
    made.with_context(|| format!("making a folder in {}", parent.display()))
}

/// The name holds the owner's pid. One that another process has by now keeps the folder until that has ended too.
fn sweep(parent: &Path, kind: &str) -> Result<()> {
    for entry in fs::read_dir(parent).with_context(|| format!("reading {}", parent.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let owner =
            name.strip_prefix(kind).and_then(|n| n.strip_prefix('-')?.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Two calls may find the same one.
            let _ = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_owns_goes() {
        let parent = tempfile::tempdir().unwrap();
        let name = |name: &str| parent.path().join(name);
        let living = format!("kind-{}-x", std::process::id());
        // Pids end at 2^22.
        for folder in ["kind-99999999-x", "kind-99999999", "other-99999999-x", "kind-abc", &living] {
            fs::create_dir(name(folder)).unwrap();
        }
        let made = folder(parent.path(), "kind").unwrap();
        assert!(made.path().is_dir());
        for (folder, stays) in [
            ("kind-99999999-x", false),
            ("kind-99999999", false),
            ("other-99999999-x", true),
            ("kind-abc", true),
            (&living, true),
        ] {
            assert_eq!(name(folder).exists(), stays, "{folder}");
        }
    }
}
