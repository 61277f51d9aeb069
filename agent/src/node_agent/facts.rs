//! What the node is: name, capacity, allocatable, addresses.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{NodeAgentError, Setup};
use crate::cgroup::driver::CgroupDriver;
use crate::cgroup::parse;
use crate::cgroup::pressure::PressureFiles;
use crate::clock;
use crate::cri::container_config::{ContainerCgroups, SwapControl};
use crate::cri::dns::{NodeDns, ResolvConf};
use oomlet_core::config::Config;
use oomlet_core::eviction::psi::PsiThresholds;
use oomlet_core::eviction::resources::ResourceSignal;
use oomlet_core::eviction::threshold::Signal;
use oomlet_core::pod::admission::NodeFacts;
use oomlet_core::pod::qos::{Amounts, CgroupResources, cpu_shares};
use oomlet_core::quantity::parse_bytes;
use oomlet_core::signal::Hierarchy;
use oomlet_core::version::go_arch;

/// Without `serializeImagePulls` and `maxParallelImagePulls`. kubelet sets no bound; a node with more pulls than this at
/// a time gains nothing.
const PARALLEL_PULLS: usize = 16;

#[derive(Debug)]
pub struct Node {
    pub facts: NodeFacts,
    /// Limits of the `kubepods` cgroup.
    pub kubepods: CgroupResources,
    /// The hard threshold of `memory.available`; 0 without.
    pub eviction_hard_bytes: u64,
    pub memory_capacity_bytes: u64,
    pub host_ips: Vec<String>,
}

pub fn gather(setup: &Setup) -> Result<Node, NodeAgentError> {
    let config = &setup.config;
    let path = "/proc/meminfo";
    let text = std::fs::read(path).map_err(|source| NodeAgentError::Read { path, source })?;
    let info = parse::meminfo(&text).map_err(|_| NodeAgentError::Proc { path, what: "MemTotal" })?;
    let cpus = cpus() as u64;
    let capacity = Amounts { milli_cpu: cpus * 1000, memory_bytes: info.total_bytes };
    let reserved = config.reserved();
    if reserved.memory_bytes >= capacity.memory_bytes {
        return Err(NodeAgentError::NothingAllocatable {
            reserved: reserved.memory_bytes,
            capacity: capacity.memory_bytes,
        });
    }
    let enforced = Amounts {
        milli_cpu: capacity.milli_cpu.saturating_sub(reserved.milli_cpu),
        memory_bytes: capacity.memory_bytes - reserved.memory_bytes,
    };
    let hostname = setup
        .hostname
        .clone()
        .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().trim().to_lowercase());
    let eviction_hard_bytes = eviction_hard_bytes(config, capacity);
    Ok(Node {
        facts: NodeFacts {
            name: hostname,
            allocatable: Amounts {
                memory_bytes: enforced.memory_bytes.saturating_sub(eviction_hard_bytes),
                ..enforced
            },
            max_pods: config.max_pods as usize,
            allowed_sysctls: config.allowed_sysctls.clone(),
            os: "linux".to_owned(),
            arch: go_arch().to_owned(),
            labels: setup.cluster.node_labels.clone(),
            memory_pressure: false,
            disk_pressure: false,
            pid_pressure: false,
            critical: false,
            is_static_pod: false,
            apparmor: apparmor(),
            taints: Vec::new(),
        },
        kubepods: CgroupResources {
            // The enforced limit leaves out the eviction threshold, as kubelet's does.
            memory_limit_bytes: config.enforce_pods_allocatable.then_some(enforced.memory_bytes),
            cpu_shares: Some(cpu_shares(enforced.milli_cpu)),
            ..CgroupResources::default()
        },
        eviction_hard_bytes,
        memory_capacity_bytes: capacity.memory_bytes,
        host_ips: match setup.cluster.node_ips.as_slice() {
            [] => host_ip().into_iter().collect(),
            given => given.iter().map(ToString::to_string).collect(),
        },
    })
}

/// As containerd looks for it: both the file system and the module's own word.
fn apparmor() -> bool {
    let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled");
    Path::new("/sys/kernel/security/apparmor").exists() && enabled.is_ok_and(|text| text.starts_with(b"Y"))
}

