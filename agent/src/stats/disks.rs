//! What pods have written, image and container file systems: read at `volumeStatsAggPeriod`, for it takes walks through
//! directories and a question to the runtime. One task; emits [`Disks`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Volume;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::unix_ns;
use crate::cri::convert::WritableLayer;
use crate::cri::names::pod_log_dir;
use crate::cri::{ImageClient, RuntimeClient};
use crate::node_resources::read::{file_system, log_dirs};
use crate::node_resources::usage::disk_use;
use crate::volume::VolumeManager;
use oomlet_core::eviction::resources::reading::DiskUse;
use oomlet_core::node::published::NodeSnapshot;
use oomlet_core::pod::{Pod, PodRef, PodUid};
use oomlet_core::stats::numbers::{self, FsUse};

/// Walks go on no sooner than after so many times as long as the last took.
const REST_PER_WALK: u32 = 20;
/// The first time, so that a node that has begun soon has numbers.
const FIRST: Duration = Duration::from_secs(2);

/// As read last. What could not be read is not there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Disks {
    pub pods: BTreeMap<PodUid, PodDisks>,
    pub imagefs: Option<FsUse>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodDisks {
    pub volumes: Vec<numbers::Volume>,
    /// Logs by container, and writable layers of the newest instance of each.
    pub logs: BTreeMap<String, FsUse>,
    pub layers: BTreeMap<String, FsUse>,
}

/// What the task works with.
#[derive(Debug)]
pub struct DiskTask {
    pub runtime: RuntimeClient,
    pub images: ImageClient,
    pub volumes: Arc<VolumeManager>,
    pub root_dir: PathBuf,
    pub pod_logs_dir: PathBuf,
    pub snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    /// `volumeStatsAggPeriod`.
    pub period: Duration,
    pub disks: watch::Sender<Arc<Disks>>,
}

impl DiskTask {
    pub async fn run(self, cancel: CancellationToken) {
        // Cancel-safe: nothing is written.
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.hold() => {}
        }
    }

    async fn hold(self) {
        let mut rest = FIRST.min(self.period);
        loop {
            sleep(rest).await;
            let began = std::time::Instant::now();
            let disks = self.read().await;
            self.disks.send_replace(Arc::new(disks));
            rest = self.period.max(began.elapsed() * REST_PER_WALK);
        }
    }

    async fn read(&self) -> Disks {
        let imagefs = match self.images.image_fs_info().await {
            Ok(stores) => stores.into_iter().find(|s| !s.mountpoint.is_empty()).map(|store| {
                let room = room(Path::new(&store.mountpoint), unix_ns());
                FsUse {
                    used_bytes: Some(store.used_bytes),
                    inodes_used: Some(store.inodes_used),
                    ..room.unwrap_or(FsUse { at_ns: unix_ns(), ..FsUse::default() })
                }
            }),
            Err(error) => {
                tracing::debug!(%error, "imagefs is not shown");
                None
            }
        };
        let layers = self.runtime.writable_layers().await.unwrap_or_else(|error| {
            tracing::debug!(%error, "what containers have written is not shown");
            Vec::new()
        });
        let pods: Vec<Arc<Pod>> =
            self.snapshots.borrow().pods.values().map(|pod| Arc::clone(&pod.pod)).collect();
        let (volumes, logs, root) =
            (Arc::clone(&self.volumes), self.pod_logs_dir.clone(), self.root_dir.clone());
        let walked = tokio::task::spawn_blocking(move || {
            let nodefs = room(&root, unix_ns());
            let of = |pod: &Arc<Pod>| (PodRef::of(pod).uid, walk(&volumes, &logs, pod, nodefs));
            pods.iter().map(of).collect::<BTreeMap<_, _>>()
        });
        let mut pods = walked.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "what pods have written is not shown");
            BTreeMap::new()
        });
        add_layers(&mut pods, &layers, imagefs);
        Disks { pods, imagefs }
    }
}

/// The file system that a path is on, without what is used of it.
pub(super) fn room(path: &Path, now_ns: i64) -> Option<FsUse> {
    let (fs, _) = file_system(path).ok()?;
    // 0 where inodes are made as they are needed.
    let inodes = (fs.inodes > 0).then_some(fs.inodes);
    Some(FsUse {
        at_ns: now_ns,
        available_bytes: Some(fs.available_bytes),
        capacity_bytes: Some(fs.capacity_bytes),
        used_bytes: None,
        inodes_free: inodes.map(|_| fs.inodes_free),
        inodes,
        inodes_used: None,
    })
}

