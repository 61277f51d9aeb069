//! One task a pod, which carries out what the SyncLoop ordered and [`super::lifecycle`] decided. Shell.
//!
//! Reads: [`WorkOrder`]s by [`PodWorkers::dispatch`]. Emits: a [`WorkerReport`] for each piece of work, as
//! [`Event::Worker`].
//!
//! - [`mailbox`]: the one standing order of a worker, and how a newer one changes it (pure).
//! - [`context`]: what all workers share.
//! - `sync`, `start`: bringing a pod to what its manifest says; `reset`: all of its containers start again.
//! - `terminate`: ending a pod and removing what it leaves; [`stop_order`] says who ends first (pure).
//! - `stop`: ending a container, whoever wants its end.
//! - `tell`: a trace record of each step.
//! - `logs`: its containers' logs, as they come and go with them.
//! - `files`: the files a pod has on the node; [`hosts`] and [`messages`] what is in them (pure).
//!
//! An order stands until another replaces it. A worker does what it was ordered once and reports; when it is tried again,
//! after a failure or at the end of a back-off, is the SyncLoop's to say, by another order. Only the SIGKILL at the end of a
//! termination's grace does not wait for that. All steps are idempotent and start from what the runtime says, so an agent
//! that is killed in the middle leaves the containers running and its successor goes on from there.

pub mod context;
mod error;
pub(crate) mod files;
mod logs;
mod reset;
mod start;
mod stop;
mod sync;
mod tell;
mod terminate;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::clock;
use crate::instruments::workers::Operation;
use crate::spans::PodSpan;
use oomlet_core::node::event::Event;
use oomlet_core::pod::backoff::{CrashLoopBackOff, Exponential, MOUNT_ERROR, RUNTIME_ERROR, WORKER_ERROR};
use oomlet_core::pod::order::{WorkOrder, WorkerOutcome, WorkerReport};
use oomlet_core::pod::probe::ProbeResults;
use oomlet_core::pod::runtime_status::PodRuntimeStatus;
use oomlet_core::pod::{Pod, PodRef, PodUid};
use oomlet_core::reason::Reason;

pub use context::{PodCgroups, WorkerContext};
pub use error::WorkerError;
use oomlet_core::pod::mailbox::{self, Standing};
use stop::by_hand::{BeingStarted, Signalled};
use stop::container::Stops;

/// How long an ending agent waits for a container that is just being made. What is not made by then is found by
/// the next agent.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// All workers. Owned by the executor of the SyncLoop.
#[derive(Debug)]
pub struct PodWorkers {
    context: Arc<WorkerContext>,
    reports: mpsc::Sender<Event>,
    tracker: TaskTracker,
    /// Where workers run: never on the SyncLoop's own thread, from which they are ordered.
    runtime: Handle,
    cancel: CancellationToken,
    workers: HashMap<PodUid, Entry>,
    /// Forgotten workers that may still be about to end: a successor for the same pod waits for them.
    leaving: HashMap<PodUid, JoinHandle<()>>,
    stops: Stops,
}

#[derive(Debug)]
struct Entry {
    orders: watch::Sender<Option<Standing>>,
    task: JoinHandle<()>,
    signalled: Signalled,
}

impl PodWorkers {
    /// The workers will run on the tokio runtime that this is called in, whichever thread orders them.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(
        context: Arc<WorkerContext>,
        reports: mpsc::Sender<Event>,
        tracker: TaskTracker,
        cancel: CancellationToken,
    ) -> PodWorkers {
        PodWorkers {
            context,
            reports,
            tracker,
            runtime: Handle::current(),
            cancel,
            workers: HashMap::new(),
            leaving: HashMap::new(),
            stops: Stops::default(),
        }
    }

    /// How many there are.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Hands the order to the pod's worker, which is started if there is none. Never blocks.
    pub fn dispatch(&mut self, uid: PodUid, order: WorkOrder) {
        let now = clock::now();
        let orders = &self.entry(&uid).orders;
        orders.send_modify(|standing| *standing = Some(mailbox::merge(standing.take(), order, now)));
    }

    /// The pod's worker, which is started if there is none.
    fn entry(&mut self, uid: &PodUid) -> &Entry {
        if self.workers.get(uid).is_some_and(|e| e.task.is_finished() && !self.cancel.is_cancelled()) {
            // It panicked, see `watched`. The pod must not stay without a worker.
            warn!(pod_uid = %uid, "a pod worker ended unexpectedly and is started again");
            self.forget(uid);
        }
        let entry = match self.workers.remove(uid) {
            Some(entry) => entry,
            None => self.start(uid.clone()),
        };
        self.workers.entry(uid.clone()).or_insert(entry)
    }

    /// The pod is of no interest any more; to be called after [`WorkerOutcome::Removed`]. A worker that is not
    /// done gives its work up.
    pub fn forget(&mut self, uid: &PodUid) {
        self.leaving.retain(|_, task| !task.is_finished());
        if let Some(entry) = self.workers.remove(uid) {
            self.leaving.insert(uid.clone(), entry.task);
        }
    }

    fn start(&mut self, uid: PodUid) -> Entry {
        let (orders, received) = watch::channel(None);
        let predecessor = self.leaving.remove(&uid);
        let named = self.context.journal.counts(|counts| counts.worker_started(&uid, clock::now()));
        if let Some(since) = named {
            self.context.times.worker_started(since);
        }
        let signalled = Signalled::default();
        let worker = Worker {
            backoff: CrashLoopBackOff::new(self.context.max_crash_backoff),
            context: self.context.clone(),
            who: PodRef { uid: uid.clone(), namespace: String::new(), name: String::new() },
            uid,
            orders: received,
            reports: self.reports.clone(),
            in_flight: TaskTracker::new(),
            known: PodRuntimeStatus::default(),
            has_read: false,
            messages: HashMap::new(),
            refused: WORKER_ERROR,
            runtime_away: RUNTIME_ERROR,
            mount_failed: MOUNT_ERROR,
            termination_retry: terminate::RETRY,
            reported_stopped: false,
            removed: false,
            pod_killed: false,
            signalled: signalled.clone(),
            being_started: Vec::new(),
            sigkilled: BTreeSet::new(),
            completed_cleanly: false,
            span: PodSpan::default(),
            told_reset: false,
            synced: None,
        };
        let (pod, reports) = (worker.uid.clone(), worker.reports.clone());
        let run = worker.run(predecessor, self.cancel.clone());
        let task = self.tracker.spawn_on(watched(run, pod, reports), &self.runtime);
        Entry { orders, task, signalled }
    }
}

