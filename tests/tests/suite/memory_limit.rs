//! A container that asks for it is stopped before it reaches its own memory limit: held, with its SIGTERM and its grace, and
//! restarted by its pod's `restartPolicy`. Without that the kernel kills it.

use std::fs;
use std::path::{Path, PathBuf};

use oomlet_tests::node::{Node, pod_name};
use oomlet_tests::speed::rate_mib_s;
use oomlet_tests::{cgroup, newest, oldest, pod};
use serde_json::{Value, json};
use xtask::node::RunningContainer;
use xtask::node::manifest::{pod as workload, with_host_path, with_memory};
use xtask::private_containerd::Version;

const MIB: i64 = 1 << 20;
const FORESTALLED: &str = "MemoryLimitForestalled";

/// A node with a pod that must not notice anything.
struct Limited {
    node: Node,
    marks: PathBuf,
    neighbour: RunningContainer,
}

impl Limited {
    fn start(label: &str, version: Version, max_tier: u8) -> Limited {
        let mut node = Node::new(label, version);
        node.config_mut()["oomlet"]["kernel"] = json!({ "maxTier": max_tier });
        node.put(&workload("neighbour", "idle", &["--mib", "12"]));
        let marks = node.scratch().create_dir("marks").unwrap();
        node.start();
        node.wait_up(&["neighbour"]);
        let neighbour = node.the_container_of("neighbour");
        Limited { node, marks, neighbour }
    }

    /// Leaks 100 MiB/s in a container with 256 MiB; its handler works for half a second, and the leak goes on meanwhile.
    fn hog(&self, annotations: Value, restart_policy: &str, more: &[&str]) -> Value {
        let rate = rate_mib_s(100);
        let args =
            ["--rate-mib-s", &rate, "--max-mib", "2000", "--leak-after-sigterm", "--mark", "/marks/mark"];
        let mut hog = with_memory(workload("hog", "hog", &[&args[..], more].concat()), "16Mi", "256Mi");
        hog["metadata"]["annotations"] = annotations;
        hog["spec"]["restartPolicy"] = json!(restart_policy);
        with_host_path(hog, &self.marks, "/marks")
    }

    fn mark(&self) -> String {
        fs::read_to_string(self.marks.join("mark")).unwrap_or_default()
    }

    #[track_caller]
    fn expect_no_kill(&self) {
        let here =
            |r: &xtask::node::trace::TraceRecord| r.kind == "OomKill" && r.domain.as_deref() != Some("other");
        let killed: Vec<_> = self.node.trace().unwrap().into_iter().filter(here).collect();
        assert!(killed.is_empty(), "{killed:#?}");
        assert_eq!(cgroup::oom_kills(&self.node.kubepods_dir().unwrap()), 0, "by the kernel's own count");
    }

    #[track_caller]
    fn expect_stop(&self) {
        let (node, name) = (&self.node, pod_name("hog"));
        let decision = node.wait_record("the decision", |r| r.kind == "Decision");
        assert_eq!(
            (decision.reason.as_str(), decision.pod_name(), decision.container.as_deref()),
            (FORESTALLED, name.as_str(), Some("main")),
            "{decision:?}"
        );
        let number = |key: &str| decision.number(key).unwrap_or_else(|| panic!("{key} in {decision:?}"));
        // A pod with one container has the same limit, and its sandbox in it.
        let whose = decision.domain.as_deref().unwrap_or_default();
        assert!(["container", "pod"].contains(&whose) && number("limit_bytes") == 256 * MIB, "{decision:?}");
        assert!(number("usage_bytes") < 256 * MIB && number("signal_to_decision_us") >= 0, "{decision:?}");
        let limit = format!("memory limit of the {whose}, 256Mi: ");
        assert!(decision.message.contains(&limit), "{decision:?}");
    }

    /// `SIGKILL was needed`.
    #[track_caller]
    fn expect_end(&self, sigkill: i64) {
        let stopped = self.node.wait_record("its end", |r| {
            r.reason == FORESTALLED && r.number("took_ms").is_some() && r.container.as_deref() == Some("main")
        });
        assert_eq!(
            stopped.number("sigkill"),
            Some(sigkill),
            "{}\n{stopped:?}\n{}",
            self.mark(),
            self.story()
        );
    }

    fn story(&self) -> String {
        let told = ["Decision", "Brake", "Pod", "OomKill"];
        let records = self.node.trace().unwrap().into_iter().filter(|r| told.contains(&r.kind.as_str()));
        let line = |r: xtask::node::trace::TraceRecord| {
            format!("{} {} {} {} {:?}\n", r.monotonic_ns / 1_000_000, r.kind, r.reason, r.message, r.numbers)
        };
        records.map(line).collect()
    }
}

