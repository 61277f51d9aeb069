//! What the node tells us about memory: kernel events as they arrive, readings of the cgroup files,
//! and the names of the nested memory domains both speak of. Core: plain data and pure functions.
//!
//! - [`attribution`]: cgroup id → pod and container.
//! - [`rstat`]: readings whose file numbers are older than their usage.
//! - [`window`]: rates over time.

pub mod attribution;
pub mod rstat;
pub mod window;

use crate::clock::Mono;
use crate::pod::PodUid;
use crate::reason::Reason;

/// A nested memory domain. Everything about pressure is said of one of these.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Domain {
    /// The whole machine.
    Node,
    /// The `kubepods` cgroup: what is allocatable to pods.
    Kubepods,
    /// One pod's cgroup.
    Pod(PodUid),
    /// One container's cgroup: pod and container name.
    Container(PodUid, String),
}

impl Domain {
    /// The domain is this pod's or one of its containers'.
    #[must_use]
    pub fn is_of(&self, uid: &PodUid) -> bool {
        matches!(self, Domain::Pod(pod) | Domain::Container(pod, _) if pod == uid)
    }

    /// `node`, `kubepods`, `pod` or `container`, as the trace names it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Domain::Node => "node",
            Domain::Kubepods => "kubepods",
            Domain::Pod(_) => "pod",
            Domain::Container(..) => "container",
        }
    }
}

/// Which cgroup hierarchy an id belongs to. Ids (kernfs inode numbers) are unique within one hierarchy only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hierarchy {
    /// cgroup v2, also the `unified` mount of a hybrid system: what `bpf_get_current_cgroup_id` reports.
    Unified,
    /// The v1 memory controller's own hierarchy.
    MemoryV1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupId {
    pub hierarchy: Hierarchy,
    /// kernfs id, equal to the inode number of the cgroup's directory.
    pub id: u64,
}

/// Usage and limit of one level of the memcg tree at the moment of an OOM kill, leaf first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemcgLevel {
    pub cgroup: CgroupId,
    pub usage_bytes: u64,
    /// `None`: no limit (`max`).
    pub limit_bytes: Option<u64>,
}

/// What `oom_kill_process` says of the kill that it is about to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OomBegin {
    pub scope: OomScope,
    /// Who was chosen. A pid of 0: it could not be read.
    pub chosen: OomVictim,
    /// What the OOM killer could choose from: memory and swap of the node, or the memcg's limit.
    pub total_bytes: u64,
    /// Of the allocation that failed: 2^order pages. -1: asked for by SysRq.
    pub order: i32,
    pub constraint: OomConstraint,
}

/// What ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomScope {
    /// The node itself; no cgroup's limit.
    Global,
    /// This memcg's limit.
    Memcg(MemcgLevel),
    /// The program could not read it.
    Unknown,
}

/// `enum oom_constraint` of include/linux/oom.h: what the kernel could allocate from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomConstraint {
    None,
    Cpuset,
    MemoryPolicy,
    Memcg,
    /// A number that was not there when this was written.
    Unknown(u32),
}

/// The victim as `oom:mark_victim` or `oom_kill_process` describes it. Fields that the running kernel does not report are
/// `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OomVictim {
    pub pid: u32,
    pub comm: Option<String>,
    pub uid: Option<u32>,
    pub oom_score_adj: Option<i16>,
    pub total_vm_bytes: Option<u64>,
    pub anon_rss_bytes: Option<u64>,
    pub file_rss_bytes: Option<u64>,
    pub shmem_rss_bytes: Option<u64>,
    pub pgtables_bytes: Option<u64>,
    /// The victim's own cgroup, where the program could read it (tier 2).
    pub cgroup: Option<CgroupId>,
    /// The victim's memcg and its ancestors, leaf first (tier 2; empty below).
    pub levels: Vec<MemcgLevel>,
}

