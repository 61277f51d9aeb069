//! What the routes have of the rest of the agent.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use crate::clock;
use crate::container_log::dir_watch::DirWatches;
use crate::cri::RuntimeClient;
use crate::stats::Pages;
use crate::sync_loop::heartbeat::Heartbeat;
use oomlet_core::config::NodeApiConfig;
use oomlet_core::node::published::NodeSnapshot;
use oomlet_core::node_api::health::{self, Check};

#[derive(Debug)]
pub struct NodeApi {
    pub node_name: String,
    pub config: NodeApiConfig,
    /// The whole KubeletConfiguration in effect.
    pub effective_config: Value,
    pub root_dir: PathBuf,
    /// All pods, as of now.
    pub snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    pub runtime: RuntimeClient,
    /// When the SyncLoop turned last.
    pub heartbeat: Arc<Heartbeat>,
    pub sync_frequency: Duration,
    pub dir_watches: DirWatches,
    pub pages: Pages,
}

#[cfg(test)]
impl NodeApi {
    /// Of a node with these pods, whose runtime is at this endpoint.
    pub(crate) fn of(endpoint: &str, snapshot: NodeSnapshot, root_dir: PathBuf) -> NodeApi {
        let connection = crate::cri::Connection::open(endpoint, Duration::from_secs(5));
        NodeApi {
            node_name: "n".to_owned(),
            config: NodeApiConfig { system_log_query: true, ..NodeApiConfig::default() },
            effective_config: serde_json::json!({ "secret": "TELLTALE" }),
            root_dir,
            snapshots: watch::channel(Arc::new(snapshot)).1,
            runtime: RuntimeClient::new(&connection.expect("a well-formed endpoint")),
            heartbeat: Arc::new(Heartbeat::new(clock::now())),
            sync_frequency: Duration::from_secs(60),
            dir_watches: DirWatches::default(),
            pages: Pages::of_nothing(),
        }
    }
}

impl NodeApi {
    #[must_use]
    pub fn snapshot(&self) -> Arc<NodeSnapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// What `/healthz` is made of.
    #[must_use]
    pub fn checks(&self) -> [Check; 3] {
        let turned = self.heartbeat.last_turn();
        [
            Check { name: "ping", result: Ok(()) },
            Check { name: "log", result: Ok(()) },
            Check { name: "syncloop", result: health::sync_loop(turned, clock::now(), self.sync_frequency) },
        ]
    }
}
