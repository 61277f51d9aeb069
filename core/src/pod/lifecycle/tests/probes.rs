//! What follows from a failed probe, and what waits for a startup probe.

use super::*;
use ProbeKind::{Liveness, Startup};

fn with_startup(mut pod: Pod, init: usize) -> Pod {
    let spec = pod.spec.as_mut().unwrap();
    let probe = serde_json::from_value(json!({"exec": {"command": ["true"]}})).unwrap();
    spec.init_containers.as_mut().unwrap()[init].startup_probe = Some(probe);
    pod
}

fn planned(pod: &Pod, status: &PodRuntimeStatus, verdicts: &[(&str, ProbeKind, bool)]) -> PodActions {
    let mut probes = ProbeResults::default();
    for (id, kind, succeeded) in verdicts {
        probes.note(id, *kind, *succeeded);
    }
    compute(pod, status, &CrashLoopBackOff::default(), &probes, NOW)
}

#[test]
fn a_container_that_failed_ends_first_and_then_goes_by_its_policy() {
    let failed = [("a-0", Liveness, false)];
    for (policy, containers, want) in [
        ("Always", &["a:r", "b:r"][..], "kill:a-0"),
        ("OnFailure", &["a:r", "b:r"], "kill:a-0"),
        ("Never", &["a:r", "b:r"], "kill:a-0"),
        ("Never", &["a:r"], "kill:a-0 b#0"),
        ("Always", &["a:0", "b:r"], "a#1"),
        // It did not end of its own accord, whatever it ended with.
        ("OnFailure", &["a:0", "b:r"], "a#1"),
        ("OnFailure", &["b:0", "a:r"], "kill:a-0"),
        ("Never", &["a:0", "b:0"], "kill-pod completed:true"),
    ] {
        let actions = planned(&pod(policy, &[], &["a", "b"]), &status(true, containers), &failed);
        assert_eq!(line(&actions), want, "{policy} {containers:?}");
        if let Some(kill) = actions.containers_to_kill.first() {
            let again = if policy == "Never" { "" } else { ", will be restarted" };
            assert_eq!(kill.message, format!("Container a failed liveness probe{again}"));
            assert_eq!((kill.reason, kill.grace), (Reason::LivenessProbeFailed, None));
            let soon = Some((Duration::ZERO, Reason::LivenessProbeFailed));
            assert_eq!(actions.next_sync_in, soon, "nothing else need happen");
        }
    }
    // Of another instance.
    let old = planned(&pod("Always", &[], &["a"]), &status(true, &["a:r"]), &[("a-9", Liveness, false)]);
    assert_eq!(line(&old), "");
}

#[test]
fn a_probe_may_have_a_grace_of_its_own() {
    let mut pod = pod("Always", &[], &["a"]);
    let probe = json!({"exec": {"command": ["true"]}, "terminationGracePeriodSeconds": 3});
    pod.spec.as_mut().unwrap().containers[0].liveness_probe = Some(serde_json::from_value(probe).unwrap());
    for (kind, grace) in [(Liveness, Some(Duration::from_secs(3))), (Startup, None)] {
        let actions = planned(&pod, &status(true, &["a:r"]), &[("a-0", kind, false)]);
        assert_eq!(actions.containers_to_kill[0].grace, grace, "{kind}");
    }
}

#[test]
fn a_sidecars_startup_probe_holds_what_comes_after() {
    let two = with_startup(pod("Always", &["s+", "i0"], &["a"]), 0);
    for (containers, verdicts, want) in [
        (&[][..], &[][..], "s#0"),
        (&["s:r"], &[], ""),
        (&["s:r"], &[("s-0", Startup, true)], "i0#0"),
        (&["s:r"], &[("s-0", Startup, false)], "kill:s-0"),
        (&["s:1"], &[("s-0", Startup, false)], "s#1"),
        // What is done is done: a sidecar that starts again holds nothing any more.
        (&["i0:0", "s:r"], &[], "a#0"),
        (&["a:r", "i0:0", "s:r"], &[], ""),
        (&["a:0", "s:r"], &[], "a#1"),
        // A liveness probe is not asked whether the next may start.
        (&["s:r"], &[("s-0", Startup, true), ("s-0", Liveness, false)], "kill:s-0 i0#0"),
    ] {
        let actions = planned(&two, &status(true, containers), verdicts);
        assert_eq!(line(&actions), want, "{containers:?} {verdicts:?}");
    }
    let actions = planned(&two, &status(true, &["s:r"]), &[("s-0", Startup, false)]);
    assert_eq!(actions.containers_to_kill[0].message, "Init container s failed startup probe");
}
