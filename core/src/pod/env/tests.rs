use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::object::ObjectRef;

fn facts() -> EnvFacts {
    EnvFacts {
        node_name: "node-1".into(),
        host_ip: "10.0.0.1".into(),
        pod_ips: vec!["10.1.0.2".into(), "fd00::2".into()],
        allocatable: Amounts { milli_cpu: 2000, memory_bytes: 1 << 30 },
    }
}

fn objects() -> Objects {
    let object = |pairs: &[(&str, &[u8])]| {
        let data = pairs.iter().map(|(k, v)| ((*k).to_owned(), v.to_vec())).collect();
        Ok(Arc::new(Object { data, ..Object::default() }))
    };
    let named = |kind, name: &str| ObjectRef::new(kind, "prod", name);
    let gone = named(ObjectKind::Secret, "gone");
    let no_source = named(ObjectKind::ConfigMap, "standalone");
    let away = named(ObjectKind::Secret, "away");
    [
        (
            named(ObjectKind::ConfigMap, "cm"),
            object(&[("k", b"v"), ("1st", b"digit"), ("a=b", b"x"), ("raw", &[255])]),
        ),
        (named(ObjectKind::Secret, "s"), object(&[("k", b"hunter2")])),
        (gone.clone(), Err(ObjectError::NotFound(gone))),
        (no_source.clone(), Err(ObjectError::NoSource(no_source))),
        (away.clone(), Err(ObjectError::Unavailable { object: away, why: "timed out".into() })),
    ]
    .into_iter()
    .collect()
}

fn env_files() -> EnvFiles {
    let read = |text: &[u8]| EnvFile::Read { path: "/v/f.env".into(), bytes: text.to_vec() };
    [
        ("v", "f.env", read(b"A='one'\nEMPTY=''\nRAW='\xff'\n")),
        ("v", "bad.env", read(b"A = 'hunter2'\n")),
        ("v", "gone.env", EnvFile::Unreadable { why: "No such file or directory".into() }),
        ("none", "f.env", EnvFile::NoVolume),
    ]
    .map(|(volume, path, file)| ((volume.to_owned(), path.to_owned()), file))
    .into()
}

fn container_env_of(container: serde_json::Value) -> Result<ContainerEnv, EnvError> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "prod", "uid": "u-1", "labels": {"app": "web"}},
        "spec": {"containers": [container]},
    }))
    .unwrap();
    let services =
        BTreeMap::from([("SVC".to_owned(), "10.0.0.9".to_owned()), ("A".to_owned(), "svc".to_owned())]);
    let from = EnvSources { node: &facts(), objects: &objects(), services: &services, files: &env_files() };
    container_env(&pod, &pod.spec.as_ref().unwrap().containers[0], from)
}

/// Without the Services'.
fn env_of(env: serde_json::Value) -> Result<Vec<(String, String)>, EnvError> {
    let resources = json!({"requests": {"cpu": "250m", "memory": "1Mi"}, "limits": {"memory": "3Mi"}});
    let made = container_env_of(json!({"name": "app", "image": "i", "env": env, "resources": resources}))?;
    Ok(made.env.0.into_iter().filter(|(_, value)| value != "10.0.0.9" && value != "svc").collect())
}

