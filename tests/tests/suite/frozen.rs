//! Somebody else has frozen what the agent is to end (runc#2105, kubernetes#104280, #102676): on cgroup v1 a frozen process
//! does not even die of SIGKILL.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oomlet_tests::node::{Node, script};
use oomlet_tests::{cgroup, newest, pod, speed};
use serde_json::json;
use xtask::process;

const GRACE: Duration = Duration::from_secs(3);

/// How long after its manifest has gone.
fn in_time() -> Duration {
    GRACE + Duration::from_secs(10) * if speed::is_emulated() { 6 } else { 1 }
}

/// Its pod `still`, which ends at once on SIGTERM, is up.
fn node_with_a_pod(label: &str) -> Node {
    let mut node = Node::new(label, newest());
    let mut still = script("still", "trap 'exit 0' TERM; while :; do sleep 0.2; done");
    still["spec"]["terminationGracePeriodSeconds"] = json!(GRACE.as_secs());
    node.put(&still);
    node.start();
    node.wait_up(&["still"]);
    node
}

/// The pod's cgroup where it would be frozen, v1's freezer if there is one.
fn freezing_dir(node: &Node) -> PathBuf {
    let uid = pod::uid(&node.pod("still").unwrap()).to_owned();
    let dirs = cgroup::named(node.scratch(), &format!("pod{uid}"));
    let with = |file: &str| dirs.iter().find(|dir| dir.join(file).exists()).cloned();
    with("freezer.state").or_else(|| with("cgroup.freeze")).expect("this machine has a freezer")
}

/// Thaws at the end, also by a panic.
struct Frozen {
    file: PathBuf,
    thaw: &'static str,
}

impl Frozen {
    fn freeze(dir: &Path) -> Frozen {
        let v1 = dir.join("freezer.state");
        let (file, freeze, thaw) =
            if v1.exists() { (v1, "FROZEN", "THAWED") } else { (dir.join("cgroup.freeze"), "1", "0") };
        fs::write(&file, freeze).unwrap();
        Frozen { file, thaw }
    }

    fn remedy(&self) -> String {
        format!("echo {} > {}", self.thaw, self.file.display())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Gone with its pod, when all went well.
        let _ = fs::write(&self.file, self.thaw);
    }
}

#[test]
fn a_paused_container_stays_paused_until_its_manifest_goes() {
    let node = node_with_a_pod("paused");
    let container = node.the_container_of("still");
    let dir = freezing_dir(&node);
    process::output(node.containerd.ctr().args(["tasks", "pause", &container.id])).unwrap();
    let state = || process::output(node.containerd.ctr().args(["tasks", "list"])).unwrap();
    let is_paused = || state().lines().any(|l| l.contains(&container.id) && l.contains("PAUSED"));
    assert!(is_paused(), "{}", state());
    let let_go = process::holds_within(Duration::from_secs(10), || !is_paused());
    assert!(!let_go, "nobody thaws it on the operator's behalf: {}", state());
    assert_eq!(pod::phase(&node.pod("still").unwrap()), "Running");

    node.remove_manifest("still").unwrap();
    let removed = Instant::now();
    node.wait_gone("still");
    assert!(removed.elapsed() < in_time(), "{:?}", removed.elapsed());
    assert!(!Path::new(&format!("/proc/{}", container.pid)).exists() && !dir.exists());
}

#[test]
fn who_froze_the_pods_parent_is_named_and_once_it_is_thawed_the_pod_ends_at_once() {
    let node = node_with_a_pod("parent-frozen");
    let container = node.the_container_of("still");
    let dir = freezing_dir(&node);
    let frozen = Frozen::freeze(dir.parent().unwrap());
    node.remove_manifest("still").unwrap();
    let removed = Instant::now();
    if frozen.thaw == "THAWED" {
        let told = node.wait_record("who holds it", |r| r.message.contains(&frozen.remedy()));
        assert!(removed.elapsed() < in_time(), "{:?}", removed.elapsed());
        assert!(
            told.message.contains("is frozen") && Path::new(&format!("/proc/{}", container.pid)).exists()
        );
        drop(frozen);
        let thawed = Instant::now();
        node.wait_gone("still");
        let at_once = Duration::from_secs(5) * if speed::is_emulated() { 6 } else { 1 };
        assert!(thawed.elapsed() < at_once, "{:?}", thawed.elapsed());
    } else {
        // On v2 a frozen process dies of SIGKILL.
        node.wait_gone("still");
        assert!(removed.elapsed() < in_time(), "{:?}", removed.elapsed());
    }
    assert!(!Path::new(&format!("/proc/{}", container.pid)).exists() && !dir.exists());
}
