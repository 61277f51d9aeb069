//! The kubepods tree: `kubepods`, the QoS classes and the pods, in every hierarchy that is mounted. Owns the
//! directories it makes there; containers' directories below a pod's are the runtime's, but go with the pod.
//!
//! A pod's cgroup is made in the `unified` mount of a hybrid system as well, although its limits are on v1:
//! the runtime puts containers there too, and `bpf_get_current_cgroup_id` speaks of those directories, so they
//! must be known before the first container starts.
//!
//! - `kill`: ends what runs in them.

mod kill;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::CgroupError;
use super::cgroupfs::Cgroupfs;
use super::create::{Parents, below};
use super::hierarchy::{CgroupVersion, Hierarchies};
use super::maker::Maker;
use super::systemd::Systemd;
use super::tree;
use oomlet_core::cgroup::names::{self, Layout};
use oomlet_core::pod::PodUid;
use oomlet_core::pod::qos::{CgroupResources, QosClass};
use oomlet_core::signal::{CgroupId, Hierarchy};

/// How long the last process of a pod may take to leave its cgroup once the runtime says that it has ended.
const EMPTY_WITHIN: Duration = Duration::from_secs(1);

/// kubelet's `cgroupDriver`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverKind {
    #[default]
    Cgroupfs,
    Systemd,
}

impl DriverKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            DriverKind::Cgroupfs => "cgroupfs",
            DriverKind::Systemd => "systemd",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Options {
    /// kubelet's `cgroupRoot`: `/` or an absolute path in each hierarchy, made if it is not there.
    pub cgroup_root: String,
    pub driver: DriverKind,
}

/// Where one cgroup's directories are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodDirs {
    /// In the hierarchy that has the memory controller.
    pub memory: PathBuf,
    /// In the v2 hierarchy, if one is mounted; the same as `memory` on a pure v2 system.
    pub unified: Option<PathBuf>,
}

/// The one that makes, changes and removes pods' cgroups. All calls block for as long as file operations take,
/// and up to seconds where processes have to end.
#[derive(Clone, Debug)]
pub struct CgroupDriver {
    hierarchies: Hierarchies,
    /// Mount point of the memory controller, and its hierarchy.
    memory: (PathBuf, Hierarchy),
    layout: Layout,
    cgroup_root: String,
    maker: Arc<dyn Maker>,
}

impl CgroupDriver {
    /// Detects the hierarchies, and for the systemd driver connects to systemd. Makes nothing yet.
    ///
    /// # Errors
    /// [`CgroupError::NoMemoryController`], [`CgroupError::BadRoot`]; for the systemd driver
    /// [`CgroupError::NoSystemd`] and [`CgroupError::NoSystemdBus`].
    pub fn open(options: Options) -> Result<Self, CgroupError> {
        Self::open_on(options, Hierarchies::detect()?)
    }

    /// On hierarchies that the caller has found.
    ///
    /// # Errors
    /// As [`CgroupDriver::open`].
    pub fn open_on(options: Options, hierarchies: Hierarchies) -> Result<Self, CgroupError> {
        let root = Path::new(&options.cgroup_root);
        let why = if !root.is_absolute() {
            Some("it is not an absolute path")
        } else if root.components().any(|c| !matches!(c, Component::RootDir | Component::Normal(_))) {
            Some("it contains `..`")
        } else {
            None
        };
        if let Some(why) = why {
            return Err(CgroupError::BadRoot { root: options.cgroup_root, why });
        }
        let Some((mount, hierarchy)) = hierarchies.memory_mount() else {
            return Err(CgroupError::NoMemoryController { found: "none where it was looked for".to_owned() });
        };
        let memory = (mount.to_owned(), hierarchy);
        let (layout, maker): (_, Arc<dyn Maker>) = match options.driver {
            DriverKind::Cgroupfs => (Layout::Cgroupfs, Arc::new(Cgroupfs::new(hierarchies.clone()))),
            DriverKind::Systemd => (Layout::Systemd, Arc::new(Systemd::connect(hierarchies.clone())?)),
        };
        Ok(CgroupDriver { hierarchies, memory, layout, cgroup_root: options.cgroup_root, maker })
    }

