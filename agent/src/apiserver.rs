//! The way to the API server. Shell.

pub mod credentials;
pub mod following;
pub mod kubeconfig;
