//! What the demo makes in the cluster. All of it is in one namespace, and runs on the demo's node alone.

use std::path::Path;

use serde_json::{Value, json};

use crate::images;

pub const HOG: &str = "hog";
pub const WEB: &str = "web";
pub const WEB_REPLICAS: usize = 2;
/// Where the hog sees the file that its SIGTERM handler writes.
pub const MARK: &str = "/marks/mark";

const KEY: &str = "oomlet.dev/demo";

/// For the node's registration: its own pods find it, no others get there.
pub fn label_and_taint(name: &str) -> (String, String) {
    (format!("{KEY}={name}"), format!("{KEY}={name}:NoSchedule"))
}

pub fn namespace(name: &str) -> Value {
    // The hog's mark is on the host, which some clusters allow nobody unless told so.
    let labels = json!({ "pod-security.kubernetes.io/enforce": "privileged" });
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } })
}

/// It starts with its ConfigMap, its Secret and its service account's token only, and serves what the ConfigMap says.
pub fn web(name: &str) -> Value {
    let script = "set -e
        cat /etc/web/greeting >/tmp/index.html
        test \"$(cat /etc/credentials/password)\" = \"$PASSWORD\"
        test -s $TOKEN
        exec httpd -f -p 8080 -h /tmp";
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let container = json!({
        "name": "main",
        "image": images::WORKLOAD,
        "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-c", script],
        "env": [
            { "name": "TOKEN", "value": token },
            { "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": WEB, "key": "password" } } },
        ],
        "volumeMounts": [
            { "name": "config", "mountPath": "/etc/web" },
            { "name": "credentials", "mountPath": "/etc/credentials" },
        ],
        "resources": { "requests": { "memory": "16Mi" } },
        "startupProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1, "failureThreshold": 60 },
        "readinessProbe": { "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1, "timeoutSeconds": 5 },
        "livenessProbe": { "exec": { "command": ["test", "-s", token] }, "periodSeconds": 5, "timeoutSeconds": 5 },
    });
    let volumes = json!([
        { "name": "config", "configMap": { "name": WEB } },
        { "name": "credentials", "secret": { "secretName": WEB } },
    ]);
    // busybox's httpd heeds no SIGTERM.
    let spec = json!({ "containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 1 });
    let metadata = json!({ "name": WEB, "namespace": name });
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "greeting": "hello" } },
        { "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": { "password": "open sesame" } },
        deployment(name, WEB, WEB_REPLICAS, spec),
    ] })
}

/// It asks for little and takes all, once: the first to start leaks, and who comes after it does not, so that the demo
/// comes to an end. `marks` is a folder of this machine.
pub fn hog(name: &str, arguments: &[String], marks: &Path) -> Value {
    let script = "mkdir /marks/leaked || exec /oomlet-workload idle\nexec /oomlet-workload hog \"$@\"";
    let command = [&["/bin/sh", "-c", script, "hog"].map(str::to_owned)[..], arguments].concat();
    let container = json!({
        "name": "main",
        "image": images::WORKLOAD,
        "imagePullPolicy": "Never",
        "command": command,
        "volumeMounts": [{ "name": "marks", "mountPath": "/marks" }],
        "resources": { "requests": { "memory": "16Mi" } },
    });
    let spec = json!({
        "containers": [container],
        "volumes": [{ "name": "marks", "hostPath": { "path": marks, "type": "Directory" } }],
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 30,
    });
    deployment(name, HOG, 1, spec)
}

fn deployment(namespace: &str, app: &str, replicas: usize, mut spec: Value) -> Value {
    spec["nodeSelector"] = json!({ KEY: namespace });
    spec["tolerations"] = json!([
        { "key": KEY, "operator": "Exists" },
        // Once a threshold is met the node is tainted for five minutes, and pods come up elsewhere. These have one node.
        { "key": "node.kubernetes.io/memory-pressure", "operator": "Exists" },
    ]);
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": app, "namespace": namespace },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": app } },
            "template": { "metadata": { "labels": { "app": app } }, "spec": spec },
        },
    })
}
