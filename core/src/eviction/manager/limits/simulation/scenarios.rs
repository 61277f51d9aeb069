//! What happens to simulated containers.

use proptest::prelude::*;

use super::*;

fn sims(brake: bool, containers: &[SimContainer]) -> [(bool, Sim); 2] {
    let sim = || Sim::new(brake, containers.iter().cloned());
    [(false, sim()), (true, sim().with_ebpf())]
}

#[test]
fn a_leak_is_stopped_before_its_limit_and_its_handler_runs() {
    for (rate, brake, least_lead_ms) in [
        (10, true, 500),
        (50, true, 300),
        (100, true, 230),
        (500, true, 45),
        (1000, true, 20),
        (10, false, 500),
        (50, false, 440),
        (100, false, 440),
        (500, false, 110),
        (1000, false, 50),
    ] {
        for (ebpf, sim) in sims(brake, &[IDLE, leak(rate)]) {
            let case = format!("{rate} MiB/s, brake {brake}, eBPF {ebpf}");
            let out = sim.run(40_000);
            assert_eq!((out.oom, out.names()), (None, vec!["leak"]), "{case}");
            assert!(out.leads[0] >= Duration::from_millis(least_lead_ms), "{case}: {:?}", out.leads);
            assert_eq!((out.exited_by_itself, out.cuts), (vec!["leak"], 0), "{case}");
            let stop = &out.stops[0];
            assert_eq!(stop.domain, Domain::Container("leak".into(), "main".into()), "{case}");
            assert_eq!((stop.numbers.limit_bytes, stop.grace), (256 * MIB, IDLE.grace), "{case}");
            assert!(stop.message.contains("memory limit of the container, 256Mi: "), "{}", stop.message);
        }
    }
}

/// The handler needs half a second, and the leak does not listen.
#[test]
fn a_leak_that_goes_on_is_held_until_its_handler_is_done() {
    for rate in [20, 100, 500, 1000, 2000] {
        for brake in [false, true] {
            for (ebpf, sim) in sims(brake, &[IDLE, SimContainer { leaks_on: true, ..leak(rate) }]) {
                let case = format!("{rate} MiB/s, brake {brake}, eBPF {ebpf}");
                let out = sim.run(40_000);
                assert_eq!(out.names(), ["leak"], "{case}");
                let done = out.oom.is_none() && out.exited_by_itself == ["leak"];
                assert!(done || !brake, "{case}: {:?}, {} cuts", out.oom, out.cuts);
                // Without it, what is left is too little from 100 MiB/s on: so that this can fail.
                assert!(!done || brake || rate < 200, "{case}");
            }
        }
    }
}

#[test]
fn one_that_ignores_its_signal_is_killed_by_the_agent_at_the_end_of_its_grace_or_before() {
    for (rate, brake) in [(10, false), (10, true), (100, false), (100, true), (1000, true)] {
        let grace = Duration::from_secs(2);
        let stubborn = SimContainer { exits_in: None, grace, anon_mib: 100, ..leak(rate) };
        let out = Sim::new(brake, [stubborn]).run(30_000);
        let case = format!("{rate} MiB/s, brake {brake}");
        assert_eq!((out.oom, out.names(), &out.killed), (None, vec!["leak"], &vec!["leak"]), "{case}");
        // Held, it need not be cut short.
        assert_eq!(out.cuts, usize::from(!brake), "{case}");
    }
}

#[test]
fn what_the_kernel_would_not_kill_is_not_stopped() {
    let burst = |rate, gains_mib| SimContainer { gains_mib, ..leak(rate) };
    let reader = SimContainer { name: "reader", cache_mib_s: 800, ..IDLE };
    for (case, container) in [
        ("an idle one", IDLE),
        ("a burst to a half at full speed", burst(2000, 118)),
        ("a burst to three quarters", burst(500, 182)),
        ("a start that takes 80 % in a second", burst(200, 195)),
        ("a slow one to nine tenths", burst(20, 220)),
        ("a plateau at 98 %", SimContainer { anon_mib: 251, ..IDLE }),
        ("a plateau at 98 % beside a cache", SimContainer { anon_mib: 251, ..reader.clone() }),
        ("a cache that fills the limit", reader.clone()),
        ("a burst beside a cache", SimContainer { cache_mib_s: 800, ..burst(300, 150) }),
    ] {
        for (ebpf, sim) in sims(true, std::slice::from_ref(&container)) {
            let out = sim.run(20_000);
            assert_eq!((out.names(), out.oom), (vec![], None), "{case}, eBPF {ebpf}");
        }
    }
}

#[test]
fn a_slow_leak_is_stopped_with_little_left() {
    for (kib_s, most_left_mib) in [(500, 8), (1024, 8), (2048, 8)] {
        let leaks_slowly = SimContainer { leak_kib_s: kib_s, anon_mib: 225, ..leak(1) };
        let out = Sim::new(true, [leaks_slowly]).run(80_000);
        assert_eq!((out.oom, out.names()), (None, vec!["leak"]), "{kib_s} KiB/s");
        let left = out.stops[0].numbers.headroom_bytes / MIB;
        assert!((2..=most_left_mib).contains(&left), "{kib_s} KiB/s: {left} MiB left");
        assert_eq!((out.exited_by_itself, out.cuts), (vec!["leak"], 0), "{kib_s} KiB/s");
    }
}

#[test]
fn idle_ones_cost_little() {
    for (ebpf, sim) in sims(true, &[IDLE, SimContainer { name: "other", limit_mib: 4096, ..IDLE }]) {
        let out = sim.run(20_000);
        let most = if ebpf { 12 } else { 55 };
        assert!(out.readings < most * 20, "eBPF {ebpf}: {} readings", out.readings);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn only_the_leak_is_stopped_and_the_kernel_does_not_kill(
        rate in 3u64..1500, limit_mib in 64u64..600, start_pct in 5u64..60, exits_ms in 0u64..800, leaks_on: bool, ebpf: bool
    ) {
        // What is full within a few samples is beyond anybody.
        prop_assume!(rate <= 4 * limit_mib);
        let exits_in = Some(Duration::from_millis(exits_ms));
        let container = SimContainer { limit_mib, anon_mib: limit_mib * start_pct / 100, exits_in, leaks_on, ..leak(rate) };
        let sim = Sim::new(true, [IDLE, container]);
        let sim = if ebpf { sim.with_ebpf() } else { sim };
        let out = sim.run(1000 * limit_mib / rate + 8_000);
        prop_assert_eq!(out.oom, None);
        prop_assert_eq!(out.names(), vec!["leak"]);
        prop_assert_eq!(out.exited_by_itself.len() + out.killed.len(), 1);
    }
}
