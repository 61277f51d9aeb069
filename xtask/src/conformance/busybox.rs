//! A static busybox with every applet, built from Debian's source package: the suite's scripts want `nmeter`, and a shell that
//! hands on environment variables whatever their names, neither of which Debian's own static build has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::programs::Programs;
use crate::progress::{self, Step};
use crate::setup::apt::{Mirror, Sources};

/// As Debian has it in this release.
const SUITE: &str = "bookworm";

/// Of its own default configuration what does not compile with a current kernel's headers, or not into a static program.
const CHANGES: &str = "s/.*CONFIG_STATIC[ =].*/CONFIG_STATIC=y/; \
    s/^CONFIG_TC=y/# CONFIG_TC is not set/; \
    s/^CONFIG_FEATURE_TC_INGRESS=y/# CONFIG_FEATURE_TC_INGRESS is not set/";

/// From the cache, or built now: a minute or two.
pub(super) fn ensure(programs: &Programs) -> Result<PathBuf> {
    let target = programs.dir().join("busybox");
    if !target.is_file() {
        progress::step("busybox of the conformance suite, from Debian's source package", |step| {
            let work = tempfile::tempdir_in(programs.dir())?;
            let built = build(step, work.path())?;
            fs::rename(&built, &target).with_context(|| format!("moving busybox to {}", target.display()))
        })?;
    }
    Ok(target)
}

fn build(step: &Step, work: &Path) -> Result<PathBuf> {
    let sources = Sources::open(&Mirror::of_this_machine()?, SUITE, &work.join("apt"))?;
    sources.download("busybox", work)?;
    let files = fs::read_dir(work).with_context(|| format!("reading {}", work.display()))?;
    let mut files = files.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let original = files.find(|path| path.to_string_lossy().contains(".orig.tar."));
    let original = original.context("the source package of busybox has no .orig.tar")?;
    let dir = work.join("source");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    step.run(
        Command::new("tar")
            .arg("--extract")
            .arg("--file")
            .arg(original)
            .arg("--directory")
            .arg(&dir)
            .arg("--strip-components=1"),
    )?;
    step.doing("make");
    let script = format!(
        "make defconfig && sed -i '{CHANGES}' .config && (yes '' | make oldconfig) && make -j\"$(nproc)\" busybox"
    );
    step.run(Command::new("sh").args(["-c", &script]).current_dir(&dir))?;
    Ok(dir.join("busybox"))
}
