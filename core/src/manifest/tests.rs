use proptest::prelude::*;

use super::*;

const GOOD: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
spec:
  hostNetwork: true
  volumes:
  - name: scratch
  - name: logs
    hostPath: {path: /var/log/web, type: DirectoryOrCreate}
  - name: mem
    emptyDir: {medium: Memory, sizeLimit: 16Mi}
  initContainers:
  - {name: side, image: "registry:5000/side", restartPolicy: Always}
  containers:
  - name: app
    image: web:1.2
    ports: [{containerPort: 80}]
    volumeMounts:
    - {name: scratch, mountPath: /tmp}
    - {name: logs, mountPath: /logs, subPath: a/b}
    resources:
      limits: {cpu: 1, memory: 67108864}
"#;

fn read_text(text: &str) -> Result<Manifest, ManifestError> {
    read(text.as_bytes(), Path::new("/m/web.yaml"), "Node-1")
}

/// GOOD with one text for another.
fn with(from: &str, to: &str) -> Result<Manifest, ManifestError> {
    assert!(GOOD.contains(from), "{from}");
    read_text(&GOOD.replacen(from, to, 1))
}

#[test]
fn defaults_are_those_of_the_api_server() {
    let manifest = read_text(GOOD).unwrap();
    assert_eq!(manifest.ignored, Vec::<String>::new());
    let mut pod = serde_json::to_value(&*manifest.pod).unwrap();
    let uid = pod["metadata"]["uid"].take();
    assert_eq!(pod["metadata"]["annotations"]["kubernetes.io/config.hash"].take(), uid);
    assert_eq!(uid.as_str().unwrap().len(), 32);
    insta::assert_snapshot!(serde_json::to_string_pretty(&pod).unwrap());
}

