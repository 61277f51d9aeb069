//! A container's environment, and `$(VAR)` expansion in values, command and args. Core.
//!
//! Sources: literals, [`fields`] of the pod and of its resources, ConfigMaps and Secrets as they were found, Services,
//! and [`file`]s in its volumes.

mod fields;
pub mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVarSource, FileKeySelector, Pod};

use super::qos::Amounts;
use crate::object::{Object, ObjectError, ObjectKind, Objects};
pub use fields::{ResourceFieldError, metadata_field, resource_field};
use file::{EnvFile, EnvFiles};

/// What the node adds to the manifest.
#[derive(Clone, Debug, Default)]
pub struct EnvFacts {
    pub node_name: String,
    pub host_ip: String,
    /// Empty before the sandbox runs; the host's with hostNetwork.
    pub pod_ips: Vec<String>,
    /// What `limits.*` reads where the container has no limit.
    pub allocatable: Amounts,
}

/// All that a value may come from, beside the manifest.
#[derive(Clone, Copy, Debug)]
pub struct EnvSources<'a> {
    pub node: &'a EnvFacts,
    pub objects: &'a Objects,
    /// See [`super::services`].
    pub services: &'a BTreeMap<String, String>,
    /// Those of [`files`].
    pub files: &'a EnvFiles,
}

/// kubelet shows each of these as `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("couldn't find key {key} in {} {namespace}/{name}", .kind.as_str())]
    NoKey { kind: ObjectKind, namespace: String, name: String, key: String },
    #[error("container {container}: env {env}: the value at key {key:?} of {} {name:?} is not UTF-8", .kind.as_str())]
    NotUtf8 { container: String, env: String, kind: ObjectKind, name: String, key: String },
    #[error(
        "container {container}: env {env}: fieldPath {path:?} is not supported; use metadata.name, metadata.namespace, \
         metadata.uid, metadata.labels['<key>'], metadata.annotations['<key>'], spec.nodeName, spec.serviceAccountName, \
         status.hostIP, status.hostIPs, status.podIP or status.podIPs"
    )]
    FieldPath { container: String, env: String, path: String },
    #[error("container {container}: env {env}: {source}")]
    Resource { container: String, env: String, source: ResourceFieldError },
    #[error("cannot find the volume {volume:?} referenced by FileKeyRef")]
    NoVolume { volume: String },
    /// kubelet says no more than the first four words.
    #[error("couldn't parse env file {path:?} of volume {volume:?}: {why}")]
    File { volume: String, path: String, why: String },
    #[error("environment variable key {key:?} not found in file {path:?}")]
    NoFileKey { key: String, path: String },
    #[error(
        "container {container}: env {env}: valueFrom names no source this agent knows (fieldRef, resourceFieldRef, \
         configMapKeyRef, secretKeyRef, fileKeyRef)"
    )]
    NoSource { container: String, env: String },
}

/// Names and values. Its `Debug` form has the names alone: a value may come from a Secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Env(pub Vec<(String, String)>);

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Env {
    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, earlier)) => *earlier = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerEnv {
    pub env: Env,
    /// Keys that cannot be a variable's name, by the object they are in, in kubelet's words
    /// (`InvalidEnvironmentVariableNames`).
    pub skipped: Vec<String>,
}

