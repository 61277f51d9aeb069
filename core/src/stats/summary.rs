//! kubelet's `stats/v1alpha1` Summary: names, order and text forms are its own. What is not known is not in it.

mod types;

use super::numbers::{self, Cgroup, Container, FsUse, Node, Pod};
pub use types::*;

/// Which part is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    /// `?only_cpu_and_memory=true`.
    CpuAndMemory,
}

const fn at(ns: i64) -> Time {
    Time(Some(ns))
}

impl Summary {
    /// Pods that have not begun are not in it; of a pod those containers that run.
    #[must_use]
    pub fn of(node: &Node, scope: Scope) -> Summary {
        let pods = node.pods.values().filter(|pod| pod.started_ns.is_some());
        Summary { node: node_stats(node, scope), pods: pods.map(|pod| pod_stats(pod, node, scope)).collect() }
    }
}

fn node_stats(node: &Node, scope: Scope) -> NodeStats {
    let system = node.system_containers.iter().map(|(name, cgroup)| {
        let started = if *name == "kubelet" { Some(node.agent_started_ns) } else { cgroup.created_ns };
        of_cgroup((*name).to_owned(), started, cgroup, scope)
    });
    let all = scope == Scope::All;
    let runtime = RuntimeStats {
        image_fs: node.imagefs.as_ref().map(fs_stats),
        container_fs: node.containerfs.as_ref().map(fs_stats),
    };
    let limit = Some(node.machine.memory_bytes).filter(|bytes| *bytes > 0);
    NodeStats {
        node_name: node.name.clone(),
        system_containers: system.collect(),
        start_time: at(node.booted_ns),
        cpu: cpu_stats(&node.root),
        memory: memory_stats(&node.root, limit),
        io: io_stats(&node.root).filter(|_| all),
        network: node.network.as_ref().map(network_stats).filter(|_| all),
        fs: node.nodefs.as_ref().map(fs_stats).filter(|_| all),
        runtime: all.then_some(runtime),
        rlimit: node.rlimit.filter(|_| all).map(|r| RlimitStats {
            time: at(r.at_ns),
            maxpid: r.max_pid,
            curproc: r.running,
        }),
        swap: node.swap.map(|swap| SwapStats {
            time: at(swap.at_ns),
            swap_available_bytes: swap.available_bytes,
            swap_usage_bytes: swap.used_bytes,
        }),
    }
}

fn pod_stats(pod: &Pod, node: &Node, scope: Scope) -> PodStats {
    let all = scope == Scope::All;
    let counted = pod.containers.iter().filter_map(|c| c.cgroup.processes?.processes);
    let processes = counted.reduce(u64::saturating_add);
    PodStats {
        pod_ref: PodReference {
            name: pod.pod.name.clone(),
            namespace: pod.pod.namespace.clone(),
            uid: pod.pod.uid.to_string(),
        },
        start_time: Time(pod.started_ns),
        containers: pod.containers.iter().map(|c| container_stats(c, scope)).collect(),
        cpu: cpu_stats(&pod.cgroup),
        memory: memory_stats(&pod.cgroup, pod.cgroup.memory.and_then(|m| m.limit_bytes)),
        io: io_stats(&pod.cgroup).filter(|_| all),
        network: pod.network.as_ref().map(network_stats).filter(|_| all),
        volume: if all { pod.volumes.iter().map(|v| volume_stats(v, pod)).collect() } else { Vec::new() },
        ephemeral_storage: all.then(|| ephemeral_storage(pod, node.nodefs.as_ref())).flatten(),
        process_stats: processes.filter(|_| all).map(|process_count| ProcessStats { process_count }),
        swap: swap_stats(&pod.cgroup),
    }
}

fn container_stats(container: &Container, scope: Scope) -> ContainerStats {
    let all = scope == Scope::All;
    ContainerStats {
        rootfs: container.rootfs.as_ref().map(fs_stats).filter(|_| all),
        logs: container.logs.as_ref().map(fs_stats).filter(|_| all),
        ..of_cgroup(container.name.clone(), container.started_ns, &container.cgroup, scope)
    }
}

fn of_cgroup(name: String, started_ns: Option<i64>, cgroup: &Cgroup, scope: Scope) -> ContainerStats {
    ContainerStats {
        name,
        start_time: Time(started_ns),
        cpu: cpu_stats(cgroup),
        memory: memory_stats(cgroup, cgroup.memory.and_then(|m| m.limit_bytes)),
        io: io_stats(cgroup).filter(|_| scope == Scope::All),
        rootfs: None,
        logs: None,
        swap: swap_stats(cgroup),
    }
}

fn cpu_stats(cgroup: &Cgroup) -> Option<CpuStats> {
    let cpu = cgroup.cpu.as_ref()?;
    Some(CpuStats {
        time: at(cpu.at_ns),
        usage_nano_cores: cpu.usage_nano_cores,
        usage_core_nano_seconds: cpu.usage_ns,
        psi: cpu.pressure.as_ref().map(psi_stats),
    })
}

