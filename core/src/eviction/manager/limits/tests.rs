use std::collections::BTreeSet;

use super::*;
use crate::eviction::{EvictionConfig, EvictionStep};
use crate::reason::Reason;
use crate::signal::StatAge;

const MIB: u64 = 1 << 20;

fn t(ms: u64) -> Mono {
    Mono::from_millis(ms)
}

fn manager() -> EvictionManager {
    EvictionManager::new(EvictionConfig { thresholds: Vec::new(), ..EvictionConfig::default() })
}

fn limited(pod: &str, name: &str, id: &str) -> LimitedContainer {
    LimitedContainer {
        pod: PodRef { uid: pod.into(), namespace: "default".into(), name: pod.into() },
        instance: ContainerInstance { name: name.into(), id: id.into() },
        grace: Duration::from_secs(5),
        stoppable: true,
        begun: false,
    }
}

fn container(pod: &str, name: &str) -> Domain {
    Domain::Container(pod.into(), name.into())
}

/// Domain, usage and limit in MiB.
fn reading(at: Mono, domains: &[(Domain, u64, Option<u64>)]) -> MemoryReading {
    let of = |domain: &Domain, usage: u64, limit: Option<u64>| DomainReading {
        domain: domain.clone(),
        usage_bytes: usage * MIB,
        inactive_file_bytes: 0,
        active_file_bytes: 0,
        dirty_bytes: 0,
        refaults: 0,
        statistics: StatAge::New,
        limit_bytes: limit.map(|limit| limit * MIB),
        oom_kills: 0,
    };
    let top = [of(&Domain::Node, 1000, Some(64_000)), of(&Domain::Kubepods, 1000, Some(60_000))];
    let domains =
        top.into_iter().chain(domains.iter().map(|(domain, usage, limit)| of(domain, *usage, *limit)));
    MemoryReading {
        at,
        done_at: at,
        why: Reason::SampleDue,
        caused_by: None,
        mem_available_bytes: 60_000 * MIB,
        domains: domains.collect(),
        stalled: Vec::new(),
    }
}

/// Both grow to these MiB at 100 MiB/s, from half a second before `end_ms` on; the stops that are planned then.
fn stops_at(m: &mut EvictionManager, end_ms: u64, to: &[(Domain, u64, Option<u64>)]) -> Vec<ContainerStop> {
    let mut stops = Vec::new();
    for at in (end_ms - 1500..=end_ms).step_by(50) {
        let then: Vec<_> = to
            .iter()
            .map(|(domain, usage, limit)| (domain.clone(), usage.saturating_sub((end_ms - at) / 10), *limit))
            .collect();
        m.observe_reading(&reading(t(at), &then));
        for step in m.plan(&[], t(at)) {
            m.carried_out(&step, t(at));
            if let EvictionStep::StopContainer(stop) = step {
                stops.push(*stop);
            }
        }
    }
    stops
}

/// All that are to be watched, of every pod that this suite knows.
pub(super) fn watch(m: &mut EvictionManager, containers: Vec<LimitedContainer>, now: Mono) {
    let named = containers.iter().map(|c| c.pod.uid.clone());
    let pods: BTreeSet<PodUid> = m.limits.containers.keys().cloned().chain(named).collect();
    for pod in pods {
        let of_pod = containers.iter().filter(|c| c.pod.uid == pod).cloned().collect();
        m.watch_limits(&pod, of_pod, now);
    }
}

#[test]
fn a_pods_limit_costs_the_container_that_grows() {
    let mut m = manager();
    watch(&mut m, vec![limited("p", "quiet", "1"), limited("p", "leak", "2")], t(1));
    let mut stops = Vec::new();
    for ms in (1000..3000).step_by(20) {
        let leak = (ms - 1000) / 10;
        let pod = (Domain::Pod("p".into()), leak + 40, Some(200));
        m.observe_reading(&reading(
            t(ms),
            &[pod, (container("p", "quiet"), 40, None), (container("p", "leak"), leak, None)],
        ));
        for step in m.plan(&[], t(ms)) {
            m.carried_out(&step, t(ms));
            if let EvictionStep::StopContainer(stop) = step {
                stops.push(*stop);
            }
        }
    }
    let [stop] = &stops[..] else { panic!("{stops:?}") };
    assert_eq!((stop.container.id.as_str(), &stop.domain), ("2", &Domain::Pod("p".into())));
    assert!(stop.message.contains("memory limit of the pod, 200Mi"), "{}", stop.message);
    assert!(stop.brake);
}

