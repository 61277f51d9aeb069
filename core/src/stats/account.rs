//! The memory of cgroups as the sampler has read it: the same readings that decisions are made on, with what else the same
//! files say.

use crate::clock::Mono;
use crate::signal::{Domain, DomainReading};

/// What `memory.stat` says beyond what decisions need, bytes unless named otherwise. A key that the kernel does not have is
/// `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatCounters {
    /// `file`; on v1 `total_cache`.
    pub cache_bytes: Option<u64>,
    /// `anon`; on v1 `total_rss`.
    pub rss_bytes: Option<u64>,
    /// `file_mapped`; on v1 `total_mapped_file`.
    pub mapped_file_bytes: Option<u64>,
    /// v1's `total_swap`, where swap is accounted.
    pub swap_bytes: Option<u64>,
    /// v2's `kernel`.
    pub kernel_bytes: Option<u64>,
    /// `pgfault`, cumulative. On v1 of the cgroup's own processes, as cAdvisor reads it.
    pub page_faults: Option<u64>,
    /// `pgmajfault`, the same way.
    pub major_page_faults: Option<u64>,
    /// v2's `file_dirty`.
    pub file_dirty_bytes: Option<u64>,
    /// v2's `file_writeback`.
    pub file_writeback_bytes: Option<u64>,
    /// v2's `pgscan`, cumulative, pages.
    pub pages_scanned: Option<u64>,
    /// v2's `pgsteal`, cumulative, pages.
    pub pages_stolen: Option<u64>,
    /// `workingset_refault_file`, cumulative, pages.
    pub refaults_file: Option<u64>,
    /// `workingset_refault_anon`, cumulative, pages.
    pub refaults_anon: Option<u64>,
}

/// Counters of v2's `memory.events` that cAdvisor shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounters {
    pub high: Option<u64>,
    pub max: Option<u64>,
}

/// One domain's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainAccount {
    pub reading: DomainReading,
    pub counters: StatCounters,
    pub events: EventCounters,
}

/// Of `/proc/meminfo`, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeMemory {
    pub total_bytes: u64,
    pub swap_total_bytes: Option<u64>,
    pub swap_free_bytes: Option<u64>,
}

/// The newest reading of all pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryAccount {
    pub at: Mono,
    pub node: NodeMemory,
    pub domains: Vec<DomainAccount>,
}

impl MemoryAccount {
    #[must_use]
    pub fn of(&self, domain: &Domain) -> Option<&DomainAccount> {
        self.domains.iter().find(|account| account.reading.domain == *domain)
    }
}

/// One cgroup's memory, whoever has read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupMemory {
    pub usage_bytes: u64,
    pub inactive_file_bytes: u64,
    pub active_file_bytes: u64,
    pub limit_bytes: Option<u64>,
    pub counters: StatCounters,
    pub events: EventCounters,
}

impl From<&DomainAccount> for CgroupMemory {
    fn from(account: &DomainAccount) -> CgroupMemory {
        let r = &account.reading;
        CgroupMemory {
            usage_bytes: r.usage_bytes,
            inactive_file_bytes: r.inactive_file_bytes,
            active_file_bytes: r.active_file_bytes,
            limit_bytes: r.limit_bytes,
            counters: account.counters,
            events: account.events,
        }
    }
}
