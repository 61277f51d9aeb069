//! A directory of manifests of ConfigMaps and Secrets, which standalone takes the API server's place: inotify says when to
//! look, a rescan heals what it misses. A file that cannot be read or used keeps what it held before, so that a broken edit
//! takes nothing away from a running pod.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::broadcast;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{BoxFuture, CHANGES, ObjectSource};
use crate::watched_dir::Watcher;
use oomlet_core::manifest::MAX_BYTES;
use oomlet_core::object::{self, ManifestObject, Object, ObjectError, ObjectRef};
use oomlet_core::pod::{Pod, PodUid};

type Known = BTreeMap<ObjectRef, Arc<Object>>;

#[derive(Debug)]
pub struct DirectoryObjects {
    path: PathBuf,
    known: RwLock<Known>,
    files: Mutex<Files>,
    changes: broadcast::Sender<ObjectRef>,
}

#[derive(Debug, Default)]
struct Files {
    by_path: BTreeMap<PathBuf, Remembered>,
    /// What was said of them, so that each is told once.
    told: BTreeSet<String>,
}

/// What is known of one file.
#[derive(Debug)]
struct Remembered {
    digest: Option<[u8; 32]>,
    objects: Vec<ManifestObject>,
    error: Option<String>,
}

impl DirectoryObjects {
    /// Reads it once, so that the first pods find what is in it. Blocking.
    #[must_use]
    pub fn open(path: PathBuf) -> Arc<DirectoryObjects> {
        let changes = broadcast::Sender::new(CHANGES);
        let opened = DirectoryObjects { path, known: RwLock::default(), files: Mutex::default(), changes };
        opened.scan();
        Arc::new(opened)
    }

    /// The task. Ends when `cancel` is cancelled. `rescan`: `fileCheckFrequency`.
    pub async fn run(self: Arc<Self>, rescan: Duration, cancel: CancellationToken) {
        let mut watcher = Watcher::new(&self.path);
        let mut ticker = interval(rescan.max(Duration::from_millis(1)));
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Cancel-safe: a lost wait loses nothing.
                () = cancel.cancelled() => return,
                // Cancel-safe: tokio documents it. The first tick comes at once.
                _ = ticker.tick() => {}
                // Cancel-safe: an event stays in the kernel's queue until it is read, and one read is enough.
                () = watcher.changed() => {
                    tokio::select! {
                        () = cancel.cancelled() => return,
                        () = watcher.settled() => {}
                    }
                }
            }
            // Watch before reading: what changes in between is seen by one of the two.
            watcher.ensure();
            let this = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || this.scan()).await {
                // Only a panic or the runtime's end gets here.
                tracing::error!(path = %self.path.display(), %error, "ConfigMaps and Secrets are not read any more");
                return;
            }
        }
    }

    /// Blocking.
    fn scan(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = files.scan(&self.path) else { return };
        let before = {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *known, found.clone())
        };
        let names: BTreeSet<&ObjectRef> = before.keys().chain(found.keys()).collect();
        for name in names.into_iter().filter(|name| before.get(name) != found.get(name)) {
            // Nobody listens before the first pod.
            let _ = self.changes.send(name.clone());
        }
    }
}

impl ObjectSource for DirectoryObjects {
    /// All that is in the directory is known, whoever needs it.
    fn register_pod(&self, _: &Pod) {}

    fn unregister_pod(&self, _: &PodUid) {}

    fn get<'a>(&'a self, object: &'a ObjectRef) -> BoxFuture<'a, Result<Arc<Object>, ObjectError>> {
        Box::pin(async {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            known.get(object).cloned().ok_or_else(|| ObjectError::NotFound(object.clone()))
        })
    }

    fn changes(&self) -> broadcast::Receiver<ObjectRef> {
        self.changes.subscribe()
    }
}

impl Files {
    /// `None`: the directory cannot be read, so nothing is known.
    fn scan(&mut self, dir: &Path) -> Option<Known> {
        let mut said = BTreeSet::new();
        let paths = match files_of(dir) {
            Ok(paths) => paths,
            Err(error) => {
                said.insert(format!(
                    "cannot read the directory of ConfigMaps and Secrets {}: {error}; create it or check its permissions \
                     (oomlet.objects)",
                    dir.display()
                ));
                self.tell(said);
                if error.kind() != ErrorKind::NotFound {
                    return None;
                }
                self.by_path.clear();
                return Some(Known::new());
            }
        };
        let mut before = std::mem::take(&mut self.by_path);
        for path in paths {
            if let Some(file) = read(&path, before.remove(&path)) {
                self.by_path.insert(path, file);
            }
        }
        let mut known = Known::new();
        for (path, file) in &self.by_path {
            if let Some(error) = &file.error {
                said.insert(format!("{}: {error}", path.display()));
            }
            for object in &file.objects {
                if known.contains_key(&object.object) {
                    let name = &object.object;
                    said.insert(format!(
                        "{}: {name} in namespace {} is in an earlier file too, which counts; remove one",
                        path.display(),
                        name.namespace
                    ));
                } else {
                    known.insert(object.object.clone(), Arc::new(object.content.clone()));
                }
            }
        }
        self.tell(said);
        Some(known)
    }

