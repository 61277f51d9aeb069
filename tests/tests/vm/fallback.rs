//! Whatever the agent may see of the kernel, it evicts before the kernel kills.

use oomlet_tests::capped::CappedNode;
use oomlet_tests::newest;
use serde_json::{Value, json};

/// At 100 MiB/s, with this `oomlet.kernel` section. `tier` is the one that is left.
fn evicts(label: &str, kernel: &Value, tier: i64, missing: &[&str]) {
    let capped = CappedNode::start(label, newest(), "100Mi", |config| {
        config["oomlet"]["kernel"] = kernel.clone();
    });
    let started = capped.node.wait_record("the start", |r| r.reason == "AgentStarted");
    assert_eq!(started.number("tier"), Some(tier), "{}", started.message);
    let log = capped.node.agent_log();
    for path in missing {
        assert!(log.lines().any(|l| l.contains("unavailable") && l.contains(path)), "{path} in {log}");
    }
    capped.hog(100, &["--max-mib", "1000"]);
    capped.expect_eviction();
}

#[test]
fn without_btf() {
    evicts("no-btf", &json!({ "btfPath": "/nonexistent/btf" }), 1, &["/nonexistent/btf"]);
}

#[test]
fn without_btf_and_tracefs() {
    let kernel = json!({ "btfPath": "/nonexistent/btf", "tracefsPath": "/nonexistent/tracefs" });
    evicts("no-tracefs", &kernel, 1, &["/nonexistent/btf", "/nonexistent/tracefs"]);
}

#[test]
fn without_programs() {
    evicts("no-programs", &json!({ "maxTier": 0 }), 0, &[]);
}
