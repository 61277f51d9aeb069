//! How far the memory limit of all pods together (`kubepods`) may be lowered.
//!
//! When the configuration reserves more than before, pods may use more than they now may. Nobody is ended for a line in a
//! file: the limit stays above what is in use, by the eviction threshold and as much again for pods to grow in, and
//! follows as usage falls. kubelet writes it, and on cgroup v2 the kernel kills until usage fits; on v1 the write fails.

/// Room above what is in use where no threshold asks for any.
const LEAST_ROOM: u64 = 64 << 20;
/// The kernel takes whole pages.
const PAGE: u64 = 4096;

/// Of `kubepods`, as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KubepodsMemory {
    /// `None`: no limit.
    pub limit_bytes: Option<u64>,
    pub usage_bytes: u64,
    /// Usage without inactive page cache, which a lower limit makes the kernel drop.
    pub working_set_bytes: u64,
}

/// What the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedLimit {
    pub bytes: u64,
    /// The hard eviction threshold of `memory.available`.
    pub hard_threshold_bytes: u64,
}

impl WantedLimit {
    /// Below this pods would have to go, or be about to.
    #[must_use]
    pub fn least(self, now: KubepodsMemory) -> u64 {
        let room = self.hard_threshold_bytes.saturating_mul(2).max(LEAST_ROOM);
        now.working_set_bytes.saturating_add(room).next_multiple_of(PAGE)
    }

    /// It may be what the configuration says, at once.
    #[must_use]
    pub fn fits(self, now: KubepodsMemory) -> bool {
        now.limit_bytes.is_some_and(|limit| limit <= self.bytes) || self.least(now) <= self.bytes
    }

    /// The limit to set now; never above the one in force unless the configuration says more.
    #[must_use]
    pub fn next(self, now: KubepodsMemory) -> u64 {
        if self.fits(now) {
            return self.bytes;
        }
        self.least(now).min(now.limit_bytes.unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn memory(limit_mib: Option<u64>, working_set_mib: u64) -> KubepodsMemory {
        let working_set_bytes = working_set_mib * MIB;
        let usage_bytes = working_set_bytes + 300 * MIB;
        KubepodsMemory { limit_bytes: limit_mib.map(|l| l * MIB), usage_bytes, working_set_bytes }
    }

    #[test]
    fn the_limit_follows_what_is_in_use() {
        let wanted = |mib: u64| WantedLimit { bytes: mib * MIB, hard_threshold_bytes: 100 * MIB };
        for (what, wanted_mib, limit, used, fits, next) in [
            ("nothing runs", 524, None, 0, true, 524),
            ("room enough", 524, Some(1124), 300, true, 524),
            ("at the eviction threshold", 524, Some(1124), 430, false, 630),
            ("more is used than may be", 524, Some(1124), 600, false, 800),
            ("less is used now", 524, Some(800), 400, false, 600),
            ("and less again", 524, Some(600), 324, true, 524),
            ("it grows meanwhile", 524, Some(800), 700, false, 800),
            ("there was no limit", 524, None, 600, false, 800),
            ("the configuration says more", 1500, Some(1124), 1100, true, 1500),
            ("as before", 1124, Some(1124), 1100, true, 1124),
        ] {
            let now = memory(limit, used);
            let wanted = wanted(wanted_mib);
            assert_eq!((wanted.fits(now), wanted.next(now) / MIB), (fits, next), "{what}");
        }
        let without = WantedLimit { bytes: 100 * MIB, hard_threshold_bytes: 0 };
        assert_eq!(without.next(memory(Some(400), 200)) / MIB, 264);
    }

    proptest! {
        #[test]
        fn never_raised_and_never_below_use_and_threshold(
            wanted in 1u64..2000, threshold in 0u64..200, limit in 1u64..2000, used in 0u64..2000,
        ) {
            let now = memory(Some(limit), used.min(limit));
            let wanted = WantedLimit { bytes: wanted * MIB, hard_threshold_bytes: threshold * MIB };
            let next = wanted.next(now);
            let present = limit * MIB;
            prop_assert!(next <= present.max(wanted.bytes));
            if next < present {
                prop_assert!(next >= now.working_set_bytes + threshold * MIB);
            }
        }
    }
}
