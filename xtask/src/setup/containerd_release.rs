//! Other releases of containerd than the system's own, for tests: the agent must be right against each.
//!
//! They are unpacked into the cache and run from there. Their package's runc may need a newer C library than this
//! system has, so the system's runc runs the containers of all of them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::apt;
use crate::{paths, process};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Major and minor, or the major alone where any minor will do.
    pub series: &'static str,
    /// The Debian release that has it.
    pub suite: &'static str,
    pub why: &'static str,
}

pub const RELEASES: [Release; 2] = [
    Release { series: "1.7", suite: "trixie", why: "tests against a runtime with the CRI event stream" },
    Release { series: "2", suite: "sid", why: "tests against containerd 2, with its configuration format" },
];

impl Release {
    /// Whether `version` (such as `1.7.24~ds1`) belongs to this series.
    #[must_use]
    pub fn is_series_of(&self, version: Option<&str>) -> bool {
        version.and_then(|v| v.strip_prefix(self.series)).is_some_and(|rest| rest.starts_with('.'))
    }

    /// The folder of its programs.
    pub fn bin_dir(&self) -> Result<PathBuf> {
        Ok(self.root()?.join("usr/bin"))
    }

    /// Its containerd, when it is in the cache.
    pub fn binary(&self) -> Result<Option<PathBuf>> {
        let path = self.bin_dir()?.join("containerd");
        Ok(path.is_file().then_some(path))
    }

    fn root(&self) -> Result<PathBuf> {
        Ok(paths::cache()?.join("containerd").join(self.series))
    }

    /// There already, or to be had from this machine's mirror.
    pub fn is_within_reach(&self) -> Result<bool> {
        Ok(self.binary()?.is_some() || apt::Mirror::of_this_machine().is_ok())
    }

    /// Downloads and unpacks; nothing is left in the cache when that fails half-way.
    pub fn fetch(&self) -> Result<()> {
        let mirror = apt::Mirror::of_this_machine()?;
        let root = self.root()?;
        let parent = root.parent().context("the cache has no parent")?;
        std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        let work = tempfile::tempdir_in(parent)?;
        let unpacked = work.path().join("root");
        let suite = apt::Suite::open(&mirror, self.suite, &work.path().join("apt"))?;
        suite.unpack(&["containerd"], &unpacked)?;
        let version = version_of(&unpacked.join("usr/bin/containerd"))?;
        ensure!(
            self.is_series_of(Some(&version)),
            "{} has containerd {version} now, not {}",
            self.suite,
            self.series
        );
        std::fs::rename(&unpacked, &root)
            .with_context(|| format!("moving containerd {version} to {}", root.display()))?;
        println!("   containerd {version}");
        Ok(())
    }
}

/// The version of the containerd on PATH.
#[must_use]
pub fn installed_version() -> Option<String> {
    version_of(&paths::program("containerd")?).ok()
}

/// `containerd --version` prints `containerd github.com/containerd/containerd 1.6.20~ds1 REVISION`.
pub fn version_of(containerd: &std::path::Path) -> Result<String> {
    let text = process::output(Command::new(containerd).arg("--version"))?;
    let version = text.split_whitespace().nth(2).with_context(|| format!("no version in {text:?}"))?;
    Ok(version.trim_start_matches('v').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series() {
        for (version, expected) in [
            (Some("1.7.24~ds1"), true),
            (Some("1.6.20"), false),
            (Some("1.70.1"), false),
            (Some("1.7"), false),
            (None, false),
        ] {
            assert_eq!(RELEASES[0].is_series_of(version), expected, "{version:?}");
        }
    }
}
