//! `oomlet run`: flags over the configuration file, then the node agent until SIGTERM or SIGINT.

use std::path::{Path, PathBuf};

use super::{DEFAULT_ROOT_DIR, print_line};
use crate::config_file;
use crate::node_agent::{self, ClusterOptions, NodeAgentError, Setup};
use oomlet_core::config::flags::{FlagError, parse_pairs};
use oomlet_core::config::{ConfigError, node_flags};
use oomlet_core::version::KUBERNETES_VERSION;

mod args;

pub use args::{Args, with_hyphens};

/// kubelet's `--cert-dir`.
const DEFAULT_CERT_DIR: &str = "/var/lib/kubelet/pki";

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Flag(#[from] FlagError),
    #[error(transparent)]
    Agent(#[from] NodeAgentError),
    #[error("cannot print the version: {0}")]
    Print(#[from] std::io::Error),
}

/// Prints the line that `kubelet --version` prints, where it is asked for. kubeadm reads it, and looks for nothing but the
/// version in it (cmd/kubeadm/app/preflight/utils.go).
///
/// # Errors
/// When the output fails, or at a value that kubelet does not take either.
pub fn version(args: &Args) -> Result<bool, RunError> {
    match args.text("version") {
        None | Some("false") => return Ok(false),
        Some("true" | "raw") => {}
        Some(other) => {
            let error = format!("{other:?} must be true, false or raw");
            return Err(FlagError { flag: "version".to_owned(), error }.into());
        }
    }
    print_line(&format!("Kubernetes {KUBERNETES_VERSION}"))?;
    Ok(true)
}

/// # Errors
/// When the agent cannot start. Pods that run are left alone then.
pub fn run(args: &Args) -> Result<(), RunError> {
    node_agent::run(setup(args)?)?;
    Ok(())
}

fn setup(args: &Args) -> Result<Setup, RunError> {
    let path = |name: &str| args.set(name).map(Path::new);
    let loaded = config_file::load(path("config"), path("config-dir"), &args.given)?;
    for warning in loaded.warnings {
        tracing::warn!("{warning}");
    }
    let cluster = cluster(args)?;
    if cluster.kubeconfig.is_none() && cluster.bootstrap_kubeconfig.is_some() {
        tracing::warn!("--bootstrap-kubeconfig has no effect without --kubeconfig: only static pods run");
    }
    Ok(Setup {
        config: loaded.config,
        effective_config: loaded.effective,
        root_dir: path("root-dir").map_or_else(|| PathBuf::from(DEFAULT_ROOT_DIR), Path::to_owned),
        hostname: args.set("hostname-override").map(str::to_owned),
        cluster,
    })
}

fn cluster(args: &Args) -> Result<ClusterOptions, FlagError> {
    let path = |name: &str| args.set(name).map(PathBuf::from);
    let labels = args.given.iter().find(|given| given.flag.name == "node-labels");
    let node_labels = parse_pairs(labels.map(|given| given.texts.as_slice()).unwrap_or_default(), '=')
        .map_err(|error| FlagError { flag: "node-labels".to_owned(), error })?;
    node_flags::check_labels(&node_labels)?;
    Ok(ClusterOptions {
        kubeconfig: path("kubeconfig"),
        bootstrap_kubeconfig: path("bootstrap-kubeconfig"),
        cert_dir: path("cert-dir").unwrap_or_else(|| PathBuf::from(DEFAULT_CERT_DIR)),
        node_ips: node_flags::parse_node_ips(args.text("node-ip").unwrap_or_default())?,
        node_labels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};

    fn of(words: &[&str]) -> Result<Setup, RunError> {
        let command = Args::augment_args(clap::Command::new("run"));
        let matches = command.get_matches_from([&["run"], words].concat());
        setup(&Args::from_arg_matches(&matches).unwrap())
    }

    #[test]
    fn flags_that_the_configuration_has_no_key_for() {
        let setup = of(&[
            "--kubeconfig=/etc/kubernetes/kubelet.conf",
            "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
            "--node-ip=10.0.0.1,fd00::1",
            "--node-labels=a=b,node.kubernetes.io/x=",
            "--node-labels=c=d",
            "--hostname-override=n1",
            "--max-pods=7",
        ])
        .unwrap();
        assert_eq!(setup.config.max_pods, 7);
        assert_eq!(setup.effective_config["maxPods"], 7);
        assert_eq!(setup.hostname.as_deref(), Some("n1"));
        assert_eq!(setup.root_dir, Path::new("/var/lib/kubelet"));
        let cluster = setup.cluster;
        assert_eq!(cluster.kubeconfig.as_deref(), Some(Path::new("/etc/kubernetes/kubelet.conf")));
        assert_eq!(cluster.cert_dir, Path::new("/var/lib/kubelet/pki"));
        assert_eq!((cluster.node_ips.len(), cluster.node_labels.len()), (2, 3));

        let cluster = of(&["--kubeconfig=", "--cert-dir=/x"]).unwrap().cluster;
        assert_eq!((cluster.kubeconfig, cluster.cert_dir), (None, PathBuf::from("/x")));
    }

    #[test]
    fn a_wrong_value_names_its_flag() {
        for (word, flag) in [
            ("--node-labels=a", "--node-labels"),
            ("--node-labels=node-role.kubernetes.io/worker=", "--node-labels"),
            ("--node-ip=here", "--node-ip"),
            ("--v=loud", "--v"),
            ("--exit-on-lock-contention=maybe", "--exit-on-lock-contention"),
            ("--eviction-hard=memory<1", "--eviction-hard"),
        ] {
            let error = of(&[word]).unwrap_err().to_string();
            assert!(error.contains(flag), "{word}: {error}");
        }
    }
}
