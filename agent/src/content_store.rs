//! What pods of this node are made from, kept over a restart of the agent: ConfigMaps and Secrets, tokens, pods'
//! certificates. With it a container is started again while the API server is away. Shell.
//!
//! On a tmpfs of its own, `<root-dir>/oomlet/content`, open to root alone: no byte of a Secret reaches a disk, all of it
//! outlives the agent, nothing outlives the machine's next start. What belongs to a pod goes with the pod.
//!
//! - `objects/<hash of its name>.json`: one ConfigMap or Secret, or that there is none; once for all pods that name it.
//! - `pods/<uid>/object-<hash>`: the pod names it; empty.
//! - `pods/<uid>/<kind>-<hash>.json`: something of the pod's alone.
//! - `shared/<kind>.json`: what any pod may show.
//!
//! Calls do not block: it is memory that they read and write.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::volume::mounts::{is_mount_point, mount_tmpfs};
use oomlet_core::object::{Object, ObjectRef};
use oomlet_core::pod::PodUid;

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ContentStore(Option<Arc<Kept>>);

#[derive(Debug)]
struct Kept {
    dir: PathBuf,
    /// The objects that each pod names, by the hash of their names.
    held: Mutex<BTreeMap<PodUid, BTreeSet<String>>>,
}

/// One ConfigMap or Secret as it stands there.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// `None`: it is not there.
    content: Option<Content>,
}

/// Values in base64.
#[derive(Serialize, Deserialize)]
struct Content {
    data: BTreeMap<String, String>,
    binary_data: BTreeMap<String, String>,
    immutable: bool,
    #[serde(rename = "type")]
    type_: Option<String>,
}

impl ContentStore {
    /// Below the agent's root directory. Where the tmpfs cannot be mounted nothing is kept, and a warning says so.
    #[must_use]
    pub fn open(root_dir: &Path) -> ContentStore {
        match mounted(root_dir).and_then(|dir| ContentStore::at(dir).map_err(|e| e.to_string())) {
            Ok(store) => store,
            Err(error) => {
                tracing::warn!(
                    error,
                    "ConfigMaps, Secrets and tokens are not kept in memory for the agent's next start: a container that ends \
                     after it is started again only when the API server answers"
                );
                ContentStore::default()
            }
        }
    }

    /// In a directory that is there; it says nothing of where that is.
    fn at(dir: PathBuf) -> io::Result<ContentStore> {
        let mut held = BTreeMap::new();
        for below in ["objects", "pods", "shared"] {
            make_dir(&dir.join(below))?;
        }
        for uid in names(&dir.join("pods"))? {
            let objects = names(&dir.join("pods").join(&uid))?;
            let hashes = objects.iter().filter_map(|name| Some(name.strip_prefix("object-")?.to_owned()));
            held.insert(PodUid::from(uid.as_str()), hashes.collect());
        }
        let kept = Kept { dir, held: Mutex::new(held) };
        kept.remove_unheld(&kept.held());
        Ok(ContentStore(Some(Arc::new(kept))))
    }

    /// Every pod of which something is kept, wanted or not.
    #[must_use]
    pub fn pods(&self) -> Vec<PodUid> {
        self.0.iter().flat_map(|kept| kept.held().keys().cloned().collect::<Vec<_>>()).collect()
    }

    /// The pod names these, and what is of it is kept from now on.
    pub fn hold(&self, uid: &PodUid, objects: &BTreeSet<ObjectRef>) {
        let Some(kept) = &self.0 else { return };
        let hashes: BTreeSet<String> = objects.iter().map(object_hash).collect();
        let mut held = kept.held();
        let dir = kept.pod_dir(uid);
        tell(make_dir(&dir), &dir);
        for hash in &hashes {
            let marker = dir.join(format!("object-{hash}"));
            tell(write(&marker, b""), &marker);
        }
        held.insert(uid.clone(), hashes);
    }

