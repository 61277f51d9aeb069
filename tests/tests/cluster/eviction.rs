//! What the cluster sees of evictions and of OOM kills, and what its controllers make of it.

use std::fs;

use oomlet_tests::capped::CAP_MIB;
use oomlet_tests::cluster::joined::{Joined, obedient};
use oomlet_tests::cluster::{self, condition};
use oomlet_tests::node::script;
use oomlet_tests::{cgroup, pod, speed};
use serde_json::{Value, json};
use xtask::control_plane::ControlPlane;
use xtask::images;

/// It leaks once and is evicted for it; the next one of its kind, which finds the first one's mark, does `then`.
fn leaks_once(node: &Joined<'_>, name: &str, rate_mib_s: u32, more: &str, then: &str) -> Value {
    let marks = node.scratch().create_dir(name).unwrap();
    let rate = speed::rate_mib_s(rate_mib_s);
    let leak = format!(
        "if [ -e /marks/mark ]; then {then}; fi; \
         exec /oomlet-workload hog --rate-mib-s {rate} --max-mib 1000 --mark /marks/mark {more}"
    );
    json!({
        "terminationGracePeriodSeconds": 30,
        "automountServiceAccountToken": false,
        "nodeSelector": { "test": node.name },
        "volumes": [{ "name": "marks", "hostPath": { "path": marks, "type": "Directory" } }],
        "containers": [{
            "name": "main",
            "image": images::WORKLOAD,
            "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-c", leak],
            "resources": { "requests": { "memory": "16Mi" } },
            "volumeMounts": [{ "name": "marks", "mountPath": "/marks" }],
        }],
    })
}

fn mark(node: &Joined<'_>, name: &str) -> String {
    fs::read_to_string(node.scratch().path().join(name).join("mark")).unwrap_or_default()
}

#[test]
fn an_evicted_pod_has_failed_and_is_replaced() {
    let plane = cluster::shared();
    let mut node = Joined::new(plane, "evicts");
    node.cap_kubepods(CAP_MIB).unwrap();
    node.config_mut()["evictionHard"] = json!({ "memory.available": "100Mi" });
    node.config_mut()["evictionPressureTransitionPeriod"] = json!("5s");
    // Of an API server's node, it is critical: not evicted, though no request speaks for it.
    let mut critical = script("critical", "exec tail -f /dev/null");
    critical["metadata"]["namespace"] = json!("evicts");
    critical["spec"]["restartPolicy"] = json!("Always");
    node.put(&critical);
    node.start();
    node.wait_ready();
    node.wait_api_pod("critical-evicts", "running", pod::is_up);
    let container = node.container_of_pod("critical-evicts");
    a_stateful_set_has_its_pod_back(plane, &node);
    a_job_fails_with_its_pod(plane, &node);
    a_job_that_ignores_disruptions_goes_on(plane, &node);
    assert_eq!(node.container_of_pod("critical-evicts"), container);
    assert_eq!(cgroup::oom_kills(&node.kubepods_dir().unwrap()), 0, "{}", node.diagnosis());
}

/// Slow enough that the threshold is met before any forecast, so that the node is under pressure.
fn a_stateful_set_has_its_pod_back(plane: &ControlPlane, node: &Joined<'_>) {
    let then = "exec /oomlet-workload idle";
    let spec = leaks_once(node, "db", 20, "--start-mib 120 --sigterm-ms 500", then);
    let mut set = cluster::deployment("evicts", "db", 1, &spec);
    set["kind"] = json!("StatefulSet");
    set["spec"]["serviceName"] = json!("db");
    plane.apply(&set).unwrap();
    let first = node.wait_api_pod("db-0", "there", |pod| pod["metadata"]["uid"].is_string());
    let is_tainted = |node: &Value| {
        let taints = node["spec"]["taints"].as_array();
        taints.into_iter().flatten().any(|t| t["key"] == "node.kubernetes.io/memory-pressure")
    };
    let low = node.wait_object(&["node", "evicts"], "low on memory and tainted", |node| {
        condition(node, "MemoryPressure")["status"] == "True" && is_tainted(node)
    });
    assert_eq!(condition(&low, "MemoryPressure")["reason"], "KubeletHasInsufficientMemory");
    let again = |pod: &Value| pod["metadata"]["uid"] != first["metadata"]["uid"] && pod::is_up(pod);
    node.wait_api_pod("db-0", "replaced", again);
    node.wait_object(&["node", "evicts"], "well again", |node| {
        condition(node, "MemoryPressure")["status"] == "False" && !is_tainted(node)
    });
    assert!(mark(node, "db").contains("sigterm handled"), "{}", node.diagnosis());
}

fn job(name: &str, spec: &Value, policy: &Value) -> Value {
    let mut template = json!({ "spec": spec });
    template["spec"]["restartPolicy"] = json!("Never");
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": name, "namespace": "evicts" },
        "spec": { "backoffLimit": 0, "podFailurePolicy": policy, "template": template },
    })
}