fn with(room: Option<FsUse>, used: DiskUse) -> FsUse {
    FsUse {
        used_bytes: Some(used.bytes),
        inodes_used: Some(used.inodes),
        ..room.unwrap_or(FsUse { at_ns: unix_ns(), ..FsUse::default() })
    }
}

fn walk(volumes: &VolumeManager, logs_dir: &Path, pod: &Pod, nodefs: Option<FsUse>) -> PodDisks {
    let mut disks = PodDisks::default();
    for (volume, dir) in volumes.dirs(pod) {
        // One that is not made yet has no numbers.
        let (Some(room), Ok(used)) = (room(&dir, unix_ns()), disk_use(&dir)) else { continue };
        disks.volumes.push(numbers::Volume {
            name: volume.name.clone(),
            ephemeral: is_local_ephemeral(volume),
            claim: None,
            fs: with(Some(room), used),
        });
    }
    let logs = pod_log_dir(logs_dir, &PodRef::of(pod));
    for container in log_dirs(&logs).unwrap_or_default() {
        if let Ok(used) = disk_use(&logs.join(&container)) {
            disks.logs.insert(container, with(nodefs, used));
        }
    }
    disks
}

/// kubelet's `IsLocalEphemeralVolume`: what is on the node's disk and goes with the pod.
fn is_local_ephemeral(volume: &Volume) -> bool {
    let on_disk =
        volume.empty_dir.as_ref().is_some_and(|dir| dir.medium.as_deref().unwrap_or_default().is_empty());
    on_disk || volume.config_map.is_some()
}

/// The newest instance of a container counts.
fn add_layers(pods: &mut BTreeMap<PodUid, PodDisks>, layers: &[WritableLayer], imagefs: Option<FsUse>) {
    let mut newest: BTreeMap<(&PodUid, &str), &WritableLayer> = BTreeMap::new();
    for layer in layers {
        let known = newest.entry((&layer.pod, &layer.container)).or_insert(layer);
        if layer.attempt > known.attempt {
            *known = layer;
        }
    }
    for ((uid, container), layer) in newest {
        let used = DiskUse { bytes: layer.used_bytes, inodes: layer.inodes_used };
        if let Some(pod) = pods.get_mut(uid) {
            pod.layers.insert(container.to_owned(), with(imagefs, used));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_and_logs_of_a_pod() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = VolumeManager::new(&dir.path().join("root"));
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "web", "namespace": "ns", "uid": "u1" },
            "spec": { "containers": [], "volumes": [
                { "name": "cache", "emptyDir": {} },
                { "name": "fast", "emptyDir": { "medium": "Memory" } },
                { "name": "host", "hostPath": { "path": "/" } },
            ] },
        }))
        .unwrap();
        let made = volumes.dirs(&pod);
        assert_eq!(made.iter().map(|(v, _)| v.name.as_str()).collect::<Vec<_>>(), ["cache", "fast"]);
        std::fs::create_dir_all(&made[0].1).unwrap();
        std::fs::write(made[0].1.join("file"), vec![1; 100_000]).unwrap();
        let logs = pod_log_dir(&dir.path().join("logs"), &PodRef::of(&pod)).join("app");
        std::fs::create_dir_all(&logs).unwrap();
        std::fs::write(logs.join("0.log"), vec![b'x'; 9000]).unwrap();
        let disks = walk(&volumes, &dir.path().join("logs"), &pod, room(dir.path(), 5));
        // The other has not been made.
        let [cache] = disks.volumes.as_slice() else { panic!("{disks:?}") };
        assert!(cache.ephemeral && cache.fs.used_bytes.unwrap() >= 100_000, "{cache:?}");
        assert!(cache.fs.capacity_bytes.unwrap() > 0);
        let log = &disks.logs["app"];
        assert!(log.used_bytes.unwrap() >= 9000 && log.at_ns == 5 && log.capacity_bytes.is_some(), "{log:?}");
    }

    #[test]
    fn the_newest_layer_counts() {
        let layer = |attempt, used_bytes| WritableLayer {
            pod: "u1".into(),
            container: "app".to_owned(),
            attempt,
            used_bytes,
            inodes_used: 3,
        };
        let mut pods = BTreeMap::from([(PodUid::from("u1"), PodDisks::default())]);
        add_layers(&mut pods, &[layer(1, 10), layer(2, 20), layer(0, 5)], None);
        assert_eq!(pods[&PodUid::from("u1")].layers["app"].used_bytes, Some(20));
    }
}
