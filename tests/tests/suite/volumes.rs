//! ConfigMaps and Secrets of a directory of manifests, in volumes and environments of pods.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use oomlet_tests::node::{Node, pod_name, script, shell};
use oomlet_tests::{on_oldest_and_newest_containerd, pod};
use serde_json::{Value, json};
use xtask::private_containerd::Version;

on_oldest_and_newest_containerd!(
    volumes_show_what_objects_hold,
    a_running_pod_sees_changes_whole,
    a_pod_waits_for_what_it_needs,
    no_byte_of_a_secret_is_left_anywhere,
    an_environment_is_read_from_a_file,
);

/// Nothing else has this.
const PLANTED: &str = "planted-5e1d9c7a-secret-bytes";

fn node(label: &str, version: Version) -> Node {
    let mut node = Node::new(label, version);
    let dir = node.scratch().create_dir("objects").unwrap();
    node.config_mut()["oomlet"]["objects"] = json!(dir);
    node
}

/// In one step, as an editor does it that renames.
fn put_object(node: &Node, object: &Value) {
    let dir = node.scratch().path().join("objects");
    let name = object["metadata"]["name"].as_str().unwrap();
    let hidden = dir.join(format!(".{name}.new"));
    fs::write(&hidden, serde_json::to_string(object).unwrap()).unwrap();
    fs::rename(hidden, dir.join(format!("{name}.yaml"))).unwrap();
}

fn config_map(name: &str, data: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": data })
}

fn secret(name: &str, data: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": data })
}

fn volume_dir(node: &Node, name: &str, plugin: &str, volume: &str) -> PathBuf {
    let pod = node.pod(name).unwrap();
    node.root_dir().join("pods").join(pod::uid(&pod)).join("volumes").join(plugin).join(volume)
}

