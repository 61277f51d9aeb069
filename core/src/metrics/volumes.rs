//! `kubelet_volume_stats_…`: the volumes that are PersistentVolumeClaims', each claim once; and how much of the disk the logs
//! of containers take.

use std::collections::BTreeSet;

use prometheus::proto::MetricFamily;

use super::family::{Family, Kind, finish, label, number};
use crate::stats::numbers::{FsUse, Node};

type Column = (&'static str, &'static str, fn(&FsUse) -> Option<u64>);

const COLUMNS: [Column; 6] = [
    ("kubelet_volume_stats_available_bytes", "[ALPHA] Number of available bytes in the volume", |fs| {
        fs.available_bytes
    }),
    ("kubelet_volume_stats_capacity_bytes", "[ALPHA] Capacity in bytes of the volume", |fs| {
        fs.capacity_bytes
    }),
    ("kubelet_volume_stats_inodes", "[ALPHA] Maximum number of inodes in the volume", |fs| fs.inodes),
    ("kubelet_volume_stats_inodes_free", "[ALPHA] Number of free inodes in the volume", |fs| fs.inodes_free),
    ("kubelet_volume_stats_inodes_used", "[ALPHA] Number of used inodes in the volume", |fs| fs.inodes_used),
    ("kubelet_volume_stats_used_bytes", "[ALPHA] Number of used bytes in the volume", |fs| fs.used_bytes),
];

#[must_use]
pub fn families(node: &Node) -> Vec<MetricFamily> {
    let mut families = COLUMNS.map(|(name, help, _)| Family::new(Kind::Gauge, name, help));
    let mut told = BTreeSet::new();
    for pod in node.pods.values() {
        for (volume, claim) in pod.volumes.iter().filter_map(|v| Some((v, v.claim.as_ref()?))) {
            if !told.insert((&pod.pod.namespace, claim)) {
                continue;
            }
            for ((_, _, of), family) in COLUMNS.iter().zip(&mut families) {
                if let Some(value) = of(&volume.fs) {
                    let labels =
                        vec![label("namespace", &pod.pod.namespace), label("persistentvolumeclaim", claim)];
                    family.push(labels, number(value), None);
                }
            }
        }
    }
    let mut logs = Family::new(
        Kind::Gauge,
        "kubelet_container_log_filesystem_used_bytes",
        "[ALPHA] Bytes used by the container's logs on the filesystem.",
    );
    for (uid, pod) in &node.pods {
        for container in &pod.containers {
            let Some(used) = container.logs.as_ref().and_then(|logs| logs.used_bytes) else { continue };
            let labels = vec![
                label("container", &container.name),
                label("namespace", &pod.pod.namespace),
                label("pod", &pod.pod.name),
                label("uid", uid.as_str()),
            ];
            logs.push(labels, number(used), None);
        }
    }
    finish(families.into_iter().chain([logs]))
}
