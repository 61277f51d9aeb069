//! The stop signal of an evicted pod's container, or of one that is near its own limit, sent by the agent itself. Through
//! the runtime it takes a call, a shim and a `runc` that has to be read from a disk: tens of milliseconds on a node at
//! rest, seconds on one that thrashes, and all the while the container grows. The runtime is told afterwards.
//!
//! Only where nothing is guessed: the agent made the container and knows its stop signal, and the process is in that
//! container's cgroup: the one that the runtime named, or, while the runtime has not answered for the start, the first of
//! its pid namespace. A second signal is not sent, by an agent that was restarted meanwhile
//! either: many programs give up at once on one. A file in the pod's directory tells the next agent.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{info, warn};

use crate::kernel::pidfd::HeldProcess;
use crate::pod_worker::Worker;
use oomlet_core::pod::order::InitProcess;
use oomlet_core::pod::runtime_status::ContainerStatus;
use oomlet_core::pod::stop_signal::StopSignal;
use oomlet_core::pod::{ContainerInstance, PodRef};
use oomlet_core::signal::attribution::parse_cgroup_path;

/// Ids of containers whose stop signal the agent itself has sent, shared by a pod's worker and the stops beside it.
#[derive(Clone, Debug, Default)]
pub(in crate::pod_worker) struct Signalled(Arc<Mutex<BTreeSet<String>>>);

impl Signalled {
    fn contains(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    fn insert(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
    }

    /// By this agent, or by one before it.
    pub(super) fn was_sent(&self, pod_dir: &Path, id: &str) -> bool {
        self.contains(id) || was_sent(pod_dir, id)
    }

    /// Sends the container its stop signal, unless it has had it. `None`: the runtime has to.
    pub(super) fn signal(
        &self,
        pod: &PodRef,
        pod_dir: PathBuf,
        container: &ContainerInstance,
        init: InitProcess,
    ) -> Option<Init> {
        let ContainerInstance { name, id } = container;
        let init = Init::hold(init, id)?;
        if self.was_sent(&pod_dir, id) {
            return Some(init);
        }
        if let Err(error) = init.signal() {
            warn!(%pod, container = name, %error, "the runtime has to send the stop signal");
            return None;
        }
        info!(%pod, container = name, "stop signal sent");
        self.insert(id);
        let (pod, id) = (pod.clone(), id.clone());
        // Not waited for: a disk may be slow just now.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = note_sent(&pod_dir, &id) {
                warn!(%pod, %error, "an agent that is restarted now would send the stop signal again");
            }
        });
        Some(init)
    }
}

fn marks(pod_dir: &Path) -> PathBuf {
    pod_dir.join("stop-signals")
}

