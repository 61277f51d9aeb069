//! Health checks: what they make of a pod's status, and of its containers.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use oomlet_tests::node::{Node, shell};
use oomlet_tests::{newest, on_oldest_and_newest_containerd, pod};
use serde_json::{Value, json};
use xtask::node::manifest::with_host_path;
use xtask::private_containerd::Version;

on_oldest_and_newest_containerd!(
    readiness_gates_ready,
    a_container_that_fails_its_liveness_probe_is_restarted,
    a_command_that_takes_too_long_leaves_nothing_behind
);

/// A node with a folder that each of its pods sees as `/probe`.
struct Probed {
    node: Node,
    dir: PathBuf,
}

impl Probed {
    fn new(label: &str, version: Version) -> Probed {
        let mut node = Node::new(label, version);
        node.join_pod_network();
        let dir = node.scratch().create_dir("probe").unwrap();
        Probed { node, dir }
    }

    /// A pod with one container `main` that runs the script and has these probes.
    fn pod(&self, name: &str, script: &str, probes: &Value) -> Value {
        let mut container = shell("main", script);
        for (kind, probe) in probes.as_object().unwrap() {
            container[kind] = probe.clone();
        }
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": "default" },
            "spec": { "terminationGracePeriodSeconds": 2, "containers": [container] },
        });
        with_host_path(pod, &self.dir, "/probe")
    }

    fn touch(&self, file: &str) {
        fs::write(self.dir.join(file), "").unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.dir.join(file)).unwrap();
    }

    fn says(&self, reason: &str, start: &str) -> usize {
        let fits = |r: &&xtask::node::trace::TraceRecord| r.reason == reason && r.message.starts_with(start);
        self.node.trace().unwrap().iter().filter(fits).count()
    }
}

/// Every second, with a verdict at once.
fn exec(script: &str) -> Value {
    json!({"exec": {"command": ["/bin/sh", "-c", script]}, "periodSeconds": 1, "failureThreshold": 1,
        "timeoutSeconds": 20})
}

const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn main_of(pod: &Value) -> &Value {
    pod::container(pod, "main")
}

