//! The memory files of a cgroup that the sampler does not watch, and how open files are read.

use std::os::fd::OwnedFd;

use super::dirs::Dirs;
use super::{File, parse};
use crate::cgroup::open_file::{open, read_all};
use crate::cgroup::parse::{counters, limit, memory_stat_v1, memory_stat_v2};
use crate::cgroup::tree;
use oomlet_core::signal::Hierarchy;
use oomlet_core::stats::account::CgroupMemory;

pub(super) struct Reader<'b> {
    pub buffer: &'b mut [u8],
    /// A file's cgroup is gone.
    pub gone: bool,
}

impl Reader<'_> {
    /// `None`: the file is not there, or cannot be read just now.
    pub fn of<T>(&mut self, file: &File, parse: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.file(file.as_ref()?, parse)
    }

    pub fn file<T>(&mut self, file: &OwnedFd, parse: impl FnOnce(&[u8]) -> T) -> Option<T> {
        match read_all(file, self.buffer) {
            Ok(text) => Some(parse(text)),
            Err(error) => {
                self.gone |= tree::is_gone(&error);
                None
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct MemoryFiles {
    hierarchy: Hierarchy,
    usage: OwnedFd,
    stat: OwnedFd,
    limit: OwnedFd,
    events: File,
}

impl MemoryFiles {
    pub(super) fn open(dirs: &Dirs) -> Option<MemoryFiles> {
        let dir = dirs.memory.as_ref()?;
        let v2 = dirs.unified.as_ref() == Some(dir);
        let (usage, limit, events) = if v2 {
            ("memory.current", "memory.max", "memory.events")
        } else {
            ("memory.usage_in_bytes", "memory.limit_in_bytes", "memory.oom_control")
        };
        Some(MemoryFiles {
            hierarchy: if v2 { Hierarchy::Unified } else { Hierarchy::MemoryV1 },
            usage: open(&dir.join(usage)).ok()?,
            stat: open(&dir.join("memory.stat")).ok()?,
            limit: open(&dir.join(limit)).ok()?,
            events: open(&dir.join(events)).ok(),
        })
    }

    pub(super) fn read(&self, r: &mut Reader<'_>) -> Option<CgroupMemory> {
        let usage_bytes = r.file(&self.usage, parse::single)??;
        let (stat, counters) = r.file(&self.stat, |text| {
            let stat = match self.hierarchy {
                Hierarchy::MemoryV1 => memory_stat_v1(text),
                Hierarchy::Unified => memory_stat_v2(text),
            };
            (stat.ok(), counters::stat(text, self.hierarchy))
        })?;
        let (stat, limit_bytes) = (stat?, r.file(&self.limit, |text| limit(text, "a limit").ok())??);
        let events = r.of(&self.events, counters::events).unwrap_or_default();
        Some(CgroupMemory {
            usage_bytes,
            inactive_file_bytes: stat.inactive_file_bytes,
            active_file_bytes: stat.active_file_bytes,
            limit_bytes,
            counters,
            events,
        })
    }
}
