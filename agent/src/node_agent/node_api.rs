//! The node's own API: what its server is given, and the certificate that it shows.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Setup, facts};
use crate::apiserver::Clients;
use crate::apiserver::following::Connection;
use crate::certificate::serving::{Origin, Serving};
use crate::container_log::dir_watch::DirWatches;
use crate::cri::RuntimeClient;
use crate::node_api::access::Access;
use crate::node_api::authn::{Authenticator, TokenReviews};
use crate::node_api::authz::{AccessReviews, Authorizer};
use crate::node_api::client_ca::ClientCa;
use crate::node_api::server::Secured;
use crate::node_api::{ListenError, NodeApi, NodeApiServer, Sockets, tls};
use crate::stats::Pages;
use crate::sync_loop::heartbeat::Heartbeat;
use oomlet_core::config::node_api::Authorization;
use oomlet_core::node::published::NodeSnapshot;

/// What it uses of the rest of the agent.
pub(super) struct Parts {
    pub sockets: Sockets,
    pub runtime: RuntimeClient,
    pub snapshots: watch::Receiver<Arc<NodeSnapshot>>,
    pub heartbeat: Arc<Heartbeat>,
    /// `None`: standalone.
    pub clients: Option<Clients>,
    pub connection: Option<watch::Receiver<Connection>>,
    pub pages: Pages,
}

/// It serves until it is dropped.
///
/// # Errors
/// When its TLS or its threads cannot be made.
pub(super) fn start(
    setup: &Setup,
    node: &facts::Node,
    parts: Parts,
    (tracker, cancel): (&TaskTracker, &CancellationToken),
) -> Result<NodeApiServer, ListenError> {
    let config = &setup.config.node_api;
    let clients = parts.clients.clone();
    let addresses = node.host_ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    let serving = Serving {
        origin: match (&config.tls_files, setup.config.server_tls_bootstrap, &parts.connection) {
            (_, true, Some(_)) => Origin::Cluster,
            (Some((certificate, key)), ..) => {
                Origin::Files { certificate: certificate.clone(), key: key.clone() }
            }
            (None, ..) => Origin::SelfSigned,
        },
        cert_dir: setup.cluster.cert_dir.clone(),
        node_name: node.facts.name.clone(),
        addresses: watch::channel(addresses).1,
        connection: parts.connection.unwrap_or_else(|| watch::channel(Connection::default()).1),
        times: parts.pages.instruments.certificates.server.clone(),
    };
    let (key, serving) = serving.start(cancel.clone());
    if config.enabled {
        tracker.spawn(serving);
        warn_of_nobody(setup, clients.is_some());
    }
    let client_ca = config.client_ca_file.clone().map(ClientCa::new);
    let (client_ca, verifier) = client_ca.map_or((None, None), |(ca, verifier)| (Some(ca), Some(verifier)));
    let tokens = clients.clone().filter(|_| config.token_webhook);
    let authorizer = match (config.authorization, clients.clone()) {
        (Authorization::AlwaysAllow, _) => Authorizer::AlwaysAllow,
        (Authorization::Webhook { .. }, None) => Authorizer::Nobody,
        (Authorization::Webhook { authorized_ttl, unauthorized_ttl }, Some(clients)) => {
            let ttls = (authorized_ttl, unauthorized_ttl);
            Authorizer::Webhook(Box::new(AccessReviews::new(clients, node.facts.name.clone(), ttls)))
        }
    };
    let access = Access {
        authenticator: Authenticator {
            client_ca: verifier,
            tokens: tokens.map(|clients| TokenReviews::new(clients, config.token_cache_ttl)),
            anonymous: config.anonymous,
        },
        authorizer,
    };
    let state = NodeApi {
        node_name: node.facts.name.clone(),
        config: config.clone(),
        effective_config: setup.effective_config.clone(),
        root_dir: setup.root_dir.clone(),
        snapshots: parts.snapshots,
        runtime: parts.runtime,
        heartbeat: parts.heartbeat,
        sync_frequency: setup.config.sync_frequency,
        dir_watches: DirWatches::new(),
        pages: parts.pages,
    };
    let secured = Secured { tls: tls::server_config(config, key)?, access, client_ca };
    NodeApiServer::start(parts.sockets, secured, state)
}

/// kubelet does not start so.
fn warn_of_nobody(setup: &Setup, in_cluster: bool) {
    if !in_cluster && setup.config.node_api.authorization != Authorization::AlwaysAllow {
        tracing::warn!(
            "without --kubeconfig nobody can be asked who may use the node's API, and it refuses everybody. Remedy: \
             authorization.mode: AlwaysAllow with authentication.x509.clientCAFile, or enableServer: false"
        );
    }
}
