//! Pressure other than memory's: on file systems of the test's own, pods that fill a disk are evicted, the node gives up
//! first what it can do without, and a pod beyond a limit of its own goes whatever room there is.

use oomlet_tests::node::{Node, pod_name, script, shell};
use oomlet_tests::{newest, oldest, on_oldest_and_newest_containerd, pod};
use serde_json::{Value, json};
use xtask::images::{BUSYBOX, PAUSE, WORKLOAD};
use xtask::node::manifest::pod as workload;
use xtask::node::trace::TraceRecord;
use xtask::private_containerd::Version;
use xtask::process;

/// Reads disks every half second, for a test cannot wait for kubelet's ten.
fn watch_closely(node: &mut Node, hard: Value) {
    let config = node.config_mut();
    config["evictionHard"] = hard;
    config["evictionPressureTransitionPeriod"] = json!("4s");
    config["oomlet"]["eviction"] = json!({ "resourceInterval": "500ms" });
}

/// With an emptyDir at /data.
fn with_volume(mut pod: Value, volume: Value) -> Value {
    pod["spec"]["volumes"] = json!([{ "name": "data", "emptyDir": volume }]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "data", "mountPath": "/data" }]);
    pod
}

/// Writes so much, and stays. PID 1 ends on SIGTERM.
fn writes(file: &str, mib: u32) -> String {
    format!("trap 'exit 0' TERM; dd if=/dev/zero of={file} bs=1M count={mib}; while :; do sleep 1; done")
}

fn evicted_for(node: &Node, name: &str) -> (String, Value) {
    let pod = node.wait_pod(name, "evicted", |pod| pod::phase(pod) == "Failed");
    assert_eq!(pod::reason(&pod), "Evicted", "{}", pod["status"]);
    (pod["status"]["message"].as_str().unwrap().to_owned(), pod)
}

fn decided(node: &Node) -> Vec<String> {
    node.records("Decision").iter().map(|r| r.pod_name().to_owned()).collect()
}

fn told(node: &Node, what: &str, reason: &str) -> TraceRecord {
    node.wait_record(what, |r| r.kind == "Node" && r.reason == reason)
}

fn a_pod_that_fills_the_nodes_disk_is_evicted_and_its_neighbour_is_not(version: Version) {
    let mut node =
        Node::prepared("nodefs", version, |scratch| drop(scratch.mount_tmpfs("root", 96).unwrap()));
    watch_closely(&mut node, json!({ "nodefs.available": "32Mi" }));
    node.put(&with_volume(script("neighbour", &writes("/data/file", 8)), json!({})));
    node.start();
    node.wait_up(&["neighbour"]);
    let neighbour = node.the_container_of("neighbour");
    node.put(&with_volume(script("filler", &writes("/data/file", 72)), json!({})));

    let (message, filler) = evicted_for(&node, "filler");
    let start = "The node was low on resource: ephemeral-storage. Threshold quantity: 32Mi, available: ";
    assert!(message.starts_with(start), "{message}");
    assert_eq!(pod::condition(&filler, "DisruptionTarget"), "True");
    let decision = node.wait_record("the decision", |r| r.kind == "Decision");
    assert_eq!((decision.reason.as_str(), decision.number("grace_ms")), ("ThresholdMet", Some(1000)));
    assert!(decision.number("pod_usage_bytes") > Some(50 << 20), "{decision:?}");
    let began = told(&node, "DiskPressure", "DiskPressure");
    assert!(began.message.contains("nodefs.available"), "{}", began.message);

    // It would come back, and fill the disk again.
    node.remove_manifest("filler").unwrap();
    // Under pressure nobody comes in; what it used is given back; when the transition period is over the node takes pods,
    // those that it has refused as well.
    node.put(&workload("refused", "idle", &[]));
    let (message, refused) = evicted_for(&node, "refused");
    assert_eq!(message, "The node had condition: [DiskPressure]. ");
    assert_eq!(pod::condition(&refused, "DisruptionTarget"), "", "it never ran");
    let ended = told(&node, "its end", "DiskPressureEnded");
    assert!(ended.monotonic_ns - began.monotonic_ns >= 4_000_000_000, "the transition period is over");
    node.put(&workload("welcome", "idle", &[]));
    node.wait_up(&["welcome", "refused"]);
    assert_eq!(node.the_container_of("neighbour"), neighbour);
    assert_eq!(decided(&node), [pod_name("filler")], "one pod pays, once");
}

