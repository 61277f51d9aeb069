//! A directory of manifests, or one manifest: what of it has changed since it was read last. Shell; what a manifest means is
//! for who reads it, and when to read is for [`crate::watched_dir`].
//!
//! Hidden files and subdirectories are skipped, as kubelet does. A file that cannot be read or used keeps what it held
//! before, so that a broken edit takes nothing away from a running pod.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use oomlet_core::manifest::MAX_BYTES;

/// What its files hold, by file.
#[derive(Debug)]
pub(crate) struct ManifestDir<T> {
    path: PathBuf,
    files: BTreeMap<PathBuf, Remembered<T>>,
}

/// What is known of one file.
#[derive(Debug)]
pub(crate) struct Remembered<T> {
    /// Of the content that was parsed; `None`: it could not be read.
    digest: Option<[u8; 32]>,
    pub error: Option<String>,
    /// From this content, or from the last good one before it.
    pub value: Option<T>,
}

impl<T> Remembered<T> {
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.digest
    }
}

impl<T> ManifestDir<T> {
    pub fn new(path: PathBuf) -> ManifestDir<T> {
        ManifestDir { path, files: BTreeMap::new() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// In order of file name.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &Remembered<T>)> {
        self.files.iter().map(|(path, file)| (path.as_path(), file))
    }

    /// Reads it anew; only content that has changed is parsed, and at most one byte more of it than [`MAX_BYTES`]. Blocking.
    ///
    /// # Errors
    /// The path cannot be read, so nothing is known, and all stays as it was. One that is not there holds nothing (kubelet's
    /// `listConfig`), and is an error too.
    pub fn scan(&mut self, parse: impl Fn(&[u8], &Path) -> Result<T, String>) -> Result<(), std::io::Error> {
        let paths = match manifests_below(&self.path) {
            Ok(paths) => paths,
            Err(error) => {
                if error.kind() == ErrorKind::NotFound {
                    self.files.clear();
                }
                return Err(error);
            }
        };
        let mut before = std::mem::take(&mut self.files);
        for path in paths {
            if let Some(file) = read(&path, before.remove(&path), &parse) {
                self.files.insert(path, file);
            }
        }
        Ok(())
    }
}

/// `None`: gone, or not a file.
fn read<T>(
    path: &Path,
    known: Option<Remembered<T>>,
    parse: impl Fn(&[u8], &Path) -> Result<T, String>,
) -> Option<Remembered<T>> {
    let content = match content(path) {
        Ok(content) => content?,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            let error = format!("cannot read the manifest: {error}; check its permissions");
            let value = known.and_then(|known| known.value);
            return Some(Remembered { digest: None, error: Some(error), value });
        }
    };
    let digest = Some(Sha256::digest(&content).into());
    let last_good = match known {
        Some(known) if known.digest == digest => return Some(known),
        Some(known) => known.value,
        None => None,
    };
    Some(match parse(&content, path) {
        Ok(value) => Remembered { digest, error: None, value: Some(value) },
        Err(error) => Remembered { digest, error: Some(error), value: last_good },
    })
}

/// In order of file name. The path itself when it is a file.
fn manifests_below(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !std::fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// `None`: a directory, a socket, a pipe (which would block).
fn content(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    if !std::fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let mut content = Vec::new();
    File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut content)?;
    Ok(Some(content))
}
