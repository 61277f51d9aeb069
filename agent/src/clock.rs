//! Reads CLOCK_MONOTONIC for [`oomlet_core::clock::Mono`]. The core gets the time as an argument; this is where the
//! argument comes from.

use oomlet_core::clock::Mono;

/// Nanoseconds since boot, suspend not counted.
#[must_use]
pub fn now() -> Mono {
    let ts = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Mono(ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on() {
        let before = now();
        assert!(now() >= before && before > Mono::ZERO);
    }
}
