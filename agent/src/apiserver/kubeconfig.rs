//! The file that names the API server and says who the node is.

use std::path::{Path, PathBuf};

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError as Cause};

#[derive(Debug, thiserror::Error)]
#[error("kubeconfig {path}: {cause}; check --kubeconfig and the file")]
pub struct KubeconfigError {
    pub path: PathBuf,
    pub cause: Cause,
}

/// # Errors
/// When the file cannot be read, or names no cluster or no user that can be used.
pub async fn load(path: &Path) -> Result<Config, KubeconfigError> {
    let wrong = |cause| KubeconfigError { path: path.to_owned(), cause };
    let file = Kubeconfig::read_from(path).map_err(wrong)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)
}
