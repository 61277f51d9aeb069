//! What happens on simulated nodes.

use proptest::prelude::*;

use super::*;

#[test]
fn a_leaking_pod_is_evicted_in_time_and_its_handler_runs() {
    for (rate, threshold, least_lead_ms) in [
        (10, 60, 5_900),
        (50, 60, 1_150),
        (100, 60, 580),
        (500, 60, 150),
        (1000, 60, 70),
        (10, 100, 9_900),
        (50, 100, 1_950),
        (100, 100, 970),
        (500, 100, 180),
        (1000, 100, 90),
    ] {
        for ebpf in [false, true] {
            let case = format!("{rate} MiB/s, threshold {threshold} MiB, eBPF {ebpf}");
            let sim = Sim::new(config(threshold), with_neighbours(hog(rate)));
            let sim = if ebpf { sim.with_ebpf() } else { sim };
            let out = sim.run(40_000);
            assert_eq!(out.oom_at, None, "{case}");
            assert_eq!(out.names(), ["hog"], "{case}");
            assert!(out.leads[0] >= Duration::from_millis(least_lead_ms), "{case}: {:?}", out.leads);
            assert_eq!((out.exited_by_itself, out.cuts), (vec!["hog"], vec![]), "{case}");
        }
    }
}

#[test]
fn what_the_kernel_would_not_kill_is_not_evicted() {
    let burst = |rate, gains_mib| SimPod { gains_mib, ..hog(rate) };
    let reader = SimPod { name: "reader", cache_mib_s: 800, ..IDLE };
    for (case, pods) in [
        ("neighbours alone", neighbours()),
        ("a burst of 120 MiB in 120 ms", with_neighbours(burst(1000, 120))),
        ("a burst of 160 MiB in 1.6 s", with_neighbours(burst(100, 160))),
        ("a page cache reader", with_neighbours(reader.clone())),
        ("a page cache reader and a burst", vec![reader, burst(500, 100)]),
    ] {
        for ebpf in [false, true] {
            // No thresholds: the forecast alone decides.
            let cfg = EvictionConfig { thresholds: vec![], ..EvictionConfig::default() };
            let sim = Sim::new(cfg, pods.clone());
            let sim = if ebpf { sim.with_ebpf() } else { sim };
            let out = sim.run(5_000);
            assert_eq!((out.names(), out.oom_at), (vec![], None), "{case}, eBPF {ebpf}");
        }
    }
    let out = Sim::new(config(60), with_neighbours(burst(1000, 120))).run(5_000);
    assert_eq!(out.names(), [""; 0], "the threshold is not met either");
}

/// `memory.stat` may be up to two seconds late, while usage is not.
#[test]
fn page_cache_whose_statistics_lag_is_no_leak_and_hides_none() {
    let writer = |rate| SimPod { name: "writer", anon_mib: 100, cache_mib_s: rate, ..IDLE };
    for ebpf in [false, true] {
        let run = |threshold, pods| {
            let sim = Sim::new(config(threshold), pods).with_statistics_that_stand_still();
            if ebpf { sim.with_ebpf() } else { sim }.run(8_000)
        };
        for rate in [50, 200, 800] {
            for threshold in [60, 100] {
                let out = run(threshold, with_neighbours(writer(rate)));
                let got = (out.names(), out.oom_at);
                assert_eq!(got, (vec![], None), "{rate} MiB/s, threshold {threshold} MiB, eBPF {ebpf}");
            }
        }
        for rate in [50, 200, 1000, 4000] {
            for cache in [0, 200] {
                let out = run(60, vec![writer(cache), neighbours().remove(0), hog(rate)]);
                let got = (out.names(), out.oom_at);
                assert_eq!(got, (vec!["hog"], None), "{rate} MiB/s beside {cache} of cache, eBPF {ebpf}");
            }
        }
    }
}

#[test]
fn a_burst_that_meets_a_threshold_and_ends_costs_its_own_pod_only() {
    let out = Sim::new(config(60), with_neighbours(SimPod { gains_mib: 215, ..hog(300) })).run(5_000);
    assert_eq!((out.names(), out.oom_at), (vec!["hog"], None));
}

#[test]
fn a_pod_that_ignores_sigterm_is_killed_before_memory_is_gone() {
    for rate in [10, 50, 100] {
        let stubborn = SimPod { exits_in: None, ..hog(rate) };
        for brake in [false, true] {
            let cfg = EvictionConfig { brake, ..config(60) };
            let out = Sim::new(cfg, with_neighbours(stubborn.clone())).run(40_000);
            let case = format!("{rate} MiB/s, brake {brake}");
            assert_eq!((out.names(), out.oom_at), (vec!["hog"], None), "{case}");
            // Held, it need not be cut short; a slow one is told from its growth only once it has its signal.
            assert_eq!(out.cuts.len(), usize::from(!brake), "{case}");
        }
    }
}

/// Its handler needs longer than the memory lasts, and the leak does not listen.
#[test]
fn a_leak_that_goes_on_is_held_until_its_handler_is_done() {
    for rate in [200, 1000, 4000] {
        let leak = SimPod { leaks_on: true, exits_in: Some(Duration::from_millis(600)), ..hog(rate) };
        for brake in [false, true] {
            let cfg = EvictionConfig { brake, ..config(100) };
            let out = Sim::new(cfg, with_neighbours(leak.clone())).with_ebpf().run(10_000);
            let case = format!("{rate} MiB/s, brake {brake}");
            assert_eq!(out.names(), ["hog"], "{case}");
            let done = out.exited_by_itself == ["hog"] && out.oom_at.is_none();
            assert_eq!(done, brake, "{case}: {:?}", out.oom_at);
        }
    }
}