fn graceful() -> Value {
    json!({ "oomlet.dev/memory-limit-policy": "graceful" })
}

/// The last end of the container, as its status tells it.
fn ended<'a>(pod: &'a Value, state: &str) -> &'a Value {
    &pod::container(pod, "main")[state]["terminated"]
}

fn a_leak_is_stopped_and_restarted(label: &str, version: Version, max_tier: u8) {
    let limited = Limited::start(label, version, max_tier);
    let node = &limited.node;
    let mut hog = limited.hog(graceful(), "Always", &[]);
    let mut beside = workload("x", "idle", &["--mib", "4"])["spec"]["containers"][0].take();
    beside["name"] = json!("beside");
    hog["spec"]["containers"].as_array_mut().unwrap().push(beside);
    node.put(&hog);
    limited.expect_stop();
    let beside = || node.running_of("hog").into_iter().find(|c| c.container == "beside");
    let before = beside();
    limited.expect_end(0);
    let mark = limited.mark();
    assert!(mark.contains("sigterm received") && mark.contains("sigterm handled"), "{mark}");
    assert!(node.agent_log().contains("stop signal sent"), "by the agent's own hand: {}", node.agent_log());

    let restarted = node.wait_pod("hog", "restarted", |pod| {
        pod::container(pod, "main")["restartCount"].as_i64() >= Some(1) && ended(pod, "lastState").is_object()
    });
    let last = ended(&restarted, "lastState");
    assert_eq!(
        (&last["reason"], &last["exitCode"]),
        (&json!(FORESTALLED), &json!(0)),
        "{}",
        restarted["status"]
    );
    let message = last["message"].as_str().unwrap();
    for part in ["memory limit of the container, 256Mi", "used", "a second", "grace of 5s"] {
        assert!(message.contains(part), "{part:?} in {message}");
    }
    // It is no eviction, and concerns nobody else.
    assert_eq!((pod::phase(&restarted), pod::reason(&restarted)), ("Running", ""));
    assert_eq!(pod::condition(&restarted, "DisruptionTarget"), "");
    assert!(before.is_some() && beside() == before, "the container beside it: {before:?}");
    assert_eq!(node.the_container_of("neighbour"), limited.neighbour);
    assert!(node.records("Eviction").is_empty(), "{:#?}", node.records("Eviction"));
    assert!(!node.trace().unwrap().iter().any(|r| r.reason == "MemoryPressure"));
    limited.expect_no_kill();
    // Nor when it leaks again.
    node.wait("its second end", |_| limited.mark().matches("sigterm handled").count() >= 2);
    limited.expect_no_kill();
}

#[test]
fn a_leak_is_stopped_before_its_limit_and_restarted() {
    a_leak_is_stopped_and_restarted("limit-tier-2", newest(), 2);
}

#[test]
fn a_leak_is_stopped_before_its_limit_without_ebpf() {
    a_leak_is_stopped_and_restarted("limit-tier-0", oldest(), 0);
}

#[test]
fn without_the_annotation_the_kernel_kills() {
    for annotations in [json!({}), json!({ "oomlet.dev/memory-limit-policy": "kernel" })] {
        let limited = Limited::start("limit-kernel", newest(), 2);
        let node = &limited.node;
        node.put(&limited.hog(annotations, "Never", &[]));
        let hog = node.wait_pod("hog", "Failed", |pod| pod::phase(pod) == "Failed");
        pod::assert_oom_killed(&hog);
        let name = pod_name("hog");
        let kill = node.wait_record("the kill", |r| r.kind == "OomKill" && r.pod_name() == name);
        assert_eq!(kill.domain.as_deref(), Some("container"), "{kill:?}");
        assert_eq!(limited.mark(), "", "there was no SIGTERM");
        assert!(node.records("Decision").is_empty());
        assert_eq!(node.the_container_of("neighbour"), limited.neighbour);
    }
}

#[test]
fn with_restart_policy_never_it_stays_ended_also_for_the_next_agent() {
    let mut limited = Limited::start("limit-never", oldest(), 2);
    limited.node.put(&limited.hog(graceful(), "Never", &[]));
    limited.expect_stop();
    limited.expect_end(0);
    let told = |node: &Node| {
        let hog = node.wait_pod("hog", "Succeeded", |pod| pod::phase(pod) == "Succeeded");
        let last = ended(&hog, "state").clone();
        assert_eq!(
            (&last["reason"], &last["exitCode"]),
            (&json!(FORESTALLED), &json!(0)),
            "{}",
            hog["status"]
        );
        assert_eq!(pod::container(&hog, "main")["restartCount"], 0);
        last["message"].clone()
    };
    let message = told(&limited.node);
    limited.node.kill_agent().unwrap();
    limited.node.start();
    assert_eq!(told(&limited.node), message);
    limited.expect_no_kill();
    assert_eq!(limited.node.the_container_of("neighbour"), limited.neighbour);
}

