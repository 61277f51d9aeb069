//! Pod → the CRI's PodSandboxConfig. Pure (kubelet: kuberuntime/kuberuntime_sandbox.go).

use std::collections::HashMap;
use std::path::Path;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, PodSecurityContext, PodSpec};

use super::container_config::linux_resources;
use super::dns::{NodeDns, PodDns, dns_config};
use super::{names, security_context};
use oomlet_core::pod::qos::{overhead_resources, sandbox_resources};
use oomlet_core::pod::spec::{SOURCE_ANNOTATION, all_containers, kernel_hostname};
use oomlet_core::pod::{Pod, PodRef, sysctl};
use oomlet_core::reason::Reason;

/// What a sandbox's configuration is made from, beside the pod.
#[derive(Clone, Copy, Debug)]
pub struct SandboxInputs<'a> {
    pub attempt: u32,
    /// As the cgroup driver names it for the CRI.
    pub cgroup_parent: &'a str,
    /// Root of all pods' logs.
    pub pod_logs_dir: &'a Path,
    pub dns: &'a NodeDns,
}

/// Of a pod, and what there is to tell of it, each an Event.
#[derive(Clone, Debug, Default)]
pub struct SandboxConfig {
    pub config: cri::PodSandboxConfig,
    pub told: Vec<(Reason, String)>,
}

/// # Errors
/// When the pod's host name does not fit.
pub fn sandbox_config(pod: &Pod, inputs: SandboxInputs<'_>) -> Result<SandboxConfig, String> {
    let who = PodRef::of(pod);
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let mut labels: HashMap<String, String> = pod.metadata.labels.iter().flatten().map(clone_pair).collect();
    labels.extend(pod_labels(&who));
    let mut annotations: HashMap<String, String> =
        pod.metadata.annotations.iter().flatten().map(clone_pair).collect();
    annotations.entry(SOURCE_ANNOTATION.to_owned()).or_insert_with(|| "api".to_owned());
    // With hostNetwork the runtime takes the node's own name.
    let hostname = match spec.host_network {
        Some(true) => String::new(),
        _ => kernel_hostname(pod, &inputs.dns.cluster_domain)?,
    };
    let PodDns { config: dns, told } = dns_config(pod, inputs.dns);
    let config = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: who.name.clone(),
            uid: who.uid.to_string(),
            namespace: who.namespace.clone(),
            attempt: inputs.attempt,
        }),
        hostname,
        log_directory: names::pod_log_dir(inputs.pod_logs_dir, &who).display().to_string(),
        dns_config: Some(dns),
        port_mappings: spec.containers.iter().flat_map(port_mappings).collect(),
        labels,
        annotations,
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: inputs.cgroup_parent.to_owned(),
            security_context: Some(sandbox_security_context(spec)),
            sysctls: sysctls(spec.security_context.as_ref()),
            // For runtimes that make a machine of a sandbox; the pod's cgroup is the agent's.
            overhead: overhead_resources(pod).map(|overhead| linux_resources(&overhead)),
            resources: Some(linux_resources(&sandbox_resources(pod))),
        }),
        windows: None,
    };
    Ok(SandboxConfig { config, told })
}

fn clone_pair((k, v): (&String, &String)) -> (String, String) {
    (k.clone(), v.clone())
}

/// The labels by which a pod's sandboxes and containers are found again.
#[must_use]
pub fn pod_labels(pod: &PodRef) -> [(String, String); 3] {
    [
        (names::POD_NAME.to_owned(), pod.name.clone()),
        (names::POD_NAMESPACE.to_owned(), pod.namespace.clone()),
        (names::POD_UID.to_owned(), pod.uid.to_string()),
    ]
}

fn port_mappings(container: &Container) -> impl Iterator<Item = cri::PortMapping> {
    container.ports.iter().flatten().map(|p| {
        let protocol = match p.protocol.as_deref() {
            Some("UDP") => cri::Protocol::Udp,
            Some("SCTP") => cri::Protocol::Sctp,
            _ => cri::Protocol::Tcp,
        };
        cri::PortMapping {
            protocol: protocol as i32,
            container_port: p.container_port,
            // 0: none.
            host_port: p.host_port.unwrap_or_default(),
            host_ip: p.host_ip.clone().unwrap_or_default(),
        }
    })
}

/// One of the pod's namespaces: the node's, the pod's, or each container's own.
#[must_use]
pub fn namespace_options(spec: &PodSpec) -> cri::NamespaceOption {
    let pod_or_node = |node: Option<bool>| {
        if node.unwrap_or(false) { cri::NamespaceMode::Node } else { cri::NamespaceMode::Pod }
    };
    let pid = if spec.host_pid.unwrap_or(false) {
        cri::NamespaceMode::Node
    } else if spec.share_process_namespace.unwrap_or(false) {
        cri::NamespaceMode::Pod
    } else {
        cri::NamespaceMode::Container
    };
    cri::NamespaceOption {
        network: pod_or_node(spec.host_network) as i32,
        pid: pid as i32,
        ipc: pod_or_node(spec.host_ipc) as i32,
        target_id: String::new(),
        // `hostUsers: false` is refused before.
        userns_options: Some(cri::UserNamespace {
            mode: cri::NamespaceMode::Node as i32,
            ..cri::UserNamespace::default()
        }),
    }
}

