//! The message of a pod evicted for disk or process ids, in kubelet's wording (`evictionMessage`,
//! pkg/kubelet/eviction/helpers.go).

use std::fmt::Write as _;

use super::pressure::Observed;
use super::reading::PodUse;
use super::{Resource, ResourceCandidate, ResourceSignal};
use crate::eviction::threshold::{Threshold, ThresholdValue};
use crate::quantity::{format_bytes, format_count};

pub(super) fn eviction_message(
    candidate: &ResourceCandidate,
    threshold: &Threshold<ResourceSignal>,
    observed: Observed,
    used: Option<&PodUse>,
) -> String {
    let resource = threshold.signal.resource();
    let mut text = format!("The node was low on resource: {}. ", resource.as_str());
    let _ = write!(
        text,
        "Threshold quantity: {}, available: {}. ",
        threshold_text(threshold, observed.threshold),
        available_text(resource, observed.available)
    );
    // kubelet says this of bytes alone: inodes and process ids have no requests.
    let containers = candidate.containers.iter().filter(|_| resource == Resource::EphemeralStorage);
    for c in containers {
        let Some(disk) = used.and_then(|u| u.containers.get(&c.name)) else { continue };
        let usage = disk.writable_layer.plus(disk.logs).bytes;
        if usage > c.request_bytes {
            let (name, usage, request) = (&c.name, format_bytes(usage), format_bytes(c.request_bytes));
            let _ = write!(
                text,
                "Container {name} was using {usage}, request is {request}, has larger consumption of {}. ",
                resource.as_str()
            );
        }
    }
    text
}

/// A share of a capacity is written by powers of 1024, whatever is counted; that is kubelet's way.
fn threshold_text(threshold: &Threshold<ResourceSignal>, quantity: u64) -> String {
    match (threshold.signal.resource(), threshold.value) {
        (Resource::EphemeralStorage, _) | (_, ThresholdValue::Share(_)) => format_bytes(quantity),
        (Resource::Inodes | Resource::Pids, ThresholdValue::Bytes(_)) => format_count(quantity),
    }
}

fn available_text(resource: Resource, available: u64) -> String {
    if resource == Resource::EphemeralStorage { format_bytes(available) } else { format_count(available) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::eviction::resources::reading::{ContainerDisk, DiskUse};

    #[test]
    fn messages() {
        let pod = serde_json::json!({"spec": {"containers": [
            {"name": "main"},
            {"name": "small", "resources": {"requests": {"ephemeral-storage": "50Mi"}}},
            {"name": "unknown"}
        ]}});
        let candidate = ResourceCandidate::of(&serde_json::from_value(pod).unwrap());
        let disk = |mib: u64| DiskUse { bytes: mib << 20, inodes: 1 };
        let used = PodUse {
            containers: [("main", 150, 50), ("small", 10, 0)]
                .map(|(name, layer, logs)| {
                    (name.to_owned(), ContainerDisk { writable_layer: disk(layer), logs: disk(logs) })
                })
                .into(),
            ..PodUse::default()
        };
        let message = |signal, value, threshold, available| {
            let t = Threshold { signal, value, grace_period: Duration::ZERO, min_reclaim: None };
            eviction_message(&candidate, &t, Observed { threshold, available, capacity: 0 }, Some(&used))
        };
        for (signal, value, threshold, available, want) in [
            (
                ResourceSignal::NodefsAvailable,
                ThresholdValue::Share(0.1),
                1 << 30,
                95 << 20,
                "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 95Mi. \
                 Container main was using 200Mi, request is 0, has larger consumption of ephemeral-storage. ",
            ),
            (
                ResourceSignal::ImagefsInodesFree,
                ThresholdValue::Share(0.05),
                327_680,
                123_000,
                "The node was low on resource: inodes. Threshold quantity: 320Ki, available: 123k. ",
            ),
            (
                ResourceSignal::PidAvailable,
                ThresholdValue::Bytes(2000),
                2000,
                1999,
                "The node was low on resource: pids. Threshold quantity: 2k, available: 1999. ",
            ),
        ] {
            assert_eq!(message(signal, value, threshold, available), want);
        }
    }
}
