use proptest::prelude::*;

use super::hold::KILL_TAKES;
use super::*;

const MIB: u64 = 1 << 20;
const GRACE: Duration = Duration::from_secs(1);

fn at(ms: u64) -> Mono {
    Mono::from_millis(1000 + ms)
}

fn pod() -> Held {
    Held::pod(&"p".into())
}

/// Held at 0 ms with 100 MiB left and a second of grace.
fn held(signalled: bool) -> Brakes {
    let mut brakes = Brakes::default();
    brakes.hold(&pod(), (Domain::Kubepods, 100 * MIB), at(0) + GRACE, signalled, at(0));
    brakes
}

/// Plans, notes, and plans nothing more, and then not before the time it names.
fn gear(brakes: &mut Brakes, now: Mono) -> Option<Gear> {
    let steps = brakes.plan(now);
    for step in &steps {
        brakes.ordered(step, now);
    }
    assert_eq!(brakes.plan(now), [], "after {steps:?}");
    assert!(brakes.next_wakeup().is_none_or(|at| at > now), "spins after {steps:?}");
    steps.first().map(|step| step.gear)
}

const THROTTLED: Gear = Gear::Throttled { room_bytes: 50 * MIB / 4 };

#[test]
fn frozen_until_it_has_its_stop_signal_then_on_a_budget() {
    let mut brakes = held(false);
    assert_eq!((gear(&mut brakes, at(0)), brakes.any_running(|_| true)), (None, false));
    brakes.signalled(&pod(), at(1));
    assert_eq!(gear(&mut brakes, at(1)), Some(THROTTLED));
    assert!(brakes.any_running(|_| true));
    // A quarter of the budget at once, the rest as the grace goes by; frozen, it runs again once a run is earned.
    for (ms, headroom, expected) in [
        (2, 88, None),
        (3, 87, Some(Gear::Frozen)),
        (20, 87, None),
        (170, 87, None),
        (190, 87, Some(THROTTLED)),
        (191, 79, Some(Gear::Frozen)),
        (499, 79, Some(THROTTLED)),
        (500, 50, Some(Gear::Frozen)),
        // All is gone, and yet it runs after a half, three quarters and seven eighths of its grace: for an eighth of what is
        // left, and never for more than a third of what was not its own.
        (501, 50, Some(THROTTLED)),
        (502, 44, None),
        (503, 43, Some(Gear::Frozen)),
        (750, 43, None),
        (751, 43, Some(THROTTLED)),
        (752, 37, Some(Gear::Frozen)),
        (876, 37, Some(THROTTLED)),
        (877, 34, None),
        (878, 33, Some(Gear::Frozen)),
        (999, 33, None),
        (1000, 33, None),
        (1100, 33, Some(Gear::Free)),
    ] {
        brakes.observe(&Domain::Kubepods, headroom * MIB, at(ms));
        brakes.observe(&Domain::Node, 0, at(ms));
        assert_eq!(gear(&mut brakes, at(ms)), expected, "{headroom} MiB at {ms} ms");
    }
    assert!(!brakes.any() && !brakes.holds(&pod()));
    assert!(brakes.frozen(&pod(), at(1200)) > Duration::from_millis(900));
}

/// With others' growth and shrinking; and there is none where what is left is but for what a look misses.
#[test]
fn a_last_run_takes_no_more_than_was_meant() {
    let limit = Domain::Container("p".into(), "c".into());
    for (domain, rows) in [
        (
            Domain::Node,
            &[
                (100, 50, Some(Gear::Frozen)),
                (499, 50, None),
                (500, 50, Some(THROTTLED)),
                (501, 60, Some(Gear::Frozen)),
                (502, 46, None),
                (503, 47, Some(THROTTLED)),
                (504, 44, None),
                (505, 43, Some(Gear::Frozen)),
                (506, 46, None),
            ][..],
        ),
        (limit, &[(100, 25, Some(Gear::Frozen)), (500, 25, None), (750, 25, None), (900, 25, None)]),
    ] {
        let mut brakes = Brakes::default();
        brakes.hold(&pod(), (domain.clone(), 100 * MIB), at(0) + GRACE, true, at(0));
        for (ms, headroom, expected) in rows {
            brakes.observe(&domain, headroom * MIB, at(*ms));
            assert_eq!(gear(&mut brakes, at(*ms)), *expected, "{headroom} MiB at {ms} ms of {domain:?}");
        }
    }
}

