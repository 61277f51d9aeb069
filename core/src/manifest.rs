//! From the bytes of a manifest to a pod that is complete and valid, and from the manifests of a directory, or of an
//! HTTP server, to the list of pods.
//!
//! As for kubelet (pkg/kubelet/config/common.go): the name gets `-<hostname>`, the UID is a hash of content,
//! path or URL, and hostname, so that a changed manifest is another pod and an unchanged one is the same after a
//! restart. Comments, layout and the file's times do not count.

mod api_references;
mod defaults;
mod validation;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::node::event::{PodSource, PodUpdate, RejectedManifest, SourcePod};
use crate::pod::{Pod, PodRef, PodUid};

/// kubelet's `maxConfigLength`.
pub const MAX_BYTES: usize = 10 << 20;

/// The path of the manifest is beside the error, in [`RejectedManifest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("larger than 10 MiB; take out what no pod needs")]
    TooLarge,
    #[error("not UTF-8 (invalid byte at offset {0}); save it as UTF-8 text")]
    NotUtf8(usize),
    #[error("empty; write a Pod (apiVersion: v1, kind: Pod) or remove the file")]
    Empty,
    #[error("not YAML or JSON: {0}")]
    Syntax(String),
    #[error("{key} is {found}, must be {expected}: a static pod manifest holds one Pod of v1")]
    NotAPod { key: &'static str, found: String, expected: &'static str },
    #[error("{key}: {error}")]
    Shape { key: String, error: String },
    #[error("pod {name:?} is invalid: {problems}")]
    Invalid { name: String, problems: String },
    #[error("the answer is empty; a server that has no pods answers with a PodList without items")]
    EmptyAnswer,
    #[error("{key} is {found}: the server must answer with a Pod or a PodList of v1")]
    NotPods { key: &'static str, found: String },
    /// In kubelet's words.
    #[error("static pods may not reference {0}")]
    ApiReference(&'static str),
    #[error("items[{index}]: {error}")]
    Item { index: usize, error: Box<ManifestError> },
}

/// Where a manifest stands; goes into its pod's UID.
#[derive(Clone, Copy)]
enum Origin<'a> {
    File(&'a Path),
    Url(&'a str),
}

impl Origin<'_> {
    const fn source(self) -> PodSource {
        match self {
            Origin::File(_) => PodSource::File,
            Origin::Url(_) => PodSource::Http,
        }
    }
}

/// What one file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub pod: Arc<Pod>,
    /// As in [`SourcePod::own_uid`].
    pub own_uid: bool,
    /// Keys that a Pod does not have, by path.
    pub ignored: Vec<String>,
}

impl Manifest {
    /// On a node of a cluster a static pod has no part in what the API server holds; standalone there is nothing else that
    /// its references could mean.
    ///
    /// # Errors
    /// [`ManifestError::ApiReference`].
    pub fn checked(self, in_cluster: bool) -> Result<Manifest, ManifestError> {
        match api_references::first(&self.pod).filter(|_| in_cluster) {
            Some(kind) => Err(ManifestError::ApiReference(kind)),
            None => Ok(self),
        }
    }

    /// The same as a pod that has this UID.
    #[must_use]
    pub fn with_uid(mut self, uid: &PodUid) -> Manifest {
        defaults::set_uid(Arc::make_mut(&mut self.pod), uid.as_str());
        self
    }

    fn named(&self, path: PathBuf) -> SourcePod {
        SourcePod { path, pod: Arc::clone(&self.pod), own_uid: self.own_uid }
    }
}

/// [`read`], without the ignored keys.
///
/// # Errors
/// As [`read`].
pub fn parse(bytes: &[u8], path: &Path, hostname: &str) -> Result<Arc<Pod>, ManifestError> {
    read(bytes, path, hostname).map(|manifest| manifest.pod)
}