/// Its handler takes seconds and ends well: neither keeps the pod from having failed at once.
fn a_job_fails_with_its_pod(plane: &ControlPlane, node: &Joined<'_>) {
    let spec = leaks_once(node, "plain", 20, "--start-mib 120 --sigterm-ms 2500", "exit 0");
    plane.apply(&job("plain", &spec, &Value::Null)).unwrap();
    let of_job = ["pods", "--selector=job-name=plain"];
    let seen = node.wait_object(&of_job, "Failed", |pods| pods["items"][0]["status"]["phase"] == "Failed");
    let noted = mark(node, "plain");
    assert!(!noted.contains("sigterm handled"), "Failed was to be told before its end: {noted}");
    assert_evicted(&seen["items"][0]);

    let ended = node.wait_object(&of_job, "ended", |pods| {
        pod::container(&pods["items"][0], "main")["state"]["terminated"].is_object()
    });
    let ended = &ended["items"][0];
    assert_evicted(ended);
    assert_eq!(pod::container(ended, "main")["state"]["terminated"]["exitCode"], 0, "{:#}", ended["status"]);
    let job =
        node.wait_object(&["job", "plain"], "failed", |job| condition(job, "Failed")["status"] == "True");
    assert_eq!((&job["status"]["failed"], &job["status"]["succeeded"]), (&json!(1), &Value::Null));

    let name = ended["metadata"]["name"].as_str().unwrap();
    node.wait("its eviction is an Event", |_| node.events(name).iter().any(|(r, ..)| r == "Evicted"));
    let events = node.events(name);
    let told: Vec<_> = events.iter().filter(|(reason, ..)| reason == "Evicted").collect();
    let [(_, 1, message)] = told.as_slice() else { panic!("{events:#?}") };
    assert_eq!(ended["status"]["message"], message.as_str());
    let described = plane.kubectl(&["describe", "pod", name, "--namespace", "evicts"]).unwrap();
    assert!(
        described.lines().any(|line| line.contains("Evicted") && line.contains(message.trim())),
        "{described}"
    );
}

#[track_caller]
fn assert_evicted(pod: &Value) {
    assert_eq!((pod::phase(pod), pod::reason(pod)), ("Failed", "Evicted"), "{:#}", pod["status"]);
    let target = condition(pod, "DisruptionTarget");
    assert_eq!((&target["status"], &target["reason"]), (&json!("True"), &json!("TerminationByKubelet")));
    let message = pod["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("The node was low on resource: memory. "), "{message}");
    let why = ["Forecast: ", " out of memory in ", "First of 2 pods: ", "Container main was using "];
    assert!(why.iter().all(|part| message.contains(part)) && !message.contains('\n'), "{message}");
}

fn a_job_that_ignores_disruptions_goes_on(plane: &ControlPlane, node: &Joined<'_>) {
    let spec = leaks_once(node, "patient", 200, "--sigterm-ms 300", "exit 0");
    let policy = json!({ "rules": [{
        "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }],
    }] });
    plane.apply(&job("patient", &spec, &policy)).unwrap();
    let done = node
        .wait_object(&["job", "patient"], "complete", |job| condition(job, "Complete")["status"] == "True");
    let counts = (&done["status"]["succeeded"], &done["status"]["failed"]);
    assert_eq!(counts, (&json!(1), &Value::Null), "what was disrupted does not count: {:#}", done["status"]);
    assert!(mark(node, "patient").contains("sigterm handled"), "{}", node.diagnosis());
}

#[test]
fn a_pod_over_its_own_limit_has_itself_to_blame() {
    let plane = cluster::shared();
    let node = Joined::ready(plane, "overuses");
    let mut fills = obedient();
    fills["restartPolicy"] = json!("Never");
    fills["volumes"] = json!([{ "name": "cache", "emptyDir": { "sizeLimit": "1Mi" } }]);
    let container = &mut fills["containers"][0];
    container["volumeMounts"] = json!([{ "name": "cache", "mountPath": "/cache" }]);
    container["command"][2] =
        json!("trap 'exit 0' TERM; head -c 4000000 /dev/zero > /cache/file; while true; do sleep 0.1; done");
    node.run_pod("fills", &fills);
    let limits = json!({ "limits": { "memory": "32Mi" } });
    let leaks = json!({ "automountServiceAccountToken": false, "containers": [{
        "name": "greedy", "image": images::WORKLOAD, "imagePullPolicy": "Never", "resources": limits,
        "command": ["/oomlet-workload", "hog", "--rate-mib-s", "200"],
    }] });
    node.run_pod("leaks", &leaks);

    let killed = |node: &Joined<'_>| {
        let events = node.events("leaks").into_iter();
        events.filter(|(reason, ..)| reason == "OOMKilling").collect::<Vec<_>>()
    };
    cluster::wait("three OOM kills are told", || {
        killed(&node).iter().any(|(_, count, _)| *count >= 3).then_some(())
    });
    let told = killed(&node);
    let [(_, _, message)] = told.as_slice() else { panic!("one Event with a count: {told:#?}") };
    for part in ["container greedy: ", "oomlet-workload", "the memory limit of the container, 32 MiB"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let leaks = node.wait_api_pod("leaks", "restarted", |pod| {
        pod::container(pod, "greedy")["lastState"]["terminated"]["reason"] == "OOMKilled"
    });
    assert_eq!(pod::container(&leaks, "greedy")["lastState"]["terminated"]["exitCode"], 137);

    let fills = node.wait_api_pod("fills", "Failed", |pod| pod::phase(pod) == "Failed");
    assert_eq!(pod::reason(&fills), "Evicted", "{:#}", fills["status"]);
    assert_eq!(condition(&fills, "DisruptionTarget"), Value::Null, "nobody has disrupted it");
    let message = fills["status"]["message"].as_str().unwrap();
    assert_eq!(message.trim(), "Usage of EmptyDir volume \"cache\" exceeds the limit \"1Mi\".");
}
