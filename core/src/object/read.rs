//! A file of ConfigMaps and Secrets: YAML or JSON, several documents, lists. Standalone such files take the API server's
//! place. An error says where it stands and never what the text was, which may be a password.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Object, ObjectKind, ObjectRef};

/// An object and the name it goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestObject {
    pub object: ObjectRef,
    pub content: Object,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectManifestError {
    #[error("not UTF-8 (invalid byte at offset {0}); save it as UTF-8 text")]
    NotUtf8(usize),
    #[error("not YAML or JSON{}; correct its syntax", .0.as_deref().map(|at| format!(": the error is at {at}")).unwrap_or_default())]
    Syntax(Option<String>),
    #[error("document {index} is {found}, must be a ConfigMap, a Secret or a List of them (apiVersion: v1)")]
    Kind { index: usize, found: String },
    #[error("document {index}: {key}: the value has the wrong type; {remedy}")]
    Shape { index: usize, key: String, remedy: &'static str },
    #[error("document {index} has no metadata.name")]
    NoName { index: usize },
    #[error(
        "document {index}: {key:?} is not a key: at most 253 of A-Z, a-z, 0-9, -, _ and ., and neither . nor .."
    )]
    Key { index: usize, key: String },
}

/// All objects of one file; those without a namespace are in `default`.
///
/// # Errors
/// The first thing in it that is not an object; then none of the file counts.
pub fn read(bytes: &[u8]) -> Result<Vec<ManifestObject>, ObjectManifestError> {
    let text = std::str::from_utf8(bytes).map_err(|e| ObjectManifestError::NotUtf8(e.valid_up_to()))?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| {
        let at = e.location().map(|l| format!("line {}, column {}", l.line(), l.column()));
        ObjectManifestError::Syntax(at)
    })?;
    let mut objects = Vec::new();
    for (index, document) in documents.into_iter().enumerate().filter(|(_, d)| !d.is_null()) {
        read_document(document, index + 1, &mut objects)?;
    }
    Ok(objects)
}

fn read_document(
    mut document: Value,
    index: usize,
    objects: &mut Vec<ManifestObject>,
) -> Result<(), ObjectManifestError> {
    let word = |key| document.get(key).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (word("apiVersion"), word("kind"));
    let wrong = || ObjectManifestError::Kind { index, found: format!("{kind:?} of {version:?}") };
    if version != "v1" {
        return Err(wrong());
    }
    match kind {
        "ConfigMap" => {
            let map: ConfigMap = typed(document, index)?;
            let name = name_of(&map.metadata, ObjectKind::ConfigMap, index)?;
            objects.push(checked(name, map.into(), index)?);
        }
        "Secret" => {
            let secret: Secret = typed(document, index)?;
            let name = name_of(&secret.metadata, ObjectKind::Secret, index)?;
            objects.push(checked(name, secret.into(), index)?);
        }
        "List" | "ConfigMapList" | "SecretList" => {
            if let Some(Value::Array(items)) = document.get_mut("items").map(Value::take) {
                for item in items {
                    read_document(item, index, objects)?;
                }
            }
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

fn typed<T: DeserializeOwned>(document: Value, index: usize) -> Result<T, ObjectManifestError> {
    serde_path_to_error::deserialize(document).map_err(|e| {
        let key = e.path().to_string();
        let remedy = if key.starts_with("data") || key.starts_with("binaryData") {
            "`data` of a Secret and `binaryData` are base64, `stringData` and `data` of a ConfigMap are text (numbers quoted)"
        } else {
            "see the object's API reference"
        };
        ObjectManifestError::Shape { index, key, remedy }
    })
}

fn name_of(meta: &ObjectMeta, kind: ObjectKind, index: usize) -> Result<ObjectRef, ObjectManifestError> {
    let name = meta.name.as_deref().filter(|n| !n.is_empty()).ok_or(ObjectManifestError::NoName { index })?;
    let namespace = meta.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
    Ok(ObjectRef::new(kind, namespace, name))
}

/// As the API server checks keys (`IsConfigMapKey`, apimachinery's validation).
fn checked(object: ObjectRef, content: Object, index: usize) -> Result<ManifestObject, ObjectManifestError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let bad = |key: &&String| {
        key.is_empty() || key.len() > 253 || !key.bytes().all(fits) || *key == "." || key.starts_with("..")
    };
    match content.data.keys().chain(content.binary_data.keys()).find(bad) {
        Some(key) => Err(ObjectManifestError::Key { index, key: key.clone() }),
        None => Ok(ManifestObject { object, content }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists() {
        let text = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: a}
data: {k: v}
---
# Nothing but a comment.
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Secret
  metadata: {name: s, namespace: prod}
  type: Opaque
  stringData: {password: hunter2}
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: b}
  immutable: true
  binaryData: {raw: AAE=}
";
        let objects = read(text.as_bytes()).unwrap();
        let names: Vec<_> =
            objects.iter().map(|o| (o.object.namespace.as_str(), o.object.to_string())).collect();
        let want = [("default", "configmap \"a\""), ("prod", "secret \"s\""), ("default", "configmap \"b\"")];
        assert_eq!(names, want.map(|(ns, name)| (ns, name.to_owned())));
        assert_eq!(objects[1].content.value("password"), Some(b"hunter2".as_slice()));
        assert_eq!(objects[2].content.value("raw"), Some([0, 1].as_slice()));
        assert!(objects[2].content.immutable && !objects[0].content.immutable);
    }

    #[test]
    fn errors_name_the_place_and_no_value() {
        for (text, want) in [
            ("apiVersion: v1\nkind: Pod\n", "\"Pod\" of \"v1\""),
            ("apiVersion: v1\nkind: Secret\ndata: {a: MQ==}\n", "no metadata.name"),
            ("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: hunter2!}\n", "base64"),
            ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s}\ndata: {a: [hunter2]}\n", "data.a"),
            ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s}\ndata: {../a: hunter2}\n", "is not a key"),
            ("apiVersion: v1\nkind: \"hunter2\n", "line"),
            ("{{{hunter2", "line"),
        ] {
            let error = read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(want) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
