mod probes;
mod restart;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::pod::runtime_status::SandboxStatus;

const S: i64 = 1_000_000_000;
const NOW: i64 = 1_000_000 * S;

/// Containers are `a`, `b` …; init containers `i0` …; a name with `+` is a sidecar.
fn pod(policy: &str, init: &[&str], containers: &[&str]) -> Pod {
    let one = |name: &&str| {
        let mut c = json!({"name": name.trim_end_matches('+'), "image": "img"});
        if name.ends_with('+') {
            c["restartPolicy"] = "Always".into();
        }
        c
    };
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {
            "restartPolicy": policy,
            "initContainers": init.iter().map(one).collect::<Vec<Value>>(),
            "containers": containers.iter().map(one).collect::<Vec<Value>>(),
        },
    }))
    .unwrap()
}

fn sandbox(id: &str, ready: bool, attempt: u32) -> SandboxStatus {
    SandboxStatus { id: id.into(), ready, created_at_ns: NOW - 100 * S, attempt, ips: vec![] }
}

fn container(
    name: &str,
    sandbox_id: &str,
    state: ContainerState,
    restart_count: u32,
    exit_code: i32,
) -> ContainerStatus {
    let spec: Container = serde_json::from_value(json!({"name": name, "image": "img"})).unwrap();
    ContainerStatus {
        id: format!("{name}-{restart_count}"),
        sandbox_id: sandbox_id.into(),
        name: name.into(),
        restart_count,
        state,
        created_at_ns: NOW - 61 * S,
        started_at_ns: NOW - 60 * S,
        finished_at_ns: if state == ContainerState::Exited { NOW - S } else { 0 },
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: "img".into(),
        image_ref: "img".into(),
        hash: Some(container_hash(&spec)),
        log_path: String::new(),
        pid: None,
        stop_signal: None,
        user: None,
    }
}

/// `name:state`, newest first, in sandbox `s1`; states r(unning) c(reated) u(nknown) and the exit code.
fn status(ready: bool, containers: &[&str]) -> PodRuntimeStatus {
    let containers = containers.iter().map(|text| {
        let (name, state) = text.split_once(':').unwrap();
        let (state, code) = match state {
            "r" => (ContainerState::Running, 0),
            "c" => (ContainerState::Created, 0),
            "u" => (ContainerState::Unknown, 0),
            code => (ContainerState::Exited, code.parse().unwrap()),
        };
        container(name, "s1", state, 0, code)
    });
    PodRuntimeStatus { sandboxes: vec![sandbox("s1", ready, 0)], containers: containers.collect() }
}

/// A plan as one line: what the tests below compare.
fn line(a: &PodActions) -> String {
    let mut words = Vec::new();
    if a.kill_pod {
        words.push("kill-pod".to_owned());
    }
    if a.create_sandbox {
        words.push(format!("sandbox#{}", a.sandbox_attempt));
    }
    words.extend(a.containers_to_kill.iter().map(|k| format!("kill:{}", k.id)));
    words.extend(a.containers_to_start.iter().map(|s| format!("{}#{}", s.name, s.restart_count)));
    words.extend(a.waiting.iter().map(|w| format!("wait:{}", w.container)));
    words.extend(a.completed.map(|ok| format!("completed:{ok}")));
    words.join(" ")
}

fn plan(pod: &Pod, status: &PodRuntimeStatus) -> String {
    line(&compute(pod, status, &CrashLoopBackOff::default(), &ProbeResults::default(), NOW))
}

#[test]
fn without_a_sandbox() {
    let none = PodRuntimeStatus::default();
    for (pod, want) in [
        (pod("Always", &[], &["a", "b"]), "sandbox#0 a#0 b#0"),
        (pod("Never", &["i0", "i1"], &["a"]), "sandbox#0 i0#0"),
        (pod("Always", &["s+", "i0"], &["a"]), "sandbox#0 s#0 i0#0"),
        (pod("Always", &["s+", "t+"], &["a"]), "sandbox#0 s#0 t#0 a#0"),
    ] {
        assert_eq!(plan(&pod, &none), want);
    }
}