on_oldest_and_newest_containerd!(
    a_pod_that_fills_the_nodes_disk_is_evicted_and_its_neighbour_is_not,
    dead_containers_and_unused_images_go_before_pods,
);

/// One file system for all: containerd's, which the agent's root folder is on too.
fn dead_containers_and_unused_images_go_before_pods(version: Version) {
    let mut node = Node::prepared("reclaim", version, |scratch| {
        let disk = scratch.mount_tmpfs("containerd", 512).unwrap();
        let root = disk.join("node-root");
        std::fs::create_dir(&root).unwrap();
        scratch.bind_mount(&root, "root").unwrap();
    });
    let fs = rustix::fs::statvfs(node.root_dir()).unwrap();
    let available_mib = (fs.f_bavail * fs.f_frsize) >> 20;
    watch_closely(&mut node, json!({ "imagefs.available": format!("{}Mi", available_mib - 60) }));
    node.config_mut()["imageMinimumGCAge"] = json!("1s");
    node.put(&script("neighbour", &writes("/file", 1)));
    // Into its writable layer. It has ended, and its remains stay to be looked at.
    node.put(&script("done", "dd if=/dev/zero of=/file bs=1M count=40"));
    node.start();
    node.wait_up(&["neighbour"]);
    let neighbour = node.the_container_of("neighbour");
    node.wait_pod("done", "done", |pod| pod::phase(pod) == "Succeeded");
    let done = pod_name("done");
    let stopped = |node: &Node| !node.running_sandboxes().unwrap().iter().any(|s| s.pod == done);
    node.wait("all of it has stopped", stopped);
    assert_eq!(node.containers_of(&done).unwrap().len(), 1);

    // Somebody else takes what is left.
    std::fs::write(node.scratch().path().join("containerd/ballast"), vec![1; 40 << 20]).unwrap();
    let removed = told(&node, "what has gone", "GarbageCollection");
    assert_eq!(removed.number("containers"), Some(1), "{removed:?}");
    assert!(removed.number("images") >= Some(1), "{removed:?}");
    let images = process::output(node.containerd.ctr().args(["images", "list", "--quiet"])).unwrap();
    assert!(!images.contains(WORKLOAD), "nobody uses it: {images}");
    assert!(images.contains(BUSYBOX) && images.contains(PAUSE), "they are in use: {images}");
    assert_eq!(node.containers_of(&done).unwrap(), [""; 0]);
    told(&node, "the end of DiskPressure", "DiskPressureEnded");
    assert_eq!(node.the_container_of("neighbour"), neighbour);
    assert_eq!(decided(&node), [""; 0], "nobody had to go");

    // Sandboxes can still be made, and what has ended stays so although the runtime does not know of it any more.
    node.put(&script("later", "sleep 1000"));
    node.wait_up(&["later"]);
    node.kill_agent().unwrap();
    node.start();
    node.wait_up(&["neighbour", "later"]);
    assert_eq!(pod::phase(&node.pod("done").unwrap()), "Succeeded");
    assert_eq!(node.containers_of(&done).unwrap(), [""; 0], "it does not run once more");
}

