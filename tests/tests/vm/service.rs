//! The agent as users run it: the unit that we ship, on a machine that systemd runs, beside the containerd of the
//! distribution. Installed by the script that Vagrant's boxes run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use oomlet_tests::node::{pod_name, soon};
use oomlet_tests::pod;
use oomlet_tests::speed::rate_mib_s;
use serde_json::{Value, json};
use xtask::images;
use xtask::node::manifest::{pod as workload, with_memory};
use xtask::process::{self, holds_within};

const SHARE: &str = "/oomlet";
const MANIFESTS: &str = "/etc/kubernetes/manifests";
const MIB: u64 = 1 << 20;

/// Runs a line of shell and returns what it printed.
#[track_caller]
fn sh(line: &str) -> String {
    process::output(Command::new("sh").args(["-c", line])).unwrap_or_else(|error| panic!("{error:#}"))
}

#[track_caller]
fn wait(what: &str, holds: impl FnMut() -> bool) {
    assert!(
        holds_within(soon(), holds),
        "not within {:?}: {what}\n{}",
        soon(),
        sh("journalctl -u oomlet -n 40 --no-pager")
    );
}

/// What a cluster's admin does: the agent, the sample images, a network.
fn install() {
    sh(&format!("bash {SHARE}/vagrant/install-agent.sh {SHARE}/bin/oomlet {SHARE}/packaging"));
    let config = "/etc/containerd/config.toml";
    sh(&format!("sed -i 's#sandbox_image = .*#sandbox_image = \"{}\"#' {config}", images::PAUSE));
    fs::create_dir_all("/etc/cni/net.d").unwrap();
    let network = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": "cni0",
            "isDefaultGateway": true,
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.88.0.0/16" }]] },
        }],
    });
    fs::write("/etc/cni/net.d/10-pods.conflist", network.to_string()).unwrap();
    sh("systemctl restart containerd");
    wait("containerd answers", || process::output(Command::new("ctr").arg("version")).is_ok());
    sh(&format!("ctr -n k8s.io images import {}", images::samples().unwrap().display()));
}

/// What `kubeadm join` has written, and the unit's drop-in. Nobody listens at the address.
fn join_a_cluster_that_is_away() {
    let drop_in = "/etc/systemd/system/oomlet.service.d";
    fs::create_dir_all(drop_in).unwrap();
    fs::copy(format!("{SHARE}/packaging/systemd/cluster.conf"), format!("{drop_in}/cluster.conf")).unwrap();
    fs::copy("/etc/oomlet/kubelet.yaml", "/var/lib/kubelet/config.yaml").unwrap();
    let arguments = "KUBELET_KUBEADM_ARGS=\"--node-labels=by=kubeadm --v=2\"\n";
    fs::write("/var/lib/kubelet/kubeadm-flags.env", arguments).unwrap();
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "away",
            "cluster": { "server": "https://127.0.0.1:1", "insecure-skip-tls-verify": true },
        }],
        "users": [{ "name": "node", "user": { "token": "none" } }],
        "contexts": [{ "name": "node", "context": { "cluster": "away", "user": "node" } }],
        "current-context": "node",
    });
    fs::write("/etc/kubernetes/kubelet.conf", kubeconfig.to_string()).unwrap();
}

fn put(manifest: &Value) {
    let name = manifest["metadata"]["name"].as_str().unwrap();
    let hidden = PathBuf::from(format!("{MANIFESTS}/.{name}"));
    fs::write(&hidden, manifest.to_string()).unwrap();
    fs::rename(&hidden, format!("{MANIFESTS}/{name}.yaml")).unwrap();
}

fn find(name: &str) -> Option<Value> {
    let pods: Value = serde_json::from_str(&sh("oomlet pods --output json")).unwrap();
    let name = pod_name(name);
    pods["items"].as_array()?.iter().find(|pod| pod["metadata"]["name"] == name.as_str()).cloned()
}

#[track_caller]
fn wait_up(name: &str) -> Value {
    wait(&format!("{name} is up"), || find(name).is_some_and(|pod| pod::is_up(&pod)));
    find(name).unwrap()
}

