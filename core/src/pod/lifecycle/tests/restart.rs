//! Restart policies and rules of containers of their own, and ephemeral containers.

use super::*;

fn with(policy: &str, containers: Value) -> Pod {
    let mut pod = pod(policy, &[], &[]);
    let spec = json!({"restartPolicy": policy, "containers": containers});
    pod.spec = serde_json::from_value(spec).unwrap();
    pod
}

fn c(name: &str, policy: &str, action: &str, codes: &[i32]) -> Value {
    let rule = json!({"action": action, "exitCodes": {"operator": "In", "values": codes}});
    json!({"name": name, "image": "img", "restartPolicy": policy, "restartPolicyRules": [rule]})
}

#[test]
fn a_container_goes_by_its_own_policy_and_rules() {
    let plain = json!({"name": "b", "image": "img"});
    for (of_pod, own, containers, want) in [
        ("Never", "Always", &["a:0", "b:r"][..], "a#1"),
        ("Never", "OnFailure", &["a:0", "b:r"], ""),
        ("Always", "Never", &["a:1", "b:r"], ""),
        ("Never", "Never", &["a:42", "b:0"], "a#1"),
        ("Never", "Never", &["a:1", "b:0"], "kill-pod completed:false"),
        ("Always", "OnFailure", &["a:0", "b:0"], "b#1"),
    ] {
        let pod = with(of_pod, json!([c("a", own, "Restart", &[42]), plain]));
        assert_eq!(plan(&pod, &status(true, containers)), want, "{of_pod} {own} {containers:?}");
    }
    // In a sandbox that has ended, what has done its part stays done.
    let both = with("Always", json!([c("a", "OnFailure", "Restart", &[42])]));
    assert_eq!(plan(&both, &status(false, &["a:0"])), "completed:true");
    assert_eq!(plan(&both, &status(false, &["a:1"])), "kill-pod sandbox#1 a#1");
}

#[test]
fn an_init_container_goes_by_its_own() {
    let mut pod = pod("Never", &[], &["a"]);
    let init = serde_json::from_value(json!([c("i0", "OnFailure", "Restart", &[42])])).unwrap();
    pod.spec.as_mut().unwrap().init_containers = Some(init);
    assert_eq!(plan(&pod, &status(true, &["i0:1"])), "i0#1");
    let init = serde_json::from_value(json!([c("i0", "Never", "Restart", &[42])])).unwrap();
    pod.spec.as_mut().unwrap().init_containers = Some(init);
    assert_eq!(plan(&pod, &status(true, &["i0:1"])), "kill-pod completed:false");
    assert_eq!(plan(&pod, &status(true, &["i0:42"])), "i0#1");
}

#[test]
fn all_containers_start_again() {
    let mut pod =
        with("Never", json!([c("a", "Never", "RestartAllContainers", &[42]), {"name": "b", "image": "img"}]));
    let init =
        json!([{"name": "s", "image": "img", "restartPolicy": "Always"}, {"name": "i0", "image": "img"}]);
    pod.spec.as_mut().unwrap().init_containers = serde_json::from_value(init).unwrap();
    let status = status(true, &["a:42", "b:r", "i0:0", "s:r", "debug:r"]);
    let actions = compute(&pod, &status, &CrashLoopBackOff::default(), &ProbeResults::default(), NOW);
    let reset: Vec<(&str, bool)> =
        actions.containers_to_reset.iter().map(|r| (r.container.name.as_str(), r.kill)).collect();
    assert_eq!(
        reset,
        [("b", true), ("s", true), ("i0", false), ("a", false)],
        "whoever brought it about goes last"
    );
    assert_eq!(line(&actions), "");
    assert!(!actions.is_empty());
    let gone = PodRuntimeStatus { containers: Vec::new(), ..status };
    assert_eq!(plan(&pod, &gone), "s#0 i0#0");
}

#[test]
fn ephemeral_containers_are_started_once() {
    let mut pod = pod("Never", &["i0"], &["a"]);
    let ephemeral = json!([{"name": "debug", "image": "img"}, {"name": "other", "image": "img"}]);
    pod.spec.as_mut().unwrap().ephemeral_containers = serde_json::from_value(ephemeral).unwrap();
    for (containers, want) in [
        // Also of a pod that is not initialized.
        (&["i0:r"][..], "debug#0 other#0"),
        (&["a:r", "debug:r"], "other#0"),
        (&["a:r", "debug:1", "other:c"], ""),
        // They keep no pod alive.
        (&["a:0", "debug:r", "other:r"], "kill-pod completed:true"),
        (&["a:0"], "kill-pod completed:true"),
    ] {
        assert_eq!(plan(&pod, &status(true, containers)), want, "{containers:?}");
    }
    assert_eq!(
        plan(&pod, &PodRuntimeStatus::default()),
        "sandbox#0 i0#0",
        "a pod is there before it is debugged"
    );
}
