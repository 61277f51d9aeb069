//! Requests to the API server.

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounterVec};

use super::registered::Registered;

const BUCKETS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

#[derive(Clone, Debug)]
pub struct Requests {
    total: IntCounterVec,
    duration: HistogramVec,
    waited: HistogramVec,
    status_told: Histogram,
}

impl Default for Requests {
    fn default() -> Requests {
        Requests::new(&Registered::nowhere())
    }
}

impl Requests {
    #[must_use]
    pub fn new(on: &Registered) -> Requests {
        Requests {
            total: on.counters(
                "rest_client_requests_total",
                "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.",
                &["code", "method", "host"],
            ),
            duration: on.histograms(
                "rest_client_request_duration_seconds",
                "[ALPHA] Request latency in seconds. Broken down by verb, and host.",
                &["verb", "host"],
                &BUCKETS,
            ),
            waited: on.histograms(
                "rest_client_rate_limiter_duration_seconds",
                "[ALPHA] Client side rate limiter latency in seconds. Broken down by verb, and host.",
                &["verb", "host"],
                &BUCKETS,
            ),
            status_told: on.histogram(
                "kubelet_pod_status_sync_duration_seconds",
                "[ALPHA] Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.",
                &[0.010, 0.050, 0.100, 0.500, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0],
            ),
        }
    }

    /// `since`: the pod's status has been another than the API server has for so long.
    pub fn status_told(&self, since: Duration) {
        self.status_told.observe(since.as_secs_f64());
    }

    /// Until the answer's head. `status`: `None` where there was none, which is kubelet's `<error>`.
    pub fn ended(&self, method: &str, host: &str, status: Option<u16>, took: Duration) {
        let code = status.map_or_else(|| "<error>".to_owned(), |code| code.to_string());
        self.total.with_label_values(&[code.as_str(), method, host]).inc();
        self.duration.with_label_values(&[method, host]).observe(took.as_secs_f64());
    }

    /// For its turn, by `kubeAPIQPS`.
    pub fn waited(&self, method: &str, host: &str, took: Duration) {
        self.waited.with_label_values(&[method, host]).observe(took.as_secs_f64());
    }
}
