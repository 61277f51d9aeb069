//! Pods of the API server on this node, from their creation to their end.

use oomlet_tests::newest;
use oomlet_tests::node::{Node, soon};
use serde_json::{Value, json};
use xtask::control_plane::{ControlPlane, Options};
use xtask::process;
use xtask::scratch::Scratch;

fn container(name: &str, script: &str) -> Value {
    json!({
        "name": name, "image": xtask::images::BUSYBOX, "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-c", script],
    })
}

#[test]
fn a_deployment_becomes_ready_and_goes_in_order() {
    let scratch = Scratch::new("plane").unwrap();
    let plane = ControlPlane::start(&scratch, &Options::default()).unwrap();
    let mut node = Node::new("cluster", newest());
    let address = plane.server().trim_start_matches("https://").parse().unwrap();
    node.join(address).unwrap();
    let kubeconfig = plane.node_kubeconfig("node-a").unwrap();
    node.add_arguments(&["--kubeconfig", kubeconfig.to_str().unwrap(), "--hostname-override", "node-a"]);
    node.start();
    let ready = || {
        let node = plane.kubectl_json(&["get", "node", "node-a"]).unwrap_or_default();
        node["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    assert!(process::holds_within(soon(), ready), "{}", node.diagnosis());
    let pod = json!({
        "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 2,
        "containers": [container("main", "trap 'exit 0' TERM; while true; do sleep 0.2; done")],
    });
    plane
        .apply(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod}},
        }))
        .unwrap();
    let replicas = |n: u64| {
        process::holds_within(soon(), || {
            let web = plane.kubectl_json(&["get", "deployment", "web"]).unwrap_or_default();
            web["status"]["readyReplicas"].as_u64().unwrap_or(0) == n
        })
    };
    assert!(replicas(2), "{}\n{}", plane.kubectl(&["get", "pods", "-o", "yaml"]).unwrap(), node.diagnosis());
    plane.kubectl(&["delete", "deployment", "web"]).unwrap();
    let gone = || {
        plane
            .kubectl_json(&["get", "pods"])
            .is_ok_and(|pods| pods["items"].as_array().is_some_and(Vec::is_empty))
    };
    assert!(process::holds_within(soon(), gone), "{}", node.diagnosis());
    assert_eq!(node.running().unwrap(), []);
    eprintln!("{}", node.agent_log());
    eprintln!("{}", plane.kubectl(&["get", "node", "node-a", "-o", "yaml"]).unwrap());
}
