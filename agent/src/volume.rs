//! Volumes of pods: owns `<root>/pods/<uid>`, makes what a pod's manifest asks for there, tells where a
//! container's mounts come from, and removes it all again. Shell: no decisions beyond the manifest's.
//!
//! - [`empty_dir`]: emptyDir on disk and in memory.
//! - [`host_path`]: hostPath and its type checks.
//! - [`sub_path`]: `subPath` below a volume, without ever leaving it.
//! - [`mounts`]: what is mounted below a directory, and unmounting it.
//! - [`removal`]: deleting a tree that a pod could write to.
//! - `oomlet_core::mountinfo`: the parser.
//!
//! Layout, kubelet's: `volumes/kubernetes.io~empty-dir/<name>` and `volume-subpaths/<volume>/<container>/<index>`
//! below the pod's directory. All calls block; a caller in async code uses `spawn_blocking`.

pub mod empty_dir;
pub mod host_path;
pub mod mounts;
pub mod removal;
pub mod sub_path;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Volume};

use oomlet_core::pod::{Pod, PodRef, PodUid};

/// What is wrong with one volume or mount; [`VolumeError`] says whose.
#[derive(Debug, thiserror::Error)]
pub enum VolumeProblem {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error("{what} is not supported. Remedy: {remedy}")]
    Unsupported { what: String, remedy: &'static str },

    #[error("{field} is {value:?}: {why}")]
    Invalid { field: &'static str, value: String, why: &'static str },

    #[error("no volume of that name is in the pod's `spec.volumes`")]
    Undeclared,

    #[error("hostPath {path:?} has `type: {expected}`, but {found}. Remedy: {remedy}")]
    HostPathType { path: String, expected: String, found: String, remedy: &'static str },

    #[error(
        "subPath {sub_path:?} leads out of the volume {} through a symbolic link. Remedy: a path without links that \
         are absolute or point above the volume",
        volume.display()
    )]
    SubPathEscapes { sub_path: String, volume: PathBuf },

    #[error(
        "cannot unmount {}: {source}; nothing was deleted. Remedy: end the processes that use it (`fuser -vm` on that path \
         names them); the next attempt then succeeds",
        path.display()
    )]
    Unmount { path: PathBuf, source: io::Error },

    #[error("a file system is mounted on {}: it is not deleted through the mount. Remedy: unmount it", path.display())]
    MountPoint { path: PathBuf },

    #[error("{} is not a directory of the agent's making but {found}: left alone. Remedy: remove it by hand", path.display())]
    NotOurs { path: PathBuf, found: &'static str },
}

impl VolumeProblem {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        VolumeProblem::Io { action, path: path.into(), source: source.into() }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("pod UID {uid:?} cannot name a directory: {why}. Remedy: correct `metadata.uid` in the manifest")]
    BadUid { uid: String, why: &'static str },

    #[error("pod {pod}, volume {volume}: {source}")]
    Volume { pod: PodRef, volume: String, source: Box<VolumeProblem> },

    #[error("pod {pod}, container {container}, volumeMount {volume}: {source}")]
    Mount { pod: PodRef, container: String, volume: String, source: Box<VolumeProblem> },

    #[error("pod {pod}: {source}")]
    PodDir { pod: PodRef, source: Box<VolumeProblem> },

    #[error("volumes of the pod with UID {uid} are not removed: {source}")]
    TearDown { uid: PodUid, source: Box<VolumeProblem> },

    #[error("cannot list the pods' directories: {source}")]
    List { source: Box<VolumeProblem> },
}

/// Mount propagation of a `volumeMount`, in Kubernetes' words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    None,
    HostToContainer,
    Bidirectional,
}

/// One mount of a container, ready for the CRI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeMount {
    /// Absolute path on the node.
    pub host_path: PathBuf,
    /// Absolute path in the container.
    pub container_path: String,
    pub read_only: bool,
    pub propagation: Propagation,
}

/// Makes and removes the volumes of pods below one root directory.
#[derive(Clone, Debug)]
pub struct VolumeManager {
    root_dir: PathBuf,
    node_allocatable_bytes: Option<u64>,
}

impl VolumeManager {
    /// `root_dir` is kubelet's `--root-dir`; it is made when first needed.
    #[must_use]
    pub fn new(root_dir: &Path) -> Self {
        VolumeManager { root_dir: root_dir.to_owned(), node_allocatable_bytes: None }
    }

    /// Bounds memory-backed volumes of pods without a limit of their own, as kubelet does. Without it they are
    /// bounded by tmpfs' default, half of the machine's memory.
    #[must_use]
    pub fn with_node_allocatable_bytes(mut self, bytes: u64) -> Self {
        self.node_allocatable_bytes = Some(bytes);
        self
    }

    /// The pod's directory, whether it is there or not.
    #[must_use]
    pub fn pod_dir(&self, uid: &PodUid) -> PathBuf {
        self.pods_dir().join(uid.as_str().replace(['/', '\0'], "_"))
    }

