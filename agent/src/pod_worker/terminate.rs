//! Ending a pod: SIGTERM at once, SIGKILL when the grace is over or is cut short, then the sandbox, and what the
//! pod leaves on the node.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::stop_by_hand::{self, BeingStarted};
use super::sync::alive;
use super::{Gone, Worker, WorkerError, files};
use crate::clock;
use crate::cri::CriError;
use crate::cri::convert::ListedContainer;
use oomlet_core::clock::Mono;
use oomlet_core::pod::Pod;
use oomlet_core::pod::backoff::Exponential;
use oomlet_core::pod::mailbox::{Standing, Termination};
use oomlet_core::pod::order::{WorkOrder, WorkerOutcome};
use oomlet_core::pod::qos::QosClass;
use oomlet_core::pod::runtime_status::PodRuntimeStatus;
use oomlet_core::pod::stop_order::stop_order;

/// The worker kills when the grace ends. Where the runtime has sent the stop signal it does so itself if the agent cannot;
/// what the agent has signalled by hand is killed by the next agent.
const RUNTIME_KILLS_LATER: Duration = Duration::from_secs(2);
/// How often a round of stopping is repeated for what still runs afterwards.
const MAX_ROUNDS: usize = 5;
/// How often a container is looked for that is just being started, and, once the grace is over, killed.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const KILL_AGAIN: Duration = Duration::from_millis(100);
pub(super) const RETRY: Exponential = Exponential::new(Duration::from_millis(500), Duration::from_secs(10));

/// Where a round of stopping stands.
struct Round {
    tasks: JoinSet<Done>,
    /// StopContainer has been called and has not come back.
    stopping: BTreeSet<String>,
    /// Groups whose turn has not come, last first.
    later: Vec<Vec<String>>,
    /// SIGKILL is due to all.
    killing: bool,
    /// It has not reached all yet.
    kill_under_way: bool,
    /// The last failure, if any.
    failure: Option<CriError>,
}

/// Whether the agent itself has sent the stop signals of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByHand {
    All,
    NotAll,
}

/// A task of a round has ended.
enum Done {
    Listed(Result<Vec<ListedContainer>, CriError>),
    Stopped(String, Result<(), CriError>),
    Killed(Result<usize, crate::cgroup::CgroupError>),
}

impl Worker {
    /// Carries the standing termination out and reports; when to try again.
    pub(super) async fn terminate(&mut self) -> Result<Option<Duration>, Gone> {
        let Some(Standing { order: WorkOrder::Terminate { pod, reason, remove, .. }, termination: Some(t) }) =
            self.standing()
        else {
            return Ok(None);
        };
        if self.removed {
            return Ok(None);
        }
        if !self.reported_stopped {
            info!(pod = %self.who, %reason, grace_ms = t.kill_at.since(t.since).as_millis(), remove, "ending pod");
            match self.stop_containers(&pod).await? {
                Ok(ended_at) => {
                    self.reported_stopped = true;
                    let took = ended_at.since(t.since);
                    self.report(WorkerOutcome::Stopped { took, killed: self.sigkill_ended_one() }).await?;
                }
                Err(e) => return self.termination_failed(e).await.map(Some),
            }
        }
        while self.wait_in_flight(&pod).await {}
        // Removal may have been ordered meanwhile; whatever came until now is obeyed by what follows.
        let remove = matches!(
            self.orders.borrow_and_update().clone(),
            Some(Standing { order: WorkOrder::Terminate { remove: true, .. }, .. })
        );
        match self.clean_up(remove).await {
            Ok(()) => {}
            Err(e) => return self.termination_failed(e).await.map(Some),
        }
        self.termination_retry = RETRY;
        if remove {
            self.removed = true;
            self.known = PodRuntimeStatus::default();
            info!(pod = %self.who, %reason, "pod removed");
            self.report(WorkerOutcome::Removed).await?;
        } else {
            self.report(WorkerOutcome::CleanedUp).await?;
        }
        Ok(None)
    }

