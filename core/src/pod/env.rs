//! A container's environment, and `$(VAR)` expansion in values, command and args. Core.
//!
//! Sources: literals, `fieldRef`, `resourceFieldRef`. ConfigMaps and Secrets come from an API server; without
//! one a reference to them is an error unless it is optional.

use super::spec::all_containers;
use k8s_openapi::api::core::v1::{Container, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector};

use super::qos::Amounts;
use crate::quantity::{QuantityError, bytes_of, milli_cpu_of, parse_bytes, parse_milli_cpu};

/// What the node adds to the manifest.
#[derive(Clone, Debug, Default)]
pub struct EnvFacts {
    pub node_name: String,
    pub host_ip: String,
    /// Empty before the sandbox runs; the host's with hostNetwork.
    pub pod_ips: Vec<String>,
    /// What `limits.*` reads where the container has no limit.
    pub allocatable: Amounts,
}

/// kubelet shows each of these as `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error(
        "container {container}: env {env} refers to {kind} {name:?}, which needs an API server; in standalone mode \
         write the value into the manifest or mark the reference `optional: true`"
    )]
    NeedsApiServer { container: String, env: String, kind: &'static str, name: String },
    #[error(
        "container {container}: env {env}: fieldPath {path:?} is not supported; use metadata.name, metadata.namespace, \
         metadata.uid, metadata.labels['<key>'], metadata.annotations['<key>'], spec.nodeName, spec.serviceAccountName, \
         status.hostIP, status.hostIPs, status.podIP or status.podIPs"
    )]
    FieldPath { container: String, env: String, path: String },
    #[error(
        "container {container}: env {env}: resourceFieldRef {resource:?} is not supported; use limits.cpu, \
         limits.memory, requests.cpu or requests.memory"
    )]
    Resource { container: String, env: String, resource: String },
    #[error(
        "container {container}: env {env}: resourceFieldRef names container {other:?}, which the pod does not have"
    )]
    NoSuchContainer { container: String, env: String, other: String },
    #[error("container {container}: env {env}: {source}")]
    Quantity { container: String, env: String, source: QuantityError },
    #[error(
        "container {container}: env {env}: valueFrom names no source this agent knows (fieldRef, resourceFieldRef)"
    )]
    NoSource { container: String, env: String },
}

/// Name and value in manifest order; a name that comes twice keeps its first place and its last value
/// (`makeEnvironmentVariables`, pkg/kubelet/kubelet_pods.go).
///
/// # Errors
/// A reference that cannot be resolved here and is not optional.
pub fn container_env(
    pod: &Pod,
    container: &Container,
    facts: &EnvFacts,
) -> Result<Vec<(String, String)>, EnvError> {
    for from in container.env_from.iter().flatten() {
        let needed = |kind, name: &str, optional: Option<bool>| {
            (optional != Some(true)).then(|| EnvError::NeedsApiServer {
                container: container.name.clone(),
                env: "from".to_owned(),
                kind,
                name: name.to_owned(),
            })
        };
        let config_map = from.config_map_ref.as_ref().and_then(|r| needed("ConfigMap", &r.name, r.optional));
        let secret = from.secret_ref.as_ref().and_then(|r| needed("Secret", &r.name, r.optional));
        if let Some(error) = config_map.or(secret) {
            return Err(error);
        }
    }
    let mut env: Vec<(String, String)> = Vec::new();
    for var in container.env.iter().flatten() {
        // kubelet looks at valueFrom only where value is empty.
        let value = match (var.value.as_deref().filter(|v| !v.is_empty()), &var.value_from) {
            (Some(value), _) => expand(value, &env),
            (None, None) => String::new(),
            (None, Some(source)) => match resolve(source, &var.name, pod, container, facts)? {
                Some(value) => value,
                None => continue,
            },
        };
        match env.iter_mut().find(|(name, _)| *name == var.name) {
            Some((_, earlier)) => *earlier = value,
            None => env.push((var.name.clone(), value)),
        }
    }
    Ok(env)
}

/// Command and args with `$(VAR)` expanded by the container's environment.
#[must_use]
pub fn command_and_args(container: &Container, env: &[(String, String)]) -> (Vec<String>, Vec<String>) {
    let expanded = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| expand(text, env)).collect();
    (expanded(&container.command), expanded(&container.args))
}

