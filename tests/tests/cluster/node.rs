//! The Node object and its Lease.

use oomlet_tests::cluster::joined::Joined;
use oomlet_tests::cluster::{self, condition};
use serde_json::{Value, json};

#[test]
fn it_is_registered_renewed_and_made_anew() {
    let plane = cluster::shared();
    let mut node = Joined::ready(plane, "registers");
    let object = node.wait_ready();
    assert_eq!(object["metadata"]["labels"]["kubernetes.io/hostname"], "registers");
    assert_eq!(object["metadata"]["labels"]["test"], "registers");
    let info = &object["status"]["nodeInfo"];
    assert!(info["kubeletVersion"].as_str().unwrap().starts_with("v1.37"), "{info}");
    assert!(info["containerRuntimeVersion"].as_str().unwrap().starts_with("containerd://"), "{info}");
    for kind in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
        assert_eq!(condition(&object, kind)["status"], "False", "{kind}");
    }
    let address = |kind: &str| {
        let all = object["status"]["addresses"].as_array().unwrap();
        all.iter().find(|a| a["type"] == kind).unwrap()["address"].clone()
    };
    assert_eq!(
        (address("InternalIP"), address("Hostname")),
        (json!(xtask::node::NODE_IP), json!("registers"))
    );
    let lease = ["lease", "registers", "--namespace", "kube-node-lease"];
    let renewed = |lease: &Value| lease["spec"]["renewTime"].as_str().map(str::to_owned);
    let first = cluster::wait_object(plane, &lease, "there", |lease| renewed(lease).is_some());
    assert_eq!(first["spec"]["leaseDurationSeconds"], 40);
    let first = renewed(&first);
    cluster::wait_object(plane, &lease, "renewed", |lease| renewed(lease) != first);

    // What somebody has changed of ours comes back, and what is theirs stays.
    plane
        .kubectl(&["label", "node", "registers", "kubernetes.io/hostname=x", "mine=1", "--overwrite"])
        .unwrap();
    let healed = node.wait_object(&["node", "registers"], "labelled as before", |node| {
        node["metadata"]["labels"]["kubernetes.io/hostname"] == "registers"
    });
    assert_eq!(healed["metadata"]["labels"]["mine"], "1");

    // A Node that was deleted is back, as another object.
    let uid = healed["metadata"]["uid"].clone();
    plane.kubectl(&["delete", "node", "registers"]).unwrap();
    node.wait_object(&["node", "registers"], "back", |node| {
        !node["metadata"]["uid"].is_null() && node["metadata"]["uid"] != uid
    });
    node.wait_ready();

    // The runtime is away: so says the node, and once more when it is back.
    node.containerd.kill().unwrap();
    let down = node.wait_object(&["node", "registers"], "not ready", |node| {
        condition(node, "Ready")["status"] == "False"
    });
    assert_eq!(condition(&down, "Ready")["reason"], "KubeletNotReady");
    let message = condition(&down, "Ready")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("container runtime is down"), "{message}");
    node.containerd.restart().unwrap();
    node.wait_ready();
}
