//! Stopping one container of a pod that lives on, beside whatever its worker is at: a sync may be waiting for an image or a
//! back-off for minutes. What comes after (a restart, or the pod's end) is the worker's: it is told to look at once.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::stop_by_hand::{self, Init};
use super::{PodWorkers, WorkerContext};
use crate::clock;
use oomlet_core::clock::Mono;
use oomlet_core::node::event::Event;
use oomlet_core::pod::order::{StopContainer, WorkerOutcome, WorkerReport};
use oomlet_core::pod::runtime_status::PodRuntimeStatus;

/// Where the runtime has sent the stop signal it kills by itself if the agent cannot.
const RUNTIME_KILLS_LATER: Duration = Duration::from_secs(2);

/// The runtime is told of an end so many times, should it be away.
const TELL_TIMES: u32 = 5;
const TELL_PAUSE: Duration = Duration::from_millis(200);

/// Ids of containers whose stop signal the agent itself has sent, shared with the pod's worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Signalled(Arc<Mutex<BTreeSet<String>>>);

impl Signalled {
    pub fn contains(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    pub fn insert(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
    }
}

/// Stops under way, by container id, with the time of their SIGKILL.
#[derive(Debug, Default)]
pub(super) struct Stops(HashMap<String, watch::Sender<Mono>>);

impl PodWorkers {
    /// Begins to stop the container, or has its SIGKILL come earlier. Never blocks.
    pub fn stop_container(&mut self, order: StopContainer) {
        let now = clock::now();
        let kill_at = now + order.grace;
        self.stops.0.retain(|_, kill_at| !kill_at.is_closed());
        if let Some(standing) = self.stops.0.get(&order.container.id) {
            standing.send_modify(|at| *at = kill_at.min(*at));
            return;
        }
        let (tx, kill_at) = watch::channel(kill_at);
        self.stops.0.insert(order.container.id.clone(), tx);
        let signalled = self.entry(&order.pod.uid).signalled.clone();
        let (context, reports) = (self.context.clone(), self.reports.clone());
        let cancel = self.cancel.clone();
        let stop = Stop { context, reports, signalled, order, since: now, kill_at };
        let work = async move {
            // Dropping it at any await is safe: the next agent goes on with what has begun.
            tokio::select! {
                () = cancel.cancelled() => {}
                () = stop.run() => {}
            }
        };
        self.tracker.spawn_on(work, &self.runtime);
    }
}

struct Stop {
    context: Arc<WorkerContext>,
    reports: mpsc::Sender<Event>,
    signalled: Signalled,
    order: StopContainer,
    since: Mono,
    kill_at: watch::Receiver<Mono>,
}

impl Stop {
    async fn run(mut self) {
        let StopContainer { pod, container, grace, reason, .. } = &self.order;
        info!(%pod, container = container.name, %reason, grace_ms = grace.as_millis(), "stopping the container");
        let init = self.signal_by_hand();
        if init.is_some() {
            self.report(WorkerOutcome::ContainerSignalled { container: self.order.container.clone() }).await;
        }
        let killed = self.ends_in_time(init).await.is_err();
        if killed {
            self.kill().await;
        }
        self.tell_runtime().await;
        let took = clock::now().since(self.since);
        let container = self.order.container.clone();
        info!(pod = %self.order.pod, container = container.name, took_ms = took.as_millis(), killed, "the container has stopped");
        self.report(WorkerOutcome::ContainerStopped { container, took, killed }).await;
        let (pod_dir, id) =
            (self.context.volumes.pod_dir(&self.order.pod.uid), self.order.container.id.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = stop_by_hand::forget(&pod_dir, &id) {
                warn!(container_id = id, %error, "the mark of its stop signal stays until the pod goes");
            }
        });
    }

