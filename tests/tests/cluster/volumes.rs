//! ConfigMaps, Secrets, tokens and Services of the API server, read under the node's own identity.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oomlet_tests::cluster::{self, wait, wait_object};
use oomlet_tests::node::Node;
use oomlet_tests::{newest, pod, speed};
use serde_json::{Value, json};
use xtask::control_plane::{ControlPlane, Options};

const NODE: &str = "node-volumes";
const NAMESPACE: &str = "volumes";

fn joined(plane: &ControlPlane) -> Node {
    let mut node = Node::new("cluster-volumes", newest());
    node.join_as(plane, NODE).unwrap();
    node.start();
    wait_object(plane, &["node", NODE], "Ready", |node| {
        cluster::condition(node, "Ready")["status"] == "True"
    });
    cluster::namespace(plane, NAMESPACE);
    // Published by the controller manager, and in every token's volume.
    wait_object(plane, &["configmap", "kube-root-ca.crt", "-n", NAMESPACE], "there", |_| true);
    node
}

fn a_pod(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": {
            "nodeSelector": { "kubernetes.io/hostname": NODE }, "terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
            "containers": [{ "name": "main", "image": xtask::images::BUSYBOX, "imagePullPolicy": "Never",
                "command": ["/bin/sh", "-c", script] }],
        },
    })
}

fn object(kind: &str, name: &str, more: Value) -> Value {
    let mut object =
        json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name, "namespace": NAMESPACE } });
    object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object
}

fn get<'a>(kind: &'a str, name: &'a str) -> [&'a str; 4] {
    [kind, name, "-n", NAMESPACE]
}

fn phase(plane: &ControlPlane, name: &str, phase: &str) -> Value {
    wait_object(plane, &get("pod", name), phase, |pod| pod::phase(pod) == phase)
}

