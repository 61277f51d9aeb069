//! The mirror pod: an object in the API server that shows a static pod of this node (pkg/kubelet/pod/mirror_client.go). It
//! is never run; deleting it does nothing to the pod it shows.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::pod::Pod;

/// On the mirror: the UID of the static pod it shows.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// On the static pod and its mirror: the hash of the manifest.
const HASH: &str = "kubernetes.io/config.hash";

#[must_use]
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

/// The object that shows `pod`, which has its name and namespace already. `node_uid`: of the Node object, which owns it, so
/// that a node's mirrors go with it.
#[must_use]
pub fn mirror_of(pod: &Pod, node_name: &str, node_uid: &str) -> Pod {
    let mut mirror = Pod { spec: pod.spec.clone(), ..Pod::default() };
    let mut annotations: BTreeMap<String, String> = pod.metadata.annotations.clone().unwrap_or_default();
    annotations.insert(MIRROR.to_owned(), hash(pod).to_owned());
    mirror.metadata.annotations = Some(annotations);
    mirror.metadata.name.clone_from(&pod.metadata.name);
    mirror.metadata.namespace.clone_from(&pod.metadata.namespace);
    mirror.metadata.labels.clone_from(&pod.metadata.labels);
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node_name.to_owned(),
        uid: node_uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    if let Some(spec) = &mut mirror.spec {
        spec.node_name = Some(node_name.to_owned());
    }
    mirror
}

/// `mirror` shows `pod` as it is: made from the same manifest, and not on its way out.
#[must_use]
pub fn is_current(mirror: &Pod, pod: &Pod) -> bool {
    mirror.metadata.deletion_timestamp.is_none() && annotation(mirror, MIRROR) == Some(hash(pod))
}

fn hash(pod: &Pod) -> &str {
    annotation(pod, HASH).or(pod.metadata.uid.as_deref()).unwrap_or_default()
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn static_pod(hash: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web-n", "namespace": "kube-system", "uid": hash, "labels": {"a": "b"},
                "annotations": {HASH: hash, "kubernetes.io/config.source": "file"}},
            "spec": {"containers": [{"name": "c"}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_mirror_shows_its_pod_until_the_manifest_changes() {
        let pod = static_pod("h1");
        let mut mirror = mirror_of(&pod, "n", "node-uid");
        assert!(is_mirror(&mirror) && !is_mirror(&pod));
        assert_eq!(mirror.metadata.uid, None, "the API server gives it one");
        assert_eq!(mirror.spec.as_ref().unwrap().node_name.as_deref(), Some("n"));
        assert_eq!(mirror.metadata.owner_references.as_ref().unwrap()[0].uid, "node-uid");
        assert!(is_current(&mirror, &pod));
        assert!(!is_current(&mirror, &static_pod("h2")));
        mirror.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert!(!is_current(&mirror, &pod), "somebody deleted it");
    }
}