/// A Pod with all defaults that the API server would set, valid, with UID, namespace and name.
///
/// # Errors
/// Not a Pod of v1 in YAML or JSON, or one that the API server would refuse.
pub fn read(bytes: &[u8], path: &Path, hostname: &str) -> Result<Manifest, ManifestError> {
    let document = document(text(bytes)?)?;
    for (key, expected) in [("apiVersion", "v1"), ("kind", "Pod")] {
        if document.get(key).and_then(Value::as_str) != Some(expected) {
            return Err(ManifestError::NotAPod { key, found: found(&document, key), expected });
        }
    }
    read_pod(document, Origin::File(path), hostname)
}

/// What a server answers with: one Pod or a PodList of v1, in YAML or JSON. As with kubelet one pod that cannot be used
/// makes the whole list unusable: a list of the others would end it.
///
/// # Errors
/// As [`read`]; and an empty answer, of which nobody knows whether it means "no pods".
pub fn read_answer(bytes: &[u8], url: &str, hostname: &str) -> Result<Vec<Manifest>, ManifestError> {
    let text = text(bytes)?;
    if text.trim().is_empty() {
        return Err(ManifestError::EmptyAnswer);
    }
    let mut document = document(text)?;
    let not_pods = |document: &Value, key| ManifestError::NotPods { key, found: found(document, key) };
    if document.get("apiVersion").and_then(Value::as_str) != Some("v1") {
        return Err(not_pods(&document, "apiVersion"));
    }
    match document.get("kind").and_then(Value::as_str) {
        Some("Pod") => read_pod(document, Origin::Url(url), hostname).map(|pod| vec![pod]),
        Some("PodList") => {
            let items = match document.get_mut("items").map(Value::take) {
                None | Some(Value::Null) => Vec::new(),
                Some(Value::Array(items)) => items,
                Some(other) => {
                    return Err(ManifestError::Shape {
                        key: "items".to_owned(),
                        error: format!("{other} is no list"),
                    });
                }
            };
            let item = |(index, item)| {
                let pod = read_pod(item, Origin::Url(url), hostname);
                pod.map_err(|error| ManifestError::Item { index, error: Box::new(error) })
            };
            items.into_iter().enumerate().map(item).collect()
        }
        _ => Err(not_pods(&document, "kind")),
    }
}

fn text(bytes: &[u8]) -> Result<&str, ManifestError> {
    if bytes.len() > MAX_BYTES {
        return Err(ManifestError::TooLarge);
    }
    std::str::from_utf8(bytes).map_err(|e| ManifestError::NotUtf8(e.valid_up_to()))
}

fn found(document: &Value, key: &str) -> String {
    document.get(key).map_or_else(|| "missing".to_owned(), Value::to_string)
}

fn read_pod(document: Value, origin: Origin<'_>, hostname: &str) -> Result<Manifest, ManifestError> {
    let uid = uid(&document, origin, hostname);
    let mut ignored = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(document, &mut track);
    let pod: Result<Pod, _> =
        serde_ignored::deserialize(tracked, |key| ignored.push(key_path(&key.to_string())));
    let mut pod =
        pod.map_err(|e| ManifestError::Shape { key: track.path().to_string(), error: e.to_string() })?;

    let name = pod.metadata.name.clone().unwrap_or_default();
    validation::check(&pod, hostname)
        .map_err(|problems| ManifestError::Invalid { name, problems: problems.join("; ") })?;
    let own_uid = pod.metadata.uid.as_deref().is_some_and(|uid| !uid.is_empty());
    defaults::apply(&mut pod, uid, origin.source(), hostname);
    Ok(Manifest { pod: Arc::new(pod), own_uid, ignored })
}

/// YAML as kubelet reads it: through JSON, so `value: 1` stays a number and is no string, `0644` is octal.
fn document(text: &str) -> Result<Value, ManifestError> {
    if text.trim().is_empty() {
        return Err(ManifestError::Empty);
    }
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| ManifestError::Syntax(e.to_string()))
}

fn key_path(path: &str) -> String {
    // serde_ignored writes a `?` for each Option that it went through.
    path.split('.').filter(|part| *part != "?").collect::<Vec<_>>().join(".")
}

