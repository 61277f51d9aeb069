//! emptyDir: a directory of the pod's own, on disk or (`medium: Memory`) a tmpfs. It appears under its name
//! only when its mode and group are right, so that an agent killed half-way leaves nothing half-made.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{VolumeProblem, invalid, make_private_dir, mounts};
use oomlet_core::pod::Pod;
use oomlet_core::quantity::parse_bytes;

/// Everybody may write: the pod's containers may run as any user (kubelet's `perm` of emptyDir).
const MODE: u32 = 0o777;

/// The mode that a tmpfs has by itself, and that kubelet leaves it: in memory nobody removes the files of another user.
const STICKY: u32 = 0o1000;

/// New files get the directory's group.
const SETGID: u32 = 0o2000;

/// Where kubelet puts it.
#[must_use]
pub fn path(pod_dir: &Path, name: &str) -> PathBuf {
    pod_dir.join("volumes/kubernetes.io~empty-dir").join(name)
}

/// Makes the volume at `dir`; leaves one that is there as it is.
///
/// # Errors
/// For `medium: HugePages`, a wrong `sizeLimit`, or when a file operation fails.
pub fn set_up(
    dir: &Path,
    spec: &EmptyDirVolumeSource,
    pod: &Pod,
    node_allocatable_bytes: Option<u64>,
) -> Result<(), VolumeProblem> {
    let group = fs_group(pod)?;
    let in_memory = match spec.medium.as_deref() {
        None | Some("") => false,
        Some("Memory") => true,
        Some(other) if other.starts_with("HugePages") => {
            return Err(VolumeProblem::Unsupported {
                what: format!("emptyDir with `medium: {other}`"),
                remedy: "`medium: Memory`, or a node with huge page support",
            });
        }
        Some(other) => return Err(invalid("medium", other, "it must be empty or Memory")),
    };
    let size_limit = spec.size_limit.as_ref().map(|q| bytes("sizeLimit", q)).transpose()?;
    let parent = dir.parent().unwrap_or(dir);
    make_private_dir(parent)?;
    match fs::symlink_metadata(dir) {
        Ok(meta) if !meta.is_dir() => {
            return Err(VolumeProblem::NotOurs { path: dir.to_owned(), found: "a file or a symbolic link" });
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => make(dir, parent, group)?,
        Err(e) => return Err(VolumeProblem::io("look at", dir, e)),
    }
    if in_memory && !mounts::is_mount_point(dir)? {
        mount_tmpfs(dir, group, tmpfs_size(size_limit, pod_memory_limit(pod)?, node_allocatable_bytes))?;
    }
    Ok(())
}

/// kubelet's `calculateEmptyDirMemorySize` (SizeMemoryBackedVolumes, on since 1.22): the smallest of what the
/// volume, the pod and the node allow. Zero means not set.
fn tmpfs_size(size_limit: Option<u64>, pod_limit: Option<u64>, node_allocatable: Option<u64>) -> Option<u64> {
    [size_limit, pod_limit, node_allocatable].into_iter().flatten().filter(|b| *b > 0).min()
}

/// Under a name that no volume can have, then renamed.
fn make(dir: &Path, parent: &Path, group: Option<u32>) -> Result<(), VolumeProblem> {
    let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let new = parent.join(format!(".{name}.new"));
    let failed = |action: &'static str| {
        let new = new.clone();
        move |e: io::Error| VolumeProblem::io(action, new, e)
    };
    match fs::create_dir(&new) {
        // Left by an agent that was killed here; still empty.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(failed("make the directory"))?,
    }
    if group.is_some() {
        chown(&new, None, group).map_err(failed("give fsGroup the directory"))?;
    }
    fs::set_permissions(&new, Permissions::from_mode(mode(group))).map_err(failed("set the mode of"))?;
    fs::rename(&new, dir).map_err(failed("rename to its place"))
}

fn mount_tmpfs(dir: &Path, group: Option<u32>, size_bytes: Option<u64>) -> Result<(), VolumeProblem> {
    let mut options = format!("mode={:o}", mode(group) | STICKY);
    if let Some(gid) = group {
        options.push_str(&format!(",gid={gid}"));
    }
    if let Some(size) = size_bytes {
        options.push_str(&format!(",size={size}"));
    }
    // Out of swap, as with kubelet.
    mounts::mount_tmpfs(dir, &options)
}