#[test]
fn a_pod_beyond_a_limit_of_its_own_is_evicted() {
    let mut node = Node::new("local-limits", newest());
    watch_closely(&mut node, json!({ "memory.available": "10Mi" }));
    let limits = |mut pod: Value, container: usize, limit: &str| {
        pod["spec"]["containers"][container]["resources"] =
            json!({ "limits": { "ephemeral-storage": limit } });
        pod
    };
    let volume = |name: &str, mib: u32| {
        with_volume(script(name, &writes("/data/file", mib)), json!({ "sizeLimit": "4Mi" }))
    };
    node.put(&volume("within-volume", 2));
    node.put(&volume("beyond-volume", 8));
    node.put(&limits(script("within-layer", &writes("/file", 2)), 0, "4Mi"));
    node.put(&limits(script("beyond-layer", &writes("/file", 8)), 0, "4Mi"));
    // The other container's limit makes room for the pod; this one's log is beyond its own.
    let talks = "trap 'exit 0' TERM; for i in $(seq 8); do head -c 1000000 /dev/zero | tr '\\0' x; echo; done; \
                 while :; do sleep 1; done";
    let mut log = script("beyond-log", talks);
    let other = shell("other", "sleep 1000");
    log["spec"]["containers"].as_array_mut().unwrap().push(other);
    node.put(&limits(limits(log, 0, "4Mi"), 1, "100Mi"));
    node.start();

    for (name, want) in [
        ("beyond-volume", "Usage of EmptyDir volume \"data\" exceeds the limit \"4Mi\". "),
        ("beyond-layer", "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. "),
        ("beyond-log", "Container main exceeded its local ephemeral storage limit \"4Mi\". "),
    ] {
        let (message, pod) = evicted_for(&node, name);
        assert_eq!(message, want);
        assert_eq!(pod::condition(&pod, "DisruptionTarget"), "", "it has itself to blame");
    }
    node.wait_up(&["within-volume", "within-layer"]);
    let mut decided = decided(&node);
    decided.sort();
    // Each is tried again after its back-off.
    decided.dedup();
    assert_eq!(decided, ["beyond-layer", "beyond-log", "beyond-volume"].map(pod_name));
    let records = node.records("Decision");
    let reason =
        |r: &TraceRecord| (r.reason == "LocalStorageLimitExceeded", r.domain.as_deref() == Some("pod"));
    assert!(records.iter().all(|r| reason(r) == (true, true)), "{records:?}");
}

/// A machine has process ids in plenty, so the threshold is put above what is left.
#[test]
fn short_of_process_ids_the_pod_with_the_most_processes_goes() {
    let mut node = Node::new("pids", oldest());
    node.put(&workload("few", "idle", &[]));
    node.put(&workload("many", "fork-tree", &["--depth", "2", "--width", "3"]));
    let mut critical = workload("critical", "fork-tree", &["--depth", "2", "--width", "4"]);
    critical["spec"]["priority"] = json!(2_000_000_000);
    node.put(&critical);
    node.start();
    node.wait_up(&["few", "many", "critical"]);
    node.wait("their processes are there", |node| {
        node.said("critical", "main").matches("depth 0").count() == 16
    });
    node.kill_agent().unwrap();
    watch_closely(&mut node, json!({ "pid.available": "99.9999%" }));
    node.start();
    let (message, _) = evicted_for(&node, "many");
    assert!(message.starts_with("The node was low on resource: pids. Threshold quantity: "), "{message}");
    assert!(message.contains(", available: "), "{message}");
    let first = node.wait_record("the decision", |r| r.kind == "Decision");
    assert_eq!((first.pod_name(), first.number("grace_ms")), (pod_name("many").as_str(), Some(1000)));
    assert!(first.number("pod_pids") > Some(12), "{first:?}");
    told(&node, "PIDPressure", "PIDPressure");
    // Nothing helps here, so the others follow, one by one; never a critical one.
    evicted_for(&node, "few");
    assert_eq!(decided(&node), ["many", "few"].map(pod_name));
    assert_eq!(node.running_of("critical").len(), 1);
}
