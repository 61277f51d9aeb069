//! The kernel's OOM killer acts on a container's or a pod's own limit: that is Kubernetes' semantics, and the agent
//! explains it, with all it can see of the kernel and without.

use oomlet_tests::node::{Node, pod_name};
use oomlet_tests::speed::rate_mib_s;
use oomlet_tests::{newest, oldest, pod};
use serde_json::{Value, json};
use xtask::node::manifest::{pod as workload, with_memory};
use xtask::node::trace::TraceRecord;
use xtask::private_containerd::Version;

const MIB: i64 = 1 << 20;

/// Takes 200 MiB within a limit of 64, and half a second for it: a container that is killed as it starts is known by
/// the runtime's word alone below tier 2.
fn over_its_limit(name: &str) -> Value {
    let mut pod = with_memory(
        workload(name, "hog", &["--rate-mib-s", &rate_mib_s(100), "--max-mib", "200"]),
        "16Mi",
        "64Mi",
    );
    pod["spec"]["restartPolicy"] = json!("Never");
    pod
}

fn start(label: &str, version: Version, max_tier: u8) -> Node {
    let mut node = Node::new(label, version);
    node.config_mut()["oomlet"]["kernel"] = json!({ "maxTier": max_tier });
    node.put(&workload("neighbour", "idle", &[]));
    let started = node.start();
    assert!(started.number("tier") <= Some(i64::from(max_tier)), "{}", started.message);
    node.wait_up(&["neighbour"]);
    node
}

/// The pod ends OOMKilled, and one record tells of it.
fn expect_one_kill(node: &Node, name: &str) -> TraceRecord {
    let neighbour = node.the_container_of("neighbour");
    node.put(&over_its_limit(name));
    let killed = node.wait_pod(name, "Failed", |pod| pod::phase(pod) == "Failed");
    pod::assert_oom_killed(&killed);
    let name = pod_name(name);
    let record = node.wait_record("the kill", |r| r.kind == "OomKill" && r.pod_name() == name);
    assert_eq!(
        (record.reason.as_str(), record.container.as_deref()),
        ("OomKilled", Some("main")),
        "{record:?}"
    );
    let told: Vec<_> = node.records("OomKill").into_iter().filter(|r| r.pod_name() == name).collect();
    assert_eq!(told.len(), 1, "told once: {told:#?}");
    assert_eq!(node.the_container_of("neighbour"), neighbour);
    assert!(node.records("Decision").is_empty(), "nobody is evicted for it");
    record
}

#[test]
fn a_containers_own_limit_is_named() {
    let node = start("oom-tier-2", newest(), 2);
    let record = expect_one_kill(&node, "greedy");
    assert_eq!(record.domain.as_deref(), Some("container"), "{record:?}");
    assert_eq!(record.number("limit_bytes"), Some(64 * MIB), "{record:?}");
    let usage = record.number("usage_bytes").unwrap();
    assert!((63 * MIB..=64 * MIB).contains(&usage), "{record:?}");
    let rss = record.number("victim_anon_rss_bytes").unwrap();
    assert!((40 * MIB..=64 * MIB).contains(&rss), "{record:?}");
    assert!(
        record.message.contains("the memory limit of the container, 64 MiB, was reached"),
        "{}",
        record.message
    );

    // Two containers without limits of their own in a pod that has one.
    let mut shared = workload("shared", "hog", &["--rate-mib-s", &rate_mib_s(200), "--max-mib", "300"]);
    shared["spec"]["restartPolicy"] = json!("Never");
    shared["spec"]["resources"] = json!({ "limits": { "memory": "96Mi" } });
    let mut beside = workload("x", "idle", &["--mib", "16"])["spec"]["containers"][0].take();
    beside["name"] = json!("beside");
    shared["spec"]["containers"].as_array_mut().unwrap().push(beside);
    node.put(&shared);
    let name = pod_name("shared");
    let record = node.wait_record("the pod's kill", |r| r.kind == "OomKill" && r.pod_name() == name);
    assert_eq!(
        (record.domain.as_deref(), record.container.as_deref()),
        (Some("pod"), Some("main")),
        "{record:?}"
    );
    assert_eq!(record.number("limit_bytes"), Some(96 * MIB), "{record:?}");
}

#[test]
fn a_kill_is_told_without_btf() {
    let node = start("oom-tier-1", oldest(), 1);
    let record = expect_one_kill(&node, "greedy");
    assert!(record.number("victim_pid").is_some_and(|pid| pid > 0), "{record:?}");
    expect_the_containers_limit(&record);
}

#[test]
fn a_kill_is_told_without_ebpf() {
    let node = start("oom-tier-0", newest(), 0);
    expect_the_containers_limit(&expect_one_kill(&node, "greedy"));
}

/// Without the kernel's own numbers the agent knows what it read, and what the manifest says.
#[track_caller]
fn expect_the_containers_limit(record: &TraceRecord) {
    assert_eq!(record.domain.as_deref(), Some("container"), "{record:?}");
    assert_eq!(record.number("limit_bytes"), Some(64 * MIB), "{record:?}");
    assert!(record.message.contains("memory limit of the container, 64 MiB"), "{}", record.message);
}