fn volume_dir(node: &Node, pod: &Value, plugin: &str, volume: &str) -> PathBuf {
    node.root_dir().join("pods").join(pod::uid(pod)).join("volumes").join(plugin).join(volume)
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn pods_get_what_the_api_server_holds() {
    let mut plane = cluster::own("volumes", &Options { audit: true, ..Options::default() });
    let mut node = joined(&plane);
    plane.apply(&object("ConfigMap", "cfg", json!({ "data": { "greeting": "hello" } }))).unwrap();
    plane.apply(&object("ConfigMap", "fixed", json!({ "data": { "k": "one" }, "immutable": true }))).unwrap();
    plane.apply(&object("Secret", "login", json!({ "stringData": { "password": "hunter2" } }))).unwrap();
    plane.apply(&object("Service", "my-db", json!({ "spec": { "ports": [{ "port": 5432 }] } }))).unwrap();
    let ip = plane.kubectl_json(&[&["get"], &get("service", "my-db")[..]].concat()).unwrap();
    let ip = ip["spec"]["clusterIP"].as_str().unwrap().to_owned();

    everything_is_there(&plane, &node, &ip);
    let runs = changes_reach_a_running_pod(&plane, &node);
    a_pod_waits_for_what_it_needs(&plane);
    an_immutable_object_is_read_anew_for_a_new_pod(&plane, &node);

    // An outage: what was seen last holds, and the agent's restart changes nothing.
    plane.stop_api_server().unwrap();
    node.kill_agent().unwrap();
    node.start();
    let still_runs = |node: &Node| node.running().unwrap().iter().any(|c| c.pod == "runs");
    node.wait("it runs on", still_runs);
    let shown = volume_dir(&node, &runs, "kubernetes.io~secret", "login").join("password");
    let token = volume_dir(&node, &runs, "kubernetes.io~projected", "token").join("token");
    assert_eq!((text(&shown).as_str(), text(&token).is_empty()), ("second", false));
    plane.start_api_server().unwrap();
    plane.apply(&object("Secret", "login", json!({ "stringData": { "password": "third" } }))).unwrap();
    wait("the change after the outage", || (text(&shown) == "third").then_some(()));
    assert!(!text(&token).is_empty());

    let dir = node.root_dir().join("pods").join(pod::uid(&runs));
    plane.kubectl(&["delete", "pods", "--all", "-n", NAMESPACE]).unwrap();
    wait("its directory is gone", || (!dir.exists()).then_some(()));
    only_one_by_one(&plane);
    let log = node.agent_log();
    assert!(!log.contains("hunter2") && !log.contains("eyJ"), "no secret and no token is in the log");
}

fn everything_is_there(plane: &ControlPlane, node: &Node, ip: &str) {
    let mut pod = a_pod(
        "shower",
        "d=/var/run/secrets/kubernetes.io/serviceaccount; cat /cfg/greeting /login/password; echo; ls $d | tr '\\n' ' '; \
         cat $d/namespace; echo; stat -Lc '%a %u %g' $d/token; cut -d . -f 2 $d/token | tr -d '\\n' > /tmp/t; \
         echo $PASSWORD $MY_DB_SERVICE_HOST $MY_DB_SERVICE_PORT; [ -n \"$KUBERNETES_SERVICE_HOST\" ] && echo master; \
         grep -c BEGIN $d/ca.crt",
    );
    pod["spec"]["volumes"] = json!([
        { "name": "cfg", "configMap": { "name": "cfg" } }, { "name": "login", "secret": { "secretName": "login" } }]);
    let main = &mut pod["spec"]["containers"][0];
    main["volumeMounts"] =
        json!([{ "name": "cfg", "mountPath": "/cfg" }, { "name": "login", "mountPath": "/login" }]);
    main["env"] = json!([{ "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "login", "key": "password" } } }]);
    pod["spec"]["securityContext"] = json!({ "runAsUser": 1000, "fsGroup": 3000 });
    plane.apply(&pod).unwrap();
    let ended = phase(plane, "shower", "Succeeded");
    wait("all is said", || node.log(&ended, "main", 0).ends_with("1\n").then_some(()));
    let want = format!(
        "hellohunter2\nca.crt namespace token {NAMESPACE}\n640 1000 3000\nhunter2 {ip} 5432\nmaster\n1\n"
    );
    assert_eq!(node.log(&ended, "main", 0), want);
}

fn changes_reach_a_running_pod(plane: &ControlPlane, node: &Node) -> Value {
    let mut pod = a_pod("runs", "sleep 1000");
    pod["spec"]["volumes"] = json!([
        { "name": "cfg", "configMap": { "name": "cfg" } },
        { "name": "login", "secret": { "secretName": "login" } },
        { "name": "info", "downwardAPI": { "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] } },
        { "name": "token", "projected": { "sources": [{ "serviceAccountToken": { "path": "token", "expirationSeconds": 600 } }] } },
    ]);
    plane.apply(&pod).unwrap();
    let runs = phase(plane, "runs", "Running");
    let at = |plugin: &str, volume: &str, file: &str| volume_dir(node, &runs, plugin, volume).join(file);
    let within_a_second = |what: &str, path: &Path, wanted: &str, change: &dyn Fn()| {
        change();
        let changed = Instant::now();
        wait(what, || (text(path) == wanted).then_some(()));
        let took = changed.elapsed().as_secs_f64();
        assert!(took < speed::scale(), "{what}: {took} s");
    };
    within_a_second("the ConfigMap", &at("kubernetes.io~configmap", "cfg", "greeting"), "goodbye", &|| {
        plane.apply(&object("ConfigMap", "cfg", json!({ "data": { "greeting": "goodbye" } }))).unwrap();
    });
    within_a_second("the Secret", &at("kubernetes.io~secret", "login", "password"), "second", &|| {
        plane.apply(&object("Secret", "login", json!({ "stringData": { "password": "second" } }))).unwrap();
    });
    within_a_second(
        "its labels",
        &at("kubernetes.io~downward-api", "info", "labels"),
        "mood=\"good\"",
        &|| {
            plane.kubectl(&["label", "pod", "runs", "mood=good", "-n", NAMESPACE]).unwrap();
        },
    );
    assert!(text(&at("kubernetes.io~projected", "token", "token")).starts_with("eyJ"));
    runs
}

fn a_pod_waits_for_what_it_needs(plane: &ControlPlane) {
    let mut pod = a_pod("waits", "echo $V");
    pod["spec"]["volumes"] = json!([{ "name": "late", "configMap": { "name": "late" } }]);
    pod["spec"]["containers"][0]["env"] =
        json!([{ "name": "V", "valueFrom": { "secretKeyRef": { "name": "late", "key": "k" } } }]);
    plane.apply(&pod).unwrap();
    let waiting = |reason: &'static str| {
        wait_object(plane, &get("pod", "waits"), reason, |pod| {
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
        })
    };
    waiting("ContainerCreating");
    let event = wait("the Event", || {
        let events = plane.kubectl_json(&["get", "events", "-n", NAMESPACE]).ok()?;
        let mut all = events["items"].as_array()?.iter();
        all.find(|e| e["reason"] == "FailedMount" && e["involvedObject"]["name"] == "waits").cloned()
    });
    assert_eq!(
        event["message"],
        "MountVolume.SetUp failed for volume \"late\" : configmap \"late\" not found"
    );
    plane.apply(&object("ConfigMap", "late", json!({ "data": { "k": "v" } }))).unwrap();
    let appeared = Instant::now();
    let pod = waiting("CreateContainerConfigError");
    assert_eq!(
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"],
        "secret \"late\" not found"
    );
    plane.apply(&object("Secret", "late", json!({ "stringData": { "k": "v" } }))).unwrap();
    phase(plane, "waits", "Succeeded");
    assert!(appeared.elapsed() < Duration::from_secs(9).mul_f64(speed::scale()), "{:?}", appeared.elapsed());
}

fn an_immutable_object_is_read_anew_for_a_new_pod(plane: &ControlPlane, node: &Node) {
    let reader = |name: &str| {
        let mut pod = a_pod(name, "cat /fixed/k; echo; sleep 1000");
        pod["spec"]["volumes"] = json!([{ "name": "fixed", "configMap": { "name": "fixed" } }]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "fixed", "mountPath": "/fixed" }]);
        plane.apply(&pod).unwrap();
        let runs = phase(plane, name, "Running");
        wait("it is said", || (!node.log(&runs, "main", 0).is_empty()).then_some(()));
        node.log(&runs, "main", 0)
    };
    assert_eq!(reader("first").trim(), "one");
    plane.kubectl(&["delete", "configmap", "fixed", "-n", NAMESPACE]).unwrap();
    plane.apply(&object("ConfigMap", "fixed", json!({ "data": { "k": "two" }, "immutable": true }))).unwrap();
    assert_eq!(reader("second").trim(), "two");
}

/// The node asks for each by its name, as Node authorization has it, and does not watch what never changes.
fn only_one_by_one(plane: &ControlPlane) {
    let user = format!("system:node:{NODE}");
    let requests = plane.audit_log().unwrap();
    let of_node = |r: &&Value| r["user"]["username"] == user.as_str();
    let objects = requests
        .iter()
        .filter(of_node)
        .filter(|r| matches!(r["objectRef"]["resource"].as_str(), Some("secrets" | "configmaps")));
    let mut named = 0;
    for request in objects {
        let uri = request["requestURI"].as_str().unwrap();
        assert!(uri.contains("metadata.name%3D"), "{uri}");
        assert!(!(uri.contains("name%3Dfixed") && uri.contains("watch=")), "it is immutable: {uri}");
        named += 1;
    }
    assert!(named > 0, "{} requests", requests.len());
}
