//! What is asked of a pod's manifest in more than one place.

use std::borrow::Cow;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, PodSpec, VolumeMount};

use super::Pod;
use super::status::conditions_of_others;

/// kubelet's `minimumGracePeriodInSeconds` (kuberuntime_container.go): a deletion gives a container at least this
/// long, an eviction need not.
pub const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// What the API server writes where a manifest says nothing (`DefaultTerminationGracePeriodSeconds`).
pub const DEFAULT_GRACE_S: i64 = 30;

/// Init containers first; without ephemeral ones, which are no part of what the pod is there for.
pub fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// As containers: what they have in common with others.
pub fn ephemeral_containers(spec: &PodSpec) -> impl Iterator<Item = Container> {
    spec.ephemeral_containers.iter().flatten().map(|c| {
        let c = c.clone();
        Container {
            args: c.args,
            command: c.command,
            env: c.env,
            env_from: c.env_from,
            image: c.image,
            image_pull_policy: c.image_pull_policy,
            lifecycle: c.lifecycle,
            liveness_probe: c.liveness_probe,
            name: c.name,
            ports: c.ports,
            readiness_probe: c.readiness_probe,
            resize_policy: c.resize_policy,
            resources: c.resources,
            restart_policy: c.restart_policy,
            restart_policy_rules: c.restart_policy_rules,
            security_context: c.security_context,
            startup_probe: c.startup_probe,
            stdin: c.stdin,
            stdin_once: c.stdin_once,
            termination_message_path: c.termination_message_path,
            termination_message_policy: c.termination_message_policy,
            tty: c.tty,
            volume_devices: c.volume_devices,
            volume_mounts: c.volume_mounts,
            working_dir: c.working_dir,
        }
    })
}

