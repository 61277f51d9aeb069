//! A directory of manifests of ConfigMaps and Secrets, which standalone takes the API server's place.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{BoxFuture, CHANGES, ObjectSource};
use crate::manifest_dir::{Looks, ManifestDir};
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

#[derive(Debug)]
struct Files {
    dir: ManifestDir<Vec<ManifestObject>>,
    /// What was said of them, so that each is told once.
    told: BTreeSet<String>,
}

impl DirectoryObjects {
    /// Reads it once, so that the first pods find what is in it. Blocking.
    #[must_use]
    pub fn open(path: PathBuf) -> Arc<DirectoryObjects> {
        let changes = broadcast::Sender::new(CHANGES);
        let files = Mutex::new(Files { dir: ManifestDir::new(path.clone()), told: BTreeSet::new() });
        let opened = DirectoryObjects { path, known: RwLock::default(), files, changes };
        opened.scan();
        Arc::new(opened)
    }

    /// The task. Ends when `cancel` is cancelled. `rescan`: `fileCheckFrequency`.
    pub async fn run(self: Arc<Self>, rescan: Duration, cancel: CancellationToken) {
        let mut looks = Looks::new(&self.path, rescan);
        // Cancel-safe: the agent ends.
        while cancel.run_until_cancelled(looks.next()).await.is_some() {
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
        let Some(found) = files.scan() else { return };
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
    fn scan(&mut self) -> Option<Known> {
        let mut said = BTreeSet::new();
        if let Err(error) = self.dir.scan(|content, _| read(content)) {
            said.insert(format!(
                "cannot read the directory of ConfigMaps and Secrets {}: {error}; create it or check its permissions \
                 (oomlet.objects)",
                self.dir.path().display()
            ));
            if error.kind() != ErrorKind::NotFound {
                self.tell(said);
                return None;
            }
        }
        let mut known = Known::new();
        for (path, file) in self.dir.files() {
            if let Some(error) = &file.error {
                said.insert(format!("{}: {error}", path.display()));
            }
            for object in file.value.iter().flatten() {
                if known.contains_key(&object.object) {
                    said.insert(in_an_earlier_file(path, &object.object));
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

fn in_an_earlier_file(path: &Path, name: &ObjectRef) -> String {
    format!(
        "{}: {name} in namespace {} is in an earlier file too, which counts; remove one",
        path.display(),
        name.namespace
    )
}

fn read(content: &[u8]) -> Result<Vec<ManifestObject>, String> {
    if content.len() > MAX_BYTES {
        return Err("larger than 10 MiB; split it".to_owned());
    }
    object::read(content).map_err(|error| error.to_string())
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
