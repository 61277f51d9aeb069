//! Stopping one container of a pod that lives on, beside whatever its worker is at: a sync may be waiting for an image or a
//! back-off for minutes. What comes after (a restart, or the pod's end) is the worker's: it is told to look at once.

use std::collections::HashMap;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{info, warn};

use super::by_hand::{self, Signalled};
use super::pre_stop::RunningHook;
use super::{Deadline, Stop};
use crate::clock;
use crate::pod_worker::PodWorkers;
use crate::pod_worker::terminate::RETRY;
use oomlet_core::node::event::Event;
use oomlet_core::pod::order::{StopContainer, WorkerOutcome, WorkerReport};

/// Stops under way, by container id, with the time of their SIGKILL.
#[derive(Debug, Default)]
pub(in crate::pod_worker) struct Stops(HashMap<String, watch::Sender<Deadline>>);

impl PodWorkers {
    /// Begins to stop the container, or has its SIGKILL come earlier. Never blocks.
    pub fn stop_container(&mut self, order: StopContainer) {
        let now = clock::now();
        let kill_at = Deadline { at: now + order.grace, cut: order.grace.is_zero() };
        self.stops.0.retain(|_, kill_at| !kill_at.is_closed());
        if let Some(standing) = self.stops.0.get(&order.container.id) {
            standing.send_modify(|standing| *standing = standing.min(kill_at));
            return;
        }
        let (tx, kill_at) = watch::channel(kill_at);
        self.stops.0.insert(order.container.id.clone(), tx);
        let sent = self.entry(&order.pod.uid).signalled.clone();
        let stop = Stop {
            context: self.context.clone(),
            pod: order.pod.clone(),
            container: order.container.clone(),
            kill_at,
            pod_ends: false,
            alone: true,
            hook: None,
            by_hand: order.init.map(|init| (sent.clone(), init)),
            signalled: None,
            at_least_until: None,
        };
        let (work, cancel) = (run(stop, sent, order, self.reports.clone()), self.cancel.clone());
        let work = async move {
            // Dropping it at any await is safe: the next agent goes on with what has begun.
            tokio::select! {
                () = cancel.cancelled() => {}
                () = work => {}
            }
        };
        self.tracker.spawn_on(work, &self.runtime);
    }
}

async fn run(mut stop: Stop, sent: Signalled, order: StopContainer, reports: mpsc::Sender<Event>) {
    let since = clock::now();
    let StopContainer { pod, container, pre_stop, grace, reason, .. } = order;
    info!(%pod, container = container.name, %reason, grace_ms = grace.as_millis(), "stopping the container");
    let report = async |outcome| {
        let report = WorkerReport { pod: pod.uid.clone(), at: clock::now(), outcome, runtime: None };
        // Without a SyncLoop there is nobody to tell.
        let _ = reports.send(Event::Worker(report)).await;
    };
    let had_its_signal = || sent.was_sent(&stop.context.volumes.pod_dir(&pod.uid), &container.id);
    if let Some(pre_stop) = pre_stop.filter(|_| !grace.is_zero() && !had_its_signal()) {
        stop.hook = Some(RunningHook::begin(&stop.context, &pod, &container, *pre_stop));
    }
    if stop.hook.is_some() || stop.signal() {
        report(WorkerOutcome::ContainerSignalled { container: container.clone() }).await;
    }
    let mut retry = RETRY;
    let stopped = loop {
        match stop.run().await {
            Ok(stopped) => break stopped,
            Err(error) => {
                warn!(error = %error.of(&pod), container = container.name, "it has not stopped yet");
                sleep(retry.failed(clock::now())).await;
            }
        }
    };
    if let Some(error) = stopped.untold {
        warn!(%pod, container = container.name, %error, "the runtime will see its end by itself");
    }
    let (took, killed) = (clock::now().since(since), stopped.killed);
    info!(%pod, container = container.name, took_ms = took.as_millis(), killed, "the container has stopped");
    let (pod_dir, id) = (stop.context.volumes.pod_dir(&pod.uid), container.id.clone());
    report(WorkerOutcome::ContainerStopped { container, took, killed }).await;
    tokio::task::spawn_blocking(move || {
        if let Err(error) = by_hand::forget(&pod_dir, &id) {
            warn!(container_id = id, %error, "the mark of its stop signal stays until the pod goes");
        }
    });
}
