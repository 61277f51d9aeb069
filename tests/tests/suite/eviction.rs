//! A pod that leaks under a capped `kubepods` is evicted before the kernel's OOM killer acts, whatever its speed and
//! whatever the agent can see of the kernel. With eviction off, the kernel does kill: that is what is being averted.

use std::fs;

use oomlet_tests::capped::{CAP_MIB, CappedNode};
use oomlet_tests::node::pod_name;
use oomlet_tests::{newest, oldest, pod, speed};
use serde_json::{Value, json};
use xtask::node::manifest::{pod as workload, with_memory};
use xtask::node::trace::TraceRecord;
use xtask::private_containerd::Version;

const MIB: i64 = 1 << 20;

fn ramp(label: &str, version: Version, mib_s: u32, max_tier: u8) {
    let capped = CappedNode::start(label, version, "100Mi", |config| {
        config["oomlet"]["kernel"] = json!({ "maxTier": max_tier });
    });
    // The slow one starts where it gets interesting.
    let start = if mib_s < 50 { "100" } else { "0" };
    capped.hog(mib_s, &["--start-mib", start, "--max-mib", "1000"]);
    capped.expect_eviction();
}

#[test]
fn before_the_kernel_kills_at_10_mib_a_second() {
    ramp("ramp-10", newest(), 10, 2);
}

#[test]
fn before_the_kernel_kills_at_100_mib_a_second() {
    ramp("ramp-100", oldest(), 100, 2);
}

#[test]
fn before_the_kernel_kills_at_500_mib_a_second() {
    ramp("ramp-500", newest(), 500, 2);
}

#[test]
fn before_the_kernel_kills_without_btf() {
    ramp("ramp-tier-1", newest(), 100, 1);
}

#[test]
fn before_the_kernel_kills_without_ebpf() {
    ramp("ramp-tier-0", oldest(), 100, 0);
}

/// All of one class and priority, none with a request: the numbers of that very moment tell them apart. kubelet's are up to
/// fifteen seconds old, and it was seen to take the idle ones first.
#[test]
fn a_hog_goes_before_idle_pods_of_its_own_kind() {
    let capped = CappedNode::start("own-kind", newest(), "100Mi", |_| {});
    let idle = ["idle-a", "idle-b", "idle-c"];
    for name in idle {
        capped.node.put(&workload(name, "idle", &["--mib", "10"]));
    }
    capped.node.wait_up(&idle);
    let before: Vec<_> = idle.iter().map(|name| capped.node.the_container_of(name)).collect();
    capped.besteffort_hog(200, &["--max-mib", "1000"]);
    capped.expect_eviction();
    let after: Vec<_> = idle.iter().map(|name| capped.node.the_container_of(name)).collect();
    assert_eq!(after, before);
}

/// The threshold is as good as none: 2 ms away from the end.
fn fast_past_the_threshold(label: &str, eviction: Value) -> CappedNode {
    let capped = CappedNode::start(label, newest(), "1Mi", |config| config["oomlet"]["eviction"] = eviction);
    capped.hog(500, &["--max-mib", "1000", "--leak-after-sigterm"]);
    capped
}

#[test]
fn the_forecast_alone_is_ahead_of_the_kernel() {
    let capped = fast_past_the_threshold("forecast", json!({ "forecast": true }));
    capped.expect_eviction();
    let decision = capped.node.wait_record("the decision", |r| r.kind == "Decision");
    assert_eq!(decision.reason, "ForecastOutOfMemory", "{decision:?}");
}

/// What the test above would see without it: killed by the kernel, or by the agent just before that.
#[test]
fn without_the_forecast_its_handler_is_not_done() {
    if speed::is_emulated() {
        eprintln!("an emulated CPU, busy with looking, touches less in a second than there is left");
        return;
    }
    let capped = fast_past_the_threshold("no-forecast", json!({ "forecast": false, "brake": false }));
    let node = &capped.node;
    node.wait_pod("hog", "ended", |pod| pod::phase(pod) == "Failed");
    node.wait("the hog is gone", |node| node.running_of("hog").is_empty());
    assert!(!capped.mark().contains("sigterm handled"), "{}", capped.mark());
    let mine = |r: &TraceRecord| r.pod_name() == pod_name("hog");
    let ends = ["OomKill", "Decision"].map(|kind| node.records(kind).iter().filter(|r| mine(r)).count());
    assert!(ends.iter().sum::<usize>() > 0, "killed by the kernel, or evicted");
    assert!(node.records("Decision").iter().all(|r| r.reason != "ForecastOutOfMemory"));
}

