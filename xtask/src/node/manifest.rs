//! Static pod manifests of the sample workload.

use serde_json::{Value, json};

use crate::images;

/// A pod with one container `main` running `oomlet-workload SUBCOMMAND ARGS`; BestEffort, in namespace `default`,
/// restartPolicy Always. Callers change what they need in place: it is plain JSON.
#[must_use]
pub fn pod(name: &str, subcommand: &str, args: &[&str]) -> Value {
    let command: Vec<&str> = ["/oomlet-workload", subcommand].iter().chain(args).copied().collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            // Ends fast when removed; what a grace period does is up to the tests that want one.
            "terminationGracePeriodSeconds": 5,
            "containers": [{
                "name": "main",
                "image": images::WORKLOAD,
                "imagePullPolicy": "Never",
                "command": command,
            }],
        },
    })
}

/// Sets requests and limits of the first container; an empty string leaves that one out.
#[must_use]
pub fn with_memory(mut pod: Value, request: &str, limit: &str) -> Value {
    let container = &mut pod["spec"]["containers"][0];
    for (kind, memory) in [("requests", request), ("limits", limit)] {
        if !memory.is_empty() {
            container["resources"][kind]["memory"] = json!(memory);
        }
    }
    pod
}

/// Requests equal to limits for both resources: QoS class Guaranteed.
#[must_use]
pub fn guaranteed(pod: Value, memory: &str, cpu: &str) -> Value {
    let mut pod = with_memory(pod, memory, memory);
    let container = &mut pod["spec"]["containers"][0];
    for kind in ["requests", "limits"] {
        container["resources"][kind]["cpu"] = json!(cpu);
    }
    pod
}

/// Mounts a folder of the host at `at` in the first container.
#[must_use]
pub fn with_host_path(mut pod: Value, host: &std::path::Path, at: &str) -> Value {
    pod["spec"]["volumes"] = json!([{ "name": "host", "hostPath": { "path": host, "type": "Directory" } }]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "host", "mountPath": at }]);
    pod
}

/// Whether `pod_name` is the static pod of the manifest that says `manifest_name`: the node's name is appended.
#[must_use]
pub fn is_pod_of(pod_name: &str, manifest_name: &str) -> bool {
    pod_name.strip_prefix(manifest_name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::is_pod_of;

    #[test]
    fn static_pods_carry_the_name_of_their_node() {
        for (pod, manifest, expected) in [
            ("hog", "hog", true),
            ("hog-node-1", "hog", true),
            ("hogs", "hog", false),
            ("a-hog", "hog", false),
        ] {
            assert_eq!(is_pod_of(pod, manifest), expected, "{pod} {manifest}");
        }
    }
}
