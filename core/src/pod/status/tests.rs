mod probes;
mod restart;

use serde_json::{Value, json};

use super::*;
use crate::pod::runtime_status::{ContainerState, ContainerStatus, SandboxStatus};
use crate::reason::Reason;

const S: i64 = 1_000_000_000;
const NOW: i64 = 1_700_000_000 * S;

struct Case {
    pod: Pod,
    runtime: PodRuntimeStatus,
    waiting: Vec<ContainerWaiting>,
    failed: Option<PodFailure>,
    completed: bool,
    previous: Option<PodStatus>,
    oom_killed: BTreeSet<String>,
    forestalled: BTreeMap<String, String>,
    probes: ProbeResults,
    now: i64,
}

fn case(policy: &str, init: &[&str], containers: &[&str], instances: Vec<ContainerStatus>) -> Case {
    let list = |names: &[&str]| -> Vec<Value> {
        names
            .iter()
            .map(|n| match n.strip_suffix('+') {
                Some(name) => json!({"name": name, "image": "img", "restartPolicy": "Always"}),
                None => json!({"name": n, "image": "img"}),
            })
            .collect()
    };
    Case {
        pod: serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "restartPolicy": policy, "initContainers": list(init), "containers": list(containers)}}))
        .unwrap(),
        runtime: PodRuntimeStatus {
            sandboxes: vec![SandboxStatus {
                id: "s".into(),
                ready: true,
                created_at_ns: NOW - 100 * S,
                attempt: 0,
                ips: vec!["10.1.0.5".into()],
            }],
            containers: instances,
        },
        waiting: vec![],
        failed: None,
        completed: false,
        previous: None,
        oom_killed: BTreeSet::new(),
        forestalled: BTreeMap::new(),
        probes: ProbeResults::default(),
        now: NOW,
    }
}

impl Case {
    fn status(&self) -> PodStatus {
        pod_status(&StatusInput {
            pod: &self.pod,
            runtime: &self.runtime,
            waiting: &self.waiting,
            failed: self.failed.as_ref(),
            completed: self.completed,
            previous: self.previous.as_ref(),
            oom_killed: &self.oom_killed,
            forestalled: &self.forestalled,
            probes: &self.probes,
            host_ips: &["192.0.2.1".to_owned()],
            runtime_name: "containerd",
            recursive_read_only: false,
            now_unix_ns: self.now,
        })
    }

    fn json(&self) -> Value {
        serde_json::to_value(self.status()).unwrap()
    }
}

fn instance(name: &str, state: ContainerState, exit_code: i32) -> ContainerStatus {
    ContainerStatus {
        id: format!("id-{name}"),
        sandbox_id: "s".into(),
        name: name.into(),
        restart_count: 0,
        state,
        created_at_ns: NOW - 90 * S,
        started_at_ns: NOW - 80 * S,
        finished_at_ns: if state == ContainerState::Exited { NOW - 10 * S } else { 0 },
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: "img:1".into(),
        image_ref: "sha256:1".into(),
        hash: None,
        log_path: String::new(),
        pid: None,
        stop_signal: None,
        user: None,
    }
}

fn running(name: &str) -> ContainerStatus {
    instance(name, ContainerState::Running, 0)
}

fn exited(name: &str, code: i32) -> ContainerStatus {
    instance(name, ContainerState::Exited, code)
}

fn condition(status: &Value, type_: &str) -> Value {
    let all = status["conditions"].as_array().unwrap();
    all.iter().find(|c| c["type"] == type_).cloned().unwrap_or(Value::Null)
}

#[test]
fn a_running_pod() {
    let text = serde_json::to_string_pretty(&case("Always", &[], &["a"], vec![running("a")]).json()).unwrap();
    insta::assert_snapshot!(text);
}

