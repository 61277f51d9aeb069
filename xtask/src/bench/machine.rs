//! What a figure depends on besides the program.

use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::node::mem_total_bytes;

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    cpu: String,
    cpus: usize,
    memory_mib: u64,
    kernel: String,
    cgroup: &'static str,
    /// Load averages of 1, 5 and 15 minutes when the machine was described: forestall does so at its beginning, the others at their end.
    load: String,
    unix_s: u64,
}

pub fn describe() -> Result<Machine> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
    let cpu = cpuinfo
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, m)| m);
    let load = fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("reading the kernel release")?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(Machine {
        cpu: cpu.to_owned(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_mib: mem_total_bytes()? >> 20,
        kernel: kernel.trim().to_owned(),
        cgroup: cgroup_version(),
        load: load.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
        unix_s: now.as_secs(),
    })
}

fn cgroup_version() -> &'static str {
    if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or(false) { "v2" } else { "v1 or hybrid" }
}
