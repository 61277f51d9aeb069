//! Bringing a pod to what its manifest says: read, let `lifecycle` decide, carry it out, read again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::{debug, info, warn};

use super::start::{Starting, container_type};
use super::{Worker, WorkerError};
use crate::clock;
use crate::spans::PodSpan;
use oomlet_core::pod::lifecycle::{self, ContainerKill, ContainerKind, PodActions};
use oomlet_core::pod::order::{ContainerWaiting, WorkerOutcome};
use oomlet_core::pod::probe::ProbeResults;
use oomlet_core::pod::qos::QosClass;
use oomlet_core::pod::runtime_status::{ContainerState, ContainerStatus, PodRuntimeStatus};
use oomlet_core::pod::spec::{MINIMUM_GRACE, grace_period};
use oomlet_core::pod::stop_order::stop_order;
use oomlet_core::pod::{ContainerInstance, Pod};
use oomlet_core::reason::Reason;
use oomlet_core::trace::record::Kind;

/// Dead instances kept of each container: kubelet's `maximum-dead-containers-per-container`.
const KEEP_DEAD: usize = 1;

/// How the containers that were to start got on.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub waiting: Vec<ContainerWaiting>,
    pub errors: Vec<String>,
    /// All errors are the runtime's absence.
    pub transient: bool,
    pub next_sync_in: Option<(Duration, Reason)>,
}

impl Progress {
    pub fn sooner(&mut self, delay: Duration, reason: Reason) {
        if self.next_sync_in.is_none_or(|(there, _)| delay < there) {
            self.next_sync_in = Some((delay, reason));
        }
    }
}

impl Worker {
    pub(super) async fn sync(&mut self, pod: &Arc<Pod>, probes: &ProbeResults) -> WorkerOutcome {
        self.span = self.context.spans.of_pod("syncPod", &self.who);
        let outcome = match self.try_sync(pod, probes).await {
            Ok(outcome) => outcome,
            Err(e) => self.failed(e.reason(), e.told(), e.is_transient(), Vec::new()),
        };
        if let WorkerOutcome::Failed { error, .. } = &outcome {
            self.span.failed(error);
        }
        self.span = PodSpan::default();
        outcome
    }

    async fn try_sync(
        &mut self,
        pod: &Arc<Pod>,
        probes: &ProbeResults,
    ) -> Result<WorkerOutcome, WorkerError> {
        let span = self.span.clone();
        let mut status = span.step("getPodStatus", None, self.read()).await?;
        let actions = lifecycle::compute(pod, &status, &self.backoff, probes, unix_ns());
        debug!(pod = %self.who, ?actions, "sync");
        if !actions.containers_to_reset.is_empty() {
            return self.reset(pod, &actions).await;
        }
        self.told_reset = false;
        if actions.kill_pod {
            span.step("killPod", None, self.kill_pod(pod, &status)).await?;
        } else if !actions.containers_to_kill.is_empty() {
            let kills = &actions.containers_to_kill;
            span.step("killContainers", None, self.kill_containers(pod, kills)).await?;
        }
        if let Some(succeeded) = actions.completed {
            self.clean_up_completed().await?;
            self.read().await?;
            self.went_well();
            return Ok(WorkerOutcome::Completed { succeeded });
        }
        self.context.contents.follow(pod, status.any_running());
        let mut progress =
            Progress { next_sync_in: actions.next_sync_in, transient: true, ..Progress::default() };
        progress.waiting.clone_from(&actions.waiting);
        for waiting in &actions.waiting {
            self.tell_back_off(&waiting.container);
        }
        if actions.create_sandbox || !actions.containers_to_start.is_empty() {
            self.completed_cleanly = false;
            self.start_all(pod, &status, &actions, &mut progress).await?;
        }
        if !actions.is_empty() {
            status = self.read().await?;
        }
        self.remove_garbage(&status).await?;
        let settled = self.is_settled(pod, probes);
        Ok(self.outcome(progress, settled))
    }

    /// As it was read last, nothing is to be done for it, now or later.
    fn is_settled(&self, pod: &Pod, probes: &ProbeResults) -> bool {
        let next = lifecycle::compute(pod, &self.known, &self.backoff, probes, unix_ns());
        next == PodActions::default()
    }

    fn outcome(&mut self, progress: Progress, settled: bool) -> WorkerOutcome {
        let Progress { waiting, errors, transient, next_sync_in } = progress;
        if errors.is_empty() {
            self.went_well();
            return WorkerOutcome::Synced { next_sync_in, waiting, settled };
        }
        let error = format!("pod {}: {}", self.who, errors.join("; "));
        match self.failed(Reason::ContainersNotStarted, error, transient, waiting) {
            WorkerOutcome::Failed { reason, error, retry_in, waiting } => {
                let retry_in = next_sync_in.map_or(retry_in, |(delay, _)| delay.min(retry_in));
                WorkerOutcome::Failed { reason, error, retry_in, waiting }
            }
            other => other,
        }
    }

    pub(super) fn failed(
        &mut self,
        reason: Reason,
        error: String,
        transient: bool,
        waiting: Vec<ContainerWaiting>,
    ) -> WorkerOutcome {
        let retry_in = self.retry_in(reason, transient);
        warn!(pod = %self.who, %reason, error, ?retry_in, "pod worker failed");
        WorkerOutcome::Failed { reason, error, retry_in, waiting }
    }

