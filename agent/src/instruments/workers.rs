//! Pod workers, their cgroups and images.

use std::time::Duration;

use prometheus::{GaugeVec, Histogram, HistogramVec, IntCounterVec};

use super::images::Images;
use super::registered::{DEFAULT_BUCKETS, Registered, STARTUP_BUCKETS};
use oomlet_core::metrics::startup::Started;
use oomlet_core::metrics::terminations::Terminated;

#[derive(Clone, Debug)]
pub struct WorkerTimes {
    duration: HistogramVec,
    cgroups: HistogramVec,
    pod_start: Histogram,
    pod_start_sli: Histogram,
    pod_start_total: Histogram,
    containers_per_pod: Histogram,
    started: IntCounterVec,
    failed: IntCounterVec,
    terminated: IntCounterVec,
    worker_start: Histogram,
    first_network_pod: GaugeVec,
    pub images: Images,
}

/// What a worker was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The first sync of a pod.
    Create,
    /// A sync with another manifest.
    Update,
    Sync,
    /// A pod is ended.
    Kill,
}

impl Operation {
    const fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "create",
            Operation::Update => "update",
            Operation::Sync => "sync",
            Operation::Kill => "kill",
        }
    }
}

impl Default for WorkerTimes {
    fn default() -> WorkerTimes {
        WorkerTimes::new(&Registered::nowhere())
    }
}

impl WorkerTimes {
    #[must_use]
    pub fn new(on: &Registered) -> WorkerTimes {
        WorkerTimes {
            duration: on.histograms(
                "kubelet_pod_worker_duration_seconds",
                "[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync",
                &["operation_type"],
                &DEFAULT_BUCKETS,
            ),
            cgroups: on.histograms(
                "kubelet_cgroup_manager_duration_seconds",
                "[ALPHA] Duration in seconds for cgroup manager operations. Broken down by method.",
                &["operation_type"],
                &DEFAULT_BUCKETS,
            ),
            pod_start: on.histogram(
                "kubelet_pod_start_duration_seconds",
                "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
                &STARTUP_BUCKETS,
            ),
            pod_start_sli: on.histogram(
                "kubelet_pod_start_sli_duration_seconds",
                "[ALPHA] Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
                &STARTUP_BUCKETS,
            ),
            pod_start_total: on.histogram(
                "kubelet_pod_start_total_duration_seconds",
                "[ALPHA] Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
                &STARTUP_BUCKETS,
            ),
            // ExponentialBuckets(1, 2, 5).
            containers_per_pod: on.histogram(
                "kubelet_containers_per_pod_count",
                "[ALPHA] The number of containers per pod.",
                &[1.0, 2.0, 4.0, 8.0, 16.0],
            ),
            started: on.counters(
                "kubelet_started_containers_total",
                "[ALPHA] Cumulative number of containers started",
                &["container_type"],
            ),
            failed: on.counters(
                "kubelet_started_containers_errors_total",
                "[ALPHA] Cumulative number of errors when starting containers",
                &["container_type", "code"],
            ),
            terminated: on.counters(
                "kubelet_terminated_containers_total",
                "[ALPHA] Cumulative number of container terminations.",
                &["container_type", "exit_code", "reason"],
            ),
            worker_start: on.histogram(
                "kubelet_pod_worker_start_duration_seconds",
                "[ALPHA] Duration in seconds from kubelet seeing a pod to starting a worker.",
                &DEFAULT_BUCKETS,
            ),
            // Without labels, and not there until there is such a pod.
            first_network_pod: on.gauges(
                "kubelet_first_network_pod_start_sli_duration_seconds",
                "[INTERNAL] Duration in seconds to start the first network pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch",
                &[],
            ),
            images: Images::new(on),
        }
    }

    pub fn ended(&self, operation: Operation, took: Duration) {
        self.duration.with_label_values(&[operation.as_str()]).observe(took.as_secs_f64());
    }

    /// A new pod, with so many containers.
    pub fn pod_seen(&self, containers: usize) {
        self.containers_per_pod.observe(f64::from(u32::try_from(containers).unwrap_or(u32::MAX)));
    }

    /// All its containers have started. `pulled`: how long its images were pulled.
    pub fn pod_started(&self, started: &Started, pulled: Duration) {
        self.pod_start.observe(started.since_seen.as_secs_f64());
        if let Some(total) = started.since_created {
            self.pod_start_total.observe(total.as_secs_f64());
            let own = total.saturating_sub(pulled).saturating_sub(started.initialising);
            self.pod_start_sli.observe(own.as_secs_f64());
            let first = self.first_network_pod.with_label_values::<&str>(&[]);
            if !started.host_network && first.get() == 0.0 {
                first.set(own.as_secs_f64());
            }
        }
    }

    /// `since_seen`: its source has named the pod for so long.
    pub fn worker_started(&self, since_seen: Duration) {
        self.worker_start.observe(since_seen.as_secs_f64());
    }

    pub fn container_terminated(&self, ended: &Terminated) {
        let code = ended.exit_code.to_string();
        self.terminated.with_label_values(&[ended.container_type, &code, &ended.reason]).inc();
    }

    /// `operation`: `create`, `update` or `destroy`.
    pub fn cgroup(&self, operation: &str, took: Duration) {
        self.cgroups.with_label_values(&[operation]).observe(took.as_secs_f64());
    }

    /// `container_type`: `container` or `init_container`.
    pub fn container_started(&self, container_type: &str) {
        self.started.with_label_values(&[container_type]).inc();
    }

    /// `code`: the reason that its status gives.
    pub fn container_failed(&self, container_type: &str, code: &str) {
        self.failed.with_label_values(&[container_type, code]).inc();
    }
}