    /// `None`: the runtime has to send the signal.
    fn signal_by_hand(&self) -> Option<Init> {
        let (id, name) = (&self.order.container.id, &self.order.container.name);
        let pod_dir = self.context.volumes.pod_dir(&self.order.pod.uid);
        let init = Init::hold(self.order.init?, id)?;
        // An agent before this one may have sent it.
        if self.signalled.contains(id) || stop_by_hand::was_sent(&pod_dir, id) {
            return Some(init);
        }
        if let Err(error) = init.signal() {
            warn!(pod = %self.order.pod, container = name, %error, "the runtime has to send the stop signal");
            return None;
        }
        info!(pod = %self.order.pod, container = name, "stop signal sent");
        self.signalled.insert(id);
        let (pod, id) = (self.order.pod.clone(), id.clone());
        // Not waited for: a disk may be slow just now.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = stop_by_hand::note_sent(&pod_dir, &id) {
                warn!(%pod, %error, "an agent that is restarted now would send the stop signal again");
            }
        });
        Some(init)
    }

    /// `Err`: it has not ended, and its grace is over.
    async fn ends_in_time(&mut self, init: Option<Init>) -> Result<(), ()> {
        let (runtime, id) = (self.context.runtime.clone(), self.order.container.id.clone());
        let grace = self.order.grace + RUNTIME_KILLS_LATER;
        let ended = async move {
            let ended = match init {
                Some(init) => init.ended().await.map_err(|error| error.to_string()),
                None => runtime.stop_container(&id, grace).await.map_err(|error| error.to_string()),
            };
            if let Err(error) = ended {
                warn!(
                    container_id = id,
                    error, "its end is not seen; SIGKILL follows when the grace is over"
                );
                std::future::pending::<()>().await;
            }
        };
        tokio::pin!(ended);
        loop {
            let left = self.kill_at.borrow_and_update().since(clock::now());
            if left.is_zero() {
                // One that has ended by now needs no SIGKILL.
                return timeout(Duration::ZERO, ended).await.map_err(drop);
            }
            // Cancel-safe: `ended` goes on in the next turn.
            tokio::select! {
                () = &mut ended => return Ok(()),
                () = sleep(left) => {}
                changed = self.kill_at.changed() => if changed.is_err() {
                    // The workers are gone, and this with them before long.
                    sleep(left).await;
                },
            }
        }
    }

    /// SIGKILL to every process of the container, past the runtime.
    async fn kill(&self) {
        let (context, pod) = (self.context.clone(), self.order.pod.uid.clone());
        let (qos, id) = (self.order.qos, self.order.container.id.clone());
        let kill = move || context.cgroups.kill_container(&pod, qos, &id);
        let (pod, container) = (&self.order.pod, &self.order.container.name);
        match tokio::task::spawn_blocking(kill).await {
            Ok(Ok(processes)) => info!(%pod, container, processes, "the grace is over: killed"),
            Ok(Err(error)) => warn!(%pod, container, %error, "killing the container's processes failed"),
            Err(error) => warn!(%pod, container, %error, "killing the container's processes failed"),
        }
    }

    /// So that it knows of the end when the pod's worker asks; and for the processes that the first one has left.
    async fn tell_runtime(&self) {
        let id = &self.order.container.id;
        for attempt in 1..=TELL_TIMES {
            match self.context.runtime.stop_container(id, Duration::ZERO).await {
                Ok(()) => return,
                Err(error) if error.is_transient() && attempt < TELL_TIMES => sleep(TELL_PAUSE).await,
                Err(error) => {
                    warn!(pod = %self.order.pod, container_id = id, %error, "the runtime will see its end by itself");
                    return;
                }
            }
        }
    }

    async fn report(&self, outcome: WorkerOutcome) {
        let pod = self.order.pod.uid.clone();
        let report = WorkerReport { pod, at: clock::now(), outcome, runtime: PodRuntimeStatus::default() };
        // Without a SyncLoop there is nobody to tell.
        let _ = self.reports.send(Event::Worker(report)).await;
    }
}
