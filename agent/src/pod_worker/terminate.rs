//! Ending a pod: SIGTERM at once, SIGKILL when the grace is over or is cut short, then the sandbox, and what the
//! pod leaves on the node.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::stop::by_hand::{self, BeingStarted};
use super::stop::group::{ByHand, Stopping};
use super::stop::{Deadline, StopError};
use super::sync::alive;
use super::{Gone, Worker, WorkerError, files};
use crate::clock;
use crate::cri::convert::ListedContainer;
use crate::spans::PodSpan;
use oomlet_core::clock::Mono;
use oomlet_core::pod::backoff::Exponential;
use oomlet_core::pod::mailbox::{Standing, Termination};
use oomlet_core::pod::order::{WorkOrder, WorkerOutcome};
use oomlet_core::pod::runtime_status::PodRuntimeStatus;
use oomlet_core::pod::stop_order::stop_order;
use oomlet_core::pod::stop_signal::StopSignal;
use oomlet_core::pod::{ContainerInstance, Pod};
use oomlet_core::reason::Reason;

/// How often a round of stopping is repeated for what still runs afterwards.
const MAX_ROUNDS: usize = 5;
/// How often a container is looked for that is just being started, and, once the grace is over, killed.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const KILL_AGAIN: Duration = Duration::from_millis(100);
pub(super) const RETRY: Exponential = Exponential::new(Duration::from_millis(500), Duration::from_secs(10));

impl Worker {
    /// Carries the standing termination out and reports.
    pub(super) async fn terminate(&mut self) -> Result<(), Gone> {
        let Some(Standing { order: WorkOrder::Terminate { pod, reason, remove, .. }, termination: Some(t) }) =
            self.standing()
        else {
            return Ok(());
        };
        if self.removed {
            return Ok(());
        }
        // As the runtime has just said; nothing has been made since.
        let mut is_known = false;
        if !self.reported_stopped {
            self.span = self.context.spans.of_pod("syncTerminatingPod", &self.who);
            info!(pod = %self.who, %reason, grace_ms = t.kill_at.since(t.since).as_millis(), remove, "ending pod");
            match self.stop_containers(&pod).await? {
                Ok((ended_at, read)) => {
                    self.reported_stopped = true;
                    is_known = read && self.in_flight.is_empty();
                    let took = ended_at.since(t.since);
                    self.report(WorkerOutcome::Stopped { took, killed: self.sigkill_ended_one() }).await?;
                }
                Err(e) => return self.termination_failed(e).await,
            }
        }
        self.span = self.context.spans.of_pod("syncTerminatedPod", &self.who);
        while self.wait_in_flight().await {}
        // Removal may have been ordered meanwhile; whatever came until now is obeyed by what follows.
        let remove = matches!(
            self.orders.borrow_and_update().clone(),
            Some(Standing { order: WorkOrder::Terminate { remove: true, .. }, .. })
        );
        match self.clean_up(remove, is_known).await {
            Ok(()) => {}
            Err(e) => return self.termination_failed(e).await,
        }
        self.span = PodSpan::default();
        self.termination_retry = RETRY;
        if remove {
            self.removed = true;
            (self.known, self.has_read) = (PodRuntimeStatus::default(), true);
            info!(pod = %self.who, %reason, "pod removed");
            self.report(WorkerOutcome::Removed).await?;
        } else {
            self.report(WorkerOutcome::CleanedUp).await?;
        }
        Ok(())
    }

    pub(super) fn standing(&self) -> Option<Standing> {
        self.orders.borrow().clone()
    }

    pub(super) fn termination(&self) -> Option<Termination> {
        self.orders.borrow().as_ref().and_then(|s| s.termination)
    }

    async fn termination_failed(&mut self, error: WorkerError) -> Result<(), Gone> {
        let retry_in = self.termination_retry.failed(clock::now());
        warn!(pod = %self.who, %error, ?retry_in, "ending the pod failed");
        let error = error.to_string();
        self.span.failed(&error);
        self.span = PodSpan::default();
        self.report(WorkerOutcome::Failed {
            reason: Reason::RetryAfterError,
            error,
            retry_in,
            waiting: Vec::new(),
        })
        .await
    }

