//! The kernels of the lab: Debian's own of each line, unpacked into the cache.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};

use super::{bzimage, disk};
use crate::setup::apt::{Mirror, Suite};
use crate::{paths, process, progress};

/// A kernel line that the agent supports, by the version that Debian ships of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kernel {
    V5_10,
    V6_1,
    V6_12,
    V7_2,
}

/// Without a disk and without output nothing can be done; the rest is loaded from the root file system.
const BOOT_MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "virtio_console"];

impl FromStr for Kernel {
    type Err = String;

    /// By its line, such as `6.12`.
    fn from_str(text: &str) -> Result<Kernel, String> {
        let known = || Kernel::ALL.map(Kernel::line).join(", ");
        let found = Kernel::ALL.into_iter().find(|kernel| kernel.line() == text);
        found.ok_or_else(|| format!("there is no kernel {text} in the lab; there are {}", known()))
    }
}

impl Kernel {
    pub const ALL: [Kernel; 4] = [Kernel::V5_10, Kernel::V6_1, Kernel::V6_12, Kernel::V7_2];

    #[must_use]
    pub fn line(self) -> &'static str {
        match self {
            Kernel::V5_10 => "5.10",
            Kernel::V6_1 => "6.1",
            Kernel::V6_12 => "6.12",
            Kernel::V7_2 => "7.2",
        }
    }

    /// The Debian release that has it.
    fn suite(self) -> &'static str {
        match self {
            Kernel::V5_10 => "bullseye",
            Kernel::V6_1 => "bookworm",
            Kernel::V6_12 => "trixie",
            Kernel::V7_2 => "sid",
        }
    }

    fn dir(self) -> Result<PathBuf> {
        Ok(paths::cache()?.join("lab/kernel").join(self.line()))
    }

    pub fn is_fetched(self) -> Result<bool> {
        Ok(self.dir()?.is_dir())
    }

    /// From the cache, else from Debian's mirror.
    pub fn fetch(self) -> Result<Unpacked> {
        let dir = self.dir()?;
        if !dir.is_dir() {
            let heading = format!(
                "kernel {}: Debian {}'s linux-image-cloud-amd64, unpacked into the cache",
                self.line(),
                self.suite()
            );
            progress::step(&heading, |_| self.unpack_into(&dir))
                .with_context(|| format!("fetching kernel {}", self.line()))?;
        }
        Ok(Unpacked { kernel: self, dir })
    }

    fn unpack_into(self, dir: &Path) -> Result<()> {
        let parent = dir.parent().context("the cache has no parent")?;
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        // Renamed when whole, so that nothing half-made is ever found.
        let work = tempfile::tempdir_in(parent)?;
        let (root, made) = (work.path().join("root"), work.path().join("made"));
        fs::create_dir_all(&made)?;
        let suite = Suite::open(&Mirror::of_this_machine()?, self.suite(), &work.path().join("apt"))?;
        let image = suite
            .depends("linux-image-cloud-amd64")?
            .into_iter()
            .find(|name| name.starts_with("linux-image-"))
            .context("linux-image-cloud-amd64 depends on no image")?;
        // Some releases have kernel and modules in packages of their own.
        let mut packages = suite.depends(&image)?;
        packages.retain(|name| name.starts_with("linux-binary-") || name.starts_with("linux-modules-"));
        packages.push(image);
        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
        suite.unpack(&packages, &root)?;

        let modules = modules_dir(&root)?;
        let release =
            modules.file_name().context("modules without a release")?.to_string_lossy().into_owned();
        ensure!(
            release.starts_with(&format!("{}.", self.line())),
            "Debian {} has Linux {release} now, not {}; the lab's table of kernels has to follow",
            self.suite(),
            self.line()
        );
        let vmlinuz = [root.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
        let vmlinuz = vmlinuz.iter().find(|path| path.is_file()).context("the packages hold no vmlinuz")?;
        bzimage::unpack(vmlinuz, &made.join("vmlinux"))?;
        fs::remove_file(vmlinuz)?;
        ready_modules(&root, &modules, &release, &made)?;
        fs::write(made.join("release"), &release)?;
        println!("   Linux {release}");
        fs::rename(&made, dir).with_context(|| format!("moving the kernel to {}", dir.display()))
    }
}

