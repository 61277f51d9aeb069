//! The node itself runs out of memory: no cap, the node's own `memory.available`. The kernel's global OOM killer must
//! stay silent while the agent evicts, and strike when it does not: else the first of these would prove nothing.

use std::fs;
use std::path::PathBuf;

use oomlet_tests::node::{Node, pod_name};
use oomlet_tests::speed::rate_mib_s;
use oomlet_tests::{newest, pod};
use serde_json::{Value, json};
use xtask::node::RunningContainer;
use xtask::node::manifest::{guaranteed, pod as workload, with_host_path, with_memory};
use xtask::node::mem_total_bytes;

const MIB: u64 = 1 << 20;
/// What the reader keeps in the page cache. Active file pages count as used for kubelet's thresholds, so a reader of much
/// more would be the largest pod when a slow leak meets one.
const CACHED_MIB: u64 = 100;
const WELL_BEHAVED: [&str; 3] = ["guaranteed", "burstable", "reader"];

struct SmallNode {
    node: Node,
    /// On the disk, for the reader's file and the hog's mark.
    shared: PathBuf,
    before: Vec<RunningContainer>,
    kills_before: u64,
}

impl SmallNode {
    /// With well-behaved pods, one of which reads a file of `cached_mib` over and over.
    fn start(label: &str, cached_mib: u64, configure: impl FnOnce(&mut Value)) -> SmallNode {
        let total_mib = mem_total_bytes().unwrap() / MIB;
        assert!(
            total_mib < 1100,
            "this test uses up the whole node's memory, so it wants a small one: {total_mib} MiB"
        );
        let mut node = Node::new(label, newest());
        node.config_mut()["evictionHard"] = json!({ "memory.available": "100Mi" });
        configure(node.config_mut());
        let shared = node.scratch().create_dir("shared").unwrap();
        node.put(&guaranteed(workload("guaranteed", "idle", &["--mib", "12"]), "32Mi", "500m"));
        node.put(&with_memory(workload("burstable", "idle", &["--mib", "24"]), "16Mi", "64Mi"));
        let reader =
            workload("reader", "page-cache", &["--file", "/shared/file", "--mib", &cached_mib.to_string()]);
        node.put(&with_host_path(reader, &shared, "/shared"));
        node.start();
        node.wait_up(&WELL_BEHAVED);
        node.wait("the reader's file is written", |node| node.said("reader", "main").contains("written"));
        let before = node.running().unwrap();
        assert_eq!(before.len(), WELL_BEHAVED.len());
        SmallNode { node, shared, before, kills_before: vmstat("oom_kill") }
    }

    /// Grows without a limit of its own.
    fn hog(&self, mib_s: u32) {
        let rate = rate_mib_s(mib_s);
        let args = ["--rate-mib-s", &rate, "--sigterm-ms", "500", "--mark", "/shared/mark"];
        let mut hog = with_memory(workload("hog", "hog", &args), "16Mi", "");
        hog["spec"]["restartPolicy"] = json!("Never");
        hog["spec"]["terminationGracePeriodSeconds"] = json!(30);
        self.node.put(&with_host_path(hog, &self.shared, "/shared"));
    }

    fn well_behaved(&self) -> Vec<RunningContainer> {
        let is_one = |c: &RunningContainer| WELL_BEHAVED.iter().any(|name| c.pod == pod_name(name));
        self.node.running().unwrap().into_iter().filter(is_one).collect()
    }

    fn kills(&self) -> u64 {
        vmstat("oom_kill") - self.kills_before
    }
}

/// A counter of /proc/vmstat.
fn vmstat(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("/proc/vmstat has no {name}"))
}

/// What the kernel logged of kills for want of memory of the whole machine.
fn global_ooms() -> usize {
    let log = xtask::process::output(&mut std::process::Command::new("dmesg")).unwrap();
    log.lines().filter(|line| line.contains("Out of memory: Killed process")).count()
}

