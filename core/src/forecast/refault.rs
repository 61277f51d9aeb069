//! How much of a domain's file cache is in use: pages that are read again right after they were reclaimed are not free,
//! whatever list the kernel has them on. Owns one domain's refaults over time, reads the kernel's counter, emits bytes a
//! second.

use std::time::Duration;

use crate::clock::Mono;
use crate::signal::window::Ewma;

/// Cache that comes back within this time after it was reclaimed is as good as memory in use: to take it frees nothing and
/// costs a read from disk. It is the time constant of the average as well.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(1);

/// What the counter counts in, where it counts in pages. The kernel's base page on the machines that oomlet runs on;
/// with larger pages the guard is weaker, never stronger.
const PAGE_BYTES: u64 = 4096;

/// Refaults of one domain, averaged over about a second.
#[derive(Clone, Debug)]
pub struct Refaults {
    last: Option<(Mono, u64)>,
    bytes_per_s: Ewma,
}

impl Default for Refaults {
    fn default() -> Self {
        Refaults { last: None, bytes_per_s: Ewma::new(COMES_BACK_WITHIN) }
    }
}

impl Refaults {
    /// Takes in the counter as read at `at`. One that went down (another cgroup of the same name) starts anew.
    pub fn observe(&mut self, at: Mono, counter: u64) {
        if let Some((then, before)) = self.last {
            if at <= then {
                return;
            }
            if let Some(more) = counter.checked_sub(before) {
                let dt_s = at.since(then).as_secs_f64();
                self.bytes_per_s.fold(bytes(more) as f64 / dt_s, dt_s);
            }
        }
        self.last = Some((at, counter));
    }

    /// Of the cache that the kernel would reclaim, what comes back within a second.
    #[must_use]
    pub fn comes_back_bytes(&self) -> u64 {
        (self.bytes_per_s.value() * COMES_BACK_WITHIN.as_secs_f64()) as u64
    }
}

/// cgroup v2 and `/proc/vmstat` count pages, cgroup v1 bytes until its code was shared with v2's (about Linux 6.7). Bytes
/// are whole pages always, pages are a multiple of 4096 once in 4096 times: that sample then counts too little.
fn bytes(more: u64) -> u64 {
    if more.is_multiple_of(PAGE_BYTES) { more } else { more.saturating_mul(PAGE_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// MiB that come back after `ms` of samples every 10 ms, each with this much more on the counter.
    fn after(ms: u64, more: u64) -> u64 {
        let mut refaults = Refaults::default();
        for sample in 0..=ms / 10 {
            refaults.observe(Mono::from_millis(10 * sample), 7 + sample * more);
        }
        refaults.comes_back_bytes() / MIB
    }

    #[test]
    fn pages_and_bytes_give_the_same() {
        for (ms, more, want) in [
            (10_000, 0, 0..=0),
            // 2570 pages in 10 ms are about 1 GiB a second.
            (10_000, 2570, 1000..=1004),
            (10_000, 2570 * 4096, 1000..=1004),
            (1_000, 2570, 625..=640),
            (100, 2570, 90..=100),
        ] {
            let got = after(ms, more);
            assert!(want.contains(&got), "{more} every 10 ms for {ms} ms: {got} MiB");
        }
    }

    #[test]
    fn a_counter_that_starts_anew_is_no_refault() {
        let mut refaults = Refaults::default();
        for (ms, counter) in [(0, 1_000_000_001), (10, 5), (20, 5), (20, 9_000_001), (10, 9_000_001)] {
            refaults.observe(Mono::from_millis(ms), counter);
        }
        assert_eq!(refaults.comes_back_bytes(), 0);
    }
}
