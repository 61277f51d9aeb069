//! What is asked of a pod's manifest in more than one place.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::Pod;
use super::status::conditions_of_others;

/// kubelet's `minimumGracePeriodInSeconds` (kuberuntime_container.go): a deletion gives a container at least this
/// long, an eviction need not.
pub const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// What the API server writes where a manifest says nothing (`DefaultTerminationGracePeriodSeconds`).
pub const DEFAULT_GRACE_S: i64 = 30;

/// Init containers first.
pub fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// `terminationGracePeriodSeconds`; what is below zero counts as zero.
#[must_use]
pub fn grace_period(pod: &Pod) -> Duration {
    let seconds =
        pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE_S);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// What counts of a pod is the same (kubelet: `podsDifferSemantically`). A resource version is no change, nor is its status,
/// but for what others say there: the pod may be Ready by it.
#[must_use]
pub fn same_content(a: &Pod, b: &Pod) -> bool {
    std::ptr::eq(a, b) || same_manifest(a, b) && conditions_of_others(a).eq(conditions_of_others(b))
}

/// The same, whatever others say of the pod.
#[must_use]
pub fn same_manifest(a: &Pod, b: &Pod) -> bool {
    let counts = |pod: &Pod| {
        let meta = &pod.metadata;
        (meta.deletion_timestamp.clone(), meta.deletion_grace_period_seconds)
    };
    a.spec == b.spec
        && a.metadata.name == b.metadata.name
        && a.metadata.namespace == b.metadata.namespace
        && a.metadata.labels == b.metadata.labels
        && a.metadata.annotations == b.metadata.annotations
        && counts(a) == counts(b)
}

/// Where a static pod comes from is written into it as it is read; what the API server has says nothing of it.
pub const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";

/// It comes from a manifest of this node, and nothing of a cluster need be there for it.
#[must_use]
pub fn is_static(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .is_some_and(|all| matches!(all.get(SOURCE_ANNOTATION).map(String::as_str), Some("file" | "http")))
}

/// `spec.hostname`, or the pod's name cut to the 63 bytes that a host name may have.
#[must_use]
pub fn hostname(pod: &Pod) -> String {
    let own = pod.spec.as_ref().and_then(|s| s.hostname.clone()).filter(|h| !h.is_empty());
    own.unwrap_or_else(|| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        // A cut must not leave a trailing dash or dot (kubelet: truncatePodHostnameIfNeeded).
        name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
    })
}
