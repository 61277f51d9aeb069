//! What of a pod's volumes a container sees, and where.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Container;

use super::source::Source;
use super::{
    VolumeError, VolumeManager, VolumeProblem, check_label, check_uid, host_path, invalid, sub_path, volumes,
};
use oomlet_core::pod::env::{Env, expand_sub_path};
use oomlet_core::pod::spec::recursive_read_only;
use oomlet_core::pod::{Pod, PodRef};

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
    /// With all that is mounted below it.
    pub recursive_read_only: bool,
    pub propagation: Propagation,
}

impl VolumeManager {
    /// The container's mounts, in the order of its `volumeMounts`; [`VolumeManager::set_up`] comes first. Makes
    /// missing `subPath` directories and binds them to a place that the pod cannot change. `env` is the container's, for
    /// `subPathExpr`.
    ///
    /// # Errors
    /// [`VolumeError::BadUid`], or [`VolumeError::Mount`] for the first mount that fails.
    pub fn mounts(&self, pod: &Pod, c: &Container, env: &Env) -> Result<Vec<VolumeMount>, VolumeError> {
        let who = PodRef::of(pod);
        check_uid(&who.uid)?;
        let pod_dir = self
            .make_pod_dir(&who.uid)
            .map_err(|e| VolumeError::PodDir { pod: who.clone(), source: e.into() })?;
        let mounts = c.volume_mounts.iter().flatten().enumerate();
        mounts
            .map(|(index, mount)| {
                self.mount(&pod_dir, pod, (c, env), index).map_err(|e| VolumeError::Mount {
                    pod: who.clone(),
                    container: c.name.clone(),
                    volume: mount.name.clone(),
                    source: e.into(),
                })
            })
            .collect()
    }

    fn mount(
        &self,
        pod_dir: &Path,
        pod: &Pod,
        (c, env): (&Container, &Env),
        index: usize,
    ) -> Result<VolumeMount, VolumeProblem> {
        let mounts = c.volume_mounts.as_deref().unwrap_or_default();
        let mount = mounts.get(index).ok_or(VolumeProblem::Undeclared)?;
        let volume = volumes(pod).find(|v| v.name == mount.name).ok_or(VolumeProblem::Undeclared)?;
        check_label("volume name", &volume.name)?;
        let kind = Source::of(volume)?;
        let source = match (&kind, kind.path(pod_dir, &volume.name)) {
            (_, Some(dir)) => dir,
            (Source::HostPath(spec), None) => {
                host_path::check(spec)?;
                PathBuf::from(&spec.path)
            }
            (Source::EmptyDir(_) | Source::Content(_), None) => return Err(VolumeProblem::Undeclared),
        };
        let sub_path = match mount.sub_path_expr.as_deref().filter(|s| !s.is_empty()) {
            None => mount.sub_path.clone(),
            Some(expr) => Some(
                expand_sub_path(expr, env)
                    .map_err(|why| VolumeProblem::SubPathExpr { expr: expr.to_owned(), why })?,
            ),
        };
        let recursive_read_only =
            recursive_read_only(mount, self.recursive_read_only).map_err(VolumeProblem::RecursiveReadOnly)?;
        let host_path = match sub_path.as_deref().filter(|s| !s.is_empty()) {
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
            // What the agent writes is nobody else's to write (`ReadOnly` among a volume's attributes).
            read_only: mount.read_only.unwrap_or(false) || matches!(kind, Source::Content(_)),
            recursive_read_only,
            propagation: propagation(mount.mount_propagation.as_deref(), c)?,
        })
    }
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
