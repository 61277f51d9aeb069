//! Which AppArmor profile a container is to run under (pkg/security/apparmor/helpers.go). Core.

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod};

/// As it was before Kubernetes 1.30 had a field for it; the API server does not turn it into one any more.
const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The container's own field goes before its annotation, and that before the pod's field. `None`: nothing is asked for.
#[must_use]
pub fn profile(pod: &Pod, container: &Container) -> Option<AppArmorProfile> {
    let own = container.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    let of_pod = || pod.spec.as_ref()?.security_context.as_ref()?.app_armor_profile.clone();
    own.cloned().or_else(|| annotated(pod, &container.name)).or_else(of_pod)
}

fn annotated(pod: &Pod, container: &str) -> Option<AppArmorProfile> {
    let value = pod.metadata.annotations.as_ref()?.get(&format!("{ANNOTATION}{container}"))?;
    let (type_, localhost_profile) = match value.as_str() {
        "runtime/default" => ("RuntimeDefault", None),
        "unconfined" => ("Unconfined", None),
        other => ("Localhost", Some(other.strip_prefix("localhost/")?.to_owned())),
    };
    Some(AppArmorProfile { type_: type_.to_owned(), localhost_profile })
}

/// Whether it runs under any.
#[must_use]
pub fn is_confined(pod: &Pod, container: &Container) -> bool {
    profile(pod, container).is_some_and(|profile| profile.type_ != "Unconfined")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_containers_own_then_its_annotation_then_the_pods() {
        let field = |kind: &str| json!({"appArmorProfile": {"type": kind}});
        for (own, annotation, of_pod, expected) in [
            (json!({}), None, json!({}), None),
            (json!({}), None, field("RuntimeDefault"), Some(("RuntimeDefault", None))),
            (json!({}), Some("unconfined"), field("RuntimeDefault"), Some(("Unconfined", None))),
            (json!({}), Some("localhost/k8s"), json!({}), Some(("Localhost", Some("k8s")))),
            (json!({}), Some("runtime/default"), json!({}), Some(("RuntimeDefault", None))),
            (json!({}), Some("nonsense"), json!({}), None),
            (field("Unconfined"), Some("runtime/default"), json!({}), Some(("Unconfined", None))),
        ] {
            let annotations = annotation.map(|value| json!({ format!("{ANNOTATION}a"): value }));
            let pod: Pod = serde_json::from_value(json!({
                "metadata": { "annotations": annotations },
                "spec": { "securityContext": of_pod, "containers": [{ "name": "a", "securityContext": own }] },
            }))
            .unwrap();
            let container = pod.spec.as_ref().unwrap().containers[0].clone();
            let found = profile(&pod, &container);
            let found = found.as_ref().map(|one| (one.type_.as_str(), one.localhost_profile.as_deref()));
            assert_eq!(found, expected, "{annotation:?}");
        }
    }
}