    pub(super) fn standing(&self) -> Option<Standing> {
        self.orders.borrow().clone()
    }

    fn termination(&self) -> Option<Termination> {
        self.orders.borrow().as_ref().and_then(|s| s.termination)
    }

    async fn termination_failed(&mut self, error: WorkerError) -> Result<Duration, Gone> {
        // Never later than the SIGKILL: that one needs no runtime.
        let left = self.termination().filter(|_| !self.killed).map(|t| t.kill_at.since(clock::now()));
        let retry_in = self.termination_retry.failed(clock::now());
        let retry_in = left.filter(|left| !left.is_zero()).map_or(retry_in, |left| left.min(retry_in));
        warn!(pod = %self.who, %error, ?retry_in, "ending the pod failed");
        let error = error.to_string();
        self.report(WorkerOutcome::Failed { error, retry_in, waiting: Vec::new() }).await?;
        Ok(retry_in)
    }

    /// Rounds of stopping until the runtime says that nothing runs. When the last container had ended.
    async fn stop_containers(&mut self, pod: &Pod) -> Result<Result<Mono, WorkerError>, Gone> {
        if self.known.containers.is_empty()
            && stop_by_hand::any_was_sent(&self.context.volumes.pod_dir(&self.uid))
            && let Err(error) = self.read().await
        {
            // The list of the first round asks again.
            warn!(pod = %self.who, %error, "what an earlier agent has signalled is not known");
        }
        self.find_being_started(pod).await;
        for _ in 0..MAX_ROUNDS {
            let running = self.known.containers.iter().filter(|c| alive(c.state));
            let running = running.map(|c| (c.id.as_str(), c.name.as_str()));
            let started = self.being_started.iter().filter_map(BeingStarted::running);
            let groups = stop_order(pod, running.chain(started));
            let failure = self.stop_round(pod, groups).await?;
            let ended_at = clock::now();
            let all_ran = self.being_started.iter().all(|started| started.running().is_some());
            if all_ran && !self.being_started.is_empty() && failure.is_none() && !self.killed {
                // The last of what a sync was making runs no more, whatever the runtime has to say of it.
                return Ok(Ok(ended_at));
            }
            if self.wait_in_flight(pod).await {
                continue;
            }
            let status = match self.read().await {
                Ok(status) => status,
                Err(e) => {
                    self.kill_without_runtime().await;
                    return Ok(Err(e));
                }
            };
            if !status.containers.iter().any(|c| alive(c.state)) {
                return Ok(Ok(ended_at));
            }
            if let Some(e) = failure.filter(|e| !e.is_transient()) {
                // A refusal: asking again at once would be refused again.
                return Ok(Err(self.cri(e)));
            }
        }
        let containers: Vec<&str> =
            self.known.containers.iter().filter(|c| alive(c.state)).map(|c| c.name.as_str()).collect();
        Ok(Err(WorkerError::StillRunning { pod: self.who.clone(), containers: containers.join(", ") }))
    }

    /// What a sync was just making comes to its end, and then to a stop. `true`: a container that it was starting runs, before
    /// the runtime has said so.
    async fn wait_in_flight(&mut self, pod: &Pod) -> bool {
        self.in_flight.close();
        let in_flight = self.in_flight.clone();
        let (mut runs, mut pause) = (false, LOOK_AGAIN);
        while !runs && timeout(pause, in_flight.wait()).await.is_err() {
            if self.termination().is_some_and(|t| t.kill_at <= clock::now()) {
                pause = KILL_AGAIN;
                self.kill_without_runtime().await;
            }
            runs = self.find_being_started(pod).await;
        }
        self.in_flight.reopen();
        runs
    }