#[test]
fn json_with_the_same_content_is_the_same_pod() {
    let yaml = read_text("apiVersion: v1\nkind: Pod\n# a comment\nmetadata: {name: a}\nspec: {containers: [{name: a, image: i}]}").unwrap();
    let json = read_text(r#"{"kind":"Pod","apiVersion":"v1","spec":{"containers":[{"image":"i","name":"a"}]},"metadata":{"name":"a"}}"#).unwrap();
    assert_eq!(yaml, json);
}

#[test]
fn the_uid_is_of_content_path_and_host() {
    let uid = |path: &str, host: &str, text: &str| {
        parse(text.as_bytes(), Path::new(path), host).unwrap().metadata.uid.clone().unwrap()
    };
    let base = uid("/m/a", "n", GOOD);
    // A promise to later versions: a new agent must not replace every static pod.
    assert_eq!(base, "4376cd2205692210d6b4b05dd2a71e9c");
    assert_eq!(
        base,
        uid("/m/a", "n", &GOOD.replace("    image: web:1.2\n", "    image:   web:1.2   # same\n"))
    );
    assert_ne!(base, uid("/m/b", "n", GOOD));
    assert_ne!(base, uid("/m/a", "m", GOOD));
    assert_ne!(base, uid("/m/a", "n", &GOOD.replace("web:1.2", "web:1.3")));
    assert_eq!(uid("/m/a", "n", &GOOD.replace("name: web\n", "name: web\n  uid: my-own\n")), "my-own");
}

#[test]
fn keys_that_no_pod_has_are_told() {
    let manifest = with("image: web:1.2", "image: web:1.2\n    resource: {}").unwrap();
    assert_eq!(manifest.ignored, ["spec.containers.0.resource"]);
}

#[test]
fn yaml_is_read_as_json() {
    let octal =
        GOOD.replace("- name: scratch\n", "- {name: scratch, configMap: {name: c, defaultMode: 0644}}\n");
    let pod = read_text(&octal).unwrap().pod;
    let volumes = pod.spec.as_ref().unwrap().volumes.clone().unwrap();
    assert_eq!(volumes[0].config_map.as_ref().unwrap().default_mode, Some(420));
    let error = with("ports:", "env: [{name: A, value: 1}]\n    ports:").unwrap_err().to_string();
    assert!(error.contains("spec.containers[0].env[0].value") && error.contains("integer `1`"), "{error}");
}

#[test]
fn refused_by_name() {
    for (from, to, want) in [
        ("apiVersion: v1", "apiVersion: apps/v1", "apiVersion is \"apps/v1\", must be v1"),
        ("kind: Pod", "kind: Deployment", "kind is \"Deployment\", must be Pod"),
        ("kind: Pod\n", "", "kind is missing"),
        ("name: web", "name: Web_1", "metadata.name: \"Web_1-node-1\" must be a DNS-1123 subdomain"),
        ("  name: web\n", "", "metadata.name: must be given"),
        ("  name: web\n", "  name: web\n  namespace: a/b\n", "metadata.namespace: \"a/b\""),
        ("  name: web\n", "  name: web\n  uid: ../x\n", "metadata.uid: \"../x\""),
        (
            "  name: web\n",
            "  name: web\n  annotations: {oomlet.dev/memory-limit-policy: gentle}\n",
            "metadata.annotations[oomlet.dev/memory-limit-policy]: \"gentle\" must be one of [\"kernel\", \"graceful\"]",
        ),
        (
            "  name: web\n",
            "  name: web\n  annotations: {oomlet.dev/memory-limit-grace: 0s}\n",
            "metadata.annotations[oomlet.dev/memory-limit-grace]: \"0s\" must be more than 0",
        ),
        ("name: app", "name: App", "spec.containers[App].name: \"App\" must be a DNS-1123 label"),
        ("name: app", "name: side", "\"side\" names two containers"),
        ("image: web:1.2", "image: ''", "spec.containers[app].image"),
        ("path: /var/log/web", "path: /var/../etc", "spec.volumes[logs].hostPath.path: \"/var/../etc\""),
        ("path: /var/log/web", "path: etc", "hostPath.path: \"etc\" must be absolute"),
        ("type: DirectoryOrCreate", "type: Dir", "hostPath.type: \"Dir\" must be one of"),
        ("medium: Memory", "medium: Disk", "emptyDir.medium: \"Disk\""),
        ("sizeLimit: 16Mi", "sizeLimit: much", "emptyDir.sizeLimit: quantity \"much\""),
        (
            "emptyDir: {medium: Memory, sizeLimit: 16Mi}",
            "emptyDir: {}\n    hostPath: {path: /x}",
            "must have one source",
        ),
        ("- name: scratch\n", "- name: logs\n", "\"logs\" is there twice"),
        (
            "{name: scratch, mountPath: /tmp}",
            "{name: none, mountPath: /tmp}",
            "spec.volumes has no volume \"none\"",
        ),
        ("mountPath: /tmp", "mountPath: /tmp/../etc", "mountPath: \"/tmp/../etc\""),
        ("mountPath: /tmp", "mountPath: /logs", "\"/logs\" is there twice"),
        ("subPath: a/b", "subPath: ../b", "subPath: \"../b\" must be relative"),
        ("subPath: a/b", "subPath: /b", "subPath: \"/b\" must be relative"),
        ("containerPort: 80", "containerPort: 0", "containerPort: must be 1 to 65535"),
        ("containerPort: 80", "containerPort: 80, hostPort: 81", "must be the containerPort"),
        ("containerPort: 80", "containerPort: 80, protocol: tcp", "protocol: \"tcp\""),
        ("cpu: 1", "cpu: one", "resources.limits.cpu: quantity \"one\""),
        (
            "limits: {cpu: 1",
            "requests: {cpu: 2}\n      limits: {cpu: 1",
            "requests.cpu: 2 must not be more than the limit of 1",
        ),
        ("restartPolicy: Always", "restartPolicy: Ever", "spec.initContainers[side].restartPolicy: \"Ever\""),
        ("hostNetwork: true", "activeDeadlineSeconds: 0", "spec.activeDeadlineSeconds: 0 must be 1 to"),
        (
            "hostNetwork: true",
            "ephemeralContainers: [{name: debug, image: x}]",
            "spec.ephemeralContainers: are added to a pod that runs",
        ),
        ("hostNetwork: true", "restartPolicy: Sometimes", "spec.restartPolicy: \"Sometimes\""),
        ("hostNetwork: true", "terminationGracePeriodSeconds: -1", "terminationGracePeriodSeconds: -1"),
        ("hostNetwork: true", "hostNetwork: maybe", "spec.hostNetwork: invalid type"),
        ("hostNetwork: true", "hostNetwork: true\n  hostNetwork: true", "not YAML or JSON"),
    ] {
        let error = with(from, to).expect_err(to).to_string();
        assert!(error.contains(want), "{to}: {error}");
    }
}

#[test]
fn not_a_manifest_at_all() {
    for (bytes, want) in [
        (&b""[..], "empty"),
        (b"  \n", "empty"),
        (b"hello", "apiVersion is missing"),
        (b"[1, 2]", "apiVersion is missing"),
        (b"{", "not YAML or JSON"),
        (b"a: b: c", "not YAML or JSON"),
        (b"apiVersion: v1\nkind: Pod\n---\napiVersion: v1\nkind: Pod\n", "not YAML or JSON"),
        (b"ab\xff", "not UTF-8 (invalid byte at offset 2)"),
        (b"apiVersion: v1\nkind: Pod\n", "spec: must be given"),
        (b"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}", "must not be empty"),
    ] {
        let error = read(bytes, Path::new("/m"), "n").expect_err(want).to_string();
        assert!(error.contains(want), "{error}");
    }
    assert_eq!(read(&vec![b' '; MAX_BYTES + 1], Path::new("/m"), "n"), Err(ManifestError::TooLarge));
}

#[test]
fn the_last_of_two_files_of_a_name_counts() {
    let pod = |name: &str, path: &str| {
        let text = GOOD.replacen("name: web", &format!("name: {name}"), 1);
        read(text.as_bytes(), Path::new(path), "n").unwrap()
    };
    let (a, b, c) = (pod("x", "/m/a"), pod("x", "/m/b"), pod("z", "/m/c"));
    let source = |path: &'static str, manifest, error| Source { path: Path::new(path), manifest, error };
    let update = collect([
        source("/m/d", None, Some("broken")),
        source("/m/c", Some(&c), Some("broken now")),
        source("/m/b", Some(&b), None),
        source("/m/a", Some(&a), None),
    ]);
    let pods: Vec<_> = update.pods.iter().map(|named| named.pod.clone()).collect();
    assert_eq!(pods, [b.pod.clone(), c.pod.clone()]);
    let rejected: Vec<_> =
        update.rejected.iter().map(|r| (format!("{}: {}", r.path.display(), r.error), r.duplicate)).collect();
    let text =
        "/m/a: pod default/x-n is already named by /m/b, which counts; rename or remove one of the two";
    assert_eq!(
        rejected,
        [(text.into(), true), ("/m/c: broken now".into(), false), ("/m/d: broken".into(), false)]
    );
}

#[test]
fn what_a_server_answers() {
    let pod = |name: &str, uid: &str| {
        format!("{{metadata: {{name: {name}{uid}}}, spec: {{containers: [{{name: c, image: i}}]}}}}")
    };
    let single = format!("{{apiVersion: v1, kind: Pod, {}", &pod("a", "")[1..]);
    let list = |items: &[String]| format!("{{apiVersion: v1, kind: PodList, items: [{}]}}", items.join(","));
    let url = "http://127.0.0.1/pods";
    let read = |text: &str| read_answer(text.as_bytes(), url, "n").map_err(|e| e.to_string());
    let names = |text: &str| -> Vec<String> {
        read(text).unwrap().iter().map(|m| m.pod.metadata.name.clone().unwrap()).collect()
    };
    assert_eq!(names(&single), ["a-n"]);
    assert_eq!(names(&list(&[pod("a", ""), pod("b", "")])), ["a-n", "b-n"]);
    for none in
        ["{apiVersion: v1, kind: PodList}", "{apiVersion: v1, kind: PodList, items: null}", &list(&[])]
    {
        assert_eq!(names(none), [""; 0], "{none}");
    }
    for (text, want) in [
        ("", "empty"),
        ("{apiVersion: v1, kind: ConfigMap}", "kind is \"ConfigMap\""),
        ("{apiVersion: v2, kind: Pod}", "apiVersion is \"v2\""),
        ("{apiVersion: v1, kind: PodList, items: 3}", "items: 3 is no list"),
        ("<html>not found</html>", "apiVersion is missing"),
        (&list(&[pod("a", ""), pod("B!", "")]), "items[1]: pod \"B!\" is invalid: metadata.name"),
    ] {
        let error = read(text).expect_err(want);
        assert!(error.contains(want), "{text}: {error}");
    }
    // The same manifest of another URL, or of a file, is another pod.
    let uid = |pod: &Arc<Pod>| pod.metadata.uid.clone().unwrap();
    let of_url = |url: &str| uid(&read_answer(single.as_bytes(), url, "n").unwrap()[0].pod);
    let of_file = uid(&parse(single.as_bytes(), Path::new(url), "n").unwrap());
    assert_eq!(of_url(url), of_url(url));
    assert!(of_url(url) != of_url("http://127.0.0.1/other") && of_url(url) != of_file);
    let annotations = read(&single).unwrap()[0].pod.metadata.annotations.clone().unwrap();
    assert_eq!(annotations["kubernetes.io/config.source"], "http");
    // Of two of one name, or of one UID, the first counts.
    let manifests = read(&list(&[
        pod("a", ", labels: {which: first}, uid: u1"),
        pod("a", ""),
        pod("b", ", uid: u1"),
        pod("c", ""),
    ]))
    .unwrap();
    let update = collect_answer(&manifests, url);
    assert_eq!(update.source, PodSource::Http);
    assert_eq!(
        update.pods.iter().map(|p| uid(&p.pod)).collect::<Vec<_>>(),
        ["u1".to_owned(), uid(&manifests[3].pod)]
    );
    assert_eq!(update.pods.iter().map(|p| p.own_uid).collect::<Vec<_>>(), [true, false]);
    let rejected: Vec<_> =
        update.rejected.iter().map(|r| (r.path.display().to_string(), r.duplicate)).collect();
    assert_eq!(rejected, [(format!("{url} items[1]"), true), (format!("{url} items[2]"), true)]);
}

proptest! {
    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,200}") {
        let _ = read(&bytes, Path::new("/m"), "n");
        let _ = read(text.as_bytes(), Path::new("/m"), "n");
    }

    /// Any single line of a good manifest may go; what is left is a pod or a clear error.
    #[test]
    fn mutilated_manifests(line in 0usize..30, cut in 0usize..40) {
        let mut lines: Vec<String> = GOOD.lines().map(str::to_owned).collect();
        if let Some(text) = lines.get_mut(line) {
            text.truncate(cut.min(text.len()));
        }
        if let Err(error) = read_text(&lines.join("\n")) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}

