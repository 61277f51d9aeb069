//! Which pod goes first: kubelet's `rankDiskPressureFunc` and `rankPIDPressure` (pkg/kubelet/eviction/helpers.go).

use std::cmp::Reverse;
use std::sync::Arc;

use super::reading::ResourceReading;
use super::{Resource, ResourceCandidate, ResourceSignal};

/// A candidate with its numbers, in the signal's unit.
#[derive(Clone, Copy, Debug)]
pub struct Ranked<'a> {
    pub candidate: &'a ResourceCandidate,
    pub usage: u64,
    /// There are requests of bytes alone.
    pub request: u64,
}

impl Ranked<'_> {
    fn over_request(&self) -> i128 {
        i128::from(self.usage) - i128::from(self.request)
    }
}

/// The pods that may be evicted, first to go first. Disks: those over their request; then lower priority; then the
/// largest use over request. Process ids: lower priority, then the most processes. Then by UID, so that the same numbers
/// always give the same answer.
///
/// Left out are critical pods, and pods without numbers: kubelet evicts those first, but nobody knows that it would give
/// anything back.
pub fn rank<'a>(
    candidates: impl IntoIterator<Item = &'a Arc<ResourceCandidate>>,
    signal: ResourceSignal,
    reading: &ResourceReading,
) -> Vec<Ranked<'a>> {
    let ranked = candidates.into_iter().filter(|c| !c.critical).filter_map(|candidate| {
        let pod = reading.pods.get(&candidate.pod.uid)?;
        let disk = || pod.disk(signal, reading.shared);
        let (usage, request) = match signal.resource() {
            Resource::EphemeralStorage => (disk().bytes, candidate.request_bytes),
            Resource::Inodes => (disk().inodes, 0),
            Resource::Pids => (pod.processes?, 0),
        };
        Some(Ranked { candidate, usage, request })
    });
    let mut ranked: Vec<_> = ranked.collect();
    let pids = signal.resource() == Resource::Pids;
    ranked.sort_by_cached_key(|r| {
        let over = r.over_request();
        (!pids && over <= 0, r.candidate.priority, Reverse(over), r.candidate.pod.uid.clone())
    });
    ranked
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::eviction::resources::reading::{ContainerDisk, DiskUse, PodUse};
    use crate::pod::{PodRef, PodUid};

    /// Name, priority, request, critical, bytes in volumes, bytes in writable layers, processes. 10 bytes an inode.
    type Row = (&'static str, i32, u64, bool, u64, u64, Option<u64>);

    fn order(signal: ResourceSignal, shared: bool, rows: &[Row]) -> String {
        let candidate = |r: &Row| {
            Arc::new(ResourceCandidate {
                pod: PodRef { uid: PodUid::from(r.0), namespace: "default".into(), name: r.0.into() },
                priority: r.1,
                critical: r.3,
                grace_period: Duration::from_secs(30),
                request_bytes: r.2,
                limit: None,
                containers: vec![],
                empty_dirs: vec![],
            })
        };
        let disk = |bytes| DiskUse { bytes, inodes: bytes / 10 };
        let used = |r: &Row| PodUse {
            volumes: BTreeMap::from([("v".to_owned(), disk(r.4))]),
            containers: BTreeMap::from([(
                "c".to_owned(),
                ContainerDisk { writable_layer: disk(r.5), logs: DiskUse::default() },
            )]),
            processes: r.6,
            ..PodUse::default()
        };
        let reading = ResourceReading {
            shared,
            pods: rows.iter().filter(|r| r.0 != "unread").map(|r| (r.0.into(), used(r))).collect(),
            ..ResourceReading::default()
        };
        let candidates: Vec<_> = rows.iter().map(candidate).collect();
        let ranked = rank(&candidates, signal, &reading);
        ranked.iter().map(|r| r.candidate.pod.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn kubelets_order() {
        use ResourceSignal::{ImagefsAvailable, NodefsAvailable, NodefsInodesFree, PidAvailable};
        let n = false;
        for (what, signal, shared, rows, want) in [
            (
                "over its request goes first, whatever its priority",
                NodefsAvailable,
                n,
                &[("a", 0, 100, n, 90, 0, None), ("b", 9, 10, n, 20, 0, None)][..],
                "b a",
            ),
            (
                "then lower priority",
                NodefsAvailable,
                n,
                &[("a", 9, 0, n, 500, 0, None), ("b", 0, 0, n, 20, 0, None)],
                "b a",
            ),
            (
                "then the largest use over request",
                NodefsAvailable,
                n,
                &[("a", 0, 400, n, 500, 0, None), ("b", 0, 0, n, 200, 0, None)],
                "b a",
            ),
            (
                "on nodefs alone writable layers do not count",
                NodefsAvailable,
                n,
                &[("a", 0, 0, n, 100, 0, None), ("b", 0, 0, n, 10, 900, None)],
                "a b",
            ),
            (
                "on imagefs alone nothing else does",
                ImagefsAvailable,
                n,
                &[("a", 0, 0, n, 1000, 1, None), ("b", 0, 0, n, 10, 900, None)],
                "b a",
            ),
            (
                "on one disk all counts",
                ImagefsAvailable,
                true,
                &[("a", 0, 0, n, 1000, 1, None), ("b", 0, 0, n, 10, 900, None)],
                "a b",
            ),
            (
                "nobody requests inodes",
                NodefsInodesFree,
                n,
                &[("a", 0, 400, n, 500, 0, None), ("b", 0, 0, n, 200, 0, None)],
                "a b",
            ),
            (
                "process ids: priority, then processes",
                PidAvailable,
                n,
                &[
                    ("a", 9, 0, n, 0, 0, Some(500)),
                    ("b", 0, 0, n, 0, 0, Some(2)),
                    ("c", 0, 0, n, 0, 0, Some(20)),
                ],
                "c b a",
            ),
            (
                "critical pods and those without numbers are left out",
                NodefsAvailable,
                n,
                &[
                    ("a", 0, 0, true, 500, 0, None),
                    ("unread", 0, 0, n, 9, 0, None),
                    ("c", 0, 0, n, 1, 0, None),
                ],
                "c",
            ),
        ] {
            assert_eq!(order(signal, shared, rows), want, "{what}");
        }
    }
}