/// It keeps to its request, so another pod goes, which would not have the time to without it standing still.
#[test]
fn one_that_grows_within_its_request_lets_the_evicted_pod_end() {
    for rate in [200, 1000, 4000] {
        for brake in [false, true] {
            let grower = SimPod { request_mib: 260, gains_mib: 190, ..hog(rate) };
            let cache =
                SimPod { name: "cache", anon_mib: 60, exits_in: Some(Duration::from_millis(400)), ..IDLE };
            let cfg = EvictionConfig { brake, ..config(50) };
            let out =
                Sim::new(cfg, with_neighbours(grower).into_iter().chain([cache])).with_ebpf().run(5_000);
            let case = format!("{rate} MiB/s, brake {brake}");
            assert_eq!(out.names()[0], "cache", "{case}");
            assert!(!out.names().contains(&"hog"), "{case}");
            // Its grace is cut then, which at such a speed cannot be in time either.
            let in_time = out.oom_at.is_none();
            assert!(in_time || (!brake && rate == 4000), "{case}");
            assert_eq!(
                (out.exited_by_itself.contains(&"cache"), out.cuts.is_empty()),
                (brake, brake || !in_time),
                "{case}"
            );
        }
    }
}

/// The first stands still and gives nothing back; it is not waited for.
#[test]
fn a_second_leak_is_not_hidden_by_a_pod_that_is_held() {
    let first = SimPod { leaks_on: true, exits_in: Some(Duration::from_secs(20)), ..hog(400) };
    for rate in [50, 200] {
        let second = SimPod { name: "second", starts_ms: 1_100, ..hog(rate) };
        let out = Sim::new(config(100), [first.clone(), second]).with_ebpf().run(10_000);
        assert_eq!(out.oom_at, None, "{rate} MiB/s");
        assert_eq!(out.names(), ["hog", "second"], "{rate} MiB/s");
    }
}

#[test]
fn a_second_leak_is_evicted_when_waiting_for_the_first_would_be_too_late() {
    // The first holds much, leaks nothing and takes its time; the second leaks into what is left.
    let first = SimPod { name: "first", anon_mib: 245, exits_in: Some(Duration::from_secs(20)), ..IDLE };
    let second = SimPod { name: "second", starts_ms: 2_000, ..hog(100) };
    let out = Sim::new(config(60), [first, second]).run(10_000);
    assert_eq!((out.names(), out.oom_at), (vec!["first", "second"], None));
    assert_eq!(out.cuts.len(), 1, "the first is killed");
    assert_eq!(out.exited_by_itself, ["second"]);
}

#[test]
fn a_runaway_of_high_priority_goes_before_idle_pods_of_low_priority() {
    for rate in [10, 100, 1000] {
        let runaway = SimPod { priority: 1000, ..hog(rate) };
        let out = Sim::new(config(60), with_neighbours(runaway)).run(40_000);
        assert_eq!((out.names(), out.oom_at), (vec!["hog"], None), "{rate} MiB/s");
    }
    // A slow leak that does not threaten anybody soon: kubelet's order holds.
    let runaway = SimPod { priority: 1000, anon_mib: 185, ..hog(1) };
    let out = Sim::new(config(60), with_neighbours(runaway)).run(20_000);
    assert_ne!(out.names()[0], "hog");
}

#[test]
fn switched_off_it_only_watches() {
    let cfg = EvictionConfig { enabled: false, ..config(60) };
    let sim = Sim::new(cfg, with_neighbours(hog(100)));
    let out = sim.run(40_000);
    assert!(out.names().is_empty() && out.oom_at.is_some());
}

#[test]
fn at_rest_sampling_is_cheap() {
    let without = Sim::new(config(60), neighbours()).run(20_000);
    let with = Sim::new(config(60), neighbours()).with_ebpf().run(20_000);
    assert!(without.readings < 50 * 20, "{}", without.readings);
    assert!(with.readings < 10 * 20, "{}", with.readings);
    assert!(with.pods_readings <= 3, "{}", with.pods_readings);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn only_the_leak_is_evicted_and_in_time(
        rate in 20u64..1200, threshold in 60u64..120, request in 0u64..60, idle in 1u64..30,
        priority in 0i32..3, exits_ms in 0u64..400, ebpf: bool
    ) {
        let exits_in = Some(Duration::from_millis(exits_ms));
        let leak = SimPod { request_mib: request, exits_in, ..hog(rate) };
        let neighbour = SimPod { name: "neighbour", anon_mib: idle, priority, ..IDLE };
        let sim = Sim::new(config(threshold), [neighbour, leak]);
        let sim = if ebpf { sim.with_ebpf() } else { sim };
        let out = sim.run(300_000 / rate + 3_000);
        prop_assert_eq!(out.oom_at, None);
        prop_assert_eq!(out.names(), vec!["hog"]);
        prop_assert!(out.leads[0] > DELIVERY);
    }
}
