//! Bad input: one clear error that names the thing and the remedy, an exit code other than 0 where the agent cannot
//! start, and running pods are left alone.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use oomlet_tests::command::{self, Ran};
use oomlet_tests::node::{Node, script, shell, soon};
use oomlet_tests::{newest, oldest, pod};
use serde_json::{Value, json};
use xtask::node::manifest::pod as workload;
use xtask::private_containerd::Version;

#[test]
fn an_agent_that_cannot_start_says_why_and_leaves_pods_alone() {
    let mut node = Node::new("refused", newest());
    node.put(&workload("bystander", "idle", &[]));
    node.start();
    node.wait_up(&["bystander"]);
    let bystander = node.the_container_of("bystander");
    node.kill_agent().unwrap();

    runtime_sockets(&mut node);
    configurations(&mut node);
    no_memory_controller(&mut node);
    whole_containers_are_killed_on_v2_only(&mut node);
    assert_eq!(node.the_container_of("bystander"), bystander);

    // An unknown key is told of, with the one that was probably meant, and the agent starts.
    node.config_mut()["evictonHard"] = json!({});
    node.config_mut()["maxPods"] = json!(12);
    node.start();
    let log = node.agent_log();
    let warned = |l: &str| l.contains("WARN") && l.contains("evictonHard") && l.contains("evictionHard?");
    assert!(log.lines().any(warned), "{log}");
    node.wait_up(&["bystander"]);
    assert_eq!(node.the_container_of("bystander"), bystander);
}

/// `oomlet run` with the node's configuration, some of it changed, on another runtime.
fn run(node: &mut Node, endpoint: &str, change: impl FnOnce(&mut Value)) -> Ran {
    let mut config = node.config_mut().clone();
    change(&mut config);
    command::run(node.run_command(&config).args(["--container-runtime-endpoint", endpoint]), soon())
}

fn runtime_sockets(node: &mut Node) {
    let dir = node.scratch().path().to_owned();
    let unix = |name: &str| format!("unix://{}", dir.join(name).display());
    run(node, &unix("missing.sock"), |_| ()).refused(&[
        "missing.sock",
        "is not there",
        "--container-runtime-endpoint",
    ]);
    std::fs::write(dir.join("file.sock"), "").unwrap();
    run(node, &unix("file.sock"), |_| ()).refused(&[
        "file.sock",
        "is not a socket",
        "--container-runtime-endpoint",
    ]);
    run(node, "tcp://127.0.0.1:1", |_| ()).refused(&[
        "tcp://127.0.0.1:1",
        "must be a unix socket",
        "unix:///",
    ]);
    drop(UnixListener::bind(dir.join("left.sock")).unwrap());
    run(node, &unix("left.sock"), |_| ()).refused(&["left.sock", "nobody listens"]);

    // Something else listens there. The thread ends with the test's process.
    let listener = UnixListener::bind(dir.join("other.sock")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
        }
    });
    run(node, &unix("other.sock"), |_| ()).refused(&["other.sock", "CRI v1", "containerd 1.6"]);
}

fn configurations(node: &mut Node) {
    let endpoint = node.containerd.endpoint();
    type Case = (&'static [&'static str], Value, &'static [&'static str]);
    let cases: [Case; 9] = [
        (&["evictionHard"], json!({ "memory.available": "lots" }), &["evictionHard", "lots"]),
        (&["evictionHard"], json!({ "memory.availble": "1Mi" }), &["memory.availble"]),
        (&["evictionSoft"], json!({ "memory.available": "1Mi" }), &["evictionSoft", "memory.available"]),
        (&["cgroupDriver"], json!("openrc"), &["cgroupDriver", "openrc"]),
        (&["kind"], json!("KubeletConfig"), &["kind", "KubeletConfiguration"]),
        (&["maxPods"], json!("many"), &["maxPods"]),
        (&["oomlet", "kernel"], json!({ "maxTier": 3 }), &["oomlet.kernel.maxTier", "3", "0, 1 or 2"]),
        (
            &["oomlet", "eviction"],
            json!({ "memoryLimitPolicy": "gentle" }),
            &["oomlet.eviction.memoryLimitPolicy", "gentle", "graceful"],
        ),
        (&["systemReserved"], json!({ "memory": "900Ti" }), &["systemReserved", "lower"]),
    ];
    for (path, value, parts) in cases {
        let ran = run(node, &endpoint, |config| {
            let mut place = config;
            for key in path {
                place = &mut place[*key];
            }
            *place = value;
        });
        ran.refused(parts);
    }
    let text = node.scratch().path().join("broken.yaml");
    std::fs::write(&text, "kind: [").unwrap();
    let config_file = |path: &str| {
        let mut command = node.oomlet(&["run", "--config", path, "--root-dir"]).unwrap();
        command::run(command.arg(node.root_dir()), soon())
    };
    config_file(text.to_str().unwrap()).refused(&["broken.yaml", "not valid YAML"]);
    config_file("/nonexistent/kubelet.yaml").refused(&["/nonexistent/kubelet.yaml", "--config"]);
}

