//! One reading: what pods have written first, for it takes the longest, then file systems and process ids.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::usage::disk_use;
use super::{ResourceContext, Task, soon};
use crate::clock;
use crate::cri::convert::WritableLayer;
use crate::cri::names::pod_log_dir;
use crate::volume::empty_dir;
use oomlet_core::clock::Mono;
use oomlet_core::eviction::resources::reading::{DiskUse, FileSystem, Pids, PodUse, QueriedPod};
use oomlet_core::eviction::resources::{PodScope, ResourceQuery, ResourceReading};
use oomlet_core::pod::PodUid;

/// What a pod has written is walked again after this many times as long as it took: one walker uses no more than a
/// twentieth of a CPU and of a disk, unless all pods are read in order to decide.
const REST_PER_WALK: u32 = 20;

/// What was found in pods' volumes and logs last.
#[derive(Debug, Default)]
pub(super) struct Walked(BTreeMap<PodUid, Walk>);

#[derive(Clone, Debug)]
struct Walk {
    used: PodUse,
    began: Mono,
    took: Duration,
}

impl Walk {
    fn is_fresh(&self, now: Mono) -> bool {
        now < self.began + self.took * REST_PER_WALK
    }
}

impl Task {
    /// `Err`: nothing was read, and why.
    pub(super) async fn read(&mut self, query: ResourceQuery) -> Result<ResourceReading, String> {
        let mut trouble = Vec::new();
        let store = self.image_store(&mut trouble).await;
        let layers = if query.writable_layers {
            soon(self.context.runtime.writable_layers()).await.unwrap_or_else(|why| {
                trouble.push(format!("what containers have written is not known: {why}"));
                Vec::new()
            })
        } else {
            Vec::new()
        };
        let (context, mut walked) = (self.context.clone(), std::mem::take(&mut self.walked));
        let files = tokio::task::spawn_blocking(move || {
            let mut reading = ResourceReading { trouble, ..ResourceReading::default() };
            for pod in &query.pods {
                let used = walked.of(&context, pod, query.scope, &mut reading.trouble);
                reading.pods.insert(pod.pod.uid.clone(), used);
            }
            walked.0.retain(|uid, _| reading.pods.contains_key(uid));
            read_node(&context, store.as_deref(), &mut reading);
            (reading, walked)
        });
        let (mut reading, walked) = files.await.map_err(|e| format!("reading the disks failed: {e}"))?;
        self.walked = walked;
        add_layers(&mut reading.pods, &layers);
        Ok(reading)
    }
}

