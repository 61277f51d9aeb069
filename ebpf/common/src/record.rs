//! The records of the ring buffer. Each starts with a [`Header`]; `kind` says which one it is.
//! Integers are in the byte order of the machine that both sides run on.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a record is. Numbers are never reused.
pub mod kind {
    pub const OOM_KILL: u32 = 1;
    pub const MEMCG_RECLAIM: u32 = 2;
    pub const DIRECT_RECLAIM: u32 = 3;
    pub const KSWAPD_WAKE: u32 = 4;
    pub const RECLAIM_RETRY: u32 = 5;
    pub const GROWTH: u32 = 6;
    pub const CGROUP_MADE: u32 = 7;
    pub const CGROUP_REMOVED: u32 = 8;
    pub const INIT_EXIT: u32 = 9;
    pub const OOM_BEGIN: u32 = 10;
    pub const LIMIT_RECLAIM: u32 = 11;
    pub const OVER_HIGH: u32 = 12;
    pub const THROTTLED: u32 = 13;
    pub const CHARGE_FORECAST: u32 = 14;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// One of [`kind`].
    pub kind: u32,
    /// Bytes of the whole record, this header included.
    pub size: u32,
    /// `bpf_ktime_get_ns`: CLOCK_MONOTONIC, nanoseconds.
    pub ts: u64,
}

/// `TASK_COMM_LEN` of include/linux/sched.h.
pub const COMM_LEN: usize = 16;

/// Levels of the memcg tree that an [`OomKill`] carries: container, pod, QoS class, kubepods, root, and
/// three more for a node that is itself nested in a container.
pub const MAX_LEVELS: usize = 8;

/// Which fields of an [`OomKill`] hold something.
pub mod oom_field {
    pub const COMM: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const OOM_SCORE_ADJ: u32 = 1 << 2;
    pub const TOTAL_VM: u32 = 1 << 3;
    pub const ANON_RSS: u32 = 1 << 4;
    pub const FILE_RSS: u32 = 1 << 5;
    pub const SHMEM_RSS: u32 = 1 << 6;
    pub const PGTABLES: u32 = 1 << 7;
    /// `cgroup` is the victim's id in the unified hierarchy.
    pub const CGROUP: u32 = 1 << 8;
}

/// One memcg of the victim's branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Level {
    /// kernfs id of the memcg's cgroup.
    pub id: u64,
    /// `memory.usage` of its page counter, in bytes.
    pub usage_bytes: u64,
    /// `memory.max` of its page counter, in pages: the kernel's own "no limit" is a number of pages. `memory.high` where
    /// the record is about that.
    pub limit_pages: u64,
}

/// `mark_victim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OomKill {
    pub header: Header,
    pub victim: Victim,
}

/// A process that the OOM killer kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Victim {
    pub pid: u32,
    pub uid: u32,
    /// Bits of [`oom_field`].
    pub fields: u32,
    pub oom_score_adj: i32,
    pub comm: [u8; COMM_LEN],
    pub total_vm_bytes: u64,
    pub anon_rss_bytes: u64,
    pub file_rss_bytes: u64,
    pub shmem_rss_bytes: u64,
    pub pgtables_bytes: u64,
    /// In the unified hierarchy.
    pub cgroup: u64,
    /// `cgroup_root.hierarchy_id` of the hierarchy that `levels` are in; 0 is the unified one.
    pub memcg_hierarchy: u32,
    /// How many of `levels` are filled, leaf first.
    pub level_count: u32,
    pub levels: [Level; MAX_LEVELS],
}

/// What an [`OomBegin`] is about.
pub mod oom_scope {
    /// The fields of `oom_control` could not be read.
    pub const UNKNOWN: u32 = 0;
    /// No cgroup's limit: the node has no memory left.
    pub const GLOBAL: u32 = 1;
    /// `memcg` is the one at its limit.
    pub const MEMCG: u32 = 2;
}

