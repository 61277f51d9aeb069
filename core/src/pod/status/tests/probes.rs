//! Ready and started by what probes say; readiness gates.

use super::*;
use crate::pod::probe::ProbeKind;

fn probed(init: &[&str], probes: &[(&str, &str)], verdicts: &[(&str, ProbeKind, bool)]) -> Case {
    let names = ["a"];
    let runs = init.iter().map(|n| n.trim_end_matches('+')).chain(names);
    let mut case = case("Always", init, &names, runs.map(running).collect());
    let spec = case.pod.spec.as_mut().unwrap();
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let probe = || serde_json::from_value(json!({"exec": {"command": ["true"]}})).ok();
        for (_, kind) in probes.iter().filter(|(name, _)| *name == container.name) {
            match *kind {
                "startup" => container.startup_probe = probe(),
                _ => container.readiness_probe = probe(),
            }
        }
    }
    for (id, kind, succeeded) in verdicts {
        case.probes.note(id, *kind, *succeeded);
    }
    case
}

/// Probes, verdicts → started and ready of the container `a`, Ready of the pod.
#[test]
fn containers_are_ready_when_their_probes_say_so() {
    use ProbeKind::{Readiness, Startup};
    let both = &[("a", "startup"), ("a", "readiness")][..];
    for (probes, verdicts, started, ready) in [
        (&[][..], &[][..], true, true),
        (&[("a", "readiness")], &[], true, false),
        (&[("a", "readiness")], &[("id-a", Readiness, true)], true, true),
        (&[("a", "startup")], &[], false, false),
        (&[("a", "startup")], &[("id-a", Startup, true)], true, true),
        (both, &[("id-a", Startup, true)], true, false),
        (both, &[("id-a", Startup, true), ("id-a", Readiness, true)], true, true),
        (both, &[("id-other", Startup, true), ("id-other", Readiness, true)], false, false),
    ] {
        let status = probed(&[], probes, verdicts).json();
        let of_a = &status["containerStatuses"][0];
        assert_eq!(
            (&of_a["started"], &of_a["ready"]),
            (&json!(started), &json!(ready)),
            "{probes:?} {verdicts:?}"
        );
        assert_eq!(status["phase"], "Running");
        for kind in ["Ready", "ContainersReady"] {
            let condition = condition(&status, kind);
            assert_eq!(condition["status"], if ready { "True" } else { "False" }, "{probes:?} {verdicts:?}");
            let message = if ready { Value::Null } else { json!("containers with unready status: [a]") };
            assert_eq!(condition["message"], message);
        }
    }
    let mut ended = probed(&[], &[], &[("id-a", Readiness, true)]);
    ended.runtime.containers = vec![exited("a", 0)];
    let of_a = &ended.json()["containerStatuses"][0];
    assert_eq!((&of_a["started"], &of_a["ready"]), (&json!(false), &json!(false)), "it does not run");
}

#[test]
fn a_sidecar_counts_as_started_by_its_probe() {
    let mut case = probed(&["s+"], &[("s", "startup")], &[]);
    case.runtime.containers.retain(|c| c.name == "s");
    let status = case.json();
    assert_eq!(status["phase"], "Pending");
    assert_eq!(condition(&status, "Initialized")["message"], "containers with incomplete status: [s]");
    case.probes.note("id-s", ProbeKind::Startup, true);
    assert_eq!(condition(&case.json(), "Initialized")["status"], "True");
}

#[test]
fn readiness_gates_and_what_others_say() {
    let gate = |status: &str| json!({"type": "example.com/gate", "status": status});
    let missing = "corresponding condition of pod readiness gate \"example.com/gate\" does not exist.";
    let not_true = "the status of pod readiness gate \"example.com/gate\" is not \"True\", but False";
    for (theirs, ready, message) in [
        (vec![], "False", json!(missing)),
        (vec![gate("False")], "False", json!(not_true)),
        (vec![gate("True")], "True", Value::Null),
    ] {
        let mut case = probed(&[], &[], &[]);
        let spec = case.pod.spec.as_mut().unwrap();
        spec.readiness_gates =
            serde_json::from_value(json!([{"conditionType": "example.com/gate"}])).unwrap();
        // What the agent itself said before is no news to it.
        let all: Vec<Value> =
            theirs.iter().cloned().chain([json!({"type": "Ready", "status": "Unknown"})]).collect();
        case.pod.status = serde_json::from_value(json!({ "conditions": all })).unwrap();
        let status = case.json();
        let found = condition(&status, "Ready");
        assert_eq!((&found["status"], &found["message"]), (&json!(ready), &message));
        assert_eq!(found["reason"] == "ReadinessGatesNotReady", ready == "False");
        assert_eq!(condition(&status, "ContainersReady")["status"], "True");
        let kept =
            status["conditions"].as_array().unwrap().iter().filter(|c| c["type"] == "example.com/gate");
        assert_eq!(kept.cloned().collect::<Vec<_>>(), theirs, "it stands as others have set it");
        // Containers that are not ready come first.
        case.runtime.containers.clear();
        assert_eq!(condition(&case.json(), "Ready")["reason"], "ContainersNotReady");
    }
}

/// Between its end and its next start it is in one of these states; a phase that has ended is never taken back.
#[test]
fn a_container_that_failed_its_probe_starts_again_though_it_exits_with_0() {
    let back_off = ContainerWaiting {
        container: "a".into(),
        reason: "CrashLoopBackOff".into(),
        message: "back-off".into(),
    };
    for (policy, failed, waiting, want) in [
        ("OnFailure", true, vec![], "Running"),
        ("OnFailure", true, vec![back_off.clone()], "Running"),
        ("OnFailure", false, vec![], "Succeeded"),
        ("Never", true, vec![], "Succeeded"),
        ("Always", true, vec![back_off], "Running"),
    ] {
        let mut case = case(policy, &[], &["a"], vec![exited("a", 0)]);
        case.waiting = waiting;
        if failed {
            case.probes.note("id-a", ProbeKind::Startup, false);
        }
        assert_eq!(case.json()["phase"], want, "{policy}, failed its probe: {failed}");
    }
}
