//! A pod that is changed while it runs, and what `kubectl` shows of it.

use oomlet_tests::cluster::joined::{Joined, obedient};
use oomlet_tests::cluster::{self, condition};
use oomlet_tests::pod;
use serde_json::{Value, json};
use xtask::images;

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")["status"] == "True"
}

/// The node has seen the newest of what is asked for.
fn is_observed(pod: &Value) -> bool {
    pod["status"]["observedGeneration"].is_u64()
        && pod["status"]["observedGeneration"] == pod["metadata"]["generation"]
}

#[test]
fn a_pod_is_updated_in_place() {
    let plane = cluster::shared();
    let node = Joined::ready(plane, "updates");
    let kubectl = |args: &[&str]| plane.kubectl(&[args, &["--namespace", "updates"]].concat()).unwrap();
    let mut spec = obedient();
    spec["readinessGates"] = json!([{ "conditionType": "example.com/gate" }]);
    node.run_pod("gated", &spec);

    // Somebody else has a say in whether it is ready.
    let waits = node.wait_api_pod("gated", "up but for its gate", |pod| {
        pod::is_up(pod) && condition(pod, "ContainersReady")["status"] == "True"
    });
    let ready = condition(&waits, "Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("ReadinessGatesNotReady")));
    let opened = json!({ "status": { "conditions": [{ "type": "example.com/gate", "status": "True" }] } });
    kubectl(&["patch", "pod", "gated", "--subresource=status", "--patch", &opened.to_string()]);
    let first = node.wait_api_pod("gated", "ready", is_ready);
    assert!(is_observed(&first), "{first:#}");
    let container = node.container_of_pod("gated");

    // A label is nothing to its containers, nor a new generation.
    kubectl(&["label", "pod", "gated", "colour=blue"]);
    kubectl(&["set", "image", "pod/gated", &format!("main={}", images::WORKLOAD)]);
    let other = node.wait_api_pod("gated", "restarted with the other image", |pod| {
        let main = pod::container(pod, "main");
        main["restartCount"] == 1 && main["image"] == images::WORKLOAD && is_ready(pod) && is_observed(pod)
    });
    assert_eq!(other["metadata"]["uid"], first["metadata"]["uid"]);
    assert_eq!(pod::container(&other, "main")["lastState"]["terminated"]["exitCode"], 0);
    assert_eq!(condition(&other, "example.com/gate")["status"], "True", "it is not ours");
    let second = node.container_of_pod("gated");
    assert_ne!(second.id, container.id);
    node.wait("the restart is told", |_| {
        let killing = "Container main definition changed, will be restarted";
        node.events("gated").iter().any(|(reason, _, said)| reason == "Killing" && said.contains(killing))
    });

    kubectl(&["label", "pod", "gated", "colour=red", "--overwrite"]);
    kubectl(&["annotate", "pod", "gated", "note=changed"]);
    // What comes after it in the same watch: the node has seen the labels by then.
    node.run_pod("after", &obedient());
    node.wait_api_pod("after", "ready", is_ready);
    assert_eq!(node.container_of_pod("gated"), second, "it was left alone");
    what_kubectl_shows(&kubectl);
}

fn what_kubectl_shows(kubectl: &dyn Fn(&[&str]) -> String) {
    let listed = kubectl(&["get", "pods", "--no-headers", "--output=wide"]);
    let gated = listed.lines().find(|line| line.starts_with("gated ")).unwrap();
    let words: Vec<_> = gated.split_whitespace().collect();
    assert_eq!(words[1..4], ["1/1", "Running", "1"], "{gated}");
    assert!(gated.contains(" updates ") && gated.trim_end().ends_with("1/1"), "node and gates: {gated}");
    let described = kubectl(&["describe", "pod", "gated"]);
    for line in [
        "Node: updates/198.51.100.1",
        "Status: Running",
        "QoS Class: BestEffort",
        "example.com/gate True",
        "State: Running",
        "Last State: Terminated",
        "Exit Code: 0",
        "Restart Count: 1",
        "ContainersReady True",
    ] {
        let has = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").contains(line);
        assert!(described.lines().any(has), "{line}\n{described}");
    }
    let node = kubectl(&["describe", "node", "updates"]);
    for part in [
        "KubeletHasSufficientMemory",
        "KubeletReady",
        "containerd://",
        "RenewTime:",
        "kubernetes.io/hostname=updates",
    ] {
        assert!(node.contains(part), "{part}\n{node}");
    }
}