/// A probe of the container `app` → what is wrong with it; empty: nothing.
#[test]
fn probes_are_looked_at() {
    for (probe, want) in [
        ("readinessProbe: {httpGet: {port: 80}}", ""),
        ("readinessProbe: {httpGet: {port: nameless}}", ""),
        ("livenessProbe: {exec: {command: [x]}, successThreshold: 0, terminationGracePeriodSeconds: 5}", ""),
        ("readinessProbe: {periodSeconds: 1}", "readinessProbe: must have one check"),
        ("startupProbe: {exec: {command: [x]}, grpc: {port: 1}}", "startupProbe: must have one check"),
        ("startupProbe: {exec: {}}", "startupProbe.exec.command: must be given"),
        ("livenessProbe: {tcpSocket: {port: 0}}", "livenessProbe.tcpSocket.port: 0 must be 1 to 65535"),
        ("livenessProbe: {grpc: {port: 65536}}", "livenessProbe.grpc.port: 65536 must be 1 to 65535"),
        ("livenessProbe: {grpc: {port: 1}, periodSeconds: -1}", "livenessProbe.periodSeconds: -1"),
        (
            "livenessProbe: {grpc: {port: 1}, successThreshold: 2}",
            "livenessProbe.successThreshold: must be 1",
        ),
        ("readinessProbe: {grpc: {port: 1}, successThreshold: 2}", ""),
        (
            "readinessProbe: {grpc: {port: 1}, terminationGracePeriodSeconds: 1}",
            "readinessProbe.terminationGracePeriodSeconds: a readiness probe ends nothing",
        ),
        (
            "livenessProbe: {grpc: {port: 1}, terminationGracePeriodSeconds: 0}",
            "livenessProbe.terminationGracePeriodSeconds: 0 must be more than 0",
        ),
        ("livenessProbe: {httpGet: {port: 1, scheme: ftp}}", "httpGet.scheme: \"ftp\""),
    ] {
        let read = with("image: web:1.2", &format!("image: web:1.2\n    {probe}"));
        let error = read.err().map_or_else(String::new, |e| e.to_string());
        assert!(if want.is_empty() { error.is_empty() } else { error.contains(want) }, "{probe}: {error:?}");
    }
    let sidecar = "image: \"registry:5000/side\", livenessProbe: {grpc: {port: 1}}, restartPolicy: Always}";
    let side = "image: \"registry:5000/side\", restartPolicy: Always}";
    assert!(with(side, sidecar).is_ok());
    let init = sidecar.replace(", restartPolicy: Always", "");
    let error = with(side, &init).unwrap_err().to_string();
    assert!(
        error.contains("spec.initContainers[side].livenessProbe: an init container has one only with"),
        "{error}"
    );
}