/// kubelet takes the hard threshold of `memory.available` off what may be allocated.
fn eviction_hard_bytes(config: &Config, capacity: Amounts) -> u64 {
    let hard = config
        .eviction_thresholds
        .enforced
        .iter()
        .find(|t| t.signal == Signal::MemoryAvailable && t.is_hard());
    hard.map_or(0, |t| t.value.of(capacity.memory_bytes))
}

/// What pods may not have of the file system of the root directory: what is reserved, and the hard threshold of
/// `nodefs.available`.
pub fn reserved_storage_bytes(config: &Config, capacity_bytes: u64) -> u64 {
    let reserved = [&config.system_reserved, &config.kube_reserved].into_iter().map(|list| {
        // The quantities were checked when the file was read.
        list.get("ephemeral-storage").and_then(|text| parse_bytes(text).ok()).unwrap_or(0)
    });
    let hard = config.eviction_thresholds.resources.iter();
    let hard = hard.filter(|t| t.signal == ResourceSignal::NodefsAvailable && t.is_hard());
    reserved.chain(hard.map(|t| t.value.of(capacity_bytes))).sum()
}

/// Whether a container's processes are OOM-killed together: on cgroup v2, unless `singleProcessOOMKill` is true.
///
/// # Errors
/// [`NodeAgentError::OomKillGroupOnV1`] where that is asked for and cannot be, as kubelet refuses it.
pub fn oom_kill_group(single_process: Option<bool>, memory: Hierarchy) -> Result<bool, NodeAgentError> {
    use Hierarchy::{MemoryV1, Unified};
    match (memory, single_process) {
        (Unified, single_process) => Ok(!single_process.unwrap_or(false)),
        (MemoryV1, Some(false)) => Err(NodeAgentError::OomKillGroupOnV1),
        (MemoryV1, None | Some(true)) => Ok(false),
    }
}

/// What containers are given of what the node's cgroups can. The cgroup of all pods is there. Blocking.
pub fn container_cgroups(oom_kill_group: bool, cgroups: &CgroupDriver) -> ContainerCgroups {
    let (file, there) = match cgroups.memory_hierarchy() {
        Hierarchy::MemoryV1 => ("memory.memsw.limit_in_bytes", SwapControl::V1),
        Hierarchy::Unified => ("memory.swap.max", SwapControl::V2),
    };
    let has_swap = cgroups.kubepods_dir().memory.join(file).exists();
    let swap = if has_swap { there } else { SwapControl::None };
    let huge_page_sizes = huge_page_sizes(Path::new("/sys/kernel/mm/hugepages"));
    ContainerCgroups { oom_kill_group, swap, huge_page_sizes }
}

/// As the kernel names cgroup files: `2MB`, `1GB`.
fn huge_page_sizes(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let of_entry = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some((
            kib,
            match kib {
                kib if kib >= 1 << 20 => format!("{}GB", kib >> 20),
                kib if kib >= 1 << 10 => format!("{}MB", kib >> 10),
                kib => format!("{kib}KB"),
            },
        ))
    };
    let mut sizes: Vec<(u64, String)> = entries.filter_map(of_entry).collect();
    sizes.sort();
    sizes.into_iter().map(|(_, name)| name).collect()
}

/// What the configuration asks in so many words not to run on. Unlike kubelet's, the default is to run.
///
/// # Errors
/// [`NodeAgentError::Swap`], [`NodeAgentError::CgroupV1`].
pub fn refuse_node(config: &Config, memory: Hierarchy) -> Result<(), NodeAgentError> {
    if config.fail_cgroup_v1 == Some(true) && memory == Hierarchy::MemoryV1 {
        return Err(NodeAgentError::CgroupV1);
    }
    if config.fail_swap_on == Some(true) {
        let path = "/proc/swaps";
        // A kernel without swap has no such file.
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if let Some(swap) = first_swap(&text) {
            return Err(NodeAgentError::Swap(swap.to_owned()));
        }
    }
    Ok(())
}

