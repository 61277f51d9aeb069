//! The stop signal of an evicted pod's container, or of one that is near its own limit, sent by the agent itself. Through the runtime it takes a call, a shim and a `runc`
//! that has to be read from a disk: tens of milliseconds on a node at rest, seconds on one that thrashes, and all the
//! while the container grows. The runtime is told afterwards.
//!
//! Only where nothing is guessed: the agent made the container and knows its stop signal, and the process that the
//! runtime named is in that container's cgroup. A second signal is not sent, by an agent that was restarted meanwhile
//! either: many programs give up at once on one. A file in the pod's directory tells the next agent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::kernel::pidfd::HeldProcess;
use crate::pod::order::InitProcess;
use crate::pod::runtime_status::ContainerStatus;
use crate::pod::stop_signal::StopSignal;
use crate::signal::attribution::parse_cgroup_path;

fn marks(pod_dir: &Path) -> PathBuf {
    pod_dir.join("stop-signals")
}

/// For [`was_sent`], also of a later agent. Blocking.
pub(super) fn note_sent(pod_dir: &Path, container_id: &str) -> io::Result<()> {
    fs::create_dir_all(marks(pod_dir))?;
    fs::write(marks(pod_dir).join(container_id), "")
}

/// The container has ended: nobody will ask any more. Blocking.
pub(super) fn forget(pod_dir: &Path, container_id: &str) -> io::Result<()> {
    match fs::remove_file(marks(pod_dir).join(container_id)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

pub(super) fn was_sent(pod_dir: &Path, container_id: &str) -> bool {
    marks(pod_dir).join(container_id).exists()
}

/// Whether one of the pod's containers has been sent its signal.
pub(super) fn any_was_sent(pod_dir: &Path) -> bool {
    marks(pod_dir).exists()
}

/// A container's first process.
#[derive(Debug)]
pub(super) struct Init {
    process: HeldProcess,
    signal: StopSignal,
}

impl Init {
    /// `None`: this container's end is the runtime's business.
    pub fn of(container: &ContainerStatus) -> Option<Init> {
        let (stop_signal, pid) = (container.stop_signal?, container.pid?);
        Init::hold(InitProcess { pid, stop_signal }, &container.id)
    }

    /// `None`: there is no such process in this container.
    pub fn hold(init: InitProcess, container_id: &str) -> Option<Init> {
        let process = HeldProcess::open(init.pid).ok()?;
        // Read after the process is held: the number cannot have gone to another one in between.
        let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", init.pid)).ok()?;
        is_in(&cgroups, container_id).then_some(Init { process, signal: init.stop_signal })
    }

    pub fn signal(&self) -> io::Result<()> {
        self.process.signal(self.signal.number())
    }

    /// Comes back when the process has ended.
    pub async fn ended(self) -> io::Result<()> {
        self.process.ended().await
    }
}

/// `cgroups`: a `/proc/<pid>/cgroup`.
fn is_in(cgroups: &str, container_id: &str) -> bool {
    let paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.filter_map(parse_cgroup_path).any(|p| p.container_id.as_deref() == Some(container_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::runtime_status::ContainerState;

    const ID: &str = "8c3fd5b0a1e94c7d8c3fd5b0a1e94c7d8c3fd5b0a1e94c7d8c3fd5b0a1e94c7d";

    #[test]
    fn a_process_is_the_containers_when_its_cgroup_says_so() {
        let of = |path: &str| is_in(&format!("5:memory:{path}\n0::{path}\n"), ID);
        let uid = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
        assert!(of(&format!("/kubepods/burstable/pod{uid}/{ID}")));
        let slice = uid.replace('-', "_");
        assert!(of(&format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-{ID}.scope"
        )));
        assert!(!of(&format!("/kubepods/burstable/pod{uid}/{}", ID.replace('8', "9"))));
        assert!(!of(&format!("/kubepods/burstable/pod{uid}")));
        assert!(!of("/user.slice"));
        assert!(!is_in("", ID));
    }

    #[test]
    fn a_signal_is_remembered_by_container() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!was_sent(dir.path(), ID) && !any_was_sent(dir.path()));
        note_sent(dir.path(), ID).unwrap();
        note_sent(dir.path(), ID).unwrap();
        assert!(was_sent(dir.path(), ID) && any_was_sent(dir.path()));
        assert!(!was_sent(dir.path(), "another"));
        for _ in 0..2 {
            forget(dir.path(), ID).unwrap();
            assert!(!was_sent(dir.path(), ID));
        }
    }

    #[test]
    fn a_process_that_is_not_the_containers_gets_nothing() {
        let mut container = ContainerStatus::bare(ID, "c", ContainerState::Running);
        assert!(Init::of(&container).is_none(), "neither pid nor signal is known");
        (container.pid, container.stop_signal) = (Some(std::process::id()), Some(StopSignal::TERM));
        assert!(Init::of(&container).is_none(), "this process is in no container of that id");
        container.pid = Some(i32::MAX as u32);
        assert!(Init::of(&container).is_none(), "there is no such process");
    }
}