/// 32 hexadecimal digits, as kubelet's. Its own hash is of Go's memory layout and cannot be had elsewhere.
fn uid(document: &Value, origin: Origin<'_>, hostname: &str) -> String {
    let mut hash = Sha256::new();
    hash_value(document, &mut hash);
    hash.update(format!("host:{hostname}"));
    match origin {
        Origin::File(path) => {
            hash.update(b"file:");
            hash.update(path.as_os_str().as_encoded_bytes());
        }
        Origin::Url(url) => {
            hash.update(b"url:");
            hash.update(url.as_bytes());
        }
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Sorted by key here, so that no feature of the JSON crate can change a UID.
fn hash_value(value: &Value, hash: &mut Sha256) {
    match value {
        Value::Object(map) => {
            hash.update(b"{");
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            for (key, value) in sorted {
                hash_value(&Value::String(key.clone()), hash);
                hash_value(value, hash);
            }
            hash.update(b"}");
        }
        Value::Array(list) => {
            hash.update(b"[");
            list.iter().for_each(|value| hash_value(value, hash));
            hash.update(b"]");
        }
        scalar => {
            hash.update(scalar.to_string());
            hash.update(b",");
        }
    }
}

/// One file, for [`collect`]. A manifest and an error together: the file is broken, the manifest is its last good one.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub path: &'a Path,
    pub manifest: Option<&'a Manifest>,
    pub error: Option<&'a str>,
}

/// The list of a directory. Of files that name the same pod the last in the alphabet counts, as with kubelet (its store
/// of manifests has one place a name, and the directory is read in order); the others are rejected.
pub fn collect<'a>(sources: impl IntoIterator<Item = Source<'a>>) -> PodUpdate {
    let mut sources: Vec<Source<'a>> = sources.into_iter().collect();
    sources.sort_by_key(|source| std::cmp::Reverse(source.path));
    let mut update = PodUpdate { source: PodSource::File, pods: Vec::new(), rejected: Vec::new() };
    let mut names: BTreeMap<String, PathBuf> = BTreeMap::new();
    for source in sources {
        if let Some(error) = source.error {
            let (path, error) = (source.path.to_owned(), error.to_owned());
            update.rejected.push(RejectedManifest { path, error, duplicate: false });
        }
        let Some(manifest) = source.manifest else { continue };
        if let Err(error) = name_once(&mut names, &manifest.pod, source.path) {
            update.rejected.push(RejectedManifest { path: source.path.to_owned(), error, duplicate: true });
            continue;
        }
        update.pods.push(manifest.named(source.path.to_owned()));
    }
    update.pods.sort_by(|a, b| a.path.cmp(&b.path));
    update.rejected.sort_by(|a, b| a.path.cmp(&b.path));
    update
}

/// The list of a server. Of two pods of one name the first counts (kubelet: `filterInvalidPods`).
#[must_use]
pub fn collect_answer(manifests: &[Manifest], url: &str) -> PodUpdate {
    let mut update = PodUpdate { source: PodSource::Http, pods: Vec::new(), rejected: Vec::new() };
    let mut names = BTreeMap::new();
    for (index, manifest) in manifests.iter().enumerate() {
        match name_once(&mut names, &manifest.pod, Path::new(&format!("items[{index}]"))) {
            Ok(()) => update.pods.push(manifest.named(url.into())),
            Err(error) => {
                let path = format!("{url} items[{index}]").into();
                update.rejected.push(RejectedManifest { path, error, duplicate: true });
            }
        }
    }
    update
}

/// Two manifests may also give themselves one UID; the runtime could not tell their pods apart.
fn name_once(names: &mut BTreeMap<String, PathBuf>, pod: &Pod, path: &Path) -> Result<(), String> {
    let pod_ref = PodRef::of(pod);
    let keys = [pod_ref.to_string(), format!("UID {}", pod_ref.uid)];
    if let Some((key, other)) = keys.iter().find_map(|key| names.get(key).map(|other| (key, other))) {
        return Err(format!(
            "pod {key} is already named by {}, which counts; rename or remove one of the two",
            other.display()
        ));
    }
    names.extend(keys.into_iter().map(|key| (key, path.to_owned())));
    Ok(())
}

#[cfg(test)]
mod tests;
