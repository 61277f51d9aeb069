//! On this machine's real hierarchies, as root, each test below a cgroup root of its own.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::cgroup::test_tree::TestTree;

mod killing;

const BIG: u64 = 4 << 30;

fn limited(bytes: u64) -> CgroupResources {
    CgroupResources { memory_limit_bytes: Some(bytes), ..Default::default() }
}

fn uid(s: &str) -> PodUid {
    PodUid::from(s)
}

/// A process that waits for its end in the given cgroup directories.
struct Sleeper(Child);

impl Sleeper {
    fn start(dirs: &[&Path]) -> Self {
        // The child moves itself, then says so.
        let moves: String =
            dirs.iter().map(|d| format!("echo $$ > {}/cgroup.procs && ", d.display())).collect();
        Sleeper::of_script(&format!("{moves} echo ready && exec sleep 1000"))
    }

    /// The script says `ready` when it is.
    fn of_script(script: &str) -> Self {
        let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        let out = child.stdout.as_mut().unwrap();
        assert!(out.read_exact(&mut ready).is_ok(), "the child ended in: {script}");
        Sleeper(child)
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn number(path: &Path) -> u64 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

#[test]
fn kubepods_and_pods_in_every_hierarchy() {
    let tree = TestTree::new(&limited(BIG));
    let d = &tree.driver;
    let pod = uid("0b1a-77");
    let res = CgroupResources {
        memory_limit_bytes: Some(64 << 20),
        cpu_shares: Some(512),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        pids_limit: Some(77),
    };
    let parent = d.ensure_pod(&pod, QosClass::Burstable, &res).unwrap();
    assert_eq!(parent, names::pod(d.layout(), &tree.root, &pod, QosClass::Burstable));
    assert_eq!(d.ensure_pod(&pod, QosClass::Burstable, &res).unwrap(), parent, "twice is once");
    for mount in d.hierarchies().mount_points() {
        assert!(below(mount, &parent).is_dir(), "{}", mount.display());
    }
    let dirs = d.pod_dir(&pod, QosClass::Burstable);
    if d.memory_hierarchy() == Hierarchy::MemoryV1 {
        let dir = |c| below(d.hierarchies().with_controller(c).unwrap().0, &parent);
        assert_eq!(number(&dirs.memory.join("memory.limit_in_bytes")), 64 << 20);
        assert_eq!(number(&d.kubepods_dir().memory.join("memory.limit_in_bytes")), BIG);
        assert_eq!(number(&dirs.memory.join("memory.use_hierarchy")), 1);
        assert_eq!(number(&dir("cpu").join("cpu.shares")), 512);
        assert_eq!(number(&dir("cpu").join("cpu.cfs_quota_us")), 50_000);
        assert_eq!(number(&dir("pids").join("pids.max")), 77);
        assert!(!fs::read_to_string(dir("cpuset").join("cpuset.cpus")).unwrap().trim().is_empty());
    } else {
        assert_eq!(number(&dirs.memory.join("memory.max")), 64 << 20);
        assert_eq!(number(&dirs.memory.join("cpu.weight")), cpu_weight_of_512());
    }
    // Limits that are no longer wanted come off.
    d.ensure_pod(&pod, QosClass::Burstable, &CgroupResources::default()).unwrap();
    let files = crate::cgroup::MemoryFiles::open(d).and_then(|mut f| {
        f.watch(oomlet_core::signal::Domain::Pod(pod.clone()), &dirs.memory)?;
        f.read(oomlet_core::signal::ReadScope::AllPods, oomlet_core::reason::Reason::SampleDue, None)
    });
    assert_eq!(files.unwrap().domains[2].limit_bytes, None);

    assert_eq!(d.list_pods().unwrap(), [(pod.clone(), QosClass::Burstable)]);
    d.remove_pod(&pod, QosClass::Burstable).unwrap();
    d.remove_pod(&pod, QosClass::Burstable).unwrap();
    assert_eq!(d.list_pods().unwrap(), []);
}

fn cpu_weight_of_512() -> u64 {
    crate::cgroup::resources::cpu_weight(512)
}

#[test]
fn qos_classes() {
    let tree = TestTree::new(&limited(BIG));
    let d = &tree.driver;
    let shares = CgroupResources { cpu_shares: Some(300), ..Default::default() };
    d.update_qos(QosClass::Burstable, &shares).unwrap();
    d.update_qos(QosClass::Guaranteed, &CgroupResources::default()).unwrap();
    let readings = crate::cgroup::MemoryFiles::open(d).unwrap().read(
        oomlet_core::signal::ReadScope::Top,
        oomlet_core::reason::Reason::SampleDue,
        None,
    );
    assert_eq!(readings.unwrap().domains[1].limit_bytes, Some(BIG), "Guaranteed is not kubepods");
    for (i, qos) in QosClass::ALL.into_iter().enumerate() {
        d.ensure_pod(&uid(&format!("p{i}")), qos, &CgroupResources::default()).unwrap();
    }
    let pods: Vec<_> = d.list_pods().unwrap().into_iter().map(|(u, q)| (u.to_string(), q)).collect();
    let want = QosClass::ALL.into_iter().enumerate().map(|(i, q)| (format!("p{i}"), q)).collect::<Vec<_>>();
    assert_eq!(pods, want);
    let (mount, v2) = d.hierarchies().with_controller("cpu").unwrap();
    let file = |qos| {
        let name = if v2 { "cpu.weight" } else { "cpu.shares" };
        below(mount, &names::qos_class(d.layout(), &tree.root, qos)).join(name)
    };
    assert_eq!(number(&file(QosClass::BestEffort)), if v2 { 1 } else { 2 });
    assert_eq!(
        number(&file(QosClass::Burstable)),
        if v2 { crate::cgroup::resources::cpu_weight(300) } else { 300 }
    );
}

#[test]
fn ids_are_those_of_the_directories() {
    let tree = TestTree::new(&CgroupResources::default());
    let d = &tree.driver;
    let pod = uid("ids");
    d.ensure_pod(&pod, QosClass::Guaranteed, &CgroupResources::default()).unwrap();
    let dirs = d.pod_dir(&pod, QosClass::Guaranteed);
    let unified = dirs.unified.clone().unwrap_or_else(|| dirs.memory.clone());
    let container = tree.container("c0ffee");
    for dir in [&dirs.memory, &unified] {
        fs::create_dir_all(dir.join(&container).join("nested")).unwrap();
    }
    let ids = d.cgroup_ids(&pod, QosClass::Guaranteed);
    let inode = |p: &Path| fs::metadata(p).unwrap().ino();
    let expect = |hierarchy, dir: &Path, container: Option<&str>| {
        let id = CgroupId { hierarchy, id: inode(dir) };
        assert!(ids.contains(&(id, container.map(str::to_owned))), "{} in {ids:?}", dir.display());
    };
    for (hierarchy, dir) in [(d.memory_hierarchy(), &dirs.memory), (Hierarchy::Unified, &unified)] {
        expect(hierarchy, dir, None);
        expect(hierarchy, &dir.join(&container), Some("c0ffee"));
        expect(hierarchy, &dir.join(&container).join("nested"), Some("c0ffee"));
    }
    assert_eq!(ids.len(), if dirs.memory == unified { 3 } else { 6 });
    assert_eq!(d.cgroup_ids(&uid("gone"), QosClass::Guaranteed), []);
}

#[test]
fn limits_outlast_what_happens_to_systemd() {
    let tree = TestTree::new(&limited(BIG));
    let d = &tree.driver;
    if d.layout() != Layout::Systemd {
        eprintln!("not with this driver: see `TestTree`");
        return;
    }
    let pod = uid("0b1a-77");
    let res = CgroupResources {
        cpu_shares: Some(512),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        pids_limit: Some(77),
        ..limited(64 << 20)
    };
    let ensure = |res: &CgroupResources| d.ensure_pod(&pod, QosClass::Burstable, res).unwrap();
    let unit = ensure(&res).rsplit_once('/').unwrap().1.to_owned();
    let systemctl = |args: &[&str]| {
        let out = Command::new("systemctl").args(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let limit = || {
        let v2 = d.memory_hierarchy() == Hierarchy::Unified;
        let (file, property) =
            if v2 { ("memory.max", "MemoryMax") } else { ("memory.limit_in_bytes", "MemoryLimit") };
        let shown = systemctl(&["show", "--value", "--property", property, &unit]);
        let of_kernel = number(&d.pod_dir(&pod, QosClass::Burstable).memory.join(file));
        assert_eq!(shown.trim(), of_kernel.to_string());
        of_kernel
    };
    assert_eq!(limit(), 64 << 20);
    systemctl(&["daemon-reload"]);
    assert_eq!(limit(), 64 << 20);
    assert_eq!(systemctl(&["show", "--value", "--property", "TasksMax", &unit]).trim(), "77");
    // Its socket is closed under the driver.
    systemctl(&["daemon-reexec"]);
    ensure(&limited(32 << 20));
    assert_eq!(limit(), 32 << 20);
    systemctl(&["daemon-reload"]);
    assert_eq!(limit(), 32 << 20);
    // Somebody else stops it.
    systemctl(&["stop", &unit]);
    assert!(!d.pod_dir(&pod, QosClass::Burstable).memory.exists());
    ensure(&res);
    assert_eq!(limit(), 64 << 20);
    d.remove_pod(&pod, QosClass::Burstable).unwrap();
    assert_eq!(systemctl(&["show", "--value", "--property", "ActiveState", &unit]).trim(), "inactive");
}

#[test]
fn what_the_runtime_has_left_of_a_pod_is_killed_with_its_removal() {
    let tree = TestTree::new(&CgroupResources::default());
    let d = &tree.driver;
    let pod = uid("busy");
    d.ensure_pod(&pod, QosClass::Burstable, &CgroupResources::default()).unwrap();
    let dir = d.pod_dir(&pod, QosClass::Burstable).memory;
    let (mut left, mut bystander) = (Sleeper::start(&[&dir]), Sleeper::start(&[]));
    d.remove_pod(&pod, QosClass::Burstable).unwrap();
    assert!(!left.is_alive() && bystander.is_alive() && !dir.exists());
}

#[test]
fn a_limit_below_what_is_in_use_is_refused() {
    let tree = TestTree::new(&CgroupResources::default());
    let d = &tree.driver;
    let pod = uid("grown");
    d.ensure_pod(&pod, QosClass::Guaranteed, &limited(256 << 20)).unwrap();
    let dir = d.pod_dir(&pod, QosClass::Guaranteed).memory;
    // `sh` keeps 32 MiB in a variable: anonymous memory, which cannot be reclaimed without swap.
    let mut child = Command::new("sh")
        .args(["-c", &format!("echo $$ > {}/cgroup.procs; x=$(head -c 33554432 /dev/zero | tr '\\0' x); echo ready; read y; echo ${{#x}}", dir.display())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let refused = d.ensure_pod(&pod, QosClass::Guaranteed, &limited(16 << 20));
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut alive = String::new();
    child.stdout.take().unwrap().read_to_string(&mut alive).unwrap();
    child.wait().unwrap();
    let error = refused.unwrap_err();
    assert!(
        matches!(error, CgroupError::LimitBelowUsage { usage_bytes, limit_bytes, .. } if usage_bytes > limit_bytes),
        "{error}"
    );
    assert_eq!(alive.trim(), "33554432", "the process is alive");
}

#[test]
fn bad_input_is_refused() {
    let open = |root: &str, driver| {
        CgroupDriver::open(Options { cgroup_root: root.into(), driver }).err().map(|e| e.to_string())
    };
    assert_eq!(open("/", DriverKind::Cgroupfs), None);
    assert!(open("rel", DriverKind::Cgroupfs).unwrap().contains("not an absolute path"));
    assert!(open("/a/../b", DriverKind::Cgroupfs).unwrap().contains("`..`"));
    if !Path::new("/run/systemd/system").exists() {
        assert!(open("/", DriverKind::Systemd).unwrap().contains("cgroupDriver: cgroupfs"));
    }

    let tree = TestTree::new(&CgroupResources::default());
    let d = &tree.driver;
    for bad in ["../../x", "", "a/b"] {
        let error = d.ensure_pod(&uid(bad), QosClass::Burstable, &CgroupResources::default()).unwrap_err();
        assert!(matches!(error, CgroupError::BadUid { .. }), "{error}");
        assert!(d.remove_pod(&uid(bad), QosClass::Burstable).is_err());
        assert!(d.kill_pod(&uid(bad)).is_err());
    }
    // Without its parent a pod would escape the node's limit.
    d.remove_kubepods().unwrap();
    let error = d.ensure_pod(&uid("x"), QosClass::Burstable, &CgroupResources::default()).unwrap_err();
    assert!(error.to_string().contains("make the cgroup"), "{error}");
}

/// Delegation on v2, with files in place of the kernel's: this machine's controllers are on v1.
#[test]
fn v2_controllers_are_delegated_down_to_the_parent() {
    let mount = tempfile::tempdir().unwrap();
    let dirs = ["", "r", "r/kubepods", "r/kubepods/burstable", "r/kubepods/besteffort"];
    for dir in dirs {
        let dir = mount.path().join(dir);
        fs::create_dir_all(&dir).unwrap();
        for (file, text) in [
            ("cgroup.controllers", "memory\n"),
            ("cgroup.subtree_control", ""),
            ("memory.max", "max\n"),
            ("memory.current", "0\n"),
            ("memory.stat", "inactive_file 0\nactive_file 0\n"),
        ] {
            fs::write(dir.join(file), text).unwrap();
        }
    }
    let unified = crate::cgroup::hierarchy::UnifiedHierarchy {
        controllers: vec!["memory".into()],
        mount_point: mount.path().into(),
    };
    let hierarchies = Hierarchies { v1: Vec::new(), unified: Some(unified) };
    let options = Options { cgroup_root: "/r".into(), driver: DriverKind::Cgroupfs };
    let d = CgroupDriver::open_on(options, hierarchies).unwrap();
    assert_eq!(d.version(), CgroupVersion::V2);
    d.ensure_kubepods(&limited(1 << 30)).unwrap();
    assert_eq!(fs::read_to_string(mount.path().join("r/kubepods/memory.max")).unwrap(), "1073741824");
    // The pod's own files are the kernel's to make; what matters is that its parents delegate.
    let made = crate::cgroup::create::make(d.hierarchies(), "/r/kubepods/burstable/podx", Parents::MustExist);
    made.unwrap();
    let control =
        |dir: &str| fs::read_to_string(mount.path().join(dir).join("cgroup.subtree_control")).unwrap();
    assert_eq!(dirs.map(control), ["+memory", "+memory", "+memory", "+memory", ""]);
    let dirs = d.pod_dir(&uid("x"), QosClass::Burstable);
    assert_eq!(dirs.unified, Some(dirs.memory));
}
