//! A pod that leaks under a capped `kubepods` is evicted before the kernel's OOM killer acts, whatever its speed and
//! whatever the agent can see of the kernel. With eviction off, the kernel does kill: that is what is being averted.

use std::fs;
use std::path::PathBuf;

use oomlet_tests::node::{Node, pod_name};
use oomlet_tests::{cgroup, newest, oldest, pod};
use serde_json::{Value, json};
use xtask::node::RunningContainer;
use xtask::node::manifest::{guaranteed, pod as workload, with_host_path, with_memory};
use xtask::node::trace::TraceRecord;
use xtask::private_containerd::Version;

const MIB: i64 = 1 << 20;
const CAP_MIB: u64 = 300;
const NEIGHBOURS: [&str; 3] = ["guaranteed", "burstable", "besteffort"];

/// A node whose pods have 300 MiB together, with three quiet ones that must live on.
struct CappedNode {
    node: Node,
    marks: PathBuf,
    before: Vec<RunningContainer>,
}

impl CappedNode {
    fn start(label: &str, version: Version, hard: &str, configure: impl FnOnce(&mut Value)) -> CappedNode {
        let mut node = Node::new(label, version);
        node.cap_kubepods(CAP_MIB).unwrap();
        node.config_mut()["evictionHard"] = json!({ "memory.available": hard });
        configure(node.config_mut());
        node.put(&guaranteed(workload("guaranteed", "idle", &["--mib", "12"]), "32Mi", "50m"));
        // Above its request: kubelet's ranking alone would find it before a hog that has hardly begun.
        node.put(&with_memory(workload("burstable", "idle", &["--mib", "24"]), "16Mi", "64Mi"));
        node.put(&workload("besteffort", "idle", &["--mib", "8"]));
        let marks = node.scratch().create_dir("marks").unwrap();
        node.start();
        node.wait_up(&NEIGHBOURS);
        let before = node.running().unwrap();
        assert_eq!(before.len(), NEIGHBOURS.len());
        CappedNode { node, marks, before }
    }

    fn hog(&self, args: &[&str]) {
        let args = [args, &["--sigterm-ms", "500", "--mark", "/marks/mark"]].concat();
        let mut hog = with_memory(workload("hog", "hog", &args), "16Mi", "");
        hog["spec"]["restartPolicy"] = json!("Never");
        hog["spec"]["terminationGracePeriodSeconds"] = json!(30);
        self.node.put(&with_host_path(hog, &self.marks, "/marks"));
    }

