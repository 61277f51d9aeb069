//! How long ending a pod takes on this node, from the order to the memory being back.

use std::time::Duration;

/// Before the first eviction. Stopping and removing a sandbox takes 140 to 330 ms on the machines this was
/// measured on.
pub const PRIOR: Duration = Duration::from_millis(300);
/// No runtime ends a container faster than this, whatever one lucky sample says.
pub const LEAST: Duration = Duration::from_millis(50);
/// A longer grace can be cut, so a pod that used all of a long one says nothing about how early to act.
pub const MOST: Duration = Duration::from_secs(2);

/// Share of the distance that a shorter sample pulls the estimate down.
const EASE: f64 = 0.2;

/// Goes up at once and comes down slowly: being too early by a little costs less than being too late.
#[derive(Clone, Copy, Debug)]
pub struct TimeToFree(Duration);

impl Default for TimeToFree {
    fn default() -> Self {
        TimeToFree(PRIOR)
    }
}

impl TimeToFree {
    /// Takes in that an eviction took `took`.
    pub fn observe(&mut self, took: Duration) {
        let took = took.clamp(LEAST, MOST);
        self.0 = if took >= self.0 { took } else { self.0 - (self.0 - took).mul_f64(EASE) };
    }

    #[must_use]
    pub fn get(self) -> Duration {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_at_once_down_slowly_and_within_bounds() {
        let mut t = TimeToFree::default();
        assert_eq!(t.get(), PRIOR);
        t.observe(Duration::from_millis(800));
        assert_eq!(t.get(), Duration::from_millis(800));
        t.observe(Duration::from_millis(300));
        assert_eq!(t.get(), Duration::from_millis(700));
        t.observe(Duration::from_secs(3600));
        assert_eq!(t.get(), MOST);
        for _ in 0..200 {
            t.observe(Duration::ZERO);
        }
        assert!(t.get() >= LEAST && t.get() < LEAST + Duration::from_millis(1));
    }
}
