//! The API server goes away and comes back.

use oomlet_tests::cluster::joined::{Joined, OBEDIENT, obedient, shell};
use oomlet_tests::cluster::{self, condition};
use oomlet_tests::node::{script, soon};
use serde_json::{Value, json};
use xtask::process;
use xtask::relay::Way;

fn is_running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running" && condition(pod, "Ready")["status"] == "True"
}

#[test]
fn pods_run_on_and_their_end_is_told_afterwards() {
    let plane = cluster::shared();
    let node = Joined::ready(plane, "outage");
    node.run_pod("stays", &obedient());
    let ends = json!({ "restartPolicy": "Never", "automountServiceAccountToken": false, "containers": [shell("main",
        "while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 7")] });
    node.run_pod("ends", &ends);
    for name in ["stays", "ends"] {
        node.wait_api_pod(name, "running", is_running);
    }
    node.relay().unwrap().set(Way::Cut);
    let stays = node.container_of_pod("stays");
    let end = node.container_of_pod("ends");
    std::fs::write(format!("/proc/{}/root/tmp/end", end.pid), "").unwrap();
    assert!(
        process::holds_within(soon(), || node.containers_of_pod("ends").is_empty()),
        "{}",
        node.diagnosis()
    );
    // Another that crashes is started again without an API server.
    node.wait("the end is known", |node| {
        node.pods().unwrap()["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|pod| pod["metadata"]["name"] == "ends" && pod["status"]["phase"] == "Failed")
    });
    assert_eq!(
        plane.kubectl_json(&["get", "pod", "ends", "--namespace", "outage"]).unwrap()["status"]["phase"],
        "Running"
    );
    node.relay().unwrap().set(Way::Open);
    let told = node.wait_api_pod("ends", "Failed", |pod| pod["status"]["phase"] == "Failed");
    let state = &told["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(state["exitCode"], 7, "{state}");
    assert_eq!(node.container_of_pod("stays"), stays, "it was left alone");
}

#[test]
fn an_agent_that_starts_without_the_api_server_goes_on_with_its_pods() {
    let plane = cluster::shared();
    let mut node = Joined::ready(plane, "blind");
    node.run_pod("known", &obedient());
    let before = node.wait_api_pod("known", "running", is_running);
    node.kill_agent().unwrap();
    node.relay().unwrap().set(Way::Cut);
    let first = node.container_of_pod("known");
    node.start();
    // It is kept as its manifest says, though nobody has named it: a container that ends is started again.
    process::output(std::process::Command::new("kill").args(["-9", &first.pid.to_string()])).unwrap();
    let again = || node.containers_of_pod("known").iter().any(|c| c.id != first.id);
    assert!(process::holds_within(soon(), again), "{}", node.diagnosis());
    node.relay().unwrap().set(Way::Open);
    let told = node.wait_api_pod("known", "restarted", |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"] == 1 && is_running(pod)
    });
    assert_eq!(told["status"]["startTime"], before["status"]["startTime"]);
    assert_eq!(told["metadata"]["uid"], before["metadata"]["uid"]);
}

/// As on the first boot of a node whose static pods are the control plane.
#[test]
fn a_static_pod_starts_where_the_api_server_never_was() {
    let plane = cluster::shared();
    let mut node = Joined::new(plane, "never-seen");
    node.relay().unwrap().set(Way::Cut);
    let mut manifest = script("first", OBEDIENT);
    manifest["metadata"]["namespace"] = json!("never-seen");
    node.put(&manifest);
    node.start();
    let name = "first-never-seen";
    let runs = || !node.containers_of_pod(name).is_empty();
    assert!(process::holds_within(soon(), runs), "{}", node.diagnosis());
    let first = node.container_of_pod(name);
    node.relay().unwrap().set(Way::Open);
    node.wait_api_pod(name, "mirrored", |mirror| mirror["status"]["phase"] == "Running");
    assert_eq!(node.container_of_pod(name), first);
}

#[test]
fn a_restarted_agent_keeps_ready_pods_ready() {
    let plane = cluster::shared();
    let mut node = Joined::ready(plane, "restarts");
    let mut spec = obedient();
    spec["containers"][0]["readinessProbe"] = json!({ "exec": { "command": ["true"] }, "periodSeconds": 1 });
    node.run_pod("probed", &spec);
    let before = node.wait_api_pod("probed", "ready", is_running);
    let version = |pod: &Value| pod["metadata"]["resourceVersion"].clone();
    node.start();
    node.wait_record("the pod is taken over", |r| r.reason == "PodAdopted");
    node.wait_record("the node is told of", |r| r.reason == "NodeReady");
    node.wait("the probe has run again", |node| {
        node.pods().unwrap()["items"][0]["status"]["containerStatuses"][0]["ready"] == true
    });
    let after = plane.kubectl_json(&["get", "pod", "probed", "--namespace", "restarts"]).unwrap();
    assert_eq!(version(&after), version(&before), "nothing was written: {:#}", after["status"]);
}