    /// Nothing of the pod is kept any more, and no object that no other pod names.
    pub fn forget_pod(&self, uid: &PodUid) {
        let Some(kept) = &self.0 else { return };
        let mut held = kept.held();
        held.remove(uid);
        let dir = kept.pod_dir(uid);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            removed => tell(removed, &dir),
        }
        kept.remove_unheld(&held);
    }

    /// As it was last seen; `Some(None)`: it was not there.
    #[must_use]
    pub fn object(&self, object: &ObjectRef) -> Option<Option<Object>> {
        let stored: Stored = read(&self.0.as_ref()?.object_path(&object_hash(object)))?;
        match stored.content {
            None => Some(None),
            Some(content) => Some(Some(content.into_object()?)),
        }
    }

    /// What is there now; nothing is kept of what no pod names.
    pub fn keep_object(&self, object: &ObjectRef, content: Option<&Object>) {
        let Some(kept) = &self.0 else { return };
        let hash = object_hash(object);
        let held = kept.held();
        if held.values().any(|hashes| hashes.contains(&hash)) {
            let path = kept.object_path(&hash);
            tell(write_json(&path, &Stored { content: content.map(Content::of) }), &path);
        }
    }

    /// Something of this pod's; `name`: what it is called among those of its kind.
    #[must_use]
    pub fn of_pod<T: DeserializeOwned>(&self, uid: &PodUid, kind: &str, name: &[&str]) -> Option<T> {
        read(&self.0.as_ref()?.pod_path(uid, kind, name))
    }

    /// Nothing is kept of a pod that is not there any more.
    pub fn keep_of_pod<T: Serialize>(&self, uid: &PodUid, kind: &str, name: &[&str], value: &T) {
        let Some(kept) = &self.0 else { return };
        let held = kept.held();
        if held.contains_key(uid) {
            let path = kept.pod_path(uid, kind, name);
            tell(write_json(&path, value), &path);
        }
    }

    #[must_use]
    pub fn shared<T: DeserializeOwned>(&self, kind: &str) -> Option<T> {
        read(&self.0.as_ref()?.dir.join(format!("shared/{kind}.json")))
    }

    /// `None`: no more.
    pub fn keep_shared<T: Serialize>(&self, kind: &str, value: Option<&T>) {
        let Some(kept) = &self.0 else { return };
        let path = kept.dir.join(format!("shared/{kind}.json"));
        match value {
            Some(value) => tell(write_json(&path, value), &path),
            None => match fs::remove_file(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                removed => tell(removed, &path),
            },
        }
    }
}

impl Kept {
    fn held(&self) -> MutexGuard<'_, BTreeMap<PodUid, BTreeSet<String>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pod_dir(&self, uid: &PodUid) -> PathBuf {
        self.dir.join("pods").join(uid.as_str().replace(['/', '\0'], "_"))
    }

    fn pod_path(&self, uid: &PodUid, kind: &str, name: &[&str]) -> PathBuf {
        self.pod_dir(uid).join(format!("{kind}-{}.json", hash(name)))
    }

    fn object_path(&self, hash: &str) -> PathBuf {
        self.dir.join(format!("objects/{hash}.json"))
    }

    fn remove_unheld(&self, held: &BTreeMap<PodUid, BTreeSet<String>>) {
        let dir = self.dir.join("objects");
        let found = names(&dir).unwrap_or_else(|error| {
            tell(Err(error), &dir);
            Vec::new()
        });
        for name in found {
            let is_held =
                name.strip_suffix(".json").is_some_and(|h| held.values().any(|all| all.contains(h)));
            if !is_held {
                tell(fs::remove_file(dir.join(&name)), &dir);
            }
        }
    }
}

impl Content {
    fn of(object: &Object) -> Content {
        let encoded = |map: &BTreeMap<String, Vec<u8>>| {
            map.iter().map(|(key, value)| (key.clone(), STANDARD.encode(value))).collect()
        };
        Content {
            data: encoded(&object.data),
            binary_data: encoded(&object.binary_data),
            immutable: object.immutable,
            type_: object.type_.clone(),
        }
    }

    /// `None`: it is not in the form.
    fn into_object(self) -> Option<Object> {
        let decoded = |map: BTreeMap<String, String>| {
            map.into_iter()
                .map(|(key, value)| Some((key, STANDARD.decode(value).ok()?)))
                .collect::<Option<BTreeMap<_, _>>>()
        };
        Some(Object {
            data: decoded(self.data)?,
            binary_data: decoded(self.binary_data)?,
            immutable: self.immutable,
            type_: self.type_,
        })
    }
}

fn mounted(root_dir: &Path) -> Result<PathBuf, String> {
    let dir = root_dir.join("oomlet/content");
    let made =
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).and_then(|()| fs::canonicalize(&dir));
    let dir = made.map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    if !is_mount_point(&dir).map_err(|e| e.to_string())? {
        mount_tmpfs(&dir, "mode=0700").map_err(|e| e.to_string())?;
    }
    Ok(dir)
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Names that are not UTF-8 are not this module's.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(dir)?
        .filter_map(|entry| entry.map(|e| e.file_name().into_string().ok()).transpose())
        .collect()
}

