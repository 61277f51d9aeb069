//! Which kernel events are wanted.

use super::*;

#[test]
fn growth_is_not_wanted_before_memory_could_run_short() {
    // The limit of all pods, what they use → until when; 6 GiB/s may take half of what is left by then.
    for (limit, usage, until) in [
        (64_000, 1000, t(1100)),
        (2000, 200, Mono(t(100).0 + 146_484_375)),
        // Too short a time to be worth it.
        (700, 200, Mono::ZERO),
        (300, 290, Mono::ZERO),
    ] {
        let mut m = manager(Vec::new());
        assert_eq!(m.growth_unwanted_until(), Mono::ZERO, "nothing has been read");
        let mut r = both(t(100), usage, 0);
        r.domains[1].limit_bytes = Some(limit * MIB);
        m.observe_reading(&r);
        assert_eq!(m.growth_unwanted_until(), until, "{usage} of {limit} MiB");
        m.eviction_ordered(&pods()[0].pod, ms(5000), t(101));
        assert_eq!(m.growth_unwanted_until(), Mono::ZERO, "while one is being ended");
    }
}