#[test]
fn a_dead_sandbox_is_replaced_unless_the_pod_is_done() {
    for (policy, containers, want) in [
        ("Always", &["a:r", "b:0"][..], "kill-pod sandbox#1 a#1 b#1"),
        ("OnFailure", &["a:1", "b:0"], "kill-pod sandbox#1 a#1"),
        ("OnFailure", &["a:0", "b:0"], "completed:true"),
        ("Never", &["a:0", "b:0"], "completed:true"),
        ("Never", &["a:0", "b:1"], "completed:false"),
        ("Never", &["a:r", "b:0"], "kill-pod completed:false"),
        ("Never", &[], "kill-pod sandbox#1 a#0 b#0"),
        ("OnFailure", &["a:0"], "kill-pod sandbox#1 b#0"),
    ] {
        assert_eq!(
            plan(&pod(policy, &[], &["a", "b"]), &status(false, containers)),
            want,
            "{policy} {containers:?}"
        );
    }
    // Init containers run again: what they prepared went with the sandbox.
    let mut old = status(false, &["a:r", "i0:0"]);
    assert_eq!(plan(&pod("Always", &["i0"], &["a"]), &old), "kill-pod sandbox#1 i0#1");
    old.sandboxes.insert(0, sandbox("s2", true, 1));
    old.containers[0].state = ContainerState::Exited;
    assert_eq!(plan(&pod("Always", &["i0"], &["a"]), &old), "i0#1");
}

#[test]
fn two_ready_sandboxes_are_one_too_many() {
    let mut status = status(true, &["a:r"]);
    status.sandboxes.insert(0, sandbox("s2", true, 4));
    assert_eq!(plan(&pod("Always", &[], &["a"]), &status), "kill-pod sandbox#5 a#1");
}

#[test]
fn restart_policies() {
    for (policy, containers, want) in [
        ("Always", &["a:r", "b:r"][..], ""),
        ("Always", &["a:r"], "b#0"),
        ("Always", &["a:0", "b:r"], "a#1"),
        ("OnFailure", &["a:0", "b:r"], ""),
        ("OnFailure", &["a:1", "b:r"], "a#1"),
        ("Never", &["a:1", "b:r"], ""),
        ("Never", &["a:0", "b:0"], "kill-pod completed:true"),
        ("Never", &["a:0", "b:7"], "kill-pod completed:false"),
        ("OnFailure", &["a:0", "b:0"], "kill-pod completed:true"),
        ("Always", &["a:c", "b:r"], "a#1"),
        ("Never", &["a:u", "b:r"], "kill:a-0 a#1"),
    ] {
        assert_eq!(
            plan(&pod(policy, &[], &["a", "b"]), &status(true, containers)),
            want,
            "{policy} {containers:?}"
        );
    }
}

#[test]
fn init_containers_in_order() {
    let two = |policy| pod(policy, &["i0", "i1"], &["a"]);
    for (policy, containers, want) in [
        ("Always", &[][..], "i0#0"),
        ("Always", &["i0:r"], ""),
        ("Always", &["i0:0"], "i1#0"),
        ("Always", &["i0:1"], "i0#1"),
        ("Always", &["i0:c"], "i0#1"),
        ("Always", &["i0:u"], "kill:i0-0 i0#1"),
        ("Never", &["i0:u"], "kill-pod completed:false"),
        ("Never", &["i0:3"], "kill-pod completed:false"),
        ("Always", &["i1:0", "i0:0"], "a#0"),
        ("Always", &["i1:0"], "a#0"),
        // Initialized once, whatever is left of the init containers by now.
        ("Always", &["a:r"], ""),
        ("Always", &["a:0"], "a#1"),
        ("Never", &["a:0", "i1:0"], "kill-pod completed:true"),
    ] {
        assert_eq!(plan(&two(policy), &status(true, containers)), want, "{policy} {containers:?}");
    }
}

