//! Volumes of pods: owns `<root>/pods/<uid>`, makes what a pod's manifest asks for there, tells where a
//! container's mounts come from, and removes it all again. Shell: no decisions beyond the manifest's.
//!
//! - [`empty_dir`]: emptyDir on disk and in memory.
//! - [`host_path`]: hostPath and its type checks.
//! - `config_map`, `secret`, `projected`, `downward_api`: volumes whose files the agent writes, by [`atomic_writer`];
//!   `source` has the trait they share.
//! - [`contents`]: gets what they are made from and keeps it up to date while a pod runs.
//! - `container_mounts`: what of them a container sees, and where.
//! - `env_file`: reading the files that environments are made from.
//! - [`sub_path`]: `subPath` below a volume, without ever leaving it.
//! - [`mounts`]: what is mounted below a directory, and unmounting it.
//! - [`removal`]: deleting a tree that a pod could write to.
//! - `oomlet_core::mountinfo`: the parser.
//!
//! Layout, kubelet's: `volumes/kubernetes.io~empty-dir/<name>` and `volume-subpaths/<volume>/<container>/<index>`
//! below the pod's directory. All calls block; a caller in async code uses `spawn_blocking`.

pub mod atomic_writer;
mod config_map;
mod container_mounts;
pub mod contents;
mod downward_api;
pub mod empty_dir;
mod env_file;
mod error;
pub mod host_path;
pub mod mounts;
mod projected;
pub mod removal;
mod secret;
mod source;
pub mod sub_path;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Volume};

use crate::clock;
use crate::instruments::storage::StorageOperations;
use oomlet_core::metrics::pods::plugin;
use oomlet_core::pod::env::file::{EnvFile, EnvFiles};
use oomlet_core::pod::env::files;
use oomlet_core::pod::{Pod, PodRef, PodUid};
use oomlet_core::volume::Content;

pub use container_mounts::{Propagation, VolumeMount};
pub use error::{VolumeError, VolumeProblem};
use source::Source;

/// Makes and removes the volumes of pods below one root directory.
#[derive(Clone, Debug)]
pub struct VolumeManager {
    root_dir: PathBuf,
    node_allocatable_bytes: Option<u64>,
    operations: StorageOperations,
    /// The runtime makes mounts read-only with all that is mounted below them.
    recursive_read_only: bool,
}

impl VolumeManager {
    /// `root_dir` is kubelet's `--root-dir`; it is made when first needed.
    #[must_use]
    pub fn new(root_dir: &Path) -> Self {
        VolumeManager {
            root_dir: root_dir.to_owned(),
            node_allocatable_bytes: None,
            operations: StorageOperations::default(),
            recursive_read_only: false,
        }
    }

    /// Whether the runtime has `recursiveReadOnly`.
    #[must_use]
    pub fn with_recursive_read_only(mut self, supported: bool) -> Self {
        self.recursive_read_only = supported;
        self
    }

    /// Bounds memory-backed volumes of pods without a limit of their own, as kubelet does. Without it they are
    /// bounded by tmpfs' default, half of the machine's memory.
    #[must_use]
    pub fn with_node_allocatable_bytes(mut self, bytes: u64) -> Self {
        self.node_allocatable_bytes = Some(bytes);
        self
    }

    /// Whose work is timed with these.
    #[must_use]
    pub fn timed(mut self, operations: StorageOperations) -> Self {
        self.operations = operations;
        self
    }

    /// The pod's directory, whether it is there or not.
    #[must_use]
    pub fn pod_dir(&self, uid: &PodUid) -> PathBuf {
        self.pods_dir().join(uid.as_str().replace(['/', '\0'], "_"))
    }

    /// Makes the pod's directory and volumes, and checks its hostPaths. What is there already stays as it is, but for files
    /// that the agent writes: those become what `content` says. Whether old ones are left for [`VolumeManager::sweep`].
    ///
    /// # Errors
    /// [`VolumeError::BadUid`], [`VolumeError::PodDir`], or [`VolumeError::Volume`] for the first volume that fails.
    pub fn set_up(&self, pod: &Pod, content: &Content) -> Result<bool, VolumeError> {
        let who = PodRef::of(pod);
        check_uid(&who.uid)?;
        let pod_dir = self
            .make_pod_dir(&who.uid)
            .map_err(|e| VolumeError::PodDir { pod: who.clone(), source: e.into() })?;
        let mut leftovers = false;
        for volume in volumes(pod) {
            let began = clock::now();
            let made = check_label("name", &volume.name)
                .and_then(|()| self.set_up_one(&pod_dir, volume, pod, content));
            let took = clock::now().since(began);
            self.operations.ended(plugin(volume), "volume_mount", made.is_ok(), took);
            leftovers |= made.map_err(|e| failed(&who, volume, e))?;
        }
        Ok(leftovers)
    }