/// Runs the worker. One that panics has answered nothing, and the SyncLoop would wait for it for ever: its end is told
/// as a failure, so that the order comes again and finds a new worker.
async fn watched(run: impl Future<Output = ()> + Send + 'static, pod: PodUid, reports: mpsc::Sender<Event>) {
    if !tokio::spawn(run).await.is_err_and(|e| e.is_panic()) {
        return;
    }
    let error =
        "the pod's worker panicked, which is a defect of the agent: report what its log says".to_owned();
    let (at, mut refused) = (clock::now(), WORKER_ERROR);
    let outcome = WorkerOutcome::Failed {
        reason: Reason::RetryAfterError,
        error,
        retry_in: refused.failed(at),
        waiting: Vec::new(),
    };
    let report = WorkerReport { pod, at, outcome, runtime: None };
    // Without a SyncLoop there is nobody to tell.
    let _ = reports.send(Event::Worker(report)).await;
}

/// One pod's worker.
struct Worker {
    context: Arc<WorkerContext>,
    uid: PodUid,
    /// For messages; complete with the first order.
    who: PodRef,
    orders: watch::Receiver<Option<Standing>>,
    reports: mpsc::Sender<Event>,
    backoff: CrashLoopBackOff,
    /// Calls that make something in the runtime. They are never dropped half-way, or what they make would be
    /// missed by the termination that interrupted them.
    in_flight: TaskTracker,
    /// As read last; what a termination starts from, without asking first.
    known: PodRuntimeStatus,
    /// `known` is the runtime's word, and not just nothing known yet.
    has_read: bool,
    /// Termination messages by container id: their files may go before the container does.
    messages: HashMap<String, String>,
    refused: Exponential,
    runtime_away: Exponential,
    mount_failed: Exponential,
    termination_retry: Exponential,
    reported_stopped: bool,
    removed: bool,
    /// Containers whose stop signal the agent itself has sent.
    signalled: Signalled,
    /// Containers that the runtime was told to start since `known` was read.
    being_started: Vec<BeingStarted>,
    /// Containers that had not been seen to end when their grace was over: SIGKILL was sent.
    sigkilled: BTreeSet<String>,
    /// It was sent to all of the pod, the runtime being away.
    pod_killed: bool,
    /// The pod has ended and its cgroup and volumes are gone.
    completed_cleanly: bool,
    /// Of what is being done.
    span: PodSpan,
    /// That all of the pod's containers are to start again has been told.
    told_reset: bool,
    /// The manifest of the last sync.
    synced: Option<Arc<Pod>>,
}

/// The SyncLoop or the worker's mailbox has gone.
#[derive(Debug)]
struct Gone;

impl Worker {
    async fn run(mut self, predecessor: Option<JoinHandle<()>>, cancel: CancellationToken) {
        if let Some(task) = predecessor {
            // Whether it ended well is of no matter, as long as it has ended.
            let _ = task.await;
        }
        // Dropping the work at any await is safe: what makes something runs on in `in_flight`, the rest is
        // idempotent and found out anew by whoever goes on.
        tokio::select! {
            () = cancel.cancelled() => {}
            _ = self.obey() => {}
        }
        self.in_flight.close();
        // Running out of time is fine, see LEAVE_WITHIN.
        let _ = tokio::time::timeout(LEAVE_WITHIN, self.in_flight.wait()).await;
    }

