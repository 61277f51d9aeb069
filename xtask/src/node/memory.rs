//! The memory that a node's pods have together, by the kernel's account.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::TestNode;

const MIB: u64 = 1 << 20;

impl TestNode {
    /// Caps kubepods at `mib` from the next start on: kubelet enforces capacity − systemReserved there.
    pub fn cap_kubepods(&mut self, mib: u64) -> Result<()> {
        let reserved = mem_total_bytes()?.saturating_sub(mib * MIB);
        self.config["systemReserved"] = json!({ "memory": reserved.to_string() });
        Ok(())
    }

    /// `kubepods` in the hierarchy that has the memory controller.
    pub fn kubepods_dir(&self) -> Result<PathBuf> {
        self.scratch.cgroup_dir_below("memory", "kubepods")
    }

    /// Current usage and limit of kubepods in bytes, from the kernel; `None` while the cgroup is not there.
    pub fn kubepods_memory(&self) -> Result<Option<(u64, u64)>> {
        let dir = self.kubepods_dir()?;
        let read = |v1: &str, v2: &str| number(&dir.join(v1)).or_else(|| number(&dir.join(v2)));
        let usage = read("memory.usage_in_bytes", "memory.current");
        let limit = read("memory.limit_in_bytes", "memory.max");
        Ok(usage.map(|usage| (usage, limit.unwrap_or(u64::MAX))))
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// MemTotal of /proc/meminfo.
pub fn mem_total_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let kib: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok())
        .context("/proc/meminfo has no MemTotal")?;
    Ok(kib * 1024)
}
