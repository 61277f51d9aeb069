//! Fields of a pod, and amounts of a container's resources, as text (pkg/fieldpath, pkg/api/v1/resource).

use k8s_openapi::api::core::v1::{ObjectFieldSelector, Pod, ResourceFieldSelector};

use super::EnvFacts;
use crate::pod::spec::container_named;
use crate::quantity::{QuantityError, bytes_of, milli_cpu_of, parse_bytes, parse_milli_cpu};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceFieldError {
    #[error(
        "resourceFieldRef {0:?} is not supported; use limits.cpu, limits.memory, requests.cpu or requests.memory"
    )]
    Unknown(String),
    #[error("resourceFieldRef names container {0:?}, which the pod does not have")]
    NoSuchContainer(String),
    #[error(transparent)]
    Quantity(#[from] QuantityError),
}

/// One that is in the pod's manifest: what a volume may show, too.
#[must_use]
pub fn metadata_field(path: &str, pod: &Pod) -> Option<String> {
    let meta = &pod.metadata;
    Some(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        path => {
            let (map, key) = if let Some(key) = path.strip_prefix("metadata.labels['") {
                (&meta.labels, key)
            } else {
                (&meta.annotations, path.strip_prefix("metadata.annotations['")?)
            };
            let key = key.strip_suffix("']")?;
            map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default()
        }
    })
}

pub(super) fn field_value(field: &ObjectFieldSelector, pod: &Pod, facts: &EnvFacts) -> Option<String> {
    Some(match field.field_path.as_str() {
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => {
            pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" | "status.hostIPs" => facts.host_ip.clone(),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        path => return metadata_field(path, pod),
    })
}

/// `default_container`: whose, where the reference names none.
///
/// # Errors
/// A resource or container that is not there, or a quantity that is none.
pub fn resource_field(
    selector: &ResourceFieldSelector,
    pod: &Pod,
    default_container: &str,
    facts: &EnvFacts,
) -> Result<String, ResourceFieldError> {
    let name = selector.container_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(default_container);
    let target =
        container_named(pod, name).ok_or_else(|| ResourceFieldError::NoSuchContainer(name.to_owned()))?;
    let requests = target.resources.as_ref().and_then(|r| r.requests.as_ref());
    let limits = target.resources.as_ref().and_then(|r| r.limits.as_ref());
    let divisor =
        selector.divisor.as_ref().map_or("1", |q| if q.0.is_empty() || q.0 == "0" { "1" } else { &q.0 });
    let allocatable = &facts.allocatable;
    let (amount, divisor) = match selector.resource.as_str() {
        "limits.cpu" => {
            (milli_cpu_of(limits, "cpu")?.unwrap_or(allocatable.milli_cpu), parse_milli_cpu(divisor)?)
        }
        "requests.cpu" => (milli_cpu_of(requests, "cpu")?.unwrap_or(0), parse_milli_cpu(divisor)?),
        "limits.memory" => {
            (bytes_of(limits, "memory")?.unwrap_or(allocatable.memory_bytes), parse_bytes(divisor)?)
        }
        "requests.memory" => (bytes_of(requests, "memory")?.unwrap_or(0), parse_bytes(divisor)?),
        other => return Err(ResourceFieldError::Unknown(other.to_owned())),
    };
    // Rounded up, as kubelet does.
    Ok(amount.div_ceil(divisor.max(1)).to_string())
}