impl OomVictim {
    /// Completed by what another record says of the same process.
    #[must_use]
    pub fn or(self, other: &OomVictim) -> OomVictim {
        OomVictim {
            pid: self.pid,
            comm: self.comm.or_else(|| other.comm.clone()),
            uid: self.uid.or(other.uid),
            oom_score_adj: self.oom_score_adj.or(other.oom_score_adj),
            total_vm_bytes: self.total_vm_bytes.or(other.total_vm_bytes),
            anon_rss_bytes: self.anon_rss_bytes.or(other.anon_rss_bytes),
            file_rss_bytes: self.file_rss_bytes.or(other.file_rss_bytes),
            shmem_rss_bytes: self.shmem_rss_bytes.or(other.shmem_rss_bytes),
            pgtables_bytes: self.pgtables_bytes.or(other.pgtables_bytes),
            cgroup: self.cgroup.or(other.cgroup),
            levels: if self.levels.is_empty() { other.levels.clone() } else { self.levels },
        }
    }
}

/// One record from the eBPF programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelEvent {
    /// When the program ran in the kernel.
    pub at: Mono,
    /// When user space took the record out of the ring buffer.
    pub read_at: Mono,
    pub kind: KernelEventKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEventKind {
    /// `oom:mark_victim`.
    OomKill(Box<OomVictim>),
    /// `vmscan:mm_vmscan_memcg_reclaim_begin`: a cgroup hit a limit and reclaims. `events` counts those
    /// since the last record for this cgroup, `stalled` the time spent in reclaim by begin/end pairs since then.
    MemcgReclaim {
        cgroup: CgroupId,
        events: u32,
        stalled: std::time::Duration,
    },
    /// `vmscan:mm_vmscan_direct_reclaim_begin`: an allocation found the node short and reclaims itself.
    DirectReclaim {
        cgroup: CgroupId,
        events: u32,
        stalled: std::time::Duration,
    },
    /// `vmscan:mm_vmscan_kswapd_wake`.
    KswapdWake {
        events: u32,
    },
    /// `oom:reclaim_retry_zone`: reclaim made no progress; the next step is the OOM killer.
    ReclaimRetry {
        cgroup: CgroupId,
        no_progress_loops: u32,
    },
    /// Page-fault sampling: this cgroup faulted in at least `faults` pages within `window`.
    Growth {
        cgroup: CgroupId,
        faults: u64,
        window: std::time::Duration,
    },
    /// `oom_kill_process`: the OOM killer has chosen. An `OomKill` follows.
    OomBegin(Box<OomBegin>),
    /// `try_to_free_mem_cgroup_pages`: memory is reclaimed because of this memcg's limit, whoever charged.
    LimitReclaim {
        memcg: MemcgLevel,
        events: u32,
    },
    /// `reclaim_high`: this memcg is above its `memory.high`, which stands as the limit.
    OverHigh {
        memcg: MemcgLevel,
        events: u32,
    },
    /// `mem_cgroup_handle_over_high`: tasks are made to sleep because this memcg is above its `memory.high`, which
    /// stands as the limit.
    Throttled {
        memcg: MemcgLevel,
        events: u32,
    },
    /// `page_counter_try_charge`: grown by `grown_bytes` within `window`, this watched memcg is about to reach its limit.
    ChargeForecast {
        memcg: MemcgLevel,
        grown_bytes: u64,
        window: std::time::Duration,
    },
    /// `cgroup:cgroup_mkdir` / `cgroup_rmdir`, path relative to the hierarchy's root.
    CgroupMade {
        cgroup: CgroupId,
        path: String,
    },
    CgroupRemoved {
        cgroup: CgroupId,
        path: String,
    },
    /// The init process of a watched container exited.
    InitExit {
        pid: u32,
    },
    /// Records that the ring buffer had no room for since the last report.
    Lost {
        records: u64,
    },
}