/// Of the pod's only container, as containerd has it: proof that it was not restarted.
fn task_of(pod: &Value) -> String {
    let id = pod::container(pod, "main")["containerID"]
        .as_str()
        .unwrap()
        .trim_start_matches("containerd://")
        .to_owned();
    let tasks = sh("ctr -n k8s.io tasks list");
    let task = tasks.lines().find(|line| line.starts_with(&id));
    task.unwrap_or_else(|| panic!("no task {id} in\n{tasks}"))
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn main_pid() -> String {
    sh("systemctl show --property MainPID --value oomlet").trim().to_owned()
}

fn slice_of(pod: &Value, class: &str) -> (String, PathBuf) {
    let uid = pod::uid(pod).replace('-', "_");
    let unit = format!("kubepods-{class}-pod{uid}.slice");
    let dir = Path::new("/sys/fs/cgroup/kubepods.slice").join(format!("kubepods-{class}.slice")).join(&unit);
    (unit, dir)
}

#[test]
fn the_shipped_unit_runs_pods_evicts_and_is_watched_over() {
    let running = sh("systemctl is-system-running || true");
    assert!(!running.contains("offline"), "this test wants systemd as PID 1: {running}");
    install();
    put(&with_memory(workload("limited", "idle", &["--mib", "8"]), "16Mi", "64Mi"));
    put(&workload("free", "idle", &[]));
    sh("systemctl enable --now oomlet");
    assert_eq!(sh("systemctl is-active oomlet").trim(), "active", "READY=1 has come");
    let first = main_pid();
    assert_eq!(fs::read_to_string(format!("/proc/{first}/oom_score_adj")).unwrap().trim(), "-999");
    let (limited, free) = (wait_up("limited"), wait_up("free"));
    let tasks = [task_of(&limited), task_of(&free)];

    // Slices, and limits that systemd knows of: they outlast its reload.
    let (unit, dir) = slice_of(&limited, "burstable");
    let limit = || fs::read_to_string(dir.join("memory.max")).unwrap().trim().to_owned();
    assert_eq!(limit(), (64 * MIB).to_string());
    sh("systemctl daemon-reload");
    assert_eq!(limit(), (64 * MIB).to_string(), "after daemon-reload");
    assert_eq!(
        sh(&format!("systemctl show --property MemoryMax --value {unit}")).trim(),
        (64 * MIB).to_string()
    );
    let (_, dir) = slice_of(&free, "besteffort");
    let scopes = fs::read_dir(&dir).unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let scopes: Vec<String> = scopes.filter(|name| name.ends_with(".scope")).collect();
    assert_eq!(scopes.len(), 2, "sandbox and container: {scopes:?}");

    // A stuck agent is replaced by the watchdog, and pods do not notice.
    sh("systemctl kill --kill-whom=main --signal=STOP oomlet");
    wait("the watchdog has replaced the agent", || !["0", first.as_str()].contains(&main_pid().as_str()));
    wait("the new one is ready", || sh("systemctl is-active oomlet || true").trim() == "active");
    let second = main_pid();
    assert_ne!(first, second);
    assert_eq!([task_of(&wait_up("limited")), task_of(&wait_up("free"))], tasks);

    // Stopped, it leaves them running; started, it takes them over.
    sh("systemctl stop oomlet");
    assert_eq!([task_of(&limited), task_of(&free)], tasks);
    sh("systemctl start oomlet");
    assert_eq!([task_of(&wait_up("limited")), task_of(&wait_up("free"))], tasks);

    // The node runs short of memory.
    let mut hog = with_memory(workload("hog", "hog", &["--rate-mib-s", &rate_mib_s(100)]), "16Mi", "");
    hog["spec"]["restartPolicy"] = json!("Never");
    put(&hog);
    wait("the hog is evicted", || find("hog").is_some_and(|pod| pod::reason(&pod) == "Evicted"));
    // It would come back.
    fs::remove_file(format!("{MANIFESTS}/hog.yaml")).unwrap();
    assert_eq!([task_of(&wait_up("limited")), task_of(&wait_up("free"))], tasks);
    let log = sh("dmesg");
    assert!(!log.contains("Out of memory: Killed process"), "{log}");

    // The same node as one of a cluster, with kubeadm's files, and an API server that is not there.
    sh("systemctl disable --now oomlet");
    join_a_cluster_that_is_away();
    sh("systemctl daemon-reload && systemctl enable --now oomlet");
    assert_eq!(sh("systemctl is-active oomlet").trim(), "active", "it waits for no API server");
    let line = fs::read_to_string(format!("/proc/{}/cmdline", main_pid())).unwrap();
    for word in ["/var/lib/kubelet/config.yaml", "/etc/kubernetes/kubelet.conf", "--node-labels=by=kubeadm"] {
        assert!(line.split('\0').any(|given| given == word), "{word} in {line:?}");
    }
    put(&workload("later", "idle", &[]));
    let later = task_of(&wait_up("later"));
    assert_eq!([task_of(&wait_up("limited")), task_of(&wait_up("free"))], tasks);
    wait("that is told", || sh("journalctl -u oomlet --no-pager").contains("pods cannot be watched"));
    sh("systemctl stop oomlet");
    assert_eq!(
        [task_of(&limited), task_of(&free), task_of(&wait_up("later"))],
        [&tasks[..], &[later]].concat()[..]
    );
    sh("systemctl start oomlet");
    wait_up("later");

    // A pod's slice goes with it.
    let (unit, dir) = slice_of(&limited, "burstable");
    fs::remove_file(format!("{MANIFESTS}/limited.yaml")).unwrap();
    wait("its slice is gone", || !dir.exists());
    wait("systemd has forgotten it", || {
        sh(&format!("systemctl show --property ActiveState --value {unit}")).trim() == "inactive"
    });
    assert_eq!(task_of(&free), tasks[1]);
}
