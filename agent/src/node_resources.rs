//! Disks, process ids and images of the node, read and cleared up in a task of its own: the SyncLoop waits for no disk
//! and no runtime. One order at a time. Shell: what is to be done was decided in [`oomlet_core::eviction::resources`], which
//! images go in [`oomlet_core::image::gc`].
//!
//! Reads: [`ResourceOrder`]s by [`NodeResources::order`]. Emits: [`Event::Resources`] for each.
//!
//! - `read`: file systems, process ids, what pods use of them. - [`usage`]: what a directory holds.
//! - `reclaim`: containers, logs and images that nobody needs.

pub(crate) mod read;
mod reclaim;
pub mod usage;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cgroup::driver::CgroupDriver;
use crate::container_log::keeper::LogKeeper;
use crate::cri::{CriError, ImageClient, RuntimeClient};
use crate::instruments::images::Images;
use crate::volume::VolumeManager;
use oomlet_core::eviction::resources::{ResourceAnswer, ResourceOrder};
use oomlet_core::image::gc::{GcPolicy, ImageRecords};
use oomlet_core::node::event::Event;
use oomlet_core::pod::PodUid;
use oomlet_core::pod::qos::QosClass;
use read::Walked;

/// A reading must not wait for a runtime that hangs: disks and process ids can be read without it.
const RUNTIME_ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Where a pod's `pids` cgroup is. The cgroup driver, or a test's stand-in.
pub trait PidsCgroups: Send + Sync {
    /// `None`: the controller is not mounted.
    fn pids_dir(&self, uid: &PodUid, qos: QosClass) -> Option<PathBuf>;
}

impl PidsCgroups for CgroupDriver {
    fn pids_dir(&self, uid: &PodUid, qos: QosClass) -> Option<PathBuf> {
        self.pod_dir_of("pids", uid, qos)
    }
}

/// What the task works with.
pub struct ResourceContext {
    pub runtime: RuntimeClient,
    pub images: ImageClient,
    pub cgroups: Arc<dyn PidsCgroups>,
    pub volumes: Arc<VolumeManager>,
    /// nodefs is the file system that it is on.
    pub root_dir: PathBuf,
    pub pod_logs_dir: PathBuf,
    /// The logs of pods that are gone.
    pub log_keeper: Arc<LogKeeper>,
    pub gc_policy: GcPolicy,
    pub counts: Images,
}

impl std::fmt::Debug for ResourceContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResourceContext").field("root_dir", &self.root_dir).finish_non_exhaustive()
    }
}

/// Never waits.
#[derive(Debug)]
pub struct NodeResources {
    orders: mpsc::Sender<ResourceOrder>,
}

impl NodeResources {
    /// The task ends with `cancel`, or when the handle is dropped.
    pub fn new(
        context: ResourceContext,
        events: mpsc::Sender<Event>,
        cancel: CancellationToken,
    ) -> (NodeResources, impl Future<Output = ()>) {
        let (orders, received) = mpsc::channel(1);
        let task = Task {
            context: Arc::new(context),
            store: None,
            walked: Walked::default(),
            records: ImageRecords::default(),
        };
        (NodeResources { orders }, task.run(received, events, cancel))
    }

    /// The answer follows as an event; an order that is not taken is answered at once.
    pub fn order(&self, order: ResourceOrder) -> Option<Event> {
        let refused = self.orders.try_send(order).err()?;
        Some(Event::Resources(ResourceAnswer::NotDone(format!(
            "the task that does it takes no orders: {refused}"
        ))))
    }
}

struct Task {
    context: Arc<ResourceContext>,
    /// Where the runtime keeps its images, once it has told.
    store: Option<PathBuf>,
    walked: Walked,
    records: ImageRecords,
}

impl Task {
    async fn run(
        mut self,
        mut orders: mpsc::Receiver<ResourceOrder>,
        events: mpsc::Sender<Event>,
        cancel: CancellationToken,
    ) {
        loop {
            // Cancel-safe: what has not been received stays in the channel.
            let order = tokio::select! {
                () = cancel.cancelled() => return,
                order = orders.recv() => order,
            };
            let Some(order) = order else { return };
            // Dropped half-way, what was removed stays removed; the next start begins anew.
            let answer = tokio::select! {
                () = cancel.cancelled() => return,
                answer = self.carry_out(order) => answer,
            };
            if events.send(Event::Resources(answer)).await.is_err() {
                return;
            }
        }
    }

    async fn carry_out(&mut self, order: ResourceOrder) -> ResourceAnswer {
        match order {
            ResourceOrder::Read(query) => match self.read(query).await {
                Ok(reading) => ResourceAnswer::Reading(Box::new(reading)),
                Err(why) => ResourceAnswer::NotDone(why),
            },
            ResourceOrder::Reclaim(reclaim) => ResourceAnswer::Reclaimed(self.reclaim(reclaim).await),
            ResourceOrder::CollectImages { named } => {
                ResourceAnswer::Reclaimed(self.collect_images(named).await)
            }
        }
    }

    /// Where the runtime keeps its images; asked for until it has told.
    async fn image_store(&mut self, trouble: &mut Vec<String>) -> Option<PathBuf> {
        if self.store.is_none() {
            match soon(self.context.images.image_fs_info()).await {
                Ok(stores) => {
                    let mount = stores.into_iter().map(|s| s.mountpoint).find(|m| !m.is_empty());
                    self.store = mount.map(PathBuf::from);
                }
                Err(why) => trouble.push(format!("imagefs is not known: {why}")),
            }
        }
        self.store.clone()
    }
}

/// Within a reading's patience.
async fn soon<T>(answer: impl Future<Output = Result<T, CriError>>) -> Result<T, String> {
    match tokio::time::timeout(RUNTIME_ANSWERS_WITHIN, answer).await {
        Ok(answer) => answer.map_err(|e| e.to_string()),
        Err(_) => Err(format!(
            "the container runtime does not answer within {} s",
            RUNTIME_ANSWERS_WITHIN.as_secs()
        )),
    }
}

#[cfg(test)]
mod tests;