/// `oom_kill_process`: the OOM killer has chosen, and tells what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OomBegin {
    pub header: Header,
    pub memcg: Level,
    /// Pages that the OOM killer could choose from: of the node, or of the memcg.
    pub total_pages: u64,
    /// One of [`oom_scope`].
    pub scope: u32,
    /// `cgroup_root.hierarchy_id` of the hierarchy that `memcg` is in; 0 is the unified one.
    pub memcg_hierarchy: u32,
    /// Of the allocation that failed; -1: asked for by SysRq.
    pub order: i32,
    /// `enum oom_constraint` of include/linux/oom.h.
    pub constraint: u32,
    /// A pid of 0: it could not be read.
    pub chosen: Victim,
}

/// [`kind::LIMIT_RECLAIM`], [`kind::OVER_HIGH`] and [`kind::THROTTLED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemcgPressure {
    pub header: Header,
    /// The memcg whose limit it is. Its limit is `memory.max`, or `memory.high` where the kind is about that.
    pub memcg: Level,
    /// Since the last record of this kind about this memcg.
    pub events: u64,
    /// `cgroup_root.hierarchy_id` of the memcg's hierarchy; 0 is the unified one.
    pub hierarchy: u32,
    pub reserved: u32,
}

/// At the growth seen the memcg is at its limit within the horizon of the agent's tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ChargeForecast {
    pub header: Header,
    /// The usage includes the charge that was under way.
    pub memcg: Level,
    pub grown_bytes: u64,
    /// In which it grew that much.
    pub window_ns: u64,
    /// `cgroup_root.hierarchy_id` of the memcg's hierarchy; 0 is the unified one.
    pub hierarchy: u32,
    pub reserved: u32,
}

/// What the charge program keeps of a watched memcg: the value of the map `CHARGED`. The agent makes it with zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ChargeWindow {
    pub since_ns: u64,
    pub pages_then: u64,
    pub last_sent_ns: u64,
}

/// [`kind::MEMCG_RECLAIM`] and [`kind::DIRECT_RECLAIM`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reclaim {
    pub header: Header,
    /// `bpf_get_current_cgroup_id`.
    pub cgroup: u64,
    /// Begins since the last record of this cgroup.
    pub events: u64,
    /// Time between begin and end, summed over what ended since the last record of this cgroup.
    pub stalled_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KswapdWake {
    pub header: Header,
    pub events: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReclaimRetry {
    pub header: Header,
    pub cgroup: u64,
    pub no_progress_loops: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Growth {
    pub header: Header,
    pub cgroup: u64,
    pub faults: u64,
    pub window_ns: u64,
}

/// Room for a path below a cgroup root: four levels of systemd's naming with a 64-digit container id take about 200 bytes.
pub const PATH_LEN: usize = 384;

/// [`kind::CGROUP_MADE`] and [`kind::CGROUP_REMOVED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CgroupChange {
    pub header: Header,
    pub id: u64,
    /// `cgroup_root.hierarchy_id`; 0 is the unified one.
    pub hierarchy: u32,
    /// Bytes of `path` that are filled, without a terminating zero. A longer path is cut.
    pub path_len: u32,
    pub path: [u8; PATH_LEN],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitExit {
    pub header: Header,
    /// The thread group's id in the initial pid namespace.
    pub pid: u64,
}

const _: () = assert!(size_of::<Header>() == 16);
const _: () = assert!(size_of::<Level>() == 24);
const _: () = assert!(size_of::<Victim>() == 88 + MAX_LEVELS * 24);
const _: () = assert!(size_of::<OomKill>() == 16 + size_of::<Victim>());
const _: () = assert!(size_of::<OomBegin>() == 64 + size_of::<Victim>());
const _: () = assert!(size_of::<MemcgPressure>() == 56);
const _: () = assert!(size_of::<ChargeForecast>() == 64);
const _: () = assert!(size_of::<ChargeWindow>() == 24);
const _: () = assert!(size_of::<Reclaim>() == 40);
const _: () = assert!(size_of::<KswapdWake>() == 24);
const _: () = assert!(size_of::<ReclaimRetry>() == 32);
const _: () = assert!(size_of::<Growth>() == 40);
const _: () = assert!(size_of::<CgroupChange>() == 32 + PATH_LEN);
const _: () = assert!(size_of::<InitExit>() == 24);
