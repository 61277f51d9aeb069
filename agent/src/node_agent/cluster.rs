//! The node's part in a cluster: what the tasks that talk to the API server are given.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::{Setup, facts};
use crate::apiserver::node_info::NodeIdentity;
use crate::apiserver::session::Session;
use crate::cri::connection::RuntimeVersion;
use crate::cri::{ImageClient, RuntimeClient};
use crate::pleg::PlegHandle;
use crate::trace::journal::Journal;
use oomlet_core::node::event::Event;
use oomlet_core::node::published::NodeSnapshot;

/// Flags that only a node of a cluster has a use for.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// `--kubeconfig`; `None`: standalone.
    pub kubeconfig: Option<PathBuf>,
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// `--cert-dir`.
    pub cert_dir: PathBuf,
    /// `--node-ip`.
    pub node_ips: Vec<IpAddr>,
    /// `--node-labels`.
    pub node_labels: BTreeMap<String, String>,
}

/// What the tasks use of the rest of the agent.
pub(super) struct Parts {
    pub snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    pub pleg: PlegHandle,
    pub runtime: RuntimeClient,
    pub images: ImageClient,
    pub events: mpsc::Sender<Event>,
    pub journal: Arc<Journal>,
}

/// `None`: standalone.
pub(super) fn session(
    setup: &Setup,
    node: &facts::Node,
    version: &RuntimeVersion,
    parts: Parts,
) -> Option<Session> {
    let kubeconfig = setup.cluster.kubeconfig.clone()?;
    let Parts { snapshots, pleg, runtime, images, events, journal } = parts;
    Some(Session {
        kubeconfig,
        identity: Arc::new(identity(setup, node, version)),
        register: true,
        update_every: Duration::from_secs(10),
        report_every: Duration::from_secs(300),
        lease_duration: Duration::from_secs(40),
        event_qps: 50,
        event_burst: 100,
        journal,
        snapshots,
        pleg,
        runtime,
        images,
        events,
        client: watch::channel(None).0,
    })
}

fn identity(setup: &Setup, node: &facts::Node, version: &RuntimeVersion) -> NodeIdentity {
    let (config, facts) = (&setup.config, &node.facts);
    let own = [
        ("kubernetes.io/hostname", facts.name.clone()),
        ("kubernetes.io/os", facts.os.clone()),
        ("kubernetes.io/arch", facts.arch.clone()),
        // Since before they had these names.
        ("beta.kubernetes.io/os", facts.os.clone()),
        ("beta.kubernetes.io/arch", facts.arch.clone()),
    ];
    let mut labels = setup.cluster.node_labels.clone();
    labels.extend(own.map(|(key, value)| (key.to_owned(), value)));
    NodeIdentity {
        name: facts.name.clone(),
        labels,
        taints: Vec::new(),
        provider_id: None,
        attach_detach_by_controller: true,
        addresses: node.host_ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        milli_cpu: facts::cpus() as u64 * 1000,
        memory_bytes: node.memory_capacity_bytes,
        allocatable_milli_cpu: facts.allocatable.milli_cpu,
        allocatable_memory_bytes: facts.allocatable.memory_bytes,
        max_pods: config.max_pods,
        reserved_storage_bytes: 0,
        port: 10250,
        arch: facts.arch.clone(),
        runtime: format!("{}://{}", version.runtime_name, version.runtime_version.trim_start_matches('v')),
        root_dir: setup.root_dir.clone(),
        max_images: Some(50),
    }
}
