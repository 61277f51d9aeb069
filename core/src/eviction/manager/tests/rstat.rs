//! Statistics that are older than the usage (stale): nothing is decided on them, and nothing for long on those before.

use super::*;

fn stale(mut r: MemoryReading, domain: &Domain) -> MemoryReading {
    let d = r.domains.iter_mut().find(|d| d.domain == *domain).unwrap();
    d.statistics = StatAge::Stale;
    r
}

/// The pod gave back enough, but only the usage says so yet: as far as the statistics go, all of it was page cache.
#[test]
fn no_second_pod_goes_on_numbers_from_before_the_first_had_stopped() {
    let mut m = manager(vec![threshold(60, 0, None)]);
    m.observe_reading(&both(t(1), 240, 10));
    let first = evict(&mut m, t(2));
    assert_eq!(first.pod.name, "big");
    m.pod_stopped(&first.pod.uid, t(50));
    let left = [pods().remove(1)];
    for (at, lags) in [(51, true), (53, true), (55, true), (57, false)] {
        let r = both(t(at), 0, 10);
        m.observe_reading(&if lags { stale(r, &Domain::Kubepods) } else { r });
        let steps = m.plan(&left, t(at));
        assert!(!steps.iter().any(|s| matches!(s, EvictionStep::Evict(_))), "at {at} ms: {steps:?}");
        assert_eq!(m.memory_pressure(t(at)).map(|p| p.last_met), Some(t(1)), "at {at} ms");
    }
}

#[test]
fn numbers_that_are_waited_for_are_due_at_once_and_old_ones_do_not_count() {
    let mut m = manager(vec![threshold(60, 1000, None)]);
    m.observe_reading(&both(t(1), 240, 10));
    for at in (3..1_300).step_by(2) {
        m.observe_reading(&stale(both(t(at), 241, 10), &Domain::Kubepods));
        assert_eq!(m.next_wakeup(), t(at + 2));
        let steps = m.plan(&pods(), t(at));
        assert!(!steps.iter().any(|s| matches!(s, EvictionStep::Evict(_))), "at {at} ms: {steps:?}");
    }
    m.observe_reading(&both(t(1_302), 241, 10));
    assert_eq!(evict(&mut m, t(1_302)).pod.name, "big");
}

/// The node's statistics, MemAvailable and whether there is pressure, threshold 100: MiB.
#[test]
fn a_node_whose_statistics_lag_has_what_the_kernel_says_is_available() {
    let signal = Signal::MemoryAvailable;
    for (before, stale_with, pressure) in [
        // kubelet's number stays until there is a new one.
        (80, 400, true),
        // Less than the threshold is new, though more than before.
        (80, 90, true),
        (150, 400, false),
        // MemAvailable is less than that: it counts.
        (150, 120, false),
        (150, 90, true),
    ] {
        let mut m = manager(vec![Threshold { signal, ..threshold(100, 0, None) }]);
        let node = |at, used: u64, mem_available: u64| {
            let mut r = reading(at, 0, &[]);
            let node = r.domains.iter_mut().find(|d| d.domain == Domain::Node).unwrap();
            (node.usage_bytes, node.limit_bytes) = (used * MIB, Some(1000 * MIB));
            r.mem_available_bytes = mem_available * MIB;
            r
        };
        m.observe_reading(&node(t(1), 1000 - before, before + 50));
        m.observe_reading(&stale(node(t(3), 990, stale_with), &Domain::Node));
        let met_at = m.memory_pressure(t(3)).map(|p| p.last_met);
        let expected = pressure.then_some(if stale_with < 100 { t(3) } else { t(1) });
        assert_eq!(met_at, expected, "{before} before, MemAvailable {stale_with}");
    }
}
