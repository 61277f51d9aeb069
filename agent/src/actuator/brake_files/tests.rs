//! On this machine's real hierarchies, as root.

use crate::clock;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;
use crate::cgroup::test_tree::TestTree;
use oomlet_core::pod::ContainerInstance;
use oomlet_core::pod::qos::CgroupResources;

/// With a container in which a process is busy.
pub(in crate::actuator) struct HeldPod {
    pub files: BrakeFiles,
    /// Where it freezes; the container's is `c` in it.
    pub dir: PathBuf,
    throttle: Option<PathBuf>,
    pub process: Child,
    // Removed last.
    _tree: TestTree,
}

pub(in crate::actuator) const POD: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";

impl HeldPod {
    pub fn new() -> HeldPod {
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
        let held = HeldPod {
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

    pub fn set(&self, gear: Gear) {
        self.files.set(&Held::pod(&POD.into()), QosClass::Burstable, gear).unwrap();
    }

    fn set_container(&self, gear: Gear) {
        self.files.set(&container("c"), QosClass::Burstable, gear).unwrap();
    }

    fn container_is_frozen(&self) -> bool {
        is_frozen(&self.dir.join("c"))
    }

    fn container_high(&self) -> Option<String> {
        read(&self.throttle.as_ref()?.join("c/memory.high")).unwrap()
    }

    #[track_caller]
    pub fn wait(&self, what: &str, met: impl Fn(&HeldPod) -> bool) {
        let start = clock::now();
        while !met(self) {
            assert!(clock::now().since(start) < Duration::from_secs(10), "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn is_frozen(&self) -> bool {
        is_frozen(&self.dir)
    }

    fn high(&self) -> Option<String> {
        read(&self.throttle.as_ref()?.join("memory.high")).unwrap()
    }
}

/// By the kernel's account, not by what was written.
fn is_frozen(dir: &Path) -> bool {
    let v1 = read(&dir.join("freezer.state")).unwrap();
    let v2 = || read(&dir.join("cgroup.events")).unwrap();
    v1.map_or_else(|| v2().is_some_and(|text| text.contains("frozen 1")), |state| state == "FROZEN")
}

pub(in crate::actuator) fn container(id: &str) -> Held {
    let instance = ContainerInstance { name: "main".into(), id: id.into() };
    Held::container(&POD.into(), &instance)
}

impl Drop for HeldPod {
    fn drop(&mut self) {
        let _ = self.files.release_all();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_pod_stands_still_runs_throttled_and_is_let_go() {
    let pod = HeldPod::new();
    pod.set(Gear::Frozen);
    pod.wait("it stands still", HeldPod::is_frozen);
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
        let pod = HeldPod::new();
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
fn a_container_is_held_without_its_pod_and_found_by_its_mark() {
    let pod = HeldPod::new();
    fs::create_dir(pod.dir.join("beside")).unwrap();
    pod.set_container(Gear::Frozen);
    pod.wait("it stands still", HeldPod::container_is_frozen);
    assert!(!is_frozen(&pod.dir.join("beside")) && Mark::Held.is_on(&pod.dir.join("c")));
    pod.set_container(Gear::Throttled { room_bytes: 16 << 20 });
    pod.wait("it runs", |pod| !pod.container_is_frozen());
    assert!(pod.container_high().is_none_or(|high| high != NO_HIGH));
    assert!(pod.high().is_none_or(|high| high == NO_HIGH), "its pod is not held");
    pod.set_container(Gear::Free);
    assert!(pod.container_high().is_none_or(|high| high == NO_HIGH) && !Mark::Held.is_on(&pod.dir.join("c")));
    assert_eq!(pod.files.release_all().unwrap(), 0);

    for gear in [Gear::Frozen, Gear::Throttled { room_bytes: 16 << 20 }] {
        pod.set_container(gear);
        assert_eq!(pod.files.release_all().unwrap(), 1, "{gear:?}");
        pod.wait("it runs", |pod| !pod.container_is_frozen());
        assert!(pod.container_high().is_none_or(|high| high == NO_HIGH));
        assert_eq!(pod.files.release_all().unwrap(), 0);
    }

    // Somebody else's doing, as `ctr task pause`.
    let (_, freezer) = pod.files.freezer.as_ref().unwrap();
    write(&pod.dir.join("c").join(freezer.file), freezer.freeze).unwrap();
    pod.wait("it stands still", HeldPod::container_is_frozen);
    assert_eq!(pod.files.release_all().unwrap(), 0);
    assert!(pod.container_is_frozen(), "not the agent's to let go");
    write(&pod.dir.join("c").join(freezer.file), freezer.thaw).unwrap();
}

#[test]
fn a_pod_that_is_gone_needs_no_holding_and_a_node_without_a_freezer_says_so() {
    let pod = HeldPod::new();
    for gear in [Gear::Frozen, Gear::Throttled { room_bytes: 1 }, Gear::Free] {
        pod.files.set(&Held::pod(&"another".into()), QosClass::BestEffort, gear).unwrap();
        pod.files.set(&container("another"), QosClass::Burstable, gear).unwrap();
    }
    let none = BrakeFiles { freezer: None, ..pod.files.clone() };
    for held in [Held::pod(&POD.into()), container("c")] {
        let error = none.set(&held, QosClass::Burstable, Gear::Frozen).unwrap_err();
        assert!(error.to_string().contains("no freezer"), "{error}");
        none.set(&held, QosClass::Burstable, Gear::Free).unwrap();
    }
}
