//! From the kubeconfig to a client, and the tasks that use it. A kubeconfig that cannot be used does not end the agent: its
//! pods run on, and the file is read again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::{Client, Config};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::events::EventWriter;
use super::lease::LeaseTask;
use super::node::NodeTask;
use super::node_info::NodeIdentity;
use super::pod_status::StatusManager;
use super::pods::PodWatch;
use super::{ApiServer, chain, kubeconfig};
use crate::cri::{ImageClient, RuntimeClient};
use crate::pleg::PlegHandle;
use crate::trace::journal::Journal;
use oomlet_core::node::event::{Event, PodSource};
use oomlet_core::node::published::NodeSnapshot;

/// How often a kubeconfig that cannot be used is read again.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// After the end of a task that should have none.
const START_AGAIN: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything that the tasks need beside the API server.
#[derive(Clone, Debug)]
pub struct Session {
    pub kubeconfig: PathBuf,
    pub identity: Arc<NodeIdentity>,
    pub register: bool,
    pub update_every: Duration,
    pub report_every: Duration,
    pub lease_duration: Duration,
    /// `eventRecordQPS`, `eventBurst`.
    pub event_qps: u32,
    pub event_burst: u32,
    pub journal: Arc<Journal>,
    pub snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    pub pleg: PlegHandle,
    pub runtime: RuntimeClient,
    pub images: ImageClient,
    pub events: mpsc::Sender<Event>,
    /// For whoever else talks to the API server; `None` while there is no usable kubeconfig.
    pub client: watch::Sender<Option<ApiServer>>,
}

impl Session {
    pub async fn run(self, cancel: CancellationToken) {
        // Cancel-safe: what a task has not written by then is found out anew by the next agent.
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.hold() => {}
        }
    }

    async fn hold(self) {
        let client = self.connect().await;
        self.client.send_replace(Some(client.clone()));
        loop {
            // Dropped with this future, and the tasks with it.
            let mut tasks = self.start(&client);
            if let Some(Err(error)) = tasks.join_next().await {
                tracing::error!(%error, "a task that talks to the API server has failed, which is a defect of the agent");
            }
            // They read each other: all start anew.
            drop(tasks);
            sleep(START_AGAIN).await;
        }
    }

    fn start(&self, client: &ApiServer) -> JoinSet<()> {
        let (pods_tx, pods) = watch::channel(None);
        let (node_tx, node) = watch::channel(None);
        let node_name = self.identity.name.clone();
        let mut tasks = JoinSet::new();
        let watch = PodWatch {
            client: client.clone(),
            node_name: node_name.clone(),
            events: self.events.clone(),
            pods: pods_tx,
        };
        tasks.spawn(watch.run());
        let node_task = NodeTask {
            client: client.clone(),
            identity: Arc::clone(&self.identity),
            register: self.register,
            update_every: self.update_every,
            report_every: self.report_every,
            snapshots: self.snapshots.clone(),
            pleg: self.pleg.clone(),
            runtime: self.runtime.clone(),
            images: self.images.clone(),
            events: self.events.clone(),
            node: node_tx,
            journal: Arc::clone(&self.journal),
        };
        tasks.spawn(node_task.run());
        let lease = LeaseTask {
            client: client.clone(),
            node_name: node_name.clone(),
            duration: self.lease_duration,
            node: node.clone(),
        };
        tasks.spawn(lease.run());
        let events = EventWriter {
            client: client.clone(),
            node_name: node_name.clone(),
            journal: Arc::clone(&self.journal),
            after_seq: 0,
            snapshots: self.snapshots.clone(),
            per_second: self.event_qps,
            burst: self.event_burst,
        };
        tasks.spawn(events.run());
        let statuses = StatusManager::new(client.clone(), node_name, self.snapshots.clone(), pods, node);
        tasks.spawn(statuses.run());
        tasks
    }

    /// Reads the kubeconfig until it can be used.
    async fn connect(&self) -> ApiServer {
        let mut told = None;
        loop {
            let text = match kubeconfig::load(&self.kubeconfig).await {
                Ok(config) => match client(config) {
                    Ok(client) => return ApiServer(client),
                    Err(error) => {
                        format!("kubeconfig {}: {}", self.kubeconfig.display(), chain(&error))
                    }
                },
                Err(error) => error.to_string(),
            };
            if told.as_ref() != Some(&text) {
                tracing::error!(
                    "{text}; until it can be used the node takes no pods from the API server, and those that run go on"
                );
                // The loop's end is the agent's.
                let _ = self.events.send(Event::SourceSilent(PodSource::Api)).await;
                told = Some(text);
            }
            sleep(READ_AGAIN).await;
        }
    }
}

fn client(mut config: Config) -> Result<Client, kube::Error> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Watches have no end; other requests are bounded by `super::request`.
    config.read_timeout = None;
    Client::try_from(config)
}
