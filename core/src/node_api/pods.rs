//! The pods of the node as `/pods` and `/runningpods/` tell of them, and finding one of them by name.

use k8s_openapi::api::core::v1::Container;
use serde_json::{Value, json};

use crate::node::published::{NodeSnapshot, PublishedPod};
use crate::pod::{Pod, PodRef};

/// The pod of this name; of several the one that does not end.
#[must_use]
pub fn by_name<'a>(snapshot: &'a NodeSnapshot, namespace: &str, name: &str) -> Option<&'a PublishedPod> {
    let is = |pod: &Pod| {
        pod.metadata.name.as_deref() == Some(name) && pod.metadata.namespace.as_deref() == Some(namespace)
    };
    let found = snapshot.pods.values().filter(|published| is(&published.pod));
    let ends = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    found.min_by_key(|published| ends(&published.pod)).map(AsRef::as_ref)
}

/// The container of this name, whatever kind it is of.
#[must_use]
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<Named<'a>> {
    containers(pod).find(|found| found.name == name)
}

/// All of them, the pod's own first.
pub fn containers(pod: &Pod) -> impl Iterator<Item = Named<'_>> {
    pod.spec.iter().flat_map(|spec| {
        let usual = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let usual = usual.map(|c: &Container| Named { name: &c.name, tty: c.tty == Some(true) });
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        let ephemeral = ephemeral.map(|c| Named { name: &c.name, tty: c.tty == Some(true) });
        usual.chain(ephemeral)
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<'a> {
    pub name: &'a str,
    pub tty: bool,
}

/// All of them as a PodList.
#[must_use]
pub fn list(snapshot: &NodeSnapshot) -> Value {
    let item = |published: &PublishedPod| {
        let pod = Pod { status: Some(published.status.as_ref().clone()), ..published.pod.as_ref().clone() };
        let mut item = json!(pod);
        // The list says it for all.
        if let Some(fields) = item.as_object_mut() {
            fields.remove("apiVersion");
            fields.remove("kind");
        }
        item
    };
    pod_list(snapshot.pods.values().map(|published| item(published)).collect())
}

/// What the runtime says of a pod that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunningPod {
    pub pod: Option<PodRef>,
    /// Name and image of each container.
    pub containers: Vec<(String, String)>,
}

#[must_use]
pub fn running(pods: &[RunningPod]) -> Value {
    let item = |running: &RunningPod| {
        let pod = running.pod.as_ref()?;
        let containers = running.containers.iter();
        let containers: Vec<Value> = containers
            .map(|(name, image)| json!({ "name": name, "image": image, "resources": {} }))
            .collect();
        let containers = if containers.is_empty() { Value::Null } else { json!(containers) };
        Some(json!({
            "metadata": { "name": pod.name, "namespace": pod.namespace, "uid": pod.uid.as_str() },
            "spec": { "containers": containers },
            "status": {},
        }))
    };
    pod_list(pods.iter().filter_map(item).collect())
}

fn pod_list(items: Vec<Value>) -> Value {
    // Go writes a list of nothing so.
    let items = if items.is_empty() { Value::Null } else { json!(items) };
    json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pod::PodUid;

    fn snapshot(pods: &[Value]) -> NodeSnapshot {
        let mut snapshot = NodeSnapshot::default();
        for pod in pods {
            let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
            let uid: PodUid = PodRef::of(&pod).uid;
            let published = PublishedPod { pod: Arc::new(pod), ..PublishedPod::default() };
            snapshot.pods.insert(uid, Arc::new(published));
        }
        snapshot
    }

    fn pod(uid: &str, namespace: &str, name: &str) -> Value {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": namespace, "uid": uid },
            "spec": { "containers": [{ "name": "c" }], "initContainers": [{ "name": "i", "tty": true }] } })
    }

    #[test]
    fn one_is_found_by_its_name() {
        let mut ending = pod("1", "a", "x");
        ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let snapshot = snapshot(&[ending, pod("2", "a", "x"), pod("3", "b", "x")]);
        let uid = |namespace, name| by_name(&snapshot, namespace, name)?.pod.metadata.uid.clone();
        assert_eq!(uid("a", "x").as_deref(), Some("2"));
        assert_eq!(uid("b", "x").as_deref(), Some("3"));
        assert_eq!(uid("a", "y"), None);
        let found = by_name(&snapshot, "a", "x").unwrap();
        assert_eq!(container(&found.pod, "i"), Some(Named { name: "i", tty: true }));
        assert_eq!(container(&found.pod, "z"), None);
    }

    #[test]
    fn lists_are_as_kubelet_s() {
        assert_eq!(
            list(&snapshot(&[])),
            json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": null })
        );
        let listed = list(&snapshot(&[pod("1", "a", "x")]));
        assert_eq!(listed["items"][0]["metadata"]["name"], "x");
        assert_eq!(listed["items"][0].get("kind"), None);
        let running = running(&[RunningPod {
            pod: Some(PodRef { namespace: "a".into(), name: "x".into(), uid: "1".into() }),
            containers: vec![("c".into(), "busybox".into())],
        }]);
        assert_eq!(running["items"][0]["spec"]["containers"][0]["image"], "busybox");
    }
}