    /// Makes the pod's directory and volumes, and checks its hostPaths. What is there already stays as it is.
    ///
    /// # Errors
    /// [`VolumeError::BadUid`], [`VolumeError::PodDir`], or [`VolumeError::Volume`] for the first volume that fails.
    pub fn set_up(&self, pod: &Pod) -> Result<(), VolumeError> {
        let who = PodRef::of(pod);
        check_uid(&who.uid)?;
        let pod_dir = self
            .make_pod_dir(&who.uid)
            .map_err(|e| VolumeError::PodDir { pod: who.clone(), source: e.into() })?;
        for volume in volumes(pod) {
            let made = check_label("name", &volume.name).and_then(|()| match Source::of(volume)? {
                Source::EmptyDir(spec) => {
                    let dir = empty_dir::path(&pod_dir, &volume.name);
                    empty_dir::set_up(&dir, &spec, pod, self.node_allocatable_bytes)
                }
                Source::HostPath(spec) => host_path::check(spec),
            });
            made.map_err(|e| VolumeError::Volume {
                pod: who.clone(),
                volume: volume.name.clone(),
                source: e.into(),
            })?;
        }
        Ok(())
    }

    /// The container's mounts, in the order of its `volumeMounts`; [`VolumeManager::set_up`] comes first. Makes
    /// missing `subPath` directories and binds them to a place that the pod cannot change.
    ///
    /// # Errors
    /// [`VolumeError::BadUid`], or [`VolumeError::Mount`] for the first mount that fails.
    pub fn mounts(&self, pod: &Pod, c: &Container) -> Result<Vec<VolumeMount>, VolumeError> {
        let who = PodRef::of(pod);
        check_uid(&who.uid)?;
        let pod_dir = self
            .make_pod_dir(&who.uid)
            .map_err(|e| VolumeError::PodDir { pod: who.clone(), source: e.into() })?;
        let mounts = c.volume_mounts.iter().flatten().enumerate();
        mounts
            .map(|(index, mount)| {
                self.mount(&pod_dir, pod, c, index).map_err(|e| VolumeError::Mount {
                    pod: who.clone(),
                    container: c.name.clone(),
                    volume: mount.name.clone(),
                    source: e.into(),
                })
            })
            .collect()
    }

    /// Unmounts what is mounted below the pod's directory, then deletes it. What a pod's hostPaths point to is
    /// never touched. A pod that has nothing is fine.
    ///
    /// # Errors
    /// [`VolumeError::TearDown`]; when a mount cannot be unmounted, nothing is deleted.
    pub fn tear_down(&self, uid: &PodUid) -> Result<(), VolumeError> {
        check_uid(uid)?;
        let removed = match fs::canonicalize(self.pods_dir()) {
            Ok(pods_dir) => mounts::unmount_below(&pods_dir.join(uid.as_str()))
                .and_then(|()| removal::remove_tree(&pods_dir, uid.as_str())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(VolumeProblem::io("look at", self.pods_dir(), e)),
        };
        removed.map_err(|e| VolumeError::TearDown { uid: uid.clone(), source: e.into() })
    }

    /// Every pod that has a directory, wanted or not.
    ///
    /// # Errors
    /// When the directory of pods cannot be listed.
    pub fn orphans(&self) -> Result<Vec<PodUid>, VolumeError> {
        let dir = self.pods_dir();
        let list = || -> io::Result<Vec<PodUid>> {
            let mut pods = Vec::new();
            for entry in fs::read_dir(&dir)? {
                let entry = entry?;
                // A name that is not UTF-8 cannot be a pod's.
                if let (true, Ok(uid)) = (entry.file_type()?.is_dir(), entry.file_name().into_string()) {
                    pods.push(PodUid::from(uid.as_str()));
                }
            }
            pods.sort_unstable();
            Ok(pods)
        };
        match list() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            result => {
                result.map_err(|e| VolumeError::List { source: VolumeProblem::io("list", &dir, e).into() })
            }
        }
    }

    fn pods_dir(&self) -> PathBuf {
        self.root_dir.join("pods")
    }

    /// With symbolic links in the root directory's own path resolved, as mountinfo shows paths.
    fn make_pod_dir(&self, uid: &PodUid) -> Result<PathBuf, VolumeProblem> {
        make_private_dir(&self.pods_dir())?;
        let pods_dir = fs::canonicalize(self.pods_dir())
            .map_err(|e| VolumeProblem::io("look at", self.pods_dir(), e))?;
        let pod_dir = pods_dir.join(uid.as_str());
        make_private_dir(&pod_dir)?;
        match fs::symlink_metadata(&pod_dir) {
            Ok(meta) if meta.is_dir() => Ok(pod_dir),
            Ok(_) => Err(VolumeProblem::NotOurs { path: pod_dir, found: "something else" }),
            Err(e) => Err(VolumeProblem::io("look at", pod_dir, e)),
        }
    }

