//! Touching anonymous memory: at a rate, at full speed, and over and over.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub const MIB: u64 = 1 << 20;
const PAGE: usize = 4096;
/// One allocation. Well above malloc's mmap threshold, so each chunk is a mapping of its own and returns when freed.
const CHUNK: usize = 1 << 20;
/// Between two steps of a growth at a rate.
const STEP: Duration = Duration::from_millis(2);
/// A grower that was held up (frozen, throttled, no CPU) makes up for at most this much: a leak follows the work
/// that is done and does not catch up with the clock.
const CATCH_UP: Duration = Duration::from_millis(20);

/// Huge pages would make growth jump by 2 MiB at a time. A kernel without them refuses; nothing is lost then.
pub fn small_pages_only() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Anonymous memory, each page written to.
#[derive(Default)]
pub struct Held {
    chunks: Vec<Vec<u8>>,
    /// Bytes touched in the last chunk.
    filled: usize,
    touched: u64,
}

impl Held {
    /// Bytes touched so far.
    pub fn bytes(&self) -> u64 {
        self.touched
    }

    /// Touches more pages until `bytes` are held, unless `stop` is raised.
    pub fn grow_to(&mut self, bytes: u64, stop: &AtomicBool) {
        while self.touched < bytes && !stop.load(Ordering::Relaxed) {
            if self.chunks.is_empty() || self.filled == CHUNK {
                // Zeroed memory comes untouched from the kernel; writing below is what makes it resident.
                self.chunks.push(vec![0; CHUNK]);
                self.filled = 0;
            }
            if let Some(chunk) = self.chunks.last_mut() {
                chunk[self.filled] = 1;
            }
            self.filled += PAGE;
            self.touched += PAGE as u64;
        }
    }

    /// Gives whole chunks back until at most `bytes` are held.
    pub fn shrink_to(&mut self, bytes: u64) {
        while self.touched > bytes && !self.chunks.is_empty() {
            self.chunks.pop();
            self.touched -= self.filled as u64;
            // All but the last are full.
            self.filled = if self.chunks.is_empty() { 0 } else { CHUNK };
        }
    }
}

/// What one thread is to do. Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub start: u64,
    /// Bytes a second up to `start`; `None` at once.
    pub start_rate: Option<u64>,
    pub max: u64,
    /// Bytes a second; `None` as fast as memory can be touched.
    pub rate: Option<u64>,
}

/// Grows as planned until `max` is held or `stop` is raised, and returns what it holds.
pub fn grow(plan: Plan, stop: &Arc<AtomicBool>) -> Held {
    let mut held = Held::default();
    climb(&mut held, plan.start.min(plan.max), plan.start_rate, stop);
    climb(&mut held, plan.max, plan.rate, stop);
    held
}

/// Grows until `bytes` are held or `stop` is raised: at this rate in bytes a second, or as fast as memory can be touched.
pub fn climb(held: &mut Held, bytes: u64, rate: Option<u64>, stop: &AtomicBool) {
    let Some(rate) = rate else {
        held.grow_to(bytes, stop);
        return;
    };
    let mut last = Instant::now();
    let mut due = held.bytes() as f64;
    while held.bytes() < bytes && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(STEP);
        let passed = last.elapsed().min(CATCH_UP);
        last = Instant::now();
        due += rate as f64 * passed.as_secs_f64();
        held.grow_to((due as u64).min(bytes), stop);
    }
}

/// Maps, touches and unmaps memory for `seconds`, and prints `faults_per_s`: the speed of the page-fault path.
pub fn fault_loop(seconds: u64) -> io::Result<ExitCode> {
    // Larger than the largest value that malloc's mmap threshold rises to (32 MiB), so that each round maps anew.
    const ROUND: usize = 48 << 20;
    small_pages_only();
    let start = Instant::now();
    let mut faults: u64 = 0;
    while start.elapsed() < Duration::from_secs(seconds) {
        let mut memory = vec![0u8; ROUND];
        for page in memory.iter_mut().step_by(PAGE) {
            *page = 1;
        }
        std::hint::black_box(&memory);
        faults += (ROUND / PAGE) as u64;
    }
    println!("faults_per_s {:.0}", faults as f64 / start.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_where_it_should() {
        let stop = Arc::new(AtomicBool::new(false));
        for (start, start_rate, max, rate) in [
            (0, None, MIB, None),
            (MIB, None, 3 * MIB, Some(200 * MIB)),
            (MIB, Some(100 * MIB), 3 * MIB, Some(200 * MIB)),
            (5 * MIB, None, 2 * MIB, Some(1)),
        ] {
            let plan = Plan { start, start_rate, max, rate };
            assert_eq!(grow(plan, &stop).bytes(), max, "{plan:?}");
        }
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let go_on = AtomicBool::new(false);
        let mut held = Held::default();
        held.grow_to(5 * MIB / 2, &go_on);
        for (bytes, left) in [(3 * MIB, 5 * MIB / 2), (2 * MIB, 2 * MIB), (MIB / 2, 0)] {
            held.shrink_to(bytes);
            assert_eq!(held.bytes(), left, "{bytes}");
        }
        held.grow_to(3 * MIB, &go_on);
        assert_eq!(held.bytes(), 3 * MIB);
    }

    #[test]
    fn a_raised_stop_ends_the_growth() {
        let stop = Arc::new(AtomicBool::new(true));
        assert_eq!(grow(Plan { start: MIB, start_rate: None, max: MIB, rate: None }, &stop).bytes(), 0);
    }
}