fn readiness_gates_ready(version: Version) {
    let mut probed = Probed::new("readiness", version);
    probed.node.put(&probed.pod("gated", IDLE, &json!({"readinessProbe": exec("test -e /probe/go")})));
    let mut web = probed.pod(
        "web",
        "echo fine >/tmp/index.html; exec httpd -f -p 8080 -h /tmp",
        &json!({
            "readinessProbe": {"httpGet": {"port": "web", "path": "/index.html"}, "periodSeconds": 1},
            "livenessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        }),
    );
    web["spec"]["containers"][0]["ports"] = json!([{"name": "web", "containerPort": 8080}]);
    probed.node.put(&web);
    let absent =
        json!({"httpGet": {"port": 8080, "path": "/nothing"}, "periodSeconds": 1, "failureThreshold": 1});
    let script = "exec httpd -f -p 8080 -h /tmp";
    probed.node.put(&probed.pod("absent", script, &json!({"readinessProbe": absent})));
    probed.node.start();
    let node = &probed.node;

    node.wait_pod("web", "ready by its address", |pod| pod::condition(pod, "Ready") == "True");
    let unready =
        |pod: &Value| main_of(pod)["state"]["running"].is_object() && main_of(pod)["ready"] == false;
    let gated = node.wait_pod("gated", "running and not ready", unready);
    assert_eq!(pod::phase(&gated), "Running");
    assert_eq!(
        (pod::condition(&gated, "Ready"), pod::condition(&gated, "ContainersReady")),
        ("False", "False")
    );
    assert_eq!(main_of(&gated)["started"], true);
    node.wait_record("a failed readiness probe", |r| {
        r.reason == "Unhealthy" && r.kind == "Warning" && r.message.starts_with("Readiness probe failed: ")
    });
    node.wait_record("the server's answer", |r| {
        r.reason == "Unhealthy"
            && r.message == "Readiness probe failed: HTTP probe failed with statuscode: 404"
    });
    probed.touch("go");
    node.wait_pod("gated", "ready", |pod| pod::condition(pod, "Ready") == "True" && pod::is_up(pod));
    probed.remove("go");
    let gated = node.wait_pod("gated", "not ready again", |pod| pod::condition(pod, "Ready") == "False");
    assert_eq!(main_of(&gated)["restartCount"], 0, "readiness restarts nothing");
    assert_eq!(main_of(&node.pod("web").unwrap())["restartCount"], 0);
}

fn a_container_that_fails_its_liveness_probe_is_restarted(version: Version) {
    let mut probed = Probed::new("liveness", version);
    let liveness = || json!({"livenessProbe": exec("test ! -e /probe/sick")});
    let policy = |mut pod: Value, policy: &str| {
        pod["spec"]["restartPolicy"] = json!(policy);
        pod
    };
    // It exits with 0, and is started again all the same: it did not end of its own accord.
    probed.node.put(&policy(probed.pod("on-failure", IDLE, &liveness()), "OnFailure"));
    probed.node.put(&policy(probed.pod("never", IDLE, &liveness()), "Never"));
    // Its own grace is longer than this test waits; the probe's counts.
    let mut hurried = liveness();
    hurried["livenessProbe"]["terminationGracePeriodSeconds"] = json!(2);
    let mut deaf = probed.pod("deaf", "trap '' TERM; while :; do sleep 0.1; done", &hurried);
    deaf["spec"]["terminationGracePeriodSeconds"] = json!(600);
    probed.node.put(&deaf);
    probed.node.start();
    let node = &probed.node;
    node.wait_up(&["on-failure", "never", "deaf"]);
    probed.touch("sick");
    node.wait_record("the verdict", |r| {
        r.reason == "LivenessProbeFailed"
            && r.message == "Container main failed liveness probe, will be restarted"
    });
    node.wait_record("the verdict on one that does not come back", |r| {
        r.reason == "LivenessProbeFailed" && r.message == "Container main failed liveness probe"
    });
    let never = node.wait_pod("never", "at its end", |pod| !main_of(pod)["state"]["terminated"].is_null());
    assert_eq!(main_of(&never)["restartCount"], 0);
    for (name, code) in [("on-failure", 0), ("deaf", 137)] {
        let restarted =
            node.wait_pod(name, "restarted", |pod| main_of(pod)["restartCount"].as_u64() >= Some(1));
        assert_eq!(main_of(&restarted)["lastState"]["terminated"]["exitCode"], code, "{name}");
    }
    probed.remove("sick");
    node.wait_up(&["on-failure", "deaf"]);
    assert_eq!(node.running_of("never"), []);
}

#[test]
fn a_startup_probe_holds_the_others_and_what_comes_after() {
    let mut probed = Probed::new("startup", newest());
    let mut startup = exec("test -e /probe/started");
    startup["failureThreshold"] = json!(1000);
    let probes =
        json!({"startupProbe": startup, "livenessProbe": exec("exit 7"), "readinessProbe": exec("true")});
    probed.node.put(&probed.pod("slow", IDLE, &probes));
    let mut after = probed.pod("after", IDLE, &json!({}));
    let mut sidecar = shell("beside", IDLE);
    sidecar["restartPolicy"] = json!("Always");
    sidecar["startupProbe"] = probes["startupProbe"].clone();
    sidecar["volumeMounts"] = after["spec"]["containers"][0]["volumeMounts"].clone();
    after["spec"]["initContainers"] = json!([sidecar]);
    probed.node.put(&after);
    probed.node.start();
    let node = &probed.node;
    node.wait("three runs of both startup probes", |_| probed.says("Unhealthy", "Startup probe failed") >= 6);
    let slow = node.pod("slow").unwrap();
    assert_eq!((&main_of(&slow)["started"], &main_of(&slow)["ready"]), (&json!(false), &json!(false)));
    assert_eq!(probed.says("Unhealthy", "Liveness"), 0);
    let waiting = node.pod("after").unwrap();
    assert_eq!((pod::phase(&waiting), pod::condition(&waiting, "Initialized")), ("Pending", "False"));
    assert_eq!(node.running_of("after").len(), 1, "the sidecar alone");

    probed.touch("started");
    node.wait_up(&["after"]);
    node.wait_record("the liveness probe's turn", |r| {
        r.reason == "Unhealthy" && r.message.starts_with("Liveness probe failed")
    });
    node.wait_pod("slow", "restarted", |pod| main_of(pod)["restartCount"].as_u64() >= Some(1));
}

fn a_command_that_takes_too_long_leaves_nothing_behind(version: Version) {
    let mut probed = Probed::new("probe-timeout", version);
    // The runtime's own timeout ends the shell and not what it has started.
    let seconds = 100_000 + std::process::id() * 2 + u32::from(version == newest());
    let mut slow = exec(&format!("sleep {seconds} & sleep {seconds}; true"));
    slow["timeoutSeconds"] = json!(1);
    probed.node.put(&probed.pod(
        "stuck",
        IDLE,
        &json!({"readinessProbe": slow, "livenessProbe": exec("true")}),
    ));
    probed.node.start();
    let node = &probed.node;
    let said = "Readiness probe failed: command timed out: ";
    node.wait_record("the timeout", |r| r.reason == "Unhealthy" && r.message.starts_with(said));
    let line = format!("sleep\0{seconds}\0");
    let left = || {
        let of_processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path().join("cmdline"));
        of_processes.filter(|path| fs::read(path).is_ok_and(|found| found == line.as_bytes())).count()
    };
    // One run after the other, and between two of them nothing.
    let mut seen = Vec::new();
    for _ in 0..2 {
        node.wait("a run under way", |_| left() > 0);
        seen.push(left());
        node.wait("nothing left of it", |_| left() == 0);
    }
    assert!(seen.iter().all(|n| *n <= 2), "{seen:?}");
    let stuck = node.pod("stuck").unwrap();
    assert_eq!((&main_of(&stuck)["restartCount"], &main_of(&stuck)["ready"]), (&json!(0), &json!(false)));
}

/// kubernetes#100277.
#[test]
fn an_agent_that_starts_again_leaves_ready_alone() {
    let mut probed = Probed::new("ready-restart", newest());
    let mut counted = exec("echo >>/probe/runs");
    counted["periodSeconds"] = json!(3);
    let mut startup = exec("echo >>/probe/starts");
    startup["failureThreshold"] = json!(10);
    probed.node.put(&probed.pod("web", IDLE, &json!({"readinessProbe": counted, "startupProbe": startup})));
    probed.node.start();
    let ready = |pod: &Value| pod::condition(pod, "Ready") == "True";
    let before = probed.node.wait_pod("web", "ready", ready);
    let conditions = |pod: &Value| pod["status"]["conditions"].clone();
    let runs = |probed: &Probed, file: &str| fs::read(probed.dir.join(file)).unwrap().len();
    let starts = runs(&probed, "starts");
    // A flip would be seen in the conditions' times, which are whole seconds.
    let at = std::time::Instant::now();
    probed.node.wait("another second", |_| at.elapsed() > Duration::from_millis(1100));
    for _ in 0..2 {
        probed.node.kill_agent().unwrap();
        let run = runs(&probed, "runs");
        probed.node.start();
        probed.node.wait("the new agent's probes", |node| {
            let pod = node.pod("web").unwrap();
            assert!(ready(&pod) && pod::is_up(&pod), "{}", pod["status"]);
            runs(&probed, "runs") > run + 1
        });
    }
    let after = probed.node.pod("web").unwrap();
    assert_eq!(conditions(&after), conditions(&before));
    assert_eq!(runs(&probed, "starts"), starts, "it has started, and is not asked again");
    assert_eq!(probed.says("Unhealthy", ""), 0);
}
