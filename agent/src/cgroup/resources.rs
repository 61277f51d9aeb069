//! One cgroup's limits and shares: [`CgroupResources`] written to the files of v1 and v2.
//!
//! The writing is cgroups-rs', controller by controller, because it knows the file names and formats of both
//! versions. Its `Cgroup::apply` is not used: it drops every error of the memory controller, and a pod whose
//! limit was silently not set is what this agent must never have. Conversion to `cpu.weight` and the reading
//! back of limits are ours; cgroups-rs leaves the one to its caller and reads thirty files for the other.

use std::error::Error as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{MaxValue, error::Error as CgroupsRsError};

use super::create::below;
use super::hierarchy::Hierarchies;
use super::{CgroupError, parse};
use oomlet_core::pod::qos::CgroupResources;

/// One cgroup's directory in the hierarchy of one controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerDir {
    pub path: PathBuf,
    pub v2: bool,
}

/// Where a cgroup's controllers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerDirs {
    pub memory: ControllerDir,
    pub cpu: Option<ControllerDir>,
    pub pids: Option<ControllerDir>,
}

impl ControllerDirs {
    /// Those of the cgroup at `path`, there or not.
    ///
    /// # Errors
    /// [`CgroupError::NoMemoryController`].
    pub fn of(hierarchies: &Hierarchies, path: &str) -> Result<Self, CgroupError> {
        let dir = |controller| {
            let (mount, v2) = hierarchies.with_controller(controller)?;
            Some(ControllerDir { path: below(mount, path), v2 })
        };
        let none = || CgroupError::NoMemoryController { found: "none where it was looked for".to_owned() };
        Ok(ControllerDirs { memory: dir("memory").ok_or_else(none)?, cpu: dir("cpu"), pids: dir("pids") })
    }

    /// What [`ControllerDirs::apply`] would refuse of the memory limit, for a driver that has it set by others first.
    ///
    /// # Errors
    /// [`CgroupError::LimitBelowUsage`]. A cgroup that is not there uses nothing.
    pub fn memory_limit_fits(&self, limit_bytes: Option<u64>) -> Result<(), CgroupError> {
        if !self.memory.path.is_dir() || memory_limit(&self.memory)?.1 == limit_bytes {
            return Ok(());
        }
        refuse_limit_that_kills(&self.memory, limit_bytes)
    }

    /// Makes the cgroup's limits what `res` says. A limit of `None` is taken off if it is set; shares of
    /// `None` are left as they are.
    ///
    /// # Errors
    /// [`CgroupError::LimitBelowUsage`] when the memory in use cannot be brought below the limit, else
    /// [`CgroupError::Io`] naming the file.
    pub fn apply(&self, res: &CgroupResources) -> Result<(), CgroupError> {
        set_memory_limit(&self.memory, res.memory_limit_bytes)?;
        match &self.cpu {
            Some(cpu) => set_cpu(cpu, res)?,
            None => warn_once(&NO_CPU, res.cpu_shares.is_some() || res.cpu_quota_us.is_some(), "cpu"),
        }
        match &self.pids {
            Some(pids) => set_pids_limit(pids, res.pids_limit)?,
            None => warn_once(&NO_PIDS, res.pids_limit.is_some(), "pids"),
        }
        Ok(())
    }
}

static NO_CPU: Once = Once::new();
static NO_PIDS: Once = Once::new();

fn warn_once(once: &Once, wanted: bool, controller: &'static str) {
    if wanted {
        once.call_once(|| {
            tracing::warn!(controller, "the node has no such cgroup controller: its limits are not enforced");
        });
    }
}

