//! What the agent writes into the object's read-only data before loading it: where the running kernel
//! keeps the fields that the programs read, and how much of what they see is worth a record.
//!
//! The map behind read-only data is frozen, so the verifier sees constants and drops the branches that
//! read an absent field. That does for Rust what CO-RE relocations do for C.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The field does not exist in this kernel, or nobody could say where it is.
pub const ABSENT: u32 = u32::MAX;

/// Byte offsets, each from the start of the struct that the first word names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Layout {
    pub task_tgid: u32,
    pub task_comm: u32,
    pub task_mm: u32,
    pub task_signal: u32,
    pub task_cgroups: u32,
    pub signal_oom_score_adj: u32,
    /// `signal_struct.live`: threads that have not begun to exit.
    pub signal_live: u32,
    pub mm_total_vm: u32,
    pub mm_pgtables_bytes: u32,
    /// The 64-bit counters inside `mm_struct.rss_stat`, whatever its type.
    pub mm_rss_file: u32,
    pub mm_rss_anon: u32,
    pub mm_rss_shmem: u32,
    pub css_set_dfl_cgrp: u32,
    /// `css_set.subsys[memory_cgrp_id]`.
    pub css_set_memory: u32,
    pub css_cgroup: u32,
    pub css_parent: u32,
    pub cgroup_kn: u32,
    pub cgroup_root: u32,
    /// `cgroup.subsys[memory_cgrp_id]`.
    pub cgroup_memory: u32,
    pub cgroup_root_hierarchy_id: u32,
    pub kernfs_node_id: u32,
    pub mem_cgroup_css: u32,
    /// `mem_cgroup.memory.usage` and `.max`, in pages.
    pub mem_cgroup_usage: u32,
    pub mem_cgroup_max: u32,
    /// `mem_cgroup.memory.high`, in pages.
    pub mem_cgroup_high: u32,
    /// The page counter itself, `mem_cgroup.memory`.
    pub mem_cgroup_memory: u32,
    pub page_counter_parent: u32,
    /// `task_struct.memcg_nr_pages_over_high`.
    pub task_pages_over_high: u32,
    pub oom_control_memcg: u32,
    pub oom_control_chosen: u32,
    pub oom_control_order: u32,
    pub oom_control_totalpages: u32,
    pub oom_control_constraint: u32,
    /// Arguments of the `mark_victim` tracepoint behind its private data pointer.
    pub mark_victim_args: u32,
    /// Fields of plain tracepoints, from their `format` files.
    pub mark_victim: MarkVictimFormat,
    pub reclaim_retry_zone_loops: u32,
    pub cgroup_mkdir: CgroupFormat,
    pub cgroup_rmdir: CgroupFormat,
}

/// `oom:mark_victim`. Kernels before the fields were added report `pid` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MarkVictimFormat {
    pub pid: u32,
    pub comm: u32,
    pub total_vm: u32,
    pub anon_rss: u32,
    pub file_rss: u32,
    pub shmem_rss: u32,
    pub uid: u32,
    pub pgtables: u32,
    pub oom_score_adj: u32,
}

/// The fields that `cgroup:cgroup_mkdir` and `cgroup_rmdir` have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CgroupFormat {
    pub root: u32,
    pub id: u32,
    pub path: u32,
}

impl MarkVictimFormat {
    pub const ABSENT: Self = Self {
        pid: ABSENT,
        comm: ABSENT,
        total_vm: ABSENT,
        anon_rss: ABSENT,
        file_rss: ABSENT,
        shmem_rss: ABSENT,
        uid: ABSENT,
        pgtables: ABSENT,
        oom_score_adj: ABSENT,
    };
}

impl CgroupFormat {
    pub const ABSENT: Self = Self { root: ABSENT, id: ABSENT, path: ABSENT };
}

impl Layout {
    pub const ABSENT: Self = Self {
        task_tgid: ABSENT,
        task_comm: ABSENT,
        task_mm: ABSENT,
        task_signal: ABSENT,
        task_cgroups: ABSENT,
        signal_oom_score_adj: ABSENT,
        signal_live: ABSENT,
        mm_total_vm: ABSENT,
        mm_pgtables_bytes: ABSENT,
        mm_rss_file: ABSENT,
        mm_rss_anon: ABSENT,
        mm_rss_shmem: ABSENT,
        css_set_dfl_cgrp: ABSENT,
        css_set_memory: ABSENT,
        css_cgroup: ABSENT,
        css_parent: ABSENT,
        cgroup_kn: ABSENT,
        cgroup_root: ABSENT,
        cgroup_memory: ABSENT,
        cgroup_root_hierarchy_id: ABSENT,
        kernfs_node_id: ABSENT,
        mem_cgroup_css: ABSENT,
        mem_cgroup_usage: ABSENT,
        mem_cgroup_max: ABSENT,
        mem_cgroup_high: ABSENT,
        mem_cgroup_memory: ABSENT,
        page_counter_parent: ABSENT,
        task_pages_over_high: ABSENT,
        oom_control_memcg: ABSENT,
        oom_control_chosen: ABSENT,
        oom_control_order: ABSENT,
        oom_control_totalpages: ABSENT,
        oom_control_constraint: ABSENT,
        mark_victim_args: ABSENT,
        mark_victim: MarkVictimFormat::ABSENT,
        reclaim_retry_zone_loops: ABSENT,
        cgroup_mkdir: CgroupFormat::ABSENT,
        cgroup_rmdir: CgroupFormat::ABSENT,
    };
}

/// How much the programs fold together before they send a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tuning {
    /// Least time between two records of one kind about one cgroup.
    pub cool_down_ns: u64,
    /// A cgroup's fault count starts anew when it was not reported for this long.
    pub growth_window_ns: u64,
    /// Faults before a growth record is worth sending.
    pub growth_min_faults: u64,
    /// Faults that one page-fault sample stands for.
    pub fault_sample_period: u64,
    pub page_size: u64,
    /// `cgroup_root.hierarchy_id` of the v1 memory hierarchy; 0 where memory is in the unified one.
    pub memory_hierarchy: u64,
    /// A memcg that would be at its limit within this time is worth a record.
    pub forecast_horizon_ns: u64,
    /// Growth is judged over at least this time,
    pub forecast_window_min_ns: u64,
    /// and over at most this: a memcg that charged nothing for longer starts anew.
    pub forecast_window_max_ns: u64,
    /// A memcg that grows with less than this share of its limit left is worth a record at any speed: the share is
    /// limit / 2^this.
    pub forecast_low_shift: u64,
    /// Least time between two forecasts about one memcg.
    pub forecast_cool_down_ns: u64,
}
