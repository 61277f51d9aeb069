//! `/metrics/resource`: CPU, memory and swap of node, pods and containers, which metrics-server reads.

use prometheus::proto::{LabelPair, MetricFamily};

use super::family::{Family, Kind, finish, label, number, seconds};
use crate::stats::numbers::{Cgroup, Node, Swap};

/// Help as kubelet's, with the stability that it has.
struct Families {
    node_cpu: Family,
    node_memory: Family,
    node_swap: Family,
    start_time: Family,
    container_cpu: Family,
    container_memory: Family,
    container_swap: Family,
    container_swap_limit: Family,
    pod_cpu: Family,
    pod_memory: Family,
    pod_swap: Family,
}

impl Families {
    fn new() -> Families {
        use Kind::{Counter, Gauge};
        Families {
            node_cpu: Family::new(
                Counter,
                "node_cpu_usage_seconds_total",
                "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
            ),
            node_memory: Family::new(
                Gauge,
                "node_memory_working_set_bytes",
                "[STABLE] Current working set of the node in bytes",
            ),
            node_swap: Family::new(
                Gauge,
                "node_swap_usage_bytes",
                "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
            ),
            start_time: Family::new(
                Gauge,
                "container_start_time_seconds",
                "[STABLE] Start time of the container since unix epoch in seconds",
            ),
            container_cpu: Family::new(
                Counter,
                "container_cpu_usage_seconds_total",
                "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
            ),
            container_memory: Family::new(
                Gauge,
                "container_memory_working_set_bytes",
                "[STABLE] Current working set of the container in bytes",
            ),
            container_swap: Family::new(
                Gauge,
                "container_swap_usage_bytes",
                "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
            ),
            container_swap_limit: Family::new(
                Gauge,
                "container_swap_limit_bytes",
                "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems",
            ),
            pod_cpu: Family::new(
                Counter,
                "pod_cpu_usage_seconds_total",
                "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
            ),
            pod_memory: Family::new(
                Gauge,
                "pod_memory_working_set_bytes",
                "[STABLE] Current working set of the pod in bytes",
            ),
            pod_swap: Family::new(
                Gauge,
                "pod_swap_usage_bytes",
                "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
            ),
        }
    }
}

/// `None`: nothing has been read yet, which is the error that the gauge tells of.
#[must_use]
pub fn families(node: Option<&Node>) -> Vec<MetricFamily> {
    let mut f = Families::new();
    if let Some(node) = node {
        of_node(&mut f, node);
    }
    let failed = if node.is_some() { 0.0 } else { 1.0 };
    let error = Family::new(
        Kind::Gauge,
        "resource_scrape_error",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    finish([
        f.node_cpu,
        f.node_memory,
        f.node_swap,
        f.start_time,
        f.container_cpu,
        f.container_memory,
        f.container_swap,
        f.container_swap_limit,
        f.pod_cpu,
        f.pod_memory,
        f.pod_swap,
        error.with(Vec::new(), failed, None),
    ])
}

fn of_node(f: &mut Families, node: &Node) {
    cpu(&mut f.node_cpu, &node.root, &[]);
    working_set(&mut f.node_memory, &node.root, &[]);
    if let Some(Swap { at_ns, used_bytes: Some(used), .. }) = node.swap {
        f.node_swap.push(Vec::new(), number(used), Some(at_ns));
    }
    for pod in node.pods.values().filter(|pod| pod.started_ns.is_some()) {
        let of_pod = [label("namespace", &pod.pod.namespace), label("pod", &pod.pod.name)];
        for container in &pod.containers {
            let labels = [[label("container", &container.name)].as_slice(), &of_pod].concat();
            if let Some(started) = container.started_ns.and_then(|ns| u64::try_from(ns).ok()) {
                f.start_time.push(labels.clone(), seconds(started), None);
            }
            cpu(&mut f.container_cpu, &container.cgroup, &labels);
            working_set(&mut f.container_memory, &container.cgroup, &labels);
            swap(&mut f.container_swap, &container.cgroup, &labels);
            if let (Some(memory), Some(limit)) =
                (&container.cgroup.memory, container.cgroup.spec.swap_limit_bytes)
            {
                f.container_swap_limit.push(labels, number(limit), Some(memory.at_ns));
            }
        }
        cpu(&mut f.pod_cpu, &pod.cgroup, &of_pod);
        working_set(&mut f.pod_memory, &pod.cgroup, &of_pod);
        swap(&mut f.pod_swap, &pod.cgroup, &of_pod);
    }
}

fn cpu(family: &mut Family, cgroup: &Cgroup, labels: &[LabelPair]) {
    if let Some(cpu) = &cgroup.cpu {
        family.push(labels.to_vec(), seconds(cpu.usage_ns), Some(cpu.at_ns));
    }
}

fn working_set(family: &mut Family, cgroup: &Cgroup, labels: &[LabelPair]) {
    if let Some(memory) = &cgroup.memory {
        family.push(labels.to_vec(), number(memory.working_set_bytes), Some(memory.at_ns));
    }
}

fn swap(family: &mut Family, cgroup: &Cgroup, labels: &[LabelPair]) {
    if let Some((at, used)) = cgroup.memory.as_ref().and_then(|m| Some((m.at_ns, m.swap_bytes?))) {
        family.push(labels.to_vec(), number(used), Some(at));
    }
}
