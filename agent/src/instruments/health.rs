//! Health checks: the page `/metrics/slis`.

use prometheus::{GaugeVec, IntCounterVec};

use super::registered::Registered;

#[derive(Clone, Debug)]
pub struct HealthChecks {
    last: GaugeVec,
    total: IntCounterVec,
}

impl Default for HealthChecks {
    fn default() -> HealthChecks {
        HealthChecks::new(&Registered::nowhere())
    }
}

impl HealthChecks {
    #[must_use]
    pub fn new(on: &Registered) -> HealthChecks {
        HealthChecks {
            last: on.gauges(
                "kubernetes_healthcheck",
                "[STABLE] This metric records the result of a single healthcheck.",
                &["name", "type"],
            ),
            total: on.counters(
                "kubernetes_healthchecks_total",
                "[STABLE] This metric records the results of all healthcheck.",
                &["name", "type", "status"],
            ),
        }
    }

    /// `kind`: `healthz`, as kubelet has it.
    pub fn checked(&self, name: &str, kind: &str, well: bool) {
        self.last.with_label_values(&[name, kind]).set(f64::from(u8::from(well)));
        let status = if well { "success" } else { "error" };
        self.total.with_label_values(&[name, kind, status]).inc();
    }
}
