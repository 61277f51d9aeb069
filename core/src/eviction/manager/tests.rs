use std::time::Duration;

use proptest::prelude::*;

use super::simulation::candidate;
use super::*;
use crate::eviction::EvictionStep;
use crate::eviction::threshold::{Threshold, ThresholdValue};
use crate::eviction::{Candidate, Eviction};
use crate::reason::Reason;
use crate::signal::{CgroupId, Hierarchy, StatAge};

const MIB: u64 = 1 << 20;
const LIMIT_MIB: u64 = 300;

/// Everything is in MiB and milliseconds.
fn t(ms: u64) -> Mono {
    Mono::from_millis(ms)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn threshold(mib: u64, grace_ms: u64, reclaim_mib: Option<u64>) -> Threshold {
    Threshold {
        signal: Signal::AllocatableMemoryAvailable,
        value: ThresholdValue::Bytes(mib * MIB),
        grace_period: ms(grace_ms),
        min_reclaim: reclaim_mib.map(|r| ThresholdValue::Bytes(r * MIB)),
    }
}

fn manager(thresholds: Vec<Threshold>) -> EvictionManager {
    let transition_period = ms(60_000);
    EvictionManager::new(EvictionConfig { thresholds, transition_period, ..EvictionConfig::default() })
}

fn pods() -> Vec<Candidate> {
    ["big", "small"].map(|name| candidate(name, 0, 0)).into()
}

/// `pods`: their usage; without them a reading of the top alone.
fn reading(at: Mono, usage: u64, pods: &[(&str, u64)]) -> MemoryReading {
    let domain = |domain, usage, limit| DomainReading {
        domain,
        usage_bytes: usage * MIB,
        inactive_file_bytes: 0,
        active_file_bytes: 0,
        dirty_bytes: 0,
        refaults: 0,
        statistics: StatAge::New,
        limit_bytes: limit,
        oom_kills: 0,
    };
    let mut domains = vec![
        domain(Domain::Node, 1000, Some(64_000 * MIB)),
        domain(Domain::Kubepods, usage, Some(LIMIT_MIB * MIB)),
    ];
    domains.extend(pods.iter().map(|(name, usage)| domain(Domain::Pod(PodUid::from(*name)), *usage, None)));
    MemoryReading {
        at,
        done_at: at,
        why: Reason::SampleDue,
        caused_by: None,
        mem_available_bytes: 60_000 * MIB,
        domains,
        stalled: Vec::new(),
    }
}

fn both(at: Mono, big: u64, small: u64) -> MemoryReading {
    reading(at, big + small, &[("big", big), ("small", small)])
}

fn growth_event(at: Mono) -> KernelEvent {
    let cgroup = CgroupId { hierarchy: Hierarchy::Unified, id: 1 };
    let kind = KernelEventKind::Growth { cgroup, faults: 64, window: ms(1) };
    KernelEvent { at, read_at: at, kind }
}

/// The one eviction that is planned, carried out; a reading that is planned with it is not.
fn evict(m: &mut EvictionManager, now: Mono) -> Eviction {
    let steps = m.plan(&pods(), now);
    for step in steps.iter().filter(|s| !matches!(s, EvictionStep::Read { .. })) {
        m.carried_out(step, now);
    }
    match &steps[..] {
        [EvictionStep::Evict(eviction), ..] => (**eviction).clone(),
        other => panic!("no eviction: {other:?}"),
    }
}

fn read_scope(steps: &[EvictionStep]) -> Option<ReadScope> {
    match steps {
        [EvictionStep::Read { scope, .. }] => Some(*scope),
        _ => None,
    }
}

#[test]
fn nothing_is_decided_without_fresh_numbers_of_all_pods() {
    let mut m = manager(vec![threshold(60, 0, None)]);
    assert_eq!(read_scope(&m.plan(&pods(), t(1))), Some(ReadScope::AllPods), "the first reading");
    m.read_ordered(ReadScope::AllPods, t(1));
    m.observe_reading(&both(t(1), 100, 10));
    assert_eq!(m.plan(&pods(), t(1)), []);

    // The threshold is met, but the pods' numbers are old.
    m.observe_reading(&reading(t(20), 250, &[]));
    let steps = m.plan(&pods(), t(20));
    let ask = EvictionStep::Read { why: Reason::ThresholdMet, caused_by: None, scope: ReadScope::AllPods };
    assert_eq!(steps, [ask]);
    m.carried_out(&steps[0], t(20));
    assert_eq!(m.plan(&pods(), t(21)), [], "a reading is under way");

    // The loop is slow: the answer is used although it is old by now.
    m.observe_reading(&both(t(21), 240, 10));
    let eviction = evict(&mut m, t(90));
    assert_eq!((eviction.pod.name.as_str(), eviction.read_at), ("big", t(21)));
    assert_eq!((eviction.reason, eviction.domain), (Reason::ThresholdMet, Domain::Kubepods));
    assert_eq!(eviction.numbers.available_bytes, 50 * MIB);
    assert_eq!(eviction.numbers.threshold_bytes, Some(60 * MIB));
    assert_eq!(eviction.numbers.pod_usage_bytes, Some(240 * MIB));
    for part in
        ["Threshold quantity: 60Mi, available: 50Mi. ", "First of 2 pods: ", "Container main was using 240Mi"]
    {
        assert!(eviction.message.contains(part), "{part}: {}", eviction.message);
    }
    assert!(eviction.numbers.entries().contains(&("available_bytes", 50 << 20)));
}

#[test]
fn an_overdue_reading_is_asked_for_again() {
    let mut m = manager(vec![]);
    m.read_ordered(ReadScope::AllPods, t(10));
    assert_eq!(m.plan(&pods(), t(100)), []);
    assert_eq!(read_scope(&m.plan(&pods(), m.next_wakeup())), Some(ReadScope::AllPods));
}

#[test]
fn a_burst_of_events_asks_for_one_reading_and_the_first_is_named_to_the_end() {
    let mut m = manager(vec![threshold(60, 0, None)]);
    m.set_assumed_max_rate(MIB);
    m.observe_reading(&both(t(1000), 100, 10));
    let at_rest = m.next_wakeup();
    for at in [1100, 1101, 1102] {
        m.observe_kernel_event(&growth_event(t(at)));
    }
    m.observe_kernel_event(&growth_event(t(999)));
    assert!(m.next_wakeup() < at_rest);
    let steps = m.plan(&pods(), t(1103));
    let [EvictionStep::Read { why: Reason::KernelSignal, caused_by: Some(first), .. }] = steps[..] else {
        panic!("{steps:?}");
    };
    assert_eq!(first, t(1100));
    m.carried_out(&steps[0], t(1103));
    m.observe_kernel_event(&growth_event(t(1103)));
    assert_eq!(m.plan(&pods(), t(1103)), []);
    let mut answer = both(t(1104), 240, 10);
    answer.caused_by = Some(first);
    m.observe_reading(&answer);
    assert_eq!(evict(&mut m, t(1104)).caused_by, Some(first));

    // All events were served; one that arrives late is too.
    let mut m = manager(vec![]);
    m.observe_kernel_event(&growth_event(t(1)));
    m.observe_reading(&both(t(2), 100, 10));
    m.observe_kernel_event(&growth_event(t(2)));
    assert_eq!(m.read_due().1, Reason::SampleDue);
    assert_eq!(m.read_due().2, None);
}

#[test]
fn a_soft_threshold_counts_after_its_grace_period() {
    let cfg = EvictionConfig { max_pod_grace: ms(5_000), ..manager(vec![threshold(100, 1_000, None)]).cfg };
    let mut m = EvictionManager::new(cfg);
    m.observe_reading(&both(t(1_000), 230, 10));
    assert!(m.memory_pressure(t(1_000)).is_some(), "pressure does not wait for the grace period");
    m.observe_reading(&both(t(1_500), 100, 10));
    m.observe_reading(&both(t(1_800), 230, 10));
    m.observe_reading(&both(t(2_799), 230, 10));
    assert_eq!(m.plan(&pods(), t(2_799)), [], "it was not met in between");
    assert_eq!(m.next_wakeup(), t(2_800).min(m.next_wakeup()));
    m.observe_reading(&both(t(2_800), 230, 10));
    let eviction = evict(&mut m, t(2_800));
    assert_eq!((eviction.pod.name.as_str(), eviction.grace), ("big", ms(5_000)));
}

#[test]
fn grace_is_what_the_forecast_leaves() {
    for (most_ms, brake, rate, want_ms) in [
        (0, true, 0, 30_000..=30_000),
        (3_000, true, 0, 3_000..=3_000),
        (0, true, 10, 4_900..=5_200),
        (3_000, true, 10, 3_000..=3_000),
        (0, false, 400, 1_000..=1_000),
        // It is held meanwhile.
        (0, true, 400, 2_000..=2_000),
        (500, true, 400, 500..=500),
    ] {
        let mut m = manager(vec![threshold(60, 0, None)]);
        (m.cfg.max_pod_grace, m.cfg.brake) = (ms(most_ms), brake);
        // Grows at `rate` for half a second and leaves 50 MiB.
        for at in (0..=500).step_by(100) {
            m.observe_reading(&both(t(1_000 + at), 240 - rate * (500 - at) / 1_000, 10));
        }
        let grace = evict(&mut m, t(1_500)).grace.as_millis();
        assert!(want_ms.contains(&grace), "{rate} MiB/s, at most {most_ms} ms: {grace} ms");
    }
}

#[test]
fn pressure_holds_for_the_transition_period_and_until_the_minimum_reclaim() {
    let mut m = manager(vec![threshold(60, 0, Some(40))]);
    m.observe_reading(&both(t(1_000), 100, 10));
    assert_eq!(m.memory_pressure(t(1_000)), None);
    m.observe_reading(&both(t(2_000), 240, 10));
    let info = m.memory_pressure(t(2_000)).unwrap();
    assert_eq!((info.since, info.last_met), (t(2_000), t(2_000)));
    assert_eq!((info.available_bytes, info.threshold_bytes), (50 * MIB, 60 * MIB));

    m.observe_reading(&both(t(3_000), 205, 10));
    assert_eq!(m.memory_pressure(t(3_000)).unwrap().last_met, t(3_000), "85 MiB are not 60 + 40");
    m.observe_reading(&both(t(4_000), 190, 10));
    let info = m.memory_pressure(t(62_999)).unwrap();
    assert_eq!((info.since, info.last_met), (t(2_000), t(3_000)));
    assert_eq!(m.memory_pressure(t(63_000)), None);
    m.observe_reading(&both(t(64_000), 205, 10));
    assert_eq!(m.memory_pressure(t(64_000)), None, "85 MiB do not meet it anew");
}

#[test]
fn one_pod_at_a_time() {
    let mut m = manager(vec![threshold(60, 0, None)]);
    m.observe_reading(&both(t(1_000), 240, 30));
    assert_eq!(evict(&mut m, t(1_000)).pod.name, "big");
    // Still short, but the first has not stopped.
    m.observe_reading(&both(t(1_500), 240, 30));
    assert_eq!(m.plan(&pods(), t(1_500)), []);
    assert!(m.next_wakeup() <= t(1_505), "an evicted pod is sampled fast");

    m.pod_stopped(&PodUid::from("big"), t(1_600));
    assert_eq!(m.time_to_free(), ms(600));
    // Numbers from before do not count, and new ones are due now.
    assert!(m.next_wakeup() <= t(1_600));
    assert!(read_scope(&m.plan(&pods()[1..], t(1_600))).is_some());
    m.observe_reading(&both(t(1_601), 0, 30));
    assert_eq!(m.plan(&pods()[1..], t(1_601)), [], "enough is free");
    m.observe_reading(&both(t(1_700), 0, 250));
    let steps = m.plan(&pods()[1..], t(1_700));
    assert!(matches!(&steps[..], [EvictionStep::Evict(e)] if e.pod.name == "small"), "{steps:?}");
}

#[test]
fn a_pod_that_never_stops_does_not_hold_up_the_next_for_ever() {
    let mut m = manager(vec![threshold(60, 0, None)]);
    m.observe_reading(&both(t(1_000), 240, 30));
    let grace = evict(&mut m, t(1_000)).grace;
    let stuck = t(1_000) + grace + ms(10_000);
    m.observe_reading(&both(stuck - ms(1), 240, 30));
    assert_eq!(m.plan(&pods(), stuck - ms(1)), []);
    m.observe_reading(&both(stuck, 240, 30));
    assert_eq!(evict(&mut m, stuck).pod.name, "small");
}

#[test]
fn grace_is_cut_when_memory_runs_out_before_it_ends_and_then_the_next_pod_goes() {
    let mut m = manager(vec![threshold(60, 0, None)]);
    for at in [1_000, 1_001] {
        m.observe_reading(&both(t(at), 220, 30));
    }
    assert_eq!(evict(&mut m, t(1_001)).grace, ms(30_000));
    // Quiet for two seconds: the pod keeps its grace.
    let mut at = 1_001;
    while at < 3_000 {
        at += 3;
        m.observe_reading(&both(t(at), 220, 30));
        assert_eq!(m.plan(&pods(), t(at)), [], "{at}");
    }
    // Then the other one leaks 100 MiB/s into the 50 MiB that are left.
    let start = at;
    let mut cut_at = None;
    let second = loop {
        at += 10;
        m.observe_reading(&both(t(at), 220, 30 + (at - start) / 10));
        let steps = m.plan(&pods(), t(at));
        for step in steps.iter().filter(|s| !matches!(s, EvictionStep::Read { .. })) {
            m.carried_out(step, t(at));
        }
        match &steps[..] {
            [EvictionStep::CutGrace { pod, numbers, .. }, ..] => {
                assert_eq!((pod.name.as_str(), cut_at.replace(at)), ("big", None));
                assert!(numbers.headroom_bytes > 40 * MIB);
            }
            [EvictionStep::Evict(e), ..] => break e.clone(),
            [] => {}
            other => panic!("{other:?}"),
        }
        assert!(at < start + 500, "out of memory");
    };
    assert_eq!(second.pod.name, "small");
    assert!(at - cut_at.unwrap() >= 100, "the kill had its time");
}

#[test]
fn nothing_to_evict_is_no_reason_to_spin() {
    let mut critical = pods();
    critical.iter_mut().for_each(|c| c.critical = true);
    for candidates in [vec![], critical] {
        let mut m = manager(vec![threshold(60, 0, None)]);
        m.observe_reading(&both(t(1_000), 280, 10));
        assert_eq!(m.plan(&candidates, t(1_000)), []);
        assert!(m.next_wakeup() >= t(1_002));
        assert!(m.memory_pressure(t(1_000)).is_some());
    }
}

#[test]
fn readings_that_were_overtaken_are_dropped_and_unlimited_domains_have_no_signal() {
    let mut m = manager(vec![threshold(60, 0, None)]);
    m.observe_reading(&both(t(1_000), 100, 10));
    m.observe_reading(&both(t(999), 290, 10));
    assert_eq!(m.memory_pressure(t(1_000)), None);
    let mut unlimited = both(t(1_001), 290, 10);
    unlimited.domains[1].limit_bytes = None;
    m.observe_reading(&unlimited);
    assert_eq!(m.memory_pressure(t(1_001)), None);
    assert_eq!(m.forecasts().map(|(d, _)| d).collect::<Vec<_>>(), [Domain::Node]);
}

proptest! {
    /// Whatever happens in whatever order: after the plan is carried out there is nothing more to do, at most one
    /// pod goes at a time, no pod is evicted twice, and the manager asks to be woken later than now.
    #[test]
    fn planning_over_an_applied_state_plans_nothing(
        ops in prop::collection::vec((0u8..8, 0u64..60_000, 0u64..200, 0u64..110), 1..200), soft: bool
    ) {
        let soft = soft.then(|| threshold(100, 300, Some(20)));
        let mut m = manager(soft.into_iter().chain([threshold(60, 0, None)]).collect());
        let mut now = t(1_000);
        let mut evicted: Vec<PodUid> = Vec::new();
        for (op, us, big, small) in ops {
            match op {
                0 | 1 => now = now + Duration::from_micros(us),
                2 => m.observe_reading(&both(now, big, small)),
                3 => m.observe_reading(&reading(now, big + small, &[])),
                4 => m.observe_kernel_event(&growth_event(now - Duration::from_micros(us))),
                // Statistics are stale: the node's, those of `kubepods`, or both.
                5 => {
                    let mut lags = both(now, big, small);
                    let domains = lags.domains.iter_mut().take(2).enumerate();
                    domains.filter(|(i, _)| us & (1 << i) != 0).for_each(|(_, d)| d.statistics = StatAge::Stale);
                    m.observe_reading(&lags);
                }
                6 => if let Some(uid) = evicted.last().filter(|_| us % 3 == 0) {
                    m.pod_stopped(uid, now);
                },
                _ => now = now.max(m.next_wakeup()),
            }
            let candidates: Vec<_> =
                pods().into_iter().filter(|c| !evicted.contains(&c.pod.uid) || m.evicting.contains_key(&c.pod.uid)).collect();
            let steps = m.plan(&candidates, now);
            prop_assert!(steps.iter().filter(|s| matches!(s, EvictionStep::Evict(_))).count() <= 1);
            let reads = steps.iter().filter(|s| matches!(s, EvictionStep::Read { .. })).count();
            prop_assert!(reads <= 1);
            for step in &steps {
                if let EvictionStep::Evict(e) = step {
                    prop_assert!(!evicted.contains(&e.pod.uid));
                    prop_assert!(now.since(e.read_at) <= ms(500));
                    evicted.push(e.pod.uid.clone());
                }
                m.carried_out(step, now);
            }
            prop_assert_eq!(m.plan(&candidates, now), [], "after {:?}", steps);
            prop_assert!(m.next_wakeup() > now);
        }
    }
}

mod carried_out;
mod pressure;
mod rstat;
mod sampling;