    #[must_use]
    pub fn version(&self) -> CgroupVersion {
        self.hierarchies.version()
    }

    #[must_use]
    pub fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// kubelet's `cgroupRoot`.
    #[must_use]
    pub fn cgroup_root(&self) -> &str {
        &self.cgroup_root
    }

    /// Root of the memory controller's hierarchy: the whole machine.
    #[must_use]
    pub fn memory_root(&self) -> &Path {
        &self.memory.0
    }

    /// Which hierarchy memory's numbers and ids are of.
    #[must_use]
    pub fn memory_hierarchy(&self) -> Hierarchy {
        self.memory.1
    }

    /// Makes `kubepods` with these limits and the QoS classes below it. BestEffort gets kubelet's 2 shares;
    /// Burstable's follow with [`CgroupDriver::update_qos`].
    ///
    /// # Errors
    /// When a directory or file cannot be written, or (v2) a controller cannot be delegated.
    pub fn ensure_kubepods(&self, node_allocatable: &CgroupResources) -> Result<(), CgroupError> {
        self.limit_kubepods(node_allocatable)?;
        self.use_hierarchy(&names::kubepods(self.layout, &self.cgroup_root))?;
        for (qos, cpu_shares) in [(QosClass::Burstable, None), (QosClass::BestEffort, Some(2))] {
            self.update_qos(qos, &CgroupResources { cpu_shares, ..CgroupResources::default() })?;
        }
        Ok(())
    }

    /// Makes `kubepods`, or changes its limits.
    ///
    /// # Errors
    /// As [`CgroupDriver::ensure_kubepods`].
    pub fn limit_kubepods(&self, node_allocatable: &CgroupResources) -> Result<(), CgroupError> {
        let kubepods = names::kubepods(self.layout, &self.cgroup_root);
        self.maker.make(&kubepods, Parents::Make, node_allocatable)
    }

    /// Sets a QoS class's resources; makes its cgroup where it is not there. Guaranteed pods have no cgroup of their
    /// class: nothing to do.
    ///
    /// # Errors
    /// When `kubepods` is not there, or a limit cannot be set.
    pub fn update_qos(&self, qos: QosClass, res: &CgroupResources) -> Result<(), CgroupError> {
        if qos == QosClass::Guaranteed {
            return Ok(());
        }
        let class = names::qos_class(self.layout, &self.cgroup_root, qos);
        self.maker.make(&class, Parents::MustExist, res)
    }

    /// Makes the pod's cgroup and sets its limits; changes the limits if it is there. Returns what the CRI's
    /// `cgroup_parent` takes.
    ///
    /// # Errors
    /// [`CgroupError::BadUid`], [`CgroupError::LimitBelowUsage`], [`CgroupError::Io`].
    pub fn ensure_pod(
        &self,
        uid: &PodUid,
        qos: QosClass,
        res: &CgroupResources,
    ) -> Result<String, CgroupError> {
        check_uid(uid)?;
        let path = self.pod_path(uid, qos);
        self.maker.make(&path, Parents::MustExist, res)?;
        Ok(path)
    }

    /// Removes the pod's cgroup and the runtime's below it, in all hierarchies. One that is gone is fine. The pod has
    /// ended by the runtime's account: what still runs there after a second is killed, as kubelet does.
    ///
    /// # Errors
    /// [`CgroupError::StillRunning`]; [`CgroupError::Io`] or [`CgroupError::Unit`] when it cannot be removed.
    pub fn remove_pod(&self, uid: &PodUid, qos: QosClass) -> Result<(), CgroupError> {
        check_uid(uid)?;
        let path = self.pod_path(uid, qos);
        let mut dirs = self.hierarchies.mount_points().map(|mount| below(mount, &path));
        let empty = dirs.try_for_each(|dir| tree::wait_empty(&dir, EMPTY_WITHIN));
        match empty {
            Err(CgroupError::InUse { path, processes }) => {
                tracing::warn!(path = %path.display(), processes, "killing what the runtime has left of the pod");
                self.kill_at(&self.pod_path(uid, qos), None)?;
            }
            other => other?,
        }
        self.maker.remove(&path)
    }