    /// Stops the groups one after the other, and what a list made meanwhile finds beside them.
    async fn stop_round(&mut self, pod: &Pod, groups: Vec<Vec<String>>) -> Result<Option<CriError>, Gone> {
        let mut round = Round {
            tasks: JoinSet::new(),
            stopping: BTreeSet::new(),
            later: groups.into_iter().rev().collect(),
            killing: false,
            kill_under_way: false,
            failure: None,
        };
        let mut orders = self.orders.clone();
        orders.mark_unchanged();
        let (runtime, uid) = (self.context.runtime.clone(), self.uid.clone());
        let mut listing = true;
        let by_hand = self.next_group(&mut round) == Some(ByHand::All);
        round.tasks.spawn(async move { Done::Listed(runtime.list_containers(Some(&uid)).await) });
        if by_hand {
            self.report(WorkerOutcome::Signalled).await?;
        }
        loop {
            let left = self.termination().map_or(Duration::ZERO, |t| t.kill_at.since(clock::now()));
            if left.is_zero() && !round.killing && !(round.stopping.is_empty() && round.later.is_empty()) {
                self.kill_all(&mut round);
            }
            let pending = listing || round.kill_under_way;
            if round.stopping.is_empty() && self.next_group(&mut round).is_none() && !pending {
                return Ok(round.failure);
            }
            // Cancel-safe: a task that is not joined now is joined in the next turn.
            tokio::select! {
                Some(done) = round.tasks.join_next() => match done {
                    Ok(Done::Listed(listed)) => {
                        listing = false;
                        self.listed(pod, &mut round, listed);
                    }
                    Ok(Done::Stopped(id, stopped)) => {
                        round.stopping.remove(&id);
                        round.failure = stopped.err().or(round.failure);
                    }
                    Ok(Done::Killed(killed)) => {
                        round.kill_under_way = false;
                        match killed {
                            Ok(processes) => info!(pod = %self.who, processes, "killed"),
                            Err(error) => warn!(pod = %self.who, %error, "killing the pod's processes failed"),
                        }
                    }
                    // It panicked; the list after the round tells what still runs.
                    Err(_) => {
                        round.stopping.clear();
                        round.kill_under_way = false;
                    }
                },
                changed = orders.changed() => changed.map_err(|_| Gone)?,
                // At zero there is nothing to kill yet: only the list is awaited.
                () = sleep(left), if !round.killing && !left.is_zero() => {}
            }
        }
    }

    /// Starts stopping the next group; `None`: there is none.
    fn next_group(&mut self, round: &mut Round) -> Option<ByHand> {
        let mut by_hand = ByHand::All;
        for id in round.later.pop()? {
            if !self.stop(round, id) {
                by_hand = ByHand::NotAll;
            }
        }
        Some(by_hand)
    }

    /// Whether the agent has sent the stop signal itself.
    fn stop(&mut self, round: &mut Round, id: String) -> bool {
        let left = self.termination().map_or(Duration::ZERO, |t| t.kill_at.since(clock::now()));
        let grace = if round.killing || left.is_zero() { Duration::ZERO } else { left + RUNTIME_KILLS_LATER };
        let init = if grace.is_zero() { None } else { self.signal_by_hand(&id) };
        let by_hand = init.is_some();
        let runtime = self.context.runtime.clone();
        round.stopping.insert(id.clone());
        round.tasks.spawn(async move {
            let grace = match init {
                Some(init) => {
                    if let Ok(Err(error)) = timeout(grace, init.ended()).await {
                        warn!(container_id = id, %error, "its end is not seen; SIGKILL follows when the grace is over");
                        sleep(grace).await;
                    }
                    Duration::ZERO
                }
                None => grace,
            };
            let stopped = runtime.stop_container(&id, grace).await;
            Done::Stopped(id, stopped)
        });
        by_hand
    }

    /// SIGKILL to every process of the pod, past the runtime, which is told as well.
    fn kill_all(&mut self, round: &mut Round) {
        (round.killing, round.kill_under_way) = (true, true);
        self.killed = true;
        let (context, uid) = (self.context.clone(), self.uid.clone());
        round.tasks.spawn_blocking(move || Done::Killed(kill_pod(&context, &uid)));
        let rest: Vec<String> = round.later.drain(..).flatten().chain(round.stopping.clone()).collect();
        self.sigkilled.extend(rest.iter().cloned());
        for id in rest {
            self.stop(round, id);
        }
    }