    fn mount(
        &self,
        pod_dir: &Path,
        pod: &Pod,
        c: &Container,
        index: usize,
    ) -> Result<VolumeMount, VolumeProblem> {
        let mounts = c.volume_mounts.as_deref().unwrap_or_default();
        let mount = mounts.get(index).ok_or(VolumeProblem::Undeclared)?;
        let volume = volumes(pod).find(|v| v.name == mount.name).ok_or(VolumeProblem::Undeclared)?;
        check_label("volume name", &volume.name)?;
        let source = match Source::of(volume)? {
            Source::EmptyDir(_) => empty_dir::path(pod_dir, &volume.name),
            Source::HostPath(spec) => {
                host_path::check(spec)?;
                PathBuf::from(&spec.path)
            }
        };
        if mount.sub_path_expr.as_deref().is_some_and(|s| !s.is_empty()) {
            return Err(unsupported("`subPathExpr`", "use `subPath` with the value written out"));
        }
        if mount.recursive_read_only.as_deref() == Some("Enabled") {
            return Err(unsupported(
                "`recursiveReadOnly: Enabled`",
                "`IfPossible`, or `readOnly: true` alone",
            ));
        }
        let host_path = match mount.sub_path.as_deref().filter(|s| !s.is_empty()) {
            None => source,
            Some(sub_path) => {
                check_label("container name", &c.name)?;
                let place = pod_dir.join("volume-subpaths").join(&volume.name).join(&c.name);
                sub_path::bind(&source, sub_path, &place, index)?
            }
        };
        let container_path = match mount.mount_path.as_str() {
            "" => return Err(invalid("mountPath", "", "it is empty")),
            path if path.starts_with('/') => path.to_owned(),
            // As kubelet completes it.
            path => format!("/{path}"),
        };
        Ok(VolumeMount {
            host_path,
            container_path,
            read_only: mount.read_only.unwrap_or(false),
            propagation: propagation(mount.mount_propagation.as_deref(), c)?,
        })
    }
}

/// The volume types that this agent has.
enum Source<'a> {
    EmptyDir(k8s_openapi::api::core::v1::EmptyDirVolumeSource),
    HostPath(&'a k8s_openapi::api::core::v1::HostPathVolumeSource),
}

impl<'a> Source<'a> {
    fn of(volume: &'a Volume) -> Result<Self, VolumeProblem> {
        let rest = Volume { name: String::new(), empty_dir: None, host_path: None, ..volume.clone() };
        if rest != Volume::default() {
            // The manifest's own name of the type: the one key beside `name`.
            let json = serde_json::to_value(&rest).unwrap_or_default();
            let kind = json.as_object().and_then(|o| o.keys().find(|k| *k != "name").cloned());
            let what = format!("a volume of type `{}`", kind.unwrap_or_default());
            return Err(VolumeProblem::Unsupported { what, remedy: "emptyDir or hostPath, or another node" });
        }
        match (&volume.host_path, &volume.empty_dir) {
            (Some(host_path), None) => Ok(Source::HostPath(host_path)),
            // No source at all means emptyDir, as the API server defaults it.
            (None, spec) => Ok(Source::EmptyDir(spec.clone().unwrap_or_default())),
            (Some(_), Some(_)) => Err(invalid("volume", &volume.name, "it has two types; leave one")),
        }
    }
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten())
}

fn propagation(value: Option<&str>, c: &Container) -> Result<Propagation, VolumeProblem> {
    match value {
        None | Some("" | "None") => Ok(Propagation::None),
        Some("HostToContainer") => Ok(Propagation::HostToContainer),
        Some("Bidirectional") => {
            let privileged = c.security_context.as_ref().and_then(|s| s.privileged).unwrap_or(false);
            if privileged {
                Ok(Propagation::Bidirectional)
            } else {
                Err(invalid("mountPropagation", "Bidirectional", "only a privileged container may have it"))
            }
        }
        Some(other) => {
            Err(invalid("mountPropagation", other, "it must be None, HostToContainer or Bidirectional"))
        }
    }
}

fn check_uid(uid: &PodUid) -> Result<(), VolumeError> {
    oomlet_core::cgroup::names::check_uid(uid)
        .map_err(|why| VolumeError::BadUid { uid: uid.to_string(), why })
}

/// A DNS-1123 label, which Kubernetes requires of volume and container names; nothing of it can leave a directory.
fn check_label(field: &'static str, name: &str) -> Result<(), VolumeProblem> {
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    if name.is_empty() || name.len() > 63 || !name.as_bytes().iter().all(inner) || name.starts_with('-') {
        let why = "it must be a DNS label: at most 63 of a-z, 0-9 and -, not starting with -";
        return Err(invalid(field, name, why));
    }
    Ok(())
}

fn invalid(field: &'static str, value: &str, why: &'static str) -> VolumeProblem {
    VolumeProblem::Invalid { field, value: value.to_owned(), why }
}

fn unsupported(what: &str, remedy: &'static str) -> VolumeProblem {
    VolumeProblem::Unsupported { what: what.to_owned(), remedy }
}

/// 0750, kubelet's mode: what pods keep there is not everybody's to read.
fn make_private_dir(dir: &Path) -> Result<(), VolumeProblem> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(dir);
    made.map_err(|e| VolumeProblem::io("make the directory", dir, e))
}

#[cfg(test)]
mod tests;
