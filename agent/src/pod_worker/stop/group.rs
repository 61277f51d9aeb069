//! Several containers of one pod: in groups, one after the other, all by the same deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::pre_stop::RunningHook;
use super::{Deadline, Stop, StopError, Stopped};
use crate::clock;
use crate::pod_worker::{Worker, WorkerError};
use oomlet_core::pod::hook::{self, PreStop};
use oomlet_core::pod::stop_signal::StopSignal;
use oomlet_core::pod::{ContainerInstance, Pod};

/// Whether the agent itself has sent the stop signals of a group, or begun the hooks before them: whoever is held has to run
/// from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pod_worker) enum ByHand {
    All,
    NotAll,
}

/// Ends under way, and those whose turn has not come.
#[derive(Debug)]
pub(in crate::pod_worker) struct Stopping {
    tasks: JoinSet<(ContainerInstance, Result<Stopped, StopError>)>,
    /// Ids of what the tasks are at.
    under_way: BTreeSet<String>,
    /// Groups whose turn has not come, last first.
    later: Vec<Vec<ContainerInstance>>,
    /// The first have had their turn.
    begun: bool,
    /// Of all containers of the pod that have one.
    pre_stops: BTreeMap<String, PreStop>,
    /// Names of containers whose stop signal is their manifest's.
    own_signals: BTreeSet<String>,
    /// By container id, until its turn comes.
    hooks: BTreeMap<String, RunningHook>,
    kill_at: watch::Sender<Deadline>,
    pod_ends: bool,
}

impl Stopping {
    /// SIGKILL is due then, if it was not due before.
    pub fn kill_by(&self, deadline: Deadline) {
        self.kill_at.send_if_modified(|kill_at| {
            let sooner = kill_at.min(deadline);
            std::mem::replace(kill_at, sooner) != sooner
        });
    }

    pub fn left(&self) -> Duration {
        self.kill_at.borrow().at.since(clock::now())
    }

    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    pub fn has(&self, id: &str) -> bool {
        self.under_way.contains(id) || self.later.iter().flatten().any(|c| c.id == id)
    }

    /// Of the next that comes to an end; `None`: nothing is under way. Cancel-safe.
    pub async fn ended(&mut self) -> Option<(Option<ContainerInstance>, Result<Stopped, StopError>)> {
        Some(match self.tasks.join_next().await? {
            Ok((container, stopped)) => {
                self.under_way.remove(&container.id);
                (Some(container), stopped)
            }
            Err(_) => {
                // It is not known which: what still runs is found by the next list.
                self.under_way.clear();
                (None, Err(StopError::Panicked))
            }
        })
    }
}

impl Worker {
    /// `pod_ends`: all of it.
    pub(in crate::pod_worker) fn stopping(
        &self,
        pod: &Pod,
        groups: Vec<Vec<ContainerInstance>>,
        kill_at: Deadline,
        pod_ends: bool,
    ) -> Stopping {
        let host_ip = Some(self.context.node.host_ip.as_str()).filter(|ip| !ip.is_empty());
        let mut stopping = Stopping {
            tasks: JoinSet::new(),
            under_way: BTreeSet::new(),
            later: Vec::new(),
            begun: false,
            pre_stops: hook::pre_stops(pod, hook::address(pod, &self.known, host_ip)),
            own_signals: StopSignal::own(pod).map(str::to_owned).collect(),
            hooks: BTreeMap::new(),
            kill_at: watch::Sender::new(kill_at),
            pod_ends,
        };
        self.add_groups(&mut stopping, groups);
        stopping
    }

    /// Their turn comes after those that were there before. What they are to do before their end they begin at once.
    pub(in crate::pod_worker) fn add_groups(
        &self,
        stopping: &mut Stopping,
        groups: Vec<Vec<ContainerInstance>>,
    ) {
        for container in groups.iter().flatten() {
            self.begin_hook(stopping, container);
        }
        stopping.later.splice(..0, groups.into_iter().rev());
    }

    /// Not of one whose grace is over, or that has had its signal: its hook came before that.
    pub(in crate::pod_worker) fn begin_hook(&self, stopping: &mut Stopping, container: &ContainerInstance) {
        let had_its_signal =
            || self.signalled.was_sent(&self.context.volumes.pod_dir(&self.uid), &container.id);
        let over = stopping.left().is_zero() || stopping.kill_at.borrow().cut;
        let Some(pre_stop) = stopping.pre_stops.get(&container.name).filter(|_| !over && !had_its_signal())
        else {
            return;
        };
        let hook = RunningHook::begin(&self.context, &self.who, container, pre_stop.clone());
        stopping.hooks.insert(container.id.clone(), hook);
    }

    /// Begins to stop the next group; `None`: there is none.
    pub(in crate::pod_worker) fn stop_next_group(&self, stopping: &mut Stopping) -> Option<ByHand> {
        let mut by_hand = ByHand::All;
        let group = stopping.later.pop()?;
        let waited = std::mem::replace(&mut stopping.begun, true);
        for container in group {
            if !self.begin_to_stop(stopping, container, waited) {
                by_hand = ByHand::NotAll;
            }
        }
        Some(by_hand)
    }

    /// Whether the agent has sent the stop signal itself, or begun the hook before it. `waited`: for others to end.
    pub(in crate::pod_worker) fn begin_to_stop(
        &self,
        stopping: &mut Stopping,
        container: ContainerInstance,
        waited: bool,
    ) -> bool {
        if stopping.pod_ends {
            self.tell_stopping(&container);
        }
        let init = self.to_signal_by_hand(&container.id, stopping.own_signals.contains(&container.name));
        stopping.under_way.insert(container.id.clone());
        let mut stop = Stop {
            context: self.context.clone(),
            pod: self.who.clone(),
            container: container.clone(),
            kill_at: stopping.kill_at.subscribe(),
            pod_ends: stopping.pod_ends,
            alone: false,
            hook: stopping.hooks.remove(&container.id),
            by_hand: init.map(|init| (self.signalled.clone(), init)),
            signalled: None,
            at_least_until: None,
        };
        // What an evicted pod takes others are waiting for.
        if waited && !self.evicted() {
            stop.comes_late();
        }
        let by_hand = stop.hook.is_some() || stop.signal();
        stopping.tasks.spawn(async move { (container, stop.run().await) });
        by_hand
    }

    /// Of a pod that lives on. The first failure is returned after all of its group have been tried.
    pub(in crate::pod_worker) async fn stop_all(
        &self,
        pod: &Pod,
        groups: Vec<Vec<ContainerInstance>>,
        grace: Duration,
    ) -> Result<(), WorkerError> {
        let deadline = Deadline { at: clock::now() + grace, cut: false };
        self.stop_all_by(pod, groups, deadline).await
    }

    /// The same by a deadline; one that is cut leaves hooks out.
    pub(in crate::pod_worker) async fn stop_all_by(
        &self,
        pod: &Pod,
        groups: Vec<Vec<ContainerInstance>>,
        deadline: Deadline,
    ) -> Result<(), WorkerError> {
        let mut stopping = self.stopping(pod, groups, deadline, false);
        while self.stop_next_group(&mut stopping).is_some() {
            let mut first = Ok(());
            while let Some((_, stopped)) = stopping.ended().await {
                let untold = stopped.and_then(|s| s.untold.map_or(Ok(()), |e| Err(StopError::Runtime(e))));
                first = first.and(untold.map_err(|e| e.of(&self.who)));
            }
            first?;
        }
        Ok(())
    }
}
