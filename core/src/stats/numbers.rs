//! What is read of the node and of each cgroup. Times are Unix nanoseconds of the reading itself, so that each number is shown
//! with its age.

use std::collections::BTreeMap;

use crate::pod::{PodRef, PodUid};

/// Pressure stall information of one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    pub some: PressureLine,
    pub full: PressureLine,
}

/// Averages in per cent of the last 10, 60 and 300 s; the total in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PressureLine {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total_us: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    pub at_ns: i64,
    pub usage_ns: u64,
    pub user_ns: Option<u64>,
    pub system_ns: Option<u64>,
    /// Over the time since the reading before.
    pub usage_nano_cores: Option<u64>,
    /// `None` where the cgroup has no quota: it is never throttled then.
    pub throttling: Option<Throttling>,
    pub pressure: Option<Pressure>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
    /// Where the kernel has CFS burst (5.14).
    pub burst_periods: Option<u64>,
    pub burst_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    pub at_ns: i64,
    pub usage_bytes: u64,
    pub working_set_bytes: u64,
    pub inactive_file_bytes: u64,
    pub active_file_bytes: u64,
    /// `None`: no limit.
    pub limit_bytes: Option<u64>,
    pub counters: super::account::StatCounters,
    pub events: super::account::EventCounters,
    /// The most there ever was, and how often the limit was met (v1).
    pub max_usage_bytes: Option<u64>,
    pub limit_hits: Option<u64>,
    pub kernel_bytes: Option<u64>,
    pub swap_bytes: Option<u64>,
    pub pressure: Option<Pressure>,
}

/// Of one block device, cumulative.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// As `/dev/sda`; empty where the node does not know it.
    pub device: String,
    pub major: u32,
    pub minor: u32,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
    pub discarded_bytes: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Io {
    pub at_ns: i64,
    pub devices: Vec<DeviceIo>,
    pub pressure: Option<Pressure>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Processes {
    pub at_ns: i64,
    pub processes: Option<u64>,
    pub threads: Option<u64>,
    /// `None`: as many as the node allows.
    pub threads_max: Option<u64>,
    pub file_descriptors: Option<u64>,
    pub sockets: Option<u64>,
    /// Of the container's first process; -1: unlimited.
    pub max_open_files: Option<i64>,
}

/// Of one network interface, cumulative.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub received: Traffic,
    pub transmitted: Traffic,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    pub at_ns: i64,
    pub interfaces: Vec<Interface>,
}

/// What the cgroup is allowed, as its files say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuSpec {
    pub shares: Option<u64>,
    pub period_us: Option<u64>,
    /// `None`: no quota.
    pub quota_us: Option<u64>,
}

/// What the cgroup is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    pub cpu: CpuSpec,
    /// v2: `memory.swap.max`, v1: of memory and swap together.
    pub swap_limit_bytes: Option<u64>,
    /// v2: `memory.min`, v1: the soft limit.
    pub reservation_bytes: Option<u64>,
}

/// Memory's numbers that no decision needs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryExtras {
    pub max_usage_bytes: Option<u64>,
    pub limit_hits: Option<u64>,
    pub kernel_bytes: Option<u64>,
    pub swap_bytes: Option<u64>,
    pub pressure: Option<Pressure>,
}

/// One reading of one cgroup's files, but for those of the memory controller that the sampler reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CgroupReading {
    pub cpu: Option<Cpu>,
    pub io: Option<Io>,
    pub extras: MemoryExtras,
    pub processes: Processes,
    pub spec: Spec,
    /// Of a cgroup that the sampler does not watch.
    pub memory: Option<super::account::CgroupMemory>,
}

/// One cgroup.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cgroup {
    /// Its path in each hierarchy: cAdvisor's `id`.
    pub path: String,
    /// When it was made.
    pub created_ns: Option<i64>,
    pub cpu: Option<Cpu>,
    pub spec: Spec,
    pub memory: Option<Memory>,
    pub io: Option<Io>,
    pub processes: Option<Processes>,
    pub network: Option<Network>,
}

/// Of one file system or of what uses it. Bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsUse {
    pub at_ns: i64,
    pub available_bytes: Option<u64>,
    pub capacity_bytes: Option<u64>,
    pub used_bytes: Option<u64>,
    pub inodes_free: Option<u64>,
    pub inodes: Option<u64>,
    pub inodes_used: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    pub name: String,
    /// The runtime's id.
    pub id: String,
    pub image: String,
    /// When the runtime started it.
    pub started_ns: Option<i64>,
    pub cgroup: Cgroup,
    pub rootfs: Option<FsUse>,
    pub logs: Option<FsUse>,
    /// OOM kills of this container and of those that it was before its restarts.
    pub oom_kills: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    pub id: String,
    pub image: String,
    pub cgroup: Cgroup,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Volume {
    pub name: String,
    /// Its contents go with the pod: they count as the pod's ephemeral storage.
    pub ephemeral: bool,
    /// Of one that is a PersistentVolumeClaim's: the claim's name, in the pod's namespace.
    pub claim: Option<String>,
    pub fs: FsUse,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    pub pod: PodRef,
    /// `status.startTime`; a pod without is not in the Summary.
    pub started_ns: Option<i64>,
    /// Whether its network is the node's.
    pub host_network: bool,
    pub cgroup: Cgroup,
    pub sandbox: Option<Sandbox>,
    pub containers: Vec<Container>,
    pub volumes: Vec<Volume>,
    pub logs: Option<FsUse>,
    pub network: Option<Network>,
}

/// Kernel and hardware, which do not change while the agent runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    pub cpus: u64,
    pub physical_cores: u64,
    pub sockets: u64,
    pub memory_bytes: u64,
    pub swap_bytes: Option<u64>,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel_version: String,
    pub os_version: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rlimit {
    pub at_ns: i64,
    pub max_pid: u64,
    pub running: u64,
}

/// A mounted file system of the node's, as cAdvisor's root container has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountedFs {
    pub device: String,
    pub fs: FsUse,
}

/// Everything, as it was read last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    pub name: String,
    pub booted_ns: i64,
    pub agent_started_ns: i64,
    pub machine: Machine,
    /// The root cgroup, which is the whole machine.
    pub root: Cgroup,
    pub network: Option<Network>,
    /// `None` where the node has no swap or it is not known.
    pub swap: Option<Swap>,
    pub rlimit: Option<Rlimit>,
    pub nodefs: Option<FsUse>,
    pub imagefs: Option<FsUse>,
    pub containerfs: Option<FsUse>,
    pub mounts: Vec<MountedFs>,
    /// Other cgroups, by what the Summary calls them: `kubelet`, `runtime`, `pods`, `misc`.
    pub system_containers: BTreeMap<&'static str, Cgroup>,
    /// `kubepods` and its classes.
    pub classes: Vec<Cgroup>,
    pub pods: BTreeMap<PodUid, Pod>,
}

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swap {
    pub at_ns: i64,
    pub available_bytes: Option<u64>,
    pub used_bytes: Option<u64>,
}
