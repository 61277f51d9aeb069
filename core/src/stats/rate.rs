//! CPU use at the moment, from two readings of a counter: kubelet's `usageNanoCores`.

/// A counter that only grows, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Nanoseconds of any clock that both samples have.
    pub at_ns: u64,
    /// CPU time used, nanoseconds.
    pub used_ns: u64,
}

/// Nanoseconds of CPU time a second between two readings, as cAdvisor's `instCpuStats`: `None` without two, where no time has
/// passed between them, or where the counter has gone back, for it is another cgroup's then.
#[must_use]
pub fn nano_cores(before: Option<Sample>, now: Sample) -> Option<u64> {
    let before = before?;
    let used = u128::from(now.used_ns.checked_sub(before.used_ns)?);
    let passed = u128::from(now.at_ns.checked_sub(before.at_ns).filter(|ns| *ns > 0)?);
    u64::try_from(used * 1_000_000_000 / passed).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_readings_make_a_rate() {
        let sample =
            |at_ms: u64, used_ms: u64| Sample { at_ns: at_ms * 1_000_000, used_ns: used_ms * 1_000_000 };
        for (before, now, rate) in [
            (None, sample(10_000, 500), None),
            (Some(sample(0, 0)), sample(10_000, 500), Some(50_000_000)),
            (Some(sample(0, 500)), sample(10_000, 500), Some(0)),
            (Some(sample(5_000, 500)), sample(5_000, 900), None),
            (Some(sample(5_000, 500)), sample(4_000, 900), None),
            (Some(sample(0, 500)), sample(10_000, 499), None),
            // Two cores for 30 years.
            (Some(sample(0, 0)), sample(946_080_000_000, 1_892_160_000_000), Some(2_000_000_000)),
        ] {
            assert_eq!(nano_cores(before, now), rate, "{before:?} {now:?}");
        }
    }
}
