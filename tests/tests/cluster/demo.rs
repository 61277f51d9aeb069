//! `cargo xtask demo --cluster --headless --kubeconfig`, but for its set-up: what it promises in its last line.

use oomlet_tests::cluster;
use oomlet_tests::newest;
use oomlet_tests::slot::Slot;
use serde_json::{Value, json};
use xtask::demo::{Interrupted, Options};

#[test]
fn the_demo_holds_and_leaves_nothing_in_the_cluster() {
    let plane = cluster::shared();
    let slot = Slot::take();
    let kubeconfig = plane.kubeconfig_admin().display().to_string();
    let options = Options::parse(&["--cluster", "--headless", "--kubeconfig", &kubeconfig]).unwrap();
    let outcome = xtask::demo::cluster::run(&options, newest(), &Interrupted::default()).unwrap();
    drop(slot);
    let mut line = serde_json::to_value(&outcome).unwrap();
    assert!(line["node_ready_ms"].take().as_i64() > Some(0), "{line}");
    let expected = json!({
        "node_ready_ms": null, "pods_ready": 2, "kernel_oom_kills": 0, "evicted": ["hog"], "replaced": true,
        "reason_in_describe": true,
    });
    assert_eq!(line, expected);
    assert_eq!(outcome.failures(), Vec::<String>::new());
    for kind in ["nodes", "namespaces", "secrets", "certificatesigningrequests", "events", "leases"] {
        let left = plane.kubectl_json(&["get", kind, "--all-namespaces"]).unwrap();
        let of_demo = |object: &&Value| object.to_string().contains("oomlet-demo-");
        let left: Vec<&Value> = left["items"].as_array().unwrap().iter().filter(of_demo).collect();
        assert!(left.is_empty(), "{kind}: {left:#?}");
    }
}
