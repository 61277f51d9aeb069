//! Pods: identity, and the decisions about one pod.
//!
//! - [`order`]: what the SyncLoop and a worker say to each other.
//! - [`qos`]: QoS class, cgroup resources, `oom_score_adj`.
//! - [`lifecycle`]: from manifest and runtime status to what is to be done next.
//! - [`restart`]: who starts again after its end; [`backoff`]: CrashLoopBackOff and error back-off.
//! - [`runtime_status`]: what the runtime says of a pod; [`containers`]: what is known of it, by whoever looked.
//! - [`probe`]: health checks: what is asked, when, and what the answers come to.
//! - [`status`]: the Kubernetes PodStatus.
//! - [`hook`]: what is done after a container's start and before its end; [`stop_signal`]: what asks it to end.
//! - [`memory_limit`]: what is to happen at a container's own memory limit.
//! - [`env`]: environment and `$(VAR)` expansion; [`services`]: its variables of Services.
//! - [`references`]: the ConfigMaps and Secrets that a pod names.
//! - [`admission`]: whether the node takes the pod; [`sysctl`]: which kernel parameters it may set; [`preemption`]: who goes for a critical one.
//! - [`mailbox`]: the one standing order of a pod's worker; [`stop_order`]: who of its containers ends first.
//! - [`spec`]: what is asked of a manifest in more than one place; [`hosts`], [`termination_message`]: texts.

pub mod admission;
pub mod apparmor;
pub mod backoff;
pub mod containers;
pub mod env;
pub mod hook;
pub mod hosts;
pub mod lifecycle;
pub mod mailbox;
pub mod memory_limit;
pub mod order;
pub mod preemption;
pub mod probe;
pub mod qos;
pub mod references;
pub mod restart;
pub mod runtime_status;
pub mod services;
pub mod spec;
pub mod status;
pub mod stop_order;
pub mod stop_signal;
pub mod sysctl;
pub mod termination_message;

use std::fmt;
use std::sync::Arc;

pub use k8s_openapi::api::core::v1::Pod;

/// `metadata.uid`. For static pods a hash of the manifest, so that a changed manifest is a new pod.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(pub Arc<str>);

impl PodUid {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl From<&str> for PodUid {
    fn from(s: &str) -> Self {
        PodUid(s.into())
    }
}
impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who is meant, in every log line, trace record and error.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PodRef {
    pub uid: PodUid,
    pub namespace: String,
    pub name: String,
}

impl PodRef {
    /// A pod that went through a pod source always has the three; what is missing reads as empty.
    #[must_use]
    pub fn of(pod: &Pod) -> PodRef {
        PodRef {
            uid: PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default()),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
        }
    }

    /// `NAME_NAMESPACE(UID)`, as kubelet names a pod in its messages.
    #[must_use]
    pub fn with_uid(&self) -> String {
        format!("{}_{}({})", self.name, self.namespace, self.uid)
    }
}

/// One run of a container: after a restart it is another.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ContainerInstance {
    pub name: String,
    /// The runtime's.
    pub id: String,
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