fn memory_stats(cgroup: &Cgroup, limit_bytes: Option<u64>) -> Option<MemoryStats> {
    let memory = cgroup.memory.as_ref()?;
    Some(MemoryStats {
        time: at(memory.at_ns),
        available_bytes: limit_bytes.map(|limit| limit.saturating_sub(memory.working_set_bytes)),
        usage_bytes: memory.usage_bytes,
        working_set_bytes: memory.working_set_bytes,
        rss_bytes: memory.counters.rss_bytes,
        page_faults: memory.counters.page_faults,
        major_page_faults: memory.counters.major_page_faults,
        psi: memory.pressure.as_ref().map(psi_stats),
    })
}

fn io_stats(cgroup: &Cgroup) -> Option<IoStats> {
    let io = cgroup.io.as_ref()?;
    Some(IoStats { time: at(io.at_ns), psi: io.pressure.as_ref().map(psi_stats)? })
}

fn swap_stats(cgroup: &Cgroup) -> Option<SwapStats> {
    let memory = cgroup.memory.as_ref()?;
    let used = memory.swap_bytes?;
    Some(SwapStats {
        time: at(memory.at_ns),
        swap_available_bytes: cgroup.spec.swap_limit_bytes.map(|limit| limit.saturating_sub(used)),
        swap_usage_bytes: Some(used),
    })
}

fn psi_stats(pressure: &numbers::Pressure) -> PsiStats {
    let data = |line: &numbers::PressureLine| PsiData {
        total: line.total_us,
        avg10: line.avg10,
        avg60: line.avg60,
        avg300: line.avg300,
    };
    PsiStats { full: data(&pressure.full), some: data(&pressure.some) }
}

/// kubelet's `defaultNetworkInterfaceName`.
const DEFAULT_INTERFACE: &str = "eth0";

fn network_stats(network: &numbers::Network) -> NetworkStats {
    let stats = |i: &numbers::Interface| InterfaceStats {
        name: i.name.clone(),
        rx_bytes: Some(i.received.bytes),
        rx_errors: Some(i.received.errors),
        tx_bytes: Some(i.transmitted.bytes),
        tx_errors: Some(i.transmitted.errors),
    };
    let interfaces: Vec<InterfaceStats> = network.interfaces.iter().map(stats).collect();
    let default = interfaces.iter().find(|i| i.name == DEFAULT_INTERFACE).cloned();
    let none = InterfaceStats {
        name: String::new(),
        rx_bytes: None,
        rx_errors: None,
        tx_bytes: None,
        tx_errors: None,
    };
    NetworkStats { time: at(network.at_ns), default: default.unwrap_or(none), interfaces }
}

fn fs_stats(fs: &FsUse) -> FsStats {
    FsStats {
        time: at(fs.at_ns),
        available_bytes: fs.available_bytes,
        capacity_bytes: fs.capacity_bytes,
        used_bytes: fs.used_bytes,
        inodes_free: fs.inodes_free,
        inodes: fs.inodes,
        inodes_used: fs.inodes_used,
    }
}

fn volume_stats(volume: &numbers::Volume, pod: &Pod) -> VolumeStats {
    let claim = |name: &String| PvcReference { name: name.clone(), namespace: pod.pod.namespace.clone() };
    VolumeStats {
        fs: fs_stats(&volume.fs),
        name: volume.name.clone(),
        pvc_ref: volume.claim.as_ref().map(claim),
    }
}

/// kubelet's `calcEphemeralStorage`: writable layers and logs of the containers, ephemeral volumes and what else the pod has
/// logged, on nodefs. Without anything of it known there is no number.
fn ephemeral_storage(pod: &Pod, nodefs: Option<&FsUse>) -> Option<FsStats> {
    let nodefs = nodefs?;
    let layers = pod.containers.iter().filter_map(|c| c.rootfs.as_ref());
    let logs = pod.containers.iter().filter_map(|c| c.logs.as_ref());
    let volumes = pod.volumes.iter().filter(|v| v.ephemeral).map(|v| &v.fs);
    let parts: Vec<&FsUse> = layers.chain(logs).chain(volumes).chain(&pod.logs).collect();
    let sum =
        |of: fn(&FsUse) -> Option<u64>| parts.iter().filter_map(|fs| of(fs)).reduce(u64::saturating_add);
    let newest = parts.iter().map(|fs| fs.at_ns).fold(nodefs.at_ns, i64::max);
    Some(FsStats {
        time: at(newest),
        available_bytes: nodefs.available_bytes,
        capacity_bytes: nodefs.capacity_bytes,
        used_bytes: sum(|fs| fs.used_bytes),
        inodes_free: nodefs.inodes_free,
        inodes: nodefs.inodes,
        inodes_used: sum(|fs| fs.inodes_used),
    })
}

#[cfg(test)]
mod tests;