    /// Stops every container and every sandbox.
    async fn kill_pod(&mut self, pod: &Pod, status: &PodRuntimeStatus) -> Result<(), WorkerError> {
        let alive: Vec<ContainerInstance> =
            status.containers.iter().filter(|c| alive(c.state)).map(ContainerInstance::of).collect();
        for container in &alive {
            self.tell_stopping(container);
        }
        self.stop_all(pod, stop_order(pod, alive), grace(pod)).await?;
        for sandbox in &status.sandboxes {
            self.context.runtime.stop_pod_sandbox(&sandbox.id).await.map_err(|e| self.cri(e))?;
        }
        Ok(())
    }

    async fn kill_containers(&mut self, pod: &Pod, kills: &[ContainerKill]) -> Result<(), WorkerError> {
        for kill in kills {
            info!(pod = %self.who, container = kill.name, reason = %kill.reason, "{}", kill.message);
            self.tell_container(Kind::Pod, Reason::Killing, &kill.name, kill.message.clone());
        }
        let mut by_grace: BTreeMap<Duration, Vec<ContainerInstance>> = BTreeMap::new();
        for kill in kills {
            let grace = kill.grace.map_or_else(|| grace(pod), |grace| grace.max(MINIMUM_GRACE));
            let instance = ContainerInstance { name: kill.name.clone(), id: kill.id.clone() };
            by_grace.entry(grace).or_default().push(instance);
        }
        for (grace, containers) in by_grace {
            self.stop_all(pod, vec![containers], grace).await?;
        }
        Ok(())
    }

    async fn start_all(
        &mut self,
        pod: &Pod,
        status: &PodRuntimeStatus,
        actions: &PodActions,
        progress: &mut Progress,
    ) -> Result<(), WorkerError> {
        let starting = self.prepare(pod, status, actions).await?;
        for start in &actions.containers_to_start {
            match self.start_container(pod, status, &starting, start).await {
                Ok(()) => {}
                Err(failure) => {
                    self.tell_failure(&start.name, &failure);
                    self.context.times.container_failed(container_type(start.kind), failure.reason);
                    progress.transient &= failure.transient;
                    let waiting = failure.waiting(&start.name);
                    match failure.backing_off {
                        Some(left) => progress.sooner(left, Reason::RetryAfterError),
                        None => progress.errors.push(failure.error),
                    }
                    progress.waiting.push(waiting);
                    if start.kind == ContainerKind::Init {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    async fn prepare(
        &mut self,
        pod: &Pod,
        status: &PodRuntimeStatus,
        actions: &PodActions,
    ) -> Result<Starting, WorkerError> {
        // kubelet's SyncPod: what the pod runs in, its volumes with what is in them, its sandbox; then its containers.
        let span = self.span.clone();
        let cgroup_parent = span.step("ensurePodCgroup", None, self.make_cgroup(pod)).await?;
        self.make_volumes(pod).await?;
        if actions.create_sandbox {
            let made = self.create_sandbox(pod, &cgroup_parent, actions.sandbox_attempt);
            span.step("createPodSandbox", None, made).await
        } else {
            self.in_sandbox(pod, &cgroup_parent, status).await
        }
    }

    /// The pod has ended and its manifest is still there: what it used goes, its containers and logs stay to be looked at.
    pub(super) async fn clean_up_completed(&mut self) -> Result<(), WorkerError> {
        if self.completed_cleanly {
            return Ok(());
        }
        // Before the files with the messages go.
        self.read().await?;
        self.remove_volumes_and_cgroup().await?;
        self.completed_cleanly = true;
        Ok(())
    }

    pub(super) async fn remove_volumes_and_cgroup(&self) -> Result<(), WorkerError> {
        let (context, uid) = (self.context.clone(), self.uid.clone());
        let writing = self.context.contents.forget(&self.uid).await;
        let removed = self.blocking("removing volumes and cgroup", move || {
            let _writing = writing;
            let volumes = context.volumes.tear_down(&uid);
            // Of every class: an orphan's manifest, and so its class, is not known.
            let began = clock::now();
            let cgroups = QosClass::ALL.map(|class| context.cgroups.remove_pod(&uid, class));
            context.times.cgroup("destroy", clock::now().since(began));
            (volumes, cgroups)
        });
        let (volumes, cgroups) = removed.await?;
        volumes.map_err(|e| WorkerError::Volume { pod: self.who.clone(), source: Box::new(e) })?;
        for removed in cgroups {
            removed.map_err(|e| WorkerError::Cgroup { pod: self.who.clone(), source: Box::new(e) })?;
        }
        Ok(())
    }

    async fn remove_garbage(&mut self, status: &PodRuntimeStatus) -> Result<(), WorkerError> {
        let garbage = lifecycle::garbage(status, KEEP_DEAD);
        for id in &garbage.containers {
            self.context.runtime.remove_container(id).await.map_err(|e| self.cri(e))?;
        }
        for id in &garbage.sandboxes {
            // Stopped once more: only that gives the address of one that died by itself back.
            self.context.runtime.stop_pod_sandbox(id).await.map_err(|e| self.cri(e))?;
            self.context.runtime.remove_pod_sandbox(id).await.map_err(|e| self.cri(e))?;
        }
        let removed: Vec<ContainerStatus> =
            status.containers.iter().filter(|c| garbage.containers.contains(&c.id)).cloned().collect();
        self.remove_logs_of(removed).await?;
        self.known.containers.retain(|c| !garbage.containers.contains(&c.id));
        self.known.sandboxes.retain(|s| !garbage.sandboxes.contains(&s.id));
        Ok(())
    }
}

/// The runtime may still have a process for it.
pub(super) fn alive(state: ContainerState) -> bool {
    matches!(state, ContainerState::Running | ContainerState::Unknown)
}

/// What a container gets when its pod lives on.
pub(super) fn grace(pod: &Pod) -> Duration {
    grace_period(pod).max(MINIMUM_GRACE)
}

fn unix_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}
