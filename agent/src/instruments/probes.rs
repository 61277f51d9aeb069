//! Runs of probes: the page `/metrics/probes`.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec};

use super::registered::{DEFAULT_BUCKETS, Registered};

#[derive(Clone, Debug)]
pub struct ProbeResults {
    total: IntCounterVec,
    duration: HistogramVec,
}

/// Whose probe it is. `kind`: `Liveness`, `Readiness` or `Startup`.
#[derive(Clone, Copy, Debug)]
pub struct ProbeOf<'a> {
    pub kind: &'a str,
    pub container: &'a str,
    pub pod: &'a str,
    pub namespace: &'a str,
    pub pod_uid: &'a str,
}

/// kubelet's words for what a probe comes to.
pub const RESULTS: [&str; 3] = ["successful", "failed", "unknown"];

impl Default for ProbeResults {
    fn default() -> ProbeResults {
        ProbeResults::new(&Registered::nowhere())
    }
}

impl ProbeResults {
    #[must_use]
    pub fn new(on: &Registered) -> ProbeResults {
        ProbeResults {
            total: on.counters(
                "prober_probe_total",
                "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
                &["probe_type", "result", "container", "pod", "namespace", "pod_uid"],
            ),
            duration: on.histograms(
                "prober_probe_duration_seconds",
                "[ALPHA] Duration in seconds for a probe response.",
                &["probe_type", "container", "pod", "namespace"],
                &DEFAULT_BUCKETS,
            ),
        }
    }

    /// `result`: one of [`RESULTS`]. The time counts of those that got an answer that is one.
    pub fn ended(&self, of: &ProbeOf<'_>, result: &str, took: Duration) {
        let labels = [of.kind, result, of.container, of.pod, of.namespace, of.pod_uid];
        self.total.with_label_values(&labels).inc();
        if result == "successful" {
            let labels = [of.kind, of.container, of.pod, of.namespace];
            self.duration.with_label_values(&labels).observe(took.as_secs_f64());
        }
    }

    /// The container's probe is gone, and its series with it.
    pub fn forget(&self, of: &ProbeOf<'_>) {
        for result in RESULTS {
            let labels = [of.kind, result, of.container, of.pod, of.namespace, of.pod_uid];
            // One that never came has no series.
            let _ = self.total.remove_label_values(&labels);
        }
        let _ = self.duration.remove_label_values(&[of.kind, of.container, of.pod, of.namespace]);
    }
}
