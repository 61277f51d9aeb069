//! What containers and pod were given, as the status tells it: resources (KEP-1287), volumes' mounts (KEP-3857). No pod is
//! resized while it runs, so that what is asked for, allotted and in force are one.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements, VolumeMount, VolumeMountStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod::qos::is_sidecar;
use crate::pod::spec::recursive_read_only;
use crate::quantity::{format_bytes, parse_bytes, parse_milli_cpu};

type List = BTreeMap<String, Quantity>;

/// Requests and limits; an amount that is limited and not requested is requested so. `None` where there are none.
pub(super) fn of_container(container: &Container) -> Option<ResourceRequirements> {
    let given = container.resources.as_ref()?;
    let limits = given.limits.clone().unwrap_or_default();
    let mut requests = given.requests.clone().unwrap_or_default();
    for (name, limit) in &limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
    requirements(requests, limits)
}

/// The containers' together, or what the pod as a whole asks for; `None` where nobody asks for anything.
pub(super) fn of_pod(pod: &Pod) -> Option<ResourceRequirements> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let sum = |pick: fn(ResourceRequirements) -> Option<List>| {
        let of = |c: &Container| of_container(c).and_then(pick).unwrap_or_default();
        let (mut sidecars, mut peak) = (List::new(), List::new());
        for container in init {
            // Those before it run beside it.
            let now = added(&sidecars, &of(container));
            peak = larger(peak, &now);
            if is_sidecar(container) {
                sidecars = now;
            }
        }
        let all = spec.containers.iter().fold(sidecars, |sum, c| added(&sum, &of(c)));
        larger(all, &peak)
    };
    let (mut requests, mut limits) = (sum(|r| r.requests), sum(|r| r.limits));
    if let Some(own) = &spec.resources {
        requests.extend(own.requests.clone().unwrap_or_default());
        limits.extend(own.limits.clone().unwrap_or_default());
    }
    for (name, overhead) in spec.overhead.iter().flatten() {
        let one = List::from([(name.clone(), overhead.clone())]);
        requests = added(&requests, &one);
        if limits.contains_key(name) {
            limits = added(&limits, &one);
        }
    }
    requirements(requests, limits)
}

fn requirements(requests: List, limits: List) -> Option<ResourceRequirements> {
    let some = |list: List| Some(list).filter(|list| !list.is_empty());
    let (requests, limits) = (some(requests), some(limits));
    let any = requests.is_some() || limits.is_some();
    any.then(|| ResourceRequirements { requests, limits, ..ResourceRequirements::default() })
}

/// What does not parse was refused before; it counts as nothing.
fn amount(name: &str, quantity: &Quantity) -> u64 {
    let parsed = if name == "cpu" { parse_milli_cpu(&quantity.0) } else { parse_bytes(&quantity.0) };
    parsed.unwrap_or_default()
}

fn written(name: &str, amount: u64) -> Quantity {
    Quantity(match name {
        "cpu" if amount.is_multiple_of(1000) => (amount / 1000).to_string(),
        "cpu" => format!("{amount}m"),
        _ => format_bytes(amount),
    })
}

fn added(a: &List, b: &List) -> List {
    let mut sum = a.clone();
    for (name, more) in b {
        let new = match a.get(name) {
            None => more.clone(),
            Some(had) => written(name, amount(name, had).saturating_add(amount(name, more))),
        };
        sum.insert(name.clone(), new);
    }
    sum
}

fn larger(mut a: List, b: &List) -> List {
    for (name, other) in b {
        let is_less = a.get(name).is_none_or(|own| amount(name, own) < amount(name, other));
        if is_less {
            a.insert(name.clone(), other.clone());
        }
    }
    a
}

/// Of a container's own volumes. `supported`: read-only mounts with all below them, by the runtime.
pub(super) fn volume_mounts(container: &Container, supported: bool) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_deref().filter(|all| !all.is_empty())?;
    let told = mounts.iter().map(|mount| {
        let read_only = mount.read_only.filter(|is| *is);
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only,
            recursive_read_only: read_only.map(|_| mode(mount, supported).to_owned()),
            ..VolumeMountStatus::default()
        }
    });
    Some(told.collect())
}

/// One that is refused is none.
fn mode(mount: &VolumeMount, supported: bool) -> &'static str {
    if recursive_read_only(mount, supported) == Ok(true) { "Enabled" } else { "Disabled" }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_pod_has_what_its_containers_have() {
        let container = |name: &str, resources: Value| json!({ "name": name, "resources": resources });
        let cases = [
            (json!({ "containers": [container("a", json!({}))] }), json!(null)),
            (
                json!({ "containers": [
                    container("a", json!({ "requests": { "cpu": "50m" }, "limits": { "cpu": "100m" } })),
                    container("b", json!({ "requests": { "memory": "16Mi" } })),
                ] }),
                json!({ "limits": { "cpu": "100m" }, "requests": { "cpu": "50m", "memory": "16Mi" } }),
            ),
            (
                json!({ "containers": [
                    container("a", json!({ "limits": { "cpu": "600m", "memory": "16Mi" } })),
                    container("b", json!({ "limits": { "cpu": "400m", "memory": "16Mi" } })),
                ] }),
                json!({ "limits": { "cpu": "1", "memory": "32Mi" }, "requests": { "cpu": "1", "memory": "32Mi" } }),
            ),
            (
                json!({
                    "initContainers": [
                        { "name": "s", "restartPolicy": "Always", "resources": { "requests": { "cpu": "1" } } },
                        container("i", json!({ "requests": { "cpu": "2" } })),
                    ],
                    "containers": [container("a", json!({ "requests": { "cpu": "500m" } }))],
                    "overhead": { "cpu": "100m" },
                }),
                json!({ "requests": { "cpu": "3100m" } }),
            ),
            (
                json!({ "containers": [container("a", json!({}))], "resources": { "requests": { "cpu": "1" } } }),
                json!({ "requests": { "cpu": "1" } }),
            ),
        ];
        for (spec, expected) in cases {
            let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
            assert_eq!(serde_json::to_value(of_pod(&pod)).unwrap(), expected, "{spec}");
        }
    }
}