fn is_evicted_in_time(label: &str, mib_s: u32) {
    let small = SmallNode::start(label, CACHED_MIB, |_| ());
    let logged = global_ooms();
    small.hog(mib_s);
    let node = &small.node;
    node.wait_evicted("hog");
    let decision = node.wait_record("the decision", |r| r.kind == "Decision");
    assert_eq!(decision.pod_name(), pod_name("hog"), "{decision:?}");
    // The pods may have all of the node, so both domains run out together.
    assert!(matches!(decision.domain.as_deref(), Some("node" | "kubepods")), "{decision:?}");
    let stopped =
        node.wait_record("the hog's end", |r| r.kind == "Eviction" && r.number("took_ms").is_some());
    assert_eq!(stopped.number("sigkill"), Some(0), "{stopped:?}");
    let mark = fs::read_to_string(small.shared.join("mark")).unwrap_or_default();
    assert!(mark.contains("sigterm handled"), "{mark}");
    assert_eq!(small.well_behaved(), small.before, "they live on");
    let evicted: Vec<_> = node.records("Decision").iter().map(|r| r.pod_name().to_owned()).collect();
    assert_eq!(evicted, [pod_name("hog")], "one pod pays, once");
    assert_eq!((small.kills(), global_ooms() - logged), (0, 0), "the kernel has killed nobody");
}

#[test]
fn a_slow_leak_is_evicted_before_the_kernel_kills() {
    is_evicted_in_time("node-slow", 60);
}

#[test]
fn a_fast_leak_is_evicted_before_the_kernel_kills() {
    is_evicted_in_time("node-fast", 240);
}

#[test]
fn without_eviction_the_kernel_kills_and_the_agent_explains() {
    let small = SmallNode::start("node-off", CACHED_MIB, |config| {
        config["oomlet"]["eviction"] = json!({ "enabled": false });
    });
    let logged = global_ooms();
    small.hog(100);
    let node = &small.node;
    let name = pod_name("hog");
    let kill = node.wait_record("the kill", |r| r.kind == "OomKill" && r.pod_name() == name);
    assert_eq!(kill.domain.as_deref(), Some("node"), "{kill:?}");
    assert!(kill.message.contains("node"), "{}", kill.message);
    let hog = node.wait_pod("hog", "Failed", |pod| pod::phase(pod) == "Failed");
    pod::assert_oom_killed(&hog);
    assert!(!small.shared.join("mark").exists(), "there was no SIGTERM");
    assert!(node.records("Decision").is_empty());
    assert!(small.kills() > 0 && global_ooms() > logged, "{} kills", small.kills());
    // On the way there tasks had to reclaim by themselves, and the agent was told.
    assert!(vmstat("allocstall_normal") + vmstat("allocstall_movable") + vmstat("allocstall_dma32") > 0);
    let signals = node.records("Signal");
    let told = signals.iter().any(|r| r.domain.as_deref() == Some("node") && r.message == "direct reclaim");
    assert!(told, "direct reclaim is told of; what was: {signals:#?}");
}

/// Files that are read are the kernel's to drop: a node full of them is not short of memory.
#[test]
fn a_file_larger_than_memory_evicts_nobody() {
    let before = vmstat("pgsteal_kswapd");
    let small = SmallNode::start("node-cache", 1300, |_| ());
    let node = &small.node;
    // Read once more from start to end, with the kernel reclaiming all the way.
    let dropped = vmstat("pgsteal_kswapd");
    node.wait("the kernel has dropped another 600 MiB of it", |_| {
        vmstat("pgsteal_kswapd") - dropped > 600 * MIB / 4096
    });
    assert!(dropped > before);
    assert!(node.records("Decision").is_empty(), "{:?}", node.records("Decision"));
    assert_eq!(small.well_behaved(), small.before);
    assert_eq!(small.kills(), 0);
}
