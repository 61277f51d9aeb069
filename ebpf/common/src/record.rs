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
    /// `memory.max` of its page counter, in pages: the kernel's own "no limit" is a number of pages.
    pub limit_pages: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OomKill {
    pub header: Header,
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
    pub cgroup: u64,
    /// `cgroup_root.hierarchy_id` of the hierarchy that `levels` are in; 0 is the unified one.
    pub memcg_hierarchy: u32,
    /// How many of `levels` are filled, leaf first.
    pub level_count: u32,
    pub levels: [Level; MAX_LEVELS],
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
const _: () = assert!(size_of::<OomKill>() == 104 + MAX_LEVELS * 24);
const _: () = assert!(size_of::<Reclaim>() == 40);
const _: () = assert!(size_of::<KswapdWake>() == 24);
const _: () = assert!(size_of::<ReclaimRetry>() == 32);
const _: () = assert!(size_of::<Growth>() == 40);
const _: () = assert!(size_of::<CgroupChange>() == 32 + PATH_LEN);
const _: () = assert!(size_of::<InitExit>() == 24);