/// kubelet refuses it as well.
fn whole_containers_are_killed_on_v2_only(node: &mut Node) {
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        let endpoint = node.containerd.endpoint();
        let ran = run(node, &endpoint, |config| config["singleProcessOOMKill"] = json!(false));
        ran.refused(&["singleProcessOOMKill", "cgroup v2", "take the key out"]);
    }
}

#[test]
fn a_cgroup_driver_that_the_node_lacks_is_refused_or_put_right() {
    if Path::new("/run/systemd/system").is_dir() {
        eprintln!("systemd runs this machine: it has both drivers");
        return;
    }
    let systemd = |config: &mut Value| config["cgroupDriver"] = json!("systemd");
    // From 2 on containerd tells which driver it uses.
    if oldest() < Version::V2 {
        let mut node = Node::new("no-systemd", oldest());
        let endpoint = node.containerd.endpoint();
        let parts = ["cgroupDriver: systemd", "/run/systemd/system", "SystemdCgroup = false"];
        run(&mut node, &endpoint, systemd).refused(&parts);
    }
    if newest() >= Version::V2 {
        let mut node = Node::new("told-driver", newest());
        systemd(node.config_mut());
        node.put(&workload("pod", "idle", &[]));
        node.start();
        node.wait_up(&["pod"]);
        let log = node.agent_log();
        assert!(log.lines().any(|l| l.contains("WARN") && l.contains("using the runtime's")), "{log}");
    }
}

/// In a mount namespace of its own, without the cgroup file systems.
fn no_memory_controller(node: &mut Node) {
    let config = node.config_mut().clone();
    let run = node.run_command(&config);
    let mut command = Command::new("unshare");
    let unmount = "umount --recursive --lazy /sys/fs/cgroup && exec \"$@\"";
    command.args(["--mount", "--propagation", "private", "--", "sh", "-c", unmount, "sh"]);
    command.arg(run.get_program()).args(run.get_args());
    command.args(["--container-runtime-endpoint", &node.containerd.endpoint()]);
    command::run(&mut command, soon()).refused(&["memory", "controller", "cgroup_enable=memory"]);
}