#[test]
fn expansion() {
    let env = Env(vec![("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())]);
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
        (
            json!({"configMapKeyRef": {"name": "standalone", "key": "k"}}),
            "ConfigMap \"standalone\" needs an API server",
        ),
        (json!({"secretKeyRef": {"name": "gone", "key": "k"}}), "secret \"gone\" not found"),
        (json!({"secretKeyRef": {"name": "s", "key": "x"}}), "couldn't find key x in Secret prod/s"),
        (json!({"configMapKeyRef": {"name": "cm", "key": "x"}}), "couldn't find key x in ConfigMap prod/cm"),
        (json!({"configMapKeyRef": {"name": "cm", "key": "raw"}}), "is not UTF-8"),
        (json!({"secretKeyRef": {"name": "away", "key": "x", "optional": true}}), "timed out"),
        (json!({"secretKeyRef": {"name": "unknown", "key": "x", "optional": true}}), "was not looked up"),
        (json!({"fieldRef": {"fieldPath": "spec.other"}}), "container app: env V: fieldPath \"spec.other\""),
        (json!({"resourceFieldRef": {"resource": "limits.gpu"}}), "limits.gpu"),
        (json!({"resourceFieldRef": {"resource": "limits.cpu", "containerName": "b"}}), "container \"b\""),
        (json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "x"}}), "\"x\""),
        (json!({}), "valueFrom"),
        (
            json!({"fileKeyRef": {"volumeName": "none", "path": "f.env", "key": "A", "optional": true}}),
            "cannot find the volume \"none\" referenced by FileKeyRef",
        ),
        (
            json!({"fileKeyRef": {"volumeName": "v", "path": "gone.env", "key": "A", "optional": true}}),
            "couldn't parse env file \"gone.env\" of volume \"v\": No such file or directory",
        ),
        (
            json!({"fileKeyRef": {"volumeName": "v", "path": "bad.env", "key": "A"}}),
            "at line 1: whitespace before '=' is not allowed",
        ),
        (
            json!({"fileKeyRef": {"volumeName": "v", "path": "f.env", "key": "B"}}),
            "environment variable key \"B\" not found in file \"/v/f.env\"",
        ),
        (
            json!({"fileKeyRef": {"volumeName": "v", "path": "f.env", "key": "EMPTY"}}),
            "key \"EMPTY\" not found",
        ),
        (json!({"fileKeyRef": {"volumeName": "v", "path": "f.env", "key": "RAW"}}), "is not UTF-8"),
    ] {
        let error = env_of(json!([{"name": "V", "valueFrom": source}])).unwrap_err().to_string();
        assert!(error.contains(want) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn keys_of_objects() {
    for (source, want) in [
        (json!({"configMapKeyRef": {"name": "cm", "key": "k"}}), Some("v")),
        (json!({"secretKeyRef": {"name": "s", "key": "k"}}), Some("hunter2")),
        (json!({"secretKeyRef": {"name": "s", "key": "x", "optional": true}}), None),
        (json!({"secretKeyRef": {"name": "gone", "key": "k", "optional": true}}), None),
        (json!({"configMapKeyRef": {"name": "standalone", "key": "k", "optional": true}}), None),
        (json!({"fileKeyRef": {"volumeName": "v", "path": "f.env", "key": "A"}}), Some("one")),
        (json!({"fileKeyRef": {"volumeName": "v", "path": "f.env", "key": "B", "optional": true}}), None),
        (json!({"fileKeyRef": {"volumeName": "v", "path": "f.env", "key": "EMPTY", "optional": true}}), None),
    ] {
        let env = env_of(json!([{"name": "V", "valueFrom": source}])).unwrap();
        assert_eq!(
            env,
            want.map(|v| ("V".to_owned(), v.to_owned())).into_iter().collect::<Vec<_>>(),
            "{source}"
        );
    }
}

#[test]
fn env_from_comes_first_and_services_last() {
    let made = container_env_of(json!({
        "name": "app",
        "envFrom": [
            {"configMapRef": {"name": "cm"}},
            {"prefix": "S_", "secretRef": {"name": "s"}},
            {"secretRef": {"name": "gone", "optional": true}},
        ],
        "env": [{"name": "A", "value": "$(k)-$(SVC)"}, {"name": "k", "value": "own"}],
    }))
    .unwrap();
    let want = [("1st", "digit"), ("k", "own"), ("S_k", "hunter2"), ("A", "v-10.0.0.9"), ("SVC", "10.0.0.9")];
    assert_eq!(made.env.0, want.map(|(k, v)| (k.to_owned(), v.to_owned())));
    let skipped = "Keys [a=b, raw] from the EnvFrom configMap prod/cm were skipped since they are considered invalid \
                   environment variable names.";
    assert_eq!(made.skipped, [skipped]);
    assert!(!format!("{made:?}").contains("hunter2"));
    let gone = container_env_of(json!({"name": "app", "envFrom": [{"secretRef": {"name": "gone"}}]}));
    assert_eq!(gone.unwrap_err().to_string(), "secret \"gone\" not found");
}

#[test]
fn sub_paths() {
    let env = Env(vec![("A".to_owned(), "1".to_owned()), ("EMPTY".to_owned(), String::new())]);
    for (expr, want) in [
        ("x/$(A)", Ok("x/1")),
        ("plain", Ok("plain")),
        ("$(NO)/$(EMPTY)/$(A)", Err("missing value for EMPTY, NO")),
    ] {
        let want = want.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(expand_sub_path(expr, &env), want, "{expr}");
    }
}

#[test]
fn commands() {
    let container: Container =
        serde_json::from_value(json!({"name": "a", "command": ["sh", "-c", "$(A)"], "args": ["$$(A)"]}))
            .unwrap();
    let (command, args) = command_and_args(&container, &Env(vec![("A".into(), "1".into())]));
    assert_eq!((command.join(" "), args.join(" ")), ("sh -c 1".into(), "$(A)".into()));
}

proptest! {
    #[test]
    fn text_without_a_dollar_is_itself(text in "[^$]{0,40}") {
        prop_assert_eq!(expand(&text, &Env::default()), text);
    }

    #[test]
    fn doubled_dollars_are_the_text(text in "\\PC{0,40}") {
        prop_assert_eq!(expand(&text.replace('$', "$$"), &Env::default()), text);
    }
}
