//! Limits and shares of cgroups, whichever version the machine has.

use std::fs;
use std::path::{Path, PathBuf};

use xtask::scratch::Scratch;

/// A cgroup below `kubepods`, such as `burstable/pod1234`, where this controller is.
#[must_use]
pub fn dir(scratch: &Scratch, controller: &str, below_kubepods: &str) -> PathBuf {
    scratch.cgroup_dir(controller).unwrap().join("kubepods").join(below_kubepods)
}

/// The memory limit in bytes; `None`: unlimited.
#[must_use]
pub fn memory_limit(dir: &Path) -> Option<u64> {
    let text = read(dir, &["memory.limit_in_bytes", "memory.max"]);
    // v1 writes "unlimited" as the largest multiple of a page.
    text.parse().ok().filter(|bytes| *bytes < 1 << 62)
}

/// The CPU weight as v1's shares. What a share becomes on v2 is Kubernetes' formula of cgroup v2 (KEP-2254).
#[must_use]
pub fn has_cpu_shares(dir: &Path, shares: u64) -> bool {
    let weight = 1 + (shares - 2) * 9999 / 262_142;
    let expected = if dir.join("cpu.weight").exists() { weight } else { shares };
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

/// All directories of that name below the scratch's cgroup root, in every hierarchy.
#[must_use]
pub fn named(scratch: &Scratch, name: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut found = Vec::new();
    for line in mounts.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if matches!(words[2], "cgroup" | "cgroup2") {
            find(&Path::new(words[1]).join(scratch.cgroup_root().trim_start_matches('/')), name, &mut found);
        }
    }
    found
}

fn find(dir: &Path, name: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        if entry.file_name() == name {
            found.push(entry.path());
        }
        find(&entry.path(), name, found);
    }
}

fn read(dir: &Path, names: &[&str]) -> String {
    let text = names.iter().find_map(|name| fs::read_to_string(dir.join(name)).ok());
    text.unwrap_or_else(|| panic!("{} has none of {names:?}", dir.display())).trim().to_owned()
}
