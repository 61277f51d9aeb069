//! The one way in which a container is ended, whoever wants its end: the pod's deletion or eviction (`terminate`), a changed
//! manifest or a container that is not in it (`sync`), a memory limit that comes near ([`PodWorkers::stop_container`]).
//!
//! [`Stop`] is a future with the stages hook → signal → wait → kill. A preStop hook runs within the same grace, so that what
//! it takes is missing afterwards, as with kubelet: two seconds are left in any case, unless the grace is cut.
//!
//! - [`pre_stop`]: the hook; [`by_hand`]: a stop signal that the agent sends itself; `group`: several containers of a pod,
//!   sidecars last; `container`: one container of a pod that lives on.
//!
//! SIGKILL goes to each container's own cgroup. The sandbox's pause process is left to the runtime's StopPodSandbox: a
//! containerd 2.1 whose pause process has died before that call leaves the sandbox's shim behind for ever.
//!
//! [`PodWorkers::stop_container`]: super::PodWorkers::stop_container

pub(super) mod by_hand;
pub(super) mod container;
pub(super) mod group;
pub(super) mod pre_stop;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{WorkerContext, WorkerError};
use crate::cgroup::CgroupError;
use crate::clock;
use crate::cri::{CriError, RuntimeClient};
use by_hand::{Init, Signalled};
use oomlet_core::clock::Mono;
use oomlet_core::pod::mailbox::Termination;
use oomlet_core::pod::order::InitProcess;
use oomlet_core::pod::spec::MINIMUM_GRACE;
use oomlet_core::pod::{ContainerInstance, PodRef};
use pre_stop::RunningHook;

/// The agent kills when the grace ends. Where the runtime has sent the stop signal it does so itself if the agent cannot;
/// what the agent has signalled by hand is killed by the next agent.
const RUNTIME_KILLS_LATER: Duration = Duration::from_secs(2);

/// The runtime is told of an end so many times, should it be away and nobody else try again.
const TELL_TIMES: u32 = 5;
const TELL_PAUSE: Duration = Duration::from_millis(200);

/// When SIGKILL is due. It only ever comes earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline {
    pub at: Mono,
    /// Nobody is given more time: memory does not last.
    pub cut: bool,
}

impl Deadline {
    /// The sooner of the two.
    pub fn min(self, other: Deadline) -> Deadline {
        Deadline { at: self.at.min(other.at), cut: self.cut || other.cut }
    }
}

impl From<Termination> for Deadline {
    fn from(t: Termination) -> Deadline {
        Deadline { at: t.kill_at, cut: t.cut }
    }
}

/// The end of one container. Dropping it at any await is safe: what has been signalled goes on ending, and whoever goes on
/// finds it out anew. A StopContainer that is dropped withdraws the runtime's SIGKILL.
#[derive(Debug)]
pub(super) struct Stop {
    pub context: Arc<WorkerContext>,
    pub pod: PodRef,
    pub container: ContainerInstance,
    pub kill_at: watch::Receiver<Deadline>,
    /// All of the pod ends: if somebody has frozen it, it is thawed for the SIGKILL.
    pub pod_ends: bool,
    /// Nobody tries again if the runtime fails: its end, or the end of its grace, is waited for all the same.
    pub alone: bool,
    /// Its signal waits for this.
    pub hook: Option<RunningHook>,
    /// For the agent to send the signal itself.
    pub by_hand: Option<(Signalled, InitProcess)>,
    /// Has had its stop signal by hand.
    pub signalled: Option<Init>,
    /// Its signal comes late, and it is given until then, unless its grace is cut.
    pub at_least_until: Option<Mono>,
}

/// It has ended.
#[derive(Debug)]
pub(super) struct Stopped {
    /// Not before its grace was over: SIGKILL was sent.
    pub killed: bool,
    /// The runtime does not know of it yet.
    pub untold: Option<CriError>,
}

/// It may still run.
#[derive(Debug)]
pub(super) enum StopError {
    /// The runtime could not stop it, and its grace is not over.
    Runtime(CriError),
    /// Processes are left after SIGKILL.
    Processes(CgroupError),
    Panicked,
}

impl StopError {
    /// The runtime is away, and the same may succeed soon.
    pub fn is_transient(&self) -> bool {
        matches!(self, StopError::Runtime(source) if source.is_transient())
    }

    pub fn of(self, pod: &PodRef) -> WorkerError {
        let pod = pod.clone();
        match self {
            StopError::Runtime(source) => WorkerError::Cri { pod, source: Box::new(source) },
            StopError::Processes(source) => WorkerError::Cgroup { pod, source: Box::new(source) },
            StopError::Panicked => WorkerError::Panicked { pod, what: "stopping a container" },
        }
    }
}