#[test]
fn it_is_frozen_for_no_longer_than_a_decision_takes() {
    let mut brakes = held(false);
    let end = at(0) + LONGEST_FREEZE;
    assert_eq!(brakes.next_wakeup(), Some(end));
    assert_eq!(gear(&mut brakes, at(299)), None);
    assert_eq!(brakes.plan(end)[0].reason, Reason::StopSignalAwaited);
    assert_eq!(gear(&mut brakes, end), Some(THROTTLED));
}

#[test]
fn what_ends_is_let_go() {
    for signalled in [false, true] {
        let mut brakes = held(signalled);
        brakes.let_go(&pod(), at(5));
        assert!(brakes.next_wakeup() <= Some(at(5)));
        assert_eq!(gear(&mut brakes, at(5)), Some(Gear::Free));
        assert!(!brakes.any());

        // What runs when the grace is cut does not grow on until it is killed.
        let mut brakes = held(signalled);
        brakes.cut(&pod(), at(10));
        assert_eq!(gear(&mut brakes, at(10)), signalled.then_some(Gear::Frozen));
        assert_eq!(gear(&mut brakes, at(110)), Some(Gear::Free), "SIGKILL has had its time");

        let mut brakes = held(signalled);
        brakes.forget(&pod().pod);
        assert_eq!((gear(&mut brakes, at(0)), brakes.next_wakeup()), (None, None));
    }
}

#[test]
fn a_gear_that_could_not_be_set_is_taken_out_until_it_is() {
    let mut brakes = held(false);
    for n in 0..3 {
        let now = at(100 * n);
        brakes.failed(&pod(), now);
        assert_eq!(gear(&mut brakes, now), None, "not at once");
        assert!(brakes.holds(&pod()), "for all that is known");
        assert_eq!(gear(&mut brakes, now + RETRY), Some(Gear::Free));
    }
    assert!(!brakes.holds(&pod()));
    // The guard has let go of all.
    let mut brakes = held(false);
    brakes.all_were_let_go();
    assert_eq!(brakes.plan(at(1)).first().map(|step| step.gear), Some(Gear::Frozen));
}

/// Headroom in MiB at 10 ms and at 20 ms, once the pod stands still → holding it does not help.
#[test]
fn a_hold_that_does_not_help_is_seen() {
    for (what, signalled, first, then, fails) in [
        ("nothing goes", false, 100, 100, false),
        ("it had some more while it was being frozen", false, 80, 79, false),
        ("others take it", false, 100, 87, true),
        ("others take it slowly", false, 100, 90, false),
        ("more is gone than it could be given", true, 33, 33, true),
        ("the last runs are left to it", true, 34, 34, false),
        ("its budget is used up", true, 50, 50, false),
    ] {
        let mut brakes = held(signalled);
        for (ms, headroom) in [(10, first), (20, then)] {
            brakes.observe(&Domain::Kubepods, headroom * MIB, at(ms));
            if signalled {
                gear(&mut brakes, at(ms));
            }
        }
        assert_eq!(brakes.state(&pod()), Some((&Domain::Kubepods, fails)), "{what}");
    }
}

