//! The tasks that talk to the API server, once there is a client. While there is none the agent's pods run on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::ApiServer;
use super::events::EventWriter;
use super::following::{self, Connection};
use super::lease::LeaseTask;
use super::node::NodeTask;
use super::node_info::NodeIdentity;
use super::pod_status::StatusManager;
use super::pods::PodWatch;
use super::supervise::{self, Task};
use crate::cri::{ImageClient, RuntimeClient};
use crate::instruments::node_startup::NodeStartup;
use crate::instruments::requests::Requests;
use crate::pleg::PlegHandle;
use crate::trace::journal::Journal;
use oomlet_core::node::event::{Event, PodSource};
use oomlet_core::node::published::NodeSnapshot;

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
    pub startup: NodeStartup,
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
        supervise::run(self.tasks(&client, &heartbeats)).await;
    }

    /// What one tells another goes by channels that outlive each of them.
    fn tasks(&self, client: &ApiServer, heartbeats: &ApiServer) -> Vec<Task> {
        let (pods_tx, pods) = watch::channel(None);
        let (node_tx, node) = watch::channel(None);
        let node_name = self.identity.name.clone();
        let watch = PodWatch {
            client: client.clone(),
            node_name: node_name.clone(),
            events: self.events.clone(),
            pods: pods_tx,
        };
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
            startup: self.startup.clone(),
        };
        let lease = LeaseTask {
            client: heartbeats.clone(),
            node_name: node_name.clone(),
            duration: self.lease_duration,
            node: node.clone(),
        };
        let events = EventWriter {
            client: client.clone(),
            node_name: node_name.clone(),
            journal: Arc::clone(&self.journal),
            taken: Arc::default(),
            snapshots: self.snapshots.clone(),
            per_second: self.event_qps,
            burst: self.event_burst,
        };
        let (client, snapshots, requests) = (client.clone(), self.snapshots.clone(), self.requests.clone());
        let statuses = move || {
            StatusManager::new(
                client.clone(),
                node_name.clone(),
                snapshots.clone(),
                pods.clone(),
                node.clone(),
                requests.clone(),
            )
        };
        vec![
            Task::new("pods", move || watch.clone().run()),
            Task::new("node", move || node_task.clone().run()),
            Task::new("lease", move || lease.clone().run()),
            Task::new("events", move || events.clone().run()),
            Task::new("pod_status", move || statuses().run()),
        ]
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