    /// Every pod that has a cgroup in any hierarchy.
    ///
    /// # Errors
    /// When a directory cannot be listed.
    pub fn list_pods(&self) -> Result<Vec<(PodUid, QosClass)>, CgroupError> {
        let mut pods = BTreeSet::new();
        for mount in self.hierarchies.mount_points() {
            for qos in QosClass::ALL {
                let class = below(mount, &names::qos_class(self.layout, &self.cgroup_root, qos));
                for dir in tree::child_dirs(&class)? {
                    let name = dir.file_name().and_then(|n| n.to_str());
                    pods.extend(name.and_then(|n| names::pod_uid(self.layout, n)).map(|uid| (uid, qos)));
                }
            }
        }
        Ok(pods.into_iter().collect())
    }

    /// Where the pod's directories are, or would be.
    #[must_use]
    pub fn pod_dir(&self, uid: &PodUid, qos: QosClass) -> PodDirs {
        self.dirs(&self.pod_path(uid, qos))
    }

    /// The pod's directory in the hierarchy that has this controller; `None`: no hierarchy has it.
    #[must_use]
    pub fn pod_dir_of(&self, controller: &str, uid: &PodUid, qos: QosClass) -> Option<PathBuf> {
        let (mount, _) = self.hierarchies.with_controller(controller)?;
        Some(below(mount, &self.pod_path(uid, qos)))
    }

    /// The pod's path in each hierarchy.
    #[must_use]
    pub fn pod_cgroup(&self, uid: &PodUid, qos: QosClass) -> String {
        self.pod_path(uid, qos)
    }

    /// Paths of `kubepods` and of the QoS classes' cgroups in each hierarchy.
    #[must_use]
    pub fn class_paths(&self) -> [(String, Option<QosClass>); 3] {
        let class = |qos| (names::qos_class(self.layout, &self.cgroup_root, qos), Some(qos));
        let kubepods = (names::kubepods(self.layout, &self.cgroup_root), None);
        [kubepods, class(QosClass::Burstable), class(QosClass::BestEffort)]
    }

    /// Where `kubepods` is, or would be.
    #[must_use]
    pub fn kubepods_dir(&self) -> PodDirs {
        self.dirs(&names::kubepods(self.layout, &self.cgroup_root))
    }

    /// Ids of the pod's cgroup (`None`) and of everything below it, each with the container (or sandbox) id it
    /// belongs to, in the memory controller's hierarchy and in the unified one. What is gone is left out.
    #[must_use]
    pub fn cgroup_ids(&self, uid: &PodUid, qos: QosClass) -> Vec<(CgroupId, Option<String>)> {
        let dirs = self.pod_dir(uid, qos);
        let mut ids = Vec::new();
        self.ids_below(&dirs.memory, self.memory.1, &mut ids);
        if let Some(unified) = dirs.unified.filter(|u| *u != dirs.memory) {
            self.ids_below(&unified, Hierarchy::Unified, &mut ids);
        }
        ids
    }

    /// Ids of `kubepods` and of the QoS classes' cgroups, in the same hierarchies.
    #[must_use]
    pub fn top_cgroup_ids(&self) -> Vec<(CgroupId, Option<QosClass>)> {
        let classes = [None, Some(QosClass::Burstable), Some(QosClass::BestEffort)];
        let id = |dir: &Path, hierarchy| {
            fs::symlink_metadata(dir).ok().map(|meta| CgroupId { hierarchy, id: meta.ino() })
        };
        let mut ids = Vec::new();
        for class in classes {
            let path = match class {
                None => names::kubepods(self.layout, &self.cgroup_root),
                Some(qos) => names::qos_class(self.layout, &self.cgroup_root, qos),
            };
            let dirs = self.dirs(&path);
            let unified = dirs.unified.filter(|u| *u != dirs.memory);
            let found = id(&dirs.memory, self.memory.1)
                .into_iter()
                .chain(unified.and_then(|dir| id(&dir, Hierarchy::Unified)));
            ids.extend(found.map(|id| (id, class)));
        }
        ids
    }