#[test]
fn sidecars_run_beside_the_containers() {
    let p = |policy| pod(policy, &["s+", "i0", "t+"], &["a"]);
    for (policy, containers, want) in [
        ("Always", &["s:r"][..], "i0#0"),
        ("Always", &["i0:r", "s:r"], ""),
        ("Always", &["i0:r", "s:0"], "s#1"),
        ("Always", &["i0:0", "s:r"], "t#0 a#0"),
        ("Never", &["a:r", "t:1", "i0:0", "s:r"], "t#1"),
        ("Never", &["a:0", "t:1", "i0:0", "s:r"], "kill-pod completed:true"),
        ("Always", &["a:r", "t:r", "s:u"], "kill:s-0 s#1"),
    ] {
        assert_eq!(plan(&p(policy), &status(true, containers)), want, "{policy} {containers:?}");
    }
}

#[test]
fn a_changed_container_is_restarted_whatever_the_policy() {
    let mut status = status(true, &["a:r", "s:r"]);
    status.containers[0].hash = Some(1);
    assert_eq!(plan(&pod("Never", &["s+"], &["a"]), &status), "kill:a-0 a#1");
    status.containers[0].hash = None;
    status.containers[1].hash = Some(1);
    assert_eq!(plan(&pod("Never", &["s+"], &["a"]), &status), "kill:s-0 s#1");
}

#[test]
fn strays_are_stopped() {
    let mut status = status(true, &["a:r", "old:r"]);
    status.containers.push(container("a", "s1", ContainerState::Running, 0, 0));
    status.containers[0].id = "a-1".into();
    let actions = compute(
        &pod("Always", &[], &["a"]),
        &status,
        &CrashLoopBackOff::default(),
        &ProbeResults::default(),
        NOW,
    );
    assert_eq!(line(&actions), "kill:old-0 kill:a-0");
    assert!(actions.containers_to_kill.iter().all(|k| k.reason == Reason::StrayContainer));
}

#[test]
fn crash_loop() {
    let mut status = status(true, &["b:r"]);
    let mut crashed = container("a", "s1", ContainerState::Exited, 3, 1);
    crashed.started_at_ns = NOW - 2 * S;
    status.containers.insert(0, crashed);
    let p = pod("Always", &[], &["a", "b"]);
    let actions = compute(&p, &status, &CrashLoopBackOff::default(), &ProbeResults::default(), NOW);
    assert_eq!(line(&actions), "wait:a");
    assert_eq!(actions.waiting[0].reason, "CrashLoopBackOff");
    assert_eq!(actions.waiting[0].message, "back-off 40s restarting failed container=a pod=p_ns(u)");
    assert_eq!(actions.next_sync_in, Some((Duration::from_secs(39), Reason::CrashLoopBackOffEnded)));
    let later = compute(&p, &status, &CrashLoopBackOff::default(), &ProbeResults::default(), NOW + 39 * S);
    assert_eq!(line(&later), "a#4");
    // Alone and backing off, the pod is not done.
    status.containers.truncate(1);
    assert_eq!(plan(&pod("OnFailure", &[], &["a"]), &status), "wait:a");
    // A crashing sidecar holds back what comes after it.
    assert_eq!(plan(&pod("Always", &["a+"], &["b"]), &status), "wait:a");
}

#[test]
fn the_hash_is_a_promise_to_later_versions() {
    let c = |v: Value| container_hash(&serde_json::from_value::<Container>(v).unwrap());
    let base = c(json!({"name": "a", "image": "i"}));
    assert_eq!(base, 0xafe2_c234, "{base:#x}");
    let of_kubelet = c(json!({"name": "main", "image": "oomlet.dev/busybox:1"}));
    assert_eq!(of_kubelet, 0xae56_e617, "as kubelet 1.37.2 marks it");
    let first = hash::first_hash(&serde_json::from_value(json!({"name": "a", "image": "i"})).unwrap());
    assert_eq!(first, 0x4f21_71cf_170f_945c, "{first:#x}");
    assert_eq!(base, c(json!({"name": "a", "image": "i", "args": ["x"]})));
    assert_ne!(base, c(json!({"name": "a", "image": "i2"})));
}