fn set_memory_limit(dir: &ControllerDir, limit_bytes: Option<u64>) -> Result<(), CgroupError> {
    let (file, present) = memory_limit(dir)?;
    if present == limit_bytes {
        return Ok(());
    }
    refuse_limit_that_kills(dir, limit_bytes)?;
    let value = limit_bytes.map_or(-1, |l| i64::try_from(l).unwrap_or(i64::MAX));
    let written = MemController::new(dir.path.clone(), PathBuf::new(), dir.v2).set_limit(value);
    written.map_err(|e| match (os_error(e), limit_bytes) {
        // memory_resize_max in mm/memcontrol.c: v1 gives up after a few rounds of reclaim.
        (e, Some(limit_bytes)) if e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
            let usage = read_parsed(&dir.path.join("memory.usage_in_bytes"), |t| parse::single(t, "usage"));
            CgroupError::LimitBelowUsage {
                path: dir.path.clone(),
                limit_bytes,
                usage_bytes: usage.unwrap_or_default(),
            }
        }
        (e, _) => CgroupError::io("write the memory limit to", file, e),
    })
}

/// The limit that is set, and the file that says so.
fn memory_limit(dir: &ControllerDir) -> Result<(PathBuf, Option<u64>), CgroupError> {
    let file = dir.path.join(if dir.v2 { "memory.max" } else { "memory.limit_in_bytes" });
    let present = read_parsed(&file, |text| parse::limit(text, "limit"))?;
    Ok((file, present))
}

/// On v2 a `memory.max` below what is in use makes the kernel OOM-kill in the cgroup until it fits
/// (`memory_max_write`). v1 refuses instead, and so do we.
fn refuse_limit_that_kills(dir: &ControllerDir, limit_bytes: Option<u64>) -> Result<(), CgroupError> {
    let Some(limit_bytes) = limit_bytes.filter(|_| dir.v2) else { return Ok(()) };
    let usage = read_parsed(&dir.path.join("memory.current"), |t| parse::single(t, "memory.current"))?;
    let stat = read_parsed(&dir.path.join("memory.stat"), parse::memory_stat_v2)?;
    let unreclaimable = usage.saturating_sub(stat.inactive_file_bytes.saturating_add(stat.active_file_bytes));
    if unreclaimable > limit_bytes {
        return Err(CgroupError::LimitBelowUsage { path: dir.path.clone(), limit_bytes, usage_bytes: usage });
    }
    Ok(())
}

fn set_cpu(dir: &ControllerDir, res: &CgroupResources) -> Result<(), CgroupError> {
    let cpu = CpuController::new(dir.path.clone(), PathBuf::new(), dir.v2);
    let failed = |what: &'static str| {
        let path = dir.path.clone();
        move |e| CgroupError::io(what, path, os_error(e))
    };
    if let Some(shares) = res.cpu_shares {
        let value = if dir.v2 { cpu_weight(shares) } else { shares };
        cpu.set_shares(value).map_err(failed("write CPU shares in"))?;
    }
    // A kernel without CONFIG_CFS_BANDWIDTH has no quota files.
    let quota_file = dir.path.join(if dir.v2 { "cpu.max" } else { "cpu.cfs_quota_us" });
    if res.cpu_quota_us.is_none() && !is_throttled(&quota_file) {
        return Ok(());
    }
    if dir.v2 {
        return cpu
            .set_cfs_quota_and_period(Some(res.cpu_quota_us.unwrap_or(-1)), res.cpu_period_us)
            .map_err(failed("write cpu.max in"));
    }
    // On v1 two files; the period first, so that the quota is checked against the period it is meant for.
    if let Some(period) = res.cpu_period_us {
        cpu.set_cfs_period(period).map_err(failed("write cpu.cfs_period_us in"))?;
    }
    cpu.set_cfs_quota(res.cpu_quota_us.unwrap_or(-1)).map_err(failed("write cpu.cfs_quota_us in"))
}

fn is_throttled(quota_file: &Path) -> bool {
    fs::read_to_string(quota_file).is_ok_and(|t| !t.starts_with("max") && !t.starts_with("-1"))
}

fn set_pids_limit(dir: &ControllerDir, limit: Option<i64>) -> Result<(), CgroupError> {
    let value = match limit {
        // kubelet's `podPidsLimit: -1` and 0 both mean no limit.
        Some(n) if n > 0 => MaxValue::Value(n),
        _ => MaxValue::Max,
    };
    let pids = PidController::new(dir.path.clone(), PathBuf::new(), dir.v2);
    pids.set_pid_max(value).map_err(|e| CgroupError::io("write pids.max in", &dir.path, os_error(e)))
}