fn volumes_show_what_objects_hold(version: Version) {
    let mut node = node("volumes", version);
    let mut map = config_map("cfg", json!({ "greeting": "hello", "other": "there", "1st": "digit" }));
    map["binaryData"] = json!({ "raw": "AAEC" });
    put_object(&node, &map);
    put_object(&node, &secret("login", json!({ "user": "root", "password": "hunter2" })));
    let mut pod = script(
        "shower",
        "cat /cfg/greeting; echo; ls /cfg; stat -c '%a %n' -L /cfg/other /some/deep/key /login/user; \
         cat /some/deep/key; echo; cat /login/password; echo; ls /some /empty | wc -l; \
         echo $GREETING $PASSWORD $OPTIONAL-; env | grep ^P_ | sort; tr '\\0' '\\n' < /proc/1/environ | grep -c ^1st; \
         cat /info/labels; echo; cat /info/name; echo; cat /all/ca /all/ns; echo; cat /sub; echo; cat /one; echo; \
         touch /cfg/x 2>&1 | grep -o 'Read-only'; grep ' /login ' /proc/mounts | cut -d ' ' -f 3",
    );
    pod["metadata"]["labels"] = json!({ "app": "show\"er" });
    pod["spec"]["volumes"] = json!([
        { "name": "cfg", "configMap": { "name": "cfg" } },
        { "name": "some", "configMap": { "name": "cfg", "defaultMode": 0o400,
            "items": [{ "key": "greeting", "path": "deep/key", "mode": 0o440 }] } },
        { "name": "none", "configMap": { "name": "nowhere", "optional": true } },
        { "name": "login", "secret": { "secretName": "login", "defaultMode": 0o400 } },
        { "name": "info", "downwardAPI": { "items": [
            { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
            { "path": "name", "fieldRef": { "fieldPath": "metadata.name" } },
        ] } },
        { "name": "all", "projected": { "sources": [
            { "configMap": { "name": "cfg", "items": [{ "key": "other", "path": "ca" }] } },
            { "downwardAPI": { "items": [{ "path": "ns", "fieldRef": { "fieldPath": "metadata.namespace" } }] } },
            { "secret": { "name": "login" } },
        ] } },
    ]);
    let main = &mut pod["spec"]["containers"][0];
    main["volumeMounts"] = json!([
        { "name": "cfg", "mountPath": "/cfg" },
        { "name": "some", "mountPath": "/some" },
        { "name": "none", "mountPath": "/empty" },
        { "name": "login", "mountPath": "/login" },
        { "name": "info", "mountPath": "/info" },
        { "name": "all", "mountPath": "/all" },
        { "name": "cfg", "mountPath": "/sub", "subPath": "other" },
        { "name": "cfg", "mountPath": "/one", "subPathExpr": "$(KEY)" },
    ]);
    main["env"] = json!([
        { "name": "KEY", "value": "greeting" },
        { "name": "GREETING", "valueFrom": { "configMapKeyRef": { "name": "cfg", "key": "greeting" } } },
        { "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "login", "key": "password" } } },
        { "name": "OPTIONAL", "valueFrom": { "secretKeyRef": { "name": "no", "key": "k", "optional": true } } },
    ]);
    main["envFrom"] =
        json!([{ "prefix": "P_", "secretRef": { "name": "login" } }, { "configMapRef": { "name": "cfg" } }]);
    node.put(&pod);
    node.start();
    let ended = node.wait_pod("shower", "Succeeded", |pod| pod::phase(pod) == "Succeeded");
    // The last lines of a log may be a moment behind the exit.
    node.wait("all is said", |node| node.log(&ended, "main", 0).ends_with("tmpfs\n"));
    let said = node.log(&ended, "main", 0);
    let name = pod_name("shower");
    let want = format!(
        "hello\n1st\ngreeting\nother\nraw\n644 /cfg/other\n440 /some/deep/key\n400 /login/user\nhello\nhunter2\n4\n\
         hello hunter2 -\nP_password=hunter2\nP_user=root\n1\napp=\"show\\\"er\"\n{name}\ntheredefault\nthere\nhello\n\
         Read-only\ntmpfs\n"
    );
    assert_eq!(said, want);
}

fn a_running_pod_sees_changes_whole(version: Version) {
    let mut node = node("changes", version);
    // Two files that belong together: a reader in a loop that never rests, and tells all that it must not see.
    let pair = |n: usize| config_map("pair", json!({ "a": n.to_string().repeat(2000), "n": n.to_string() }));
    put_object(&node, &pair(0));
    put_object(&node, &secret("key", json!({ "k": "first" })));
    let mut pod = script(
        "reader",
        "while true; do a=$(cat /pair/a) || echo ENOENT; [ ${#a} = 2000 ] || echo half ${#a}; \
         [ -e /tmp/told ] || { echo up; touch /tmp/told; }; done",
    );
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{ "name": "pair", "mountPath": "/pair" }, { "name": "key", "mountPath": "/key" }]);
    pod["spec"]["volumes"] = json!([
        { "name": "pair", "configMap": { "name": "pair" } }, { "name": "key", "secret": { "secretName": "key" } }]);
    node.put(&pod);
    node.start();
    node.wait_up(&["reader"]);
    node.wait("the reader reads", |node| node.said("reader", "main").contains("up"));
    let map = volume_dir(&node, "reader", "kubernetes.io~configmap", "pair");
    let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let mut longest = std::time::Duration::ZERO;
    for n in 1..=9 {
        let changed = Instant::now();
        put_object(&node, &pair(n));
        node.wait("the change is there", |_| text(&map.join("n")) == n.to_string());
        longest = longest.max(changed.elapsed());
    }
    assert!(longest.as_secs_f64() < oomlet_tests::speed::scale(), "a change took {longest:?}");

    let generation = |dir: &Path| fs::read_link(dir.join("..data")).unwrap();
    let key = volume_dir(&node, "reader", "kubernetes.io~secret", "key");
    let (map_before, key_before) = (generation(&map), generation(&key));
    put_object(&node, &secret("key", json!({ "k": "second" })));
    node.wait("the secret is there", |_| text(&key.join("k")) == "second");
    assert_ne!(generation(&key), key_before);
    assert_eq!(generation(&map), map_before, "what has not changed is not written");
    let generations = |dir: &Path| {
        let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|n| n.starts_with("..2")).count()
    };
    node.wait("old generations go", |_| generations(&map) == 1 && generations(&key) == 1);

    // An object that goes takes nothing from a running pod; a new agent finds what changed while there was none.
    fs::remove_file(node.scratch().path().join("objects/pair.yaml")).unwrap();
    node.wait_record("a volume that keeps what it shows", |r| {
        r.reason == "FailedMount"
            && r.message == "MountVolume.SetUp failed for volume \"pair\" : configmap \"pair\" not found"
    });
    assert_eq!(text(&map.join("n")), "9");
    node.kill_agent().unwrap();
    put_object(&node, &secret("key", json!({ "k": "third" })));
    node.start();
    node.wait("the new agent catches up", |_| text(&key.join("k")) == "third");
    let said = node.said("reader", "main");
    assert!(!said.contains("ENOENT") && !said.contains("half"), "{said}");

    let dir = node.root_dir().join("pods").join(pod::uid(&node.pod("reader").unwrap()));
    node.remove_manifest("reader").unwrap();
    node.wait_gone("reader");
    assert!(!dir.exists(), "its volumes are removed with it");
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(dir.to_str().unwrap()));
}

