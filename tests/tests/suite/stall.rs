//! Thresholds on pressure stall information: a pod whose tasks stand still waiting for memory is evicted where the
//! configuration says so, though nobody runs out of any.

use std::path::Path;

use oomlet_tests::node::{Node, pod_name};
use oomlet_tests::{newest, pod};
use serde_json::json;
use xtask::node::manifest::{pod as workload, with_memory};

#[test]
fn a_pod_that_stands_still_is_evicted() {
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        eprintln!("cgroup v1 has no memory.pressure of a pod");
        return;
    }
    let mut node = Node::new("stall", newest());
    node.config_mut()["oomlet"]["eviction"] = json!({ "psi": { "pod": { "full": "3%", "window": "2s" } } });
    node.put(&workload("neighbour", "idle", &["--mib", "12"]));
    node.start();
    node.wait_up(&["neighbour"]);
    let neighbour = node.the_container_of("neighbour");
    // Its file is thrice what it may hold: two of three pages that it touches have to be read again.
    let args = ["--file", "/disk/file", "--mib", "192", "--seconds", "600"];
    let mut thrash = with_memory(workload("thrash", "mmap-thrash", &args), "16Mi", "64Mi");
    thrash["spec"]["restartPolicy"] = json!("Never");
    thrash["spec"]["volumes"] = json!([{ "name": "disk", "emptyDir": {} }]);
    thrash["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "disk", "mountPath": "/disk" }]);
    node.put(&thrash);
    let evicted = node.wait_pod("thrash", "evicted", |pod| pod::phase(pod) == "Failed");
    assert_eq!(pod::reason(&evicted), "Evicted", "{}", evicted["status"]);
    let decision = node.wait_record("the decision", |r| r.kind == "Decision");
    assert_eq!(
        (decision.reason.as_str(), decision.pod_name()),
        ("PodStalled", pod_name("thrash").as_str()),
        "{decision:?}"
    );
    assert!(node.records("OomKill").iter().all(|r| r.pod_name() != pod_name("thrash")));
    assert_eq!(node.the_container_of("neighbour"), neighbour);
}