    /// Rounds of stopping until the runtime says that nothing runs. When the last container had ended, and whether the runtime
    /// has been read since.
    async fn stop_containers(&mut self, pod: &Pod) -> Result<Result<(Mono, bool), WorkerError>, Gone> {
        let by_hand = StopSignal::own(pod).next().is_some()
            || by_hand::any_was_sent(&self.context.volumes.pod_dir(&self.uid));
        if self.known.containers.is_empty()
            && by_hand
            && let Err(error) = self.read().await
        {
            // The list of the first round asks again.
            warn!(pod = %self.who, %error, "the processes that are to be signalled by hand are not known");
        }
        self.find_being_started().await;
        for _ in 0..MAX_ROUNDS {
            let running = self.known.containers.iter().filter(|c| alive(c.state)).map(ContainerInstance::of);
            let started = self.being_started.iter().filter_map(BeingStarted::running).cloned();
            let groups = stop_order(pod, running.chain(started));
            let failure = self.stop_round(pod, groups).await?;
            let ended_at = clock::now();
            let all_ran = self.being_started.iter().all(|started| started.running().is_some());
            if all_ran && !self.being_started.is_empty() && failure.is_none() && self.sigkilled.is_empty() {
                // The last of what a sync was making runs no more, whatever the runtime has to say of it.
                return Ok(Ok((ended_at, false)));
            }
            if self.wait_in_flight().await {
                continue;
            }
            let status = match self.read().await {
                Ok(status) => status,
                Err(e) => {
                    self.kill_without_runtime(&e).await;
                    return Ok(Err(e));
                }
            };
            if !status.containers.iter().any(|c| alive(c.state)) {
                return Ok(Ok((ended_at, true)));
            }
            if let Some(e) = failure.filter(|e| !e.is_transient()) {
                // A refusal: asking again at once would be refused again.
                return Ok(Err(e.of(&self.who)));
            }
        }
        let containers: Vec<&str> =
            self.known.containers.iter().filter(|c| alive(c.state)).map(|c| c.name.as_str()).collect();
        Ok(Err(WorkerError::StillRunning { pod: self.who.clone(), containers: containers.join(", ") }))
    }

    /// What a sync was just making comes to its end, and then to a stop. `true`: a container that it was starting runs, before
    /// the runtime has said so.
    async fn wait_in_flight(&mut self) -> bool {
        self.in_flight.close();
        let in_flight = self.in_flight.clone();
        let (mut runs, mut pause) = (false, LOOK_AGAIN);
        while !runs && timeout(pause, in_flight.wait()).await.is_err() {
            if self.grace_is_over() {
                pause = KILL_AGAIN;
                self.kill_being_started().await;
            }
            runs = self.find_being_started().await;
        }
        self.in_flight.reopen();
        runs
    }

