//! What the node is: name, capacity, allocatable, addresses.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{NodeAgentError, Setup};
use crate::cgroup::parse;
use crate::cgroup::pressure::PressureFiles;
use crate::clock;
use crate::cri::dns::{NodeDns, ResolvConf};
use oomlet_core::config::Config;
use oomlet_core::eviction::psi::PsiThresholds;
use oomlet_core::eviction::threshold::Signal;
use oomlet_core::pod::admission::NodeFacts;
use oomlet_core::pod::qos::{Amounts, CgroupResources, cpu_shares};

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
            os: "linux".to_owned(),
            arch: go_arch().to_owned(),
            labels: BTreeMap::new(),
            memory_pressure: false,
            disk_pressure: false,
            pid_pressure: false,
            critical: false,
        },
        kubepods: CgroupResources {
            // The enforced limit leaves out the eviction threshold, as kubelet's does.
            memory_limit_bytes: config.enforce_pods_allocatable.then_some(enforced.memory_bytes),
            cpu_shares: Some(cpu_shares(enforced.milli_cpu)),
            ..CgroupResources::default()
        },
        eviction_hard_bytes,
        memory_capacity_bytes: capacity.memory_bytes,
        host_ips: host_ip().into_iter().collect(),
    })
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

/// Whether a container's processes are OOM-killed together: on cgroup v2, unless `singleProcessOOMKill` is true.
///
/// # Errors
/// [`NodeAgentError::OomKillGroupOnV1`] where that is asked for and cannot be, as kubelet refuses it.
pub fn oom_kill_group(
    single_process: Option<bool>,
    memory: oomlet_core::signal::Hierarchy,
) -> Result<bool, NodeAgentError> {
    use oomlet_core::signal::Hierarchy::{MemoryV1, Unified};
    match (memory, single_process) {
        (Unified, single_process) => Ok(!single_process.unwrap_or(false)),
        (MemoryV1, Some(false)) => Err(NodeAgentError::OomKillGroupOnV1),
        (MemoryV1, None | Some(true)) => Ok(false),
    }
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

/// Go's names, as `kubernetes.io/arch` uses them.
const fn go_arch() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "amd64"
    } else if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        std::env::consts::ARCH
    }
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