/// What `envFrom` gives, in order of name, then the manifest's variables in its order, then the Services'. A name that comes
/// twice keeps its first place and its last value, but for a Service's, which comes last and loses
/// (`makeEnvironmentVariables`, pkg/kubelet/kubelet_pods.go).
///
/// # Errors
/// A reference that cannot be resolved and is not optional.
pub fn container_env(
    pod: &Pod,
    container: &Container,
    from: EnvSources<'_>,
) -> Result<ContainerEnv, EnvError> {
    let mut made = ContainerEnv::default();
    for source in container.env_from.iter().flatten() {
        env_from(source, pod, from.objects, &mut made)?;
    }
    for var in container.env.iter().flatten() {
        // kubelet looks at valueFrom only where value is empty.
        let value = match (var.value.as_deref().filter(|v| !v.is_empty()), &var.value_from) {
            (Some(value), _) => expand_by(value, |name| {
                made.env.get(name).or_else(|| from.services.get(name).map(String::as_str))
            }),
            (None, None) => String::new(),
            (None, Some(source)) => match resolve(source, &var.name, pod, container, from)? {
                Some(value) => value,
                None => continue,
            },
        };
        made.env.set(&var.name, value);
    }
    let names: BTreeSet<String> = made.env.0.iter().map(|(name, _)| name.clone()).collect();
    let services = from.services.iter().filter(|(name, _)| !names.contains(*name));
    made.env.0.extend(services.map(|(name, value)| (name.clone(), value.clone())));
    Ok(made)
}

/// Volume and path of each file that the container's environment is read from.
pub fn files(container: &Container) -> impl Iterator<Item = (&str, &str)> {
    let sources = container.env.iter().flatten().filter_map(|var| var.value_from.as_ref());
    let files = sources.filter_map(|source| source.file_key_ref.as_ref());
    files.map(|file| (file.volume_name.as_str(), file.path.as_str()))
}

/// Every key of one ConfigMap or Secret.
fn env_from(
    source: &EnvFromSource,
    pod: &Pod,
    objects: &Objects,
    made: &mut ContainerEnv,
) -> Result<(), EnvError> {
    let map = source.config_map_ref.as_ref().map(|r| (ObjectKind::ConfigMap, &r.name, r.optional));
    let secret = source.secret_ref.as_ref().map(|r| (ObjectKind::Secret, &r.name, r.optional));
    let Some((kind, name, optional)) = map.or(secret) else { return Ok(()) };
    let Some(object) = object(kind, name, optional, pod, objects)? else { return Ok(()) };
    let prefix = source.prefix.as_deref().unwrap_or_default();
    let mut skipped = Vec::new();
    for (key, value) in &object.data {
        let key = format!("{prefix}{key}");
        // What is not UTF-8 the runtime cannot be told; kubelet's own call fails as a whole there.
        match std::str::from_utf8(value) {
            Ok(value) if is_variable_name(&key) => made.env.set(&key, value.to_owned()),
            _ => skipped.push(key),
        }
    }
    if !skipped.is_empty() {
        let word = if kind == ObjectKind::ConfigMap { "configMap" } else { "secret" };
        made.skipped.push(format!(
            "Keys [{}] from the EnvFrom {word} {}/{name} were skipped since they are considered invalid environment \
             variable names.",
            skipped.join(", "),
            pod.metadata.namespace.as_deref().unwrap_or_default(),
        ));
    }
    Ok(())
}

/// KEP-4369: printable ASCII but `=`.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=')
}

/// Command and args with `$(VAR)` expanded by the container's environment.
#[must_use]
pub fn command_and_args(container: &Container, env: &Env) -> (Vec<String>, Vec<String>) {
    let expanded = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| expand(text, env)).collect();
    (expanded(&container.command), expanded(&container.args))
}

/// `$(NAME)` → value, `$$` → `$`; an unknown name and any other `$` stay as they are
/// (third_party/forked/golang/expansion).
#[must_use]
pub fn expand(text: &str, env: &Env) -> String {
    expand_by(text, |name| env.get(name))
}

