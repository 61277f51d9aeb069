//! How full the memory is that runs out: that of all pods under their cap, or the machine's. Reads cgroup files and
//! /proc/meminfo.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::matrix::Domain;
use crate::node::TestNode;

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    pub limit: u64,
    /// What cannot be reclaimed: usage without file pages, or all that is not MemAvailable.
    pub committed: u64,
}

/// Kept open: it is read a thousand times a second.
#[derive(Debug)]
pub struct Gauge {
    file: File,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Kubepods { dir: PathBuf, v2: bool },
    Meminfo { total: u64 },
}

impl Gauge {
    /// When the agent has made `kubepods`.
    pub fn open(node: &TestNode, domain: Domain) -> Result<Gauge> {
        let (path, source) = match domain {
            Domain::Kubepods => {
                let dir = node.kubepods_dir()?;
                let v2 = dir.join("memory.current").exists();
                let file = if v2 { "memory.current" } else { "memory.usage_in_bytes" };
                (dir.join(file), Source::Kubepods { dir, v2 })
            }
            Domain::Node => {
                let total = crate::node::mem_total_bytes()?;
                (PathBuf::from("/proc/meminfo"), Source::Meminfo { total })
            }
        };
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Gauge { file, source })
    }

    /// Usage in bytes, page cache included where it is a cgroup's. `None`: it could not be read this time.
    pub fn used(&self) -> Option<u64> {
        // MemAvailable is in the third line.
        let mut buffer = [0; 256];
        let read = self.file.read_at(&mut buffer, 0).ok()?;
        let text = String::from_utf8_lossy(&buffer[..read]);
        match &self.source {
            Source::Kubepods { .. } => text.trim().parse().ok(),
            Source::Meminfo { total } => Some(total.saturating_sub(kib(&text, "MemAvailable:")? * 1024)),
        }
    }

    pub fn level(&self) -> Result<Level> {
        let used = self.used().context("reading how much memory is in use")?;
        let (dir, v2) = match &self.source {
            Source::Meminfo { total } => return Ok(Level { limit: *total, committed: used }),
            Source::Kubepods { dir, v2 } => (dir, *v2),
        };
        let stat = read(&dir.join("memory.stat"))?;
        let files =
            if v2 { ["inactive_file", "active_file"] } else { ["total_inactive_file", "total_active_file"] };
        let cached: u64 = files.iter().filter_map(|name| field(&stat, name)).sum();
        let limit = read(&dir.join(if v2 { "memory.max" } else { "memory.limit_in_bytes" }))?;
        let limit = limit.trim().parse().unwrap_or(u64::MAX);
        Ok(Level { limit, committed: used.saturating_sub(cached) })
    }

    /// Makes [`Gauge::peak`] count anew, where the kernel lets it: on cgroup v1.
    pub fn reset_peak(&self) -> Result<()> {
        match &self.source {
            Source::Kubepods { dir, v2: false } => {
                let path = dir.join("memory.max_usage_in_bytes");
                fs::write(&path, "0").with_context(|| format!("resetting {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// The highest usage since then, by the kernel's own account.
    pub fn peak(&self) -> Option<u64> {
        match &self.source {
            Source::Kubepods { dir, v2: false } => {
                fs::read_to_string(dir.join("memory.max_usage_in_bytes")).ok()?.trim().parse().ok()
            }
            _ => None,
        }
    }

    /// OOM kills in `kubepods`, where the kernel counts them there.
    pub fn oom_kills(&self) -> Option<u64> {
        match &self.source {
            Source::Kubepods { dir, v2: true } => {
                field(&fs::read_to_string(dir.join("memory.events")).ok()?, "oom_kill")
            }
            _ => None,
        }
    }

    pub fn hierarchy(&self) -> &'static str {
        match &self.source {
            Source::Kubepods { v2, .. } => version(*v2),
            Source::Meminfo { .. } => version(Path::new("/sys/fs/cgroup/cgroup.controllers").exists()),
        }
    }
}

fn version(v2: bool) -> &'static str {
    if v2 { "v2" } else { "v1" }
}

/// OOM kills on the whole machine since it started.
pub fn machine_oom_kills() -> Result<u64> {
    field(&read(Path::new("/proc/vmstat"))?, "oom_kill").context("/proc/vmstat has no oom_kill")
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// `NAME NUMBER` a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// `NAME: NUMBER kB` a line.
fn kib(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_whole_words() {
        let stat = "oom 1\noom_kill 3\noom_kill_more 9\ninactive_file 7\n";
        for (name, expected) in [("oom_kill", Some(3)), ("inactive_file", Some(7)), ("file", None)] {
            assert_eq!(field(stat, name), expected, "{name}");
        }
        assert_eq!(kib("MemTotal:  100 kB\nMemAvailable:   64 kB\n", "MemAvailable:"), Some(64));
    }

    #[test]
    fn this_machine_has_a_level() {
        let source = Source::Meminfo { total: crate::node::mem_total_bytes().unwrap() };
        let gauge = Gauge { file: File::open("/proc/meminfo").unwrap(), source };
        let level = gauge.level().unwrap();
        assert!(level.committed > 0 && level.committed < level.limit, "{level:?}");
        assert!(gauge.used().is_some() && gauge.peak().is_none());
        machine_oom_kills().unwrap();
    }
}