    /// The memory directories right below the pod's, each with the container (or sandbox) id it is named for.
    #[must_use]
    pub fn container_dirs(&self, uid: &PodUid, qos: QosClass) -> Vec<(PathBuf, String)> {
        let dirs = tree::child_dirs(&self.pod_dir(uid, qos).memory).unwrap_or_default();
        let id = |dir: &Path| names::container_id(self.layout, dir.file_name()?.to_str()?);
        dirs.into_iter().filter_map(|dir| id(&dir).map(|id| (dir, id))).collect()
    }

    /// Removes the kubepods tree, and `cgroupRoot` itself if that leaves it empty. For tests and demonstrations;
    /// a node keeps its tree when the agent ends.
    ///
    /// # Errors
    /// [`CgroupError::InUse`] when processes run in it; nothing is removed then.
    pub fn remove_kubepods(&self) -> Result<(), CgroupError> {
        let kubepods = names::kubepods(self.layout, &self.cgroup_root);
        for mount in self.hierarchies.mount_points() {
            let path = below(mount, &kubepods);
            let processes = tree::processes(&path)?.len();
            if processes > 0 {
                return Err(CgroupError::InUse { path, processes });
            }
        }
        self.maker.remove(&kubepods)?;
        let root = names::root(self.layout, &self.cgroup_root);
        let is_empty = |mount| tree::child_dirs(&below(mount, &root)).is_ok_and(|dirs| dirs.is_empty());
        if root != "/" && self.hierarchies.mount_points().all(is_empty) {
            self.maker.remove(&root)?;
        }
        Ok(())
    }

    fn pod_path(&self, uid: &PodUid, qos: QosClass) -> String {
        names::pod(self.layout, &self.cgroup_root, uid, qos)
    }

    fn dirs(&self, path: &str) -> PodDirs {
        PodDirs {
            memory: below(&self.memory.0, path),
            unified: self.hierarchies.unified.as_ref().map(|u| below(&u.mount_point, path)),
        }
    }

    /// v1 before Linux 5.11 does not charge a child's memory to its parent unless told so, and only while the
    /// parent has no children. Later kernels always do.
    fn use_hierarchy(&self, kubepods: &str) -> Result<(), CgroupError> {
        let file = below(&self.memory.0, kubepods).join("memory.use_hierarchy");
        match fs::read_to_string(&file) {
            Ok(text) if text.trim() == "0" => fs::write(&file, "1")
                .map_err(|e| CgroupError::io("turn on hierarchical accounting in", file, e)),
            _ => Ok(()),
        }
    }

    fn ids_below(&self, pod: &Path, hierarchy: Hierarchy, ids: &mut Vec<(CgroupId, Option<String>)>) {
        let Ok(dirs) = tree::subtree(pod) else { return };
        for dir in dirs {
            // Inside its own cgroup a container may make more; they are the container's as well.
            let first_below_pod = dir.strip_prefix(pod).ok().and_then(|p| p.components().next());
            let container = first_below_pod
                .and_then(|c| c.as_os_str().to_str())
                .and_then(|name| names::container_id(self.layout, name));
            if let Ok(meta) = fs::symlink_metadata(&dir) {
                ids.push((CgroupId { hierarchy, id: meta.ino() }, container));
            }
        }
    }
}

fn check_uid(uid: &PodUid) -> Result<(), CgroupError> {
    names::check_uid(uid).map_err(|why| CgroupError::BadUid { uid: uid.to_string(), why })
}

#[cfg(test)]
mod tests;
