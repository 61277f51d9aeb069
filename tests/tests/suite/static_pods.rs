//! A static pod's manifest stands for the wish to run the pod here: what was evicted or refused runs once it can, an edit
//! never costs a running pod its place, and a smaller share of the node ends nobody.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use oomlet_tests::node::{Node, pod_name, script};
use oomlet_tests::{newest, oldest, pod};
use serde_json::{Value, json};
use xtask::node::manifest::{pod as workload, with_host_path, with_memory};
use xtask::node::trace::TraceRecord;

const MIB: u64 = 1 << 20;

fn asks(name: &str, does: &str, mib: u32) -> Value {
    let mut pod = script(name, does);
    pod["spec"]["containers"][0]["resources"] = json!({ "requests": { "memory": format!("{mib}Mi") } });
    pod
}

/// Ends in order on SIGTERM.
const STAYS: &str = "trap 'exit 0' TERM; while :; do sleep 0.2; done";

fn reason_of(node: &Node, name: &str, reason: &str) -> Value {
    node.wait_pod(name, reason, |pod| pod::phase(pod) == "Failed" && pod::reason(pod) == reason)
}

fn first(node: &Node, reason: &str) -> u64 {
    node.wait_record(reason, |r| r.reason == reason).monotonic_ns
}

/// A node whose root folder is a small file system, with one pod that has a volume on it.
fn steady_node(label: &str) -> Node {
    let mut node = Node::prepared(label, newest(), |scratch| drop(scratch.mount_tmpfs("root", 96).unwrap()));
    let config = node.config_mut();
    config["evictionHard"] = json!({ "nodefs.available": "32Mi" });
    config["evictionPressureTransitionPeriod"] = json!("4s");
    config["oomlet"]["eviction"] = json!({ "resourceInterval": "500ms" });
    // Nobody answers there, which keeps nobody from anything that is tested here.
    config["staticPodURL"] = json!("http://127.0.0.1:1/pods");
    let mut steady = script("steady", &format!("head -c 1m /dev/urandom > /d/x; {STAYS}"));
    steady["spec"]["restartPolicy"] = json!("Always");
    steady["spec"]["volumes"] = json!([{ "name": "d", "emptyDir": {} }]);
    steady["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "d", "mountPath": "/d" }]);
    node.put(&steady);
    node.start();
    node.wait_up(&["steady"]);
    node
}

fn volume(node: &Node) -> std::path::PathBuf {
    let pod = node.pod("steady").unwrap();
    node.root_dir().join("pods").join(pod::uid(&pod)).join("volumes/kubernetes.io~empty-dir/d")
}

/// Somebody fills the disk, the pod is evicted, the disk is free again.
fn evicted_and_back(restart: bool) {
    let mut node = steady_node(if restart { "back-restart" } else { "back" });
    let before = node.the_container_of("steady");
    let started = node.pod("steady").unwrap()["status"]["startTime"].clone();
    std::fs::write(volume(&node).join("old"), "of the first run").unwrap();
    let ballast = node.root_dir().join("ballast");
    std::fs::write(&ballast, vec![1; 72 << 20]).unwrap();
    let evicted = reason_of(&node, "steady", "Evicted");
    assert_eq!(pod::condition(&evicted, "DisruptionTarget"), "True");
    node.wait("it has ended", |node| node.running_of("steady").is_empty());
    std::fs::remove_file(&ballast).unwrap();
    if restart {
        node.kill_agent().unwrap();
        node.start();
    }
    let now = node.wait_pod("steady", "up again", pod::is_up);
    assert_ne!(node.the_container_of("steady").id, before.id);
    assert_ne!(now["status"]["startTime"], started);
    assert_eq!((pod::reason(&now), pod::condition(&now, "DisruptionTarget")), ("", ""));
    assert_eq!(pod::container(&now, "main")["restartCount"], 0);
    let files: Vec<_> = std::fs::read_dir(volume(&node)).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(files, ["x"], "its volume is new");
    let back = first(&node, "RetryAfterEviction");
    if !restart {
        assert!(back > first(&node, "DiskPressureEnded"), "not while the pressure holds");
    }
    assert_eq!(node.records("Decision").len(), 1, "evicted once");
}

#[test]
fn an_evicted_pod_runs_again_when_the_pressure_is_over() {
    evicted_and_back(false);
}

#[test]
fn an_evicted_pod_runs_again_after_an_agents_start() {
    evicted_and_back(true);
}

/// Under pressure, and at its edge: what is refused is not refused for good.
#[test]
fn what_is_put_in_place_under_pressure_runs_when_it_is_over() {
    let node = steady_node("refused");
    node.remove_manifest("steady").unwrap();
    node.wait_gone("steady");
    // Not evicted itself, for its priority; what it is edited to would be refused.
    let mut critical = script("edited", STAYS);
    critical["spec"]["priority"] = json!(2_000_000_000);
    node.put(&critical);
    node.wait_up(&["edited"]);
    let before = node.the_container_of("edited");
    let ballast = node.root_dir().join("ballast");
    std::fs::write(&ballast, vec![1; 72 << 20]).unwrap();
    first(&node, "DiskPressure");
    node.put(&workload("late", "idle", &[]));
    node.put(&script("edited", &format!("echo new; {STAYS}")));
    reason_of(&node, "late", "Evicted");
    let kept = node.wait_record("the edit", |r| {
        r.kind == "Warning" && r.reason == "Evicted" && r.pod_name() == pod_name("edited")
    });
    assert!(kept.message.contains("[DiskPressure]") && kept.message.contains("runs on"), "{}", kept.message);
    assert_eq!(node.the_container_of("edited"), before);
    std::fs::remove_file(&ballast).unwrap();
    node.wait_up(&["late"]);
    node.wait("the edit", |node| node.said("edited", "main").contains("new"));
    assert_ne!(node.the_container_of("edited").id, before.id);
}

#[test]
fn room_is_given_to_those_that_were_refused_and_a_done_pod_stays_done() {
    let mut node = Node::new("room", oldest());
    // Less the eviction threshold, 900 MiB may be asked for.
    node.cap_kubepods(1000).unwrap();
    let mut absurd = asks("absurd", "sleep 1", 1);
    absurd["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "1000000000000" } });
    node.put(&absurd);
    node.start();
    let refused = reason_of(&node, "absurd", "OutOfcpu");
    let message = refused["status"]["message"].as_str().unwrap();
    assert!(message.contains("requested: 1000000000000000, used: 0"), "{message}");
    let mut small = script("small", STAYS);
    small["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "20m" } });
    node.put(&small);
    node.wait_up(&["small"]);
    let small = node.the_container_of("small");

    // Refused while another has the room; taken when that is done.
    let until = node.scratch().path().join("until");
    std::fs::create_dir(&until).unwrap();
    let waits = "until [ -e /until/now ]; do sleep 0.1; done";
    node.put(&with_host_path(asks("batch-a", waits, 700), &until, "/until"));
    node.wait_up(&["batch-a"]);
    node.put(&asks("batch-b", "sleep 1", 700));
    reason_of(&node, "batch-b", "OutOfmemory");
    std::fs::write(until.join("now"), "").unwrap();
    for name in ["batch-a", "batch-b"] {
        node.wait_pod(name, "done", |pod| pod::phase(pod) == "Succeeded");
    }

    // One that is ending has its room until it has gone: the next one waits, and is not refused.
    node.put(&asks("slow", "trap 'sleep 3; exit 0' TERM; while :; do sleep 0.1; done", 700));
    node.wait_up(&["slow"]);
    node.remove_manifest("slow").unwrap();
    node.wait_record("its end begins", |r| {
        r.message == "stopping the pod" && r.pod_name() == pod_name("slow")
    });
    node.put(&asks("next", STAYS, 880));
    node.wait_up(&["next"]);
    let next = node.the_container_of("next");
    let of_next = |r: &TraceRecord| r.pod_name() == pod_name("next");
    let refused = |r: &TraceRecord| of_next(r) && r.reason == "OutOfmemory";
    assert!(!node.records("Warning").iter().any(refused), "it was never refused");

    // At the next start there is no room for what is done, nor is any needed.
    node.kill_agent().unwrap();
    node.start();
    node.put(&script("later", STAYS));
    node.wait_up(&["small", "next", "later"]);
    assert_eq!((node.the_container_of("small"), node.the_container_of("next")), (small, next));
    for name in ["batch-a", "batch-b"] {
        let pod = node.pod(name).unwrap();
        assert_eq!(pod::phase(&pod), "Succeeded", "{name}: {}", pod["status"]);
    }

    // An edit that does not fit costs nobody anything; the next one is taken.
    node.put(&asks("next", &format!("echo never; {STAYS}"), 100_000));
    let kept =
        node.wait_record("the edit", |r| r.kind == "Warning" && r.reason == "OutOfmemory" && of_next(r));
    assert!(kept.message.contains("runs on"), "{}", kept.message);
    assert_eq!(node.running_of("next").len(), 1);
    node.put(&asks("next", &format!("echo fits; {STAYS}"), 100));
    node.wait("the edit", |node| node.said("next", "main").contains("fits"));
}

#[test]
fn less_allocatable_than_is_in_use_ends_nobody() {
    let mut node = Node::new("less-allocatable", newest());
    node.cap_kubepods(700).unwrap();
    let mut big = workload("big", "idle", &["--mib", "300"]);
    big["spec"]["terminationGracePeriodSeconds"] = json!(2);
    node.put(&big);
    node.put(&with_memory(script("small", STAYS), "32Mi", ""));
    node.start();
    node.wait_up(&["big", "small"]);
    let in_use = |node: &Node| node.kubepods_memory().unwrap().unwrap().0;
    node.wait("it holds its memory", |node| in_use(node) > 300 * MIB);
    let (_, limit) = node.kubepods_memory().unwrap().unwrap();
    assert_eq!(limit / MIB, 700);
    let before = [node.the_container_of("big"), node.the_container_of("small")];

    node.kill_agent().unwrap();
    node.cap_kubepods(260).unwrap();
    node.start();
    let told = node.wait_record("what is in force", |r| r.reason == "FailedNodeAllocatableEnforcement");
    assert_eq!((told.kind.as_str(), told.number("limit_bytes").map(|l| l >> 20)), ("Warning", Some(260)));
    assert!(told.number("usage_bytes") > Some(300 << 20), "{told:?}");
    for part in ["the limit in force, 700 MiB, stays", "260 MiB", "as usage falls"] {
        assert!(told.message.contains(part), "{part:?} in {}", told.message);
    }
    assert!(node.agent_log().contains("enforceNodeAllocatable"));
    assert_eq!(node.kubepods_memory().unwrap().unwrap().1 / MIB, 700);
    // Admitted by what is configured: 160 MiB without the threshold, of which 32 are taken.
    node.put(&asks("refused", STAYS, 140));
    reason_of(&node, "refused", "OutOfmemory");
    node.put(&asks("fits", STAYS, 100));
    node.wait_up(&["fits", "big", "small"]);
    assert_eq!(
        [node.the_container_of("big"), node.the_container_of("small")],
        before,
        "nobody was disturbed"
    );
    assert_eq!((node.records("Decision").len(), node.records("OomKill").len()), (0, 0));

    node.remove_manifest("big").unwrap();
    node.wait_gone("big");
    node.wait_record("the new limit", |r| r.reason == "NodeAllocatableEnforced");
    assert_eq!(node.kubepods_memory().unwrap().unwrap().1 / MIB, 260);
    assert_eq!(node.records("Decision").len(), 0);
}

/// Answers every request with what it was told last.
fn serve() -> (String, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/pods", listener.local_addr().unwrap());
    let body = Arc::new(Mutex::new(String::new()));
    let answer = Arc::clone(&body);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // The request fits into one read; what it says does not matter.
            let _ = stream.read(&mut [0; 4096]);
            let body = answer.lock().unwrap().clone();
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        }
    });
    (url, body)
}