impl Walked {
    fn of(
        &mut self,
        context: &ResourceContext,
        pod: &QueriedPod,
        scope: PodScope,
        trouble: &mut Vec<String>,
    ) -> PodUse {
        let began = clock::now();
        let known = self.0.get(&pod.pod.uid).filter(|w| scope == PodScope::WithLimits && w.is_fresh(began));
        let mut used = match known {
            Some(walk) => walk.used.clone(),
            None => match walk(context, pod) {
                Ok(used) => {
                    let took = clock::now().since(began);
                    self.0.insert(pod.pod.uid.clone(), Walk { used: used.clone(), began, took });
                    used
                }
                Err(error) => {
                    trouble.push(format!("what pod {} has written is not known: {error}", pod.pod));
                    PodUse::default()
                }
            },
        };
        let pids = context.cgroups.pids_dir(&pod.pod.uid, pod.qos).map(|dir| dir.join("pids.current"));
        used.processes = pids.and_then(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
        used
    }
}

/// Volumes and logs.
fn walk(context: &ResourceContext, pod: &QueriedPod) -> io::Result<PodUse> {
    let mut used = PodUse::default();
    let pod_dir = context.volumes.pod_dir(&pod.pod.uid);
    for name in &pod.empty_dirs {
        used.volumes.insert(name.clone(), disk_use(&empty_dir::path(&pod_dir, name))?);
    }
    let logs = pod_log_dir(&context.pod_logs_dir, &pod.pod);
    used.logs = disk_use(&logs)?;
    for container in log_dirs(&logs)? {
        let bytes = disk_use(&logs.join(&container))?;
        used.containers.entry(container).or_default().logs = bytes;
    }
    Ok(used)
}

/// A directory for each container.
pub(crate) fn log_dirs(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}

/// The newest instance of a container counts as the container; earlier ones are the pod's.
fn add_layers(pods: &mut BTreeMap<PodUid, PodUse>, layers: &[WritableLayer]) {
    for layer in layers {
        let Some(pod) = pods.get_mut(&layer.pod) else { continue };
        let same = |l: &&WritableLayer| l.pod == layer.pod && l.container == layer.container;
        let newest = layers.iter().filter(same).map(|l| l.attempt).max();
        let used = DiskUse { bytes: layer.used_bytes, inodes: layer.inodes_used };
        if newest == Some(layer.attempt) {
            pod.containers.entry(layer.container.clone()).or_default().writable_layer = used;
        } else {
            pod.dead_layers = pod.dead_layers.plus(used);
        }
    }
}

fn read_node(context: &ResourceContext, store: Option<&Path>, reading: &mut ResourceReading) {
    let mut get = |what: &str, path: &Path| {
        file_system(path)
            .map_err(|e| {
                reading.trouble.push(format!("cannot read the size of {what} ({}): {e}", path.display()));
            })
            .ok()
    };
    let nodefs = get("nodefs", &context.root_dir);
    let imagefs = store.and_then(|path| get("imagefs", path));
    reading.shared = matches!((&nodefs, &imagefs), (Some((_, a)), Some((_, b))) if a == b);
    reading.nodefs = nodefs.map(|(fs, _)| fs);
    reading.imagefs = imagefs.map(|(fs, _)| fs);
    let text = |path: &str| fs::read_to_string(path);
    reading.pids = text("/proc/loadavg").ok().and_then(|loadavg| {
        let limits = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"].map(|path| text(path).ok());
        Pids::parse(limits[0].as_deref(), limits[1].as_deref(), &loadavg)
    });
    reading.at = clock::now();
}

/// With its device number, which tells whether two paths are on one.
pub(crate) fn file_system(path: &Path) -> io::Result<(FileSystem, u64)> {
    let s = rustix::fs::statvfs(path)?;
    let fs = FileSystem {
        capacity_bytes: s.f_blocks.saturating_mul(s.f_frsize),
        available_bytes: s.f_bavail.saturating_mul(s.f_frsize),
        inodes: s.f_files,
        inodes_free: s.f_ffree,
    };
    Ok((fs, fs::metadata(path)?.dev()))
}

/// For a garbage collection: capacity and what is available of imagefs.
pub(super) async fn image_room(store: PathBuf) -> Result<(u64, u64), String> {
    let read = tokio::task::spawn_blocking(move || {
        file_system(&store).map_err(|e| format!("cannot read the size of imagefs ({}): {e}", store.display()))
    });
    let (fs, _) = read.await.map_err(|e| format!("reading imagefs failed: {e}"))??;
    Ok((fs.capacity_bytes, fs.available_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_instance_is_the_container() {
        let layer = |pod: &str, container: &str, attempt, used_bytes| WritableLayer {
            pod: pod.into(),
            container: container.into(),
            attempt,
            used_bytes,
            inodes_used: 1,
        };
        let mut pods = BTreeMap::from([(PodUid::from("1"), PodUse::default())]);
        add_layers(
            &mut pods,
            &[
                layer("1", "a", 0, 500),
                layer("1", "a", 1, 7),
                layer("1", "b", 0, 9),
                layer("other", "a", 0, 1),
            ],
        );
        let pod = &pods[&PodUid::from("1")];
        assert_eq!(pod.containers["a"].writable_layer.bytes, 7);
        assert_eq!(pod.containers["b"].writable_layer.bytes, 9);
        assert_eq!(pod.dead_layers, DiskUse { bytes: 500, inodes: 1 });
        assert_eq!(pods.len(), 1);
    }
}
