//! The network of a node whose agent is where its pods are, as on a machine of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::TestNode;
use crate::control_plane::ControlPlane;
use crate::relay::Relay;

/// Of a node of a cluster, in its own network namespace. From a block for tests (RFC 5737).
pub const NODE_IP: &str = "198.51.100.1";

impl TestNode {
    /// From its next start on it is the node of this name of the control plane, under the node's own identity.
    pub fn join_as(&mut self, plane: &ControlPlane, name: &str) -> Result<()> {
        self.join_by(plane.address(), name, &plane.node_kubeconfig(name)?)
    }

    /// The same by a kubeconfig that leads to this address. Pods say by the label `test: NAME` that they are this node's.
    pub fn join_by(&mut self, api_server: SocketAddr, name: &str, kubeconfig: &Path) -> Result<()> {
        self.join(api_server)?;
        self.add_arguments(&[
            &format!("--kubeconfig={}", kubeconfig.display()),
            &format!("--hostname-override={name}"),
            &format!("--cert-dir={}", self.cert_dir().display()),
            &format!("--node-labels=test={name}"),
        ]);
        Ok(())
    }

    /// What a node of a cluster is told as `--cert-dir`.
    #[must_use]
    pub fn cert_dir(&self) -> PathBuf {
        self.scratch.path().join("pki")
    }

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
