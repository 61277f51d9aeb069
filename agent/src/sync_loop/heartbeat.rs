//! When the SyncLoop turned last, for whoever watches over it. Written by the loop alone.

use std::sync::atomic::{AtomicU64, Ordering};

use oomlet_core::clock::Mono;

#[derive(Debug)]
pub struct Heartbeat(AtomicU64);

impl Heartbeat {
    /// The loop counts as alive from here on: its first turn is yet to come.
    #[must_use]
    pub fn new(now: Mono) -> Heartbeat {
        Heartbeat(AtomicU64::new(now.0))
    }

    pub fn beat(&self, now: Mono) {
        self.0.store(now.0, Ordering::Relaxed);
    }

    #[must_use]
    pub fn last_turn(&self) -> Mono {
        Mono(self.0.load(Ordering::Relaxed))
    }
}
