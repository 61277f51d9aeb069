//! Which cgroup hierarchies the node has, and where: read from `/proc/self/mountinfo` and, for v2,
//! `cgroup.controllers`. Emits a [`Hierarchies`], which does not change while the agent runs.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::CgroupError;
use oomlet_core::mountinfo::{self, Mount};
use oomlet_core::signal::Hierarchy;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupVersion {
    /// Controllers on v1 hierarchies, no v2 mount.
    V1,
    /// Everything on the unified hierarchy.
    V2,
    /// Controllers on v1 hierarchies and a v2 mount beside them, as systemd calls it.
    Hybrid,
}

impl CgroupVersion {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            CgroupVersion::V1 => "v1",
            CgroupVersion::V2 => "v2",
            CgroupVersion::Hybrid => "hybrid",
        }
    }
}

/// A mounted v1 hierarchy. `name=systemd` counts as a controller here: runc makes cgroups in it as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V1Hierarchy {
    pub controllers: Vec<String>,
    pub mount_point: PathBuf,
}

/// The v2 hierarchy: the whole tree, or the `unified` mount of a hybrid system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnifiedHierarchy {
    /// `cgroup.controllers` of its root; on a hybrid system those that no v1 hierarchy has taken.
    pub controllers: Vec<String>,
    pub mount_point: PathBuf,
}

/// Where the cgroups of the node are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies {
    pub v1: Vec<V1Hierarchy>,
    pub unified: Option<UnifiedHierarchy>,
}

impl Hierarchies {
    /// Of the running system.
    ///
    /// # Errors
    /// When mountinfo or `cgroup.controllers` cannot be read, or no memory controller is there.
    pub fn detect() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let text = fs::read(path).map_err(|e| CgroupError::io("read", path, e))?;
        let found = Self::from_mounts(&mountinfo::parse(&text), |mount_point| {
            let file = mount_point.join("cgroup.controllers");
            fs::read_to_string(&file).map_err(|e| CgroupError::io("read", file, e))
        })?;
        found.memory_mount().ok_or_else(|| CgroupError::NoMemoryController { found: found.describe() })?;
        Ok(found)
    }

    /// From parsed mountinfo; `unified_controllers` reads `cgroup.controllers` below a v2 mount point.
    ///
    /// # Errors
    /// Those of `unified_controllers`.
    pub fn from_mounts(
        mounts: &[Mount],
        unified_controllers: impl FnOnce(&Path) -> Result<String, CgroupError>,
    ) -> Result<Self, CgroupError> {
        let mut v1: Vec<V1Hierarchy> = Vec::new();
        // The same hierarchy may be mounted again (bind mounts into containers' directories); the first is
        // the system's own.
        for mount in mounts.iter().filter(|m| m.fs_type == "cgroup") {
            let controllers: Vec<String> =
                mount.super_options.iter().filter(|o| is_controller(o)).cloned().collect();
            if !controllers.is_empty() && v1.iter().all(|h| h.controllers != controllers) {
                v1.push(V1Hierarchy { controllers, mount_point: mount.mount_point.clone() });
            }
        }
        let unified = match mounts.iter().find(|m| m.fs_type == "cgroup2") {
            Some(mount) => Some(UnifiedHierarchy {
                controllers: unified_controllers(&mount.mount_point)?
                    .split_ascii_whitespace()
                    .map(str::to_owned)
                    .collect(),
                mount_point: mount.mount_point.clone(),
            }),
            None => None,
        };
        Ok(Hierarchies { v1, unified })
    }

    #[must_use]
    pub fn version(&self) -> CgroupVersion {
        let v1_controllers = self.v1.iter().any(|h| h.controllers.iter().any(|c| !c.starts_with("name=")));
        match (v1_controllers, &self.unified) {
            (true, Some(_)) => CgroupVersion::Hybrid,
            (true, None) => CgroupVersion::V1,
            (false, _) => CgroupVersion::V2,
        }
    }

    /// Mount point of the hierarchy that has `controller`, and whether that is v2.
    #[must_use]
    pub fn with_controller(&self, controller: &str) -> Option<(&Path, bool)> {
        let has = |list: &[String]| list.iter().any(|c| c == controller);
        let v1 = self.v1.iter().find(|h| has(&h.controllers)).map(|h| (h.mount_point.as_path(), false));
        v1.or_else(|| {
            self.unified.as_ref().filter(|u| has(&u.controllers)).map(|u| (u.mount_point.as_path(), true))
        })
    }

    /// Mount point of the hierarchy with the memory controller, and which kind it is.
    #[must_use]
    pub fn memory_mount(&self) -> Option<(&Path, Hierarchy)> {
        let (path, v2) = self.with_controller("memory")?;
        Some((path, if v2 { Hierarchy::Unified } else { Hierarchy::MemoryV1 }))
    }

    /// Every mount point, the v1 ones first.
    pub fn mount_points(&self) -> impl Iterator<Item = &Path> {
        let unified = self.unified.iter().map(|u| u.mount_point.as_path());
        self.v1.iter().map(|h| h.mount_point.as_path()).chain(unified)
    }

    fn describe(&self) -> String {
        let v1: Vec<&str> = self.v1.iter().flat_map(|h| h.controllers.iter().map(String::as_str)).collect();
        let v2: Vec<&str> =
            self.unified.iter().flat_map(|u| u.controllers.iter().map(String::as_str)).collect();
        let or_none = |list: Vec<&str>| if list.is_empty() { "none".to_owned() } else { list.join(" ") };
        format!("controllers found on v1: {}; on v2: {}", or_none(v1), or_none(v2))
    }
}