fn sandbox_security_context(spec: &PodSpec) -> cri::LinuxSandboxSecurityContext {
    let context = spec.security_context.as_ref();
    let privileged = |c: &Container| c.security_context.as_ref().and_then(|s| s.privileged).unwrap_or(false);
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespace_options(spec)),
        run_as_user: context.and_then(|c| c.run_as_user).map(security_context::int64),
        // A group without a user is refused by the runtime.
        run_as_group: context
            .filter(|c| c.run_as_user.is_some())
            .and_then(|c| c.run_as_group)
            .map(security_context::int64),
        supplemental_groups: security_context::supplemental_groups(context),
        supplemental_groups_policy: security_context::supplemental_groups_policy(context),
        // A privileged container needs a privileged sandbox.
        privileged: all_containers(spec).any(privileged),
        // The pause process gets the runtime's profile whatever the containers ask for, as with kubelet.
        seccomp: Some(cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::RuntimeDefault as i32,
            localhost_ref: String::new(),
        }),
        ..Default::default()
    }
}

fn sysctls(context: Option<&PodSecurityContext>) -> HashMap<String, String> {
    let sysctls = context.and_then(|c| c.sysctls.as_ref());
    sysctls.into_iter().flatten().map(|s| (sysctl::normal(&s.name), s.value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::NamespaceMode::{Container as OwnNs, Node, Pod as PodNs};

    fn config(spec: serde_json::Value) -> cri::PodSandboxConfig {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web-node1", "namespace": "shop", "uid": "u1", "labels": {"app": "web"},
                "annotations": {"kubernetes.io/config.source": "file", "kubernetes.io/config.hash": "u1"}},
            "spec": spec,
        }))
        .unwrap();
        let dns = NodeDns::default();
        sandbox_config(
            &pod,
            SandboxInputs {
                attempt: 2,
                cgroup_parent: "/kubepods/podu1",
                pod_logs_dir: Path::new("/var/log/pods"),
                dns: &dns,
            },
        )
        .unwrap()
        .config
    }

    fn linux(c: cri::PodSandboxConfig) -> cri::LinuxSandboxSecurityContext {
        c.linux.unwrap().security_context.unwrap()
    }

    #[test]
    fn identity_is_kubelets() {
        let c = config(serde_json::json!({"containers": [{"name": "c"}]}));
        let m = c.metadata.unwrap();
        assert_eq!(
            (m.name.as_str(), m.namespace.as_str(), m.uid.as_str(), m.attempt),
            ("web-node1", "shop", "u1", 2)
        );
        assert_eq!(c.log_directory, "/var/log/pods/shop_web-node1_u1");
        assert_eq!(c.hostname, "web-node1");
        for (k, v) in [
            ("app", "web"),
            (names::POD_NAME, "web-node1"),
            (names::POD_NAMESPACE, "shop"),
            (names::POD_UID, "u1"),
        ] {
            assert_eq!(c.labels.get(k).map(String::as_str), Some(v));
        }
        assert_eq!(c.annotations["kubernetes.io/config.source"], "file");
        assert_eq!(c.linux.unwrap().cgroup_parent, "/kubepods/podu1");
    }

    #[test]
    fn namespaces() {
        for (spec, network, pid, ipc) in [
            (serde_json::json!({"containers": []}), PodNs, OwnNs, PodNs),
            (serde_json::json!({"containers": [], "hostNetwork": true}), Node, OwnNs, PodNs),
            (serde_json::json!({"containers": [], "hostPID": true, "hostIPC": true}), PodNs, Node, Node),
            (serde_json::json!({"containers": [], "shareProcessNamespace": true}), PodNs, PodNs, PodNs),
        ] {
            let o = linux(config(spec.clone())).namespace_options.unwrap();
            assert_eq!((o.network, o.pid, o.ipc), (network as i32, pid as i32, ipc as i32), "{spec}");
        }
    }

    #[test]
    fn host_network_takes_the_nodes_name() {
        assert_eq!(config(serde_json::json!({"containers": [], "hostNetwork": true})).hostname, "");
        assert_eq!(config(serde_json::json!({"containers": [], "hostname": "db"})).hostname, "db");
    }

    #[test]
    fn ports_are_mapped_those_on_the_host_with_their_port_there() {
        let c = config(serde_json::json!({"containers": [{"name": "a", "ports": [
            {"containerPort": 80}, {"containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "127.0.0.1"}]}]}));
        let [own, p] = &c.port_mappings[..] else { panic!("{:?}", c.port_mappings) };
        assert_eq!((own.container_port, own.host_port), (80, 0));
        assert_eq!(
            (p.protocol, p.container_port, p.host_port, p.host_ip.as_str()),
            (cri::Protocol::Udp as i32, 53, 5353, "127.0.0.1")
        );
    }

    #[test]
    fn security() {
        let plain = linux(config(serde_json::json!({"containers": [{"name": "c"}]})));
        assert!(!plain.privileged && plain.run_as_user.is_none() && plain.supplemental_groups.is_empty());
        let c = config(serde_json::json!({
            "initContainers": [{"name": "i", "securityContext": {"privileged": true}}], "containers": [{"name": "c"}],
            "securityContext": {"runAsUser": 7, "runAsGroup": 8, "fsGroup": 9, "supplementalGroups": [10],
                "sysctls": [{"name": "net.core.somaxconn", "value": "1024"}]}}));
        assert_eq!(c.linux.as_ref().unwrap().sysctls["net.core.somaxconn"], "1024");
        let s = linux(c);
        assert!(s.privileged);
        assert_eq!((s.run_as_user.unwrap().value, s.run_as_group.unwrap().value), (7, 8));
        assert_eq!(s.supplemental_groups, [9, 10]);
        let group_only =
            linux(config(serde_json::json!({"containers": [], "securityContext": {"runAsGroup": 8}})));
        assert!(group_only.run_as_group.is_none());
    }
}
