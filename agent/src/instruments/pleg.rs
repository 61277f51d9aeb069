//! Relists of the container runtime.

use std::time::Duration;

use prometheus::{Gauge, Histogram};

use super::registered::{DEFAULT_BUCKETS, Registered};

#[derive(Clone, Debug)]
pub struct PlegTimes {
    duration: Histogram,
    interval: Histogram,
    last_seen: Gauge,
}

impl Default for PlegTimes {
    fn default() -> PlegTimes {
        PlegTimes::new(&Registered::nowhere())
    }
}

impl PlegTimes {
    #[must_use]
    pub fn new(on: &Registered) -> PlegTimes {
        PlegTimes {
            duration: on.histogram(
                "kubelet_pleg_relist_duration_seconds",
                "[ALPHA] Duration in seconds for relisting pods in PLEG.",
                &DEFAULT_BUCKETS,
            ),
            interval: on.histogram(
                "kubelet_pleg_relist_interval_seconds",
                "[ALPHA] Interval in seconds between relisting in PLEG.",
                &DEFAULT_BUCKETS,
            ),
            last_seen: on.gauge(
                "kubelet_pleg_last_seen_seconds",
                "[ALPHA] Timestamp in seconds when PLEG was last seen active.",
            ),
        }
    }

    /// `since_last`: from the beginning of the relist before. `unix`: time since the epoch.
    pub fn relisted(&self, took: Duration, since_last: Option<Duration>, unix: Duration) {
        self.duration.observe(took.as_secs_f64());
        if let Some(interval) = since_last {
            self.interval.observe(interval.as_secs_f64());
        }
        self.last_seen.set(unix.as_secs_f64().floor());
    }
}