/// Whatever kind it is of.
#[must_use]
pub fn container_named<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, Container>> {
    let spec = pod.spec.as_ref()?;
    let usual = all_containers(spec).find(|c| c.name == name).map(Cow::Borrowed);
    usual.or_else(|| ephemeral_containers(spec).find(|c| c.name == name).map(Cow::Owned))
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

/// Whether a volume's mount is read-only with all that is mounted below it (kubelet: `resolveRecursiveReadOnly`).
/// `supported`: by the runtime.
///
/// # Errors
/// Why that cannot be, of a mount that insists on it.
pub fn recursive_read_only(mount: &VolumeMount, supported: bool) -> Result<bool, String> {
    let asked = mount.recursive_read_only.as_deref().unwrap_or("Disabled");
    let refused = |why: &str| {
        Err(format!("volume {:?} requested recursive read-only mode, but it is {why}", mount.name))
    };
    if asked == "Disabled" {
        return Ok(false);
    }
    if mount.read_only != Some(true) {
        return refused("not read-only");
    }
    if let Some(propagation) = mount.mount_propagation.as_deref().filter(|mode| *mode != "None") {
        return refused(&format!("not compatible with propagation {propagation:?}"));
    }
    match asked {
        "IfPossible" => Ok(supported),
        "Enabled" if !supported => refused("not supported by the runtime"),
        "Enabled" => Ok(true),
        other => Err(format!("unknown recursive read-only mode {other:?}")),
    }
}

/// What the kernel holds of a node name.
const MAX_FQDN: usize = 64;

/// `spec.hostnameOverride` or `spec.hostname`, or the pod's name; cut to the 63 bytes that a host name may have.
#[must_use]
pub fn hostname(pod: &Pod) -> String {
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    let own = pod.spec.as_ref().and_then(|s| given(&s.hostname_override).or_else(|| given(&s.hostname)));
    let name = own.unwrap_or_else(|| pod.metadata.name.clone().unwrap_or_default());
    // A cut must not leave a trailing dash or dot (kubelet: truncatePodHostnameIfNeeded).
    match name.char_indices().nth(63) {
        Some((end, _)) => name[..end].trim_end_matches(['-', '.']).to_owned(),
        None => name,
    }
}

/// With `spec.subdomain`, as the headless Service of that name makes it resolvable. `None`: the pod is in no domain.
#[must_use]
pub fn domain(pod: &Pod, cluster_domain: &str) -> Option<String> {
    let spec = pod.spec.as_ref().filter(|s| s.hostname_override.is_none())?;
    let subdomain = spec.subdomain.as_deref().filter(|s| !s.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    Some(format!("{subdomain}.{namespace}.svc.{cluster_domain}"))
}

/// What `hostname` says in the pod: its host name, and its domain with it where `setHostnameAsFQDN` is set (kubelet:
/// `GetNodenameForKernel`).
///
/// # Errors
/// When both together are longer than the kernel's 64 bytes.
pub fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let name = hostname(pod);
    let as_fqdn = pod.spec.as_ref().and_then(|s| s.set_hostname_as_fqdn).unwrap_or(false);
    let Some(domain) = domain(pod, cluster_domain).filter(|_| as_fqdn) else { return Ok(name) };
    let fqdn = format!("{name}.{domain}");
    if fqdn.len() > MAX_FQDN {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long ({MAX_FQDN} \
             characters is the max, {} characters requested)",
            fqdn.len()
        ));
    }
    Ok(fqdn)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn read_only_with_all_below() {
        for (mount, with, without) in [
            (json!({}), Ok(false), Ok(false)),
            (json!({ "recursiveReadOnly": "Disabled" }), Ok(false), Ok(false)),
            (json!({ "recursiveReadOnly": "IfPossible", "readOnly": true }), Ok(true), Ok(false)),
            (json!({ "recursiveReadOnly": "Enabled", "readOnly": true }), Ok(true), Err("not supported")),
            (json!({ "recursiveReadOnly": "Enabled" }), Err("not read-only"), Err("not read-only")),
            (
                json!({ "recursiveReadOnly": "IfPossible", "readOnly": true, "mountPropagation": "HostToContainer" }),
                Err("not compatible with propagation \"HostToContainer\""),
                Err("not compatible"),
            ),
            (json!({ "recursiveReadOnly": "Some", "readOnly": true }), Err("unknown"), Err("unknown")),
        ] {
            let mut mount = mount;
            (mount["name"], mount["mountPath"]) = (json!("v"), json!("/v"));
            let mount: VolumeMount = serde_json::from_value(mount).unwrap();
            for (supported, expected) in [(true, with), (false, without)] {
                match (recursive_read_only(&mount, supported), expected) {
                    (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{mount:?}"),
                    (Err(found), Err(part)) => assert!(found.contains(part), "{found}"),
                    (found, _) => panic!("{mount:?}: {found:?}"),
                }
            }
        }
    }

    #[test]
    fn names_of_a_pod() {
        let long = "a".repeat(62) + "-bc";
        let cut = "a".repeat(62);
        for (name, spec, hostname_is, kernel) in [
            ("web", json!({}), "web", Ok("web")),
            ("web", json!({ "hostname": "h", "subdomain": "s" }), "h", Ok("h")),
            ("web", json!({ "subdomain": "s", "setHostnameAsFQDN": true }), "web", Ok("web.s.ns.svc.c")),
            ("web", json!({ "setHostnameAsFQDN": true }), "web", Ok("web")),
            (
                "web",
                json!({ "hostnameOverride": "a.b", "hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true }),
                "a.b",
                Ok("a.b"),
            ),
            (&long, json!({}), &cut, Ok(cut.as_str())),
            (&long, json!({ "subdomain": "s", "setHostnameAsFQDN": true }), &cut, Err("is too long (64")),
        ] {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let pod = json!({ "metadata": { "name": name, "namespace": "ns" }, "spec": spec });
            let pod: Pod = serde_json::from_value(pod).unwrap();
            assert_eq!(hostname(&pod), hostname_is);
            match (kernel_hostname(&pod, "c"), kernel) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{spec}"),
                (Err(found), Err(part)) => assert!(found.contains(part), "{found}"),
                (found, _) => panic!("{spec}: {found:?}"),
            }
        }
    }
}
