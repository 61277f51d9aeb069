//! Pods that exceed a limit of their own: an emptyDir's `sizeLimit`, a container's limit of `ephemeral-storage`, or the
//! sum of those. kubelet's `localStorageEviction`, with its messages.

use super::ResourceCandidate;
use super::reading::PodUse;

/// The first limit that is exceeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    pub message: String,
    pub usage_bytes: u64,
    pub limit_bytes: u64,
}

/// `shared`: nodefs and imagefs are one. Only then a container's writable layer counts against the container's limit;
/// against the pod's it always does.
#[must_use]
pub fn exceeded(candidate: &ResourceCandidate, used: &PodUse, shared: bool) -> Option<Exceeded> {
    let over = |usage_bytes: u64, limit_bytes: u64, message: String| {
        (usage_bytes > limit_bytes).then_some(Exceeded { message, usage_bytes, limit_bytes })
    };
    let volumes = || {
        candidate.empty_dirs.iter().find_map(|dir| {
            let (name, limit) = (&dir.name, dir.limit.as_ref()?);
            let message = format!("Usage of EmptyDir volume {name:?} exceeds the limit {:?}. ", limit.text);
            over(used.volumes.get(name)?.bytes, limit.bytes, message)
        })
    };
    let pod = || {
        let limit = candidate.limit.as_ref()?;
        let message = format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
            limit.text
        );
        over(used.ephemeral_storage().bytes, limit.bytes, message)
    };
    let containers = || {
        candidate.containers.iter().find_map(|c| {
            let (disk, limit) = (used.containers.get(&c.name)?, c.limit.as_ref()?);
            let layer = if shared { disk.writable_layer.bytes } else { 0 };
            let message =
                format!("Container {} exceeded its local ephemeral storage limit {:?}. ", c.name, limit.text);
            over(disk.logs.bytes.saturating_add(layer), limit.bytes, message)
        })
    };
    volumes().or_else(pod).or_else(containers)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::eviction::resources::reading::{ContainerDisk, DiskUse};

    fn used(volume_mib: u64, layer_mib: u64, log_mib: u64) -> PodUse {
        let mib = |mib: u64| DiskUse { bytes: mib << 20, inodes: 1 };
        let main = ContainerDisk { writable_layer: mib(layer_mib), logs: mib(log_mib) };
        PodUse {
            volumes: [("data".to_owned(), mib(volume_mib))].into(),
            containers: [("main".to_owned(), main)].into(),
            logs: mib(log_mib),
            ..PodUse::default()
        }
    }

    #[test]
    fn limits() {
        let limit = |mib: &str| json!({"limits": {"ephemeral-storage": mib}});
        let pod = |volume: &str, main: &str, side: &str| {
            let mut spec = json!({
                "containers": [{"name": "main"}, {"name": "side"}],
                "volumes": [{"name": "data", "emptyDir": {}}],
            });
            if !volume.is_empty() {
                spec["volumes"][0]["emptyDir"]["sizeLimit"] = json!(volume);
            }
            for (index, text) in [main, side].into_iter().enumerate().filter(|(_, text)| !text.is_empty()) {
                spec["containers"][index]["resources"] = limit(text);
            }
            ResourceCandidate::of(&serde_json::from_value(json!({ "spec": spec })).unwrap())
        };
        let volume = "Usage of EmptyDir volume \"data\" exceeds the limit \"10Mi\". ";
        let container = "Container main exceeded its local ephemeral storage limit \"10Mi\". ";
        let total = "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. ";
        for (what, pod, used, shared, want) in [
            ("no limits", pod("", "", ""), used(900, 900, 900), true, None),
            ("exactly at its limit", pod("10Mi", "", ""), used(10, 0, 0), true, None),
            ("an emptyDir", pod("10Mi", "", ""), used(11, 0, 0), true, Some(volume)),
            ("which is told first", pod("10Mi", "10Mi", ""), used(11, 11, 0), true, Some(volume)),
            ("the pod, by its volume", pod("", "10Mi", ""), used(11, 0, 0), true, Some(total)),
            ("the pod, by all together", pod("", "10Mi", ""), used(4, 4, 3), true, Some(total)),
            ("the pod, on two disks", pod("", "10Mi", ""), used(0, 11, 0), false, Some(total)),
            ("a container", pod("", "10Mi", "90Mi"), used(0, 6, 5), true, Some(container)),
            ("its logs alone", pod("", "10Mi", "90Mi"), used(0, 0, 11), false, Some(container)),
            ("its layer on a disk of its own", pod("", "10Mi", "90Mi"), used(0, 11, 0), false, None),
            ("another container's limit", pod("", "", "90Mi"), used(0, 11, 0), true, None),
        ] {
            let got = exceeded(&pod, &used, shared).map(|e| e.message);
            assert_eq!(got.as_deref(), want, "{what}");
        }
    }
}
