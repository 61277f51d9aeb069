//! Which cgroups are killed for a pod and for one of its containers.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{CgroupDriver, check_uid};
use crate::cgroup::create::below;
use crate::cgroup::kill::{KillTarget, kill};
use crate::cgroup::{CgroupError, tree};
use oomlet_core::cgroup::names;
use oomlet_core::pod::PodUid;
use oomlet_core::pod::qos::QosClass;

/// Pods are looked for in every QoS class: an orphan's manifest, and so its class, is not known.
impl CgroupDriver {
    /// Kills every process of the pod, its sandbox's pause process too, and waits until they are gone. Returns how many
    /// were signalled.
    ///
    /// # Errors
    /// [`CgroupError::Frozen`] where somebody has frozen a cgroup above; [`CgroupError::StillRunning`] after ten seconds.
    pub fn kill_pod(&self, uid: &PodUid) -> Result<usize, CgroupError> {
        check_uid(uid)?;
        let killed = QosClass::ALL.map(|qos| self.kill_at(&self.pod_path(uid, qos), None));
        killed.into_iter().sum()
    }

    /// The same of one container of the pod; one that has no cgroup any more is fine. The container is thawed if somebody
    /// has frozen it, and with `pod_ends` its pod's cgroup as well.
    ///
    /// # Errors
    /// As [`CgroupDriver::kill_pod`].
    pub fn kill_container(&self, uid: &PodUid, id: &str, pod_ends: bool) -> Result<usize, CgroupError> {
        let Some((pod, container)) = self.container_path(uid, id)? else { return Ok(0) };
        self.kill_at(&container, pod_ends.then_some(pod.as_str()))
    }

    /// Process ids in one container of the pod; none while it has no cgroup.
    ///
    /// # Errors
    /// When the pod's cgroup cannot be read although it is there.
    pub fn container_processes(&self, uid: &PodUid, id: &str) -> Result<BTreeSet<i32>, CgroupError> {
        let found = self.container_path(uid, id)?;
        found.map_or(Ok(BTreeSet::new()), |(_, path)| tree::processes(&below(self.memory_root(), &path)))
    }

    /// The pod's path, and the container's.
    fn container_path(&self, uid: &PodUid, id: &str) -> Result<Option<(String, String)>, CgroupError> {
        check_uid(uid)?;
        for qos in QosClass::ALL {
            let pod = self.pod_path(uid, qos);
            // What the runtime calls it is known only in part; it is the same in each hierarchy.
            let dirs = tree::child_dirs(&below(self.memory_root(), &pod))?;
            let mut its_names = dirs.iter().filter_map(|dir| dir.file_name()?.to_str());
            if let Some(name) = its_names.find(|n| names::container_id(self.layout, n).as_deref() == Some(id))
            {
                let container = format!("{pod}/{name}");
                return Ok(Some((pod, container)));
            }
        }
        Ok(None)
    }

    pub(super) fn kill_at(&self, path: &str, thaw_above: Option<&str>) -> Result<usize, CgroupError> {
        let dirs = self.dirs(path);
        let freezer_v1 = self.hierarchies.with_controller("freezer").filter(|(_, v2)| !v2);
        let in_freezer = |path: &str| freezer_v1.map(|(mount, _)| below(mount, path));
        // v2 freezes without a controller.
        let unified = self.hierarchies.unified.as_ref().map(|u| u.mount_point.as_path());
        let mounts = freezer_v1.map(|(mount, _)| mount).into_iter().chain(unified);
        let freezers: Vec<_> = mounts.map(|mount| (below(mount, path), mount.to_owned())).collect();
        let all: Vec<PathBuf> = self.hierarchies.mount_points().map(|m| below(m, path)).collect();
        kill(&KillTarget {
            memory: &dirs.memory,
            unified: dirs.unified.as_deref(),
            freezer_v1: in_freezer(path).as_deref(),
            freezer_above_v1: thaw_above.and_then(in_freezer).as_deref(),
            freezers: &freezers,
            all: &all,
        })
    }
}