impl KernelEventKind {
    /// The variant's name.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            KernelEventKind::OomKill(_) => "OomKill",
            KernelEventKind::MemcgReclaim { .. } => "MemcgReclaim",
            KernelEventKind::DirectReclaim { .. } => "DirectReclaim",
            KernelEventKind::KswapdWake { .. } => "KswapdWake",
            KernelEventKind::ReclaimRetry { .. } => "ReclaimRetry",
            KernelEventKind::Growth { .. } => "Growth",
            KernelEventKind::OomBegin(_) => "OomBegin",
            KernelEventKind::LimitReclaim { .. } => "LimitReclaim",
            KernelEventKind::OverHigh { .. } => "OverHigh",
            KernelEventKind::Throttled { .. } => "Throttled",
            KernelEventKind::ChargeForecast { .. } => "ChargeForecast",
            KernelEventKind::CgroupMade { .. } => "CgroupMade",
            KernelEventKind::CgroupRemoved { .. } => "CgroupRemoved",
            KernelEventKind::InitExit { .. } => "InitExit",
            KernelEventKind::Lost { .. } => "Lost",
        }
    }
}

/// How a domain's statistics stand to its usage, which is always true. See [`rstat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatAge {
    /// They have changed since they were read before.
    New,
    /// They have not, which is true or so, within what the kernel holds back.
    AsBefore,
    /// They have not, and the usage has moved by more than that.
    Stale,
}

/// One domain's memory, read from its cgroup files just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainReading {
    pub domain: Domain,
    /// `memory.current` / `memory.usage_in_bytes`. For [`Domain::Node`]: MemTotal − MemFree on v2, the root cgroup's usage on v1.
    pub usage_bytes: u64,
    /// `inactive_file`: what kubelet subtracts for the working set.
    pub inactive_file_bytes: u64,
    /// `active_file`, reclaimable as well when nobody refaults it.
    pub active_file_bytes: u64,
    /// Dirty and writeback pages among the file pages: not free at once.
    pub dirty_bytes: u64,
    /// `workingset_refault_file`, cumulative: file pages that came back after they had been reclaimed. In pages, on v1 up to
    /// about Linux 6.7 in bytes.
    pub refaults: u64,
    /// Of the four above; where a pod is told by its containers, of the first three.
    pub statistics: StatAge,
    /// `memory.max` / `memory.limit_in_bytes`; the node's MemTotal. `None`: unlimited.
    pub limit_bytes: Option<u64>,
    /// `oom_kill` of `memory.events` / `memory.oom_control`, cumulative.
    pub oom_kills: u64,
}

impl DomainReading {
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.statistics == StatAge::Stale
    }

    /// usage − inactive_file, as kubelet and cAdvisor define the working set.
    #[must_use]
    pub const fn working_set_bytes(&self) -> u64 {
        self.usage_bytes.saturating_sub(self.inactive_file_bytes)
    }
}

/// Which domains to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadScope {
    /// The node and `kubepods`: what a threshold or the forecast is about.
    Top,
    /// These and every watched pod and container: what ranking needs.
    AllPods,
}

/// What the sampler read in one go, and why it was asked to.
#[derive(Clone, Debug)]
pub struct MemoryReading {
    /// When the first file was read.
    pub at: Mono,
    /// When the last one was.
    pub done_at: Mono,
    pub why: Reason,
    /// The kernel event that asked for it, by the time it happened, when one did.
    pub caused_by: Option<Mono>,
    /// `MemAvailable` of `/proc/meminfo`.
    pub mem_available_bytes: u64,
    /// Domains that could be read. A cgroup that is gone by now is simply absent.
    pub domains: Vec<DomainReading>,
    /// How long all tasks of the domain have stood still for memory since it was made (`full` of `memory.pressure`); empty
    /// where no threshold asks for it.
    pub stalled: Vec<(Domain, std::time::Duration)>,
}

impl MemoryReading {
    #[must_use]
    pub fn of(&self, domain: &Domain) -> Option<&DomainReading> {
        self.domains.iter().find(|r| &r.domain == domain)
    }
}
