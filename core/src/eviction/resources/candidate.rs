//! What must be known of a pod, from its manifest. Quantities that do not parse count as absent: no pod source lets
//! such a pod through.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::pod::spec::{all_containers, grace_period};
use crate::pod::{PodRef, qos};
use crate::quantity::{format_bytes, format_count, parse_bytes};

/// The name of the resource in requests and limits.
const EPHEMERAL_STORAGE: &str = "ephemeral-storage";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceCandidate {
    pub pod: PodRef,
    pub priority: i32,
    /// Never evicted; see [`qos::is_critical`].
    pub critical: bool,
    /// `terminationGracePeriodSeconds`.
    pub grace_period: Duration,
    /// Of local storage, summed over the pod.
    pub request_bytes: u64,
    /// kubelet sums what limits there are, also where other containers of the pod have none.
    pub limit: Option<Limit>,
    /// Init containers and containers.
    pub containers: Vec<ContainerStorage>,
    /// Disk-backed ones.
    pub empty_dirs: Vec<EmptyDir>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStorage {
    pub name: String,
    pub request_bytes: u64,
    /// Not of an init container: kubelet holds those to the pod's limit alone.
    pub limit: Option<Limit>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmptyDir {
    pub name: String,
    /// `sizeLimit`.
    pub limit: Option<Limit>,
}

/// More than 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    pub bytes: u64,
    /// As Kubernetes writes it.
    pub text: String,
}

impl Limit {
    /// `None`: no limit is meant.
    fn of(text: &str) -> Option<Limit> {
        let bytes = parse_bytes(text).ok().filter(|b| *b > 0)?;
        Some(Limit { bytes, text: like(text, bytes) })
    }
}

/// In the manner of `text`: by powers of 1024 or of 1000.
fn like(text: &str, bytes: u64) -> String {
    if text.ends_with('i') { format_bytes(bytes) } else { format_count(bytes) }
}

impl ResourceCandidate {
    #[must_use]
    pub fn of(pod: &Pod) -> ResourceCandidate {
        let none = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&none);
        let init = spec.init_containers.iter().flatten().map(|c| (c, true));
        let containers = init.chain(spec.containers.iter().map(|c| (c, false))).map(|(c, init)| {
            let limit = if init { None } else { limit(c).and_then(Limit::of) };
            ContainerStorage { name: c.name.clone(), request_bytes: bytes(request(c)).unwrap_or(0), limit }
        });
        ResourceCandidate {
            pod: PodRef::of(pod),
            priority: qos::priority(pod),
            critical: qos::is_critical(pod),
            grace_period: grace_period(pod),
            request_bytes: peak(spec, |c| bytes(request(c))).unwrap_or(0),
            limit: pod_limit(spec),
            containers: containers.collect(),
            empty_dirs: empty_dirs(spec),
        }
    }

    /// It is held to something.
    #[must_use]
    pub fn has_limits(&self) -> bool {
        self.has_container_limits() || self.empty_dirs.iter().any(|dir| dir.limit.is_some())
    }

    /// What its containers write counts.
    #[must_use]
    pub const fn has_container_limits(&self) -> bool {
        // With one container's limit there is a limit of the pod.
        self.limit.is_some()
    }
}

fn request(container: &Container) -> Option<&str> {
    let requests = container.resources.as_ref()?.requests.as_ref()?;
    requests.get(EPHEMERAL_STORAGE).map(|q| q.0.as_str())
}

fn limit(container: &Container) -> Option<&str> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    limits.get(EPHEMERAL_STORAGE).map(|q| q.0.as_str())
}

fn bytes(text: Option<&str>) -> Option<u64> {
    parse_bytes(text?).ok()
}

/// Containers and sidecars together, or the hungriest init container with the sidecars before it, whichever is more
/// (component-helpers resource/helpers.go). `None`: no container says anything.
fn peak(spec: &PodSpec, of: impl Fn(&Container) -> Option<u64>) -> Option<u64> {
    let mut found = false;
    let mut get = |c: &Container| {
        let value = of(c);
        found |= value.is_some();
        value.unwrap_or(0)
    };
    let (mut sidecars, mut init) = (0u64, 0u64);
    for c in spec.init_containers.iter().flatten() {
        let own = get(c);
        if qos::is_sidecar(c) {
            sidecars = sidecars.saturating_add(own);
            init = init.max(sidecars);
        } else {
            init = init.max(sidecars.saturating_add(own));
        }
    }
    let running = spec.containers.iter().fold(sidecars, |sum, c| sum.saturating_add(get(c)));
    found.then(|| running.max(init))
}

