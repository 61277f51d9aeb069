//! The SyncLoop: how long a turn takes, and how full the channel is that leads to it.

use std::time::Duration;

use prometheus::{Histogram, IntGauge};

use super::registered::Registered;

/// A turn without anything to do takes some microseconds; one that reads all pods' memory some milliseconds.
const BUCKETS: [f64; 12] = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 1.0];

#[derive(Clone, Debug)]
pub struct Turns {
    duration: Histogram,
    waiting: IntGauge,
    pub(crate) workers: IntGauge,
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
        }
    }

    pub fn turned(&self, took: Duration, waiting: usize) {
        self.duration.observe(took.as_secs_f64());
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }
}