    async fn obey(&mut self) -> Result<(), Gone> {
        loop {
            let standing = self.orders.borrow_and_update().clone();
            if let Some(WorkOrder::Sync { pod, .. } | WorkOrder::Terminate { pod, .. }) =
                standing.as_ref().map(|s| &s.order)
            {
                self.who = PodRef { uid: self.uid.clone(), ..PodRef::of(pod) };
            }
            match standing.as_ref().map(|s| &s.order) {
                None => {}
                Some(WorkOrder::Terminate { .. }) => {
                    let began = clock::now();
                    self.terminate().await?;
                    self.context.times.ended(Operation::Kill, clock::now().since(began));
                }
                Some(WorkOrder::Sync { pod, probes, .. }) => {
                    let (pod, probes) = (pod.clone(), probes.clone());
                    let mut orders = self.orders.clone();
                    // Cancel-safe, see `run`. A new Sync waits for this one to end; a Terminate does not.
                    let terminated = async {
                        orders.wait_for(|s| s.as_ref().is_some_and(Standing::is_termination)).await.map(drop)
                    };
                    tokio::select! {
                        biased;
                        ordered = terminated => match ordered {
                            Ok(()) => continue,
                            Err(_) => return Err(Gone),
                        },
                        outcome = self.timed_sync(&pod, &probes) => self.report(outcome).await?,
                    }
                }
            }
            // Of a termination that has failed and whose grace is not over.
            let left =
                self.termination().filter(|_| !self.reported_stopped).map(|t| t.kill_at.since(clock::now()));
            let kill = async {
                match left.filter(|left| !left.is_zero()) {
                    Some(left) => tokio::time::sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            // Cancel-safe: `changed` marks nothing as seen when it loses.
            tokio::select! {
                changed = self.orders.changed() => changed.map_err(|_| Gone)?,
                () = kill => {}
            }
        }
    }

    async fn timed_sync(&mut self, pod: &Arc<Pod>, probes: &ProbeResults) -> WorkerOutcome {
        let operation = match &self.synced {
            None => Operation::Create,
            Some(before) if Arc::ptr_eq(before, pod) => Operation::Sync,
            Some(_) => Operation::Update,
        };
        let began = clock::now();
        let outcome = self.sync(pod, probes).await;
        self.context.times.ended(operation, clock::now().since(began));
        self.synced = Some(Arc::clone(pod));
        outcome
    }

    async fn report(&self, outcome: WorkerOutcome) -> Result<(), Gone> {
        let runtime = self.has_read.then(|| self.known.clone());
        let report = WorkerReport { pod: self.uid.clone(), at: clock::now(), outcome, runtime };
        self.reports.send(Event::Worker(report)).await.map_err(|_| Gone)
    }

    /// How long to wait after this failure: shortly while the runtime is away or a volume fails for the first time,
    /// kubelet's 10 s otherwise.
    fn retry_in(&mut self, reason: Reason, transient: bool) -> Duration {
        let back_off = if reason == Reason::FailedMount {
            &mut self.mount_failed
        } else if transient {
            &mut self.runtime_away
        } else {
            &mut self.refused
        };
        back_off.failed(clock::now())
    }

    fn went_well(&mut self) {
        self.refused.succeeded();
        self.runtime_away.succeeded();
        self.mount_failed.succeeded();
    }

    /// What the runtime says of the pod now, with termination messages.
    async fn read(&mut self) -> Result<PodRuntimeStatus, WorkerError> {
        let (mut status, details) =
            self.context.runtime.pod_status(&self.uid, &self.known).await.map_err(|e| self.cri(e))?;
        for detail in &details {
            if self.messages.contains_key(&detail.status.id) {
                continue;
            }
            if let Some(message) = files::termination_message(detail).await {
                self.messages.insert(detail.status.id.clone(), message);
            }
        }
        self.messages.retain(|id, _| status.containers.iter().any(|c| c.id == *id));
        for container in &mut status.containers {
            if let Some(message) = self.messages.get(&container.id) {
                container.message.clone_from(message);
            }
        }
        (self.known, self.has_read) = (status.clone(), true);
        self.being_started.clear();
        Ok(status)
    }

    /// Runs `call` to its end even if the worker stops waiting for it.
    async fn to_the_end<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, WorkerError> {
        let (tx, rx) = oneshot::channel();
        self.in_flight.spawn(async move {
            // Nobody waits any more: the termination that interrupted the sync finds what was made.
            let _ = tx.send(call.await);
        });
        rx.await.map_err(|_| WorkerError::Panicked {
            pod: self.who.clone(),
            what: "a call to the container runtime",
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkerError> {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|_| WorkerError::Panicked { pod: self.who.clone(), what })
    }

    fn cri(&self, source: crate::cri::CriError) -> WorkerError {
        WorkerError::Cri { pod: self.who.clone(), source: Box::new(source) }
    }
}

#[cfg(test)]
mod tests;
