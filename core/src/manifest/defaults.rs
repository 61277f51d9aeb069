//! What kubelet and the API server add to a static pod's manifest (pkg/kubelet/config/common.go,
//! pkg/apis/core/v1/defaults.go). Core.

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EmptyDirVolumeSource, Pod, PodSecurityContext, PodSpec, Toleration, Volume,
};

use crate::node::event::PodSource;
use crate::pod::spec::{DEFAULT_GRACE_S, SOURCE_ANNOTATION};

/// What a pod's name becomes on this node.
pub(super) fn name_on_node(name: &str, hostname: &str) -> String {
    format!("{name}-{}", hostname.to_lowercase())
}

pub(super) fn apply(pod: &mut Pod, uid: String, source: PodSource, hostname: &str) {
    let meta = &mut pod.metadata;
    meta.name = Some(name_on_node(meta.name.as_deref().unwrap_or_default(), hostname));
    meta.namespace.get_or_insert_with(|| "default".to_owned());
    let uid = meta.uid.take().filter(|given| !given.is_empty()).unwrap_or(uid);
    // kubelet adds `config.seen`, too; a time in it would make every agent see another pod.
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(SOURCE_ANNOTATION.to_owned(), source.as_str().to_owned());
    set_uid(pod, &uid);
    // Says how the file came about, not what is to run.
    pod.status = None;
    if let Some(spec) = &mut pod.spec {
        apply_spec(spec, hostname);
    }
}

pub(super) fn set_uid(pod: &mut Pod, uid: &str) {
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert("kubernetes.io/config.hash".to_owned(), uid.to_owned());
    pod.metadata.uid = Some(uid.to_owned());
}

fn apply_spec(spec: &mut PodSpec, hostname: &str) {
    spec.node_name = Some(hostname.to_owned());
    spec.restart_policy.get_or_insert_with(|| "Always".to_owned());
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".to_owned());
    spec.scheduler_name.get_or_insert_with(|| "default-scheduler".to_owned());
    spec.termination_grace_period_seconds.get_or_insert(DEFAULT_GRACE_S);
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_with(PodSecurityContext::default);
    // A static pod belongs to its node, whatever taints come.
    let stays = Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&stays) {
        tolerations.push(stays);
    }
    for volume in spec.volumes.iter_mut().flatten() {
        // A volume that names no source is an emptyDir.
        if *volume == (Volume { name: volume.name.clone(), ..Volume::default() }) {
            volume.empty_dir = Some(EmptyDirVolumeSource::default());
        }
    }
    let host_network = spec.host_network == Some(true);
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        apply_container(container, host_network);
    }
}

fn apply_container(container: &mut Container, host_network: bool) {
    if container.image_pull_policy.is_none() {
        let policy =
            if is_latest(container.image.as_deref().unwrap_or_default()) { "Always" } else { "IfNotPresent" };
        container.image_pull_policy = Some(policy.to_owned());
    }
    container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".to_owned());
    container.termination_message_policy.get_or_insert_with(|| "File".to_owned());
    for port in container.ports.iter_mut().flatten() {
        apply_port(port, host_network);
    }
    if let Some(resources) = &mut container.resources
        && let Some(limits) = resources.limits.clone()
    {
        // A limit without a request is the request.
        let requests = resources.requests.get_or_insert_default();
        for (resource, limit) in limits {
            requests.entry(resource).or_insert(limit);
        }
    }
}

fn apply_port(port: &mut ContainerPort, host_network: bool) {
    port.protocol.get_or_insert_with(|| "TCP".to_owned());
    if host_network {
        port.host_port.get_or_insert(port.container_port);
    }
}

/// No tag, or the tag `latest`, and no digest.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    // A colon before the last slash belongs to the registry's port.
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

#[cfg(test)]
mod tests {
    use super::is_latest;

    #[test]
    fn latest() {
        for (image, want) in [
            ("busybox", true),
            ("busybox:latest", true),
            ("host:5000/busybox", true),
            ("host:5000/busybox:latest", true),
            ("busybox:1.36", false),
            ("host:5000/a/b:1", false),
            ("busybox@sha256:0123", false),
            ("busybox:latest@sha256:0123", false),
        ] {
            assert_eq!(is_latest(image), want, "{image}");
        }
    }
}