#[test]
fn garbage_keeps_the_newest() {
    let mut status = PodRuntimeStatus {
        sandboxes: vec![sandbox("s3", true, 2), sandbox("s2", false, 1), sandbox("s1", false, 0)],
        containers: vec![
            container("a", "s3", ContainerState::Running, 4, 0),
            container("a", "s3", ContainerState::Exited, 3, 1),
            container("a", "s2", ContainerState::Exited, 2, 1),
            container("a", "s1", ContainerState::Exited, 1, 1),
            container("b", "s2", ContainerState::Exited, 0, 0),
        ],
    };
    let found = garbage(&status, 1);
    assert_eq!(found.containers, ["a-2", "a-1"]);
    // s2 still holds what is left of b.
    assert_eq!(found.sandboxes, ["s1"]);
    assert_eq!(garbage(&status, 0).containers, ["a-3", "a-2", "a-1"]);
    status.containers.clear();
    assert_eq!(garbage(&status, 1).sandboxes, ["s2", "s1"]);
}

/// What a worker and a runtime make of a plan.
fn apply(status: &PodRuntimeStatus, actions: &PodActions) -> PodRuntimeStatus {
    let mut next = status.clone();
    let end = |c: &mut ContainerStatus| {
        if matches!(c.state, ContainerState::Running | ContainerState::Unknown) {
            c.state = ContainerState::Exited;
            c.exit_code = 137;
            c.finished_at_ns = NOW;
        }
    };
    if actions.kill_pod {
        next.containers.iter_mut().for_each(end);
        next.sandboxes.iter_mut().for_each(|s| s.ready = false);
    }
    if actions.create_sandbox {
        let id = format!("new{}", actions.sandbox_attempt);
        next.sandboxes.insert(0, sandbox(&id, true, actions.sandbox_attempt));
    }
    for kill in &actions.containers_to_kill {
        next.containers.iter_mut().filter(|c| c.id == kill.id).for_each(end);
    }
    let current = next.sandboxes.first().map(|s| s.id.clone()).unwrap_or_default();
    for start in &actions.containers_to_start {
        let mut c = container(&start.name, &current, ContainerState::Running, start.restart_count, 0);
        c.id = format!("{}-{}-new", start.name, start.restart_count);
        next.containers.insert(0, c);
    }
    next
}

fn any_container() -> impl Strategy<Value = ContainerStatus> {
    let names = prop::sample::select(vec!["a", "b", "i0", "i1", "s", "gone"]);
    let states = prop::sample::select(vec!["r", "c", "u", "0", "1"]);
    (names, states, prop::sample::select(vec!["s1", "s0"]), any::<bool>()).prop_map(
        |(name, state, sandbox_id, other_hash)| {
            let mut c = status(true, &[&format!("{name}:{state}")]).containers.remove(0);
            c.sandbox_id = sandbox_id.into();
            if other_hash {
                c.hash = Some(1);
            }
            c
        },
    )
}

proptest! {
    #[test]
    fn planning_over_an_applied_plan_plans_nothing(
        policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
        init in prop::sample::subsequence(vec!["s+", "i0", "i1"], 0..=3),
        ready in prop::collection::vec(any::<bool>(), 0..=2),
        mut containers in prop::collection::vec(any_container(), 0..8),
    ) {
        for (age, c) in containers.iter_mut().enumerate() {
            c.id = format!("c{age}");
        }
        let pod = pod(policy, &init, &["a", "b"]);
        let sandboxes: Vec<_> = ready
            .iter()
            .enumerate()
            .map(|(i, ready)| sandbox(["s1", "s0"][i.min(1)], *ready, 2 - i as u32))
            .collect();
        let status = PodRuntimeStatus { sandboxes, containers };
        let backoff = CrashLoopBackOff::default();
        let actions = compute(&pod, &status, &backoff, &ProbeResults::default(), NOW);
        let next = apply(&status, &actions);
        let again = compute(&pod, &next, &backoff, &ProbeResults::default(), NOW);
        prop_assert!(again.is_empty(), "{} then {} over {next:#?}", line(&actions), line(&again));
        if actions.completed.is_some() {
            prop_assert_eq!(again.completed, actions.completed);
            prop_assert!(!actions.create_sandbox && actions.containers_to_start.is_empty());
        }
    }
}
