//! The types of volumes that this agent has. Those whose files it writes itself are behind one trait, a module a type.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, Volume};

use super::{VolumeProblem, atomic_writer, empty_dir, invalid};
use oomlet_core::pod::Pod;
use oomlet_core::volume::{Content, Payload, PayloadError, fs_group};

/// A volume whose files the agent writes, and rewrites when their source changes.
pub(super) trait ContentVolume {
    /// The directory that volumes of this type are in, below the pod's `volumes`.
    fn plugin(&self) -> &'static str;

    /// On a tmpfs, so that nothing of it reaches a disk.
    fn in_memory(&self) -> bool;

    /// `name`: the volume's.
    ///
    /// # Errors
    /// What it is made from is not there, or cannot be what it says.
    fn payload(&self, name: &str, pod: &Pod, content: &Content) -> Result<Payload, PayloadError>;
}

pub(super) enum Source<'a> {
    EmptyDir(EmptyDirVolumeSource),
    HostPath(&'a HostPathVolumeSource),
    Content(&'a dyn ContentVolume),
}

impl<'a> Source<'a> {
    pub(super) fn of(volume: &'a Volume) -> Result<Self, VolumeProblem> {
        let contents: [Option<&dyn ContentVolume>; 4] = [
            volume.config_map.as_ref().map(|v| v as &dyn ContentVolume),
            volume.secret.as_ref().map(|v| v as &dyn ContentVolume),
            volume.projected.as_ref().map(|v| v as &dyn ContentVolume),
            volume.downward_api.as_ref().map(|v| v as &dyn ContentVolume),
        ];
        let sources =
            [volume.empty_dir.clone().map(Source::EmptyDir), volume.host_path.as_ref().map(Source::HostPath)];
        let contents = contents.into_iter().flatten().map(Source::Content);
        let mut known = sources.into_iter().flatten().chain(contents);
        match (known.next(), known.next()) {
            (Some(_), Some(_)) => Err(invalid("volume", &volume.name, "it has two types; leave one")),
            (Some(source), None) => Ok(source),
            (None, _) => match other_type(volume) {
                Some(kind) => Err(VolumeProblem::Unsupported {
                    what: format!("a volume of type `{kind}`"),
                    remedy: "emptyDir, hostPath, configMap, secret, projected or downwardAPI, or another node",
                }),
                // No source at all means emptyDir, as the API server defaults it.
                None => Ok(Source::EmptyDir(EmptyDirVolumeSource::default())),
            },
        }
    }

    /// Where it is, if it is below the pod's directory.
    pub(super) fn path(&self, pod_dir: &Path, name: &str) -> Option<PathBuf> {
        match self {
            Source::EmptyDir(_) => Some(empty_dir::path(pod_dir, name)),
            Source::Content(volume) => Some(pod_dir.join("volumes").join(volume.plugin()).join(name)),
            Source::HostPath(_) => None,
        }
    }
}

/// The manifest's own name of the type: the one key beside `name`.
fn other_type(volume: &Volume) -> Option<String> {
    let json = serde_json::to_value(volume).unwrap_or_default();
    json.as_object().and_then(|o| o.keys().find(|k| *k != "name").cloned())
}

/// Makes the volume at `dir`, an emptyDir underneath as with kubelet, with its files as they are to be now. Whether old ones
/// are left to be swept.
pub(super) fn write(
    volume: &dyn ContentVolume,
    dir: &Path,
    pod: &Pod,
    content: &Content,
    node_allocatable_bytes: Option<u64>,
) -> Result<bool, VolumeProblem> {
    // First: without content there is no volume.
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let payload = volume.payload(name, pod, content)?;
    let medium = volume.in_memory().then(|| "Memory".to_owned());
    let wrapped = EmptyDirVolumeSource { medium, ..EmptyDirVolumeSource::default() };
    empty_dir::set_up(dir, &wrapped, pod, node_allocatable_bytes)?;
    atomic_writer::write(dir, &payload, fs_group(pod))
}

/// Deletes what a write has left.
pub(super) fn sweep(dir: &Path) -> Result<(), VolumeProblem> {
    match atomic_writer::sweep(dir) {
        // The pod has gone meanwhile.
        Err(VolumeProblem::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        swept => swept,
    }
}
