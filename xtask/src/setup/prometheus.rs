//! Prometheus and promtool, for tests: where they are, and Debian's package of them, unpacked into the cache. It is not
//! installed, for that would start a service on this machine, and have it started at each boot.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::apt;
use crate::paths;
use crate::progress::Step;

pub const PACKAGE: &str = "prometheus";

/// Both programs, of one release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    pub prometheus: PathBuf,
    pub promtool: PathBuf,
}

impl Programs {
    /// Those on PATH, else those that set-up has unpacked.
    pub fn find() -> Result<Option<Programs>> {
        let on_path = paths::program("prometheus").zip(paths::program("promtool"));
        Ok(match on_path {
            Some((prometheus, promtool)) => Some(Programs { prometheus, promtool }),
            None => Programs::within(&unpacked()?),
        })
    }

    fn within(root: &Path) -> Option<Programs> {
        let bin = |name: &str| root.join("usr/bin").join(name);
        let found = Programs { prometheus: bin("prometheus"), promtool: bin("promtool") };
        (found.prometheus.is_file() && found.promtool.is_file()).then_some(found)
    }
}

fn unpacked() -> Result<PathBuf> {
    Ok(paths::cache()?.join(PACKAGE))
}

/// Nothing is left in the cache when that fails half-way.
pub fn fetch(step: &Step) -> Result<()> {
    let root = unpacked()?;
    let parent = root.parent().context("the cache has no parent")?;
    std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let work = tempfile::tempdir_in(parent)?;
    let into = work.path().join("root");
    apt::unpack(step, PACKAGE, work.path(), &into)?;
    ensure!(
        Programs::within(&into).is_some(),
        "the package {PACKAGE} has no /usr/bin/prometheus and promtool"
    );
    if root.exists() {
        std::fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    }
    std::fs::rename(&into, &root).with_context(|| format!("making {}", root.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_wanted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        for (name, complete) in [("prometheus", false), ("promtool", true)] {
            std::fs::write(dir.path().join("usr/bin").join(name), "").unwrap();
            assert_eq!(Programs::within(dir.path()).is_some(), complete, "{name}");
        }
    }
}