const fn mode(group: Option<u32>) -> u32 {
    if group.is_some() { MODE | SETGID } else { MODE }
}

fn fs_group(pod: &Pod) -> Result<Option<u32>, VolumeProblem> {
    let group = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|c| c.fs_group);
    group
        .map(|g| u32::try_from(g).map_err(|_| invalid("fsGroup", &g.to_string(), "it is not a group id")))
        .transpose()
}

/// What all containers of the pod together may use, if each has a limit: the sum over those that run at the same
/// time, or the largest init container with the sidecars before it (kubelet's `ResourceConfigForPod`).
fn pod_memory_limit(pod: &Pod) -> Result<Option<u64>, VolumeProblem> {
    let Some(spec) = &pod.spec else { return Ok(None) };
    let mut sum = 0u64;
    for c in &spec.containers {
        let Some(limit) = memory_limit(c)? else { return Ok(None) };
        sum = sum.saturating_add(limit);
    }
    let mut sidecars = 0u64;
    let mut largest_init = 0u64;
    for c in spec.init_containers.iter().flatten() {
        let Some(limit) = memory_limit(c)? else { return Ok(None) };
        if c.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.saturating_add(limit);
            largest_init = largest_init.max(sidecars);
        } else {
            largest_init = largest_init.max(sidecars.saturating_add(limit));
        }
    }
    Ok(Some(sum.saturating_add(sidecars).max(largest_init)))
}

fn memory_limit(c: &Container) -> Result<Option<u64>, VolumeProblem> {
    let limits = c.resources.as_ref().and_then(|r| r.limits.as_ref());
    let limit = limits.and_then(|l| l.get("memory")).map(|q| bytes("limits.memory", q)).transpose()?;
    Ok(limit.filter(|l| *l > 0))
}

fn bytes(field: &'static str, quantity: &Quantity) -> Result<u64, VolumeProblem> {
    parse_bytes(&quantity.0).map_err(|_| invalid(field, &quantity.0, "it is not a size, such as 64Mi"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let check = |text: &str, want: Option<u64>| {
            assert_eq!(bytes("sizeLimit", &Quantity(text.into())).ok(), want, "{text}");
        };
        check("64Mi", Some(64 << 20));
        check("1.5Gi", Some(3 << 29));
        check("1000", Some(1000));
        check("1k", Some(1000));
        check("-1", None);
        check("much", None);
        check("", None);
    }

    #[test]
    fn tmpfs_sizes() {
        let check = |size, pod, node, want| assert_eq!(tmpfs_size(size, pod, node), want);
        check(None, None, None, None);
        check(Some(10), None, None, Some(10));
        check(Some(10), Some(5), Some(100), Some(5));
        check(Some(0), Some(5), None, Some(5));
        check(None, None, Some(100), Some(100));
    }

    #[test]
    fn pod_limits() {
        let check = |spec: serde_json::Value, want: Option<u64>| {
            let pod: Pod = serde_json::from_value(serde_json::json!({"spec": spec})).unwrap();
            assert_eq!(pod_memory_limit(&pod).unwrap(), want, "{spec}");
        };
        let c = |limit: u64| serde_json::json!({"name": "c", "resources": {"limits": {"memory": limit.to_string()}}});
        let sidecar = |limit: u64| {
            let mut c = c(limit);
            c["restartPolicy"] = "Always".into();
            c
        };
        let free = serde_json::json!({"name": "free"});
        check(serde_json::json!({"containers": [c(3), c(4)]}), Some(7));
        check(serde_json::json!({"containers": [c(3), free.clone()]}), None);
        check(serde_json::json!({"containers": [c(3)], "initContainers": [c(9)]}), Some(9));
        check(serde_json::json!({"containers": [c(3)], "initContainers": [sidecar(2), c(9)]}), Some(11));
        check(serde_json::json!({"containers": [c(3)], "initContainers": [c(2), sidecar(2)]}), Some(5));
        check(serde_json::json!({"containers": [c(3)], "initContainers": [free]}), None);
    }
}
