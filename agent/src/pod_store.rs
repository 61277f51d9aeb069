//! Pods as they stand on disk, `<root-dir>/oomlet/pods/<uid>.json`: what `oomlet pods` shows, and what the next start
//! of the agent must know (which pods were evicted, and which pod a manifest named before it became unreadable).
//!
//! Saving never blocks the caller: the newest state of each pod waits in a map, so what waits is bounded by the number
//! of pods, and a task writes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use oomlet_core::node::plan::SavedPod;
use oomlet_core::pod::PodUid;

#[derive(Debug, thiserror::Error)]
pub enum PodStoreError {
    #[error("cannot {what} {path}: {source}; the agent needs a root directory it can write (--root-dir)")]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
}

/// Hands pods to the [`PodStore`] task.
#[derive(Clone, Debug)]
pub struct PodStoreHandle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// `None`: the pod's file goes.
    waiting: Mutex<BTreeMap<PodUid, Option<Arc<SavedPod>>>>,
    wake: Notify,
}

#[derive(Debug)]
pub struct PodStore {
    dir: PathBuf,
    shared: Arc<Shared>,
}

/// Where the files are, below kubelet's root directory.
#[must_use]
pub fn dir(root_dir: &Path) -> PathBuf {
    root_dir.join("oomlet/pods")
}

/// All saved pods, ordered by file name, and a line for each file that is not one.
///
/// # Errors
/// When the directory is there and cannot be listed. A directory that is not there holds no pods.
pub fn load(dir: &Path) -> Result<(Vec<SavedPod>, Vec<String>), PodStoreError> {
    let io = |source| PodStoreError::Io { what: "list", path: dir.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
        Err(e) => return Err(io(e)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(io)?.path());
    }
    paths.retain(|p| p.extension().is_some_and(|e| e == "json"));
    paths.sort();
    let (mut pods, mut unreadable) = (Vec::new(), Vec::new());
    for path in paths {
        let parsed = std::fs::read(&path)
            .map_err(|e| e.to_string())
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|e| e.to_string()));
        match parsed {
            Ok(pod) => pods.push(pod),
            Err(why) => {
                unreadable.push(format!("{} is not a saved pod ({why}) and is left out", path.display()));
            }
        }
    }
    Ok((pods, unreadable))
}

impl PodStore {
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(root_dir: &Path) -> Result<(PodStore, PodStoreHandle), PodStoreError> {
        let dir = dir(root_dir);
        std::fs::create_dir_all(&dir).map_err(|source| PodStoreError::Io {
            what: "make",
            path: dir.clone(),
            source,
        })?;
        let shared = Arc::new(Shared::default());
        Ok((PodStore { dir, shared: Arc::clone(&shared) }, PodStoreHandle { shared }))
    }

    /// Writes until `cancel`, then what still waits.
    pub async fn run(self, cancel: CancellationToken) {
        let mut last = false;
        while !last {
            // Cancel-safe: what waits stays in the map.
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = cancel.cancelled() => last = true,
            }
            let waiting =
                std::mem::take(&mut *self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            let dir = self.dir.clone();
            let written = tokio::task::spawn_blocking(move || {
                for (uid, pod) in waiting {
                    if let Err(error) = write(&dir, &uid, pod.as_deref()) {
                        tracing::warn!(pod = %uid, %error, "`oomlet pods` will not show the pod as it is");
                    }
                }
            });
            if let Err(error) = written.await {
                tracing::warn!(%error, "the pod store's writer failed");
            }
        }
    }
}

impl PodStoreHandle {
    pub fn save(&self, pod: Arc<SavedPod>) {
        self.put(pod.uid(), Some(pod));
    }

    pub fn remove(&self, uid: PodUid) {
        self.put(uid, None);
    }

    fn put(&self, uid: PodUid, pod: Option<Arc<SavedPod>>) {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, pod);
        self.shared.wake.notify_one();
    }
}

fn write(dir: &Path, uid: &PodUid, pod: Option<&SavedPod>) -> Result<(), PodStoreError> {
    let path = dir.join(format!("{uid}.json"));
    let io = |what: &'static str| {
        let path = path.clone();
        move |source| PodStoreError::Io { what, path, source }
    };
    let Some(pod) = pod else {
        return match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("remove")(e)),
            _ => Ok(()),
        };
    };
    // A reader, or the next start after a crash, sees the old file or the new one, never half of it.
    let temporary = dir.join(format!(".{uid}.tmp"));
    let json = serde_json::to_vec(pod).map_err(std::io::Error::from).map_err(io("write"))?;
    std::fs::write(&temporary, json).map_err(io("write"))?;
    std::fs::rename(&temporary, &path).map_err(io("write"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oomlet_core::node::event::PodSource;
    use oomlet_core::node::plan::Failure;
    use oomlet_core::reason::Reason;

    fn saved(uid: &str) -> SavedPod {
        let mut pod = oomlet_core::pod::Pod::default();
        pod.metadata.uid = Some(uid.into());
        let failure =
            Some(Failure { reason: Reason::Evicted, message: "low on memory".into(), disruption: true });
        let forestalled = BTreeMap::from([("id".to_owned(), "stopped".to_owned())]);
        let manifest_path = Some("/etc/pods/a.yaml".into());
        SavedPod { pod, source: Some(PodSource::Http), manifest_path, failure, forestalled }
    }

    #[tokio::test]
    async fn what_was_saved_is_loaded_and_what_was_removed_is_not() {
        let root = tempfile::tempdir().unwrap();
        let (store, handle) = PodStore::open(root.path()).unwrap();
        let cancel = CancellationToken::new();
        handle.save(Arc::new(saved("a")));
        handle.save(Arc::new(saved("b")));
        handle.remove("b".into());
        cancel.cancel();
        store.run(cancel).await;
        std::fs::write(dir(root.path()).join("broken.json"), "{").unwrap();
        let (pods, unreadable) = load(&dir(root.path())).unwrap();
        assert_eq!(pods, [saved("a")]);
        assert!(unreadable.len() == 1 && unreadable[0].contains("broken.json"), "{unreadable:?}");
    }

    /// As an agent wrote it that knew no other source than files and spelled reasons in its own way.
    #[test]
    fn what_an_older_agent_saved_can_be_read() {
        let old = r#"{"pod": {"metadata": {"uid": "a"}}, "manifest_path": "/m/a.yaml",
            "failure": {"reason": "Outofcpu", "message": "full", "disruption": false}}"#;
        let saved: SavedPod = serde_json::from_str(old).unwrap();
        assert_eq!(saved.source(), PodSource::File);
        assert_eq!(saved.failure.unwrap().reason, Reason::OutOfcpu);
    }

    #[test]
    fn no_directory_no_pods() {
        let (pods, unreadable) = load(Path::new("/nonexistent/pods")).unwrap();
        assert!(pods.is_empty() && unreadable.is_empty());
    }
}
