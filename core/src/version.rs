//! The release of Kubernetes whose kubelet this agent follows, and what it calls machines. Core.

/// As `kubelet --version` and a Node's `kubeletVersion` write it.
pub const KUBERNETES_VERSION: &str = "v1.37.2";

/// Go's word for the machine's architecture: in a Node's `kubernetes.io/arch` and in versions.
#[must_use]
pub const fn go_arch() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "amd64"
    } else if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        std::env::consts::ARCH
    }
}
