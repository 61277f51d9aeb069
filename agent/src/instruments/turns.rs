//! The SyncLoop: how long a turn takes, and how full the channel is that leads to it.

use std::time::Duration;

use prometheus::{GaugeVec, Histogram, IntGauge};

use super::registered::Registered;
use oomlet_core::clock::Mono;
use oomlet_core::forecast::Forecast;
use oomlet_core::signal::Domain;

/// A turn without anything to do takes some microseconds; one that reads all pods' memory some milliseconds.
const BUCKETS: [f64; 12] = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 1.0];

#[derive(Clone, Debug)]
pub struct Turns {
    duration: Histogram,
    waiting: IntGauge,
    workers: IntGauge,
    time_to_oom: GaugeVec,
    headroom: GaugeVec,
    /// When forecasts were shown last.
    shown_at: Mono,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns::new(&Registered::nowhere())
    }
}

impl Turns {
    #[must_use]
    pub fn new(on: &Registered) -> Turns {
        Turns {
            duration: on.histogram(
                "oomlet_sync_loop_turn_duration_seconds",
                "Duration in seconds of a turn of the SyncLoop: events taken in, planned and executed.",
                &BUCKETS,
            ),
            waiting: on.int_gauge(
                "oomlet_sync_loop_events_waiting",
                "Number of events that waited for the SyncLoop when its last turn ended.",
            ),
            workers: on.int_gauge("oomlet_pod_workers", "Number of pod workers."),
            time_to_oom: on.gauges(
                "oomlet_time_to_oom_seconds",
                "Forecast time in seconds until the domain is out of memory; absent while it does not grow.",
                &["domain"],
            ),
            headroom: on.gauges(
                "oomlet_memory_headroom_bytes",
                "Bytes that the domain's committed memory could still take.",
                &["domain"],
            ),
            shown_at: Mono::ZERO,
        }
    }

    /// Once a second: a turn costs no more for them.
    pub fn wants_forecasts(&mut self, now: Mono) -> bool {
        let wants = now.since(self.shown_at) >= Duration::from_secs(1);
        if wants {
            self.shown_at = now;
        }
        wants
    }

    /// Of the node and of `kubepods`.
    #[allow(clippy::cast_precision_loss, reason = "a double is what Prometheus has")]
    pub fn forecasts(&self, forecasts: impl Iterator<Item = (Domain, Forecast)>) {
        for (domain, forecast) in forecasts.take_while(|(d, _)| matches!(d, Domain::Node | Domain::Kubepods))
        {
            let labels = [domain.kind()];
            self.headroom.with_label_values(&labels).set(forecast.headroom_bytes as f64);
            match forecast.time_to_oom {
                Some(left) => self.time_to_oom.with_label_values(&labels).set(left.as_secs_f64()),
                // Without a series there is nothing to remove.
                None => drop(self.time_to_oom.remove_label_values(&labels)),
            }
        }
    }

    pub fn workers(&self, number: usize) {
        self.workers.set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    pub fn turned(&self, took: Duration, waiting: usize) {
        self.duration.observe(took.as_secs_f64());
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }
}
