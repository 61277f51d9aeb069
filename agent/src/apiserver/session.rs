//! The tasks that talk to the API server, once there is a client. While there is none the agent's pods run on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::ApiServer;
use super::events::EventWriter;
use super::following::{self, Connection};
use super::lease::LeaseTask;
use super::node::NodeTask;
use super::node_info::NodeIdentity;
use super::pod_status::StatusManager;
use super::pods::PodWatch;
use crate::cri::{ImageClient, RuntimeClient};
use crate::instruments::requests::Requests;
use crate::pleg::PlegHandle;
use crate::trace::journal::Journal;
use oomlet_core::node::event::{Event, PodSource};
use oomlet_core::node::published::NodeSnapshot;

/// After the end of a task that should have none.
const START_AGAIN: Duration = Duration::from_secs(1);

/// Everything that the tasks need beside the API server.
#[derive(Clone, Debug)]
pub struct Session {
    /// Who the node is to the API server, as of now.
    pub connection: watch::Receiver<Connection>,
    pub identity: Arc<NodeIdentity>,
    pub register: bool,
    pub update_every: Duration,
    pub report_every: Duration,
    pub lease_duration: Duration,
    /// `kubeAPIQPS`, `kubeAPIBurst`.
    pub qps: u32,
    pub burst: u32,
    /// `eventRecordQPS`, `eventBurst`.
    pub event_qps: u32,
    pub event_burst: u32,
    pub journal: Arc<Journal>,
    pub snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    pub pleg: PlegHandle,
    pub runtime: RuntimeClient,
    pub images: ImageClient,
    pub events: mpsc::Sender<Event>,
    pub requests: Requests,
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
        let Some((client, heartbeats)) = self.connect().await else { return };
        self.client.send_replace(Some(client.clone()));
        loop {
            // Dropped with this future, and the tasks with it.
            let mut tasks = self.start(&client, &heartbeats);
            if let Some(Err(error)) = tasks.join_next().await {
                tracing::error!(%error, "a task that talks to the API server has failed, which is a defect of the agent");
            }
            // They read each other: all start anew.
            drop(tasks);
            sleep(START_AGAIN).await;
        }
    }

    fn start(&self, client: &ApiServer, heartbeats: &ApiServer) -> JoinSet<()> {
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
            client: heartbeats.clone(),
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
            client: heartbeats.clone(),
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

    /// Waits for the first client. Who waits for the node's pods hears of it when that takes longer.
    async fn connect(&self) -> Option<(ApiServer, ApiServer)> {
        let mut connection = self.connection.clone();
        loop {
            let (there, problem) = {
                let now = connection.borrow_and_update();
                (now.client.is_some(), now.problem.is_some())
            };
            if there {
                // What tells that the node is alive does not wait behind the rest (kubelet: its heartbeat client).
                let paced = |qps, burst| {
                    following::paced_client(connection.clone(), qps, burst, self.requests.clone())
                };
                let heartbeats = ApiServer(paced(0, 0));
                let client = paced(self.qps, self.burst);
                return Some((ApiServer(client), heartbeats));
            }
            if problem {
                // The loop's end is the agent's.
                let _ = self.events.send(Event::SourceSilent(PodSource::Api)).await;
            }
            connection.changed().await.ok()?;
        }
    }
}