/// Tells a v1 mount's controllers from its other options: `rw`, `xattr`, `clone_children`, `noprefix`,
/// `release_agent=…` (cgroup1_show_options in the kernel).
fn is_controller(option: &str) -> bool {
    match option {
        "rw" | "ro" | "none" | "xattr" | "clone_children" | "noprefix" | "cpuset_v2_mode"
        | "favordynmods" => false,
        o => !o.is_empty() && (o.starts_with("name=") || !o.contains('=')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchies(lines: &[&str], unified_controllers: &str) -> Hierarchies {
        let mounts = mountinfo::parse(lines.join("\n").as_bytes());
        Hierarchies::from_mounts(&mounts, |_| Ok(unified_controllers.to_owned())).unwrap()
    }

    const MEMORY_V1: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
    const CPU_V1: &str = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct";
    const SYSTEMD_V1: &str =
        "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd";
    const UNIFIED: &str = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate";
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot";

    #[test]
    fn versions_and_where_memory_is() {
        let check = |lines: &[&str], controllers: &str, version, memory: Option<(&str, Hierarchy)>| {
            let h = hierarchies(lines, controllers);
            assert_eq!(h.version(), version, "{lines:?}");
            assert_eq!(h.memory_mount(), memory.map(|(p, k)| (Path::new(p), k)), "{lines:?}");
        };
        let v1 = Some(("/sys/fs/cgroup/memory", Hierarchy::MemoryV1));
        check(&[MEMORY_V1, CPU_V1], "", CgroupVersion::V1, v1);
        check(&[MEMORY_V1, UNIFIED], "hugetlb\n", CgroupVersion::Hybrid, v1);
        check(
            &[V2],
            "cpuset cpu io memory pids\n",
            CgroupVersion::V2,
            Some(("/sys/fs/cgroup", Hierarchy::Unified)),
        );
        check(&[V2], "cpu pids\n", CgroupVersion::V2, None);
        check(
            &[SYSTEMD_V1, UNIFIED],
            "memory\n",
            CgroupVersion::V2,
            Some(("/sys/fs/cgroup/unified", Hierarchy::Unified)),
        );
        check(
            &[CPU_V1, UNIFIED],
            "memory\n",
            CgroupVersion::Hybrid,
            Some(("/sys/fs/cgroup/unified", Hierarchy::Unified)),
        );
        check(&[], "", CgroupVersion::V2, None);
    }

    #[test]
    fn v1_mounts_are_listed_once_with_their_controllers() {
        let again = MEMORY_V1.replace("/sys/fs/cgroup/memory", "/srv/container/memory");
        let h = hierarchies(&[MEMORY_V1, CPU_V1, SYSTEMD_V1, &again, UNIFIED], "");
        let got: Vec<_> =
            h.v1.iter().map(|h| (h.controllers.join(","), h.mount_point.to_str().unwrap())).collect();
        assert_eq!(
            got,
            [
                ("memory".to_owned(), "/sys/fs/cgroup/memory"),
                ("cpu,cpuacct".to_owned(), "/sys/fs/cgroup/cpu,cpuacct"),
                ("name=systemd".to_owned(), "/sys/fs/cgroup/systemd"),
            ]
        );
        assert_eq!(h.mount_points().count(), 4);
        assert_eq!(h.with_controller("cpuacct"), Some((Path::new("/sys/fs/cgroup/cpu,cpuacct"), false)));
        assert_eq!(h.with_controller("rdma"), None);
    }

    #[test]
    fn no_memory_controller_is_one_clear_error() {
        let h = hierarchies(&[CPU_V1], "");
        let error = CgroupError::NoMemoryController { found: h.describe() }.to_string();
        assert!(error.contains("on v1: cpu cpuacct; on v2: none"), "{error}");
        assert!(error.contains("cgroup_enable=memory"), "{error}");
    }

    #[test]
    fn detects_the_running_system() {
        let h = Hierarchies::detect().unwrap();
        let (memory, kind) = h.memory_mount().unwrap();
        let file = if kind == Hierarchy::Unified { "cgroup.controllers" } else { "memory.usage_in_bytes" };
        assert!(memory.join(file).exists(), "{}", memory.display());
    }
}
