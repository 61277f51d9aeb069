//! Several containers of one pod: in groups, one after the other, all by the same deadline.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Stop, StopError, Stopped};
use crate::clock;
use crate::pod_worker::{Worker, WorkerError};
use oomlet_core::clock::Mono;
use oomlet_core::pod::ContainerInstance;

/// Whether the agent itself has sent the stop signals of a group.
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
    kill_at: watch::Sender<Mono>,
    pod_ends: bool,
}

impl Stopping {
    pub fn new(groups: Vec<Vec<ContainerInstance>>, kill_at: Mono, pod_ends: bool) -> Stopping {
        Stopping {
            tasks: JoinSet::new(),
            under_way: BTreeSet::new(),
            later: groups.into_iter().rev().collect(),
            kill_at: watch::Sender::new(kill_at),
            pod_ends,
        }
    }

    /// SIGKILL is due then, if it was not due before.
    pub fn kill_by(&self, at: Mono) {
        self.kill_at.send_if_modified(|kill_at| std::mem::replace(kill_at, at.min(*kill_at)) > at);
    }

    pub fn left(&self) -> Duration {
        self.kill_at.borrow().since(clock::now())
    }

    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    pub fn has(&self, id: &str) -> bool {
        self.under_way.contains(id) || self.later.iter().flatten().any(|c| c.id == id)
    }

    pub fn add_groups(&mut self, groups: Vec<Vec<ContainerInstance>>) {
        self.later.splice(..0, groups.into_iter().rev());
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
    /// Begins to stop the next group; `None`: there is none.
    pub(in crate::pod_worker) fn stop_next_group(&self, stopping: &mut Stopping) -> Option<ByHand> {
        let mut by_hand = ByHand::All;
        for container in stopping.later.pop()? {
            if !self.begin_to_stop(stopping, container) {
                by_hand = ByHand::NotAll;
            }
        }
        Some(by_hand)
    }

    /// Whether the agent has sent the stop signal itself.
    pub(in crate::pod_worker) fn begin_to_stop(
        &self,
        stopping: &mut Stopping,
        container: ContainerInstance,
    ) -> bool {
        if stopping.pod_ends {
            self.tell_stopping(&container);
        }
        let init = self.to_signal_by_hand(&container.id);
        stopping.under_way.insert(container.id.clone());
        let mut stop = Stop {
            context: self.context.clone(),
            pod: self.who.clone(),
            container: container.clone(),
            kill_at: stopping.kill_at.subscribe(),
            pod_ends: stopping.pod_ends,
            alone: false,
            signalled: None,
        };
        let by_hand = init.is_some_and(|init| stop.signal(&self.signalled, init));
        stopping.tasks.spawn(async move { (container, stop.run().await) });
        by_hand
    }

    /// Of a pod that lives on. The first failure is returned after all of its group have been tried.
    pub(in crate::pod_worker) async fn stop_all(
        &self,
        groups: Vec<Vec<ContainerInstance>>,
        grace: Duration,
    ) -> Result<(), WorkerError> {
        let mut stopping = Stopping::new(groups, clock::now() + grace, false);
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
