//! Labels, annotations and log paths of sandboxes and containers, as kubelet writes them
//! (pkg/kubelet/types/labels.go, kuberuntime/labels.go, kuberuntime/helpers.go), so that crictl, log shippers
//! and a kubelet that takes over find what they know.

use std::path::{Path, PathBuf};

use oomlet_core::pod::PodRef;

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// Hexadecimal, without leading zeros.
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
pub const CONTAINER_RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
pub const CONTAINER_PORTS: &str = "io.kubernetes.container.ports";
/// `lifecycle.preStop` as JSON.
pub const PRE_STOP_HANDLER: &str = "io.kubernetes.container.preStopHandler";
pub const POD_TERMINATION_GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Ours, by number: with what the runtime would ask the container to end. Absent from containers that a kubelet made,
/// and where the image's signal is not known.
pub const STOP_SIGNAL: &str = "oomlet.dev/stop-signal";

/// `<root>/<namespace>_<name>_<uid>`; kubelet's root is `/var/log/pods`.
#[must_use]
pub fn pod_log_dir(pod_logs_dir: &Path, pod: &PodRef) -> PathBuf {
    pod_logs_dir.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
}

/// Relative to the pod's log directory.
#[must_use]
pub fn container_log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}
