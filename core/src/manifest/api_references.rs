//! What of a manifest names an object of the API server, in the order in which kubelet looks
//! (`HasAPIObjectReference`, pkg/api/pod/util.go).

use k8s_openapi::api::core::v1::{Pod, Volume};

use crate::object::ObjectKind;
use crate::pod::references::references;

/// What kubelet calls the first of them.
pub(super) fn first(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    let named = |name: &Option<String>| name.as_ref().is_some_and(|n| !n.is_empty());
    if named(&spec.service_account_name) || named(&spec.service_account) {
        return Some("serviceaccounts");
    }
    let volumes = || spec.volumes.iter().flatten();
    let objects = references(pod);
    let any = |kind| objects.keys().any(|object| object.kind == kind);
    if any(ObjectKind::Secret) || volumes().any(names_a_secret) {
        return Some("secrets");
    }
    if any(ObjectKind::ConfigMap) {
        return Some("configmaps");
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Some("resourceclaims");
    }
    volumes().find_map(of_volume)
}

/// By a reference of a type of volume that this agent does not have.
fn names_a_secret(volume: &Volume) -> bool {
    volume.azure_file.as_ref().is_some_and(|v| !v.secret_name.is_empty())
        || volume.cephfs.as_ref().is_some_and(|v| v.secret_ref.is_some())
        || volume.cinder.as_ref().is_some_and(|v| v.secret_ref.is_some())
        || volume.flex_volume.as_ref().is_some_and(|v| v.secret_ref.is_some())
        || volume.rbd.as_ref().is_some_and(|v| v.secret_ref.is_some())
        || volume.scale_io.is_some()
        || volume.iscsi.as_ref().is_some_and(|v| v.secret_ref.is_some())
        || volume.storageos.as_ref().is_some_and(|v| v.secret_ref.is_some())
        || volume.csi.as_ref().is_some_and(|v| v.node_publish_secret_ref.is_some())
}

fn of_volume(volume: &Volume) -> Option<&'static str> {
    let kinds = [
        ("configmaps (via configmap volumes)", volume.config_map.is_some()),
        ("secrets (via secret volumes)", volume.secret.is_some()),
        ("csidrivers (via CSI volumes)", volume.csi.is_some()),
        ("endpoints (via glusterFS volumes)", volume.glusterfs.is_some()),
        ("persistentvolumeclaims", volume.persistent_volume_claim.is_some()),
        ("persistentvolumeclaims (via ephemeral volumes)", volume.ephemeral.is_some()),
        ("secrets (via azureFile volumes)", volume.azure_file.is_some()),
    ];
    let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
    let projected = sources.into_iter().find_map(|source| {
        let kinds = [
            ("configmaps (via projected volumes)", source.config_map.is_some()),
            ("secrets (via projected volumes)", source.secret.is_some()),
            ("serviceaccounts (via projected volumes)", source.service_account_token.is_some()),
            ("clustertrustbundles", source.cluster_trust_bundle.is_some()),
            ("podcertificates", source.pod_certificate.is_some()),
        ];
        kinds.into_iter().find(|(_, set)| *set)
    });
    kinds.into_iter().find(|(_, set)| *set).or(projected).map(|(kind, _)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(spec: &Value) -> Option<&'static str> {
        let mut whole = json!({"containers": [{"name": "c"}]});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        first(&serde_json::from_value(json!({"spec": whole})).unwrap())
    }

    #[test]
    fn everything_that_the_api_server_holds() {
        let volume = |volume: Value| json!({"volumes": [volume]});
        let projected =
            |source: Value| json!({"volumes": [{"name": "v", "projected": {"sources": [source]}}]});
        let env = |source: Value| json!({"containers": [{"name": "c", "env": [{"name": "V", "valueFrom": source}]}]});
        for (spec, want) in [
            (json!({}), None),
            (json!({"serviceAccountName": "default"}), Some("serviceaccounts")),
            (json!({"serviceAccount": "default"}), Some("serviceaccounts")),
            (json!({"imagePullSecrets": [{"name": "s"}]}), Some("secrets")),
            (json!({"imagePullSecrets": [{}]}), None),
            (env(json!({"secretKeyRef": {"name": "s", "key": "k"}})), Some("secrets")),
            (
                env(json!({"configMapKeyRef": {"name": "s", "key": "k", "optional": true}})),
                Some("configmaps"),
            ),
            (env(json!({"fileKeyRef": {"volumeName": "v", "path": "f", "key": "k"}})), None),
            (
                json!({"containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "x"}}]}]}),
                Some("configmaps"),
            ),
            (json!({"resourceClaims": [{"name": "r"}]}), Some("resourceclaims")),
            (volume(json!({"name": "v", "configMap": {"name": "x"}})), Some("configmaps")),
            (volume(json!({"name": "v", "configMap": {}})), Some("configmaps (via configmap volumes)")),
            (volume(json!({"name": "v", "secret": {"secretName": "x"}})), Some("secrets")),
            (volume(json!({"name": "v", "csi": {"driver": "d"}})), Some("csidrivers (via CSI volumes)")),
            (
                volume(json!({"name": "v", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}})),
                Some("secrets"),
            ),
            (
                volume(json!({"name": "v", "persistentVolumeClaim": {"claimName": "x"}})),
                Some("persistentvolumeclaims"),
            ),
            (
                volume(json!({"name": "v", "ephemeral": {}})),
                Some("persistentvolumeclaims (via ephemeral volumes)"),
            ),
            (volume(json!({"name": "v", "emptyDir": {}})), None),
            (volume(json!({"name": "v", "hostPath": {"path": "/x"}})), None),
            (volume(json!({"name": "v", "downwardAPI": {"items": []}})), None),
            (projected(json!({"downwardAPI": {"items": []}})), None),
            (projected(json!({"secret": {"name": "x"}})), Some("secrets")),
            (
                projected(json!({"serviceAccountToken": {"path": "t"}})),
                Some("serviceaccounts (via projected volumes)"),
            ),
            (projected(json!({"clusterTrustBundle": {"path": "t"}})), Some("clustertrustbundles")),
            (
                projected(json!({"podCertificate": {"signerName": "s", "keyType": "ED25519"}})),
                Some("podcertificates"),
            ),
        ] {
            assert_eq!(of(&spec), want, "{spec}");
        }
    }
}