#[test]
fn phases() {
    let back_off = |name: &str| ContainerWaiting {
        container: name.into(),
        reason: "CrashLoopBackOff".into(),
        message: "back-off".into(),
    };
    for (what, mut c, waiting, completed, want) in [
        ("nothing yet", case("Always", &[], &["a"], vec![]), vec![], false, "Pending"),
        ("init runs", case("Always", &["i"], &["a"], vec![running("i")]), vec![], false, "Pending"),
        ("init failed", case("Never", &["i"], &["a"], vec![exited("i", 1)]), vec![], false, "Failed"),
        ("init is retried", case("Always", &["i"], &["a"], vec![exited("i", 1)]), vec![], false, "Pending"),
        ("one of two", case("Always", &[], &["a", "b"], vec![running("a")]), vec![], false, "Pending"),
        (
            "both",
            case("Always", &[], &["a", "b"], vec![running("a"), running("b")]),
            vec![],
            false,
            "Running",
        ),
        (
            "init's remains are gone",
            case("Always", &["i"], &["a"], vec![running("a")]),
            vec![],
            false,
            "Running",
        ),
        ("restarting", case("Always", &[], &["a"], vec![exited("a", 0)]), vec![], false, "Running"),
        (
            "crash loop",
            case("Always", &[], &["a"], vec![exited("a", 1)]),
            vec![back_off("a")],
            false,
            "Running",
        ),
        ("on failure", case("OnFailure", &[], &["a"], vec![exited("a", 1)]), vec![], false, "Running"),
        ("ended well", case("Never", &[], &["a"], vec![exited("a", 0)]), vec![], true, "Succeeded"),
        ("ended badly", case("Never", &[], &["a"], vec![exited("a", 2)]), vec![], true, "Failed"),
        (
            "sandbox ended early",
            case("Never", &[], &["a", "b"], vec![exited("a", 0)]),
            vec![],
            true,
            "Failed",
        ),
    ] {
        c.waiting = waiting;
        c.completed = completed;
        assert_eq!(c.json()["phase"], want, "{what}");
    }
}

#[test]
fn crash_loop_moves_the_end_to_the_last_state() {
    let mut c = case("Always", &[], &["a"], vec![exited("a", 3)]);
    c.runtime.containers[0].restart_count = 2;
    assert_eq!(c.json()["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    c.waiting.push(ContainerWaiting {
        container: "a".into(),
        reason: "CrashLoopBackOff".into(),
        message: "back-off 20s".into(),
    });
    let status = &c.json()["containerStatuses"][0];
    assert_eq!(
        status["state"],
        json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}})
    );
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(status["lastState"]["terminated"]["reason"], "Error");
    assert_eq!(status["restartCount"], 2);
    assert_eq!(status["ready"], false);
}

#[test]
fn how_the_run_before_ended_is_told_though_the_runtime_has_forgotten() {
    let run = |n: u32, state, code| ContainerStatus {
        id: format!("run-{n}"),
        restart_count: n,
        ..instance("a", state, code)
    };
    let mut c = case("Always", &[], &["a"], vec![run(0, ContainerState::Exited, 3)]);
    let mut last = |runs: Vec<ContainerStatus>| {
        c.previous = Some(c.status());
        c.runtime.containers = runs;
        let last = c.json()["containerStatuses"][0]["lastState"]["terminated"].clone();
        (last["exitCode"].as_i64(), last["containerID"].as_str().map(str::to_owned))
    };
    let first = (Some(3), Some("containerd://run-0".to_owned()));
    assert_eq!(last(vec![run(0, ContainerState::Exited, 3)]), (None, None));
    assert_eq!(last(vec![run(1, ContainerState::Running, 0)]), first);
    assert_eq!(last(vec![run(1, ContainerState::Exited, 4)]), first);
    // The runtime's word is the newest.
    let both = vec![run(2, ContainerState::Running, 0), run(1, ContainerState::Exited, 5)];
    assert_eq!(last(both), (Some(5), Some("containerd://run-1".to_owned())));
}

#[test]
fn oom_killed_by_the_runtime_or_by_our_own_count() {
    let mut c = case("Never", &[], &["a"], vec![exited("a", 137)]);
    let reason = |c: &Case| c.json()["containerStatuses"][0]["state"]["terminated"]["reason"].clone();
    c.runtime.containers[0].reason = "Error".into();
    assert_eq!(reason(&c), "Error");
    c.oom_killed.insert("id-a".into());
    assert_eq!(reason(&c), "OOMKilled");
    c.runtime.containers[0].exit_code = 0;
    c.runtime.containers[0].reason = "Completed".into();
    assert_eq!(reason(&c), "Completed");
    c.oom_killed.clear();
    c.runtime.containers[0].reason = "OOMKilled".into();
    assert_eq!(reason(&c), "OOMKilled");
}