#[test]
fn each_run_of_a_container_is_stopped_once() {
    let mut m = manager();
    let (run, domain) = (|id: &str| vec![limited("p", "c", id)], container("p", "c"));
    watch(&mut m, run("1"), t(1));
    let full = [(Domain::Pod("p".into()), 240, None), (domain, 240, Some(256))];
    assert_eq!(stops_at(&mut m, 3_000, &full).len(), 1);
    assert!(m.holds_any());
    assert_eq!(stops_at(&mut m, 4_600, &full), [], "it is being stopped");
    let instance = run("1")[0].instance.clone();
    m.container_stopped(&"p".into(), &instance, t(4_700));
    assert_eq!(stops_at(&mut m, 6_300, &full), [], "it has been");
    watch(&mut m, run("2"), t(6_400));
    let again = stops_at(&mut m, 8_000, &full);
    assert_eq!(again.iter().map(|stop| stop.container.id.as_str()).collect::<Vec<_>>(), ["2"]);
    watch(&mut m, Vec::new(), t(8_100));
    for step in m.plan(&[], t(8_100)) {
        m.carried_out(&step, t(8_100));
    }
    assert!(!m.holds_any(), "one that is not among them has ended");
}

#[test]
fn whose_pod_ends_or_is_gone_is_left_alone() {
    let ending = LimitedContainer { stoppable: false, ..limited("p", "c", "1") };
    let full = [(Domain::Pod("p".into()), 240, None), (container("p", "c"), 240, Some(256))];
    let mut m = manager();
    watch(&mut m, vec![ending], t(1));
    assert_eq!(stops_at(&mut m, 3_000, &full), []);
    // Nor is one that the agent takes over with as much as it has always had.
    let mut m = manager();
    watch(&mut m, vec![limited("p", "c", "1")], t(1));
    for ms in (1000..3000).step_by(20) {
        m.observe_reading(&reading(t(ms), &full));
        let stops = |step: &EvictionStep| matches!(step, EvictionStep::StopContainer(_));
        assert!(!m.plan(&[], t(ms)).iter().any(stops));
    }
    m.pod_gone(&"p".into());
    assert_eq!(m.limits_due(), None);
}

/// The agent before this one had begun to stop it, and nobody would send the SIGKILL.
#[test]
fn a_stop_that_has_begun_goes_on() {
    let mut m = manager();
    watch(&mut m, vec![LimitedContainer { begun: true, ..limited("p", "c", "1") }], t(1));
    let low = [(Domain::Pod("p".into()), 20, None), (container("p", "c"), 20, Some(256))];
    m.observe_reading(&reading(t(1_000), &low));
    let steps = m.plan(&[], t(1_000));
    assert!(matches!(&steps[..], [EvictionStep::StopContainer(stop), ..] if !stop.brake), "{steps:?}");
}

#[test]
fn a_kernel_event_of_its_own_prompts_a_reading_and_those_of_others_do_not() {
    let mut m = manager();
    m.set_assumed_max_rate(64 * MIB);
    watch(&mut m, vec![limited("p", "c", "1"), limited("q", "c", "2")], t(1));
    let numbers = |pod: &str| [(Domain::Pod(pod.into()), 20, None), (container(pod, "c"), 20, Some(256))];
    m.observe_reading(&reading(t(1_000), &[numbers("p"), numbers("q")].concat()));
    let event = |ms, kind| KernelEvent { at: t(ms), read_at: t(ms), kind };
    let cgroup = crate::signal::CgroupId { hierarchy: crate::signal::Hierarchy::Unified, id: 1 };
    let growth = KernelEventKind::Growth { cgroup, faults: 64, window: Duration::from_millis(1) };
    let memcg = crate::signal::MemcgLevel { cgroup, usage_bytes: 0, limit_bytes: None };
    let charge = KernelEventKind::ChargeForecast { memcg, grown_bytes: 1, window: Duration::from_millis(1) };
    assert_eq!(m.limits_due(), Some((t(2_000), None)));
    m.observe_limit_event(&container("x", "c"), &event(1_001, growth.clone()));
    m.observe_limit_event(&container("p", "c"), &event(999, growth.clone()));
    assert_eq!(m.limits_due(), Some((t(2_000), None)), "another's, and one that is answered");
    m.observe_limit_event(&container("p", "c"), &event(1_001, growth));
    // 236 MiB at 6 GiB/s, half of it.
    let (due, caused_by) = m.limits_due().unwrap();
    assert!((t(1_018)..=t(1_020)).contains(&due) && caused_by == Some(due), "{due}");
    m.observe_limit_event(&container("p", "c"), &event(1_002, charge));
    assert_eq!(m.limits_due(), Some((t(1_000) + Duration::from_micros(500), Some(t(1_001)))));
    let steps = m.plan(&[], t(1_003));
    let [EvictionStep::ReadLimits { why: Reason::KernelSignal, caused_by: Some(first), domains }] =
        &steps[..]
    else {
        panic!("{steps:?}");
    };
    assert_eq!((*first, domains.len()), (t(1_001), 2), "the pod and its container, and not the other's");
}
