//! ConfigMaps and Secrets as pods use them: what they are called, what is in them, and what was found of those that a pod
//! names. Core.
//!
//! - [`read`]: from the text of a manifest to the ConfigMaps and Secrets in it.
//!
//! Nothing here shows a value in its `Debug` form or in an error: keys and names are no secrets, what they stand for is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};

mod read;
pub use read::{ManifestObject, ObjectManifestError, read};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    ConfigMap,
    Secret,
}

impl ObjectKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ObjectKind::ConfigMap => "ConfigMap",
            ObjectKind::Secret => "Secret",
        }
    }

    /// kubelet's word in "not found" (pkg/kubelet/configmap, pkg/kubelet/secret: `v1.Resource("configmap")`).
    #[must_use]
    pub const fn resource(self) -> &'static str {
        match self {
            ObjectKind::ConfigMap => "configmap",
            ObjectKind::Secret => "secret",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    pub kind: ObjectKind,
    pub namespace: String,
    pub name: String,
}

impl ObjectRef {
    #[must_use]
    pub fn new(kind: ObjectKind, namespace: &str, name: &str) -> ObjectRef {
        ObjectRef { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// As kubelet's errors have it: `configmap "x"`.
impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind.resource(), self.name)
    }
}

/// What is in one ConfigMap or Secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Object {
    /// `data`. Of a ConfigMap all values are UTF-8.
    pub data: BTreeMap<String, Vec<u8>>,
    /// `binaryData`, which only a ConfigMap has.
    pub binary_data: BTreeMap<String, Vec<u8>>,
    /// It will never change.
    pub immutable: bool,
    /// A Secret's `type`.
    pub type_: Option<String>,
}

impl Object {
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        self.data.get(key).or_else(|| self.binary_data.get(key)).map(Vec::as_slice)
    }
}

impl From<ConfigMap> for Object {
    fn from(map: ConfigMap) -> Object {
        Object {
            data: map.data.into_iter().flatten().map(|(k, v)| (k, v.into_bytes())).collect(),
            binary_data: map.binary_data.into_iter().flatten().map(|(k, v)| (k, v.0)).collect(),
            immutable: map.immutable == Some(true),
            type_: None,
        }
    }
}

impl From<Secret> for Object {
    fn from(secret: Secret) -> Object {
        let mut data: BTreeMap<_, _> = secret.data.into_iter().flatten().map(|(k, v)| (k, v.0)).collect();
        // As the API server merges it; there it is never read back.
        data.extend(secret.string_data.into_iter().flatten().map(|(k, v)| (k, v.into_bytes())));
        let immutable = secret.immutable == Some(true);
        Object { data, binary_data: BTreeMap::new(), immutable, type_: secret.type_ }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&String> = self.data.keys().chain(self.binary_data.keys()).collect();
        f.debug_struct("Object")
            .field("keys", &keys)
            .field("immutable", &self.immutable)
            .field("type", &self.type_)
            .finish_non_exhaustive()
    }
}

/// Why there is no content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    #[error("{0} not found")]
    NotFound(ObjectRef),
    /// In kubelet's words (pkg/kubelet/util/manager/watch_based_manager.go).
    #[error("failed to sync {} cache: {why}", .object.kind.resource())]
    Unavailable { object: ObjectRef, why: String },
    /// In standalone mode without a directory of objects.
    #[error(
        "{} {:?} needs an API server or, in standalone mode, a directory of manifests (`oomlet.objects` in the configuration); \
         name one, write the value into the pod's manifest or mark the reference `optional: true`", .0.kind.as_str(), .0.name
    )]
    NoSource(ObjectRef),
    #[error("{0} was not looked up, which is a defect of the agent: report it with the pod's manifest")]
    NotLookedUp(ObjectRef),
}

impl ObjectError {
    /// An optional reference is left out.
    #[must_use]
    pub const fn is_absence(&self) -> bool {
        matches!(self, ObjectError::NotFound(_) | ObjectError::NoSource(_))
    }
}

/// What was found of the objects that one pod names.
#[derive(Clone, Debug, Default)]
pub struct Objects(BTreeMap<ObjectRef, Result<Arc<Object>, ObjectError>>);

impl Objects {
    /// # Errors
    /// Why it has no content.
    pub fn get(&self, kind: ObjectKind, namespace: &str, name: &str) -> Result<&Arc<Object>, ObjectError> {
        let object = ObjectRef::new(kind, namespace, name);
        match self.0.get(&object) {
            Some(found) => found.as_ref().map_err(Clone::clone),
            None => Err(ObjectError::NotLookedUp(object)),
        }
    }
}

impl FromIterator<(ObjectRef, Result<Arc<Object>, ObjectError>)> for Objects {
    fn from_iter<I: IntoIterator<Item = (ObjectRef, Result<Arc<Object>, ObjectError>)>>(found: I) -> Objects {
        Objects(found.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn debug_shows_no_value() {
        let secret: Secret = serde_json::from_value(
            json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}, "data": {"pin": "MTIzNA=="}}),
        )
        .unwrap();
        let object = Object::from(secret);
        assert_eq!(object.value("password"), Some(b"hunter2".as_slice()));
        assert_eq!(object.value("pin"), Some(b"1234".as_slice()));
        let name = ObjectRef::new(ObjectKind::Secret, "ns", "s");
        let objects: Objects = [(name, Ok(Arc::new(object)))].into_iter().collect();
        let shown = format!("{objects:?}");
        assert!(
            shown.contains("password") && !shown.contains("hunter2") && !shown.contains("1234"),
            "{shown}"
        );
        assert!(!shown.contains("[49, 50"), "{shown}");
    }

    #[test]
    fn errors_are_kubelets() {
        for (object, want) in [
            (ObjectRef::new(ObjectKind::ConfigMap, "ns", "x"), "configmap \"x\" not found"),
            (ObjectRef::new(ObjectKind::Secret, "ns", "x"), "secret \"x\" not found"),
        ] {
            assert_eq!(ObjectError::NotFound(object).to_string(), want);
        }
        let nothing = Objects::default();
        let error = nothing.get(ObjectKind::Secret, "ns", "x").unwrap_err();
        assert!(!error.is_absence(), "an optional reference must not hide it");
    }
}
