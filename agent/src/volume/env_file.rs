//! Reading the files that a container's `fileKeyRef` names. They are a pod's own, who may have put anything in their place:
//! the kernel resolves the path within the volume, and nothing but a file is read.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use oomlet_core::pod::env::file::EnvFile;

/// An API object may be as large (etcd's limit of a request); kubelet has none here.
const MAX_BYTES: u64 = 1 << 20;

/// `path` below `volume`; links in it lead no further than to the volume's top, as with kubelet (`SecureJoin`).
pub(super) fn read(volume: &Path, path: &str) -> EnvFile {
    match bytes(volume, path) {
        Ok(bytes) => EnvFile::Read { path: volume.join(path).display().to_string(), bytes },
        Err(error) => EnvFile::Unreadable { why: error.to_string() },
    }
}

fn bytes(volume: &Path, path: &str) -> io::Result<Vec<u8>> {
    let dir = rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // Not for a reader or a writer to come, if it is a pipe.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = None;
    // EAGAIN: a rename elsewhere raced with the walk, which the kernel then cannot vouch for.
    for _ in 0..64 {
        match openat2(&dir, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS) {
            Err(Errno::AGAIN) => {}
            opened => {
                file = Some(File::from(opened?));
                break;
            }
        }
    }
    let file = file.ok_or(Errno::AGAIN)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn files_of_the_volume_and_nothing_else() {
        let tmp = tempfile::tempdir().unwrap();
        let volume = tmp.path().join("volume");
        std::fs::create_dir_all(volume.join("dir")).unwrap();
        std::fs::write(tmp.path().join("outside"), "hunter2").unwrap();
        std::fs::write(volume.join("outside"), "within").unwrap();
        std::fs::write(volume.join("dir/f.env"), "A='a'").unwrap();
        std::fs::write(volume.join("large"), vec![b'#'; (1 << 20) + 1]).unwrap();
        symlink("dir/f.env", volume.join("link")).unwrap();
        symlink("../outside", volume.join("up")).unwrap();
        symlink("/outside", volume.join("absolute")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            volume.join("pipe"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        for (path, want) in [
            ("dir/f.env", Ok("A='a'")),
            ("link", Ok("A='a'")),
            ("up", Ok("within")),
            ("absolute", Ok("within")),
            ("gone", Err("No such file")),
            ("dir", Err("it is not a file")),
            ("pipe", Err("it is not a file")),
            ("large", Err("it is larger than 1 MiB")),
        ] {
            match (read(&volume, path), want) {
                (EnvFile::Read { path: shown, bytes }, Ok(want)) => {
                    assert_eq!(bytes, want.as_bytes(), "{path}");
                    assert!(shown.ends_with(path), "{shown}");
                }
                (EnvFile::Unreadable { why }, Err(want)) => assert!(why.contains(want), "{path}: {why}"),
                (found, want) => panic!("{path}: want {want:?}, got {found:?}"),
            }
        }
    }
}
