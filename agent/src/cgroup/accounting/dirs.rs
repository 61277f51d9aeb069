//! Where one cgroup is in each hierarchy, when it was made and what it is allowed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::parse;
use crate::cgroup::create::below;
use crate::cgroup::hierarchy::Hierarchies;
use oomlet_core::stats::numbers::{CpuSpec, Spec};

/// Where the cgroup is in each hierarchy.
#[derive(Clone, Debug, Default)]
pub(super) struct Dirs {
    pub v2: bool,
    pub cpu: Option<PathBuf>,
    pub cpuacct: Option<PathBuf>,
    pub memory: Option<PathBuf>,
    pub blkio: Option<PathBuf>,
    pub pids: Option<PathBuf>,
    pub unified: Option<PathBuf>,
}

impl Dirs {
    pub fn of(hierarchies: &Hierarchies, path: &str) -> Dirs {
        let of = |controller: &str| {
            let (mount, v2) = hierarchies.with_controller(controller)?;
            Some((below(mount, path), v2))
        };
        let unified = hierarchies.unified.as_ref().map(|u| below(&u.mount_point, path));
        let v2 = of("cpu").is_some_and(|(_, v2)| v2);
        let dir = |controller: &str| of(controller).map(|(dir, _)| dir);
        Dirs {
            v2,
            cpu: dir("cpu"),
            cpuacct: dir("cpuacct"),
            memory: dir("memory"),
            blkio: dir("blkio").or_else(|| dir("io")),
            pids: dir("pids"),
            unified,
        }
    }

    pub fn spec(&self) -> Spec {
        let cpu = |name: &str| number_in(self.cpu.as_ref()?, name);
        let memory = |name: &str| number_in(self.memory.as_ref()?, name);
        // v1's unlimited is the largest number of whole pages.
        let limit = |name: &'static str| {
            let text = fs::read(self.memory.as_ref()?.join(name)).ok()?;
            crate::cgroup::parse::limit(&text, name).ok()?
        };
        if self.v2 {
            let max =
                self.cpu.as_ref().and_then(|dir| fs::read(dir.join("cpu.max")).ok()).unwrap_or_default();
            let (quota_us, period_us) = parse::cpu_max(&max);
            let shares = cpu("cpu.weight").and_then(parse::shares_of_weight);
            let cpu = CpuSpec { shares, period_us, quota_us };
            Spec { cpu, swap_limit_bytes: memory("memory.swap.max"), reservation_bytes: memory("memory.min") }
        } else {
            let cpu = CpuSpec {
                shares: cpu("cpu.shares"),
                period_us: cpu("cpu.cfs_period_us"),
                // -1: none.
                quota_us: cpu("cpu.cfs_quota_us"),
            };
            Spec {
                cpu,
                swap_limit_bytes: limit("memory.memsw.limit_in_bytes"),
                reservation_bytes: limit("memory.soft_limit_in_bytes"),
            }
        }
    }
}

pub(super) fn number_in(dir: &Path, name: &str) -> Option<u64> {
    parse::single(&fs::read(dir.join(name)).ok()?)
}

/// A directory's own time changes with what is made in it; of `cgroup.procs` it does not.
pub(super) fn created_ns(dir: &Path) -> Option<i64> {
    let of = |path: &Path| -> io::Result<i64> {
        let meta = fs::metadata(path)?;
        Ok(meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()))
    };
    let dir_ns = of(dir).ok()?;
    Some(
        ["cgroup.clone_children", "cgroup.events"]
            .iter()
            .filter_map(|f| of(&dir.join(f)).ok())
            .fold(dir_ns, i64::min),
    )
}
