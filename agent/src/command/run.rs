//! `oomlet run`: flags over the configuration file, then the node agent until SIGTERM or SIGINT.

use std::path::PathBuf;

use super::DEFAULT_ROOT_DIR;
use crate::config_file;
use crate::node_agent::{self, ClusterOptions, NodeAgentError, Setup};
use oomlet_core::config::{CgroupDriver, Config, ConfigError};

/// kubelet's flag names. A flag wins over the configuration file, as for kubelet.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KubeletConfiguration, YAML or JSON.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The CRI socket, `unix:///path`.
    #[arg(long)]
    container_runtime_endpoint: Option<String>,
    /// The CRI image service, where it is another socket.
    #[arg(long)]
    image_service_endpoint: Option<String>,
    /// Where pods' volumes and the agent's own files are.
    #[arg(long, default_value = DEFAULT_ROOT_DIR)]
    root_dir: PathBuf,
    /// Static pod manifests: a directory, or one file.
    #[arg(long)]
    pod_manifest_path: Option<PathBuf>,
    /// The cgroup below which `kubepods` is.
    #[arg(long)]
    cgroup_root: Option<String>,
    /// `cgroupfs` or `systemd`.
    #[arg(long, value_parser = ["cgroupfs", "systemd"])]
    cgroup_driver: Option<String>,
    #[arg(long)]
    max_pods: Option<u32>,
    /// Where the API server is and who the node is there; without it the agent runs standalone.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The node's name, instead of the host's.
    #[arg(long)]
    hostname_override: Option<String>,
    /// Log level, as klog's: 0 to 2 info, 3 to 5 debug, more trace.
    #[arg(long = "v", short = 'v', default_value_t = 2, id = "v")]
    pub verbosity: u8,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Agent(#[from] NodeAgentError),
}

/// # Errors
/// When the agent cannot start. Pods that run are left alone then.
pub fn run(args: Args) -> Result<(), RunError> {
    let mut config = match &args.config {
        None => Config::default(),
        Some(path) => {
            let (config, warnings) = config_file::load(path)?;
            for warning in warnings {
                tracing::warn!(config = %path.display(), "{warning}");
            }
            config
        }
    };
    if let Some(endpoint) = args.container_runtime_endpoint {
        config.container_runtime_endpoint = endpoint;
    }
    if args.image_service_endpoint.is_some() {
        config.image_service_endpoint = args.image_service_endpoint;
    }
    if args.pod_manifest_path.is_some() {
        config.static_pod_path = args.pod_manifest_path;
    }
    if let Some(root) = args.cgroup_root {
        config.cgroup_root = root;
    }
    match args.cgroup_driver.as_deref() {
        Some("systemd") => config.cgroup_driver = CgroupDriver::Systemd,
        Some(_) => config.cgroup_driver = CgroupDriver::Cgroupfs,
        None => {}
    }
    if let Some(max_pods) = args.max_pods {
        config.max_pods = max_pods;
    }
    let cluster = ClusterOptions { kubeconfig: args.kubeconfig, ..ClusterOptions::default() };
    node_agent::run(Setup { config, root_dir: args.root_dir, hostname: args.hostname_override, cluster })?;
    Ok(())
}
