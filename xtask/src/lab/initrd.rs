//! The initial RAM disk: busybox, the modules that the disks need, and a script. Not compressed: unpacking is slow
//! under emulation, and it is small.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cpio::newc::{Builder, ModeFileType, trailer};

use super::kernel::Unpacked;
use crate::{elf, paths};

const INIT: &str = include_str!("guest/initrd-init.sh");

/// Writes the archive (Documentation/driver-api/early-userspace/buffer-format.rst: newc).
pub fn write(kernel: &Unpacked, path: &Path) -> Result<()> {
    let busybox = paths::program("busybox").context("there is no busybox; run `cargo xtask setup`")?;
    ensure!(elf::is_static(&busybox)?, "{} is not static; install busybox-static", busybox.display());
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut out = BufWriter::new(file);
    let mut inode = 0;
    for dir in ["bin", "modules", "dev", "proc", "sys", "new"] {
        inode += 1;
        add(&mut out, inode, dir, 0o755, ModeFileType::Directory, &[])?;
    }
    let busybox = fs::read(&busybox).with_context(|| format!("reading {}", busybox.display()))?;
    let mut files = vec![("bin/busybox".to_owned(), busybox), ("init".to_owned(), INIT.as_bytes().to_vec())];
    for entry in fs::read_dir(kernel.boot_modules()).context("reading the boot modules")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push((format!("modules/{name}"), fs::read(&path)?));
    }
    for (name, bytes) in files {
        inode += 1;
        add(&mut out, inode, &name, 0o755, ModeFileType::Regular, &bytes)?;
    }
    let mut out = trailer(out)?;
    out.flush().with_context(|| format!("writing {}", path.display()))
}

fn add(
    out: &mut impl Write,
    inode: u32,
    name: &str,
    mode: u32,
    kind: ModeFileType,
    bytes: &[u8],
) -> Result<()> {
    let size = u32::try_from(bytes.len()).context("a file of 4 GiB")?;
    let entry = Builder::new(name).ino(inode).nlink(1).mode(mode).set_mode_file_type(kind);
    let mut writer = entry.write(out, size);
    writer.write_all(bytes)?;
    writer.finish().map(drop).with_context(|| format!("adding {name}"))
}
