//! Calls to the container runtime.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounter, IntCounterVec};

use super::registered::{DEFAULT_BUCKETS, Registered};

#[derive(Clone, Debug)]
pub struct RuntimeOperations {
    total: IntCounterVec,
    errors: IntCounterVec,
    duration: HistogramVec,
    sandbox_duration: HistogramVec,
    sandbox_errors: IntCounterVec,
    pods: IntCounter,
    pod_errors: IntCounter,
}

impl Default for RuntimeOperations {
    fn default() -> RuntimeOperations {
        RuntimeOperations::new(&Registered::nowhere())
    }
}

impl RuntimeOperations {
    #[must_use]
    pub fn new(on: &Registered) -> RuntimeOperations {
        // ExponentialBuckets(.005, 2.5, 14).
        let buckets: Vec<f64> = std::iter::successors(Some(0.005), |b| Some(b * 2.5)).take(14).collect();
        RuntimeOperations {
            total: on.counters(
                "kubelet_runtime_operations_total",
                "[ALPHA] Cumulative number of runtime operations by operation type.",
                &["operation_type"],
            ),
            errors: on.counters(
                "kubelet_runtime_operations_errors_total",
                "[ALPHA] Cumulative number of runtime operation errors by operation type.",
                &["operation_type"],
            ),
            duration: on.histograms(
                "kubelet_runtime_operations_duration_seconds",
                "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.",
                &["operation_type"],
                &buckets,
            ),
            sandbox_duration: on.histograms(
                "kubelet_run_podsandbox_duration_seconds",
                "[ALPHA] Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.",
                &["runtime_handler"],
                &DEFAULT_BUCKETS,
            ),
            sandbox_errors: on.counters(
                "kubelet_run_podsandbox_errors_total",
                "[ALPHA] Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.",
                &["runtime_handler"],
            ),
            pods: on.counter("kubelet_started_pods_total", "[ALPHA] Cumulative number of pods started"),
            pod_errors: on.counter(
                "kubelet_started_pods_errors_total",
                "[ALPHA] Cumulative number of errors when starting pods",
            ),
        }
    }

    /// `call`: the CRI's name of it.
    pub fn ended(&self, call: &str, took: Duration, well: bool) {
        let operation = operation_type(call);
        self.total.with_label_values(&[&operation]).inc();
        self.duration.with_label_values(&[&operation]).observe(took.as_secs_f64());
        if !well {
            self.errors.with_label_values(&[&operation]).inc();
        }
        if call == "RunPodSandbox" {
            self.pods.inc();
            self.sandbox_duration.with_label_values(&[""]).observe(took.as_secs_f64());
            if !well {
                self.pod_errors.inc();
                self.sandbox_errors.with_label_values(&[""]).inc();
            }
        }
    }
}

/// kubelet's word (pkg/kubelet/kuberuntime/instrumented_services.go): the call's with underscores, but for some.
fn operation_type(call: &str) -> String {
    match call {
        "RunPodSandbox" => "run_podsandbox".to_owned(),
        "StopPodSandbox" => "stop_podsandbox".to_owned(),
        "RemovePodSandbox" => "remove_podsandbox".to_owned(),
        "PodSandboxStatus" => "podsandbox_status".to_owned(),
        "ListPodSandbox" => "list_podsandbox".to_owned(),
        "UpdateContainerResources" => "update_container".to_owned(),
        call => {
            let mut words = String::with_capacity(call.len() + 4);
            for (at, c) in call.char_indices() {
                if c.is_ascii_uppercase() && at > 0 {
                    words.push('_');
                }
                words.push(c.to_ascii_lowercase());
            }
            words
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_have_kubelets_names() {
        for (call, operation) in [
            ("Version", "version"),
            ("Status", "status"),
            ("RunPodSandbox", "run_podsandbox"),
            ("ListPodSandbox", "list_podsandbox"),
            ("CreateContainer", "create_container"),
            ("ContainerStatus", "container_status"),
            ("ExecSync", "exec_sync"),
            ("PullImage", "pull_image"),
            ("ImageFsInfo", "image_fs_info"),
            ("ListContainerStats", "list_container_stats"),
        ] {
            assert_eq!(operation_type(call), operation);
        }
    }
}
