//! How the node belongs to a cluster: what kubelet has flags for and no key of its configuration.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterOptions {
    /// `--kubeconfig`. Without it the agent stands alone: only static pods run.
    pub kubeconfig: Option<PathBuf>,
    /// `--bootstrap-kubeconfig`.
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// `--cert-dir`.
    pub cert_dir: PathBuf,
    /// `--node-ip`: one, or one of each family.
    pub node_ips: Vec<IpAddr>,
    /// `--node-labels`, of those that a node may give itself.
    pub node_labels: BTreeMap<String, String>,
}
