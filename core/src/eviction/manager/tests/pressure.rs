//! What counts as available, and tasks that stand still.

use super::*;
use crate::eviction::psi::{PsiThreshold, PsiThresholds};

/// Used, of that inactive and active files, and MemAvailable, in MiB of a node with 1000 → MiB available.
#[test]
fn the_node_has_no_more_than_the_kernel_says() {
    for (what, used, inactive_file, active_file, mem_available, expected) in [
        ("kubelet's arithmetic", 960, 50, 0, 400, 90),
        ("half of the files that are read is available", 960, 0, 120, 500, 100),
        ("enough of them", 960, 0, 200, 500, 140),
        ("nearly all files are called inactive", 930, 130, 0, 74, 74),
    ] {
        let mut r = reading(t(1_000), 0, &[]);
        let node = r.domains.iter_mut().find(|d| d.domain == Domain::Node).unwrap();
        (node.usage_bytes, node.inactive_file_bytes) = (used * MIB, inactive_file * MIB);
        (node.active_file_bytes, node.limit_bytes) = (active_file * MIB, Some(1000 * MIB));
        r.mem_available_bytes = mem_available * MIB;
        let mut m = manager(vec![Threshold { signal: Signal::MemoryAvailable, ..threshold(101, 0, None) }]);
        m.observe_reading(&r);
        let met = m.memory_pressure(t(1_000)).map(|p| p.available_bytes / MIB);
        assert_eq!(met, (expected < 101).then_some(expected), "{what}");
    }
}

/// A file is read over and over while other pods leave 50 MiB of 300: for kubelet that is under the threshold. With this
/// much of it active, in MiB: whether that is pressure once it comes back as soon as it is reclaimed.
#[test]
fn a_reader_is_under_pressure_once_pods_crowd_its_pages_out() {
    // What is committed takes 140 MiB, or 50.
    for (active, pressure) in [(110, true), (200, false)] {
        let mut m = manager(vec![threshold(100, 0, None)]);
        let mut met = Vec::new();
        for ms in (0..4_000u64).step_by(10) {
            let mut r = reading(t(ms + 1), LIMIT_MIB - 50, &[]);
            let kubepods = r.domains.iter_mut().find(|d| d.domain == Domain::Kubepods).unwrap();
            kubepods.active_file_bytes = active * MIB;
            // From the third second on 400 MiB/s are read from disk again.
            kubepods.refaults = 1 + 1025 * (ms / 10).saturating_sub(200);
            m.observe_reading(&r);
            met.push(m.memory_pressure(t(ms + 1)).is_some());
        }
        assert_eq!((met[199], met[399]), (false, pressure), "{active} MiB");
    }
}

/// `full` shares of the node and of pod "small", over 10 s each.
fn psi(node: Option<f64>, pod: Option<f64>) -> EvictionManager {
    let threshold = |share: Option<f64>| share.map(|share| PsiThreshold { share, window: ms(10_000) });
    let psi = PsiThresholds { node: threshold(node), pod: threshold(pod) };
    EvictionManager::new(EvictionConfig { psi, thresholds: Vec::new(), ..EvictionConfig::default() })
}

/// Reads each second, with half of it stalled; the evictions of 30 s, with the second in which they came.
fn stalled(m: &mut EvictionManager) -> Vec<(u64, String, Reason)> {
    let mut evictions = Vec::new();
    for second in 0..30 {
        let now = t(1_000 * second + 1);
        let mut r = reading(now, 50, &[("big", 40), ("small", 10)]);
        let half = ms(500 * second);
        r.stalled = vec![(Domain::Node, half), (Domain::Pod(PodUid::from("small")), half)];
        m.observe_reading(&r);
        for step in m.plan(&pods(), now) {
            if let EvictionStep::Evict(eviction) = &step {
                assert!(!eviction.brake && eviction.numbers.stalled.is_some_and(|s| s.per_mille == 500));
                evictions.push((second, eviction.pod.name.clone(), eviction.reason));
                let (uid, pod) = (eviction.pod.uid.clone(), eviction.reason == Reason::PodStalled);
                assert!(eviction.message.starts_with(if pod { "The pod was" } else { "The node was" }));
                m.carried_out(&step, now);
                m.pod_stopped(&uid, now);
            }
        }
    }
    evictions
}

#[test]
fn tasks_that_stand_still_are_a_reason_where_it_is_configured() {
    let evicted = |second, name: &str, reason| (second, name.to_owned(), reason);
    for (node, pod, expected) in [
        (None, None, vec![]),
        (Some(0.6), Some(0.6), vec![]),
        // After an eviction a whole window is awaited.
        (
            Some(0.4),
            None,
            vec![evicted(10, "big", Reason::NodeStalled), evicted(21, "big", Reason::NodeStalled)],
        ),
        (
            None,
            Some(0.4),
            vec![evicted(10, "small", Reason::PodStalled), evicted(21, "small", Reason::PodStalled)],
        ),
    ] {
        assert_eq!(stalled(&mut psi(node, pod)), expected, "{node:?} {pod:?}");
    }
}

#[test]
fn samples_are_close_enough_for_the_window() {
    let mut m = psi(None, Some(0.4));
    m.observe_reading(&reading(t(1), 50, &[("big", 40)]));
    assert!(m.next_wakeup() <= t(1_001));
    let steps = m.plan(&[], t(1_000));
    let all = matches!(steps[..], [EvictionStep::Read { scope: ReadScope::AllPods, .. }]);
    assert!(all, "{steps:?}");
}
