//! Pod workers, their cgroups and images.

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounterVec};

use super::registered::{DEFAULT_BUCKETS, Registered, STARTUP_BUCKETS};

#[derive(Clone, Debug)]
pub struct WorkerTimes {
    duration: HistogramVec,
    start: Histogram,
    cgroups: HistogramVec,
    pub(crate) pod_start: Histogram,
    pub(crate) pod_start_sli: Histogram,
    pub(crate) pod_start_total: Histogram,
    pub(crate) containers_per_pod: Histogram,
    terminated: IntCounterVec,
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
            start: on.histogram(
                "kubelet_pod_worker_start_duration_seconds",
                "[ALPHA] Duration in seconds from kubelet seeing a pod to starting a worker.",
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
            terminated: on.counters(
                "kubelet_terminated_containers_total",
                "[ALPHA] Cumulative number of container terminations.",
                &["container_type", "exit_code", "reason"],
            ),
        }
    }

    pub fn ended(&self, operation: Operation, took: Duration) {
        self.duration.with_label_values(&[operation.as_str()]).observe(took.as_secs_f64());
    }

    /// From the first order to the worker's beginning.
    pub fn began(&self, after: Duration) {
        self.start.observe(after.as_secs_f64());
    }

    /// `operation`: `create`, `update` or `destroy`.
    pub fn cgroup(&self, operation: &str, took: Duration) {
        self.cgroups.with_label_values(&[operation]).observe(took.as_secs_f64());
    }

    pub fn terminated(&self, container_type: &str, exit_code: i32, reason: &str) {
        self.terminated.with_label_values(&[container_type, &exit_code.to_string(), reason]).inc();
    }
}
