//! The network of a node whose agent is where its pods are, as on a machine of its own.

use std::net::SocketAddr;

use anyhow::Result;

use super::TestNode;
use crate::relay::Relay;

/// Of a node of a cluster, in its own network namespace. From a block for tests (RFC 5737).
pub const NODE_IP: &str = "198.51.100.1";

impl TestNode {
    /// From its next start on the agent runs in the namespace of its pods, which it can reach there, and the API server at
    /// this address out here is relayed to it. The namespace gets an address of the node's own.
    pub fn join(&mut self, api_server: SocketAddr) -> Result<()> {
        let namespace = self.containerd.netns();
        namespace.sh(&format!(
            "ip link add eth0 type bridge && ip address add {NODE_IP}/24 dev eth0 && ip link set eth0 up && \
             ip route add default dev eth0"
        ))?;
        if !api_server.ip().is_loopback() {
            namespace.sh(&format!("ip address add {} dev lo", api_server.ip()))?;
        }
        self.relay = Some(Relay::start(namespace, api_server)?);
        if let Some(config) = self.config.as_object_mut() {
            // The ports are all its own.
            config.remove("enableServer");
            config.remove("healthzPort");
        }
        self.join_pod_network();
        Ok(())
    }

    /// Between the agent and the API server.
    #[must_use]
    pub fn relay(&self) -> Option<&Relay> {
        self.relay.as_ref()
    }

    /// From the next start on the agent runs where the pods' bridge is, and reaches their addresses as on a real node.
    pub fn join_pod_network(&mut self) {
        self.in_pod_network = true;
    }
}