/// v1 `cpu.shares` (2..=262144, default 1024) as v2 `cpu.weight` (1..=10000, default 100), by the formula that
/// runc 1.3.2 and crun 1.23 changed to (kubernetes#131216): a quadratic in log2 through both ends and both
/// defaults. Weights only ever compete with siblings, so an older runtime's linear formula for the
/// containers inside a pod does no harm.
#[must_use]
pub fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

fn read_parsed<T>(
    file: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, parse::ParseError>,
) -> Result<T, CgroupError> {
    let text = fs::read(file).map_err(|e| CgroupError::io("read", file, e))?;
    parse(&text).map_err(|source| CgroupError::Malformed { path: file.into(), source })
}

/// cgroups-rs boxes the `io::Error`; the error code in it is what tells EBUSY from ENOENT.
fn os_error(error: CgroupsRsError) -> io::Error {
    match error.source().and_then(|s| s.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_weights() {
        // 2000 → 170 is runc's own published example (runc#4896).
        for (shares, weight) in [
            (0, 1),
            (2, 1),
            (3, 2),
            (1024, 100),
            (2000, 170),
            (262_143, 10_000),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
    }

    #[test]
    fn cpu_weight_grows_with_shares() {
        let weights: Vec<u64> = (2..=262_144).step_by(97).map(cpu_weight).collect();
        assert!(weights.is_sorted());
        assert!(weights.iter().all(|w| (1..=10_000).contains(w)));
    }

    /// A v2 cgroup as plain files: this host's memory controller is on v1.
    fn v2_files(current: &str, stat: &str, max: &str) -> (tempfile::TempDir, ControllerDirs) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("memory.current", current),
            ("memory.stat", stat),
            ("memory.max", max),
            ("cpu.weight", "100\n"),
            ("cpu.max", "max 100000\n"),
            ("pids.max", "max\n"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let here = || ControllerDir { path: dir.path().into(), v2: true };
        let dirs = ControllerDirs { memory: here(), cpu: Some(here()), pids: Some(here()) };
        (dir, dirs)
    }

    #[test]
    fn writes_v2_files_and_takes_limits_off() {
        let (dir, cgroup) = v2_files("4096\n", "inactive_file 0\nactive_file 0\n", "max\n");
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap().trim().to_owned();
        let all = CgroupResources {
            memory_limit_bytes: Some(64 << 20),
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            pids_limit: Some(100),
        };
        cgroup.apply(&all).unwrap();
        let files = ["memory.max", "cpu.weight", "cpu.max", "pids.max"];
        assert_eq!(files.map(read), ["67108864", "100", "50000 100000", "100"]);
        cgroup.apply(&CgroupResources::default()).unwrap();
        assert_eq!(files.map(read), ["max", "100", "max 100000", "max"]);
    }

    #[test]
    fn v2_limit_that_would_kill_is_refused() {
        let (dir, cgroup) = v2_files("104857600\n", "inactive_file 41943040\nactive_file 0\n", "max\n");
        let limited = |bytes| CgroupResources { memory_limit_bytes: Some(bytes), ..Default::default() };
        let error = cgroup.apply(&limited(50 << 20)).unwrap_err();
        assert!(matches!(error, CgroupError::LimitBelowUsage { usage_bytes: 104_857_600, .. }), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("memory.max")).unwrap(), "max\n");
        // 60 MiB fit once the page cache is reclaimed.
        cgroup.apply(&limited(60 << 20)).unwrap();
    }

    #[test]
    fn a_missing_file_is_named() {
        let dirs = ControllerDirs {
            memory: ControllerDir { path: "/nonexistent/pod".into(), v2: false },
            cpu: None,
            pids: None,
        };
        let error = dirs.apply(&CgroupResources::default()).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/pod/memory.limit_in_bytes"), "{error}");
    }
}
