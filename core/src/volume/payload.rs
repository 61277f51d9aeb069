//! The files of a volume: path, bytes, mode; and from a ConfigMap or Secret to them.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::KeyToPath;

use crate::object::{Object, ObjectError, ObjectKind, Objects};

/// Limits of the kernel, as kubelet has them (`maxPathLength`, `maxFileNameLength` in atomic_writer.go).
const MAX_PATH_BYTES: usize = 4096;
const MAX_NAME_BYTES: usize = 255;

/// What stands at one path.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    /// Who owns it; `None`: root.
    pub owner: Option<u32>,
}

/// Without the bytes: they may be a secret's.
impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({} bytes, mode {:o}, owner {:?})", self.data.len(), self.mode, self.owner)
    }
}

/// By path below the volume. Made by [`checked`] alone, so that no path leads out of the volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload(BTreeMap<String, File>);

impl Payload {
    #[must_use]
    pub const fn files(&self) -> &BTreeMap<String, File> {
        &self.0
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("configmap references non-existent config key: {0}")]
    NoConfigKey(String),
    #[error("references non-existent secret key: {0}")]
    NoSecretKey(String),
    #[error("{0}")]
    Token(String),
    #[error("{0}")]
    TrustBundle(String),
    #[error("{0}")]
    Certificate(String),
    #[error("{0}")]
    Downward(String),
    #[error("invalid path {path:?}: {why}")]
    Path { path: String, why: &'static str },
    #[error("{0:?} would be both a file and a directory")]
    Conflict(String),
    #[error("[{}]", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Several(Vec<PayloadError>),
}

impl PayloadError {
    /// One error as it is, several as kubelet joins them (`utilerrors.NewAggregate`).
    pub(super) fn all(mut errors: Vec<PayloadError>) -> Option<PayloadError> {
        match errors.len() {
            0 | 1 => errors.pop(),
            _ => Some(PayloadError::Several(errors)),
        }
    }
}

/// The last check of what is to be written (`validatePayload`).
///
/// # Errors
/// [`PayloadError::Path`] or [`PayloadError::Conflict`].
pub fn checked(files: BTreeMap<String, File>) -> Result<Payload, PayloadError> {
    let mut clean = BTreeMap::new();
    for (path, file) in files {
        check_path(&path)?;
        clean.insert(cleaned(&path), file);
    }
    // In order: what is below a file comes somewhere after it.
    for path in clean.keys() {
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        if let Some(file) = above.into_iter().find(|dir| clean.contains_key(*dir)) {
            return Err(PayloadError::Conflict(file.to_owned()));
        }
    }
    Ok(Payload(clean))
}

/// Without empty and `.` parts.
pub(super) fn cleaned(path: &str) -> String {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/")
}

fn check_path(path: &str) -> Result<(), PayloadError> {
    let bad = |why| Err(PayloadError::Path { path: path.to_owned(), why });
    if cleaned(path).is_empty() {
        return bad("it must not be empty");
    }
    if path.starts_with('/') {
        return bad("it must be relative");
    }
    if path.len() > MAX_PATH_BYTES {
        return bad("it must have 4096 bytes at most");
    }
    if path.contains('\0') {
        return bad("it must not contain NUL");
    }
    for part in path.split('/') {
        if part == ".." {
            return bad("it must not contain '..'");
        }
        if part.len() > MAX_NAME_BYTES {
            return bad("a file name must have 255 bytes at most");
        }
    }
    // Names of that form are the writer's own.
    if cleaned(path).starts_with("..") {
        return bad("it must not start with '..'");
    }
    Ok(())
}

/// A mode as the API has it: decimal in JSON, permission bits alone.
pub(super) fn mode(own: Option<i32>, default: i32) -> u32 {
    u32::try_from(own.unwrap_or(default)).unwrap_or(0o644) & 0o777
}

/// All keys, or those that `items` names under the paths that it gives them.
///
/// # Errors
/// When the object is not there, or a key is not in it, and `optional` is not set.
pub fn of_object(
    (kind, namespace, name): (ObjectKind, &str, &str),
    items: &[KeyToPath],
    default_mode: i32,
    optional: bool,
    objects: &Objects,
) -> Result<BTreeMap<String, File>, PayloadError> {
    let nothing = Object::default();
    let object = match objects.get(kind, namespace, name) {
        Ok(object) => object,
        Err(error) if optional && error.is_absence() => &nothing,
        Err(error) => return Err(error.into()),
    };
    let file = |data: &[u8], own| File { data: data.to_vec(), mode: mode(own, default_mode), owner: None };
    if items.is_empty() {
        let all = object.data.iter().chain(&object.binary_data);
        return Ok(all.map(|(key, data)| (key.clone(), file(data, None))).collect());
    }
    let mut files = BTreeMap::new();
    for item in items {
        match object.value(&item.key) {
            Some(data) => {
                files.insert(item.path.clone(), file(data, item.mode));
            }
            None if optional => {}
            None if kind == ObjectKind::ConfigMap => return Err(PayloadError::NoConfigKey(item.key.clone())),
            None => return Err(PayloadError::NoSecretKey(item.key.clone())),
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    use crate::object::ObjectRef;

    fn file(text: &str) -> File {
        File { data: text.into(), mode: 0o644, owner: None }
    }

    fn payload(paths: &[&str]) -> Result<Payload, PayloadError> {
        checked(paths.iter().map(|p| ((*p).to_owned(), file(p))).collect())
    }

    #[test]
    fn paths() {
        let long = "a/".repeat(2050);
        let name = "n".repeat(256);
        for (path, want) in [
            ("a", Ok("a")),
            ("a/b/c", Ok("a/b/c")),
            ("./a//b/", Ok("a/b")),
            ("..a", Err("start with '..'")),
            (".a", Ok(".a")),
            ("a/..b", Ok("a/..b")),
            ("...", Err("start with '..'")),
            ("./..data", Err("start with '..'")),
            ("", Err("empty")),
            (".", Err("empty")),
            ("/a", Err("relative")),
            ("..", Err("'..'")),
            ("a/../../b", Err("'..'")),
            ("a\0b", Err("NUL")),
            (long.as_str(), Err("4096")),
            (name.as_str(), Err("255")),
        ] {
            match (payload(&[path]), want) {
                (Ok(found), Ok(want)) => assert_eq!(found.files().keys().collect::<Vec<_>>(), [want]),
                (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{path}: {error}"),
                (found, want) => panic!("{path:?}: want {want:?}, got {found:?}"),
            }
        }
        assert_eq!(payload(&["a", "a/b"]), Err(PayloadError::Conflict("a".into())));
        assert_eq!(payload(&["a", "a.b", "a/b/c"]), Err(PayloadError::Conflict("a".into())));
        assert!(payload(&["a/b", "a/c", "ab"]).is_ok());
    }

    fn objects() -> Objects {
        let map = Object {
            data: [("k".to_owned(), b"v".to_vec())].into(),
            binary_data: [("raw".to_owned(), vec![0, 255])].into(),
            ..Object::default()
        };
        let gone = ObjectRef::new(ObjectKind::Secret, "ns", "gone");
        [
            (ObjectRef::new(ObjectKind::ConfigMap, "ns", "cm"), Ok(Arc::new(map.clone()))),
            (ObjectRef::new(ObjectKind::Secret, "ns", "s"), Ok(Arc::new(map))),
            (gone.clone(), Err(ObjectError::NotFound(gone))),
        ]
        .into_iter()
        .collect()
    }

    #[test]
    fn objects_become_files() {
        use ObjectKind::{ConfigMap, Secret};
        let item = |key: &str, path: &str, mode| KeyToPath { key: key.into(), path: path.into(), mode };
        for (name, items, optional, want) in [
            ((ConfigMap, "cm"), vec![], false, Ok("k=v 400; raw=\0\u{fffd} 400; ")),
            ((ConfigMap, "cm"), vec![item("raw", "d/r", Some(0o777))], false, Ok("d/r=\0\u{fffd} 777; ")),
            (
                (ConfigMap, "cm"),
                vec![item("x", "x", None)],
                false,
                Err("configmap references non-existent config key: x"),
            ),
            ((ConfigMap, "cm"), vec![item("x", "x", None), item("k", "y", None)], true, Ok("y=v 400; ")),
            ((Secret, "s"), vec![item("x", "x", None)], false, Err("references non-existent secret key: x")),
            ((Secret, "gone"), vec![], false, Err("secret \"gone\" not found")),
            ((Secret, "gone"), vec![item("k", "k", None)], true, Ok("")),
        ] {
            let found = of_object((name.0, "ns", name.1), &items, 0o400, optional, &objects());
            let shown = found.map(|files| {
                let text = |f: &File| String::from_utf8_lossy(&f.data).into_owned();
                files.iter().map(|(p, f)| format!("{p}={} {:o}; ", text(f), f.mode)).collect::<String>()
            });
            assert_eq!(shown.map_err(|e| e.to_string()), want.map(str::to_owned).map_err(str::to_owned));
        }
    }

    #[test]
    fn debug_shows_no_bytes() {
        let shown = format!("{:?}", checked([("a".to_owned(), file("hunter2"))].into()).unwrap());
        assert!(!shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
    }

    proptest! {
        /// What is accepted stays below the volume and beside the writer's own names.
        #[test]
        fn accepted_paths_stay_inside(parts in proptest::collection::vec("\\.{0,3}|[a-z.]{1,4}|", 0..6)) {
            let path = parts.join("/");
            if let Ok(payload) = payload(&[&path]) {
                for path in payload.files().keys() {
                    prop_assert!(!path.starts_with('/') && !path.starts_with("..") && !path.is_empty());
                    prop_assert!(path.split('/').all(|p| !p.is_empty() && p != "." && p != ".."));
                }
            }
        }

        #[test]
        fn no_file_is_a_directory_too(paths in proptest::collection::btree_set("[ab](/[ab]){0,3}", 1..6)) {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            let below = |a: &str, b: &str| b.strip_prefix(a).is_some_and(|rest| rest.starts_with('/'));
            let conflict = paths.iter().any(|a| paths.iter().any(|b| below(a, b)));
            prop_assert_eq!(payload(&paths).is_err(), conflict);
        }
    }
}