/// The same with variables by whatever knows them.
pub fn expand_by<'a>(text: &str, mut value_of: impl FnMut(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|s| s.split_once(')')) {
            match value_of(name) {
                Some(value) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// `subPathExpr` with the container's variables.
///
/// # Errors
/// Variables in it that are not set, or empty (`ExpandContainerVolumeMounts`, pkg/kubelet/container/helpers.go).
pub fn expand_sub_path(expr: &str, env: &Env) -> Result<String, String> {
    let mut missing = BTreeSet::new();
    let path = expand_by(expr, |name| {
        let value = env.get(name).filter(|v| !v.is_empty());
        if value.is_none() {
            missing.insert(name.to_owned());
        }
        value
    });
    if missing.is_empty() {
        Ok(path)
    } else {
        Err(format!("missing value for {}", missing.into_iter().collect::<Vec<_>>().join(", ")))
    }
}

/// `Ok(None)`: it is optional and not there.
fn object<'a>(
    kind: ObjectKind,
    name: &str,
    optional: Option<bool>,
    pod: &Pod,
    objects: &'a Objects,
) -> Result<Option<&'a Object>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    match objects.get(kind, namespace, name) {
        Ok(object) => Ok(Some(object)),
        Err(error) if optional == Some(true) && error.is_absence() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `Ok(None)`: an optional reference to what is not there; the variable is left out.
fn resolve(
    source: &EnvVarSource,
    env: &str,
    pod: &Pod,
    container: &Container,
    from: EnvSources<'_>,
) -> Result<Option<String>, EnvError> {
    let (container_name, env) = (|| container.name.clone(), || env.to_owned());
    let map =
        source.config_map_key_ref.as_ref().map(|r| (ObjectKind::ConfigMap, &r.name, &r.key, r.optional));
    let secret = source.secret_key_ref.as_ref().map(|r| (ObjectKind::Secret, &r.name, &r.key, r.optional));
    if let Some((kind, name, key, optional)) = map.or(secret) {
        let Some(object) = object(kind, name, optional, pod, from.objects)? else { return Ok(None) };
        return match object.data.get(key) {
            Some(value) => String::from_utf8(value.clone()).map(Some).map_err(|_| EnvError::NotUtf8 {
                container: container_name(),
                env: env(),
                kind,
                name: name.clone(),
                key: key.clone(),
            }),
            None if optional == Some(true) => Ok(None),
            None => {
                let namespace = pod.metadata.namespace.clone().unwrap_or_default();
                Err(EnvError::NoKey { kind, namespace, name: name.clone(), key: key.clone() })
            }
        };
    }
    if let Some(field) = &source.field_ref {
        return fields::field_value(field, pod, from.node).map(Some).ok_or_else(|| EnvError::FieldPath {
            container: container_name(),
            env: env(),
            path: field.field_path.clone(),
        });
    }
    if let Some(resource) = &source.resource_field_ref {
        let value = resource_field(resource, pod, &container.name, from.node);
        return value.map(Some).map_err(|source| EnvError::Resource {
            container: container_name(),
            env: env(),
            source,
        });
    }
    if let Some(file) = &source.file_key_ref {
        return file_value(file, from.files);
    }
    Err(EnvError::NoSource { container: container_name(), env: env() })
}

/// As with kubelet, `optional` is about the key alone, and an empty value is none.
fn file_value(wanted: &FileKeySelector, files: &EnvFiles) -> Result<Option<String>, EnvError> {
    let volume = wanted.volume_name.clone();
    let unreadable = |why: String| EnvError::File { volume: volume.clone(), path: wanted.path.clone(), why };
    let (path, bytes) = match files.get(&(volume.clone(), wanted.path.clone())) {
        None | Some(EnvFile::NoVolume) => return Err(EnvError::NoVolume { volume }),
        Some(EnvFile::Unreadable { why }) => return Err(unreadable(why.clone())),
        Some(EnvFile::Read { path, bytes }) => (path, bytes),
    };
    let value = file::value(bytes, &wanted.key).map_err(|e| unreadable(e.to_string()))?;
    match String::from_utf8(value) {
        Ok(value) if !value.is_empty() => Ok(Some(value)),
        Ok(_) if wanted.optional == Some(true) => Ok(None),
        Ok(_) => Err(EnvError::NoFileKey { key: wanted.key.clone(), path: path.clone() }),
        Err(_) => Err(unreadable(format!("the value at {:?} is not UTF-8", wanted.key))),
    }
}

#[cfg(test)]
mod tests;
