//! The release of Kubernetes whose kubelet this agent follows. Core.

/// As `kubelet --version` and a Node's `kubeletVersion` write it.
pub const KUBERNETES_VERSION: &str = "v1.37.2";
