//! Several sources in one volume. A later one wins where two have a path (pkg/volume/projected).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, ProjectedVolumeSource, VolumeProjection};

use super::payload::{File, PayloadError, mode, of_object};
use super::{Content, DEFAULT_MODE, downward, fs_group, fs_user};
use crate::object::ObjectKind;
use crate::pod_certificate::Credential;
use crate::token::TokenKey;
use crate::trust_bundle::anchors;

/// `volume`: its name.
///
/// # Errors
/// Every source that gives nothing.
pub fn files(
    volume: &str,
    source: &ProjectedVolumeSource,
    pod: &Pod,
    content: &Content,
) -> Result<BTreeMap<String, File>, PayloadError> {
    let default_mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    let (mut files, mut errors) = (BTreeMap::new(), Vec::new());
    for (index, projection) in source.sources.iter().flatten().enumerate() {
        match one(projection, (volume, index), default_mode, pod, content) {
            Ok(found) => files.extend(found),
            Err(error) => errors.push(error),
        }
    }
    match PayloadError::all(errors) {
        Some(error) => Err(error),
        None => Ok(files),
    }
}

fn one(
    projection: &VolumeProjection,
    (volume, index): (&str, usize),
    default_mode: i32,
    pod: &Pod,
    content: &Content,
) -> Result<BTreeMap<String, File>, PayloadError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(secret) = &projection.secret {
        let items = secret.items.as_deref().unwrap_or_default();
        let object = (ObjectKind::Secret, namespace, secret.name.as_str());
        of_object(object, items, default_mode, secret.optional == Some(true), &content.objects)
    } else if let Some(map) = &projection.config_map {
        let items = map.items.as_deref().unwrap_or_default();
        let object = (ObjectKind::ConfigMap, namespace, map.name.as_str());
        of_object(object, items, default_mode, map.optional == Some(true), &content.objects)
    } else if let Some(downward_api) = &projection.downward_api {
        let items = downward_api.items.as_deref().unwrap_or_default();
        downward::files(items, default_mode, pod, &content.node)
    } else if let Some(wanted) = &projection.service_account_token {
        let token = content.tokens.get(&TokenKey::of(pod, wanted)).map_err(PayloadError::Token)?;
        let file = private(token.value.clone().into_bytes(), default_mode, pod);
        Ok(BTreeMap::from([(wanted.path.clone(), file)]))
    } else if let Some(wanted) = &projection.cluster_trust_bundle {
        let anchors = anchors(wanted, &content.trust_bundles).map_err(PayloadError::TrustBundle)?;
        Ok(BTreeMap::from([(wanted.path.clone(), private(anchors, default_mode, pod))]))
    } else if let Some(wanted) = &projection.pod_certificate {
        let Credential { key, chain, .. } =
            content.credentials.get(volume, index).map_err(PayloadError::Certificate)?;
        let parts = [
            (&wanted.credential_bundle_path, format!("{key}{chain}")),
            (&wanted.key_path, key.clone()),
            (&wanted.certificate_chain_path, chain.clone()),
        ];
        let named = parts.into_iter().filter_map(|(path, text)| {
            let path = path.clone().filter(|path| !path.is_empty())?;
            Some((path, private(text.into_bytes(), default_mode, pod)))
        });
        Ok(named.collect())
    } else {
        // A source that names nothing gives nothing.
        Ok(BTreeMap::new())
    }
}

/// The pod's user alone may read it; with an fsGroup that group too, once the volume's ownership is set.
fn private(data: Vec<u8>, default_mode: i32, pod: &Pod) -> File {
    let owner = fs_user(pod);
    let private = owner.is_some() || fs_group(pod).is_some();
    File { data, mode: if private { 0o600 } else { mode(None, default_mode) }, owner }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Object, ObjectError, ObjectRef};
    use crate::token::{Token, keys};
    use serde_json::json;
    use std::sync::Arc;

    fn pod(security: &serde_json::Value) -> Pod {
        let sources = json!([
            {"serviceAccountToken": {"path": "token"}},
            {"configMap": {"name": "cm", "items": [{"key": "k", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            {"secret": {"name": "s"}},
        ]);
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"securityContext": security, "containers": [{"name": "c"}],
                "volumes": [{"name": "v", "projected": {"sources": sources, "defaultMode": 0o640}}]},
        }))
        .unwrap()
    }

    fn content(pod: &Pod) -> Content {
        let object = |key: &str, value: &str| {
            Ok(Arc::new(Object { data: [(key.to_owned(), value.into())].into(), ..Object::default() }))
        };
        let token = || Token { value: "tok".into(), expires_unix_s: 1, lifetime_s: 1 };
        Content {
            objects: [
                (ObjectRef::new(ObjectKind::ConfigMap, "ns", "cm"), object("k", "ca")),
                // The same path as the token's: it comes later and wins nothing but its own.
                (ObjectRef::new(ObjectKind::Secret, "ns", "s"), object("ns", "from the secret")),
            ]
            .into_iter()
            .collect(),
            tokens: keys(pod).map(|key| (key, Ok(token()))).collect(),
            ..Content::default()
        }
    }

    fn shown(pod: &Pod, content: &Content) -> Result<String, String> {
        let source = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0].projected.as_ref().unwrap();
        let found = files("v", source, pod, content).map_err(|e| e.to_string())?;
        let text = |f: &File| String::from_utf8_lossy(&f.data).into_owned();
        Ok(found.iter().map(|(p, f)| format!("{p}={} {:o} {:?}; ", text(f), f.mode, f.owner)).collect())
    }

    #[test]
    fn sources_are_merged_and_the_token_is_its_users() {
        let rest = "ca.crt=ca 640 None; ns=from the secret 640 None; ";
        for (security, token) in [
            (json!({}), "token=tok 640 None; "),
            (json!({"runAsUser": 1000}), "token=tok 600 Some(1000); "),
            (json!({"fsGroup": 3000}), "token=tok 600 None; "),
        ] {
            let pod = pod(&security);
            assert_eq!(shown(&pod, &content(&pod)), Ok(format!("{rest}{token}")));
        }
    }

    #[test]
    fn all_that_is_missing_is_told() {
        let pod = pod(&json!({}));
        let gone = ObjectRef::new(ObjectKind::Secret, "ns", "s");
        let mut content = content(&pod);
        content.tokens = keys(&pod).map(|key| (key, Err("failed to fetch token: no".to_owned()))).collect();
        let cm = ObjectRef::new(ObjectKind::ConfigMap, "ns", "cm");
        content.objects =
            [(cm, Ok(Arc::new(Object::default()))), (gone.clone(), Err(ObjectError::NotFound(gone)))]
                .into_iter()
                .collect();
        let want = "[failed to fetch token: no, configmap references non-existent config key: k, secret \"s\" not found]";
        assert_eq!(shown(&pod, &content), Err(want.to_owned()));
    }
}