pub fn parallel_pulls(config: &Config) -> usize {
    match (config.serialize_image_pulls, config.max_parallel_image_pulls) {
        (true, _) => 1,
        (false, Some(most)) => most as usize,
        (false, None) => PARALLEL_PULLS,
    }
}

/// Of `/proc/swaps`: a head, then a line for each.
fn first_swap(swaps: &str) -> Option<&str> {
    swaps.lines().skip(1).find_map(|line| line.split_whitespace().next())
}

/// CPUs that the agent may use.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// # Errors
/// When a threshold asks for pressure stall information and the kernel keeps none.
pub fn pressure_files(psi: PsiThresholds) -> Result<Option<PressureFiles>, NodeAgentError> {
    psi.any().then(PressureFiles::open).transpose().map_err(NodeAgentError::NoPsi)
}

/// The address that this node would use to reach others: what a connected UDP socket is bound to. Nothing is sent.
/// 192.0.2.1 is a documentation address (RFC 5737): it leads to the default route.
fn host_ip() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then(|| ip.to_string())
}

/// The node's resolver configuration. Without a readable file pods get no nameserver of the node.
#[must_use]
pub fn dns(config: &Config) -> NodeDns {
    let host = match config.resolv_conf.as_str() {
        "" => ResolvConf::default(),
        path => match std::fs::read_to_string(path) {
            Ok(text) => ResolvConf::parse(&text),
            Err(error) => {
                tracing::warn!(path, %error, "cannot read resolvConf: pods get no nameserver of the node");
                ResolvConf::default()
            }
        },
    };
    NodeDns {
        host,
        cluster_dns: config.cluster_dns.iter().map(ToString::to_string).collect(),
        cluster_domain: config.cluster_domain.clone(),
    }
}

/// What to add to CLOCK_MONOTONIC to get Unix time, nanoseconds.
#[must_use]
pub fn unix_offset_ns() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos();
    i64::try_from(unix).unwrap_or(i64::MAX).saturating_sub(i64::try_from(clock::now().0).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oomlet_core::signal::Hierarchy::{MemoryV1, Unified};

    #[test]
    fn a_node_is_refused_only_where_that_is_said() {
        let with = |v1| Config { fail_cgroup_v1: v1, ..Config::default() };
        assert!(
            refuse_node(&with(None), MemoryV1).is_ok() && refuse_node(&with(Some(true)), Unified).is_ok()
        );
        let error = refuse_node(&with(Some(true)), MemoryV1).unwrap_err().to_string();
        assert!(error.contains("failCgroupV1") && error.contains("Remedy"), "{error}");
        let head = "Filename\tType\tSize\tUsed\tPriority\n";
        assert_eq!(first_swap(head), None);
        assert_eq!(first_swap(&format!("{head}/swapfile file 2097148 0 -2\n")), Some("/swapfile"));
    }

    #[test]
    fn huge_pages_are_named_as_the_kernel_names_their_files() {
        let dir = tempfile::tempdir().unwrap();
        for size in ["hugepages-1048576kB", "hugepages-2048kB", "hugepages-64kB", "other"] {
            std::fs::create_dir(dir.path().join(size)).unwrap();
        }
        assert_eq!(huge_page_sizes(dir.path()), ["64KB", "2MB", "1GB"]);
        assert!(huge_page_sizes(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn containers_are_oom_killed_as_a_whole_where_that_can_be() {
        for (memory, single_process, expected) in [
            (Unified, None, Some(true)),
            (Unified, Some(false), Some(true)),
            (Unified, Some(true), Some(false)),
            (MemoryV1, None, Some(false)),
            (MemoryV1, Some(true), Some(false)),
            (MemoryV1, Some(false), None),
        ] {
            let group = oom_kill_group(single_process, memory);
            assert_eq!(group.as_ref().ok(), expected.as_ref(), "{memory:?} {single_process:?}");
            if let Err(error) = group {
                let error = error.to_string();
                assert!(error.contains("singleProcessOOMKill") && error.contains("Remedy"), "{error}");
            }
        }
    }
}