/// For [`was_sent`], also of a later agent. Blocking.
fn note_sent(pod_dir: &Path, container_id: &str) -> io::Result<()> {
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

fn was_sent(pod_dir: &Path, container_id: &str) -> bool {
    marks(pod_dir).join(container_id).exists()
}

/// Whether one of the pod's containers has been sent its signal.
pub(in crate::pod_worker) fn any_was_sent(pod_dir: &Path) -> bool {
    marks(pod_dir).exists()
}

/// A container's first process.
#[derive(Debug)]
pub(in crate::pod_worker) struct Init {
    process: HeldProcess,
    signal: StopSignal,
}

impl Init {
    /// `None`: there is no such process in this container.
    fn hold(init: InitProcess, container_id: &str) -> Option<Init> {
        let process = HeldProcess::open(init.pid).ok()?;
        // Read after the process is held: the number cannot have gone to another one in between.
        let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", init.pid)).ok()?;
        is_in(&cgroups, container_id).then_some(Init { process, signal: init.stop_signal })
    }

    fn signal(&self) -> io::Result<()> {
        self.process.signal(self.signal.number())
    }

    /// Comes back when the process has ended.
    pub async fn ended(self) -> io::Result<()> {
        self.process.ended().await
    }
}

/// `None`: it does not run, or its end is the runtime's business.
fn init_process(container: &ContainerStatus) -> Option<InitProcess> {
    Some(InitProcess { pid: container.pid?, stop_signal: container.stop_signal? })
}

/// A container that the runtime has been told to start and has not answered for: its program may run already, and grow.
#[derive(Clone, Debug)]
pub(in crate::pod_worker) struct BeingStarted {
    pub container: ContainerInstance,
    /// `None`: only the runtime can send it.
    stop_signal: Option<StopSignal>,
    /// Once it has been looked for, and found.
    init: Option<InitProcess>,
}

impl BeingStarted {
    pub fn new(container: ContainerInstance, stop_signal: Option<StopSignal>) -> BeingStarted {
        BeingStarted { container, stop_signal, init: None }
    }

    /// If it does run.
    pub fn running(&self) -> Option<&ContainerInstance> {
        self.init.map(|_| &self.container)
    }

    /// Its first process, as soon as that would not miss the signal.
    fn init_of(&self, pids: BTreeSet<i32>) -> Option<InitProcess> {
        let stop_signal = self.stop_signal?;
        let mut pids = pids.into_iter().filter_map(|pid| u32::try_from(pid).ok());
        let status = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let pid = pids.find(|pid| listens_as_first(&status(pid), stop_signal.number()))?;
        Some(InitProcess { pid, stop_signal })
    }
}

impl Worker {
    /// An evicted pod does not wait for the runtime's answer to get its signal: the first process of what is being started is
    /// looked for in the container's cgroup. Whether one was found.
    pub(in crate::pod_worker) async fn find_being_started(&mut self) -> bool {
        let is_sought = |started: &&BeingStarted| started.init.is_none() && started.stop_signal.is_some();
        let sought = self.being_started.iter().filter(is_sought);
        let sought: Vec<BeingStarted> = if self.evicted() { sought.cloned().collect() } else { Vec::new() };
        if sought.is_empty() {
            return false;
        }
        let (context, uid) = (self.context.clone(), self.uid.clone());
        let look = move || {
            let processes = |id: &str| context.cgroups.container_processes(&uid, id);
            let look =
                |started: &BeingStarted| processes(&started.container.id).map(|pids| started.init_of(pids));
            sought.iter().map(|started| (started.container.id.clone(), look(started))).collect::<Vec<_>>()
        };
        // A panic is told where it was; the runtime's answer is waited for then.
        let found = self.blocking("looking for a container's first process", look).await.unwrap_or_default();
        let mut any = false;
        for (id, init) in found {
            match init {
                Ok(init) => {
                    any |= init.is_some();
                    let started = self.being_started.iter_mut().find(|started| started.container.id == id);
                    started.into_iter().for_each(|started| started.init = init);
                }
                Err(error) => {
                    warn!(pod = %self.who, container_id = id, %error, "it gets its stop signal when the runtime has started it");
                }
            }
        }
        any
    }

    /// The container's first process, where the agent is to send the stop signal itself: to an evicted pod, to a container
    /// that has had the signal from it before, and to one whose signal is its manifest's (`own`), of which the runtime does
    /// not know.
    pub(super) fn to_signal_by_hand(&self, id: &str, own: bool) -> Option<InitProcess> {
        if !own && !self.evicted() && !self.signalled.was_sent(&self.context.volumes.pod_dir(&self.uid), id) {
            return None;
        }
        match self.known.containers.iter().find(|c| c.id == id) {
            Some(container) => init_process(container),
            None => self.being_started.iter().find(|started| started.container.id == id)?.init,
        }
    }

    pub(super) fn evicted(&self) -> bool {
        self.standing().is_some_and(|standing| standing.is_eviction())
    }
}

/// `status`: a `/proc/<pid>/status`. The first process of a pid namespace that is not ours, and it has a handler for the
/// signal: without one the kernel drops signals to it. Until its program is there, and has come so far, it has none.
fn listens_as_first(status: &str, signal: i32) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let first = field("NSpid:").is_some_and(|pids| pids.split_whitespace().skip(1).last() == Some("1"));
    let caught = field("SigCgt:").and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    // Signals are counted from 1.
    first && caught >> (signal - 1) & 1 == 1
}

/// `cgroups`: a `/proc/<pid>/cgroup`.
fn is_in(cgroups: &str, container_id: &str) -> bool {
    let paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.filter_map(parse_cgroup_path).any(|p| p.container_id.as_deref() == Some(container_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oomlet_core::pod::runtime_status::ContainerState;

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
    fn the_first_process_of_a_container_once_it_listens() {
        let term = format!("SigCgt:\t{:016x}\n", 1u64 << (libc::SIGTERM - 1));
        for (pids, caught, expected) in [
            ("NSpid:\t4711\t1\n", term.as_str(), true),
            ("NSpid:\t4711\t12\t1\n", &term, true),
            // It would miss the signal.
            ("NSpid:\t4711\t1\n", "SigCgt:\t0000000000000002\n", false),
            ("NSpid:\t4711\t1\n", "", false),
            ("NSpid:\t4711\t7\n", &term, false),
            // Of the node's own pid namespace.
            ("NSpid:\t1\n", &term, false),
            ("NSpid:\t4711\n", &term, false),
            ("", &term, false),
        ] {
            let status = format!("Name:\tx\n{pids}NSpgid:\t1\n{caught}");
            assert_eq!(listens_as_first(&status, libc::SIGTERM), expected, "{status}");
        }
        assert!(!listens_as_first(&format!("NSpid:\t4711\t1\n{term}"), libc::SIGQUIT));
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
        assert!(init_process(&container).is_none(), "neither pid nor signal is known");
        (container.pid, container.stop_signal) = (Some(std::process::id()), Some(StopSignal::TERM));
        let init = init_process(&container).unwrap();
        assert!(Init::hold(init, ID).is_none(), "this process is in no container of that id");
        assert!(
            Init::hold(InitProcess { pid: i32::MAX as u32, ..init }, ID).is_none(),
            "there is no such process"
        );
    }
}