#[test]
fn pods_from_a_server_come_change_in_place_and_go() {
    let (url, body) = serve();
    let answers = |pods: &[&Value]| {
        *body.lock().unwrap() = json!({ "apiVersion": "v1", "kind": "PodList", "items": pods }).to_string();
    };
    let mut node = Node::new("http-source", newest());
    let config = node.config_mut();
    config.as_object_mut().unwrap().remove("staticPodPath");
    config["staticPodURL"] = json!(url);
    config["httpCheckFrequency"] = json!("500ms");
    // It gives itself its UID, so that an edit is of the same pod.
    let mut web = script("web", STAYS);
    web["metadata"]["uid"] = json!("web-1");
    answers(&[&web, &script("other", STAYS)]);
    node.start();
    node.wait_up(&["web", "other"]);
    let before = node.the_container_of("web");
    web["metadata"]["labels"] = json!({ "version": "2" });
    answers(&[&web, &script("other", STAYS)]);
    node.wait_pod("web", "labelled", |pod| pod["metadata"]["labels"]["version"] == "2");
    assert_eq!(node.the_container_of("web"), before, "it goes on");
    // What a container runs cannot change under it.
    web["spec"]["containers"][0]["command"] = json!(["/bin/sh", "-c", format!("echo anew; {STAYS}")]);
    answers(&[&web, &script("other", STAYS)]);
    node.wait("the new run", |node| node.said_by_all_runs("web", "main").contains("anew"));

    // An edit while no agent runs comes to the same.
    node.kill_agent().unwrap();
    web["spec"]["containers"][0]["command"] = json!(["/bin/sh", "-c", format!("echo meanwhile; {STAYS}")]);
    answers(&[&web, &script("other", STAYS)]);
    let other = node.the_container_of("other");
    node.start();
    node.wait("the run of that edit", |node| node.said_by_all_runs("web", "main").contains("meanwhile"));
    assert_eq!(node.the_container_of("other"), other, "nobody else is concerned");

    // An answer that says nothing ends nobody, also at an agent's start; a list without it does.
    *body.lock().unwrap() = String::new();
    node.kill_agent().unwrap();
    node.start();
    node.wait_record("the empty answer", |r| {
        r.reason == "ManifestRejected" && r.message.contains("the answer is empty")
    });
    node.wait_up(&["web", "other"]);
    answers(&[&web]);
    node.wait_gone("other");
    assert_eq!(node.running_of("web").len(), 1);
}