    fn set_up_one(
        &self,
        pod_dir: &Path,
        volume: &Volume,
        pod: &Pod,
        content: &Content,
    ) -> Result<bool, VolumeProblem> {
        let source = Source::of(volume)?;
        match (&source, source.path(pod_dir, &volume.name)) {
            (Source::HostPath(spec), _) => host_path::check(spec).map(|()| false),
            (Source::EmptyDir(spec), Some(dir)) => {
                empty_dir::set_up(&dir, spec, pod, self.node_allocatable_bytes).map(|()| false)
            }
            (Source::Content(kind), Some(dir)) => {
                source::write(*kind, &dir, pod, content, self.node_allocatable_bytes)
            }
            (Source::EmptyDir(_) | Source::Content(_), None) => Ok(false),
        }
    }

    /// Brings the files that the agent writes up to date in a pod whose volumes are there. Whether old ones are left to
    /// be swept, and what failed; the other volumes are done all the same.
    #[must_use]
    pub fn refresh(&self, pod: &Pod, content: &Content) -> (bool, Vec<VolumeError>) {
        let (who, mut leftovers, mut errors) = (PodRef::of(pod), false, Vec::new());
        for (volume, dir) in self.content_dirs(pod) {
            let Ok(Source::Content(kind)) = Source::of(volume) else { continue };
            match source::write(kind, &dir, pod, content, self.node_allocatable_bytes) {
                Ok(left) => leftovers |= left,
                Err(e) => errors.push(failed(&who, volume, e)),
            }
        }
        (leftovers, errors)
    }

    /// Deletes the files that were replaced, once nobody can be on the way to one.
    ///
    /// # Errors
    /// For the first volume that keeps some.
    pub fn sweep(&self, pod: &Pod) -> Result<(), VolumeError> {
        let who = PodRef::of(pod);
        self.content_dirs(pod)
            .try_for_each(|(volume, dir)| source::sweep(&dir).map_err(|e| failed(&who, volume, e)))
    }

    /// Volumes whose files the agent writes, and where they are.
    fn content_dirs<'a>(&self, pod: &'a Pod) -> impl Iterator<Item = (&'a Volume, PathBuf)> {
        let pod_dir = fs::canonicalize(self.pod_dir(&PodRef::of(pod).uid)).ok();
        volumes(pod).filter(|v| check_label("name", &v.name).is_ok()).filter_map(move |volume| {
            let source = Source::of(volume).ok().filter(|s| matches!(s, Source::Content(_)))?;
            Some((volume, source.path(pod_dir.as_deref()?, &volume.name)?))
        })
    }

    /// The files that the container's environment is made from, as they are now. What is wrong with one is told by what is
    /// made of it.
    #[must_use]
    pub fn env_files(&self, pod: &Pod, c: &Container) -> EnvFiles {
        let pod_dir = self.pod_dir(&PodRef::of(pod).uid);
        let dir = |name: &str| {
            let volume = volumes(pod).find(|v| v.name == name && check_label("name", &v.name).is_ok())?;
            match Source::of(volume).ok()? {
                Source::HostPath(spec) => Some(PathBuf::from(&spec.path)),
                source => source.path(&pod_dir, name),
            }
        };
        let read = |(volume, path): (&str, &str)| {
            let file = dir(volume).map_or(EnvFile::NoVolume, |dir| env_file::read(&dir, path));
            ((volume.to_owned(), path.to_owned()), file)
        };
        files(c).map(read).collect()
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

    /// The pod's volumes that have a directory of their own below the pod's, and where.
    #[must_use]
    pub fn dirs<'a>(&self, pod: &'a Pod) -> Vec<(&'a Volume, PathBuf)> {
        let pod_dir = self.pod_dir(&PodRef::of(pod).uid);
        let dir = |volume: &'a Volume| {
            check_label("name", &volume.name).ok()?;
            Some((volume, Source::of(volume).ok()?.path(&pod_dir, &volume.name)?))
        };
        volumes(pod).filter_map(dir).collect()
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
}

fn failed(pod: &PodRef, volume: &Volume, problem: VolumeProblem) -> VolumeError {
    VolumeError::Volume { pod: pod.clone(), volume: volume.name.clone(), source: problem.into() }
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten())
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

/// 0750, kubelet's mode: what pods keep there is not everybody's to read.
fn make_private_dir(dir: &Path) -> Result<(), VolumeProblem> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(dir);
    made.map_err(|e| VolumeProblem::io("make the directory", dir, e))
}

#[cfg(test)]
mod tests;
