//! Limits and shares of cgroups, whichever version the machine has and whichever driver the node.

use std::fs;
use std::path::{Path, PathBuf};

use xtask::scratch::Scratch;

/// A cgroup below `kubepods`, such as `burstable/pod1234`, where this controller is.
#[must_use]
pub fn dir(scratch: &Scratch, controller: &str, below_kubepods: &str) -> PathBuf {
    scratch.cgroup_dir_below(controller, &format!("kubepods/{below_kubepods}")).unwrap()
}

/// A container's own below its pod's.
#[must_use]
pub fn of_container(scratch: &Scratch, pod: &Path, id: &str) -> PathBuf {
    pod.join(scratch.cgroup_driver().container(id))
}

/// The memory limit in bytes; `None`: unlimited.
#[must_use]
pub fn memory_limit(dir: &Path) -> Option<u64> {
    let text = read(dir, &["memory.limit_in_bytes", "memory.max"]);
    // v1 writes "unlimited" as the largest multiple of a page.
    text.parse().ok().filter(|bytes| *bytes < 1 << 62)
}

/// The memory in use, in bytes.
#[must_use]
pub fn memory_usage(dir: &Path) -> u64 {
    read(dir, &["memory.usage_in_bytes", "memory.current"]).parse().expect("a number of bytes")
}

/// What a cgroup gets of the CPU beside its siblings: v1's shares, v2's weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuShare {
    pub shares: u64,
    pub weight: u64,
}

#[must_use]
pub fn has_cpu_share(dir: &Path, share: CpuShare) -> bool {
    let expected = if dir.join("cpu.weight").exists() { share.weight } else { share.shares };
    read(dir, &["cpu.shares", "cpu.weight"]) == expected.to_string()
}

/// Processes that the kernel's OOM killer has killed in this cgroup or below it, as far as the cgroups are there.
#[must_use]
pub fn oom_kills(dir: &Path) -> u64 {
    let count = |path: &Path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse::<u64>().ok()).unwrap_or(0)
    };
    if dir.join("memory.events").exists() {
        // v2 counts for the whole subtree.
        return count(&dir.join("memory.events"));
    }
    let below = fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir());
    below.map(|entry| oom_kills(&entry.path())).sum::<u64>() + count(&dir.join("memory.oom_control"))
}

/// All directories below the scratch's cgroup root that by cgroupfs have that name, in every hierarchy.
#[must_use]
pub fn named(scratch: &Scratch, name: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut found = Vec::new();
    for line in mounts.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if matches!(words[2], "cgroup" | "cgroup2") {
            let root = scratch.cgroup_driver().path(scratch.cgroup_root());
            let is_named = |dir: &str| scratch.cgroup_driver().is_named(dir, name);
            find(&Path::new(words[1]).join(root), &is_named, &mut found);
        }
    }
    found
}

fn find(dir: &Path, is_named: &impl Fn(&str) -> bool, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        if is_named(&entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        }
        find(&entry.path(), is_named, found);
    }
}

fn read(dir: &Path, names: &[&str]) -> String {
    let text = names.iter().find_map(|name| fs::read_to_string(dir.join(name)).ok());
    text.unwrap_or_else(|| panic!("{} has none of {names:?}", dir.display())).trim().to_owned()
}
