//! Volumes made and removed.

use std::time::Duration;

use prometheus::HistogramVec;

use super::registered::Registered;

const BUCKETS: [f64; 13] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];

#[derive(Clone, Debug)]
pub struct StorageOperations {
    duration: HistogramVec,
    total: HistogramVec,
}

impl Default for StorageOperations {
    fn default() -> StorageOperations {
        StorageOperations::new(&Registered::nowhere())
    }
}

impl StorageOperations {
    #[must_use]
    pub fn new(on: &Registered) -> StorageOperations {
        StorageOperations {
            duration: on.histograms(
                "storage_operation_duration_seconds",
                "[BETA] Storage operation duration",
                &["volume_plugin", "operation_name", "status", "migrated"],
                &BUCKETS,
            ),
            total: on.histograms(
                "volume_operation_total_seconds",
                "[BETA] Storage operation end to end duration in seconds",
                &["plugin_name", "operation_name"],
                &BUCKETS,
            ),
        }
    }

    /// `plugin`: kubelet's name of it. `operation`: `volume_mount` or `volume_unmount`.
    pub fn ended(&self, plugin: &str, operation: &str, well: bool, took: Duration) {
        let status = if well { "success" } else { "fail-unknown" };
        self.duration.with_label_values(&[plugin, operation, status, "false"]).observe(took.as_secs_f64());
        if well {
            self.total.with_label_values(&[plugin, operation]).observe(took.as_secs_f64());
        }
    }
}