fn modules_dir(root: &Path) -> Result<PathBuf> {
    for parent in ["usr/lib/modules", "lib/modules"] {
        if let Some(entry) = fs::read_dir(root.join(parent)).ok().and_then(|mut entries| entries.next()) {
            return Ok(entry?.path());
        }
    }
    anyhow::bail!("the packages hold no modules")
}

/// Unpacks the modules, lists their needs, copies those of the first seconds and makes an image of all.
fn ready_modules(root: &Path, modules: &Path, release: &str, made: &Path) -> Result<()> {
    for (suffix, packer) in [("xz", "xz"), ("zst", "zstd")] {
        let find = format!(
            "find '{}' -name '*.ko.{suffix}' -print0 | xargs -0 -r -n 64 -P 2 {packer} -d -q",
            modules.display()
        );
        process::output(Command::new("sh").args(["-c", &find]))?;
    }
    if !root.join("lib/modules").exists() {
        let lib = root.join("lib");
        std::os::unix::fs::symlink("usr/lib", &lib).with_context(|| format!("linking {}", lib.display()))?;
    }
    let depmod = paths::program("depmod").context("there is no depmod; run `cargo xtask setup`")?;
    process::output(Command::new(depmod).arg("-b").arg(root).arg(release))?;
    let dependencies = fs::read_to_string(modules.join("modules.dep")).context("reading modules.dep")?;
    let boot = made.join("boot-modules");
    fs::create_dir_all(&boot)?;
    for (number, module) in load_order(&dependencies, &BOOT_MODULES).iter().enumerate() {
        let name = module.rsplit('/').next().unwrap_or(module);
        fs::copy(modules.join(module), boot.join(format!("{number:02}-{name}")))
            .with_context(|| format!("copying {module}"))?;
    }
    let all = modules.parent().context("modules without a folder")?;
    disk::from_folder(all, &made.join("modules.ext4"), 0)
}

/// Paths of `wanted` and all they need, in the order in which they can be loaded. What is not in the list is built in.
fn load_order(modules_dep: &str, wanted: &[&str]) -> Vec<String> {
    let mut needs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut by_name: BTreeMap<String, &str> = BTreeMap::new();
    for line in modules_dep.lines() {
        let Some((path, list)) = line.split_once(':') else { continue };
        needs.insert(path, list.split_whitespace().collect());
        let name = path.rsplit('/').next().unwrap_or(path);
        by_name.insert(name.trim_end_matches(".ko").replace('-', "_"), path);
    }
    let mut order: Vec<String> = Vec::new();
    for path in wanted.iter().filter_map(|name| by_name.get(*name)) {
        // depmod lists all needs of a module, also those of its needs; the last is the one to load first.
        for need in needs[path].iter().rev().chain([path]) {
            if !order.iter().any(|known| known == need) {
                order.push((*need).to_owned());
            }
        }
    }
    order
}

/// A kernel in the cache.
#[derive(Clone, Debug)]
pub struct Unpacked {
    pub kernel: Kernel,
    dir: PathBuf,
}

impl Unpacked {
    /// The ELF kernel, with its BTF in the section `.BTF`.
    #[must_use]
    pub fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    /// ext4 image of /lib/modules.
    #[must_use]
    pub fn modules(&self) -> PathBuf {
        self.dir.join("modules.ext4")
    }

    /// Modules of the first seconds, in the order of their names.
    #[must_use]
    pub fn boot_modules(&self) -> PathBuf {
        self.dir.join("boot-modules")
    }

    /// `uname -r`.
    pub fn release(&self) -> Result<String> {
        let path = self.dir.join("release");
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_loaded_after_what_they_need() {
        let dep = "kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko\n\
                   kernel/drivers/virtio/virtio.ko:\n\
                   kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko\n\
                   kernel/drivers/char/virtio-console.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko\n";
        let names = |wanted: &[&str]| -> Vec<String> {
            load_order(dep, wanted).iter().map(|p| p.rsplit('/').next().unwrap().to_owned()).collect()
        };
        for (wanted, expected) in [
            (&["virtio_blk"][..], &["virtio.ko", "virtio_ring.ko", "virtio_blk.ko"][..]),
            (&["virtio_console", "virtio"], &["virtio.ko", "virtio_ring.ko", "virtio-console.ko"]),
            (&["built_in"], &[]),
        ] {
            assert_eq!(names(wanted), expected, "{wanted:?}");
        }
    }
}