/// The agent does it, at the end of the grace that the pod asks for; the kernel's OOM killer does not come to it.
#[test]
fn one_that_ignores_its_signal_is_killed_at_the_end_of_its_grace() {
    let limited = Limited::start("limit-stubborn", newest(), 2);
    let node = &limited.node;
    let annotations = json!({
        "oomlet.dev/memory-limit-policy": "graceful",
        "oomlet.dev/memory-limit-grace": "1500ms",
    });
    node.put(&limited.hog(annotations, "Never", &["--ignore-sigterm"]));
    limited.expect_stop();
    limited.expect_end(1);
    let hog = node.wait_pod("hog", "Failed", |pod| pod::phase(pod) == "Failed");
    let last = ended(&hog, "state");
    assert_eq!((&last["reason"], &last["exitCode"]), (&json!(FORESTALLED), &json!(137)), "{}", hog["status"]);
    assert!(last["message"].as_str().unwrap().contains("grace of 1.5s"), "{last}");
    limited.expect_no_kill();
    assert_eq!(node.the_container_of("neighbour"), limited.neighbour);
}

/// Its probes' commands stand still with it, or crawl.
#[test]
fn what_a_held_container_does_not_answer_is_not_held_against_it() {
    let limited = Limited::start("limit-probed", newest(), 2);
    let node = &limited.node;
    let annotations = json!({
        "oomlet.dev/memory-limit-policy": "graceful",
        "oomlet.dev/memory-limit-grace": "20s",
    });
    let mut hog = limited.hog(annotations, "Never", &["--sigterm-ms", "4000"]);
    for kind in ["livenessProbe", "readinessProbe"] {
        hog["spec"]["containers"][0][kind] = json!({
            "exec": { "command": ["/bin/sh", "-c", format!("echo {kind} >>/marks/asked")] },
            "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 1,
        });
    }
    node.put(&hog);
    limited.expect_stop();
    limited.expect_end(0);
    assert!(limited.mark().contains("sigterm handled"), "{}", limited.mark());
    let asked = fs::read_to_string(limited.marks.join("asked")).unwrap_or_default();
    assert!(asked.contains("livenessProbe"), "{asked}");
    let hog = node.wait_pod("hog", "Succeeded", |pod| pod::phase(pod) == "Succeeded");
    assert_eq!(ended(&hog, "state")["reason"], FORESTALLED, "{}", hog["status"]);
    let failed = |r: &xtask::node::trace::TraceRecord| {
        ["Unhealthy", "LivenessProbeFailed"].contains(&r.reason.as_str()) && r.pod_name() == pod_name("hog")
    };
    let failed: Vec<_> = node.trace().unwrap().into_iter().filter(failed).collect();
    assert!(failed.is_empty(), "{failed:#?}\n{}", limited.story());
}

#[test]
fn a_container_does_not_stay_held_when_the_agent_is_gone() {
    let mut limited = Limited::start("limit-killed", oldest(), 2);
    let hog = limited.hog(graceful(), "Never", &["--sigterm-ms", "4000"]);
    limited.node.put(&hog);
    let name = pod_name("hog");
    limited.node.wait_record("it is held", |r| r.kind == "Brake" && r.pod_name() == name);
    let (id, scratch) = (limited.node.the_container_of("hog").id, limited.node.scratch());
    let uid = pod::uid(&limited.node.pod("hog").unwrap()).to_owned();
    let pods = cgroup::named(scratch, &format!("pod{uid}"));
    let dirs: Vec<_> = pods.iter().map(|pod| cgroup::of_container(scratch, pod, &id)).collect();
    assert!(!dirs.is_empty());
    limited.node.kill_agent().unwrap();
    limited.node.wait("its guard has let go", |_| dirs.iter().all(|dir| is_free(dir)));
}

fn is_free(dir: &Path) -> bool {
    let files = [("freezer.state", "THAWED"), ("cgroup.freeze", "0"), ("memory.high", "max")];
    let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
    files.iter().all(|(name, free)| read(name).is_none_or(|text| text.trim() == *free))
}
