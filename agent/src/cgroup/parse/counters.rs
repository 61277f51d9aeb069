//! What `memory.stat` and `memory.events` say that is shown and not decided on. A line that is no number is left out: what is
//! shown may lack it.

use super::number;
use oomlet_core::signal::Hierarchy;
use oomlet_core::stats::account::{EventCounters, StatCounters};

/// The `key value` lines.
pub fn lines(text: &[u8]) -> impl Iterator<Item = (&[u8], u64)> {
    text.split(|b| *b == b'\n').filter_map(|line| {
        let at = line.iter().position(|b| *b == b' ')?;
        Some((&line[..at], number(line[at + 1..].trim_ascii())?))
    })
}

/// v1's `total_` keys count the cgroups below in; of page faults cAdvisor shows the cgroup's own.
#[must_use]
pub fn stat(text: &[u8], hierarchy: Hierarchy) -> StatCounters {
    let mut c = StatCounters::default();
    for (key, value) in lines(text) {
        let field = match (hierarchy, key) {
            (_, b"pgfault") => &mut c.page_faults,
            (_, b"pgmajfault") => &mut c.major_page_faults,
            (_, b"workingset_refault_file") => &mut c.refaults_file,
            (_, b"workingset_refault_anon") => &mut c.refaults_anon,
            (Hierarchy::MemoryV1, b"total_cache") | (Hierarchy::Unified, b"file") => &mut c.cache_bytes,
            (Hierarchy::MemoryV1, b"total_rss") | (Hierarchy::Unified, b"anon") => &mut c.rss_bytes,
            (Hierarchy::MemoryV1, b"total_mapped_file") | (Hierarchy::Unified, b"file_mapped") => {
                &mut c.mapped_file_bytes
            }
            (Hierarchy::MemoryV1, b"total_swap") => &mut c.swap_bytes,
            (Hierarchy::Unified, b"kernel") => &mut c.kernel_bytes,
            (Hierarchy::Unified, b"file_dirty") => &mut c.file_dirty_bytes,
            (Hierarchy::Unified, b"file_writeback") => &mut c.file_writeback_bytes,
            (Hierarchy::Unified, b"pgscan") => &mut c.pages_scanned,
            (Hierarchy::Unified, b"pgsteal") => &mut c.pages_stolen,
            _ => continue,
        };
        *field = Some(value);
    }
    c
}

/// Of v2's `memory.events`; v1's `memory.oom_control` has neither.
#[must_use]
pub fn events(text: &[u8]) -> EventCounters {
    let of = |name: &[u8]| lines(text).find(|(key, _)| *key == name).map(|(_, value)| value);
    EventCounters { high: of(b"high"), max: of(b"max") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_its_own_keys() {
        let v1 = b"cache 1\nrss 2\npgfault 3\npgmajfault 4\nworkingset_refault_file 9\ntotal_cache 10\ntotal_rss 20\ntotal_mapped_file 30\ntotal_swap 5\ntotal_pgfault 100\n";
        let got = stat(v1, Hierarchy::MemoryV1);
        let want = StatCounters {
            cache_bytes: Some(10),
            rss_bytes: Some(20),
            mapped_file_bytes: Some(30),
            swap_bytes: Some(5),
            page_faults: Some(3),
            major_page_faults: Some(4),
            refaults_file: Some(9),
            ..StatCounters::default()
        };
        assert_eq!(got, want);
        let v2 = b"anon 1\nfile 2\nkernel 3\nfile_mapped 4\nfile_dirty 5\nfile_writeback 6\nworkingset_refault_anon 7\nworkingset_refault_file 8\npgscan 9\npgsteal 10\npgfault 11\npgmajfault 12\n";
        let got = stat(v2, Hierarchy::Unified);
        let want = StatCounters {
            cache_bytes: Some(2),
            rss_bytes: Some(1),
            mapped_file_bytes: Some(4),
            swap_bytes: None,
            kernel_bytes: Some(3),
            page_faults: Some(11),
            major_page_faults: Some(12),
            file_dirty_bytes: Some(5),
            file_writeback_bytes: Some(6),
            pages_scanned: Some(9),
            pages_stolen: Some(10),
            refaults_file: Some(8),
            refaults_anon: Some(7),
        };
        assert_eq!(got, want);
    }

    #[test]
    fn what_is_not_said_is_not_there() {
        assert_eq!(stat(b"", Hierarchy::Unified), StatCounters::default());
        assert_eq!(stat(b"anon x\nfile\npgfault -1\n", Hierarchy::Unified), StatCounters::default());
        let v2 = b"low 0\nhigh 3\nmax 4\noom 1\noom_kill 1\n";
        assert_eq!(events(v2), EventCounters { high: Some(3), max: Some(4) });
        assert_eq!(events(b"oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"), EventCounters::default());
    }
}