/// It may take more of what nobody else can use, and neither knows of the other, nor of its pod or its next run.
#[test]
fn containers_are_held_one_by_one_for_the_sake_of_their_own_limits() {
    let run = |name: &str, id: &str| {
        Held::container(&"p".into(), &ContainerInstance { name: name.into(), id: id.into() })
    };
    let limit = |name: &str| Domain::Container("p".into(), name.into());
    let (a, b) = (run("a", "1"), run("b", "2"));
    let mut brakes = held(false);
    brakes.hold(&a, (limit("a"), 100 * MIB), at(0) + GRACE, true, at(0));
    brakes.hold(&b, (limit("b"), 40 * MIB), at(0) + GRACE, false, at(0));
    brakes.observe(&limit("a"), 82 * MIB, at(1));
    brakes.observe(&limit("b"), 40 * MIB, at(1));
    assert_eq!(brakes.plan(at(1)), [], "three quarters are its own, of these a quarter at once");
    brakes.observe(&limit("a"), 81 * MIB, at(2));
    let steps = brakes.plan(at(2));
    assert_eq!(steps.iter().map(|s| (&s.held, s.gear)).collect::<Vec<_>>(), [(&a, Gear::Frozen)]);
    brakes.ordered(&steps[0], at(2));
    brakes.signalled(&b, at(3));
    let steps = brakes.plan(at(3));
    let room_bytes = 30 * MIB / 4;
    assert_eq!(
        steps.iter().map(|s| (&s.held, s.gear)).collect::<Vec<_>>(),
        [(&b, Gear::Throttled { room_bytes })]
    );
    brakes.ordered(&steps[0], at(3));
    assert!(brakes.any_running(|domain| *domain == limit("b")) && !brakes.any_running(|d| *d == limit("a")));

    brakes.let_go(&a, at(4));
    let steps = brakes.plan(at(4));
    assert_eq!((steps[0].gear, steps[0].reason), (Gear::Free, Reason::MemoryLimitForestalled));
    brakes.ordered(&steps[0], at(4));
    assert!(!brakes.holds(&a) && brakes.holds(&b) && brakes.holds(&pod()));
    let again = run("a", "3");
    brakes.hold(&again, (limit("a"), 50 * MIB), at(5) + GRACE, false, at(5));
    assert_eq!((brakes.holds.len(), brakes.holds(&again)), (3, true), "the earlier run is forgotten");
    brakes.forget(&"p".into());
    assert!(!brakes.any());
}

/// 100 MiB are left and `victim` has this much of its grace.
fn throttled_neighbour(grace: Duration) -> Brakes {
    let mut brakes = Brakes::default();
    let victim = (&"victim".into(), at(0) + grace);
    brakes.throttle_neighbour(&"p".into(), victim, (Domain::Kubepods, 100 * MIB), at(0));
    brakes
}

#[test]
fn one_that_is_not_evicted_runs_on_a_budget_and_stands_still_for_no_longer_than_it_may() {
    let mut brakes = throttled_neighbour(30 * GRACE);
    let (p, victim) = (PodUid::from("p"), PodUid::from("victim"));
    assert_eq!((brakes.state(&pod()), brakes.any_running(|_| true)), (None, true), "it is not evicted");
    let running = Some(Gear::Throttled { room_bytes: 0 });
    for (ms, headroom, expected, failing) in [
        (1, 88, None, false),
        (2, 80, Some(Gear::Frozen), false),
        // By its budget it would stand still for seconds.
        (301, 80, None, false),
        (302, 80, running, false),
        (304, 70, None, false),
        (305, 70, Some(Gear::Frozen), false),
        (605, 70, running, false),
        // It does not grow, so it runs.
        (650, 70, None, false),
        (651, 68, Some(Gear::Frozen), false),
        (799, 68, None, false),
        (800, 68, None, true),
        (900, 68, Some(Gear::Free), false),
    ] {
        brakes.observe(&Domain::Kubepods, headroom * MIB, at(ms));
        assert_eq!(gear(&mut brakes, at(ms)), expected, "{headroom} MiB at {ms} ms");
        let help = match (brakes.any(), failing) {
            (false, _) => Help::NobodyHeld,
            (true, false) => Help::Helps,
            (true, true) => Help::InVain,
        };
        assert_eq!(brakes.help(&victim, &Domain::Kubepods, at(ms)), help, "{headroom} MiB at {ms} ms");
        assert_eq!(brakes.help(&victim, &Domain::Node, at(ms)), Help::NobodyHeld);
    }
    assert!(
        !brakes.may_throttle_neighbour(&p, at(900)),
        "it has stood still for as long as it may in these seconds"
    );
    let mut brakes = throttled_neighbour(GRACE);
    brakes.observe(&Domain::Kubepods, 98 * MIB, at(10));
    brakes.let_go(&Held::pod(&victim), at(20));
    assert_eq!(gear(&mut brakes, at(20)), Some(Gear::Free));
    assert!(brakes.may_throttle_neighbour(&p, at(20)), "it did grow, and still may for the next one");
}

