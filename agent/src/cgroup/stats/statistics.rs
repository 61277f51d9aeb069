//! `memory.stat`, kept open, and whether the kernel has brought it up to date. Owns what the file said last and at which
//! usage; emits the statistics, and whether they are stale.
//!
//! Reading `memory.stat` makes the kernel flush what each CPU has counted (rstat), but only where it has noted that there is
//! something (`memcg_vmstats_needs_flush`). Since Linux 6.16 an update is noted no further up than to a cgroup that has
//! one noted already (`memcg_rstat_updated`), since all above are taken to have one then, too. They need not: where a
//! cgroup is flushed, CPU by CPU, while somebody below it charges, the one below may keep its note and the one above lose
//! it. From then on the cgroup above says what it said before, whatever is charged below, until another of its children has
//! charged or the kernel flushes all there is, every two seconds (`FLUSH_TIME`). `memory.current` and
//! `memory.usage_in_bytes` are counters of their own and always true, so that page cache looks like memory in use: 344 MiB
//! within 1.7 s were seen on Linux 6.18. Reading every `memory.stat` below takes the notes away (`rstat_flush`); the next few
//! hundred pages that are charged are then noted up to the top.

use std::hash::{DefaultHasher, Hasher};
use std::os::fd::OwnedFd;
use std::path::Path;

use super::{ReadError, open, read};
use crate::cgroup::CgroupError;
use crate::cgroup::parse::{self, MemoryStat};
use oomlet_core::signal::{Domain, DomainReading, Hierarchy, StatAge};

/// Pages that a CPU counts or charges on its own before it tells (`MEMCG_CHARGE_BATCH`).
const BATCH_PAGES: u64 = 64;
const PAGE_BYTES: u64 = 4096;
/// Each CPU holds back a batch of the charges and one of the statistics; the kernel finds a flush worth while from one
/// more for each CPU on; and one for what was charged ahead by another cgroup. Where that is by more of them (up to seven since
/// Linux 6.16), statistics may be waited for that are true.
const BATCHES: u64 = 4;

/// By how much usage may move without the statistics of a healthy kernel, on this many CPUs. Bytes.
pub(super) fn slack_bytes(cpus: usize) -> u64 {
    BATCHES * BATCH_PAGES * PAGE_BYTES * cpus.max(1) as u64
}

/// One cgroup's.
#[derive(Debug)]
pub(super) struct StatFile {
    fd: OwnedFd,
    text: Text,
}

impl StatFile {
    pub(super) fn open(dir: &Path) -> Result<StatFile, CgroupError> {
        Ok(StatFile { fd: open(&dir.join("memory.stat"))?, text: Text::default() })
    }

    /// The statistics, and how they stand to `usage_bytes`, which was read just before.
    pub(super) fn read(
        &mut self,
        usage_bytes: u64,
        hierarchy: Hierarchy,
        slack_bytes: u64,
        buffer: &mut [u8],
    ) -> Result<(MemoryStat, StatAge), ReadError> {
        let (stat, digest) = read(&self.fd, buffer, |text| {
            let stat = match hierarchy {
                Hierarchy::MemoryV1 => parse::memory_stat_v1(text),
                Hierarchy::Unified => parse::memory_stat_v2(text),
            }?;
            Ok((stat, digest(text)))
        })?;
        Ok((stat, self.text.age(digest, usage_bytes, slack_bytes)))
    }
}

/// Its usage and its statistics are as they were, and it is full enough for that to be no proof.
pub(super) fn may_hide_a_leak(d: &DomainReading) -> bool {
    let full = d.limit_bytes.is_none_or(|limit| d.usage_bytes >= limit - limit / 4);
    let above_others = match &d.domain {
        Domain::Kubepods => full,
        Domain::Pod(_) => full && d.limit_bytes.is_some(),
        Domain::Node | Domain::Container(..) => false,
    };
    above_others && d.statistics == StatAge::AsBefore
}

fn digest(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(text);
    hasher.finish()
}

/// What the file said last, and at which usage it began to say so.
#[derive(Debug, Default)]
struct Text(Option<(u64, u64)>);

impl Text {
    fn age(&mut self, digest: u64, usage_bytes: u64, slack_bytes: u64) -> StatAge {
        match self.0 {
            Some((before, usage_then)) if before == digest => {
                let lag = usage_bytes.abs_diff(usage_then) > slack_bytes;
                if lag { StatAge::Stale } else { StatAge::AsBefore }
            }
            _ => {
                self.0 = Some((digest, usage_bytes));
                StatAge::New
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::StatAge::{AsBefore, New, Stale};
    use super::*;

    #[test]
    fn usage_that_moves_without_the_text_makes_it_stale() {
        let mut text = Text::default();
        for (said, usage, age) in [
            ("file 0", 100, New),
            ("file 0", 110, AsBefore),
            ("file 0", 111, Stale),
            // Down as well: what is gone still counts as reclaimable.
            ("file 0", 89, Stale),
            ("file 0", 90, AsBefore),
            ("file 50", 150, New),
            ("file 50", 160, AsBefore),
            ("file 0", 500, New),
            ("file 0", 511, Stale),
        ] {
            assert_eq!(text.age(digest(said.as_bytes()), usage, 10), age, "{said} at {usage}");
        }
    }

    #[test]
    fn more_cpus_hold_back_more() {
        assert_eq!(slack_bytes(0), 1 << 20);
        assert_eq!(slack_bytes(2), 2 << 20);
        assert_eq!(slack_bytes(64), 64 << 20);
    }
}