#[test]
fn what_a_container_does_at_its_start_and_end() {
    let check = |fields: &str| {
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  terminationGracePeriodSeconds: 9\n  containers:\n  \
             - {{name: app, image: x, {fields}}}\n"
        );
        read_text(&manifest).map(drop).map_err(|e| e.to_string())
    };
    for fields in [
        "lifecycle: {postStart: {exec: {command: [x]}}, preStop: {sleep: {seconds: 9}}, stopSignal: SIGUSR1}",
        "lifecycle: {preStop: {httpGet: {port: web}}}",
        "restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1]}}]",
        "restartPolicy: OnFailure",
    ] {
        check(fields).expect(fields);
    }
    for (fields, want) in [
        (
            "lifecycle: {preStop: {}}",
            "lifecycle.preStop: must have one handler (exec, httpGet or sleep), has 0",
        ),
        (
            "lifecycle: {preStop: {sleep: {seconds: 1}, exec: {command: [x]}}}",
            "lifecycle.preStop: must have one handler",
        ),
        ("lifecycle: {postStart: {tcpSocket: {port: 1}}}", "lifecycle.postStart.tcpSocket: is no hook"),
        ("lifecycle: {postStart: {exec: {}}}", "postStart.exec.command: must be given"),
        (
            "lifecycle: {preStop: {sleep: {seconds: 10}}}",
            "sleep.seconds: 10 must be 0 to terminationGracePeriodSeconds (9)",
        ),
        ("lifecycle: {preStop: {httpGet: {port: 0}}}", "preStop.httpGet.port: 0 must be 1 to 65535"),
        ("lifecycle: {stopSignal: SIGNOTHING}", "lifecycle.stopSignal: \"SIGNOTHING\""),
        (
            "restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1]}}]",
            "restartPolicyRules: need a restartPolicy of the container's own",
        ),
        (
            "restartPolicy: Never, restartPolicyRules: [{action: Restart}]",
            "restartPolicyRules[0].exitCodes: must be given",
        ),
        (
            "restartPolicy: Never, restartPolicyRules: [{action: Explode, exitCodes: {operator: Is, values: [1]}}]",
            "exitCodes.operator: \"Is\"",
        ),
    ] {
        let error = check(fields).expect_err(fields);
        assert!(error.contains(want), "{fields}: {error}");
    }
}