#[test]
fn it_is_let_go_with_the_pod_that_was_evicted_and_a_false_alarm_is_not_repeated() {
    let (p, victim) = (PodUid::from("p"), PodUid::from("victim"));
    let mut brakes = throttled_neighbour(GRACE);
    assert!(!brakes.may_throttle_neighbour(&p, at(1)), "it is held");
    brakes.let_go(&Held::pod(&victim), at(100));
    assert_eq!(gear(&mut brakes, at(100)), Some(Gear::Free));
    assert!(!brakes.may_throttle_neighbour(&p, at(10_099)) && brakes.may_throttle_neighbour(&p, at(10_100)));

    // Evicted next, it is held as such.
    let mut brakes = throttled_neighbour(GRACE);
    brakes.hold(&pod(), (Domain::Kubepods, 50 * MIB), at(100) + GRACE, false, at(100));
    assert_eq!(brakes.state(&pod()), Some((&Domain::Kubepods, false)));
    brakes.let_go(&Held::pod(&victim), at(100));
    assert_eq!(gear(&mut brakes, at(100)), None);

    // One that cannot be held is not tried again soon, and told of once.
    let mut brakes = throttled_neighbour(GRACE);
    assert!(brakes.failed(&pod(), at(0)) && !brakes.failed(&pod(), at(1)));
    assert_eq!(gear(&mut brakes, at(11)), Some(Gear::Free));
    assert!(!brakes.may_throttle_neighbour(&p, at(1_000)) && brakes.may_throttle_neighbour(&p, at(10_011)));
}

