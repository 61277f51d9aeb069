//! All containers of a pod start again in its sandbox: those that are there end, without more than the two seconds that nobody is
//! refused, and are removed. Their logs stay.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::stop::Deadline;
use super::{Worker, WorkerError};
use crate::clock;
use crate::container_log::links;
use oomlet_core::pod::lifecycle::{ContainerReset, PodActions};
use oomlet_core::pod::order::WorkerOutcome;
use oomlet_core::pod::spec::MINIMUM_GRACE;
use oomlet_core::pod::stop_order::stop_order;
use oomlet_core::pod::{ContainerInstance, Pod};
use oomlet_core::reason::Reason;
use oomlet_core::trace::record::Kind;

impl Worker {
    /// In two steps, so that the pod's status says what is going on before what ended is gone.
    pub(super) async fn reset(
        &mut self,
        pod: &Arc<Pod>,
        actions: &PodActions,
    ) -> Result<WorkerOutcome, WorkerError> {
        if self.told_reset {
            self.remove_all(pod, &actions.containers_to_reset).await?;
            self.read().await?;
        }
        self.told_reset = !self.told_reset;
        self.went_well();
        let next_sync_in = Some((Duration::ZERO, Reason::AllContainersRestarting));
        Ok(WorkerOutcome::Synced { next_sync_in, waiting: Vec::new(), settled: false })
    }

    async fn remove_all(&mut self, pod: &Pod, all: &[ContainerReset]) -> Result<(), WorkerError> {
        let alive: Vec<ContainerInstance> =
            all.iter().filter(|reset| reset.kill).map(|reset| reset.container.clone()).collect();
        info!(pod = %self.who, containers = all.len(), running = alive.len(), "all containers start again");
        for container in &alive {
            self.tell_container(Kind::Pod, Reason::Killing, &container.name, "killing");
        }
        for group in stop_order(pod, alive) {
            let deadline = Deadline { at: clock::now() + MINIMUM_GRACE, cut: true };
            self.stop_all_by(pod, vec![group], deadline).await?;
        }
        for reset in all {
            let id = &reset.container.id;
            self.context.runtime.remove_container(id).await.map_err(|e| self.cri(e))?;
        }
        self.unlink_logs(all.iter().map(|reset| reset.container.clone()).collect()).await
    }

    /// Containers that are gone have no links to their logs.
    pub(super) async fn unlink_logs(&self, removed: Vec<ContainerInstance>) -> Result<(), WorkerError> {
        if removed.is_empty() {
            return Ok(());
        }
        let (context, who) = (self.context.clone(), self.who.clone());
        let unlinked = self.blocking("removing links to logs", move || {
            removed.iter().try_for_each(|c| links::remove(&who, &context.pod_logs_dir, &c.name, &c.id))
        });
        if let Err(error) = unlinked.await? {
            warn!(pod = %self.who, %error, "a link to a log stays");
        }
        Ok(())
    }
}
