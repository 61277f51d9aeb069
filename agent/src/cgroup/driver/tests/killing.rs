//! A pod's processes and what they hold.

use super::*;
use crate::kernel::pidfd::HeldProcess;

/// Thaws at the end, also by a panic: a frozen child cannot be waited for.
struct Frozen(PathBuf);

impl Frozen {
    fn freeze(dir: &Path) -> Self {
        fs::write(dir.join("freezer.state"), "FROZEN").unwrap();
        Frozen(dir.to_owned())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // The directory is gone when the test went well.
        let _ = fs::write(self.0.join("freezer.state"), "THAWED");
    }
}

#[test]
fn kill_takes_every_process_even_frozen_ones() {
    let tree = TestTree::new(&CgroupResources::default());
    let d = &tree.driver;
    let pod = uid("kill");
    let path = d.ensure_pod(&pod, QosClass::BestEffort, &CgroupResources::default()).unwrap();
    let dirs = d.pod_dir(&pod, QosClass::BestEffort);
    let mount_of = |c| d.hierarchies().with_controller(c).map(|(m, _)| below(m, &path));
    let container = |dir: PathBuf| {
        let dir = dir.join(tree.container("c1"));
        fs::create_dir_all(&dir).unwrap();
        dir
    };
    let memory = container(dirs.memory.clone());
    let unified = container(dirs.unified.clone().unwrap_or_else(|| dirs.memory.clone()));
    let freezer = mount_of("freezer").map(container);
    let mut everywhere = vec![memory.as_path(), unified.as_path()];
    everywhere.extend(freezer.as_deref());
    // As a container is; as one that only memory knows; and a frozen one.
    let mut a = Sleeper::start(&everywhere);
    let mut b = Sleeper::start(&[&memory]);
    let _frozen = freezer.as_deref().map(Frozen::freeze);
    let mut bystander = Sleeper::start(&[]);
    let beside = memory.with_file_name(tree.container("c2"));
    fs::create_dir_all(&beside).unwrap();
    let mut c = Sleeper::start(&[&beside]);
    let in_container = |id| d.container_processes(&pod, id).unwrap();
    assert_eq!((in_container("c2").len(), in_container("c3").len()), (1, 0));
    assert_eq!(d.kill_container(&pod, "c2", false).unwrap(), 1);
    assert!(!c.is_alive() && a.is_alive());
    assert_eq!(d.kill_container(&pod, "c3", false).unwrap(), 0);

    let error = d.remove_kubepods().unwrap_err();
    assert!(matches!(error, CgroupError::InUse { processes: 1.., .. }), "{error}");
    assert!(a.is_alive() && b.is_alive());
    assert_eq!(d.kill_pod(&pod).unwrap(), 2);
    assert!(!a.is_alive() && !b.is_alive() && bystander.is_alive());
    assert_eq!(d.kill_pod(&pod).unwrap(), 0);
    d.remove_pod(&pod, QosClass::BestEffort).unwrap();
    assert!(!memory.exists() && !unified.exists() && freezer.is_none_or(|f| !f.exists()));
}

/// In v1's freezer a process with a SIGKILL does not even die until it is thawed.
#[test]
fn memory_comes_back_before_the_process_dies() {
    const HELD: u64 = 32 << 20;
    let tree = TestTree::new(&CgroupResources::default());
    let d = &tree.driver;
    let Some((mount, false)) = d.hierarchies().with_controller("freezer") else {
        eprintln!("on v2 a frozen process dies at once");
        return;
    };
    let pod = uid("release");
    let path = d.ensure_pod(&pod, QosClass::BestEffort, &CgroupResources::default()).unwrap();
    let freezer = below(mount, &path);
    // The child is forked, not vforked: as long as another process shares the memory, the kernel does not give it back.
    let script = format!(
        "echo $$ > {}/cgroup.procs && x=$(head -c {HELD} /dev/zero | tr '\\0' a) && {{ sleep 1000 & echo ready; wait; }}",
        freezer.display()
    );
    let mut holder = Sleeper::of_script(&script);
    let resident = |pid: u32| -> u64 {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let pid = holder.0.id();
    assert!(resident(pid) > HELD);
    let frozen = Frozen::freeze(&freezer);
    let process = HeldProcess::open(pid).unwrap();
    process.signal(libc::SIGKILL).unwrap();
    assert!(resident(pid) > HELD, "it stands still");
    match process.release_memory() {
        Ok(()) => assert!(resident(pid) < HELD / 2 && holder.is_alive(), "{} bytes", resident(pid)),
        Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ENOSYS), "only Linux before 5.15 has it not: {e}"),
    }
    drop(frozen);
    d.kill_pod(&pod).unwrap();
    d.remove_pod(&pod, QosClass::BestEffort).unwrap();
}

/// A pod with a process in its container `c1`, where its memory is counted and where it can be frozen.
fn pod_with_a_container(tree: &TestTree, pod: &PodUid) -> Sleeper {
    let d = &tree.driver;
    d.ensure_pod(pod, QosClass::BestEffort, &CgroupResources::default()).unwrap();
    let dirs = ["memory", "freezer"].map(|controller| {
        let dir = d.pod_dir_of(controller, pod, QosClass::BestEffort).unwrap().join(tree.container("c1"));
        fs::create_dir_all(&dir).unwrap();
        dir
    });
    Sleeper::start(&[&dirs[0], &dirs[1]])
}

/// Each cgroup in the v1 freezer from the container's up: whether a container's end thaws it.
#[test]
fn a_frozen_container_of_a_pod_that_ends_dies_and_who_else_froze_it_is_named() {
    let tree = TestTree::new(&CgroupResources::default());
    let d = &tree.driver;
    let Some((mount, false)) = d.hierarchies().with_controller("freezer") else {
        eprintln!("on v2 a frozen process dies at once");
        return;
    };
    for (frozen, pod_ends, dies) in
        [("container", false, true), ("pod", true, true), ("pod", false, false), ("class", true, false)]
    {
        let pod = uid("frozen");
        let mut sleeper = pod_with_a_container(&tree, &pod);
        let pod_dir = d.pod_dir_of("freezer", &pod, QosClass::BestEffort).unwrap();
        let dir = match frozen {
            "container" => pod_dir.join(tree.container("c1")),
            "pod" => pod_dir.clone(),
            _ => pod_dir.parent().unwrap().to_owned(),
        };
        assert!(dir.starts_with(mount));
        let frozen_by = Frozen::freeze(&dir);
        match d.kill_container(&pod, "c1", pod_ends) {
            Ok(killed) => assert!(dies && killed == 1, "{frozen}"),
            Err(error) => {
                let remedy = format!("echo THAWED > {}/freezer.state`", dir.display());
                assert!(!dies && error.to_string().ends_with(&remedy), "{frozen}: {error}");
                assert!(sleeper.is_alive());
            }
        }
        drop(frozen_by);
        // It has had its SIGKILL.
        d.kill_container(&pod, "c1", pod_ends).unwrap();
        assert!(!sleeper.is_alive());
        d.remove_pod(&pod, QosClass::BestEffort).unwrap();
    }
}
