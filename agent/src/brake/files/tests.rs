//! On this machine's real hierarchies, as root.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;
use crate::cgroup::test_tree::TestTree;
use crate::clock::Mono;
use crate::pod::qos::CgroupResources;

struct Held {
    files: BrakeFiles,
    dir: PathBuf,
    throttle: Option<PathBuf>,
    process: Child,
    // Removed last.
    _tree: TestTree,
}

const POD: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";

impl Held {
    fn new() -> Held {
        let tree = TestTree::new(&CgroupResources::default());
        let files = BrakeFiles::of(&tree.driver);
        let path =
            tree.driver.ensure_pod(&POD.into(), QosClass::Burstable, &CgroupResources::default()).unwrap();
        let (mount, _) = files.freezer.as_ref().expect("every machine that tests run on has one");
        let dir = below(mount, &path);
        // A container's cgroup, with a process that has something to do.
        let container = dir.join("c");
        fs::create_dir(&container).unwrap();
        let script = format!("echo $$ > {}/cgroup.procs && while :; do :; done", container.display());
        let process = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).spawn().unwrap();
        let held = Held {
            throttle: files.throttle.as_ref().map(|m| below(m, &path)),
            files,
            dir,
            process,
            _tree: tree,
        };
        held.wait("the process is in", |h| {
            read(&h.dir.join("c/cgroup.procs")).unwrap().is_some_and(|t| !t.is_empty())
        });
        held
    }

    fn set(&self, gear: Gear) {
        self.files.set(&POD.into(), QosClass::Burstable, gear).unwrap();
    }

    #[track_caller]
    fn wait(&self, what: &str, met: impl Fn(&Held) -> bool) {
        let start = Mono::now();
        while !met(self) {
            assert!(Mono::now().since(start) < Duration::from_secs(10), "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// By the kernel's account, not by what was written.
    fn is_frozen(&self) -> bool {
        let v1 = read(&self.dir.join("freezer.state")).unwrap();
        let v2 = || read(&self.dir.join("cgroup.events")).unwrap();
        v1.map_or_else(|| v2().is_some_and(|text| text.contains("frozen 1")), |state| state == "FROZEN")
    }

    fn high(&self) -> Option<String> {
        read(&self.throttle.as_ref()?.join("memory.high")).unwrap()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.files.release_all();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_pod_stands_still_runs_throttled_and_is_let_go() {
    let pod = Held::new();
    pod.set(Gear::Frozen);
    pod.wait("it stands still", Held::is_frozen);
    pod.set(Gear::Throttled { room_bytes: 16 << 20 });
    pod.wait("it runs", |pod| !pod.is_frozen());
    if let Some(high) = pod.high() {
        assert!(high.parse::<u64>().unwrap() >= 16 << 20, "{high}");
        pod.set(Gear::Frozen);
        pod.set(Gear::Throttled { room_bytes: 64 << 20 });
        assert_eq!(pod.high().unwrap(), high, "no more room than it was given");
    }
    pod.set(Gear::Free);
    assert!(pod.high().is_none_or(|high| high == NO_HIGH));
    assert_eq!(pod.files.release_all().unwrap(), 0);
}

#[test]
fn whatever_is_held_is_found_and_let_go() {
    for gear in [Gear::Frozen, Gear::Throttled { room_bytes: 1 << 20 }] {
        let pod = Held::new();
        pod.set(gear);
        // On v1 a pod that runs is held by nothing.
        let held = usize::from(gear == Gear::Frozen || pod.throttle.is_some());
        assert_eq!(pod.files.release_all().unwrap(), held);
        pod.wait("it runs", |pod| !pod.is_frozen());
        assert!(pod.high().is_none_or(|high| high == NO_HIGH));
        assert_eq!(pod.files.release_all().unwrap(), 0);
    }
}

#[test]
fn a_pod_that_is_gone_needs_no_holding_and_a_node_without_a_freezer_says_so() {
    let pod = Held::new();
    for gear in [Gear::Frozen, Gear::Throttled { room_bytes: 1 }, Gear::Free] {
        pod.files.set(&"another".into(), QosClass::BestEffort, gear).unwrap();
    }
    let none = BrakeFiles { freezer: None, ..pod.files.clone() };
    let error = none.set(&POD.into(), QosClass::Burstable, Gear::Frozen).unwrap_err();
    assert!(error.to_string().contains("no freezer"), "{error}");
    none.set(&POD.into(), QosClass::Burstable, Gear::Free).unwrap();
}