fn object_hash(object: &ObjectRef) -> String {
    hash(&[object.kind.as_str(), &object.namespace, &object.name])
}

/// A name that fits into a file's, whatever its parts are.
fn hash(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = fs::read(path).ok()?;
    // Without the parser's words, which may have something of the content in them.
    let parsed = serde_json::from_slice(&bytes).ok();
    if parsed.is_none() {
        tracing::warn!(path = %path.display(), "what an earlier run has kept cannot be read and is left out");
    }
    parsed
}

fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write(path, &serde_json::to_vec(value)?)
}

/// Whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
    opened?.write_all(bytes)?;
    fs::rename(&temporary, path)
}

fn tell(done: io::Result<()>, path: &Path) {
    if let Err(error) = done {
        tracing::warn!(path = %path.display(), %error, "content for the agent's next start is not kept as it should be");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oomlet_core::object::ObjectKind;

    fn object(value: &[u8]) -> Object {
        let data = BTreeMap::from([("k".to_owned(), value.to_vec())]);
        Object { binary_data: data.clone(), data, immutable: true, type_: Some("Opaque".into()) }
    }

    fn files(dir: &Path) -> usize {
        let below = |e: io::Result<fs::DirEntry>| {
            let path = e.unwrap().path();
            if path.is_dir() { files(&path) } else { 1 }
        };
        fs::read_dir(dir).unwrap().map(below).sum()
    }

    #[test]
    fn content_outlives_the_agent_and_goes_with_its_pods() {
        let tmp = tempfile::tempdir().unwrap();
        let open = || ContentStore::at(tmp.path().to_owned()).unwrap();
        let secret = ObjectRef::new(ObjectKind::Secret, "ns", "s");
        let map = ObjectRef::new(ObjectKind::ConfigMap, "ns", "s");
        let (a, b) = (PodUid::from("a"), PodUid::from("b"));
        let store = open();
        store.keep_object(&secret, Some(&object(b"early")));
        assert_eq!(store.object(&secret), None, "no pod names it");
        store.hold(&a, &[secret.clone(), map.clone()].into());
        store.hold(&b, &[secret.clone()].into());
        store.keep_object(&secret, Some(&object(&[0, 255])));
        store.keep_object(&map, None);
        store.keep_of_pod(&a, "token", &["x", "y"], &"eyJ");
        store.keep_of_pod(&"gone".into(), "token", &["x"], &"eyJ");
        store.keep_shared("trust", Some(&["anchors"]));

        let store = open();
        assert_eq!(store.object(&secret), Some(Some(object(&[0, 255]))));
        assert_eq!(store.object(&map), Some(None));
        assert_eq!(store.of_pod(&a, "token", &["x", "y"]), Some("eyJ".to_owned()));
        assert_eq!(store.of_pod::<String>(&a, "token", &["xy", ""]), None);
        assert_eq!(store.shared("trust"), Some(["anchors".to_owned()]));
        assert_eq!(store.pods(), [a.clone(), b.clone()]);

        store.forget_pod(&a);
        assert_eq!(store.object(&secret), Some(Some(object(&[0, 255]))), "another pod names it");
        assert_eq!((store.object(&map), store.of_pod::<String>(&a, "token", &["x", "y"])), (None, None));
        store.forget_pod(&b);
        store.forget_pod(&b);
        store.keep_shared::<u8>("trust", None);
        assert_eq!((files(tmp.path()), store.pods()), (0, vec![]));
    }

    #[test]
    fn what_is_broken_is_left_out() {
        let tmp = tempfile::tempdir().unwrap();
        let map = ObjectRef::new(ObjectKind::ConfigMap, "ns", "s");
        let store = ContentStore::at(tmp.path().to_owned()).unwrap();
        store.hold(&"a".into(), &[map.clone()].into());
        for text in [
            "{",
            r#"{"content": {"data": {"k": "no base64!"}, "binary_data": {}, "immutable": false, "type": null}}"#,
        ] {
            fs::write(tmp.path().join("objects").join(format!("{}.json", object_hash(&map))), text).unwrap();
            assert_eq!(store.object(&map), None, "{text}");
        }
        // Without one nothing is kept, and nothing is wrong.
        let none = ContentStore::default();
        none.hold(&"a".into(), &[map.clone()].into());
        none.keep_object(&map, None);
        assert_eq!((none.object(&map), none.pods()), (None, vec![]));
    }
}
