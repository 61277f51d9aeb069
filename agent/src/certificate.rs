//! The node's certificates: who it is to the API server, and what its own API shows. Shell; when one is due, and what an answer
//! means, is decided in `oomlet_core::certificate`.
//!
//! | task | in | out |
//! |---|---|---|
//! | [`client`] | kubeconfig, bootstrap kubeconfig, the certificate directory | a client of the API server that follows rotation |
//! | [`serving`] | the certificate directory, the node's addresses | the key that the node's API shows |
//!
//! Neither ends the agent, nor does anything wait for it but who needs its output: static pods run while an approval is
//! waited for. The directory is laid out as kubelet's, so that either can go on with what the other has left.

pub mod client;
pub mod request;
pub mod serving;
pub mod store;

use request::RequestError;
use store::StoreError;

use crate::apiserver::kubeconfig::KubeconfigError;

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("cannot make a client of kubeconfig {path}: {source}")]
    Client { path: std::path::PathBuf, source: kube::Error },
}
