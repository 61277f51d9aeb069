//! What is in a pod's /etc/hosts. Pure (kubelet: pkg/kubelet/kubelet_pods.go, `managedHostsFileContent`).

use std::fmt::Write;

use crate::pod::Pod;
use crate::pod::spec::{domain, hostname};

/// `node_hosts`: the node's own /etc/hosts, for a pod in the node's network. `None`: there is nothing to be said
/// yet, for the pod has no IP.
#[must_use]
pub fn hosts_file(pod: &Pod, pod_ips: &[String], cluster_domain: &str, node_hosts: &str) -> Option<String> {
    let spec = pod.spec.as_ref();
    let mut text = "# Kubernetes-managed hosts file".to_owned();
    if spec.and_then(|s| s.host_network).unwrap_or(false) {
        text.push_str(" (host network).\n");
        text.push_str(node_hosts);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    } else {
        let first = pod_ips.first()?;
        text.push_str(
            ".\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let name = hostname(pod);
        let names = match domain(pod, cluster_domain) {
            Some(domain) => format!("{name}.{domain}\t{name}"),
            None => name,
        };
        for ip in std::iter::once(first).chain(pod_ips.iter().skip(1)) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{ip}\t{names}");
        }
    }
    let aliases = spec.and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _ = writeln!(text, "{}\t{names}", alias.ip);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hosts() {
        let aliases = json!([{"ip": "10.1.1.1", "hostnames": ["a", "b"]}]);
        for (spec, ips, has, lacks) in [
            (
                json!({"containers": []}),
                vec!["10.0.0.9"],
                vec!["127.0.0.1\tlocalhost\n", "10.0.0.9\tweb\n"],
                vec!["nodehost"],
            ),
            (
                json!({"containers": [], "hostname": "h", "subdomain": "sub"}),
                vec!["10.0.0.9", "fd00::9"],
                vec!["10.0.0.9\th.sub.ns.svc.cluster.local\th\n", "fd00::9\th.sub"],
                vec![],
            ),
            (
                json!({"containers": [], "hostNetwork": true}),
                vec![],
                vec!["(host network)", "1.2.3.4 nodehost\n"],
                vec!["web"],
            ),
            (
                json!({"containers": [], "hostAliases": aliases}),
                vec!["10.0.0.9"],
                vec!["10.1.1.1\ta\tb\n"],
                vec![],
            ),
        ] {
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": spec}))
                    .unwrap();
            let ips: Vec<String> = ips.into_iter().map(str::to_owned).collect();
            let text = hosts_file(&pod, &ips, "cluster.local", "1.2.3.4 nodehost").unwrap();
            for part in has {
                assert!(text.contains(part), "{part:?} is not in {text}");
            }
            for part in lacks {
                assert!(!text.contains(part), "{part:?} is in {text}");
            }
        }
    }

    #[test]
    fn without_an_ip_there_is_no_file() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {"containers": []}})).unwrap();
        assert_eq!(hosts_file(&pod, &[], "", ""), None);
    }
}