    fn listed(&mut self, pod: &Pod, round: &mut Round, listed: Result<Vec<ListedContainer>, CriError>) {
        let found = match listed {
            Ok(found) => found,
            Err(e) => {
                round.failure = Some(e);
                return;
            }
        };
        let asked: BTreeSet<&String> = round.later.iter().flatten().chain(&round.stopping).collect();
        let known = |id: &str| self.known.containers.iter().any(|c| c.id == id && alive(c.state));
        let more = found.iter().filter(|c| alive(c.state) && !asked.contains(&c.id) && !known(&c.id));
        let groups = stop_order(pod, more.map(|c| (c.id.as_str(), c.name.as_str())));
        if round.stopping.is_empty() && round.later.is_empty() {
            round.later = groups.into_iter().rev().collect();
            return;
        }
        // What the worker did not know of does not wait for its turn.
        for id in groups.into_iter().flatten() {
            self.stop(round, id);
        }
    }

    /// The grace is over and the runtime away, or silent: the kernel does not need it.
    async fn kill_without_runtime(&mut self) {
        let over = self.termination().is_some_and(|t| t.kill_at <= clock::now());
        if !over || self.killed {
            return;
        }
        let (context, uid) = (self.context.clone(), self.uid.clone());
        match self.blocking("killing the pod's processes", move || kill_pod(&context, &uid)).await {
            Ok(Ok(processes)) => {
                self.killed |= processes > 0;
                let running = self.known.containers.iter().filter(|c| alive(c.state)).map(|c| c.id.clone());
                self.sigkilled.extend(running);
                if processes > 0 {
                    warn!(pod = %self.who, processes, "the runtime does not answer and the grace is over: killed");
                }
            }
            Ok(Err(error)) => warn!(pod = %self.who, %error, "killing the pod's processes failed"),
            Err(error) => warn!(pod = %self.who, %error, "killing the pod's processes failed"),
        }
    }

    /// A busy runtime tells of an end late: the SIGKILL that went out meanwhile found nobody.
    fn sigkill_ended_one(&self) -> bool {
        // 137 = 128 + SIGKILL; 255 stands for an end that the runtime did not see.
        let by_it = |code: i32| code == 137 || code == 255;
        self.known.containers.iter().any(|c| self.sigkilled.contains(&c.id) && by_it(c.exit_code))
    }

    /// Sandboxes are stopped, and with `remove` nothing stays.
    async fn clean_up(&mut self, remove: bool) -> Result<(), WorkerError> {
        let runtime = self.context.runtime.clone();
        for sandbox in self.read().await?.sandboxes {
            runtime.stop_pod_sandbox(&sandbox.id).await.map_err(|e| self.cri(e))?;
            if remove {
                runtime.remove_pod_sandbox(&sandbox.id).await.map_err(|e| self.cri(e))?;
            }
        }
        if !remove {
            // As for a pod that ended by itself: memory-backed volumes are part of what an eviction frees.
            self.clean_up_completed().await?;
            return self.read().await.map(drop);
        }
        // Those whose sandbox had gone before.
        for container in runtime.list_containers(Some(&self.uid)).await.map_err(|e| self.cri(e))? {
            runtime.remove_container(&container.id).await.map_err(|e| self.cri(e))?;
        }
        self.remove_volumes_and_cgroup().await?;
        let (context, who) = (self.context.clone(), self.who.clone());
        let logs = self.blocking("removing logs", move || files::remove_log_dir(&who, &context.pod_logs_dir));
        logs.await??;
        self.context.images.forget(&self.uid);
        Ok(())
    }
}

/// Of every QoS class: an orphan's manifest, and so its class, is not known. The first failure, or how many
/// processes were killed.
fn kill_pod(
    context: &super::WorkerContext,
    uid: &oomlet_core::pod::PodUid,
) -> Result<usize, crate::cgroup::CgroupError> {
    let killed = QosClass::ALL.map(|class| context.cgroups.kill_pod(uid, class));
    killed.into_iter().sum()
}
