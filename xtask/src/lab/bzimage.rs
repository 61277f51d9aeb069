//! The kernel inside a bzImage. It is unpacked on the host: under emulation that is the slowest part of a boot.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::process;

/// Writes the ELF kernel that `bzimage` holds to `vmlinux`. QEMU boots it through its PVH entry.
pub fn unpack(bzimage: &Path, vmlinux: &Path) -> Result<()> {
    let bytes = fs::read(bzimage).with_context(|| format!("reading {}", bzimage.display()))?;
    let payload = payload(&bytes).with_context(|| format!("{} is no bzImage", bzimage.display()))?;
    let packer = packer(payload)
        .with_context(|| format!("{} is packed in a way that is not known here", bzimage.display()))?;
    let packed = vmlinux.with_extension("packed");
    fs::write(&packed, payload)?;
    let mut command = Command::new(packer);
    command.args(["--decompress", "--stdout", "--quiet"]).stdin(File::open(&packed)?);
    // The payload ends with the kernel's size, which the programs take for garbage, after all is written.
    let status = command
        .stdout(File::create(vmlinux)?)
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("starting {packer}"))?;
    fs::remove_file(&packed)?;
    let size = payload.last_chunk().map(|bytes| u64::from(u32::from_le_bytes(*bytes)));
    let written = fs::metadata(vmlinux)?.len();
    let mut head = [0; 4];
    std::io::Read::read(&mut File::open(vmlinux)?, &mut head)?;
    if head != *b"\x7fELF" || size != Some(written) {
        bail!(
            "`{}` made no whole ELF kernel of {} ({status}, {written} bytes of {size:?})",
            process::line(&command),
            bzimage.display()
        );
    }
    Ok(())
}

/// Documentation/x86/boot.rst of Linux: `setup_sects` at 0x1f1, `payload_offset` and `payload_length` at 0x248.
fn payload(bzimage: &[u8]) -> Result<&[u8]> {
    ensure!(
        bzimage.get(0x202..0x206).is_some() && bzimage[0x202..0x206] != [0; 4],
        "no boot protocol version"
    );
    ensure!(bzimage.get(0x1fe..0x200) == Some(&[0x55, 0xaa]), "no boot sector signature");
    let setup_sectors = match bzimage[0x1f1] {
        0 => 4,
        n => usize::from(n),
    };
    let word = |at: usize| -> Result<usize> {
        let bytes = bzimage.get(at..at + 4).context("too short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    bzimage.get(start..start + word(0x24c)?).context("the payload lies beyond the end")
}

/// The program that unpacks it, by its first bytes.
fn packer(payload: &[u8]) -> Option<&'static str> {
    const MAGICS: [(&[u8], &str); 4] = [
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x02\x21\x4c\x18", "lz4"),
        (b"\x1f\x8b", "gzip"),
    ];
    MAGICS.iter().find(|(magic, _)| payload.starts_with(magic)).map(|(_, program)| *program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_where_the_header_says() {
        let mut image = vec![0; 512 * 3 + 100];
        image[0x1f1] = 1;
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&4u32.to_le_bytes());
        image[1024 + 16..1024 + 20].copy_from_slice(b"load");
        assert_eq!(payload(&image).unwrap(), b"load");
        image[0x24c..0x250].copy_from_slice(&9999u32.to_le_bytes());
        assert!(payload(&image).is_err());
        assert!(payload(b"short").is_err());
        assert!(payload(&[0; 4096]).is_err());
    }

    #[test]
    fn packers() {
        for (bytes, expected) in [
            (&b"\xfd7zXZ\0..."[..], Some("xz")),
            (b"\x28\xb5\x2f\xfd...", Some("zstd")),
            (b"\x02\x21\x4c\x18...", Some("lz4")),
            (b"\x1f\x8b\x08", Some("gzip")),
            (b"\x7fELF", None),
            (b"", None),
        ] {
            assert_eq!(packer(bytes), expected, "{bytes:?}");
        }
    }
}
