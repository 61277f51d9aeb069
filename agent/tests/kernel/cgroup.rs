//! Cgroups that a test makes and removes.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use oomlet_core::signal::{CgroupId, Hierarchy};
use rustix::process::{Pid, Signal, kill_process};

use crate::PATIENCE;

/// One cgroup of this test's own: in the memory hierarchy, and at the same path in the unified one where they differ.
pub struct TestCgroup {
    pub memory: PathBuf,
    pub unified: PathBuf,
    pub path: String,
}

impl TestCgroup {
    pub fn make(name: &str) -> TestCgroup {
        let path = format!("/oomlet-kernel-test-{}-{name}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        let (memory_root, unified_root) = if root.join("memory").exists() {
            (root.join("memory"), root.join("unified"))
        } else {
            fs::write(root.join("cgroup.subtree_control"), "+memory").expect("enable the memory controller");
            (root.to_owned(), root.to_owned())
        };
        let cgroup =
            TestCgroup { memory: memory_root.join(&path[1..]), unified: unified_root.join(&path[1..]), path };
        fs::create_dir(&cgroup.memory).expect("make a memory cgroup; root is needed");
        if cgroup.is_v1() {
            fs::create_dir(&cgroup.unified).expect("make a unified cgroup");
        }
        cgroup
    }

    /// A cgroup inside this one, with a memcg of its own.
    pub fn child(&self, name: &str) -> TestCgroup {
        let child = TestCgroup {
            memory: self.memory.join(name),
            unified: self.unified.join(name),
            path: format!("{}/{name}", self.path),
        };
        if !self.is_v1() {
            fs::write(self.memory.join("cgroup.subtree_control"), "+memory").expect("pass the controller on");
        }
        // Before 5.11 a v1 parent's limit did not hold for its children unless it was told to.
        let hierarchical = self.memory.join("memory.use_hierarchy");
        if hierarchical.exists() {
            fs::write(hierarchical, "1").expect("have the limit hold for what is inside");
        }
        fs::create_dir(&child.memory).expect("make a memory cgroup");
        if self.is_v1() {
            fs::create_dir(&child.unified).expect("make a unified cgroup");
        }
        child
    }

    pub fn is_v1(&self) -> bool {
        self.memory != self.unified
    }

    pub fn limit(&self, bytes: u64) {
        let file = if self.is_v1() { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(self.memory.join(file), bytes.to_string()).expect("set the limit");
    }

    /// `memory.high`; the v1 hierarchy has none.
    pub fn throttle_above(&self, bytes: u64) {
        fs::write(self.memory.join("memory.high"), bytes.to_string()).expect("set memory.high");
    }

    /// SIGKILL to all that is inside.
    pub fn kill(&self) {
        let procs = fs::read_to_string(self.memory.join("cgroup.procs")).unwrap_or_default();
        let pids = procs.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw);
        for pid in pids {
            // One that has just ended is what is wanted.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    pub fn enter(&self, pid: u32) {
        for dir in [&self.memory, &self.unified] {
            fs::write(dir.join("cgroup.procs"), pid.to_string()).expect("move a process");
        }
    }

    pub fn memory_id(&self) -> CgroupId {
        let hierarchy = if self.is_v1() { Hierarchy::MemoryV1 } else { Hierarchy::Unified };
        id_of(hierarchy, &self.memory)
    }

    pub fn unified_id(&self) -> CgroupId {
        id_of(Hierarchy::Unified, &self.unified)
    }

    pub fn remove(&self) {
        let deadline = Instant::now() + PATIENCE;
        for dir in [&self.memory, &self.unified] {
            // A process that has just ended may still be on its way out.
            while dir.exists() && fs::remove_dir(dir).is_err() && Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        self.kill();
        self.remove();
    }
}

pub fn id_of(hierarchy: Hierarchy, dir: &Path) -> CgroupId {
    let id = fs::metadata(dir).expect("the cgroup exists").ino();
    CgroupId { hierarchy, id }
}
