//! What a pod needs that is not in its manifest: ConfigMaps and Secrets, and tokens of its ServiceAccount. Core.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, Volume};

use super::spec::{all_containers, ephemeral_containers};
use crate::object::{ObjectKind, ObjectRef};

/// What stands behind a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needed {
    /// Every reference to it is optional: the pod starts without it.
    pub optional: bool,
    /// A volume shows it: a change is to reach the pod while it runs.
    pub mounted: bool,
}

/// Each object that the pod names: in volumes, in environments, for pulling images.
#[must_use]
pub fn references(pod: &Pod) -> BTreeMap<ObjectRef, Needed> {
    let mut found =
        Found { namespace: pod.metadata.namespace.as_deref().unwrap_or_default(), needed: BTreeMap::new() };
    let Some(spec) = &pod.spec else { return found.needed };
    for volume in spec.volumes.iter().flatten() {
        found.volume(volume);
    }
    for container in all_containers(spec) {
        found.container(container);
    }
    for container in ephemeral_containers(spec) {
        found.container(&container);
    }
    for secret in spec.image_pull_secrets.iter().flatten() {
        // kubelet pulls without one that is not there.
        found.add(ObjectKind::Secret, &secret.name, Some(true), false);
    }
    found.needed
}

/// A volume of the pod shows something that changes while the pod runs: its own labels and annotations.
#[must_use]
pub fn shows_its_metadata(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.into_iter().any(|v| {
        let projected = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
        v.downward_api.is_some() || projected.into_iter().any(|s| s.downward_api.is_some())
    })
}

struct Found<'a> {
    namespace: &'a str,
    needed: BTreeMap<ObjectRef, Needed>,
}

impl Found<'_> {
    fn add(&mut self, kind: ObjectKind, name: &str, optional: Option<bool>, mounted: bool) {
        if name.is_empty() {
            return;
        }
        let optional = optional == Some(true);
        let object = ObjectRef::new(kind, self.namespace, name);
        let needed = self.needed.entry(object).or_insert(Needed { optional, mounted });
        needed.optional &= optional;
        needed.mounted |= mounted;
    }

    fn volume(&mut self, volume: &Volume) {
        if let Some(map) = &volume.config_map {
            self.add(ObjectKind::ConfigMap, &map.name, map.optional, true);
        }
        if let Some(secret) = &volume.secret {
            let name = secret.secret_name.as_deref().unwrap_or_default();
            self.add(ObjectKind::Secret, name, secret.optional, true);
        }
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            if let Some(map) = &source.config_map {
                self.add(ObjectKind::ConfigMap, &map.name, map.optional, true);
            }
            if let Some(secret) = &source.secret {
                self.add(ObjectKind::Secret, &secret.name, secret.optional, true);
            }
        }
    }

    fn container(&mut self, container: &Container) {
        for from in container.env_from.iter().flatten() {
            if let Some(map) = &from.config_map_ref {
                self.add(ObjectKind::ConfigMap, &map.name, map.optional, false);
            }
            if let Some(secret) = &from.secret_ref {
                self.add(ObjectKind::Secret, &secret.name, secret.optional, false);
            }
        }
        for source in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
            if let Some(key) = &source.config_map_key_ref {
                self.add(ObjectKind::ConfigMap, &key.name, key.optional, false);
            }
            if let Some(key) = &source.secret_key_ref {
                self.add(ObjectKind::Secret, &key.name, key.optional, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_place_counts() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {
                "imagePullSecrets": [{"name": "pull"}, {}],
                "volumes": [
                    {"name": "a", "configMap": {"name": "cm"}},
                    {"name": "b", "secret": {"secretName": "s", "optional": true}},
                    {"name": "c", "projected": {"sources": [{"secret": {"name": "ps"}}, {"configMap": {"name": "pc", "optional": true}}]}},
                    {"name": "d", "emptyDir": {}},
                ],
                "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "from"}}, {"secretRef": {"name": "s"}}]}],
                "containers": [{"name": "c", "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k", "optional": true}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}},
                ]}],
            },
        }))
        .unwrap();
        let found: Vec<String> = references(&pod)
            .iter()
            .map(|(object, n)| format!("{object} {} {}", n.optional, n.mounted))
            .collect();
        let want = [
            "configmap \"cm\" false true",
            "configmap \"from\" false false",
            "configmap \"pc\" true true",
            "secret \"key\" false false",
            "secret \"ps\" false true",
            "secret \"pull\" true false",
            "secret \"s\" false true",
        ];
        assert_eq!(found, want);
        assert!(references(&pod).keys().all(|o| o.namespace == "ns"));
        assert!(!shows_its_metadata(&pod));
    }

    #[test]
    fn metadata_is_shown_by_volumes_alone() {
        for (volume, want) in [
            (json!({"name": "d", "downwardAPI": {"items": []}}), true),
            (json!({"name": "p", "projected": {"sources": [{"downwardAPI": {}}]}}), true),
            (json!({"name": "p", "projected": {"sources": [{"secret": {"name": "s"}}]}}), false),
        ] {
            let pod: Pod =
                serde_json::from_value(json!({"spec": {"containers": [], "volumes": [volume]}})).unwrap();
            assert_eq!(shows_its_metadata(&pod), want);
        }
    }
}