    fn tell(&mut self, said: BTreeSet<String>) {
        for line in said.difference(&self.told) {
            tracing::warn!("{line}");
        }
        self.told = said;
    }
}

/// In order of name, without hidden ones.
fn files_of(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// `None`: gone, or not a file.
fn read(path: &Path, known: Option<Remembered>) -> Option<Remembered> {
    let broken = |error: String, digest, known: Option<Remembered>| {
        Some(Remembered { digest, objects: known.map(|k| k.objects).unwrap_or_default(), error: Some(error) })
    };
    let content = match content(path) {
        Ok(content) => content?,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => return broken(format!("cannot be read: {error}; check its permissions"), None, known),
    };
    let digest = Some(Sha256::digest(&content).into());
    if let Some(known) = known.as_ref()
        && known.digest == digest
    {
        return Some(Remembered { digest, objects: known.objects.clone(), error: known.error.clone() });
    }
    if content.len() > MAX_BYTES {
        return broken("larger than 10 MiB; split it".to_owned(), digest, known);
    }
    match object::read(&content) {
        Ok(objects) => Some(Remembered { digest, objects, error: None }),
        Err(error) => broken(error.to_string(), digest, known),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use oomlet_core::object::ObjectKind;

    fn map(name: &str, value: &str) -> String {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{k: {value}}}\n")
    }

    async fn value(source: &DirectoryObjects, name: &str) -> Option<String> {
        let object = ObjectRef::new(ObjectKind::ConfigMap, "default", name);
        let found = source.get(&object).await.ok()?;
        found.value("k").map(|v| String::from_utf8(v.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn what_changes_is_told_and_a_broken_file_takes_nothing_away() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        std::fs::write(&file, map("a", "one")).unwrap();
        std::fs::write(dir.path().join(".hidden"), map("hidden", "x")).unwrap();
        let source = DirectoryObjects::open(dir.path().to_owned());
        let mut changes = source.changes();
        assert_eq!(value(&source, "a").await.as_deref(), Some("one"));
        assert_eq!(value(&source, "hidden").await, None);
        let cancel = CancellationToken::new();
        let run = tokio::spawn(Arc::clone(&source).run(Duration::from_secs(3600), cancel.clone()));

        let next = |name: &'static str, changes: &mut broadcast::Receiver<ObjectRef>| {
            let mut changes = changes.resubscribe();
            async move {
                let change = tokio::time::timeout(Duration::from_secs(10), changes.recv()).await;
                assert_eq!(change.unwrap().unwrap().name, name);
            }
        };
        // The task has set its watch once it has scanned for the first time, which changes nothing: write until it is seen.
        let seen = next("a", &mut changes);
        let writes = async {
            loop {
                std::fs::write(&file, map("a", "two")).unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                if value(&source, "a").await.as_deref() == Some("two") {
                    return;
                }
            }
        };
        tokio::join!(seen, writes);
        let seen = next("b", &mut changes);
        std::fs::write(dir.path().join("b.yaml"), map("b", "new")).unwrap();
        seen.await;
        let seen = next("b", &mut changes);
        std::fs::write(&file, "{broken").unwrap();
        std::fs::remove_file(dir.path().join("b.yaml")).unwrap();
        seen.await;
        assert_eq!(value(&source, "a").await.as_deref(), Some("two"));
        assert_eq!(value(&source, "b").await, None);
        cancel.cancel();
        run.await.unwrap();
    }

    #[tokio::test]
    async fn the_first_file_counts_and_no_directory_has_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("1.yaml"), map("a", "first")).unwrap();
        std::fs::write(dir.path().join("2.yaml"), map("a", "second")).unwrap();
        let source = DirectoryObjects::open(dir.path().to_owned());
        assert_eq!(value(&source, "a").await.as_deref(), Some("first"));
        assert!(source.files.lock().unwrap().told.iter().any(|line| line.contains("earlier file")));
        let source = DirectoryObjects::open(dir.path().join("nowhere"));
        assert_eq!(value(&source, "a").await, None);
    }
}
