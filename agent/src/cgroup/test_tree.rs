//! A kubepods tree of a test's own on the real hierarchies, removed at the end, also by a panic. With
//! `OOMLET_TEST_CGROUP_DRIVER=systemd` it is made of slices, on a machine that systemd runs.

use std::sync::atomic::{AtomicU32, Ordering};

use super::driver::{CgroupDriver, DriverKind, Options};
use oomlet_core::cgroup::names::Layout;
use oomlet_core::pod::qos::CgroupResources;

pub(crate) struct TestTree {
    pub driver: CgroupDriver,
    pub root: String,
}

impl TestTree {
    pub(crate) fn new(node_allocatable: &CgroupResources) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = format!("/oomlet-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let driver = match std::env::var("OOMLET_TEST_CGROUP_DRIVER").as_deref() {
            Ok("systemd") => DriverKind::Systemd,
            _ => DriverKind::Cgroupfs,
        };
        let options = Options { cgroup_root: root.clone(), driver };
        let driver = CgroupDriver::open(options).expect("tests run as root on a node with cgroups");
        let tree = TestTree { driver, root };
        tree.driver.ensure_kubepods(node_allocatable).expect("kubepods can be made");
        tree
    }

    /// What the driver calls the directory of a container.
    pub(crate) fn container(&self, id: &str) -> String {
        match self.driver.layout() {
            Layout::Cgroupfs => id.to_owned(),
            Layout::Systemd => format!("cri-containerd-{id}.scope"),
        }
    }
}

impl Drop for TestTree {
    fn drop(&mut self) {
        let removed = self.driver.remove_kubepods();
        // A second panic would abort and hide the first.
        if !std::thread::panicking() {
            removed.expect("the test has ended its processes");
        }
    }
}