    /// Stops the groups one after the other, and what a list made meanwhile finds beside them.
    async fn stop_round(
        &mut self,
        pod: &Pod,
        groups: Vec<Vec<ContainerInstance>>,
    ) -> Result<Option<StopError>, Gone> {
        let now = Deadline { at: clock::now(), cut: true };
        let kill_at = self.termination().map_or(now, Deadline::from);
        let mut stopping = self.stopping(pod, groups, kill_at, true);
        let mut orders = self.orders.clone();
        orders.mark_unchanged();
        let (runtime, uid) = (self.context.runtime.clone(), self.uid.clone());
        let list = async move { runtime.list_containers(Some(&uid)).await };
        tokio::pin!(list);
        let (mut listing, mut failure) = (true, None);
        if self.stop_next_group(&mut stopping) == Some(ByHand::All) {
            self.report(WorkerOutcome::Signalled).await?;
        }
        loop {
            let left = stopping.left();
            // When the grace is over nobody waits for their turn.
            while (left.is_zero() || stopping.is_idle()) && self.stop_next_group(&mut stopping).is_some() {}
            if stopping.is_idle() && !listing {
                return Ok(failure);
            }
            // Cancel-safe: a stop that has not ended now goes on in the next turn, and so does the list.
            tokio::select! {
                Some((container, stopped)) = stopping.ended() => {
                    let killed = matches!(&stopped, Ok(s) if s.killed) || matches!(stopped, Err(StopError::Processes(_)));
                    self.sigkilled.extend(container.filter(|_| killed).map(|c| c.id));
                    let failed = match stopped {
                        Ok(stopped) => stopped.untold.map(StopError::Runtime),
                        Err(error) => Some(error),
                    };
                    failure = failed.or(failure);
                }
                listed = &mut list, if listing => {
                    listing = false;
                    match listed {
                        Ok(found) => self.listed(pod, &mut stopping, found),
                        Err(error) => failure = Some(StopError::Runtime(error)),
                    }
                }
                changed = orders.changed() => {
                    changed.map_err(|_| Gone)?;
                    self.termination().into_iter().for_each(|t| stopping.kill_by(t.into()));
                }
                () = sleep(left), if !left.is_zero() => {}
            }
        }
    }

    fn listed(&self, pod: &Pod, stopping: &mut Stopping, found: Vec<ListedContainer>) {
        let known = |id: &str| self.known.containers.iter().any(|c| c.id == id && alive(c.state));
        let more = found.into_iter().filter(|c| alive(c.state) && !stopping.has(&c.id) && !known(&c.id));
        let groups = stop_order(pod, more.map(|c| ContainerInstance { name: c.name, id: c.id }));
        if stopping.is_idle() {
            self.add_groups(stopping, groups);
            return;
        }
        // What the worker did not know of does not wait for its turn.
        for container in groups.into_iter().flatten() {
            self.begin_hook(stopping, &container);
            self.begin_to_stop(stopping, container, false);
        }
    }

    fn grace_is_over(&self) -> bool {
        self.termination().is_some_and(|t| t.kill_at <= clock::now())
    }

    /// The runtime has not answered for their start.
    async fn kill_being_started(&mut self) {
        for started in self.being_started.clone() {
            let (context, uid, id) = (self.context.clone(), self.uid.clone(), started.container.id.clone());
            let kill = move || context.cgroups.kill_container(&uid, &id, true);
            let error = match self.blocking("killing a container that is being started", kill).await {
                Ok(Ok(0)) => continue,
                Ok(Ok(_)) => {
                    self.sigkilled.insert(started.container.id);
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            warn!(pod = %self.who, error, "killing a container that is being started failed");
        }
    }

    /// The grace is over and the runtime away: there may be containers that only it knows of, and the kernel does not need
    /// it. The one case in which the pause process is killed as well.
    async fn kill_without_runtime(&mut self, error: &WorkerError) {
        if !self.grace_is_over() || !error.is_transient() || self.pod_killed {
            return;
        }
        let (context, uid) = (self.context.clone(), self.uid.clone());
        match self.blocking("killing the pod's processes", move || context.cgroups.kill_pod(&uid)).await {
            Ok(Ok(processes)) => {
                self.pod_killed = processes > 0;
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

    /// Sandboxes are stopped, and with `remove` nothing stays. `is_known`: what there is has just been read.
    async fn clean_up(&mut self, remove: bool, is_known: bool) -> Result<(), WorkerError> {
        let runtime = self.context.runtime.clone();
        if !is_known {
            self.read().await?;
        }
        for sandbox in self.known.sandboxes.clone() {
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
        if self.begins_anew() {
            let (context, who) = (self.context.clone(), self.who.clone());
            let logs =
                self.blocking("removing logs", move || files::remove_logs(&who, &context.pod_logs_dir));
            logs.await??;
        }
        self.context.images.forget(&self.uid);
        Ok(())
    }
}