/// The runtime does not answer StartContainer until the hog has ended: its signal does not wait for that.
#[test]
fn a_leak_that_is_ahead_of_its_own_start_is_ended_in_order() {
    let mut capped = CappedNode::start("start-pending", newest(), "100Mi", |_| {});
    let hold = capped.node.scratch().path().join("hold");
    capped.node.containerd.hold_second_start(&hold).unwrap();
    fs::write(&hold, "").unwrap();
    capped.hog(500, &["--max-mib", "1000"]);
    capped.node.wait("the hog's handler is done", |_| capped.mark().contains("sigterm handled"));
    let starts = capped.node.agent_log().matches("container started").count();
    assert_eq!(starts, 3, "the neighbours' alone were answered: {}", capped.node.agent_log());
    fs::remove_file(&hold).unwrap();
    capped.expect_eviction();
}

#[test]
fn with_eviction_off_the_kernel_kills() {
    let capped = CappedNode::start("eviction-off", newest(), "100Mi", |config| {
        config["oomlet"]["eviction"] = json!({ "enabled": false });
    });
    capped.hog(100, &["--max-mib", "1000"]);
    let node = &capped.node;
    let here = |r: &TraceRecord| r.kind == "OomKill" && !r.pod_name().is_empty();
    let kill = node.wait_record("the kill", here);
    assert_eq!(kill.domain.as_deref(), Some("kubepods"), "{}", kill.message);
    assert_eq!(kill.number("limit_bytes"), Some(CAP_MIB as i64 * MIB), "{kill:?}");
    assert!(kill.number("usage_bytes") >= Some((CAP_MIB as i64 - 4) * MIB), "{kill:?}");
    assert_eq!(kill.container.as_deref(), Some("main"), "{kill:?}");
    // The kernel takes whom it likes; the hog in the end, or it would grow on.
    let name = pod_name("hog");
    node.wait_record("the hog's kill", |r| r.kind == "OomKill" && r.pod_name() == name);
    let hog = node.wait_pod("hog", "Failed", |pod| pod::phase(pod) == "Failed");
    pod::assert_oom_killed(&hog);
    assert!(!capped.marks.join("mark").exists(), "there was no SIGTERM");
    assert!(node.records("Decision").is_empty());
}

#[test]
fn memory_pressure_is_shown_refuses_besteffort_and_ends() {
    let capped = CappedNode::start("pressure", oldest(), "100Mi", |config| {
        config["evictionPressureTransitionPeriod"] = json!("8s");
    });
    // Slow enough that the threshold is met before any forecast.
    capped.hog(20, &["--start-mib", "120", "--max-mib", "1000"]);
    let node = &capped.node;
    let began = node.wait_record("MemoryPressure", |r| r.kind == "Node" && r.reason == "MemoryPressure");
    node.put(&workload("refused", "idle", &[]));
    node.put(&with_memory(workload("admitted", "idle", &[]), "8Mi", ""));
    let refused = node.wait_pod("refused", "refused", |pod| pod::phase(pod) == "Failed");
    assert_eq!(pod::reason(&refused), "Evicted");
    let message = refused["status"]["message"].as_str().unwrap();
    assert!(message.contains("The node had condition: [MemoryPressure]"), "{message}");
    assert_eq!(pod::condition(&refused, "DisruptionTarget"), "", "it never ran");
    node.wait_up(&["admitted"]);
    capped.expect_eviction();

    let ended = node.wait_record("its end", |r| r.kind == "Node" && r.reason == "MemoryPressureEnded");
    assert!(ended.monotonic_ns - began.monotonic_ns >= 8_000_000_000, "the transition period is over");
    node.put(&workload("welcome", "idle", &[]));
    // What was refused is taken as well now.
    node.wait_up(&["welcome", "refused"]);
}

#[test]
fn a_soft_threshold_waits_for_its_grace_period() {
    let capped = CappedNode::start("soft", newest(), "40Mi", |config| {
        config["evictionSoft"] = json!({ "allocatableMemory.available": "140Mi" });
        config["evictionSoftGracePeriod"] = json!({ "allocatableMemory.available": "3s" });
        config["evictionMaxPodGracePeriod"] = json!(5);
    });
    // About 190 MiB in all: above the soft mark, well below the hard one, and no longer growing.
    capped.hog(50, &["--max-mib", "140"]);
    let node = &capped.node;
    let met = node.wait_record("the soft threshold", |r| r.kind == "Node" && r.reason == "MemoryPressure");
    let decision = node.wait_record("the decision", |r| r.kind == "Decision");
    let waited_ms = (decision.monotonic_ns - met.monotonic_ns) / 1_000_000;
    assert!(waited_ms >= 2900, "decided after {waited_ms} ms, the grace period is 3 s");
    assert_eq!(decision.reason, "ThresholdMet");
    assert_eq!(decision.number("grace_ms"), Some(5000), "evictionMaxPodGracePeriod, not the pod's 30 s");
    capped.expect_eviction();
}
