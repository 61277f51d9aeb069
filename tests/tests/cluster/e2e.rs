//! Controllers, the scheduler and `kubectl`, with this node beneath them: what an administrator does with a node's pods all
//! day long comes to what it should.

use oomlet_tests::cluster::joined::{Joined, shell};
use oomlet_tests::cluster::{self, condition, deployment};
use serde_json::{Value, json};

/// Quieter than `joined::OBEDIENT`, since there are twenty of it.
const QUIET: &str = "trap 'kill $!; exit 0' TERM; sleep 100000 & wait";

fn quiet(node: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 5,
        "automountServiceAccountToken": false,
        "nodeSelector": { "test": node },
        "containers": [shell("main", QUIET)],
    })
}

fn count(list: &Value) -> usize {
    list["items"].as_array().map_or(0, Vec::len)
}

#[test]
fn controllers_get_what_they_ask_for() {
    let plane = cluster::shared();
    let node = Joined::ready(plane, "controls");
    let kubectl = |args: &[&str]| {
        plane.kubectl(&[args, &["--namespace", "controls"]].concat()).unwrap_or_else(|error| {
            panic!("{}: {error:#}\n{}", args.join(" "), node.diagnosis());
        })
    };
    let mut daemon_set = deployment("controls", "daemon", 1, &quiet("controls"));
    daemon_set["kind"] = json!("DaemonSet");
    daemon_set["spec"].as_object_mut().unwrap().remove("replicas");
    plane.apply(&daemon_set).unwrap();
    plane.apply(&deployment("controls", "web", 2, &quiet("controls"))).unwrap();
    let job = job(
        "controls",
        "sums",
        &shell("main", "sleep 0.3; exit 0"),
        &json!({ "completions": 3, "parallelism": 2 }),
    );
    plane.apply(&job).unwrap();
    kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    kubectl(&["scale", "deployment/web", "--replicas=20"]);
    kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_eq!(node.running().unwrap().iter().filter(|c| c.pod.starts_with("web-")).count(), 20);

    kubectl(&["set", "env", "deployment/web", "ROLLED=yes"]);
    kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]);
    kubectl(&["scale", "deployment/web", "--replicas=2"]);
    node.wait_object(&["pods", "--selector=app=web"], "two", |pods| count(pods) == 2);
    let web: Vec<_> = node.running().unwrap().into_iter().filter(|c| c.pod.starts_with("web-")).collect();
    assert_eq!(web.len(), 2, "what is gone from the API server does not run: {web:?}");
    for container in web {
        let environment = std::fs::read_to_string(format!("/proc/{}/environ", container.pid)).unwrap();
        assert!(environment.contains("ROLLED=yes"), "{environment}");
    }
    kubectl(&["wait", "--for=condition=Complete", "job/sums", "--timeout=60s"]);
    let sums = node.wait_object(&["job", "sums"], "complete", |job| job["status"]["succeeded"] == 3);
    assert_eq!(sums["status"]["failed"], Value::Null, "{sums:#}");
    kubectl(&["rollout", "status", "daemonset/daemon", "--timeout=60s"]);
    drains(&node, &kubectl);
}

fn job(namespace: &str, name: &str, container: &Value, spec: &Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "template": { "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "nodeSelector": { "test": namespace },
            "containers": [container],
        } } },
    });
    for (key, value) in spec.as_object().unwrap() {
        job["spec"][key] = value.clone();
    }
    job
}

/// All but the DaemonSet's pod leaves, and comes back.
fn drains(node: &Joined<'_>, kubectl: &dyn Fn(&[&str]) -> String) {
    kubectl(&["drain", "controls", "--ignore-daemonsets", "--timeout=60s"]);
    let left: Vec<_> = node.running().unwrap().into_iter().map(|c| c.pod).collect();
    assert!(left.len() == 1 && left[0].starts_with("daemon-"), "{left:?}");
    let pods = node.wait_object(&["pods", "--selector=app=web"], "to be scheduled", |pods| {
        count(pods) == 2
            && pods["items"].as_array().unwrap().iter().all(|p| p["status"]["phase"] == "Pending")
    });
    assert_eq!(condition(&pods["items"][0], "PodScheduled")["reason"], "Unschedulable");
    kubectl(&["uncordon", "controls"]);
    node.wait_object(&["deployment", "web"], "back", |web| web["status"]["readyReplicas"] == 2);
}