#[test]
fn a_bad_manifest_is_told_of_and_disturbs_no_other() {
    let mut node = Node::new("manifests", oldest());
    node.put(&workload("bystander", "idle", &[]));
    node.put(&workload("edited", "idle", &[]));
    node.start();
    node.wait_up(&["bystander", "edited"]);
    let (bystander, edited) = (node.the_container_of("bystander"), node.the_container_of("edited"));

    let with_volume = |name: &str, volume: Value, mount: Value| {
        let mut pod = workload(name, "idle", &[]);
        pod["spec"]["volumes"] = json!([volume]);
        pod["spec"]["containers"][0]["volumeMounts"] = json!([mount]);
        pod.to_string()
    };
    let mount = json!({ "name": "v", "mountPath": "/v" });
    let up = json!({ "name": "v", "mountPath": "/v", "subPath": "../../etc" });
    let twice = workload("bystander", "idle", &["--mib", "2"]).to_string();
    let mut bad_quantity = workload("quantity", "idle", &[]);
    bad_quantity["spec"]["containers"][0]["resources"] = json!({ "limits": { "memory": "much" } });
    let mut bad_policy = workload("policy", "idle", &[]);
    bad_policy["metadata"]["annotations"] = json!({ "oomlet.dev/memory-limit-policy": "gentle" });
    let mut bad_grace = workload("grace", "idle", &[]);
    bad_grace["metadata"]["annotations"] = json!({ "oomlet.dev/memory-limit-grace": "0s" });
    let cases: [(&str, String, &[&str]); 13] = [
        ("not-yaml", "kind: Pod\n\tname: x".to_owned(), &["not YAML"]),
        ("empty", String::new(), &["empty", "remove the file"]),
        ("binary", "\u{0}\u{1}kind".to_owned(), &["not YAML"]),
        ("no-pod", json!({ "apiVersion": "apps/v1", "kind": "Deployment" }).to_string(), &["apps/v1", "one Pod"]),
        ("no-containers", json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "x" }, "spec": { "containers": [] } }).to_string(), &["spec.containers"]),
        ("bad-name", workload("Not_A_Name", "idle", &[]).to_string(), &["metadata.name", "DNS-1123"]),
        ("bad-quantity", bad_quantity.to_string(), &["resources.limits.memory", "much"]),
        ("bad-policy", bad_policy.to_string(), &["oomlet.dev/memory-limit-policy", "gentle", "kernel", "graceful"]),
        ("bad-grace", bad_grace.to_string(), &["oomlet.dev/memory-limit-grace", "0s", "more than 0"]),
        ("too-large", format!("# {}\n", "x".repeat(11 << 20)), &["larger than 10 MiB"]),
        // Sorts before the one that runs.
        ("bystander-again", twice, &["already named by", "bystander.yaml", "rename or remove"]),
        ("escape-host", with_volume("escapes", json!({ "name": "v", "hostPath": { "path": "/tmp/../etc" } }), mount), &["hostPath.path", "without `..`"]),
        ("escape-sub", with_volume("escapes", json!({ "name": "v", "emptyDir": {} }), up), &["subPath", "without `..`"]),
    ];
    for (file, text, _) in &cases {
        node.put_manifest_text(file, text).unwrap();
    }
    // A good one gone bad.
    node.put_manifest_text("edited", "apiVersion: v1\nkind: Pod\nmetadata: [").unwrap();
    for (file, _, parts) in &cases {
        let path = format!("{file}.yaml");
        let record = node.wait_record(file, |r| {
            r.reason == "ManifestRejected" && r.message.contains(&format!("/{path}:"))
        });
        assert_eq!(record.kind, "Warning");
        for part in *parts {
            assert!(record.message.contains(part), "{part:?} in {}", record.message);
        }
    }
    node.wait_record("edited", |r| r.reason == "ManifestRejected" && r.message.contains("/edited.yaml:"));
    a_symbolic_link_does_not_lead_out_of_a_volume(&node);

    // The node still takes good ones, and the old ones never noticed.
    node.put(&workload("good", "idle", &[]));
    node.wait_up(&["good"]);
    assert_eq!((node.the_container_of("bystander"), node.the_container_of("edited")), (bystander, edited));
    let rejected = node.trace().unwrap().into_iter().filter(|r| r.reason == "ManifestRejected").count();
    assert_eq!(rejected, cases.len() + 1, "each is told once");
}

/// What the manifest does not show: the init container makes the link, the other one mounts through it.
fn a_symbolic_link_does_not_lead_out_of_a_volume(node: &Node) {
    let mut sly = script("sly", "cat /out/passwd");
    sly["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    let mut link = shell("link", "ln -s /etc /v/out");
    link["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    sly["spec"]["initContainers"] = json!([link]);
    sly["spec"]["containers"][0]["volumeMounts"] =
        json!([{ "name": "v", "mountPath": "/out", "subPath": "out" }]);
    node.put(&sly);
    let held = node.wait_pod("sly", "held up", |pod| {
        pod::container(pod, "main")["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    });
    let message = pod::container(&held, "main")["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.contains("subPath \"out\"") && message.contains("symbolic link"), "{message}");
}
