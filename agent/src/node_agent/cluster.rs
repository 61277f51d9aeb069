//! The node's part in a cluster: what the tasks that talk to the API server are given.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Setup, facts};
use crate::apiserver::node_info::{NodeIdentity, file_system_bytes};
use crate::apiserver::session::Session;
use crate::certificate::client::{self, ClientIdentity};
use crate::cri::connection::RuntimeVersion;
use crate::cri::{ImageClient, RuntimeClient};
use crate::instruments::Instruments;
use crate::pleg::PlegHandle;
use crate::trace::journal::Journal;
use oomlet_core::node::event::Event;
use oomlet_core::node::published::NodeSnapshot;

/// What the tasks use of the rest of the agent.
pub(super) struct Parts {
    pub snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    pub pleg: PlegHandle,
    pub runtime: RuntimeClient,
    pub images: ImageClient,
    pub events: mpsc::Sender<Event>,
    pub journal: Arc<Journal>,
    pub instruments: Instruments,
}

/// `None`: standalone. Who the node is to the API server is kept up by a task of its own.
pub(super) fn session(
    setup: &Setup,
    node: &facts::Node,
    version: &RuntimeVersion,
    parts: Parts,
    (tracker, cancel): (&TaskTracker, &CancellationToken),
) -> Option<Session> {
    let (identity_task, connection) = ClientIdentity::new(client::Options {
        kubeconfig: setup.cluster.kubeconfig.clone()?,
        bootstrap_kubeconfig: setup.cluster.bootstrap_kubeconfig.clone(),
        cert_dir: setup.cluster.cert_dir.clone(),
        rotate: setup.config.rotate_certificates,
        node_name: node.facts.name.clone(),
    });
    let identity_task = identity_task.timed(parts.instruments.certificates.client.clone());
    tracker.spawn(identity_task.run(cancel.clone()));
    let config = &setup.config;
    let Parts { snapshots, pleg, runtime, images, events, journal, instruments } = parts;
    Some(Session {
        connection,
        identity: Arc::new(identity(setup, node, version)),
        register: config.register_node,
        update_every: config.node_status_update_frequency,
        report_every: config.node_status_report_frequency,
        lease_duration: Duration::from_secs(config.node_lease_duration_seconds.into()),
        qps: config.kube_api_qps,
        burst: config.kube_api_burst,
        event_qps: config.event_record_qps,
        event_burst: config.event_burst,
        journal,
        snapshots,
        pleg,
        runtime,
        images,
        events,
        requests: instruments.requests,
        startup: instruments.node_startup,
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
    let storage_bytes = file_system_bytes(&setup.root_dir);
    let mut labels = setup.cluster.node_labels.clone();
    labels.extend(own.map(|(key, value)| (key.to_owned(), value)));
    NodeIdentity {
        name: facts.name.clone(),
        labels,
        taints: config.register_with_taints.clone(),
        provider_id: config.provider_id.clone(),
        attach_detach_by_controller: config.enable_controller_attach_detach,
        addresses: node.host_ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        milli_cpu: facts::cpus() as u64 * 1000,
        memory_bytes: node.memory_capacity_bytes,
        allocatable_milli_cpu: facts.allocatable.milli_cpu,
        allocatable_memory_bytes: facts.allocatable.memory_bytes,
        max_pods: config.max_pods,
        storage_bytes,
        reserved_storage_bytes: facts::reserved_storage_bytes(config, storage_bytes.unwrap_or(0)),
        port: config.port,
        arch: facts.arch.clone(),
        runtime: format!("{}://{}", version.runtime_name, version.runtime_version.trim_start_matches('v')),
        max_images: config.node_status_max_images.map(|n| n as usize),
    }
}
