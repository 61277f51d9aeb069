//! Images: looked for, pulled, removed.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec};

use super::registered::Registered;
use oomlet_core::image::{PullPolicy, size_class};

/// kubelet's for pulls.
const PULL_BUCKETS: [f64; 18] = [
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0,
    2700.0, 3600.0,
];

#[derive(Clone, Debug)]
pub struct Images {
    wanted: IntCounterVec,
    pulls: HistogramVec,
    removed: IntCounterVec,
}

impl Default for Images {
    fn default() -> Images {
        Images::new(&Registered::nowhere())
    }
}

impl Images {
    #[must_use]
    pub fn new(on: &Registered) -> Images {
        Images {
            wanted: on.counters(
                "kubelet_image_manager_ensure_image_requests_total",
                "[ALPHA] Number of ensure-image requests processed by the kubelet.",
                &["pull_policy", "present_locally", "pull_required"],
            ),
            pulls: on.histograms(
                "kubelet_image_pull_duration_seconds",
                "[ALPHA] Duration in seconds to pull an image.",
                &["image_size_in_bytes"],
                &PULL_BUCKETS,
            ),
            removed: on.counters(
                "kubelet_image_garbage_collected_total",
                "[ALPHA] Total number of images garbage collected by the kubelet, whether through disk usage or image age.",
                &["reason"],
            ),
        }
    }

    /// For a container that is to be started. `present`: `None`, the runtime did not say.
    pub fn wanted(&self, policy: PullPolicy, present: Option<bool>, pull: Option<bool>) {
        let policy = match policy {
            PullPolicy::Always => "always",
            PullPolicy::IfNotPresent => "ifnotpresent",
            PullPolicy::Never => "never",
        };
        let word = |is: Option<bool>| is.map_or("unknown", |is| if is { "true" } else { "false" });
        self.wanted.with_label_values(&[policy, word(present), word(pull)]).inc();
    }

    pub fn pulled(&self, took: Duration, size_bytes: u64) {
        self.pulls.with_label_values(&[size_class(size_bytes)]).observe(took.as_secs_f64());
    }

    /// `for_age`: it was not used for too long; else for its room.
    pub fn removed(&self, for_age: bool) {
        self.removed.with_label_values(&[if for_age { "age" } else { "space" }]).inc();
    }
}