fn a_pod_waits_for_what_it_needs(version: Version) {
    let mut node = node("waits", version);
    let mut mounts = script("mounts", "cat /cfg/k");
    mounts["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "cfg", "mountPath": "/cfg" }]);
    mounts["spec"]["volumes"] = json!([{ "name": "cfg", "configMap": { "name": "late" } }]);
    let mut env = script("env", "unused");
    env["spec"]["containers"][0] = shell("main", "echo $V");
    env["spec"]["containers"][0]["env"] =
        json!([{ "name": "V", "valueFrom": { "secretKeyRef": { "name": "late-secret", "key": "k" } } }]);
    node.put(&mounts);
    node.put(&env);
    node.start();
    node.wait_record("the volume", |r| {
        r.reason == "FailedMount"
            && r.message == "MountVolume.SetUp failed for volume \"cfg\" : configmap \"late\" not found"
    });
    let waiting = |pod: &Value, reason: &str| {
        pod::phase(pod) == "Pending" && pod::container(pod, "main")["state"]["waiting"]["reason"] == reason
    };
    node.wait_pod("mounts", "waiting", |pod| waiting(pod, "ContainerCreating"));
    let without = node.wait_pod("env", "waiting", |pod| waiting(pod, "CreateContainerConfigError"));
    let message = &pod::container(&without, "main")["state"]["waiting"]["message"];
    assert_eq!(message, "secret \"late-secret\" not found");

    let succeeded = |pod: &Value| pod::phase(pod) == "Succeeded";
    put_object(&node, &secret("late-secret", json!({ "other": "x" })));
    node.wait_pod("env", "waiting for the key", |pod| {
        let message = &pod::container(pod, "main")["state"]["waiting"]["message"];
        message == "couldn't find key k in Secret default/late-secret"
    });
    let appeared = Instant::now();
    put_object(&node, &config_map("late", json!({ "k": "at last" })));
    put_object(&node, &secret("late-secret", json!({ "k": "now" })));
    let pod = node.wait_pod("mounts", "Succeeded", succeeded);
    assert_eq!(node.log(&pod, "main", 0), "at last\n");
    let pod = node.wait_pod("env", "Succeeded", succeeded);
    assert_eq!(node.log(&pod, "main", 0), "now\n");
    // Its back-off is ten seconds: what appeared has woken it.
    let took = appeared.elapsed().as_secs_f64();
    assert!(took < 8.0 * oomlet_tests::speed::scale(), "{took} s");
}

/// The init container writes what the main one is given.
fn an_environment_is_read_from_a_file(version: Version) {
    let mut node = node("env-file", version);
    let with_env = |name: &str, env: Value| {
        let mut pod = script(name, "echo $A; echo \"$B\"; echo ${C-unset}");
        pod["spec"]["volumes"] = json!([{ "name": "made", "emptyDir": {} }]);
        let written = "mkdir /made/d; printf \"# of the init container\\nA='one'\\nB='two\\nlines' # and more\\n\" > /made/d/f.env";
        let mut init = shell("init", written);
        init["volumeMounts"] = json!([{ "name": "made", "mountPath": "/made" }]);
        pod["spec"]["initContainers"] = json!([init]);
        pod["spec"]["containers"][0]["env"] = env;
        pod
    };
    let key = |name: &str, path: &str, key: &str, optional: bool| {
        let file = json!({ "volumeName": "made", "path": path, "key": key, "optional": optional });
        json!({ "name": name, "valueFrom": { "fileKeyRef": file } })
    };
    let whole = json!([
        key("A", "d/f.env", "A", false),
        key("B", "d/f.env", "B", false),
        key("C", "d/f.env", "NONE", true)
    ]);
    node.put(&with_env("reads", whole));
    node.put(&with_env("no-key", json!([key("A", "d/f.env", "NONE", false)])));
    // As with kubelet `optional` is about the key, not about the file.
    node.put(&with_env("no-file", json!([key("A", "none.env", "A", true)])));
    node.start();
    let pod = node.wait_pod("reads", "Succeeded", |pod| pod::phase(pod) == "Succeeded");
    assert_eq!(node.log(&pod, "main", 0), "one\ntwo\nlines\nunset\n");
    for (name, want) in [
        ("no-key", "environment variable key \"NONE\" not found in file"),
        ("no-file", "couldn't parse env file \"none.env\" of volume \"made\": No such file"),
    ] {
        let waiting = |pod: &Value| pod::container(pod, "main")["state"]["waiting"].clone();
        let refused =
            node.wait_pod(name, "refused", |pod| waiting(pod)["reason"] == "CreateContainerConfigError");
        let said = waiting(&refused)["message"].as_str().unwrap().to_owned();
        assert!(said.contains(want), "{name}: {said}");
    }
}

fn no_byte_of_a_secret_is_left_anywhere(version: Version) {
    let mut node = node("planted", version);
    node.set_environment("RUST_LOG", "trace");
    put_object(&node, &secret("planted", json!({ "k": PLANTED, "bad=name": "x" })));
    let mut good = script("good", "sleep 1000");
    let main = &mut good["spec"]["containers"][0];
    main["volumeMounts"] = json!([
        { "name": "s", "mountPath": "/s" }, { "name": "p", "mountPath": "/p" }, { "name": "s", "mountPath": "/k", "subPath": "k" }]);
    main["env"] =
        json!([{ "name": "V", "valueFrom": { "secretKeyRef": { "name": "planted", "key": "k" } } }]);
    main["envFrom"] = json!([{ "secretRef": { "name": "planted" } }]);
    good["spec"]["volumes"] = json!([
        { "name": "s", "secret": { "secretName": "planted" } },
        { "name": "p", "projected": { "sources": [{ "secret": { "name": "planted" } }] } }]);
    // What fails is told, without what it failed over.
    let mut bad = script("bad", "true");
    bad["spec"]["containers"][0]["env"] = json!([
        { "name": "V", "valueFrom": { "secretKeyRef": { "name": "planted", "key": "k" } } },
        { "name": "W", "valueFrom": { "secretKeyRef": { "name": "planted", "key": "none" } } }]);
    node.put(&good);
    node.put(&bad);
    node.start();
    // A key that cannot be: the file does not count, and is told of without its text.
    node.wait("the file is refused", |node| node.agent_log().contains("planted.yaml"));
    put_object(&node, &secret("planted", json!({ "k": PLANTED })));
    node.wait_up(&["good"]);
    node.wait_pod("bad", "refused", |pod| {
        pod::container(pod, "main")["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    });
    let shown = volume_dir(&node, "good", "kubernetes.io~secret", "s").join("k");
    assert_eq!(fs::read_to_string(&shown).unwrap(), PLANTED);
    let changed = format!("{PLANTED}-again");
    put_object(&node, &secret("planted", json!({ "k": changed })));
    node.wait("the change is there", |_| fs::read_to_string(&shown).unwrap() == changed);
    node.kill_agent().unwrap();
    node.start();
    node.wait_up(&["good"]);

    let mut found = Vec::new();
    for place in [node.root_dir(), node.trace_path(), node.agent_log_path(), node.pod_logs_dir()] {
        search(&place, &mut found);
    }
    assert!(found.is_empty(), "{found:?}");
    assert!(!node.pods().unwrap().to_string().contains(PLANTED));
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(
        (mode(&node.root_dir().join("oomlet")), mode(&node.root_dir().join("oomlet/pods"))),
        (0o750, 0o750)
    );
    for saved in fs::read_dir(node.root_dir().join("oomlet/pods")).unwrap() {
        assert_eq!(mode(&saved.unwrap().path()), 0o600);
    }
}

/// Files with the planted bytes that are not on a tmpfs.
fn search(path: &Path, found: &mut Vec<PathBuf>) {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            search(&entry.unwrap().path(), found);
        }
    } else if meta.is_file() {
        let on_tmpfs = rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type as u64 == TMPFS_MAGIC);
        let holds = || fs::read(path).unwrap().windows(PLANTED.len()).any(|w| w == PLANTED.as_bytes());
        if !on_tmpfs && holds() {
            found.push(path.to_owned());
        }
    }
}
