//! The stop signal of an evicted pod's container, or of one that is near its own limit, sent by the agent itself. Through the runtime it takes a call, a shim and a `runc`
//! that has to be read from a disk: tens of milliseconds on a node at rest, seconds on one that thrashes, and all the
//! while the container grows. The runtime is told afterwards.
//!
//! Only where nothing is guessed: the agent made the container and knows its stop signal, and the process is in that
//! container's cgroup: the one that the runtime named, or, while the runtime has not answered for the start, the first of
//! its pid namespace. A second signal is not sent, by an agent that was restarted meanwhile
//! either: many programs give up at once on one. A file in the pod's directory tells the next agent.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::Worker;
use crate::kernel::pidfd::HeldProcess;
use oomlet_core::pod::Pod;
use oomlet_core::pod::order::InitProcess;
use oomlet_core::pod::qos::QosClass;
use oomlet_core::pod::runtime_status::ContainerStatus;
use oomlet_core::pod::stop_signal::StopSignal;
use oomlet_core::signal::attribution::parse_cgroup_path;

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

/// A container that the runtime has been told to start and has not answered for: its program may run already, and grow.
#[derive(Clone, Debug)]
pub(super) struct BeingStarted {
    id: String,
    name: String,
    stop_signal: StopSignal,
    /// Once it has been looked for, and found.
    init: Option<InitProcess>,
}

impl BeingStarted {
    pub fn new(id: &str, name: &str, stop_signal: StopSignal) -> BeingStarted {
        BeingStarted { id: id.to_owned(), name: name.to_owned(), stop_signal, init: None }
    }

    /// Its id and name, if it does run.
    pub fn running(&self) -> Option<(&str, &str)> {
        self.init.map(|_| (self.id.as_str(), self.name.as_str()))
    }

    /// Its first process, as soon as that would not miss the signal.
    fn init_of(&self, pids: BTreeSet<i32>) -> Option<InitProcess> {
        let mut pids = pids.into_iter().filter_map(|pid| u32::try_from(pid).ok());
        let status = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let pid = pids.find(|pid| listens_as_first(&status(pid), self.stop_signal.number()))?;
        Some(InitProcess { pid, stop_signal: self.stop_signal })
    }
}

impl Worker {
    /// An evicted pod does not wait for the runtime's answer to get its signal: the first process of what is being started is
    /// looked for in the container's cgroup. Whether one was found.
    pub(super) async fn find_being_started(&mut self, pod: &Pod) -> bool {
        let sought = self.being_started.iter().filter(|started| started.init.is_none());
        let sought: Vec<BeingStarted> = if self.evicted() { sought.cloned().collect() } else { Vec::new() };
        if sought.is_empty() {
            return false;
        }
        let (context, uid, qos) = (self.context.clone(), self.uid.clone(), QosClass::of(pod));
        let look = move || {
            let processes = |id: &str| context.cgroups.container_processes(&uid, qos, id);
            let look = |started: &BeingStarted| processes(&started.id).map(|pids| started.init_of(pids));
            sought.iter().map(|started| (started.id.clone(), look(started))).collect::<Vec<_>>()
        };
        // A panic is told where it was; the runtime's answer is waited for then.
        let found = self.blocking("looking for a container's first process", look).await.unwrap_or_default();
        let mut any = false;
        for (id, init) in found {
            match init {
                Ok(init) => {
                    any |= init.is_some();
                    let started = self.being_started.iter_mut().find(|started| started.id == id);
                    started.into_iter().for_each(|started| started.init = init);
                }
                Err(error) => {
                    warn!(pod = %self.who, container_id = id, %error, "it gets its stop signal when the runtime has started it");
                }
            }
        }
        any
    }

    /// `None`: the runtime has to send the signal.
    pub(super) fn signal_by_hand(&mut self, id: &str) -> Option<Init> {
        let pod_dir = self.context.volumes.pod_dir(&self.uid);
        let sent = self.signalled.contains(id) || was_sent(&pod_dir, id);
        if !sent && !self.evicted() {
            return None;
        }
        let (name, init) = match self.known.containers.iter().find(|c| c.id == id) {
            Some(container) => (&container.name, Init::of(container)?),
            None => {
                let started = self.being_started.iter().find(|started| started.id == id)?;
                (&started.name, Init::hold(started.init?, id)?)
            }
        };
        if !sent {
            if let Err(error) = init.signal() {
                warn!(pod = %self.who, container = name, %error, "the runtime has to send the stop signal");
                return None;
            }
            info!(pod = %self.who, container = name, "stop signal sent");
            self.signalled.insert(id);
            let (who, id) = (self.who.clone(), id.to_owned());
            // Not waited for: a disk may be slow just now.
            tokio::task::spawn_blocking(move || {
                if let Err(error) = note_sent(&pod_dir, &id) {
                    warn!(pod = %who, %error, "an agent that is restarted now would send the stop signal again");
                }
            });
        }
        Some(init)
    }

    fn evicted(&self) -> bool {
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
        assert!(Init::of(&container).is_none(), "neither pid nor signal is known");
        (container.pid, container.stop_signal) = (Some(std::process::id()), Some(StopSignal::TERM));
        assert!(Init::of(&container).is_none(), "this process is in no container of that id");
        container.pid = Some(i32::MAX as u32);
        assert!(Init::of(&container).is_none(), "there is no such process");
    }
}