/// `$(NAME)` → value, `$$` → `$`; an unknown name and any other `$` stay as they are
/// (third_party/forked/golang/expansion).
#[must_use]
pub fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|s| s.split_once(')')) {
            match env.iter().find(|(known, _)| known == name) {
                Some((_, value)) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// `Ok(None)`: an optional reference to what is not there; the variable is left out.
fn resolve(
    source: &EnvVarSource,
    env: &str,
    pod: &Pod,
    container: &Container,
    facts: &EnvFacts,
) -> Result<Option<String>, EnvError> {
    let needed = |kind, name: &str, optional: Option<bool>| {
        if optional == Some(true) {
            return Ok(None);
        }
        Err(EnvError::NeedsApiServer {
            container: container.name.clone(),
            env: env.to_owned(),
            kind,
            name: name.to_owned(),
        })
    };
    if let Some(key) = &source.config_map_key_ref {
        return needed("ConfigMap", &key.name, key.optional);
    }
    if let Some(key) = &source.secret_key_ref {
        return needed("Secret", &key.name, key.optional);
    }
    if let Some(field) = &source.field_ref {
        return field_value(field, pod, facts).map(Some).ok_or_else(|| EnvError::FieldPath {
            container: container.name.clone(),
            env: env.to_owned(),
            path: field.field_path.clone(),
        });
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(resource, env, pod, container, facts).map(Some);
    }
    Err(EnvError::NoSource { container: container.name.clone(), env: env.to_owned() })
}

fn field_value(field: &ObjectFieldSelector, pod: &Pod, facts: &EnvFacts) -> Option<String> {
    let meta = &pod.metadata;
    Some(match field.field_path.as_str() {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => {
            pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" | "status.hostIPs" => facts.host_ip.clone(),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        path => {
            let (map, key) = if let Some(key) = path.strip_prefix("metadata.labels['") {
                (&meta.labels, key)
            } else {
                (&meta.annotations, path.strip_prefix("metadata.annotations['")?)
            };
            let key = key.strip_suffix("']")?;
            map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default()
        }
    })
}

fn resource_value(
    selector: &ResourceFieldSelector,
    env: &str,
    pod: &Pod,
    container: &Container,
    facts: &EnvFacts,
) -> Result<String, EnvError> {
    let name = selector.container_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(&container.name);
    let spec = pod.spec.as_ref();
    let target = spec.into_iter().flat_map(all_containers).find(|c| c.name == name).ok_or_else(|| {
        EnvError::NoSuchContainer {
            container: container.name.clone(),
            env: env.to_owned(),
            other: name.to_owned(),
        }
    })?;
    let wrong =
        |source| EnvError::Quantity { container: container.name.clone(), env: env.to_owned(), source };
    let requests = target.resources.as_ref().and_then(|r| r.requests.as_ref());
    let limits = target.resources.as_ref().and_then(|r| r.limits.as_ref());
    let divisor =
        selector.divisor.as_ref().map_or("1", |q| if q.0.is_empty() || q.0 == "0" { "1" } else { &q.0 });
    let allocatable = &facts.allocatable;
    let (amount, divisor) = match selector.resource.as_str() {
        "limits.cpu" => (
            milli_cpu_of(limits, "cpu").map_err(wrong)?.unwrap_or(allocatable.milli_cpu),
            parse_milli_cpu(divisor).map_err(wrong)?,
        ),
        "requests.cpu" => (
            milli_cpu_of(requests, "cpu").map_err(wrong)?.unwrap_or(0),
            parse_milli_cpu(divisor).map_err(wrong)?,
        ),
        "limits.memory" => (
            bytes_of(limits, "memory").map_err(wrong)?.unwrap_or(allocatable.memory_bytes),
            parse_bytes(divisor).map_err(wrong)?,
        ),
        "requests.memory" => {
            (bytes_of(requests, "memory").map_err(wrong)?.unwrap_or(0), parse_bytes(divisor).map_err(wrong)?)
        }
        other => {
            return Err(EnvError::Resource {
                container: container.name.clone(),
                env: env.to_owned(),
                resource: other.to_owned(),
            });
        }
    };
    // Rounded up, as kubelet does.
    Ok(amount.div_ceil(divisor.max(1)).to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn facts() -> EnvFacts {
        EnvFacts {
            node_name: "node-1".into(),
            host_ip: "10.0.0.1".into(),
            pod_ips: vec!["10.1.0.2".into(), "fd00::2".into()],
            allocatable: Amounts { milli_cpu: 2000, memory_bytes: 1 << 30 },
        }
    }

    fn env_of(env: serde_json::Value) -> Result<Vec<(String, String)>, EnvError> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "prod", "uid": "u-1", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "app", "image": "i", "env": env,
                "resources": {"requests": {"cpu": "250m", "memory": "1Mi"}, "limits": {"memory": "3Mi"}}}]},
        }))
        .unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        container_env(&pod, container, &facts())
    }

    #[test]
    fn expansion() {
        let env = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())];
        for (text, want) in [
            ("", ""),
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            // Values are not expanded again.
            ("$(B)", "$(A)"),
            ("$(NO)", "$(NO)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$", "$"),
            ("$$", "$"),
            ("$A $(A", "$A $(A"),
            ("$()", "$()"),
            ("ä$(A)ö", "ä1ö"),
        ] {
            assert_eq!(expand(text, &env), want, "{text}");
        }
    }

    #[test]
    fn literals_see_what_stands_before_them() {
        let env = env_of(json!([
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)-$(C)"},
            {"name": "C", "value": "3"},
            {"name": "A", "value": "2"},
            {"name": "EMPTY"},
        ]))
        .unwrap();
        let want = [("A", "2"), ("B", "1-$(C)"), ("C", "3"), ("EMPTY", "")];
        assert_eq!(env, want.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn references() {
        for (source, want) in [
            (json!({"fieldRef": {"fieldPath": "metadata.name"}}), "web"),
            (json!({"fieldRef": {"fieldPath": "metadata.namespace"}}), "prod"),
            (json!({"fieldRef": {"fieldPath": "metadata.uid"}}), "u-1"),
            (json!({"fieldRef": {"fieldPath": "metadata.labels['app']"}}), "web"),
            (json!({"fieldRef": {"fieldPath": "metadata.annotations['none']"}}), ""),
            (json!({"fieldRef": {"fieldPath": "spec.nodeName"}}), "node-1"),
            (json!({"fieldRef": {"fieldPath": "status.hostIP"}}), "10.0.0.1"),
            (json!({"fieldRef": {"fieldPath": "status.podIP"}}), "10.1.0.2"),
            (json!({"fieldRef": {"fieldPath": "status.podIPs"}}), "10.1.0.2,fd00::2"),
            (json!({"resourceFieldRef": {"resource": "requests.cpu"}}), "1"),
            (json!({"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}), "250"),
            (json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}}), "2"),
            (json!({"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}), "3"),
            (json!({"resourceFieldRef": {"resource": "requests.memory", "containerName": "app"}}), "1048576"),
        ] {
            let env = env_of(json!([{"name": "V", "valueFrom": source}])).unwrap();
            assert_eq!(env, [("V".to_owned(), want.to_owned())], "{source}");
        }
    }

    #[test]
    fn refused_with_the_remedy() {
        for (source, want) in [
            (json!({"configMapKeyRef": {"name": "cm", "key": "k"}}), "ConfigMap \"cm\""),
            (json!({"secretKeyRef": {"name": "s", "key": "k"}}), "Secret \"s\""),
            (json!({"fieldRef": {"fieldPath": "spec.other"}}), "spec.other"),
            (json!({"resourceFieldRef": {"resource": "limits.gpu"}}), "limits.gpu"),
            (
                json!({"resourceFieldRef": {"resource": "limits.cpu", "containerName": "b"}}),
                "container \"b\"",
            ),
            (json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "x"}}), "\"x\""),
            (json!({}), "valueFrom"),
        ] {
            let error = env_of(json!([{"name": "V", "valueFrom": source}])).unwrap_err().to_string();
            assert!(error.contains(want) && error.contains("container app: env V"), "{error}");
        }
        let optional = json!({"configMapKeyRef": {"name": "cm", "key": "k", "optional": true}});
        assert_eq!(env_of(json!([{"name": "V", "valueFrom": optional}])), Ok(vec![]));
    }

    #[test]
    fn env_from_needs_an_api_server() {
        let pod = Pod::default();
        let container: Container = serde_json::from_value(
            json!({"name": "app", "envFrom": [{"configMapRef": {"name": "o", "optional": true}}, {"secretRef": {"name": "s"}}]}),
        )
        .unwrap();
        let error = container_env(&pod, &container, &facts()).unwrap_err().to_string();
        assert!(error.contains("Secret \"s\""), "{error}");
    }

    #[test]
    fn commands() {
        let container: Container =
            serde_json::from_value(json!({"name": "a", "command": ["sh", "-c", "$(A)"], "args": ["$$(A)"]}))
                .unwrap();
        let (command, args) = command_and_args(&container, &[("A".into(), "1".into())]);
        assert_eq!((command.join(" "), args.join(" ")), ("sh -c 1".into(), "$(A)".into()));
    }

    proptest! {
        #[test]
        fn text_without_a_dollar_is_itself(text in "[^$]{0,40}") {
            prop_assert_eq!(expand(&text, &[]), text);
        }

        #[test]
        fn doubled_dollars_are_the_text(text in "\\PC{0,40}") {
            prop_assert_eq!(expand(&text.replace('$', "$$"), &[]), text);
        }
    }
}
