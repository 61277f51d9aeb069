//! What can be wrong with a volume or a mount.

use std::io;
use std::path::PathBuf;

use oomlet_core::pod::{PodRef, PodUid};
use oomlet_core::volume::PayloadError;

/// What is wrong with one volume or mount; [`VolumeError`] says whose.
#[derive(Debug, thiserror::Error)]
pub enum VolumeProblem {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error(transparent)]
    Payload(#[from] PayloadError),

    #[error("subPathExpr {expr:?}: {why}; set the variable in the container's `env`")]
    SubPathExpr { expr: String, why: String },

    #[error("{0}. Remedy: `readOnly: true`, and `recursiveReadOnly: IfPossible` or without it")]
    RecursiveReadOnly(String),

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

    /// In kubelet's words.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
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
