//! The pods of `staticPodPath`. Shell.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::Here;
use crate::manifest_dir::{ManifestDir, Remembered};
use oomlet_core::manifest::{self, Manifest, Source};
use oomlet_core::node::event::PodUpdate;
use oomlet_core::pod::PodRef;

pub(super) struct Directory {
    dir: ManifestDir<Manifest>,
    here: Here,
    /// The last failure to read the path itself, so that it is told once and not at each rescan.
    told: Option<String>,
}

impl Directory {
    pub(super) fn new(path: PathBuf, here: Here) -> Directory {
        Directory { dir: ManifestDir::new(path), here, told: None }
    }

    /// The complete list as of now, and before it the one without those of these files that have come back as they were:
    /// whoever removes a manifest wants its pod to end, however soon it is there again. Empty: the path cannot be read, so
    /// nothing is known.
    pub(super) fn scan(&mut self, removed: &BTreeSet<PathBuf>) -> Vec<PodUpdate> {
        let before: Vec<_> = self.dir.files().map(|(path, file)| (path.to_owned(), file.digest())).collect();
        let Some(now) = self.read() else { return Vec::new() };
        let back = |path: &Path, file: &Remembered<Manifest>| {
            removed.contains(path) && before.contains(&(path.to_owned(), file.digest()))
        };
        if !self.dir.files().any(|(path, file)| back(path, file)) {
            return vec![now];
        }
        let meanwhile = manifest::collect(
            self.dir.files().filter(|(path, file)| !back(path, file)).map(|(path, file)| source(path, file)),
        );
        vec![meanwhile, now]
    }

    fn read(&mut self) -> Option<PodUpdate> {
        let here = &self.here;
        let failed = self.dir.scan(|content, path| read(content, path, here)).err();
        let text = failed.as_ref().map(ToString::to_string);
        if let Some(error) = text.as_ref().filter(|text| self.told.as_ref() != Some(text)) {
            tracing::warn!(
                path = %self.dir.path().display(), error,
                "cannot read static pod manifests; create the path or check its permissions (staticPodPath)"
            );
        }
        self.told = text;
        if failed.is_some_and(|error| error.kind() != ErrorKind::NotFound) {
            return None;
        }
        Some(manifest::collect(self.dir.files().map(|(path, file)| source(path, file))))
    }
}

fn source<'a>(path: &'a Path, file: &'a Remembered<Manifest>) -> Source<'a> {
    Source { path, manifest: file.value.as_ref(), error: file.error.as_deref() }
}

fn read(content: &[u8], path: &Path, here: &Here) -> Result<Manifest, String> {
    let read = manifest::read(content, path, &here.node_name);
    let manifest =
        read.and_then(|manifest| manifest.checked(here.in_cluster)).map_err(|error| error.to_string())?;
    for key in &manifest.ignored {
        tracing::warn!(
            path = %path.display(), pod = %PodRef::of(&manifest.pod), key,
            "the manifest has a key that no Pod has; it has no effect"
        );
    }
    Ok(here.taken_over.continued(manifest, path))
}
