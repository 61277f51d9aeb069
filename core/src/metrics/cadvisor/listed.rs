//! The families that have several values for a cgroup: CPU, page faults, devices, interfaces, file systems.

use prometheus::proto::LabelPair;

use super::Subject;
use crate::metrics::family::{Family, Kind, label, number, seconds};
use crate::stats::numbers::{Cgroup, DeviceIo, FsUse, Interface, MountedFs};

type OfInterface = (&'static str, &'static str, fn(&Interface) -> u64);
type OfDevice = (&'static str, &'static str, fn(&DeviceIo) -> u64);
type OfMount = (&'static str, &'static str, fn(&FsUse) -> Option<u64>);

const INTERFACES: [OfInterface; 8] = [
    ("container_network_receive_bytes_total", "Cumulative count of bytes received", |i| i.received.bytes),
    ("container_network_receive_packets_total", "Cumulative count of packets received", |i| {
        i.received.packets
    }),
    (
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        |i| i.received.dropped,
    ),
    (
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        |i| i.received.errors,
    ),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |i| {
        i.transmitted.bytes
    }),
    ("container_network_transmit_packets_total", "Cumulative count of packets transmitted", |i| {
        i.transmitted.packets
    }),
    (
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        |i| i.transmitted.dropped,
    ),
    (
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        |i| i.transmitted.errors,
    ),
];

const DEVICES: [OfDevice; 4] = [
    ("container_fs_reads_bytes_total", "Cumulative count of bytes read", |d| d.read_bytes),
    ("container_fs_reads_total", "Cumulative count of reads completed", |d| d.reads),
    ("container_fs_writes_bytes_total", "Cumulative count of bytes written", |d| d.written_bytes),
    ("container_fs_writes_total", "Cumulative count of writes completed", |d| d.writes),
];

const MOUNTS: [OfMount; 4] = [
    ("container_fs_inodes_free", "Number of available Inodes", |fs| fs.inodes_free),
    ("container_fs_inodes_total", "Number of Inodes", |fs| fs.inodes),
    (
        "container_fs_limit_bytes",
        "Number of bytes that can be consumed by the container on this filesystem.",
        |fs| fs.capacity_bytes,
    ),
    (
        "container_fs_usage_bytes",
        "Number of bytes that are consumed by the container on this filesystem.",
        |fs| fs.used_bytes,
    ),
];

pub(super) struct Listed {
    cpu: Family,
    failures: Family,
    ulimits: Family,
    blkio: Family,
    interfaces: Vec<Family>,
    devices: Vec<Family>,
    mounts: Vec<Family>,
}

impl Listed {
    pub(super) fn new() -> Listed {
        use Kind::{Counter, Gauge};
        Listed {
            cpu: Family::new(
                Counter,
                "container_cpu_usage_seconds_total",
                "Cumulative cpu time consumed in seconds.",
            ),
            failures: Family::new(
                Counter,
                "container_memory_failures_total",
                "Cumulative count of memory allocation failures.",
            ),
            ulimits: Family::new(
                Gauge,
                "container_ulimits_soft",
                "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice",
            ),
            blkio: Family::new(Counter, "container_blkio_device_usage_total", "Blkio Device bytes usage"),
            interfaces: INTERFACES.iter().map(|(name, help, _)| Family::new(Counter, name, help)).collect(),
            devices: DEVICES.iter().map(|(name, help, _)| Family::new(Counter, name, help)).collect(),
            mounts: MOUNTS.iter().map(|(name, help, _)| Family::new(Gauge, name, help)).collect(),
        }
    }

    pub(super) fn into_families(self) -> impl Iterator<Item = Family> {
        [self.cpu, self.failures, self.ulimits, self.blkio]
            .into_iter()
            .chain(self.interfaces)
            .chain(self.devices)
            .chain(self.mounts)
    }

    pub(super) fn add(&mut self, subject: &Subject<'_>) {
        let labels = &subject.labels;
        self.add_cgroup(subject.cgroup, labels);
        if let Some(network) = subject.network {
            for interface in &network.interfaces {
                for ((_, _, of), family) in INTERFACES.iter().zip(&mut self.interfaces) {
                    let labels = with(labels, [("interface", &interface.name)]);
                    family.push(labels, number(of(interface)), Some(network.at_ns));
                }
            }
        }
        for MountedFs { device, fs } in subject.mounts {
            for ((_, _, of), family) in MOUNTS.iter().zip(&mut self.mounts) {
                if let Some(value) = of(fs) {
                    family.push(with(labels, [("device", device)]), number(value), Some(fs.at_ns));
                }
            }
        }
    }

    fn add_cgroup(&mut self, cgroup: &Cgroup, labels: &[LabelPair]) {
        if let Some(cpu) = cgroup.cpu.as_ref().filter(|cpu| cpu.usage_ns > 0) {
            self.cpu.push(with(labels, [("cpu", "total")]), seconds(cpu.usage_ns), Some(cpu.at_ns));
        }
        if let Some(memory) = &cgroup.memory {
            let kinds =
                [("pgfault", memory.counters.page_faults), ("pgmajfault", memory.counters.major_page_faults)];
            // cAdvisor's are the same number twice.
            for scope in ["container", "hierarchy"] {
                for (kind, value) in kinds.iter().filter_map(|(kind, value)| Some((*kind, (*value)?))) {
                    let labels = with(labels, [("failure_type", kind), ("scope", scope)]);
                    self.failures.push(labels, number(value), Some(memory.at_ns));
                }
            }
        }
        if let Some((p, limit)) = cgroup.processes.as_ref().and_then(|p| Some((p, p.max_open_files?))) {
            #[allow(clippy::cast_precision_loss, reason = "a double is what Prometheus has")]
            self.ulimits.push(with(labels, [("ulimit", "max_open_files")]), limit as f64, Some(p.at_ns));
        }
        let Some(io) = &cgroup.io else { return };
        for device in &io.devices {
            for ((_, _, of), family) in DEVICES.iter().zip(&mut self.devices) {
                let labels = with(labels, [("device", &device.device)]);
                family.push(labels, number(of(device)), Some(io.at_ns));
            }
            let (major, minor) = (device.major.to_string(), device.minor.to_string());
            let operations = [
                ("Discard", device.discarded_bytes),
                ("Read", Some(device.read_bytes)),
                ("Write", Some(device.written_bytes)),
            ];
            for (operation, bytes) in operations.into_iter().filter_map(|(name, bytes)| Some((name, bytes?)))
            {
                let own = [
                    ("device", device.device.as_str()),
                    ("major", &major),
                    ("minor", &minor),
                    ("operation", operation),
                ];
                self.blkio.push(with(labels, own), number(bytes), Some(io.at_ns));
            }
        }
    }
}

fn with<'a, S: AsRef<str> + ?Sized + 'a, const N: usize>(
    labels: &[LabelPair],
    own: [(&'static str, &'a S); N],
) -> Vec<LabelPair> {
    let mut all = Vec::with_capacity(labels.len() + N);
    all.extend_from_slice(labels);
    all.extend(own.into_iter().map(|(name, value)| label(name, value.as_ref())));
    all.sort_by(|a, b| a.name().cmp(b.name()));
    all
}
