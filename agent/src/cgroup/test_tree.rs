//! A kubepods tree of a test's own on the real hierarchies, removed at the end, also by a panic.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::driver::{CgroupDriver, DriverKind, Options};
use super::tree;
use crate::pod::qos::CgroupResources;

pub(crate) struct TestTree {
    pub driver: CgroupDriver,
    pub root: String,
}

impl TestTree {
    pub(crate) fn new(node_allocatable: &CgroupResources) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = format!("/oomlet-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let options = Options { cgroup_root: root.clone(), driver: DriverKind::Cgroupfs };
        let driver = CgroupDriver::open(options).expect("tests run as root on a node with cgroups");
        let tree = TestTree { driver, root };
        tree.driver.ensure_kubepods(node_allocatable).expect("kubepods can be made");
        tree
    }

    fn dirs(&self) -> impl Iterator<Item = PathBuf> {
        self.driver.hierarchies().mount_points().map(|m| m.join(&self.root[1..]))
    }
}

impl Drop for TestTree {
    fn drop(&mut self) {
        for dir in self.dirs() {
            let removed = tree::remove(&dir);
            // A second panic would abort and hide the first.
            if !std::thread::panicking() {
                removed.expect("the test has ended its processes");
            }
        }
    }
}
