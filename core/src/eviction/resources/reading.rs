//! What was read of disks and process ids, and of what pods use of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{PodScope, ResourceSignal};
use crate::clock::Mono;
use crate::pod::qos::QosClass;
use crate::pod::{PodRef, PodUid};

/// What is done in a task of its own, for it waits for disks and for the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResourceOrder {
    Read(ResourceQuery),
    /// The node gives up what it can do without.
    Reclaim(Reclaim),
    /// Images are looked through, and go as the policy of image garbage collection has it.
    CollectImages {
        /// Images that pods of the node name.
        named: BTreeSet<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reclaim {
    /// Pods that have ended: their containers, sandboxes and logs go.
    pub finished: Vec<PodRef>,
    /// Images go too, but not those that pods of the node name.
    pub images: bool,
    pub named: BTreeSet<String>,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResourceAnswer {
    Reading(Box<ResourceReading>),
    /// Of [`ResourceOrder::Reclaim`] and [`ResourceOrder::CollectImages`].
    Reclaimed(Reclaimed),
    /// The order was not taken, and why.
    NotDone(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    pub containers: usize,
    pub images: usize,
    /// By the runtime's account of the images' sizes.
    pub image_bytes: u64,
    /// What could not be removed, and why.
    pub trouble: Vec<String>,
}

/// What a reading is to take in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceQuery {
    pub scope: PodScope,
    pub pods: Vec<QueriedPod>,
    /// The containers' writable layers too, which the runtime tells.
    pub writable_layers: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueriedPod {
    pub pod: PodRef,
    pub qos: QosClass,
    /// Its disk-backed emptyDirs, by name.
    pub empty_dirs: Vec<String>,
}

/// The node at one moment. What could not be read is `None` or not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceReading {
    pub at: Mono,
    pub nodefs: Option<FileSystem>,
    pub imagefs: Option<FileSystem>,
    /// Both are one file system.
    pub shared: bool,
    pub pids: Option<Pids>,
    /// Of the pods that were asked for.
    pub pods: BTreeMap<PodUid, PodUse>,
    /// What could not be read, and why.
    pub trouble: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    pub capacity_bytes: u64,
    /// To processes that are not root.
    pub available_bytes: u64,
    /// 0 where inodes are made as they are needed (btrfs): no share of them is ever short then.
    pub inodes: u64,
    pub inodes_free: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pids {
    /// The lower of `kernel.pid_max` and `kernel.threads-max`: each bounds the number of tasks.
    pub limit: u64,
    /// Processes and threads.
    pub tasks: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Allocated, as `du` counts.
    pub bytes: u64,
    pub inodes: u64,
}

impl DiskUse {
    #[must_use]
    pub const fn plus(self, other: DiskUse) -> DiskUse {
        DiskUse {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodUse {
    /// By name; of each the newest instance.
    pub containers: BTreeMap<String, ContainerDisk>,
    /// Writable layers of earlier instances, which are kept to be looked at.
    pub dead_layers: DiskUse,
    /// The pod's whole log directory.
    pub logs: DiskUse,
    /// Disk-backed emptyDirs by name.
    pub volumes: BTreeMap<String, DiskUse>,
    /// Processes and threads.
    pub processes: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerDisk {
    pub writable_layer: DiskUse,
    pub logs: DiskUse,
}

impl PodUse {
    fn layers(&self) -> DiskUse {
        self.containers.values().fold(DiskUse::default(), |sum, c| sum.plus(c.writable_layer))
    }

    fn local(&self) -> DiskUse {
        self.volumes.values().fold(self.logs, |sum, volume| sum.plus(*volume))
    }

    /// What counts against the pod's own limit: kubelet's `EphemeralStorage` of the pod.
    #[must_use]
    pub fn ephemeral_storage(&self) -> DiskUse {
        self.layers().plus(self.local())
    }

    /// What ending the pod would give back where `signal` is short. kubelet's `buildSignalToRankFunc`: with an imagefs
    /// of its own, writable layers are there and nothing else is.
    #[must_use]
    pub fn disk(&self, signal: ResourceSignal, shared: bool) -> DiskUse {
        let layers = || self.layers().plus(self.dead_layers);
        match signal {
            _ if shared => layers().plus(self.local()),
            ResourceSignal::ImagefsAvailable | ResourceSignal::ImagefsInodesFree => layers(),
            _ => self.local(),
        }
    }
}

impl ResourceReading {
    /// Capacity, and what is available of it.
    #[must_use]
    pub fn observed(&self, signal: ResourceSignal) -> Option<(u64, u64)> {
        let bytes = |fs: Option<FileSystem>| fs.map(|f| (f.capacity_bytes, f.available_bytes));
        let inodes = |fs: Option<FileSystem>| fs.map(|f| (f.inodes, f.inodes_free));
        match signal {
            ResourceSignal::NodefsAvailable => bytes(self.nodefs),
            ResourceSignal::NodefsInodesFree => inodes(self.nodefs),
            ResourceSignal::ImagefsAvailable => bytes(self.imagefs),
            ResourceSignal::ImagefsInodesFree => inodes(self.imagefs),
            ResourceSignal::PidAvailable => self.pids.map(|p| (p.limit, p.limit.saturating_sub(p.tasks))),
        }
    }
}

impl Pids {
    /// From the texts of `/proc/sys/kernel/pid_max`, `/proc/sys/kernel/threads-max` and `/proc/loadavg`, whose fourth
    /// field is `running/total` tasks (kubelet's pidlimit.Stats).
    #[must_use]
    pub fn parse(pid_max: Option<&str>, threads_max: Option<&str>, loadavg: &str) -> Option<Pids> {
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let limit = [pid_max, threads_max].into_iter().flatten().filter_map(number).min()?;
        let tasks = loadavg.split_ascii_whitespace().nth(3)?.split_once('/')?.1;
        Some(Pids { limit, tasks: number(tasks)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_ids() {
        let loadavg = "0.20 0.18 0.12 1/305 4711\n";
        for (pid_max, threads_max, loadavg, want) in [
            (Some("32768\n"), Some("191000\n"), loadavg, Some((32768, 305))),
            (Some("4194304\n"), Some("191000\n"), loadavg, Some((191_000, 305))),
            (None, Some("100"), loadavg, Some((100, 305))),
            (None, None, loadavg, None),
            (Some("32768"), None, "0.20 0.18", None),
            (Some("32768"), None, "0.20 0.18 0.12 305 4711", None),
        ] {
            let got = Pids::parse(pid_max, threads_max, loadavg).map(|p| (p.limit, p.tasks));
            assert_eq!(got, want, "{pid_max:?} {threads_max:?} {loadavg}");
        }
    }

    #[test]
    fn what_a_pod_uses_depends_on_where_its_layers_are() {
        let bytes = |bytes| DiskUse { bytes, inodes: bytes / 10 };
        let pod = PodUse {
            containers: [
                ("a".to_owned(), ContainerDisk { writable_layer: bytes(100), logs: bytes(10) }),
                ("b".to_owned(), ContainerDisk { writable_layer: bytes(200), logs: bytes(10) }),
            ]
            .into(),
            dead_layers: bytes(1000),
            logs: bytes(30),
            volumes: [("v".to_owned(), bytes(5000))].into(),
            processes: None,
        };
        assert_eq!(pod.ephemeral_storage().bytes, 5330, "an instance that has ended is not held against it");
        for (signal, shared, want) in [
            (ResourceSignal::NodefsAvailable, false, 5030),
            (ResourceSignal::ImagefsAvailable, false, 1300),
            (ResourceSignal::NodefsAvailable, true, 6330),
            (ResourceSignal::ImagefsInodesFree, true, 6330),
        ] {
            let got = pod.disk(signal, shared);
            assert_eq!((got.bytes, got.inodes), (want, want / 10), "{signal} {shared}");
        }
    }
}
