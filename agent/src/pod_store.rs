//! Pods as they stand on disk, `<root-dir>/oomlet/pods/<uid>.json`: what `oomlet pods` shows, and what the next start
//! of the agent must know (which pods were evicted, and which pod a manifest named before it became unreadable).
//!
//! It follows the SyncLoop's snapshots: what differs from the last one that it has written is written, what is no longer
//! there goes. The loop never waits for it, and what a pod was in between is passed over.

use std::fs::{OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use imbl::ordmap::DiffItem;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use oomlet_core::node::published::{NodeSnapshot, SavedPod};
use oomlet_core::pod::PodUid;

/// What could not be written, as on a full disk, is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum PodStoreError {
    #[error("cannot {what} {path}: {source}; the agent needs a root directory it can write (--root-dir)")]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
}

/// The task that writes.
#[derive(Debug)]
pub struct PodStore {
    dir: PathBuf,
    snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    /// What stands on disk.
    written: Arc<NodeSnapshot>,
    /// Something could not be written.
    again: Option<Instant>,
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

/// One of them, as it stands there now; `None`: it is not there, or cannot be read.
#[must_use]
pub fn load_one(dir: &Path, uid: &PodUid) -> Option<SavedPod> {
    serde_json::from_slice(&std::fs::read(dir.join(format!("{uid}.json"))).ok()?).ok()
}

impl PodStore {
    /// The snapshot that `snapshots` has now is what stands on disk.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(
        root_dir: &Path,
        mut snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    ) -> Result<PodStore, PodStoreError> {
        let dir = dir(root_dir);
        make_private_dir(&dir).map_err(|source| PodStoreError::Io {
            what: "make",
            path: dir.clone(),
            source,
        })?;
        let written = Arc::clone(&snapshots.borrow_and_update());
        Ok(PodStore { dir, snapshots, written, again: None })
    }

    /// Writes until `cancel` or until the loop has gone, then what is still to be written.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut last = false;
        while !last {
            // Cancel-safe: a change that is not seen now is seen in the next turn.
            tokio::select! {
                changed = self.snapshots.changed() => last = changed.is_err(),
                () = sleep_until(self.again.unwrap_or_else(Instant::now)), if self.again.is_some() => {}
                () = cancel.cancelled() => last = true,
            }
            let now = Arc::clone(&self.snapshots.borrow_and_update());
            let (dir, before, newest) = (self.dir.clone(), Arc::clone(&self.written), now);
            let first_failure = self.again.is_none();
            let written =
                tokio::task::spawn_blocking(move || write_changes(&dir, &before, &newest, first_failure));
            match written.await {
                Ok((written, all)) => {
                    self.written = Arc::new(written);
                    self.again = (!all).then(|| Instant::now() + WRITE_AGAIN);
                }
                Err(error) => tracing::warn!(%error, "the pod store's writer failed"),
            }
        }
    }
}

/// A manifest may hold what is not everybody's to read.
fn make_private_dir(dir: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    std::fs::set_permissions(dir, Permissions::from_mode(0o750))
}

/// What of `now` stands on disk afterwards, and whether that is all: what could not be written is as it was. Blocking.
fn write_changes(dir: &Path, before: &NodeSnapshot, now: &NodeSnapshot, tell: bool) -> (NodeSnapshot, bool) {
    let (mut written, mut all) = (now.clone(), true);
    for change in before.pods.diff(&now.pods) {
        let (uid, pod) = match change {
            DiffItem::Add(uid, pod) => (uid, Some(pod)),
            DiffItem::Update { new: (uid, pod), .. } => (uid, Some(pod)),
            DiffItem::Remove(uid, _) => (uid, None),
        };
        if let Err(error) = write(dir, uid, pod.map(|pod| pod.to_saved()).as_ref()) {
            if tell {
                tracing::warn!(pod = %uid, %error, "the pod is not saved as it is, and it is tried again");
            }
            all = false;
            match before.pods.get(uid) {
                Some(old) => _ = written.pods.insert(uid.clone(), Arc::clone(old)),
                None => _ = written.pods.remove(uid),
            }
        }
    }
    (written, all)
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
    let options = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
    let written = options.and_then(|mut file| {
        // One that an earlier agent left may have another mode.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(&json)
    });
    written.map_err(io("write"))?;
    std::fs::rename(&temporary, &path).map_err(io("write"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::PodStatus;
    use oomlet_core::node::event::PodSource;
    use oomlet_core::node::published::Failure;
    use oomlet_core::pod::Pod;
    use oomlet_core::reason::Reason;

    fn saved(uid: &str) -> SavedPod {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(uid.into());
        let failure =
            Some(Failure { reason: Reason::Evicted, message: "low on memory".into(), disruption: true });
        let forestalled = BTreeMap::from([("id".to_owned(), "stopped".to_owned())]);
        let manifest_path = Some("/etc/pods/a.yaml".into());
        SavedPod { pod, source: Some(PodSource::Http), manifest_path, failure, forestalled }
    }

    fn snapshot(uids: &[&str]) -> NodeSnapshot {
        NodeSnapshot::of_saved(&uids.iter().map(|uid| saved(uid)).collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn what_was_published_is_loaded_and_what_was_forgotten_is_not() {
        let root = tempfile::tempdir().unwrap();
        let (tx, rx) = watch::channel(Arc::new(NodeSnapshot::default()));
        let store = PodStore::open(root.path(), rx).unwrap();
        let cancel = CancellationToken::new();
        tx.send_replace(Arc::new(snapshot(&["a", "b"])));
        let run = tokio::spawn(store.run(cancel.clone()));
        let there = |uid: &str| dir(root.path()).join(format!("{uid}.json")).exists();
        let written = async {
            while !(there("a") && there("b")) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), written).await.unwrap();
        tx.send_replace(Arc::new(snapshot(&["a"])));
        cancel.cancel();
        run.await.unwrap();
        std::fs::write(dir(root.path()).join("broken.json"), "{").unwrap();
        let (pods, unreadable) = load(&dir(root.path())).unwrap();
        assert_eq!(
            pods,
            [SavedPod { pod: Pod { status: Some(PodStatus::default()), ..saved("a").pod }, ..saved("a") }]
        );
        assert!(unreadable.len() == 1 && unreadable[0].contains("broken.json"), "{unreadable:?}");
    }

    #[tokio::test]
    async fn what_an_earlier_run_saved_goes_when_its_pod_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir(root.path())).unwrap();
        write(&dir(root.path()), &"old".into(), Some(&saved("old"))).unwrap();
        let (tx, rx) = watch::channel(Arc::new(snapshot(&["old"])));
        let store = PodStore::open(root.path(), rx).unwrap();
        tx.send_replace(Arc::new(NodeSnapshot::default()));
        drop(tx);
        store.run(CancellationToken::new()).await;
        assert_eq!(load(&dir(root.path())).unwrap().0, []);
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