/// Exit code, the runtime's reason, OOM-killed by our own count, its own message → reason and message shown.
#[test]
fn stopped_before_its_limit() {
    let forestalled = "MemoryLimitForestalled";
    for (exit_code, by_runtime, by_count, own, reason, message) in [
        (0, "Completed", false, "", forestalled, "near"),
        (143, "Error", false, "flushed", forestalled, "near\nflushed"),
        (137, "Error", false, "", forestalled, "near"),
        // Of a child that the kernel killed, and which the container survived.
        (0, "OOMKilled", true, "", forestalled, "near"),
        // The kernel was faster.
        (137, "Error", true, "", "OOMKilled", ""),
        (137, "OOMKilled", false, "own", "OOMKilled", "own"),
    ] {
        let mut c = case("Never", &[], &["a"], vec![exited("a", exit_code)]);
        c.runtime.containers[0].reason = by_runtime.into();
        c.runtime.containers[0].message = own.into();
        c.forestalled.insert("id-a".into(), "near".into());
        c.oom_killed.extend(by_count.then(|| "id-a".to_owned()));
        let ended = &c.json()["containerStatuses"][0]["state"]["terminated"];
        let shown = ended["message"].as_str().unwrap_or_default();
        assert_eq!(
            (&ended["exitCode"], &ended["reason"]),
            (&json!(exit_code), &json!(reason)),
            "{by_runtime}"
        );
        assert_eq!(shown, message, "{exit_code} {by_runtime}");
        let other = Case { forestalled: BTreeMap::from([("id-b".into(), "near".into())]), ..c };
        let reason = other.json()["containerStatuses"][0]["state"]["terminated"]["reason"].clone();
        assert_ne!(reason, forestalled, "another's");
    }
}

#[test]
fn evicted_and_rejected() {
    let mut c = case("Always", &[], &["a"], vec![running("a")]);
    c.failed = Some(PodFailure::evicted("The node was low on resource: memory."));
    let status = c.json();
    assert_eq!(status["phase"], "Failed");
    assert_eq!(status["reason"], "Evicted");
    assert_eq!(status["message"], "The node was low on resource: memory.");
    let disruption = condition(&status, "DisruptionTarget");
    assert_eq!(
        (&disruption["status"], &disruption["reason"]),
        (&json!("True"), &json!("TerminationByKubelet"))
    );
    assert_eq!(condition(&status, "Ready")["reason"], "PodFailed");

    let rejection =
        crate::pod::admission::Rejection { reason: Reason::OutOfmemory, message: "Pod was rejected".into() };
    c.failed = Some(PodFailure::rejected(&rejection));
    c.runtime = PodRuntimeStatus::default();
    let status = c.json();
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("OutOfmemory")));
    // There is nothing more to say.
    assert_eq!((status.get("conditions"), status.get("containerStatuses")), (None, None));
}

#[test]
fn conditions_while_initializing() {
    let c = case("Always", &["s+", "i"], &["a"], vec![running("i"), running("s")]);
    let status = c.json();
    let initialized = condition(&status, "Initialized");
    assert_eq!(initialized["status"], "False");
    assert_eq!(initialized["message"], "containers with incomplete status: [i]");
    assert_eq!(condition(&status, "ContainersReady")["message"], "containers with unready status: [a]");
    assert_eq!(condition(&status, "PodReadyToStartContainers")["status"], "True");
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
}

#[test]
fn an_init_container_that_runs_has_started_and_all_wait_for_the_initialization() {
    let c = case("Always", &["i", "j"], &["b", "a"], vec![running("i")]);
    let status = c.json();
    let [first, second] = [0, 1].map(|index| status["initContainerStatuses"][index].clone());
    assert_eq!(
        (&first["name"], &first["started"], &first["ready"]),
        (&json!("i"), &json!(true), &json!(false))
    );
    assert_eq!((&second["name"], &second["started"]), (&json!("j"), &json!(false)));
    for waiting in [&second, &status["containerStatuses"][0]] {
        assert_eq!(waiting["state"]["waiting"]["reason"], "PodInitializing");
    }
}

#[test]
fn containers_are_told_by_name_and_conditions_in_the_manifests_order() {
    let status = case("Always", &[], &["b", "a"], vec![]).json();
    let names = [0, 1].map(|index| status["containerStatuses"][index]["name"].clone());
    assert_eq!(names, ["a", "b"]);
    assert_eq!(condition(&status, "Ready")["message"], "containers with unready status: [b a]");
}

#[test]
fn unchanged_conditions_keep_their_time() {
    let mut c = case("Always", &[], &["a"], vec![]);
    let before = c.status();
    c.previous = Some(before.clone());
    c.now += 60 * S;
    c.runtime.containers.push(running("a"));
    let after = c.json();
    let before = serde_json::to_value(before).unwrap();
    assert_eq!(after["startTime"], before["startTime"]);
    let at = |status: &Value, type_: &str| condition(status, type_)["lastTransitionTime"].clone();
    assert_eq!(at(&after, "PodScheduled"), at(&before, "PodScheduled"));
    assert_ne!(at(&after, "Ready"), at(&before, "Ready"));
}
