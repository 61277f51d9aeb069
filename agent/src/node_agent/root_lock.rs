//! One agent a root directory.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

#[derive(Debug, thiserror::Error)]
pub enum RootLockError {
    #[error(
        "another agent{who} runs on the root directory {root_dir}; stop it first, or choose another --root-dir"
    )]
    Taken { root_dir: PathBuf, who: String },
    #[error("cannot {what} {path}: {source}; the agent needs a root directory it can write (--root-dir)")]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
}

/// Held as long as the agent runs; the kernel lets go of it however the agent ends.
#[derive(Debug)]
pub struct RootLock {
    _file: File,
}

/// # Errors
/// [`RootLockError::Taken`] names the other agent's pid where it can be read.
pub fn take(root_dir: &Path) -> Result<RootLock, RootLockError> {
    let dir = root_dir.join("oomlet");
    // kubelet's mode of its root directory. One that is there keeps what its administrator gave it.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(&dir)
        .map_err(|source| RootLockError::Io { what: "make", path: dir.clone(), source })?;
    let path = dir.join("lock");
    let io = |what| {
        let path = path.clone();
        move |source| RootLockError::Io { what, path, source }
    };
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io("open"))?;
    if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(io("lock")(error.into()));
        }
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        let who = if pid.trim().is_empty() { String::new() } else { format!(" (pid {})", pid.trim()) };
        return Err(RootLockError::Taken { root_dir: root_dir.to_owned(), who });
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(io("write"))?;
    write!(file, "{}", std::process::id()).map_err(io("write"))?;
    Ok(RootLock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_agent_is_refused_and_told_of_the_first() {
        let root = tempfile::tempdir().unwrap();
        let first = take(root.path()).unwrap();
        let error = take(root.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        assert!(error.contains("--root-dir"), "{error}");
        drop(first);
        take(root.path()).unwrap();
    }
}
