//! What a machine of the lab gets of this work tree, as a disk mounted at /oomlet: the agent, how it is installed, the test
//! binaries, the sample images. Laid out as below a cargo target directory, so that the tests find what they look for.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::disk;
use crate::build::{self, Profile, TestBinary};
use crate::{images, paths};

const SCRIPTS: [(&str, &str); 3] = [
    ("init.sh", include_str!("guest/init.sh")),
    ("job.sh", include_str!("guest/job.sh")),
    ("oomlet-lab.service", include_str!("guest/oomlet-lab.service")),
];

/// Where the guest mounts it.
pub const MOUNTED_AT: &str = "/oomlet";

/// Builds what is missing and writes the image. `tests` are the test binaries to take along.
pub fn write(image: &Path, profile: Profile, tests: &[TestBinary]) -> Result<()> {
    let parent = image.parent().context("an image without a folder")?;
    let staging = tempfile::tempdir_in(parent)?;
    let at = |path: &str| staging.path().join(path);
    for dir in ["lab", "bin"] {
        fs::create_dir_all(at(dir))?;
    }
    for (name, text) in SCRIPTS {
        let path = at("lab").join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let target = paths::target()?;
    for built in [build::agent_path(profile)?, build::workload_path()?, target.join("CACHEDIR.TAG")] {
        take(&built, &at("target").join(built.strip_prefix(&target)?))?;
    }
    for test in tests {
        // Without the hash that cargo puts into the name.
        take(&test.path, &guest_path(staging.path(), profile, &test.name))?;
    }
    std::os::unix::fs::symlink(
        format!("{MOUNTED_AT}/target/{}/oomlet", profile.directory()),
        at("bin/oomlet"),
    )?;
    take(&images::samples()?, &at("samples.tar"))?;
    for folder in ["packaging", "vagrant"] {
        copy_folder(&paths::repository().join(folder), &at(folder))?;
    }
    disk::from_folder(staging.path(), image, 0)
}

/// Where a test binary is inside the guest.
#[must_use]
pub fn test_path(profile: Profile, name: &str) -> PathBuf {
    guest_path(Path::new(MOUNTED_AT), profile, name)
}

fn guest_path(root: &Path, profile: Profile, name: &str) -> PathBuf {
    root.join("target").join(profile.directory()).join("deps").join(name)
}

/// By hard link where that is possible: they are large.
fn take(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().context("a file without a folder")?;
    fs::create_dir_all(parent)?;
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map(drop).with_context(|| format!("copying {}", from.display()))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        // Vagrant keeps its machines in a hidden folder.
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            take(&entry.path(), &target)?;
        }
    }
    Ok(())
}