impl Stop {
    /// The signal, where the agent sends it itself. `false`: [`Stop::run`] has the runtime send it.
    pub fn signal(&mut self) -> bool {
        let Some((sent, init)) = self.by_hand.take() else { return false };
        if self.left().is_zero() {
            return false;
        }
        let pod_dir = self.context.volumes.pod_dir(&self.pod.uid);
        self.signalled = sent.signal(&self.pod, pod_dir, &self.container, init);
        self.signalled.is_some()
    }

    /// Its signal comes later than it was asked for: it has had to wait.
    pub fn comes_late(&mut self) {
        self.at_least_until = Some(clock::now() + MINIMUM_GRACE);
    }

    /// The other stages. Once more after an error is fine.
    pub async fn run(&mut self) -> Result<Stopped, StopError> {
        if let Some(hook) = self.hook.take() {
            hook.ends(&mut self.kill_at).await;
            self.comes_late();
            self.signal();
        }
        let by_hand = self.signalled.is_some();
        let killed = !self.ends_in_time().await?;
        if killed {
            self.kill().await?;
        }
        let untold = if by_hand || killed { self.tell_runtime().await.err() } else { None };
        Ok(Stopped { killed, untold })
    }

    fn left(&mut self) -> Duration {
        let deadline = *self.kill_at.borrow_and_update();
        let late = self.at_least_until.filter(|_| !deadline.cut);
        late.map_or(deadline.at, |at| at.max(deadline.at)).since(clock::now())
    }

    /// `false`: it has not ended, and its grace is over.
    async fn ends_in_time(&mut self) -> Result<bool, StopError> {
        let grace = self.left();
        if grace.is_zero() {
            return Ok(false);
        }
        let (runtime, id) = (self.context.runtime.clone(), self.container.id.clone());
        let ended = ended(runtime, id, self.signalled.take(), grace, self.alone);
        tokio::pin!(ended);
        loop {
            let left = self.left();
            if left.is_zero() {
                // One that has ended by now needs no SIGKILL.
                return Ok(matches!(timeout(Duration::ZERO, ended).await, Ok(Ok(()))));
            }
            // Cancel-safe: `ended` goes on in the next turn.
            tokio::select! {
                ended = &mut ended => return ended.map(|()| true).map_err(StopError::Runtime),
                () = sleep(left) => {}
                changed = self.kill_at.changed() => if changed.is_err() {
                    // Nobody is left to have it come earlier, and this ends with them before long.
                    sleep(left).await;
                },
            }
        }
    }

    /// SIGKILL to every process of the container, past the runtime.
    async fn kill(&self) -> Result<(), StopError> {
        let (context, pod) = (self.context.clone(), self.pod.uid.clone());
        let (id, pod_ends) = (self.container.id.clone(), self.pod_ends);
        let kill = move || context.cgroups.kill_container(&pod, &id, pod_ends);
        let killed = tokio::task::spawn_blocking(kill).await.map_err(|_| StopError::Panicked)?;
        let processes = killed.map_err(StopError::Processes)?;
        info!(pod = %self.pod, container = self.container.name, processes, "the grace is over: killed");
        Ok(())
    }

    /// So that it knows of the end when it is asked next; and for what of the container was not in its cgroup.
    async fn tell_runtime(&self) -> Result<(), CriError> {
        let mut attempt = 1;
        loop {
            match self.context.runtime.stop_container(&self.container.id, Duration::ZERO).await {
                Err(error) if self.alone && error.is_transient() && attempt < TELL_TIMES => {
                    sleep(TELL_PAUSE).await;
                }
                told => return told,
            }
            attempt += 1;
        }
    }
}

/// Waits for the end of a container that was signalled by hand, or has the runtime signal it and wait.
async fn ended(
    runtime: RuntimeClient,
    id: String,
    signalled: Option<Init>,
    grace: Duration,
    alone: bool,
) -> Result<(), CriError> {
    let unseen = match signalled {
        Some(init) => match init.ended().await {
            Ok(()) => return Ok(()),
            Err(error) => error.to_string(),
        },
        None => match runtime.stop_container(&id, grace + RUNTIME_KILLS_LATER).await {
            Err(error) if alone => error.to_string(),
            stopped => return stopped,
        },
    };
    warn!(container_id = id, error = unseen, "its end is not seen; SIGKILL follows when the grace is over");
    std::future::pending().await
}