    /// The hog is evicted, in order and alone.
    fn expect_eviction(&self) {
        let node = &self.node;
        let hog = node.wait_pod("hog", "evicted", |pod| pod::phase(pod) == "Failed");
        assert_eq!(pod::reason(&hog), "Evicted", "{}", hog["status"]);
        let message = hog["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("The node was low on resource: memory. "), "{message}");
        assert_eq!(pod::condition(&hog, "DisruptionTarget"), "True");

        let name = pod_name("hog");
        let decision = node.wait_record("the decision", |r| r.kind == "Decision");
        assert_eq!((decision.pod_name(), decision.domain.as_deref()), (name.as_str(), Some("kubepods")));
        let number = |key: &str| decision.number(key).unwrap_or_else(|| panic!("{key} in {decision:?}"));
        assert!(number("usage_bytes") < number("limit_bytes"), "{decision:?}");
        let stopped =
            node.wait_record("the hog's end", |r| r.kind == "Eviction" && r.number("took_ms").is_some());
        assert_eq!(stopped.number("sigkill"), Some(0), "{}", self.story());
        assert!(stopped.number("took_ms") >= Some(500), "its handler takes 500 ms: {}", self.story());
        let mark = self.mark();
        assert!(mark.contains("sigterm received") && mark.contains("sigterm handled"), "{mark}");
        let hog = node.wait_pod("hog", "shown with its exit", |pod| {
            pod::container(pod, "main")["state"]["terminated"].is_object()
        });
        assert_eq!(pod::container(&hog, "main")["state"]["terminated"]["exitCode"], 0, "{}", hog["status"]);
        self.expect_no_kill();
        assert_eq!(node.running_of("hog"), []);
        // Ids and pids, and nobody beside them.
        assert_eq!(self.neighbours(), self.before);
        let evicted: Vec<_> = node.records("Decision").iter().map(|r| r.pod_name().to_owned()).collect();
        assert_eq!(evicted, [name], "one pod pays, once");
    }

    /// The kernel has killed nobody here. Of kills elsewhere on the machine, such as in another test's pods, the agent
    /// tells too.
    fn expect_no_kill(&self) {
        let here = |r: &TraceRecord| r.kind == "OomKill" && r.domain.as_deref() != Some("other");
        let killed = self.node.trace().unwrap().iter().any(here);
        assert!(!killed, "{}", self.story());
        assert_eq!(cgroup::oom_kills(&self.node.kubepods_dir().unwrap()), 0, "by the kernel's own count");
    }

    fn mark(&self) -> String {
        fs::read_to_string(self.marks.join("mark")).unwrap_or_default()
    }

    /// For a failure's message: what was decided and done, and what the hog noted of it.
    fn story(&self) -> String {
        let told = ["Decision", "Eviction", "OomKill"];
        let records = self.node.trace().unwrap().into_iter().filter(|r| told.contains(&r.kind.as_str()));
        let lines: Vec<String> = records
            .map(|r| {
                format!(
                    "{} {} {} {} {:?}",
                    r.monotonic_ns / 1_000_000,
                    r.kind,
                    r.reason,
                    r.message,
                    r.numbers
                )
            })
            .collect();
        format!("{}\nthe hog: {}", lines.join("\n"), self.mark())
    }

    fn neighbours(&self) -> Vec<RunningContainer> {
        let is_neighbour = |c: &RunningContainer| NEIGHBOURS.iter().any(|name| c.pod == pod_name(name));
        self.node.running().unwrap().into_iter().filter(is_neighbour).collect()
    }
}

fn ramp(label: &str, version: Version, rate_mib_s: u32, max_tier: u8) {
    let capped = CappedNode::start(label, version, "100Mi", |config| {
        config["oomlet"]["kernel"] = json!({ "maxTier": max_tier });
    });
    // The slow one starts where it gets interesting.
    let start = if rate_mib_s < 50 { "100" } else { "0" };
    capped.hog(&["--rate-mib-s", &rate_mib_s.to_string(), "--start-mib", start, "--max-mib", "1000"]);
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

#[test]
fn with_eviction_off_the_kernel_kills() {
    let capped = CappedNode::start("eviction-off", newest(), "100Mi", |config| {
        config["oomlet"]["eviction"] = json!({ "enabled": false });
    });
    capped.hog(&["--rate-mib-s", "100", "--max-mib", "1000"]);
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
    let ended = pod::container(&hog, "main")["state"]["terminated"].clone();
    assert_eq!(
        (&ended["exitCode"], &ended["reason"]),
        (&json!(137), &json!("OOMKilled")),
        "{}",
        hog["status"]
    );
    assert!(!capped.marks.join("mark").exists(), "there was no SIGTERM");
    assert!(node.records("Decision").is_empty());
}

#[test]
fn memory_pressure_is_shown_refuses_besteffort_and_ends() {
    let capped = CappedNode::start("pressure", oldest(), "100Mi", |config| {
        config["evictionPressureTransitionPeriod"] = json!("8s");
    });
    // Slow enough that the threshold is met before any forecast.
    capped.hog(&["--rate-mib-s", "20", "--start-mib", "120", "--max-mib", "1000"]);
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
    node.wait_up(&["welcome"]);
    let refused = node.pod("refused").unwrap();
    assert_eq!(pod::phase(&refused), "Failed", "a refused pod is not tried again");
}

#[test]
fn a_soft_threshold_waits_for_its_grace_period() {
    let capped = CappedNode::start("soft", newest(), "40Mi", |config| {
        config["evictionSoft"] = json!({ "allocatableMemory.available": "140Mi" });
        config["evictionSoftGracePeriod"] = json!({ "allocatableMemory.available": "3s" });
        config["evictionMaxPodGracePeriod"] = json!(5);
    });
    // About 190 MiB in all: above the soft mark, well below the hard one, and no longer growing.
    capped.hog(&["--rate-mib-s", "50", "--max-mib", "140"]);
    let node = &capped.node;
    let met = node.wait_record("the soft threshold", |r| r.kind == "Node" && r.reason == "MemoryPressure");
    let decision = node.wait_record("the decision", |r| r.kind == "Decision");
    let waited_ms = (decision.monotonic_ns - met.monotonic_ns) / 1_000_000;
    assert!(waited_ms >= 2900, "decided after {waited_ms} ms, the grace period is 3 s");
    assert_eq!(decision.reason, "ThresholdMet");
    assert_eq!(decision.number("grace_ms"), Some(5000), "evictionMaxPodGracePeriod, not the pod's 30 s");
    capped.expect_eviction();
}