proptest! {
    /// Whatever the speed, who is not evicted stands still for a few hundred ms at a stretch unless memory is at its end, for
    /// less than a second in all, and is then let go; and the loop is never kept awake for nothing.
    #[test]
    fn who_is_not_evicted_is_held_for_less_than_a_second(
        mib_s in 0u64..8000, headroom_mib in 8u64..4096, grace_ms in 50u64..40_000, stops_ms in 0u64..2_000
    ) {
        let start = headroom_mib * MIB;
        let mut brakes = Brakes::default();
        let (p, victim) = (PodUid::from("p"), PodUid::from("victim"));
        brakes.throttle_neighbour(&p, (&victim, at(grace_ms)), (Domain::Node, start), at(0));
        let (mut left, mut now, mut frozen_since) = (start, at(0), None);
        while now < at(1_000) {
            if now == at(stops_ms) {
                brakes.let_go(&Held::pod(&victim), now);
            }
            brakes.observe(&Domain::Node, left, now);
            for step in brakes.plan(now) {
                prop_assert!(mib_s > 0 || step.gear == Gear::Free);
                prop_assert_eq!(&step.neighbour_of, &Some(victim.clone()));
                frozen_since = (step.gear == Gear::Frozen).then_some(now);
                brakes.ordered(&step, now);
            }
            prop_assert_eq!(brakes.plan(now), []);
            prop_assert!(brakes.next_wakeup().is_none_or(|wake| wake > now), "spins at {}", now);
            let fails = brakes.help(&victim, &Domain::Node, at(0)) == Help::InVain;
            let stretch = frozen_since.map_or(Duration::ZERO, |since| now.since(since));
            prop_assert!(stretch <= LONGEST_FREEZE || fails, "{:?} of {}", stretch, left);
            prop_assert!(!brakes.any() || now < at(0) + LONGEST_NEIGHBOUR_THROTTLE.min(Duration::from_millis(grace_ms) + KILL_TAKES));
            if frozen_since.is_none() {
                left = left.saturating_sub(mib_s * MIB / 1000);
            }
            now = now + Duration::from_millis(1);
        }
        prop_assert!(!brakes.any());
    }

    /// Whatever the speed, the pod takes its budget and what one look misses, no more, but for the last runs; one that stands
    /// still is never frozen; and the loop is never kept awake for nothing, whatever else comes and goes.
    #[test]
    fn growth_is_bounded_by_the_budget(
        mib_s in 0u64..8000, headroom_mib in 8u64..4096, grace_ms in 200u64..3_000, cut_ms in 0u64..4_000
    ) {
        let look = Duration::from_millis(1);
        let start = headroom_mib * MIB;
        let mut brakes = Brakes::default();
        let end = at(grace_ms);
        brakes.hold(&pod(), (Domain::Node, start), end, true, at(0));
        let (mut left, mut now, mut set) = (start, at(0), Gear::Throttled { room_bytes: 0 });
        let per_look = (mib_s * MIB / 1000).min(start);
        while now < end + 2 * KILL_TAKES {
            if now == at(cut_ms) {
                brakes.cut(&pod(), now);
            }
            brakes.observe(&Domain::Node, left, now);
            for step in brakes.plan(now) {
                prop_assert!(mib_s > 0 || step.gear != Gear::Frozen || now >= end || now >= at(cut_ms));
                set = step.gear;
                brakes.ordered(&step, now);
            }
            prop_assert_eq!(brakes.plan(now), []);
            prop_assert!(brakes.next_wakeup().is_none_or(|wake| wake > now), "spins at {}", now);
            if now >= end || now >= at(cut_ms) {
                // Killed: its memory comes back.
                left = (left + 10 * MIB).min(start);
            } else if set != Gear::Frozen {
                left = left.saturating_sub(per_look);
                let least = if now < at(grace_ms / 2) { start / 2 } else { start / 3 };
                prop_assert!(left + per_look + MIB >= least, "{} of {}", left, start);
            }
            now = now + look;
        }
        prop_assert!(!brakes.any());
    }

    /// However early a pod has used up its budget, it runs three times more before its grace ends; where one look missed a
    /// lot, once at least. Woken by nothing but the time that the plan names.
    #[test]
    fn what_is_done_but_for_a_moment_gets_it(
        headroom_mib in 8u64..4096, grace_ms in 200u64..30_000, over_pct in 0u64..33, used_up in 0.0f64..0.5
    ) {
        let start = headroom_mib * MIB;
        let end = at(grace_ms);
        let mut brakes = Brakes::default();
        brakes.hold(&pod(), (Domain::Node, start), end, true, at(0));
        // In one look.
        let rest = start - start / 4 * 2;
        let mut left = rest - rest * over_pct / 100;
        let mut now = at(0) + Duration::from_millis(grace_ms).mul_f64(used_up);
        brakes.observe(&Domain::Node, left, now);
        prop_assert_eq!(gear(&mut brakes, now), Some(Gear::Frozen));
        let (mut runs, mut wakes) = (0, 0);
        while let Some(wake) = brakes.next_wakeup().filter(|wake| *wake < end) {
            (now, wakes) = (wake, wakes + 1);
            prop_assert!(wakes < 10, "kept awake");
            let (_, fails) = brakes.state(&pod()).unwrap();
            prop_assert!(!fails || runs > 0, "its grace is cut with {} of {} left", left, start);
            if let Some(Gear::Throttled { .. }) = gear(&mut brakes, now) {
                runs += 1;
                // A little more than it is given.
                left -= left / 8 + 1;
                now = now + Duration::from_micros(100);
                brakes.observe(&Domain::Node, left, now);
                gear(&mut brakes, now);
            }
        }
        prop_assert!(if over_pct <= 12 { runs == 3 } else { (1..=3).contains(&runs) }, "{} runs", runs);
    }
}