fn pod_limit(spec: &PodSpec) -> Option<Limit> {
    let bytes = peak(spec, |c| bytes(limit(c))).filter(|b| *b > 0)?;
    let text = all_containers(spec).find_map(limit)?;
    Some(Limit { bytes, text: like(text, bytes) })
}

fn empty_dirs(spec: &PodSpec) -> Vec<EmptyDir> {
    // No source at all means emptyDir, as the API server defaults it.
    let volumes = spec.volumes.iter().flatten().filter(|v| v.host_path.is_none());
    let on_disk =
        volumes.filter(|v| v.empty_dir.as_ref().is_none_or(|e| e.medium.as_deref().unwrap_or("").is_empty()));
    let limit = |v: &k8s_openapi::api::core::v1::Volume| {
        v.empty_dir.as_ref()?.size_limit.as_ref().and_then(|q| Limit::of(&q.0))
    };
    on_disk.map(|v| EmptyDir { name: v.name.clone(), limit: limit(v) }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn candidate(spec: Value) -> ResourceCandidate {
        ResourceCandidate::of(&serde_json::from_value(json!({ "spec": spec })).unwrap())
    }

    fn container(name: &str, request: &str, limit: &str) -> Value {
        let mut container = json!({"name": name});
        for (kind, text) in [("requests", request), ("limits", limit)] {
            if !text.is_empty() {
                container["resources"][kind][EPHEMERAL_STORAGE] = json!(text);
            }
        }
        container
    }

    #[test]
    fn requests_and_limits_of_the_pod() {
        let init = |mut c: Value, sidecar: bool| {
            if sidecar {
                c["restartPolicy"] = json!("Always");
            }
            c
        };
        let (a, b) = (container("a", "1Mi", "10Mi"), container("b", "", ""));
        for (what, containers, inits, want) in [
            ("nothing", vec![b.clone()], vec![], (0, None)),
            ("one limit is the pod's", vec![a.clone(), b.clone()], vec![], (1 << 20, Some("10Mi"))),
            ("the sum", vec![a.clone(), container("c", "1Mi", "6Mi")], vec![], (2 << 20, Some("16Mi"))),
            ("powers of ten", vec![container("c", "", "1500k")], vec![], (0, Some("1500k"))),
            (
                "a hungrier init container",
                vec![a.clone()],
                vec![init(container("i", "3Mi", "20Mi"), false)],
                (3 << 20, Some("20Mi")),
            ),
            (
                "a sidecar runs beside them",
                vec![a.clone()],
                vec![init(container("s", "3Mi", "20Mi"), true)],
                (4 << 20, Some("30Mi")),
            ),
            ("zero is no limit", vec![container("c", "", "0")], vec![], (0, None)),
        ] {
            let c = candidate(json!({"containers": containers, "initContainers": inits}));
            let limit = c.limit.as_ref().map(|l| l.text.as_str());
            assert_eq!((c.request_bytes, limit), want, "{what}");
            assert_eq!(c.has_limits(), limit.is_some(), "{what}");
            assert_eq!(c.containers.len(), containers.len() + inits.len(), "{what}");
        }
    }

    #[test]
    fn volumes_on_disk() {
        let c = candidate(json!({"containers": [], "volumes": [
            {"name": "plain", "emptyDir": {}},
            {"name": "limited", "emptyDir": {"sizeLimit": "0.5Gi"}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "host", "hostPath": {"path": "/"}},
            {"name": "bare"},
        ]}));
        let dirs: Vec<_> = c
            .empty_dirs
            .iter()
            .map(|d| (d.name.as_str(), d.limit.as_ref().map(|l| l.text.as_str())))
            .collect();
        assert_eq!(dirs, [("plain", None), ("limited", Some("512Mi")), ("bare", None)]);
        assert!(c.has_limits() && !c.has_container_limits());
    }
}
