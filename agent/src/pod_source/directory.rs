//! Reads the manifests below a path and remembers what it read. Shell.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Here;
use oomlet_core::node::event::PodUpdate;
use oomlet_core::pod::PodRef;

use oomlet_core::manifest::{self, MAX_BYTES, Manifest, Source};

pub(super) struct Directory {
    path: PathBuf,
    here: Here,
    files: BTreeMap<PathBuf, Remembered>,
    /// The last failure to read the path itself, so that it is told once and not at each rescan.
    told: Option<String>,
}

/// What is known of one file.
struct Remembered {
    /// Of the content that was parsed; `None`: it could not be read.
    digest: Option<[u8; 32]>,
    error: Option<String>,
    /// From this content, or from the last good one before it: a broken edit does not end a running pod.
    manifest: Option<Manifest>,
}

impl Directory {
    pub(super) fn new(path: PathBuf, here: Here) -> Directory {
        Directory { path, here, files: BTreeMap::new(), told: None }
    }

    /// The complete list as of now. `None`: the path cannot be read, so nothing is known. A path that is not
    /// there holds no pods (kubelet's `listConfig`).
    pub(super) fn scan(&mut self) -> Option<PodUpdate> {
        let paths = match manifests_below(&self.path) {
            Ok(paths) => {
                self.told = None;
                paths
            }
            Err(error) => {
                let text = error.to_string();
                if self.told.as_ref() != Some(&text) {
                    tracing::warn!(
                        path = %self.path.display(), error = text,
                        "cannot read static pod manifests; create the path or check its permissions (staticPodPath)"
                    );
                    self.told = Some(text);
                }
                if error.kind() != ErrorKind::NotFound {
                    return None;
                }
                Vec::new()
            }
        };
        let mut before = std::mem::take(&mut self.files);
        for path in paths {
            let known = before.remove(&path);
            if let Some(file) = self.read(&path, known) {
                self.files.insert(path, file);
            }
        }
        Some(manifest::collect(self.files.iter().map(|(path, file)| Source {
            path,
            manifest: file.manifest.as_ref(),
            error: file.error.as_deref(),
        })))
    }

    /// `None`: gone, or not a file.
    fn read(&self, path: &Path, known: Option<Remembered>) -> Option<Remembered> {
        let content = match content(path) {
            Ok(content) => content?,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                let manifest = known.and_then(|k| k.manifest);
                let error = format!("cannot read the manifest: {error}; check its permissions");
                return Some(Remembered { digest: None, error: Some(error), manifest });
            }
        };
        let digest = Some(Sha256::digest(&content).into());
        let last_good = match known {
            Some(known) if known.digest == digest => return Some(known),
            Some(known) => known.manifest,
            None => None,
        };
        let read = manifest::read(&content, path, &self.here.node_name);
        Some(match read.and_then(|manifest| manifest.checked(self.here.in_cluster)) {
            Ok(manifest) => {
                for key in &manifest.ignored {
                    tracing::warn!(
                        path = %path.display(), pod = %PodRef::of(&manifest.pod), key,
                        "the manifest has a key that no Pod has; it has no effect"
                    );
                }
                Remembered { digest, error: None, manifest: Some(manifest) }
            }
            Err(error) => Remembered { digest, error: Some(error.to_string()), manifest: last_good },
        })
    }
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

/// At most one byte more than a manifest may have. `None`: a directory, a socket, a pipe (which would block).
fn content(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    if !std::fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let mut content = Vec::new();
    File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut content)?;
    Ok(Some(content))
}
