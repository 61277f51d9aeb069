//! At most so many requests a second, and as many at once as were not used up before (client-go's token bucket).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

#[derive(Debug)]
pub struct Pace {
    gap: Duration,
    ahead: Duration,
    free_at: Mutex<Instant>,
}

impl Pace {
    /// `per_second` 0: no bound.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Pace {
        let gap = if per_second == 0 { Duration::ZERO } else { Duration::from_secs(1) / per_second };
        Pace { gap, ahead: gap * burst, free_at: Mutex::new(Instant::now()) }
    }

    /// Waits for its turn.
    pub async fn next(&self) {
        let now = Instant::now();
        let turn = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            *free_at = (*free_at).max(now) + self.gap;
            *free_at
        };
        if turn > now + self.ahead {
            sleep_until(turn - self.ahead).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_at_once_and_the_rest_at_its_pace() {
        let pace = Pace::new(10, 5);
        let start = Instant::now();
        let mut taken = Vec::new();
        for _ in 0..8 {
            pace.next().await;
            taken.push(start.elapsed().as_millis());
        }
        assert_eq!(taken, [0, 0, 0, 0, 0, 100, 200, 300]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_bound_no_wait() {
        let pace = Pace::new(0, 0);
        let start = Instant::now();
        for _ in 0..1000 {
            pace.next().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
