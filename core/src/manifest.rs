//! From the bytes of a manifest to a pod that is complete and valid, and from the manifests of a directory
//! to its list of pods.
//!
//! As for kubelet (pkg/kubelet/config/common.go): the name gets `-<hostname>`, the UID is a hash of content,
//! path and hostname, so that a changed manifest is another pod and an unchanged one is the same after a
//! restart. Comments, layout and the file's times do not count.

mod defaults;
mod validation;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::node::event::{PodSource, PodUpdate, RejectedManifest, SourcePod};
use crate::pod::{Pod, PodRef};

/// kubelet's `maxConfigLength`.
pub const MAX_BYTES: usize = 10 << 20;

/// The path of the manifest is beside the error, in [`RejectedManifest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("larger than 10 MiB; a static pod manifest holds one Pod")]
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
}

/// What one file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub pod: Arc<Pod>,
    /// Keys that a Pod does not have, by path.
    pub ignored: Vec<String>,
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
    if bytes.len() > MAX_BYTES {
        return Err(ManifestError::TooLarge);
    }
    let text = std::str::from_utf8(bytes).map_err(|e| ManifestError::NotUtf8(e.valid_up_to()))?;
    let document = document(text)?;
    for (key, expected) in [("apiVersion", "v1"), ("kind", "Pod")] {
        let found = document.get(key);
        if found.and_then(Value::as_str) != Some(expected) {
            let found = found.map_or_else(|| "missing".to_owned(), Value::to_string);
            return Err(ManifestError::NotAPod { key, found, expected });
        }
    }
    let uid = uid(&document, path, hostname);

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
    defaults::apply(&mut pod, uid, hostname);
    Ok(Manifest { pod: Arc::new(pod), ignored })
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
fn uid(document: &Value, path: &Path, hostname: &str) -> String {
    let mut hash = Sha256::new();
    hash_value(document, &mut hash);
    hash.update(format!("host:{hostname}"));
    hash.update(b"file:");
    hash.update(path.as_os_str().as_encoded_bytes());
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

/// One file, for [`collect`]. A pod and an error together: the file is broken, the pod is its last good one.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub path: &'a Path,
    pub pod: Option<&'a Arc<Pod>>,
    pub error: Option<&'a str>,
    /// The file counted for its pod's name last time.
    pub held: bool,
}

/// The list of a directory. Of two files that name the same pod the one that counted before does so still, whatever
/// its name: a file that is added never ends a pod that runs. Of two new ones the first counts. The other is rejected.
pub fn collect<'a>(sources: impl IntoIterator<Item = Source<'a>>) -> PodUpdate {
    let mut sources: Vec<Source<'a>> = sources.into_iter().collect();
    sources.sort_by_key(|source| (!source.held, source.path));
    let mut update = PodUpdate { source: PodSource::File, pods: Vec::new(), rejected: Vec::new() };
    let mut names: BTreeMap<String, PathBuf> = BTreeMap::new();
    for source in sources {
        if let Some(error) = source.error {
            update.rejected.push(RejectedManifest { path: source.path.to_owned(), error: error.to_owned() });
        }
        let Some(pod) = source.pod else { continue };
        let pod_ref = PodRef::of(pod);
        // Two manifests may give themselves one UID; the runtime could not tell their pods apart.
        let keys = [pod_ref.to_string(), format!("UID {}", pod_ref.uid)];
        if let Some((key, first)) = keys.iter().find_map(|key| names.get(key).map(|first| (key, first))) {
            let error = format!(
                "pod {key} is already named by {}, which counts; rename or remove one of the two",
                first.display()
            );
            update.rejected.push(RejectedManifest { path: source.path.to_owned(), error });
            continue;
        }
        names.extend(keys.into_iter().map(|key| (key, source.path.to_owned())));
        update.pods.push(SourcePod { path: source.path.to_owned(), pod: pod.clone() });
    }
    update.pods.sort_by(|a, b| a.path.cmp(&b.path));
    update.rejected.sort_by(|a, b| a.path.cmp(&b.path));
    update
}

#[cfg(test)]
mod tests;
